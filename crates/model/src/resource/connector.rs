//! A connector's document: credentials that webhooks use by name. The one secret of each is kept apart from what may be shown.

use std::sync::Arc;

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value, json};

use super::reader::{At, Object, Reader, hint};
use super::webhook::read_url;
use super::{FieldError, check_header};
use crate::ids::Slug;

const KEYS: [&str; 18] = [
    "kind",
    "project",
    "name",
    "type",
    "username",
    "password",
    "token",
    "header",
    "query",
    "key",
    "token_url",
    "client_id",
    "client_secret",
    "client_auth",
    "scopes",
    "audience",
    "certificate",
    "private_key",
];
/// The types, and which of the keys above each has beside the first four.
const TYPES: [(&str, &[&str]); 5] = [
    ("basic", &["username", "password"]),
    ("bearer", &["token"]),
    ("api-key", &["header", "query", "key"]),
    (
        "oauth2",
        &[
            "token_url",
            "client_id",
            "client_secret",
            "client_auth",
            "scopes",
            "audience",
        ],
    ),
    ("mtls", &["certificate", "private_key"]),
];
/// What a webhook without a connector says.
const NONE: &str = "none";

const USERNAME_BYTES_MAX: usize = 256;
const SECRET_BYTES_MAX: usize = 4096;
const SCOPES_MAX: usize = 64;
/// Of a chain of certificates, as text.
const CHAIN_BYTES_MAX: usize = 32 * 1024;
/// Of a private key, as text: the largest RSA keys in use have half of that.
const PRIVATE_KEY_BYTES_MAX: usize = 16 * 1024;

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

/// Where an OAuth2 client says who it is (RFC 6749, section 2.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// In the header `Authorization`, as every server must understand it.
    Basic,
    /// In the body, for servers that want it there.
    Body,
}

impl ClientAuth {
    fn as_str(self) -> &'static str {
        match self {
            Self::Basic => "basic",
            Self::Body => "body",
        }
    }
}

/// A client of an OAuth2 server, by client credentials (RFC 6749, section 4.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OAuth2 {
    /// Where tokens are had; the address guard judges it as it does a webhook's URL.
    pub token_url: String,
    /// Who asks.
    pub client_id: String,
    /// How it says so.
    pub client_auth: ClientAuth,
    /// What is asked for; may be empty.
    pub scopes: Vec<String>,
    /// For whom the token is to be, where the server wants to know.
    pub audience: Option<String>,
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
    /// A token from an OAuth2 server; the secret is the client's.
    OAuth2(Box<OAuth2>),
    /// A client certificate in TLS; the secret is its private key (PEM).
    Mtls {
        /// The certificate, and those that lead to its authority (PEM).
        certificate: Arc<str>,
    },
}

impl ConnectorType {
    /// Its word.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Basic { .. } => "basic",
            Self::Bearer => "bearer",
            Self::ApiKey(_) => "api-key",
            Self::OAuth2(_) => "oauth2",
            Self::Mtls { .. } => "mtls",
        }
    }

    /// The key of the document under which the secret stands.
    #[must_use]
    pub fn secret_key(&self) -> &'static str {
        match self {
            Self::Basic { .. } => "password",
            Self::Bearer => "token",
            Self::ApiKey(_) => "key",
            Self::OAuth2(_) => "client_secret",
            Self::Mtls { .. } => "private_key",
        }
    }

    /// Whether a secret of this connector would be one of `other` as well. A private key belongs to its certificate; else the type decides.
    #[must_use]
    pub fn shares_secret(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Mtls { certificate }, Self::Mtls { certificate: other }) => certificate == other,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
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
            ConnectorType::OAuth2(client) => {
                document["token_url"] = client.token_url.as_str().into();
                document["client_id"] = client.client_id.as_str().into();
                document["client_auth"] = client.client_auth.as_str().into();
                document["scopes"] = client.scopes.clone().into();
                if let Some(audience) = &client.audience {
                    document["audience"] = audience.as_str().into();
                }
            }
            ConnectorType::Mtls { certificate } => {
                document["certificate"] = (**certificate).into();
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
        "oauth2" => read_client(reader, object).map(ConnectorType::OAuth2),
        "mtls" => {
            let at = reader.required(object, "certificate")?;
            let text = reader.text(&at)?;
            let certificate = reader.taken(&at, certificates(text))?;
            Some(ConnectorType::Mtls { certificate })
        }
        _ => read_place(reader, object).map(ConnectorType::ApiKey),
    }
}

fn read_client(reader: &mut Reader, object: &Object<'_>) -> Option<Box<OAuth2>> {
    let token_url = reader
        .required(object, "token_url")
        .and_then(|at| read_url(reader, &at));
    let client_id = reader.required(object, "client_id").and_then(|at| {
        let id = reader.prose(&at, USERNAME_BYTES_MAX, false)?;
        if id.is_empty() {
            reader.error(&at.path, "must not be empty");
            return None;
        }
        Some(id)
    });
    let client_auth = match object.get("client_auth") {
        None => Some(ClientAuth::Basic),
        Some(at) if at.is_word("basic") => Some(ClientAuth::Basic),
        Some(at) if at.is_word("body") => Some(ClientAuth::Body),
        Some(at) => {
            let message =
                "must be `basic` (the header Authorization) or `body` (client_secret in the body)";
            reader.error(&at.path, message);
            None
        }
    };
    let scopes = object
        .get("scopes")
        .map_or(Some(Vec::new()), |at| read_scopes(reader, &at));
    let audience = object.get("audience").map_or(Some(None), |at| {
        reader.prose(&at, USERNAME_BYTES_MAX, false).map(Some)
    });
    Some(Box::new(OAuth2 {
        token_url: token_url?,
        client_id: client_id?,
        client_auth: client_auth?,
        scopes: scopes?,
        audience: audience?,
    }))
}

/// A list, or one text in which they stand apart, as in the request (RFC 6749, section 3.3).
fn read_scopes(reader: &mut Reader, at: &At<'_>) -> Option<Vec<String>> {
    let scopes: Vec<String> = match at.value {
        Value::String(text) => text.split_ascii_whitespace().map(str::to_owned).collect(),
        _ => reader.list(at, |reader, at| reader.text(at).map(str::to_owned))?,
    };
    let fits = |b: u8| b.is_ascii_graphic() && b != b'"' && b != b'\\';
    let good = |scope: &String| !scope.is_empty() && scope.len() <= 256 && scope.bytes().all(fits);
    if scopes.len() > SCOPES_MAX || !scopes.iter().all(good) {
        let message = format!(
            "must be at most {SCOPES_MAX} words of printable ASCII without blanks, quotes and backslashes"
        );
        reader.error(&at.path, message);
        return None;
    }
    Some(scopes)
}

/// Certificates as PEM: one at least, and no private key among them.
pub(super) fn certificates(text: &str) -> Result<Arc<str>, String> {
    if text.len() > CHAIN_BYTES_MAX {
        return Err(format!("must have at most {CHAIN_BYTES_MAX} bytes"));
    }
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match read {
        Ok(found) if !found.is_empty() => {}
        _ => {
            return Err(
                "must be one or more certificates in PEM (-----BEGIN CERTIFICATE-----)".into(),
            );
        }
    }
    // A private key that was pasted along would be stored and shown.
    if text.contains("PRIVATE KEY") {
        return Err("must hold certificates alone; the private key has a place of its own".into());
    }
    Ok(format!("{}\n", text.trim()).into())
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
    if let ConnectorType::Mtls { .. } = of {
        let found = text.len() <= PRIVATE_KEY_BYTES_MAX
            && PrivateKeyDer::from_pem_slice(text.as_bytes()).is_ok();
        let message =
            "must be a private key in PEM, without a passphrase (-----BEGIN PRIVATE KEY-----)";
        return found.then_some(()).ok_or_else(|| message.to_owned());
    }
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
        ConnectorType::ApiKey(KeyPlace::Query(_)) | ConnectorType::OAuth2(_)
            if text.chars().any(char::is_control) =>
        {
            Err("must have no control characters".into())
        }
        ConnectorType::ApiKey(KeyPlace::Query(_))
        | ConnectorType::OAuth2(_)
        | ConnectorType::Mtls { .. } => Ok(()),
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

    /// Of the form of a certificate and a key; that they are some is for others to say.
    const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
    const PRIVATE_KEY: &str = "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n";

    fn mtls(certificate: &str, key: &str) -> String {
        let quoted = |text: &str| Value::from(text).to_string();
        format!(
            "type: mtls\ncertificate: {}\nprivate_key: {}",
            quoted(certificate),
            quoted(key)
        )
    }

    #[test]
    fn certificates_and_keys_are_told_apart() {
        let (good, other) = (mtls(CERTIFICATE, PRIVATE_KEY), CERTIFICATE.repeat(2));
        let spec = read_yaml(&good).expect("valid");
        let chain = read_yaml(&mtls(&other, PRIVATE_KEY)).expect("valid");
        assert!(spec.of.shares_secret(&spec.of));
        assert!(!spec.of.shares_secret(&chain.of), "the key goes with it");
        for (certificate, key, field) in [
            (PRIVATE_KEY, PRIVATE_KEY, "certificate"),
            (CERTIFICATE, CERTIFICATE, "private_key"),
            (
                &format!("{CERTIFICATE}{PRIVATE_KEY}"),
                PRIVATE_KEY,
                "certificate",
            ),
        ] {
            let errors = read_yaml(&mtls(certificate, key)).expect_err(field);
            assert_eq!(errors.len(), 1, "{errors:?}");
            assert!(
                errors[0].starts_with(&format!("{field}: must ")),
                "{errors:?}"
            );
            assert!(!errors[0].contains("MAA="));
        }
    }

    #[test]
    fn scopes_are_a_list_or_one_text() {
        for scopes in ["[a, b.c]", "a b.c"] {
            let fields = format!(
                "type: oauth2\ntoken_url: https://login.example.com/token\nclient_id: hookline\nscopes: {scopes}"
            );
            let spec = read_yaml(&fields).expect("valid");
            let ConnectorType::OAuth2(client) = &spec.of else {
                panic!("{spec:?}")
            };
            assert_eq!(client.scopes, ["a", "b.c"]);
        }
    }

    #[test]
    fn each_type_is_read_and_shown_without_its_secret() {
        let certificate = mtls(CERTIFICATE, PRIVATE_KEY);
        for (fields, of, shown) in [
            (
                "type: oauth2\ntoken_url: https://login.example.com/token\nclient_id: hookline\nclient_secret: s3cr3t",
                "oauth2",
                "client_auth",
            ),
            (
                "type: oauth2\ntoken_url: https://login.example.com/token\nclient_id: hookline\nclient_secret: s3cr3t\nclient_auth: body\nscopes: [a]\naudience: https://crm.example.com/",
                "oauth2",
                "audience",
            ),
            (&certificate, "mtls", "certificate"),
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
                "type: oauth2\nclient_auth: hush\nscopes: [\"a b\"]\nclient_secret: hush",
                vec![
                    "token_url: is required",
                    "client_id: is required",
                    "client_auth: must be `basic` (the header Authorization) or `body` (client_secret in the body)",
                    "scopes: must be at most 64 words of printable ASCII without blanks, quotes and backslashes",
                ],
            ),
            (
                "type: oauth2\ntoken_url: ftp://example.com/\nclient_id: \"\"",
                vec![
                    "token_url: must begin with https://",
                    "client_id: must not be empty",
                ],
            ),
            (
                "type: mtls\ncertificate: hush",
                vec![
                    "certificate: must be one or more certificates in PEM (-----BEGIN CERTIFICATE-----)",
                ],
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
