//! Who may do what over the API: roles, and the keys that carry them.
//!
//! A key is text: `hk_`, its id, `_`, a secret, and a checksum over all of it. Stored is the hash of the whole text; a secret of 192 random
//! bits needs no slow hash. The checksum tells a mistyped key from an unknown one, and lets scanners of leaked secrets recognise keys.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::ids::Slug;
use crate::outcome::words;

words! {
    /// What the bearer of a key may do.
    Role, "role" {
        /// Reads.
        Viewer = "viewer",
        /// Publishes, and nothing else.
        Publisher = "publisher",
        /// Reads, publishes, and changes webhooks, connectors, event types and jobs.
        Manager = "manager",
        /// Everything, projects and keys too.
        Admin = "admin",
    }
}

/// What a request does, as far as roles are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Looks at something.
    Read,
    /// Publishes events.
    Publish,
    /// Changes webhooks, connectors, event types, jobs.
    Manage,
    /// Changes projects and keys.
    Administer,
}

impl Role {
    /// Whether this role may do that.
    #[must_use]
    pub fn may(self, action: Action) -> bool {
        match (self, action) {
            (Self::Admin, _) => true,
            (Self::Manager, action) => action != Action::Administer,
            (Self::Publisher, action) => action == Action::Publish,
            (Self::Viewer, action) => action == Action::Read,
        }
    }

    /// The roles that may, for people.
    #[must_use]
    pub fn that_may(action: Action) -> String {
        let all: Vec<_> = Self::ALL
            .iter()
            .filter(|r| r.may(action))
            .map(|r| r.as_str())
            .collect();
        all.join(", ")
    }
}

impl Serialize for Role {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Role {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// What every key begins with.
pub const KEY_PREFIX: &str = "hk_";
/// Random bytes of a key's id and of its secret.
pub const KEY_RANDOM_BYTES: usize = KEY_ID_BYTES + KEY_SECRET_BYTES;
const KEY_ID_BYTES: usize = 8;
const KEY_SECRET_BYTES: usize = 24;
const CHECKSUM_BYTES: usize = 4;

/// A key as text was presented or just made: its id, and the hash by which it is recognised. The text itself is not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyText {
    /// Which key it says it is: 16 hexadecimal digits.
    pub id: String,
    /// What is stored of the text.
    pub hash: KeyHash,
    /// The last four characters, by which people tell keys apart.
    pub hint: String,
}

/// The SHA-256 of a key's text.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    /// Whether both are the same, in a time that does not depend on where they differ.
    #[must_use]
    pub fn matches(&self, other: &Self) -> bool {
        let differ = self.0.iter().zip(&other.0).fold(0, |d, (a, b)| d | (a ^ b));
        std::hint::black_box(differ) == 0
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHash(…)")
    }
}

impl From<KeyHash> for String {
    fn from(hash: KeyHash) -> Self {
        hex(&hash.0)
    }
}

impl TryFrom<String> for KeyHash {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let mut bytes = [0; 32];
        unhex(&text, &mut bytes).ok_or("a key's hash has 64 hexadecimal digits")?;
        Ok(Self(bytes))
    }
}

/// Why a text is no key. It never says what the text was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyTextError {
    /// It has another form.
    #[error("a key begins with `hk_` and has 76 characters")]
    Form,
    /// A character is wrong or missing.
    #[error("the key was not copied whole: its checksum is wrong")]
    Checksum,
}

/// Makes a key from random bytes: the text to show once, and what to store.
#[must_use]
pub fn make_key(random: &[u8; KEY_RANDOM_BYTES]) -> (String, KeyText) {
    let (id, secret) = random.split_at(KEY_ID_BYTES);
    let id = hex(id);
    let mut text = format!("{KEY_PREFIX}{id}_{}", hex(secret));
    text.push_str(&checksum(&text));
    let made = known(id, &text);
    (text, made)
}

/// Reads a key that was presented.
///
/// # Errors
/// When it cannot be a key; the message is for its bearer.
pub fn read_key(text: &str) -> Result<KeyText, KeyTextError> {
    let rest = text.strip_prefix(KEY_PREFIX).ok_or(KeyTextError::Form)?;
    let (id, secret) = rest.split_once('_').ok_or(KeyTextError::Form)?;
    let digits = |text: &str, bytes: usize| {
        text.len() == 2 * bytes && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    if !digits(id, KEY_ID_BYTES) || !digits(secret, KEY_SECRET_BYTES + CHECKSUM_BYTES) {
        return Err(KeyTextError::Form);
    }
    let body = text.len() - 2 * CHECKSUM_BYTES;
    match text.split_at_checked(body) {
        Some((body, sum)) if checksum(body) == sum => Ok(known(id.to_owned(), text)),
        _ => Err(KeyTextError::Checksum),
    }
}

fn known(id: String, text: &str) -> KeyText {
    let hint = text.chars().rev().take(4).collect::<Vec<_>>();
    KeyText {
        id,
        hash: KeyHash(Sha256::digest(text.as_bytes()).into()),
        hint: hint.into_iter().rev().collect(),
    }
}

fn checksum(text: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(b"hookline key checksum\0");
    hash.update(text.as_bytes());
    hex(&hash.finalize()[..CHECKSUM_BYTES])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(text: &str, into: &mut [u8]) -> Option<()> {
    if text.len() != 2 * into.len() || !text.is_ascii() {
        return None;
    }
    for (byte, digits) in into.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(())
}

/// A key as the registry keeps it. Serialised as JSON it is the body of a registry record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredKey {
    /// Which one.
    pub id: String,
    /// The only project it sees; `None`: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<Slug>,
    /// What its bearer may do.
    pub role: Role,
    /// Free text.
    #[serde(default)]
    pub title: String,
    /// Recognises the text.
    pub hash: KeyHash,
    /// The last four characters of the text.
    pub hint: String,
    /// When it was made.
    pub created_at_ms: i64,
    /// From when on it is refused; `None`: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at_ms: Option<i64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_back_and_nothing_near_it_does() {
        let (text, made) = make_key(&[0xa7; KEY_RANDOM_BYTES]);
        assert_eq!(text.len(), 76);
        let read = read_key(&text).expect("a key");
        assert_eq!(read, made);
        assert!(read.hash.matches(&made.hash));
        assert!(text.ends_with(&made.hint) && made.hint.len() == 4);
        for at in 0..text.len() {
            let mut near = text.clone().into_bytes();
            near[at] = if near[at] == b'0' { b'1' } else { b'0' };
            let near = String::from_utf8(near).expect("ASCII");
            assert!(read_key(&near).is_err(), "{at}: one character differs");
            let cut: String = text.chars().take(at).collect();
            assert!(read_key(&cut).is_err(), "{at}: cut");
        }
        assert!(read_key(&text.to_uppercase()).is_err());
        assert!(read_key("hk_é_é").is_err());
    }

    #[test]
    fn different_keys_have_different_hashes_and_the_hash_is_never_shown() {
        let (_, one) = make_key(&[1; KEY_RANDOM_BYTES]);
        let (_, two) = make_key(&[2; KEY_RANDOM_BYTES]);
        assert!(!one.hash.matches(&two.hash));
        assert_eq!(format!("{:?}", one.hash), "KeyHash(…)");
        let stored = serde_json::to_string(&one.hash).expect("JSON");
        let read: KeyHash = serde_json::from_str(&stored).expect("reads back");
        assert!(read.matches(&one.hash));
        assert!(serde_json::from_str::<KeyHash>("\"é\"").is_err());
    }

    #[test]
    fn roles_may_what_the_interface_says() {
        use Action::{Administer, Manage, Publish, Read};
        let may = |role: Role| [Read, Publish, Manage, Administer].map(|action| role.may(action));
        assert_eq!(may(Role::Viewer), [true, false, false, false]);
        assert_eq!(may(Role::Publisher), [false, true, false, false]);
        assert_eq!(may(Role::Manager), [true, true, true, false]);
        assert_eq!(may(Role::Admin), [true; 4]);
        assert_eq!(Role::that_may(Manage), "manager, admin");
    }
}
