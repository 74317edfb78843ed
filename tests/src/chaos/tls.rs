//! Certificates that may not be accepted: of nobody that is trusted, or of somebody who is, but not good.

use std::io;
use std::sync::Arc;

use rcgen::{CertificateParams, DnType, date_time_ymd};
use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::tls::{Authority, self_signed, server_of};

/// What receivers are called.
const NAME: &str = "127.0.0.1";

/// Made once, because the crate that makes the others signs with nothing so old:
///
/// ```sh
/// openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -sha256 -days 36500 -subj "/CN=hookline test authority" \
///   -addext "keyUsage=critical,keyCertSign" -keyout authority.key -out authority.pem
/// openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=127.0.0.1" -keyout server.key -out server.csr
/// printf 'subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth\nbasicConstraints=CA:FALSE\n' > server.ext
/// openssl x509 -req -sha1 -days 36500 -in server.csr -CA authority.pem -CAkey authority.key -extfile server.ext -out server.pem
/// ```
const SHA1: [&str; 3] = [
    include_str!("sha1/authority.pem"),
    include_str!("sha1/server.pem"),
    include_str!("sha1/server.key"),
];

/// The certificate of a receiver for `127.0.0.1`, with its key.
#[derive(Clone)]
pub struct Certificate {
    acceptor: TlsAcceptor,
    trusted: Option<String>,
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
        Self::new(self_signed(NAME), None)
    }

    /// One of an authority that is in nobody's list.
    #[must_use]
    pub fn of_a_stranger() -> Self {
        Self::new(Authority::new().server(NAME), None)
    }

    /// One that was good until 2020.
    #[must_use]
    pub fn expired() -> Self {
        Self::of_a_friend(|params| params.not_after = date_time_ymd(2020, 1, 1))
    }

    /// One that will be good in the year 4000.
    #[must_use]
    pub fn not_yet_valid() -> Self {
        Self::of_a_friend(|params| params.not_before = date_time_ymd(4000, 1, 1))
    }

    /// One for somebody else.
    #[must_use]
    pub fn of_another_name() -> Self {
        let authority = Authority::new();
        Self::new(authority.server("127.0.0.2"), Some(authority.pem()))
    }

    /// One that says its name only where names stood long ago, as its common name.
    #[must_use]
    pub fn with_common_name_only() -> Self {
        Self::of_a_friend(|params| {
            params.subject_alt_names.clear();
            params.distinguished_name.push(DnType::CommonName, NAME);
        })
    }

    /// One that is signed with SHA-1.
    #[must_use]
    pub fn signed_with_sha1() -> Self {
        let [authority, certificate, key] = SHA1;
        Self::new(server_of(certificate, key), Some(authority.to_owned()))
    }

    /// A good one of a server that speaks HTTP/2 and nothing else.
    #[must_use]
    pub fn for_http2_only() -> Self {
        let authority = Authority::new();
        let mut config = authority.server(NAME);
        config.alpn_protocols = vec![b"h2".to_vec()];
        Self::new(config, Some(authority.pem()))
    }

    /// Of an authority that is to be trusted, good but for the change.
    fn of_a_friend(change: impl FnOnce(&mut CertificateParams)) -> Self {
        let authority = Authority::new();
        let config = authority.server_with(NAME, change);
        Self::new(config, Some(authority.pem()))
    }

    fn new(config: ServerConfig, trusted: Option<String>) -> Self {
        Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            trusted,
        }
    }

    /// The authority (PEM) that a webhook is to trust for its sake.
    #[must_use]
    pub fn trusted(&self) -> Option<&str> {
        self.trusted.as_deref()
    }

    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.acceptor.accept(stream).await
    }
}
