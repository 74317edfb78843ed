//! A connector's document: credentials that webhooks use by name. The one secret of each is kept apart from what may be shown.

use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value, json};

use super::reader::{At, Object, Reader, hint};
use super::{FieldError, check_header};
use crate::ids::Slug;

const KEYS: [&str; 10] = [
    "kind", "project", "name", "type", "username", "password", "token", "header", "query", "key",
];
/// The types, and which of the keys above each has beside the first four.
const TYPES: [(&str, &[&str]); 3] = [
    ("basic", &["username", "password"]),
    ("bearer", &["token"]),
    ("api-key", &["header", "query", "key"]),
];
/// What a webhook without a connector says.
const NONE: &str = "none";
/// Types that come later.
const LATER: [&str; 2] = ["oauth2", "mtls"];

const USERNAME_BYTES_MAX: usize = 256;
const SECRET_BYTES_MAX: usize = 4096;

/// A secret in the clear, on its way to where it is sealed. It shows itself to nobody.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// What it is.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// Where an API key goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyPlace {
    /// Into the header of this name (lower case).
    Header(String),
    /// Into the query of the URL, as this parameter.
    Query(String),
}

/// The type of a connector, with everything of it that is no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectorType {
    /// `Authorization: Basic` (RFC 7617); the secret is the password.
    Basic {
        /// The user's name.
        username: String,
    },
    /// `Authorization: Bearer` (RFC 6750); the secret is the token.
    Bearer,
    /// A key in a header or in the URL; the secret is the key.
    ApiKey(KeyPlace),
}

impl ConnectorType {
    /// Its word.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Basic { .. } => "basic",
            Self::Bearer => "bearer",
            Self::ApiKey(_) => "api-key",
        }
    }

    /// The key of the document under which the secret stands.
    #[must_use]
    pub fn secret_key(&self) -> &'static str {
        match self {
            Self::Basic { .. } => "password",
            Self::Bearer => "token",
            Self::ApiKey(_) => "key",
        }
    }
}

/// A connector.
#[derive(Debug, Clone, PartialEq)]
pub struct ConnectorSpec {
    /// The project it belongs to.
    pub project: Slug,
    /// Unique in the project.
    pub name: Slug,
    /// What kind of credentials it holds.
    pub of: ConnectorType,
    /// The secret, where one was given. One that exists keeps its own otherwise, as long as its type stays the same.
    pub secret: Option<Secret>,
}

impl ConnectorSpec {
    /// The connector as a resource document, without its secret.
    #[must_use]
    pub fn to_document(&self) -> Value {
        let mut document = json!({
            "kind": "Connector",
            "project": self.project,
            "name": self.name,
            "type": self.of.as_str(),
        });
        match &self.of {
            ConnectorType::Basic { username } => document["username"] = username.as_str().into(),
            ConnectorType::Bearer => {}
            ConnectorType::ApiKey(KeyPlace::Header(name)) => {
                document["header"] = name.as_str().into();
            }
            ConnectorType::ApiKey(KeyPlace::Query(name)) => {
                document["query"] = name.as_str().into();
            }
        }
        document
    }
}

/// Reads a document as written.
pub(super) fn read(map: &Map<String, Value>) -> Result<ConnectorSpec, Vec<FieldError>> {
    read_by(Reader::new(true), map)
}

/// Reads what is stored; keys of newer versions are passed over.
pub(super) fn read_stored(map: &Map<String, Value>) -> Result<ConnectorSpec, Vec<FieldError>> {
    read_by(Reader::new(false), map)
}

fn read_by(mut reader: Reader, map: &Map<String, Value>) -> Result<ConnectorSpec, Vec<FieldError>> {
    let object = Object::of(map, "");
    reader.known(&object, &KEYS);
    let project = slug(&mut reader, &object, "project");
    let name = slug(&mut reader, &object, "name");
    if name.as_ref().is_some_and(|name| name.as_str() == NONE) {
        reader.error("name", "is the word for no connector; take another");
    }
    let of = read_type(&mut reader, &object);
    let secret = read_secret(&mut reader, &object, of.as_ref());
    let spec = (|| {
        Some(ConnectorSpec {
            project: project?,
            name: name?,
            of: of?,
            secret: secret?,
        })
    })();
    reader.finish(spec)
}

fn slug(reader: &mut Reader, object: &Object<'_>, key: &str) -> Option<Slug> {
    let at = reader.required(object, key)?;
    let text = reader.text(&at)?;
    reader.taken(&at, Slug::new(text))
}

fn read_type(reader: &mut Reader, object: &Object<'_>) -> Option<ConnectorType> {
    let at = reader.required(object, "type")?;
    let word = reader.text(&at)?;
    let known: Vec<_> = TYPES.iter().map(|(word, _)| *word).collect();
    if LATER.contains(&word) {
        let works = known.join(", ");
        let message = format!("`{word}` is not supported yet; what works is {works}");
        reader.error(&at.path, message);
        return None;
    }
    let Some((word, own)) = TYPES.iter().find(|(known, _)| *known == word) else {
        let shown: String = word.chars().filter(|c| !c.is_control()).take(64).collect();
        reader.error(
            &at.path,
            format!("{shown:?} is no type of connector; {}", hint(word, &known)),
        );
        return None;
    };
    for key in KEYS.iter().skip(4).filter(|key| !own.contains(key)) {
        if object.get(key).is_some() {
            let message = format!("has no use in a connector of type {word}");
            reader.error(object.at(key), message);
        }
    }
    match *word {
        "basic" => {
            let at = reader.required(object, "username")?;
            let username = reader.prose(&at, USERNAME_BYTES_MAX, false)?;
            if username.is_empty() || username.contains(':') {
                reader.error(&at.path, "must not be empty and must have no colon");
                return None;
            }
            Some(ConnectorType::Basic { username })
        }
        "bearer" => Some(ConnectorType::Bearer),
        _ => read_place(reader, object).map(ConnectorType::ApiKey),
    }
}

fn read_place(reader: &mut Reader, object: &Object<'_>) -> Option<KeyPlace> {
    let (at, in_header) = match (object.get("header"), object.get("query")) {
        (Some(at), None) => (at, true),
        (None, Some(at)) => (at, false),
        (Some(_), Some(at)) => {
            reader.error(&at.path, "cannot stand beside `header`: say one of them");
            return None;
        }
        (None, None) => {
            reader.error(
                object.at("header"),
                "is required, or `query`: where the key goes",
            );
            return None;
        }
    };
    let name = reader.text(&at)?;
    if in_header {
        let name = name.to_ascii_lowercase();
        reader.taken(&at, check_header(&name, ""))?;
        return Some(KeyPlace::Header(name));
    }
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    if name.is_empty() || name.len() > 64 || !name.bytes().all(fits) {
        reader.error(
            &at.path,
            "must be the name of a parameter: 1 to 64 letters, digits, '-', '.', '_', '~'",
        );
        return None;
    }
    Some(KeyPlace::Query(name.to_owned()))
}

/// The secret, where one is given. A secret is never repeated in a message.
fn read_secret(
    reader: &mut Reader,
    object: &Object<'_>,
    of: Option<&ConnectorType>,
) -> Option<Option<Secret>> {
    let of = of?;
    let Some(at) = object.get(of.secret_key()) else {
        return Some(None);
    };
    let text = reader.text(&at)?;
    if let Err(problem) = check_secret(of, text) {
        reader.error(&at.path, problem);
        return None;
    }
    Some(Some(text.into()))
}

fn check_secret(of: &ConnectorType, text: &str) -> Result<(), String> {
    if text.is_empty() || text.len() > SECRET_BYTES_MAX {
        return Err(format!("must have 1 to {SECRET_BYTES_MAX} bytes"));
    }
    match of {
        ConnectorType::Basic { .. } if text.chars().any(char::is_control) => {
            Err("must have no control characters".into())
        }
        ConnectorType::Basic { .. } => Ok(()),
        ConnectorType::Bearer if text.bytes().all(|b| b.is_ascii_graphic()) => Ok(()),
        ConnectorType::Bearer => Err("must be printable ASCII without blanks".into()),
        ConnectorType::ApiKey(KeyPlace::Header(name)) => check_header(name, text),
        ConnectorType::ApiKey(KeyPlace::Query(_)) if text.chars().any(char::is_control) => {
            Err("must have no control characters".into())
        }
        ConnectorType::ApiKey(KeyPlace::Query(_)) => Ok(()),
    }
}

/// The name of a connector in a webhook's document, or `none`.
pub(super) fn read_name(reader: &mut Reader, at: Option<At<'_>>) -> Option<Option<Slug>> {
    let Some(at) = at.filter(|at| !at.is_word(NONE)) else {
        return Some(None);
    };
    let text = reader.text(&at)?;
    reader.taken(&at, Slug::new(text)).map(Some)
}

#[cfg(test)]
mod tests {
    use super::super::parse_documents;
    use super::super::{Resource, read_connector};
    use super::*;

    fn read_yaml(fields: &str) -> Result<ConnectorSpec, Vec<String>> {
        let text = format!("kind: Connector\nproject: shop\nname: crm-login\n{fields}");
        match parse_documents(&text) {
            Ok(found) => match found.as_slice() {
                [Resource::Connector(spec)] => Ok(ConnectorSpec::clone(spec)),
                other => panic!("{other:?}"),
            },
            Err(errors) => Err(errors
                .into_iter()
                .map(|e| format!("{}: {}", e.field, e.message))
                .collect()),
        }
    }

    #[test]
    fn each_type_is_read_and_shown_without_its_secret() {
        for (fields, of, shown) in [
            (
                "type: basic\nusername: hookline\npassword: \"päss: wörd\"",
                "basic",
                "username",
            ),
            ("type: bearer\ntoken: abc.def-ghi=", "bearer", "type"),
            (
                "type: api-key\nheader: X-Api-Key\nkey: k 1",
                "api-key",
                "header",
            ),
            (
                "type: api-key\nquery: api_key\nkey: \"k&1=2\"",
                "api-key",
                "query",
            ),
        ] {
            let spec = read_yaml(fields).expect(fields);
            assert_eq!(spec.of.as_str(), of);
            let secret = spec.secret.clone().expect("given");
            let document = spec.to_document();
            assert!(document.get(shown).is_some(), "{document}");
            assert!(!document.to_string().contains(secret.expose()));
            assert!(!format!("{spec:?}").contains(secret.expose()));
            let again = read_connector(document.as_object().expect("an object"));
            let without = ConnectorSpec {
                secret: None,
                ..spec
            };
            assert_eq!(again, Ok(without));
        }
    }

    #[test]
    fn everything_that_is_wrong_is_said_and_no_secret_is_repeated() {
        for (fields, expected) in [
            ("", vec!["type: is required"]),
            (
                "type: oauth2",
                vec!["type: `oauth2` is not supported yet; what works is basic, bearer, api-key"],
            ),
            (
                "type: baisc",
                vec!["type: \"baisc\" is no type of connector; did you mean `basic`?"],
            ),
            (
                "type: basic\nusername: \"a:b\"\ntoken: hush",
                vec![
                    "token: has no use in a connector of type basic",
                    "username: must not be empty and must have no colon",
                ],
            ),
            (
                "type: bearer\ntoken: \"hush hush\"",
                vec!["token: must be printable ASCII without blanks"],
            ),
            (
                "type: api-key\nkey: hush",
                vec!["header: is required, or `query`: where the key goes"],
            ),
            (
                "type: api-key\nheader: host\nkey: hush",
                vec!["header: may not be set: hookline or the connection uses it"],
            ),
            (
                "type: api-key\nheader: x-key\nquery: key\nkey: hush",
                vec!["query: cannot stand beside `header`: say one of them"],
            ),
            (
                "type: api-key\nquery: \"a b\"\nkey: hush",
                vec![
                    "query: must be the name of a parameter: 1 to 64 letters, digits, '-', '.', '_', '~'",
                ],
            ),
        ] {
            let errors = read_yaml(fields).expect_err(fields);
            assert!(!errors.join("").contains("hush"), "{errors:?}");
            assert_eq!(errors, expected);
        }
    }
}
