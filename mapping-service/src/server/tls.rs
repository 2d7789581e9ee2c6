//! The certificate shown over TLS: replaced on reload, and whether clients can believe it.

use std::net::Ipv4Addr;
use std::sync::{Arc, PoisonError, RwLock};

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::ServerCertVerifier as _;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{self, CertificateError, RootCertStore, ServerConfig};

/// What is in force.
pub(crate) struct Certificate(RwLock<TlsAcceptor>);

impl Certificate {
    pub(crate) fn new(config: Arc<ServerConfig>) -> Self {
        Certificate(RwLock::new(config.into()))
    }

    /// Whoever connects from now on is shown this one.
    pub(crate) fn set(&self, config: Arc<ServerConfig>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = config.into();
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        let acceptor = self.0.read().unwrap_or_else(PoisonError::into_inner);
        acceptor.clone()
    }
}

/// Whether clients can believe a certificate, as far as that is its own matter.
pub(crate) fn usable(chain: &[CertificateDer<'static>]) -> Result<(), &'static str> {
    let [own, others @ ..] = chain else {
        return Err("holds no certificate in PEM form");
    };
    let mut roots = RootCertStore::empty();
    // Who has signed it is for clients to know; here whoever has is believed.
    let root = chain.last().unwrap_or(own);
    if roots.add(root.clone()).is_err() {
        return Err("holds no certificate of a server");
    }
    let provider = Arc::new(default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), provider).build();
    let Ok(verifier) = verifier else {
        return Err("holds no certificate of a server");
    };
    let anybody = ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into());
    let verified = verifier.verify_server_cert(own, others, &anybody, &[], UnixTime::now());
    let Err(rustls::Error::InvalidCertificate(fault)) = verified else {
        return Ok(());
    };
    match fault {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            Err("has expired; make a new one")
        }
        CertificateError::NotValidForNameContext { presented, .. } if presented.is_empty() => {
            Err("is for no name; make one with subjectAltName, as the example configuration does")
        }
        other if is_of_authority(&other) => Err(
            "is one of an authority, which clients refuse; make one with \
             basicConstraints=critical,CA:FALSE, as the example configuration does",
        ),
        _ => Ok(()),
    }
}

/// Whether a certificate is one of an authority, which is not for servers to show. The fault comes
/// from another library, and only its text says which one it is.
pub(crate) fn is_of_authority(fault: &CertificateError) -> bool {
    format!("{fault:?}").contains("CaUsedAsEndEntity")
}
