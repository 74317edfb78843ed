//! Standard Webhooks: `v1`, HMAC-SHA256, and `v1a`, ed25519, over `{webhook-id}.{webhook-timestamp}.{body}`.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::Signer as _;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;

use crate::outcome::words;

words! {
    /// How requests are signed.
    Scheme, "signature" {
        /// With a secret that the receiver has, too.
        V1 = "v1",
        /// With a private key that nobody else has; receivers check with the public one.
        V1a = "v1a",
    }
}

/// What a shown public key begins with.
pub const PUBLIC_KEY_PREFIX: &str = "whpk_";

/// What a shown secret begins with.
pub const SECRET_PREFIX: &str = "whsec_";

/// How many bytes a secret may have.
pub const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// Why a text is no secret. It never says what the text was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// It does not begin with `whsec_`.
    #[error("a signing secret begins with `whsec_`")]
    Prefix,
    /// What follows is not base64.
    #[error("a signing secret is base64 (standard alphabet, with padding) behind `whsec_`")]
    Base64,
    /// Too short to be safe, or too long.
    #[error("a signing secret has 24 to 64 bytes, not {0}")]
    Length(usize),
}

/// A key ready to sign with. It cannot be shown.
#[derive(Clone)]
pub struct SigningKey(Key);

#[derive(Clone)]
enum Key {
    Hmac(Hmac<Sha256>),
    Ed25519(Box<ed25519_dalek::SigningKey>),
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(…)")
    }
}

impl SigningKey {
    /// From what is kept of a key: the bytes of a secret, or for `v1a` the seed of a key pair.
    ///
    /// # Errors
    /// When there are too few or too many.
    pub fn new(scheme: Scheme, kept: &[u8]) -> Result<Self, SecretError> {
        match scheme {
            Scheme::V1 => Self::from_bytes(kept),
            Scheme::V1a => {
                let seed = kept
                    .try_into()
                    .map_err(|_| SecretError::Length(kept.len()))?;
                let pair = ed25519_dalek::SigningKey::from_bytes(seed);
                Ok(Self(Key::Ed25519(Box::new(pair))))
            }
        }
    }

    /// From the bytes of a secret.
    ///
    /// # Errors
    /// When there are too few or too many.
    pub fn from_bytes(secret: &[u8]) -> Result<Self, SecretError> {
        if !SECRET_BYTES.contains(&secret.len()) {
            return Err(SecretError::Length(secret.len()));
        }
        Hmac::new_from_slice(secret)
            .map(|mac| Self(Key::Hmac(mac)))
            .map_err(|_| SecretError::Length(secret.len()))
    }

    /// From the form in which secrets are shown.
    ///
    /// # Errors
    /// When it is not `whsec_` and base64.
    pub fn parse(shown: &str) -> Result<Self, SecretError> {
        Self::from_bytes(&parse_secret(shown)?)
    }

    /// What receivers check signatures with (`whpk_…`); `None` where that is the secret.
    #[must_use]
    pub fn public_key(&self) -> Option<String> {
        match &self.0 {
            Key::Hmac(_) => None,
            Key::Ed25519(pair) => {
                let key = STANDARD.encode(pair.verifying_key().as_bytes());
                Some(format!("{PUBLIC_KEY_PREFIX}{key}"))
            }
        }
    }
}

/// The bytes of a secret in the form in which it is shown.
///
/// # Errors
/// When it is not `whsec_` and base64 of 24 to 64 bytes.
pub fn parse_secret(shown: &str) -> Result<Vec<u8>, SecretError> {
    let encoded = shown
        .strip_prefix(SECRET_PREFIX)
        .ok_or(SecretError::Prefix)?;
    let bytes = STANDARD.decode(encoded).map_err(|_| SecretError::Base64)?;
    if SECRET_BYTES.contains(&bytes.len()) {
        Ok(bytes)
    } else {
        Err(SecretError::Length(bytes.len()))
    }
}

/// The form in which a secret is shown.
#[must_use]
pub fn format_secret(secret: &[u8]) -> String {
    format!("{SECRET_PREFIX}{}", STANDARD.encode(secret))
}

/// The value of `webhook-signature`: one signature for each key, newest first, so that receivers can change over. `timestamp_s` is the time of
/// this attempt, in seconds. Neither id nor timestamp may contain a dot; ours never do.
#[must_use]
pub fn sign(id: &str, timestamp_s: i64, body: &[u8], keys: &[SigningKey]) -> String {
    let mut header = String::with_capacity(keys.len() * 48);
    let head = format!("{id}.{timestamp_s}.");
    for key in keys {
        if !header.is_empty() {
            header.push(' ');
        }
        match &key.0 {
            Key::Hmac(mac) => {
                header.push_str("v1,");
                let mut mac = mac.clone();
                mac.update(head.as_bytes());
                mac.update(body);
                STANDARD.encode_string(mac.finalize().into_bytes(), &mut header);
            }
            Key::Ed25519(pair) => {
                header.push_str("v1a,");
                let signed = [head.as_bytes(), body].concat();
                STANDARD.encode_string(pair.sign(&signed).to_bytes(), &mut header);
            }
        }
    }
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const AT: i64 = 1_614_265_330;
    const FIRST: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const SECOND: &str = "whsec_BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH";

    fn key(shown: &str) -> SigningKey {
        SigningKey::parse(shown).expect("secret")
    }

    #[test]
    fn known_vectors() {
        let body = br#"{"test": 2432232314}"#;
        let first = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        let second = "v1,n+3FEHUk3SEPes8OkJLzz5oNeY7dNUg973c0p9vd8Jo=";
        assert_eq!(sign(ID, AT, body, &[key(FIRST)]), first);
        assert_eq!(sign(ID, AT, body, &[key(SECOND)]), second);
        assert_eq!(
            sign(ID, AT, b"", &[key(FIRST)]),
            "v1,v48jdbgvh29KJz2Qc+ghw8G6vG3nAKnujWBg8oM/62A="
        );
        assert_eq!(
            sign(ID, AT, "{\"é\":\"😀\"}".as_bytes(), &[key(FIRST)]),
            "v1,dGY83JAi5bZ5pMJpvRcHYZGRoDTJh0hj4RSmEmObDxg="
        );
        let both = sign(ID, AT, body, &[key(FIRST), key(SECOND)]);
        assert_eq!(both, format!("{first} {second}"));
        assert_eq!(sign(ID, AT, body, &[]), "");
    }

    #[test]
    fn a_key_pair_signs_beside_a_secret() {
        let seed: [u8; 32] = std::array::from_fn(|n| n as u8);
        let pair = SigningKey::new(Scheme::V1a, &seed).expect("a seed");
        assert_eq!(
            pair.public_key().as_deref(),
            Some("whpk_A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg=")
        );
        assert_eq!(format!("{pair:?}"), "SigningKey(…)");
        let body = br#"{"test": 2432232314}"#;
        let signature = "v1a,yoUrgEkc12aGqm0n4Sydmdz55xJfTz4AsAgieHFjmkR7LJtqVCZOQYzvvHjI5kAey+r4iaBGxTFRrl2iBQxtDQ==";
        assert_eq!(sign(ID, AT, body, std::slice::from_ref(&pair)), signature);
        let both = sign(ID, AT, body, &[pair, key(FIRST)]);
        assert_eq!(
            both,
            format!("{signature} v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=")
        );
        let short = SigningKey::new(Scheme::V1a, &seed[1..]).map(|_| ());
        assert_eq!(short, Err(SecretError::Length(31)));
        assert_eq!(key(FIRST).public_key(), None);
    }

    #[test]
    fn secrets_round_trip_and_are_never_shown() {
        assert_eq!(format_secret(&parse_secret(FIRST).expect("secret")), FIRST);
        assert_eq!(format!("{:?}", key(FIRST)), "SigningKey(…)");
        let short = format_secret(&[7; 23]);
        for (bad, error) in [
            ("MfKQ", SecretError::Prefix),
            ("whsec_é", SecretError::Base64),
            ("whsec_", SecretError::Length(0)),
            (&short, SecretError::Length(23)),
            (&format_secret(&[7; 65]), SecretError::Length(65)),
        ] {
            assert_eq!(SigningKey::parse(bad).map(|_| ()), Err(error));
        }
    }
}
