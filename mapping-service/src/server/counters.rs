//! What happened, counted by cause.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! causes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// What is counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Cause {
            $($(#[$doc])* $variant,)*
        }

        const NAMES: &[&str] = &[$($name,)*];
    };
}

causes! {
    /// Questions answered without a signature.
    Query = "queries",
    /// Questions answered with a signature.
    SignedQuery = "signed_queries",
    /// Answers with DNSSEC signatures; also counted as questions.
    Dnssec = "dnssec_answers",
    /// Whole zone transfers given.
    Transfer = "transfers",
    /// Transfers of what has changed, which was known (IXFR).
    Incremental = "transfers_incremental",
    /// Questions for what has changed since a serial that is not older (IXFR).
    UpToDate = "transfers_up_to_date",
    /// Whole zone transfers given because what has changed is not known any more (IXFR); also
    /// counted as transfers.
    Forgotten = "transfers_forgotten",
    /// Questions over UDP for what needs TCP (IXFR).
    NeedsTcp = "transfers_need_tcp",
    /// Zone transfers refused.
    TransferRefused = "transfers_refused",
    /// Questions about names outside the zone.
    OutOfZone = "out_of_zone",
    /// Questions for what has changed of late.
    Past = "past_queries",
    /// The same from whoever may not change and read what is asked for.
    PastRefused = "past_refused",
    /// Questions about private homes from whoever may not read them.
    Private = "queries_private",
    /// Answers that did not fit UDP.
    Truncated = "truncated",
    /// Client cookies without one of ours.
    CookieNew = "cookies_new",
    /// Requests with a valid server cookie.
    CookieValid = "cookies_valid",
    /// Server cookies that are too old, of another server or address, or made up.
    CookieInvalid = "cookies_invalid",
    /// Answers over UDP sent empty and truncated because their network had had too many.
    RateLimitedTruncated = "rate_limited_truncated",
    /// Answers over UDP not sent for the same reason.
    RateLimitedDropped = "rate_limited_dropped",
    /// TCP connections refused: too many, or too many of one client.
    TcpRefused = "tcp_refused",
    /// Connections that had said nothing for longest, closed in favour of another when all were
    /// taken.
    TcpDisplaced = "tcp_displaced",
    /// Connections closed because nobody took what was sent.
    Unread = "tcp_unread",
    /// Connections without a TLS handshake.
    TlsFailed = "tls_failed",
    /// Subscriptions accepted.
    Subscribed = "subscriptions",
    /// Subscriptions refused.
    SubscribeRefused = "subscriptions_refused",
    /// Messages that tell subscribers what is, or has changed.
    Pushed = "pushes",
    /// Subscribers cut off because they did not take what has changed.
    PushOverrun = "push_overruns",
    /// Sessions aborted because of a message that has no place in one.
    SessionFault = "session_faults",
    /// Messages that cannot be understood.
    Malformed = "malformed",
    /// Opcodes that are not served.
    NotImplemented = "not_implemented",
    /// Updates carried out.
    Updated = "updates",
    /// Updates without a signature.
    Unsigned = "updates_unsigned",
    /// Updates refused by RFC 2136's prerequisites.
    Prerequisite = "updates_prerequisite",
    /// Updates refused by policy or the rules for home addresses.
    Refused = "updates_refused",
    /// Updates that failed because the journal did.
    Disk = "updates_failed",
    /// Updates turned away because too many were waiting.
    Busy = "updates_busy",
    /// Copies of updates answered from memory.
    Repeated = "updates_repeated",
    /// Updates signed before what the replay memory holds.
    TooOld = "updates_too_old",
    /// Secondaries told of changes.
    Notified = "notified",
    /// Secondaries that refused to be told.
    NotifyRefused = "notify_refused",
    /// Secondaries that did not answer when they were told, or could not be told.
    NotifyLost = "notify_lost",
    /// Messages with an unknown key.
    BadKey = "bad_key",
    /// Messages with a wrong signature.
    BadSig = "bad_sig",
    /// Messages signed too long ago or in the future.
    BadTime = "bad_time",
    /// Messages with a truncated signature.
    BadTrunc = "bad_trunc",
}

/// One counter per [`Cause`].
#[derive(Debug)]
pub struct Counters([AtomicU64; NAMES.len()]);

impl Default for Counters {
    fn default() -> Self {
        Counters(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Counters {
    /// Counts one.
    pub fn add(&self, cause: Cause) {
        self.0[cause as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Every cause by its name, and how many there were.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let counts = self.0.iter().map(|count| count.load(Ordering::Relaxed));
        NAMES.iter().copied().zip(counts)
    }

    /// How many there were.
    pub fn get(&self, cause: Cause) -> u64 {
        self.0[cause as usize].load(Ordering::Relaxed)
    }
}

impl fmt::Display for Counters {
    /// Those that are not 0, as `name=count`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for (name, count) in self.all() {
            if count > 0 {
                let space = if first { "" } else { " " };
                write!(f, "{space}{name}={count}")?;
                first = false;
            }
        }
        Ok(())
    }
}
