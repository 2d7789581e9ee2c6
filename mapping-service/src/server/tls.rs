//! The certificate shown over TLS, replaced on reload.

use std::sync::{Arc, PoisonError, RwLock};

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

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
