//! Which headers a webhook may set for itself.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use crate::limits::{HEADER_VALUE_BYTES, HEADERS_BYTES, HEADERS_MAX};

/// A webhook's own headers, by name, each once. There are few or none, and as many webhooks as there may be: so they are packed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Headers(Box<[(Box<str>, Box<str>)]>);

impl Headers {
    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names (in lower case) and values, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// The value of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(n, _)| *n == name).map(|(_, v)| v)
    }
}

impl From<BTreeMap<String, String>> for Headers {
    fn from(map: BTreeMap<String, String>) -> Self {
        let boxed = |(name, value): (String, String)| (name.into(), value.into());
        Self(map.into_iter().map(boxed).collect())
    }
}

impl Serialize for Headers {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.iter())
    }
}

/// Names that frame the request or the connection, that say who sends it or what it is, or that are ours.
const FORBIDDEN: [&str; 36] = [
    "accept-charset",
    "accept-encoding",
    "alt-svc",
    "connection",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-range",
    "content-type",
    "cookie",
    "cookie2",
    "date",
    "dnt",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "max-forwards",
    "origin",
    "range",
    "referer",
    "refresh",
    "server",
    "set-cookie",
    "strict-transport-security",
    "te",
    "trailer",
    "trailers",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "via",
    "x-http-method-override",
    "x-real-ip",
];

/// The same for all names that begin so.
const FORBIDDEN_PREFIXES: [&str; 10] = [
    "access-control-",
    "hookline-",
    "proxy-",
    "sec-",
    "svix-",
    "webhook-",
    "x-amz-",
    "x-azure-",
    "x-forwarded-",
    "x-goog-",
];

/// Checks one header, the name in lower case.
///
/// # Errors
/// What is wrong with it and what would be right. The value is not repeated.
pub fn check_header(name: &str, value: &str) -> Result<(), String> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() || name.len() > 128 || !name.bytes().all(token) {
        return Err("is no header name: use at most 128 letters, digits and '-'".into());
    }
    if FORBIDDEN.contains(&name) || FORBIDDEN_PREFIXES.iter().any(|p| name.starts_with(p)) {
        return Err("may not be set: hookline or the connection uses it".into());
    }
    if value.len() > HEADER_VALUE_BYTES {
        return Err(format!("must have at most {HEADER_VALUE_BYTES} bytes"));
    }
    if !value.bytes().all(|b| matches!(b, b'\t' | 0x20..=0x7e)) {
        return Err("must be printable ASCII: no line breaks, no other letters".into());
    }
    if value.trim() != value {
        return Err("must not begin or end with a blank".into());
    }
    Ok(())
}

/// Checks how much all headers of a webhook are together.
///
/// # Errors
/// When it is too much.
pub(super) fn check_sum<'a>(
    headers: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<(), String> {
    let sizes: Vec<_> = headers.map(|(n, v)| n.len() + v.len()).collect();
    if sizes.len() > HEADERS_MAX || sizes.iter().sum::<usize>() > HEADERS_BYTES {
        return Err(format!(
            "must be at most {HEADERS_MAX} headers of {HEADERS_BYTES} bytes together"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_not_be_set() {
        for name in [
            "host",
            "connection",
            "webhook-id",
            "webhook-signature",
            "content-length",
            "x-forwarded-for",
            "te",
            "hookline-attempt",
            "proxy-authorization",
            "via",
            "",
            "a b",
            "a:b",
            "é",
            "a\r\nb",
        ] {
            assert!(check_header(name, "x").is_err(), "{name}");
        }
        for value in [
            "a\r\nb: c",
            "a\nb",
            "\0",
            "é",
            " a",
            "a ",
            &"x".repeat(4097),
        ] {
            assert!(check_header("x-a", value).is_err(), "{value}");
        }
        for name in ["x-tenant", "authorization", "x-api-key", "accept"] {
            assert_eq!(check_header(name, "a\tb ~"), Ok(()), "{name}");
        }
        let many = [("a", "b"); 33];
        assert!(
            check_sum(many.into_iter()).is_err() && check_sum(many.into_iter().take(32)).is_ok()
        );
        let long = "x".repeat(4096);
        assert!(check_sum([("a", long.as_str()); 4].into_iter()).is_err());
    }

    #[test]
    fn lists_are_sorted_and_lower_case() {
        assert!(FORBIDDEN.is_sorted() && FORBIDDEN_PREFIXES.is_sorted());
        let lower = |n: &&str| **n == n.to_ascii_lowercase();
        assert!(FORBIDDEN.iter().chain(&FORBIDDEN_PREFIXES).all(lower));
    }
}
