//! How secrets are stored: each sealed with a key of its own, which is sealed with the one key that never enters the journal.
//!
//! A sealed secret is text: `v1.` and, in base64, the id of the outer key, the wrapped inner key, and the secret under the inner key.
//! Both layers are bound to where the secret belongs ([`Place`]), so that a sealed text moved to another webhook does not open there.
//!
//! While the outer key is being replaced there are several: the first seals, all open.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use chacha20poly1305::aead::rand_core::RngCore as _;
use chacha20poly1305::aead::{Aead as _, OsRng, Payload};
use chacha20poly1305::{KeyInit as _, XChaCha20Poly1305, XNonce};
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret as _, SecretBox, SecretSlice, SecretString};
use sha2::{Digest as _, Sha256};

const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;
const KEY_ID_BYTES: usize = 8;
const WRAPPED_BYTES: usize = NONCE_BYTES + KEY_BYTES + TAG_BYTES;
const HEAD_BYTES: usize = KEY_ID_BYTES + WRAPPED_BYTES + NONCE_BYTES;
const MARK: &str = "v1.";

/// Why a key was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KekError {
    /// Not base64.
    #[error("the secrets key is not base64: give 32 random bytes as base64 (44 characters)")]
    NotBase64,
    /// Too short or too long.
    #[error("the secrets key has {0} bytes: give 32 random bytes as base64 (44 characters)")]
    Length(usize),
    /// All bytes are the same, so nobody drew it at random.
    #[error("the secrets key is not random (all its bytes are the same): draw a new one")]
    Weak,
    /// The system gave no random bytes.
    #[error("the system gives no random bytes")]
    NoRandomness,
}

/// The key-encryption key: 32 random bytes that live outside the journal.
pub struct Kek {
    bytes: SecretBox<[u8; KEY_BYTES]>,
}

impl Kek {
    /// Draws a new key.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn generate() -> Result<Self, KekError> {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        random(bytes.as_mut_slice()).map_err(|NoRandomness| KekError::NoRandomness)?;
        Ok(Self::from_array(&bytes))
    }

    /// Takes a key from base64, with or without padding; white space around it is ignored.
    ///
    /// # Errors
    /// When it is not base64 of 32 bytes that look random.
    pub fn from_base64(text: &str) -> Result<Self, KekError> {
        let text = text.trim().trim_end_matches('=');
        let bytes = Zeroizing::new(
            STANDARD_NO_PAD
                .decode(text)
                .map_err(|_| KekError::NotBase64)?,
        );
        let array: &[u8; KEY_BYTES] = bytes
            .as_slice()
            .try_into()
            .map_err(|_| KekError::Length(bytes.len()))?;
        if array.iter().all(|b| *b == array[0]) {
            return Err(KekError::Weak);
        }
        Ok(Self::from_array(array))
    }

    /// The key as base64, for the file it is kept in.
    #[must_use]
    pub fn to_base64(&self) -> SecretString {
        STANDARD.encode(self.bytes.expose_secret()).into()
    }

    fn from_array(array: &[u8; KEY_BYTES]) -> Self {
        Self {
            bytes: SecretBox::init_with_mut(|bytes: &mut [u8; KEY_BYTES]| *bytes = *array),
        }
    }

    /// Names the key without telling anything about it.
    fn id(&self) -> KeyId {
        let mut hash = Sha256::new();
        hash.update(b"hookline secrets key id\0");
        hash.update(self.bytes.expose_secret());
        let mut id = [0; KEY_ID_BYTES];
        id.copy_from_slice(&hash.finalize()[..KEY_ID_BYTES]);
        KeyId(id)
    }
}

impl fmt::Debug for Kek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kek({})", self.id())
    }
}

/// Which key something is sealed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyId([u8; KEY_ID_BYTES]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// Where a secret belongs; it opens nowhere else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    /// The project.
    pub project: &'a str,
    /// The uid of the webhook, or the name of what else owns the secret.
    pub owner: &'a str,
    /// What kind of secret, for example `signing`.
    pub field: &'a str,
    /// Which one in the row of such secrets.
    pub version: u64,
}

impl Place<'_> {
    fn bound(&self, layer: &str, key: KeyId) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(128);
        for part in [layer, self.project, self.owner, self.field] {
            bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
            bytes.extend_from_slice(part.as_bytes());
        }
        bytes.extend_from_slice(&self.version.to_be_bytes());
        bytes.extend_from_slice(&key.0);
        bytes
    }
}

/// Why sealing or opening a secret failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The text is not a sealed secret.
    #[error("this is not a sealed secret of a form that is known")]
    Malformed,
    /// It was sealed with another key.
    #[error(
        "the secret was sealed with key {sealed_with}, which this process does not have (it seals with {ours}): give every process the same secrets keys"
    )]
    OtherKey {
        /// The key it needs.
        sealed_with: KeyId,
        /// The key there is.
        ours: KeyId,
    },
    /// It was changed, or belongs elsewhere.
    #[error("the sealed secret is damaged or belongs to something else")]
    Damaged,
    /// The system gave no random bytes.
    #[error("the system gives no random bytes")]
    NoRandomness,
}

/// Seals and opens secrets.
pub struct Sealer {
    id: KeyId,
    cipher: XChaCha20Poly1305,
    /// Keys that only open.
    others: Vec<(KeyId, XChaCha20Poly1305)>,
    random: Random,
}

impl Sealer {
    /// A sealer with this key.
    #[must_use]
    pub fn new(kek: &Kek) -> Self {
        Self::with_random(kek, random)
    }

    /// A sealer that draws what it needs (and what the registry needs: nonces, uids) from elsewhere than the system. Only a simulation, which must
    /// repeat itself, has a use for that.
    #[must_use]
    pub fn with_random(kek: &Kek, random: Random) -> Self {
        Self {
            id: kek.id(),
            cipher: cipher(kek),
            others: Vec::new(),
            random,
        }
    }

    /// The same, which also opens what was sealed with these keys.
    #[must_use]
    pub fn opening(mut self, others: &[Kek]) -> Self {
        self.others
            .extend(others.iter().map(|kek| (kek.id(), cipher(kek))));
        self
    }

    /// Whether it opens what was sealed with that key.
    pub(crate) fn has(&self, id: KeyId) -> bool {
        self.cipher_of(id).is_some()
    }

    fn cipher_of(&self, id: KeyId) -> Option<&XChaCha20Poly1305> {
        let others = self.others.iter().find(|(other, _)| *other == id);
        let others = others.map(|(_, cipher)| cipher);
        (id == self.id).then_some(&self.cipher).or(others)
    }

    /// Fills bytes at random.
    pub(crate) fn random(&self, bytes: &mut [u8]) -> Result<(), SealError> {
        (self.random)(bytes).map_err(|NoRandomness| SealError::NoRandomness)
    }

    /// The key it seals with.
    #[must_use]
    pub fn key_id(&self) -> KeyId {
        self.id
    }

    /// Seals `secret` for `place`.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn seal(&self, place: &Place<'_>, secret: &[u8]) -> Result<String, SealError> {
        let mut inner = Zeroizing::new([0; KEY_BYTES]);
        let mut nonces = [0; 2 * NONCE_BYTES];
        for bytes in [inner.as_mut_slice(), nonces.as_mut_slice()] {
            self.random(bytes)?;
        }
        let (wrap_nonce, nonce) = nonces.split_at(NONCE_BYTES);
        let wrapped = encrypt(
            &self.cipher,
            wrap_nonce,
            inner.as_slice(),
            &place.bound("key", self.id),
        )?;
        let inner = XChaCha20Poly1305::new(inner.as_slice().into());
        let sealed = encrypt(&inner, nonce, secret, &place.bound("secret", self.id))?;

        let parts = [&self.id.0, wrap_nonce, &wrapped, nonce, &sealed];
        Ok(format!("{MARK}{}", STANDARD_NO_PAD.encode(parts.concat())))
    }

    /// Opens what was sealed for `place`.
    ///
    /// # Errors
    /// When it was sealed with another key, for another place, was changed, or is something else altogether.
    pub fn open(&self, place: &Place<'_>, sealed: &str) -> Result<SecretSlice<u8>, SealError> {
        let text = sealed.strip_prefix(MARK).ok_or(SealError::Malformed)?;
        let bytes = STANDARD_NO_PAD
            .decode(text)
            .map_err(|_| SealError::Malformed)?;
        let (head, secret) = bytes
            .split_at_checked(HEAD_BYTES)
            .filter(|(_, secret)| secret.len() >= TAG_BYTES)
            .ok_or(SealError::Malformed)?;
        let (id, head) = head.split_at(KEY_ID_BYTES);
        let id = KeyId(id.try_into().map_err(|_| SealError::Malformed)?);
        let outer = self.cipher_of(id).ok_or(SealError::OtherKey {
            sealed_with: id,
            ours: self.id,
        })?;
        let (wrapped, nonce) = head.split_at(WRAPPED_BYTES);
        let (wrap_nonce, wrapped) = wrapped.split_at(NONCE_BYTES);
        let inner = Zeroizing::new(decrypt(
            outer,
            wrap_nonce,
            wrapped,
            &place.bound("key", id),
        )?);
        let inner = XChaCha20Poly1305::new_from_slice(&inner).map_err(|_| SealError::Damaged)?;
        decrypt(&inner, nonce, secret, &place.bound("secret", id)).map(Into::into)
    }
}

/// Which key a text was sealed with, as it says itself.
pub(crate) fn sealed_with(sealed: &str) -> Result<KeyId, SealError> {
    // Four letters are three bytes: the first sixteen hold the id.
    let head = sealed.strip_prefix(MARK).and_then(|text| text.get(..16));
    let head = head.and_then(|head| STANDARD_NO_PAD.decode(head).ok());
    let id = head.as_ref().and_then(|head| head.get(..KEY_ID_BYTES));
    let id = id.and_then(|id| id.try_into().ok());
    id.map(KeyId).ok_or(SealError::Malformed)
}

fn cipher(kek: &Kek) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new(kek.bytes.expose_secret().into())
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealer({})", self.id)
    }
}

fn encrypt(
    cipher: &XChaCha20Poly1305,
    nonce: &[u8],
    msg: &[u8],
    aad: &[u8],
) -> Result<Vec<u8>, SealError> {
    cipher
        .encrypt(XNonce::from_slice(nonce), Payload { msg, aad })
        .map_err(|_| SealError::Malformed)
}

fn decrypt(
    cipher: &XChaCha20Poly1305,
    nonce: &[u8],
    msg: &[u8],
    aad: &[u8],
) -> Result<Vec<u8>, SealError> {
    cipher
        .decrypt(XNonce::from_slice(nonce), Payload { msg, aad })
        .map_err(|_| SealError::Damaged)
}

/// There are no random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoRandomness;

/// Fills bytes at random.
pub type Random = fn(&mut [u8]) -> Result<(), NoRandomness>;

/// Fills `bytes` from the system's source for secrets.
fn random(bytes: &mut [u8]) -> Result<(), NoRandomness> {
    OsRng.try_fill_bytes(bytes).map_err(|_| NoRandomness)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place<'_> = Place {
        project: "shop",
        owner: "01890a5d-ac96-774b-bcce-b302099a8057",
        field: "signing",
        version: 1,
    };

    fn sealer() -> Sealer {
        Sealer::new(&Kek::generate().expect("random"))
    }

    #[test]
    fn what_was_sealed_opens_in_its_place_only() {
        let sealer = sealer();
        let sealed = sealer.seal(&PLACE, b"secret").expect("seal");
        assert!(!sealed.contains("secret"));
        assert_ne!(sealed, sealer.seal(&PLACE, b"secret").expect("seal"));
        let opened = sealer.open(&PLACE, &sealed).expect("open");
        assert_eq!(opened.expose_secret(), b"secret");
        for elsewhere in [
            Place {
                project: "other",
                ..PLACE
            },
            Place {
                owner: "x",
                ..PLACE
            },
            Place {
                field: "token",
                ..PLACE
            },
            Place {
                version: 2,
                ..PLACE
            },
        ] {
            let refused = sealer.open(&elsewhere, &sealed).map(drop);
            assert_eq!(refused, Err(SealError::Damaged));
        }
    }

    #[test]
    fn another_key_is_named() {
        let sealed = sealer().seal(&PLACE, b"secret").expect("seal");
        let refused = sealer().open(&PLACE, &sealed).map(drop);
        assert!(
            matches!(refused, Err(SealError::OtherKey { .. })),
            "{refused:?}"
        );
    }

    #[test]
    fn further_keys_open_and_do_not_seal() {
        let (old, new) = (
            Kek::generate().expect("random"),
            Kek::generate().expect("random"),
        );
        let before = Sealer::new(&old);
        let sealed = before.seal(&PLACE, b"secret").expect("seal");
        assert_eq!(sealed_with(&sealed), Ok(old.id()));
        let both = Sealer::new(&new).opening(&[old]);
        let opened = both.open(&PLACE, &sealed).expect("open");
        assert_eq!(opened.expose_secret(), b"secret");
        let again = both.seal(&PLACE, b"secret").expect("seal");
        assert_eq!(sealed_with(&again), Ok(new.id()));
        assert!(before.open(&PLACE, &again).is_err());
        assert!(both.has(new.id()) && both.has(before.id) && !before.has(new.id()));
        for foreign in ["", "v1.", "v1.AAAA", "v2.AAAAAAAAAAAAAAAA", "v1.éééééééé"] {
            assert_eq!(sealed_with(foreign), Err(SealError::Malformed), "{foreign}");
        }
    }

    #[test]
    fn foreign_short_and_changed_input_is_refused_without_panic() {
        let sealer = sealer();
        let sealed = sealer.seal(&PLACE, b"").expect("seal");
        assert_eq!(
            sealer.open(&PLACE, &sealed).expect("open").expose_secret(),
            b""
        );
        for cut in 0..sealed.len() {
            let part: String = sealed.chars().take(cut).collect();
            assert!(sealer.open(&PLACE, &part).is_err(), "cut at {cut}");
        }
        for at in 0..sealed.len() {
            let changed: String = sealed
                .chars()
                .enumerate()
                .map(|(i, c)| match (i == at, c) {
                    (true, 'A') => 'B',
                    (true, _) => 'A',
                    (false, c) => c,
                })
                .collect();
            assert!(sealer.open(&PLACE, &changed).is_err(), "changed at {at}");
        }
        for foreign in ["", "v1.", "v2.AAAA", "whsec_abc", "v1.é"] {
            assert_eq!(
                sealer.open(&PLACE, foreign).map(drop),
                Err(SealError::Malformed)
            );
        }
    }

    #[test]
    fn keys_come_from_base64_and_are_never_shown() {
        let kek = Kek::generate().expect("random");
        let text = kek.to_base64();
        let again = Kek::from_base64(&format!(" {}\n", text.expose_secret())).expect("same");
        assert_eq!(kek.id(), again.id());
        assert!(!format!("{kek:?}").contains(text.expose_secret()));
        assert_eq!(Kek::from_base64("?").map(drop), Err(KekError::NotBase64));
        assert_eq!(Kek::from_base64("AAAA").map(drop), Err(KekError::Length(3)));
        let weak = STANDARD.encode([7; 32]);
        assert_eq!(Kek::from_base64(&weak).map(drop), Err(KekError::Weak));
    }
}
