//! TLS settings: the usual ones, and those of endpoints with authorities or a client certificate of their own. Verification is always on.

use std::collections::HashMap;
use std::sync::Arc;

use hookline_model::outcome::ErrorClass;
use hookline_model::resource::Secret;
use parking_lot::Mutex;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};

use super::ClientError;
use super::classify::Failure;
use crate::transport::{Identity, TlsOwn};

/// Settings of their own that are kept ready; beyond that all are made anew.
const KEPT_MAX: usize = 1024;

/// Settings that some endpoints share with nobody: their connections and sessions are kept apart, too.
pub(crate) struct Profile {
    pub(crate) config: Arc<ClientConfig>,
    /// Which it is, as text.
    digest: String,
}

impl Profile {
    /// What connections to this origin are kept under.
    pub(crate) fn shelf(&self, origin: &str) -> Arc<str> {
        format!("{origin} {}", self.digest).into()
    }
}

/// See the module's documentation.
pub(crate) struct Profiles {
    roots: RootCertStore,
    verifier: Arc<dyn ServerCertVerifier>,
    usual: Arc<ClientConfig>,
    /// Whether servers that speak it are spoken to in it.
    http2: bool,
    own: Mutex<HashMap<[u8; 32], Arc<Profile>>>,
}

impl Profiles {
    /// TLS 1.2 and 1.3 against the public authorities and the extra ones.
    pub(crate) fn new(
        extra_roots: &[CertificateDer<'static>],
        http2: bool,
    ) -> Result<Self, ClientError> {
        let mut roots = RootCertStore::empty();
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        for (index, root) in extra_roots.iter().enumerate() {
            let added = roots.add(root.clone());
            added.map_err(|source| ClientError::Root { index, source })?;
        }
        let verifier = verifier(roots.clone()).map_err(ClientError::Tls)?;
        let usual = config(Arc::clone(&verifier), None, http2).map_err(ClientError::Tls)?;
        Ok(Self {
            roots,
            verifier,
            usual: Arc::new(usual),
            http2,
            own: Mutex::default(),
        })
    }

    pub(crate) fn usual(&self) -> &Arc<ClientConfig> {
        &self.usual
    }

    /// The settings of an endpoint that has some of its own; `None` where the usual ones do.
    pub(crate) fn of(&self, own: &TlsOwn) -> Result<Option<Arc<Profile>>, Failure> {
        if own.authorities.is_none() && own.identity.is_none() {
            return Ok(None);
        }
        let digest = digest(own);
        if let Some(known) = self.own.lock().get(&digest) {
            return Ok(Some(Arc::clone(known)));
        }
        let profile = Arc::new(Profile {
            config: Arc::new(self.make(own)?),
            digest: digest[..8].iter().map(|b| format!("{b:02x}")).collect(),
        });
        let mut kept = self.own.lock();
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        kept.insert(digest, Arc::clone(&profile));
        Ok(Some(profile))
    }

    fn make(&self, own: &TlsOwn) -> Result<ClientConfig, Failure> {
        let verifier = match &own.authorities {
            None => Arc::clone(&self.verifier),
            Some(text) => {
                let refused = |why| Failure::new(ErrorClass::RequestInvalid, why);
                let mut roots = self.roots.clone();
                for root in authorities(text).map_err(refused)? {
                    roots.add(root).map_err(|e| refused(e.to_string()))?;
                }
                verifier(roots).map_err(|e| refused(e.to_string()))?
            }
        };
        config(verifier, own.identity.as_ref(), self.http2).map_err(|error| {
            let why = format!("the connector's certificate cannot be used: {error}");
            Failure::new(ErrorClass::AuthFailed, why)
        })
    }
}

fn verifier(roots: RootCertStore) -> Result<Arc<dyn ServerCertVerifier>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let built = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
    match built {
        Ok(verifier) => Ok(verifier),
        Err(error) => Err(rustls::Error::General(error.to_string())),
    }
}

fn config(
    verifier: Arc<dyn ServerCertVerifier>,
    identity: Option<&Identity>,
    http2: bool,
) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    // The library calls every verifier of its own that is handed over dangerous; this one is the usual one.
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let (chain, key) = identity_of(&identity.certificate, &identity.private_key)?;
            builder.with_client_auth_cert(chain, key)?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    if http2 {
        config.alpn_protocols.insert(0, b"h2".to_vec());
    }
    Ok(config)
}

type Chain = Vec<CertificateDer<'static>>;

fn identity_of(
    certificate: &str,
    key: &Secret,
) -> Result<(Chain, PrivateKeyDer<'static>), rustls::Error> {
    let unread = |what: &str| rustls::Error::General(format!("{what} is no PEM"));
    let chain: Result<Chain, _> = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect();
    let chain = chain.map_err(|_| unread("it"))?;
    let key = PrivateKeyDer::from_pem_slice(key.expose().as_bytes());
    Ok((chain, key.map_err(|_| unread("its private key"))?))
}

fn authorities(text: &str) -> Result<Chain, String> {
    let read: Result<Chain, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    read.map_err(|_| "the webhook's trusted_ca is no PEM".to_owned())
}

/// Whether certificates can be trusted as authorities.
///
/// # Errors
/// When one of them cannot be read.
pub fn check_authorities(text: &str) -> Result<(), String> {
    let mut roots = RootCertStore::empty();
    for (index, root) in authorities(text)?.into_iter().enumerate() {
        roots.add(root).map_err(|error| {
            format!(
                "certificate {} cannot be used as an authority: {error}",
                index + 1
            )
        })?;
    }
    Ok(())
}

/// Whether a certificate and a private key belong together and can be used.
///
/// # Errors
/// When not.
pub fn check_identity(certificate: &str, key: &Secret) -> Result<(), String> {
    let identity = Identity {
        certificate: certificate.into(),
        private_key: key.clone(),
    };
    let unused = RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    let made = verifier(unused).and_then(|verifier| config(verifier, Some(&identity), false));
    match made {
        Ok(_) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => {
            Err("is not the key of this certificate".to_owned())
        }
        Err(error) => Err(format!("cannot be used with this certificate: {error}")),
    }
}

fn digest(own: &TlsOwn) -> [u8; 32] {
    let mut hash = Sha256::new();
    let mut part = |text: &str| {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    };
    part(own.authorities.as_deref().unwrap_or_default());
    if let Some(identity) = &own.identity {
        part(&identity.certificate);
        part(identity.private_key.expose());
    }
    hash.finalize().into()
}
