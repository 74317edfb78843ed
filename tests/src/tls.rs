//! Certificates for tests: an authority that nobody knows, what it signs, and what signs itself.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// An authority that is in nobody's list.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority")
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Authority {
    /// A new one.
    ///
    /// # Panics
    /// When none can be made.
    #[must_use]
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let name = "hookline test authority";
        params.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, new_key()).expect("an authority"))
    }

    /// Its own certificate (PEM).
    #[must_use]
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A server with this name or address.
    ///
    /// # Panics
    /// When it cannot have a certificate.
    #[must_use]
    pub fn server(&self, name: &str) -> ServerConfig {
        self.serving(name, None)
    }

    /// A server with this name or address that wants clients to show a certificate of this authority.
    ///
    /// # Panics
    /// When it cannot have a certificate.
    #[must_use]
    pub fn server_of_known(&self, name: &str) -> ServerConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).expect("a root");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
        self.serving(name, Some(verifier.expect("a verifier")))
    }

    /// A server with a certificate of which everything may be chosen; it starts as a good one with this name or address.
    ///
    /// # Panics
    /// When it cannot have a certificate.
    #[must_use]
    pub fn server_with(
        &self,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> ServerConfig {
        let key = new_key();
        let mut params = leaf(name, ExtendedKeyUsagePurpose::ServerAuth);
        change(&mut params);
        let certificate = params.signed_by(&key, &self.0);
        config(&certificate.expect("a certificate"), &key, None)
    }

    fn serving(&self, name: &str, verifier: Option<Arc<dyn ClientCertVerifier>>) -> ServerConfig {
        let key = new_key();
        let certificate = leaf(name, ExtendedKeyUsagePurpose::ServerAuth).signed_by(&key, &self.0);
        config(&certificate.expect("a certificate"), &key, verifier)
    }

    /// Certificate and private key of a client (PEM).
    ///
    /// # Panics
    /// When it cannot have one.
    #[must_use]
    pub fn client(&self, name: &str) -> (String, String) {
        let key = new_key();
        let certificate = leaf(name, ExtendedKeyUsagePurpose::ClientAuth).signed_by(&key, &self.0);
        (
            certificate.expect("a certificate").pem(),
            key.serialize_pem(),
        )
    }
}

/// A server with this name or address whose certificate is of nobody but itself.
///
/// # Panics
/// When it cannot have one.
#[must_use]
pub fn self_signed(name: &str) -> ServerConfig {
    let key = new_key();
    let certificate = leaf(name, ExtendedKeyUsagePurpose::ServerAuth).self_signed(&key);
    config(&certificate.expect("a certificate"), &key, None)
}

/// A server with a certificate and a private key that were made elsewhere (PEM).
///
/// # Panics
/// When they cannot be read, or do not belong together.
#[must_use]
pub fn server_of(certificate: &str, key: &str) -> ServerConfig {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a private key");
    serve_as(chain.expect("a certificate"), key, None)
}

fn new_key() -> KeyPair {
    KeyPair::generate().expect("a key")
}

fn leaf(name: &str, usage: ExtendedKeyUsagePurpose) -> CertificateParams {
    let mut params = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
    params.extended_key_usages = vec![usage];
    params
}

fn config(
    certificate: &Certificate,
    key: &KeyPair,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
) -> ServerConfig {
    let private = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    serve_as(vec![certificate.der().clone()], private, verifier)
}

fn serve_as(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("protocol versions");
    let builder = match verifier {
        None => builder.with_no_client_auth(),
        Some(verifier) => builder.with_client_cert_verifier(verifier),
    };
    builder
        .with_single_cert(chain, key)
        .expect("a certificate with its key")
}
