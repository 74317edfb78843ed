//! Standard Webhooks v1: HMAC-SHA256 over `{webhook-id}.{webhook-timestamp}.{body}`.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;

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
pub struct SigningKey(Hmac<Sha256>);

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(…)")
    }
}

impl SigningKey {
    /// From the bytes of a secret.
    ///
    /// # Errors
    /// When there are too few or too many.
    pub fn from_bytes(secret: &[u8]) -> Result<Self, SecretError> {
        if !SECRET_BYTES.contains(&secret.len()) {
            return Err(SecretError::Length(secret.len()));
        }
        Hmac::new_from_slice(secret)
            .map(Self)
            .map_err(|_| SecretError::Length(secret.len()))
    }

    /// From the form in which secrets are shown.
    ///
    /// # Errors
    /// When it is not `whsec_` and base64.
    pub fn parse(shown: &str) -> Result<Self, SecretError> {
        Self::from_bytes(&parse_secret(shown)?)
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
        header.push_str("v1,");
        let mut mac = key.0.clone();
        mac.update(head.as_bytes());
        mac.update(body);
        STANDARD.encode_string(mac.finalize().into_bytes(), &mut header);
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
