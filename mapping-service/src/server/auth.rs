//! Who signed a request (RFC 8945 section 5.2). Pure.

use std::sync::Arc;

use hickory_proto::ProtoError;
use hickory_proto::rr::rdata::TSIG;
use hickory_proto::rr::rdata::tsig::{TsigError, make_tsig_record};
use hickory_proto::rr::{Name, Record};

use super::counters::Cause;
use crate::config::{KeyEntry, Keys};
use crate::tsig::{FUDGE, Fault, Link, Signature, Stamp};

/// What the signature of a request says.
pub(super) enum Auth {
    /// There is none.
    None,
    /// Valid and fresh.
    Valid(Arc<KeyEntry>, Signature),
    /// Valid and not fresh: answered with a signature, so that the asker can
    /// believe our clock.
    BadTime(Arc<KeyEntry>, Signature),
    /// Anything else: answered without one.
    Invalid {
        key: Name,
        tsig: Box<TSIG>,
        error: TsigError,
    },
    /// A TSIG record that makes no sense: FORMERR.
    Malformed,
}

impl Auth {
    /// Looks at the signature of the request `wire`, which was parsed to have
    /// this `record`.
    pub(super) fn of(record: Option<&Record<TSIG>>, wire: &[u8], keys: &Keys, now: u64) -> Self {
        let Some(record) = record else {
            return Auth::None;
        };
        let invalid = |error| Auth::Invalid {
            key: record.name.clone(),
            tsig: Box::new(record.data.clone()),
            error,
        };
        let Some(entry) = keys.get(&crate::zone::lower(&record.name)) else {
            return invalid(TsigError::BadKey);
        };
        match entry.key.verify(wire, None, Link::First) {
            Ok(signature) if signature.fresh(now) => Auth::Valid(entry.clone(), signature),
            Ok(signature) => Auth::BadTime(entry.clone(), signature),
            Err(Fault::BadKey) => invalid(TsigError::BadKey),
            Err(Fault::BadSig) => invalid(TsigError::BadSig),
            Err(Fault::Truncated) => invalid(TsigError::BadTrunc),
            Err(Fault::Unsigned) => Auth::Malformed,
        }
    }

    /// What to count if the request has to be turned away for it, and why.
    pub(super) fn fault(&self) -> Option<(Cause, String)> {
        match self {
            Auth::None | Auth::Valid(..) => None,
            Auth::BadTime(entry, signature) => Some((
                Cause::BadTime,
                format!("key {}: signed at {}", entry.key.name(), signature.time),
            )),
            Auth::Invalid { key, error, .. } => {
                let (cause, what) = match error {
                    TsigError::BadKey => (Cause::BadKey, "name or algorithm not known"),
                    TsigError::BadTrunc => (Cause::BadTrunc, "signature truncated"),
                    _ => (Cause::BadSig, "signature wrong"),
                };
                Some((cause, format!("key {key}: {what}")))
            }
            Auth::Malformed => Some((Cause::Malformed, "TSIG record malformed".to_owned())),
        }
    }

    /// The TSIG record for the answer `unsigned` (RFC 8945 section 5.3).
    /// `prior` is the MAC of the message before it in a longer answer.
    pub(super) fn sign(
        &self,
        unsigned: &[u8],
        prior: Option<&[u8]>,
        now: u64,
    ) -> Result<Option<Box<Record<TSIG>>>, ProtoError> {
        match self {
            Auth::None | Auth::Malformed => Ok(None),
            Auth::Valid(entry, request) => {
                let stamp = Stamp::new(request.id, now);
                let (prior, link) = match prior {
                    None => (request.mac.as_slice(), Link::First),
                    Some(prior) => (prior, Link::Further),
                };
                entry.key.sign(unsigned, Some(prior), link, stamp).map(Some)
            }
            Auth::BadTime(entry, request) => {
                let stamp = Stamp {
                    id: request.id,
                    time: request.time,
                    error: Some(TsigError::BadTime),
                    other: now.to_be_bytes()[2..].to_vec(),
                };
                entry
                    .key
                    .sign(unsigned, Some(&request.mac), Link::First, stamp)
                    .map(Some)
            }
            Auth::Invalid { key, tsig, error } => {
                let bare = TSIG::new(
                    tsig.algorithm.clone(),
                    now,
                    FUDGE,
                    Vec::new(),
                    tsig.oid,
                    Some(*error),
                    Vec::new(),
                );
                Ok(Some(Box::new(make_tsig_record(key.clone(), bare))))
            }
        }
    }
}
