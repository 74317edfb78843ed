//! Certificates that nobody trusts.

use std::io;
use std::sync::Arc;

use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::tls::{Authority, self_signed};

/// What receivers are called.
const NAME: &str = "127.0.0.1";

/// The certificate of a receiver for `127.0.0.1`, with its key.
#[derive(Clone)]
pub struct Certificate {
    acceptor: TlsAcceptor,
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Certificate")
    }
}

impl Certificate {
    /// One that its receiver signed itself.
    #[must_use]
    pub fn self_signed() -> Self {
        Self::new(self_signed(NAME))
    }

    /// One of an authority that is in nobody's list.
    #[must_use]
    pub fn of_a_stranger() -> Self {
        Self::new(Authority::new().server(NAME))
    }

    fn new(config: ServerConfig) -> Self {
        Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
        }
    }

    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.acceptor.accept(stream).await
    }
}
