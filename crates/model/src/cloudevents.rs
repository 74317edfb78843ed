//! CloudEvents 1.0: the JSON form, binary mode, and writing JSON.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::de::{Deserializer as _, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::event::{EXTENSIONS_MAX, Unreadable, cut, invalid, is_json, reason, settle_data};
use crate::wire;

/// The media type of a CloudEvent in JSON.
pub const MEDIA_TYPE: &str = "application/cloudevents+json";
/// The same, as we send it.
pub(crate) const CLOUDEVENT_JSON: &str = "application/cloudevents+json; charset=utf-8";

/// Attributes that are no extensions, or have a field of their own here.
pub(crate) const RESERVED: [&str; 15] = [
    "specversion",
    "id",
    "source",
    "type",
    "time",
    "subject",
    "datacontenttype",
    "dataschema",
    "data",
    "data_base64",
    "project",
    "partitionkey",
    "contactid",
    "contactemail",
    "contactphone",
];

/// What has been read of an event, whatever the form.
#[derive(Default)]
struct Draft<'a> {
    event: wire::Event,
    version: Option<String>,
    data: Option<&'a RawValue>,
    data_base64: Option<Cow<'a, str>>,
}

impl Draft<'_> {
    /// Where an attribute is kept, and whether only text will do for it.
    fn attribute(&mut self, name: &str) -> Option<(&mut String, bool)> {
        let event = &mut self.event;
        match name {
            "specversion" => return Some((self.version.get_or_insert_default(), true)),
            "id" => return Some((&mut event.id, true)),
            "source" => return Some((&mut event.source, true)),
            "type" => return Some((&mut event.r#type, true)),
            "time" => return Some((&mut event.time, true)),
            "subject" => return Some((&mut event.subject, true)),
            "datacontenttype" => return Some((&mut event.data_content_type, true)),
            "dataschema" => return Some((&mut event.data_schema, true)),
            "project" => return Some((&mut event.project, false)),
            "partitionkey" => return Some((&mut event.key, false)),
            _ => {}
        }
        let contact = match name {
            "contactid" | "contactemail" | "contactphone" => event.contact.get_or_insert_default(),
            _ => return None,
        };
        Some(match name {
            "contactid" => (&mut contact.id, false),
            "contactemail" => (&mut contact.email, false),
            _ => (&mut contact.phone, false),
        })
    }

    /// Takes an attribute's value. An error says what is wrong with it.
    fn set(&mut self, name: &str, value: &str, is_text: bool) -> Result<(), String> {
        let place = match self.attribute(name) {
            Some((_, true)) if !is_text => return Err(format!("`{name}` must be a string")),
            Some((place, _)) => place,
            None => {
                let extensions = &mut self.event.extensions;
                if extensions.len() >= EXTENSIONS_MAX {
                    return Err(format!(
                        "an event may have {EXTENSIONS_MAX} extension attributes"
                    ));
                }
                if extensions.contains_key(name) {
                    return Err(format!("`{}` appears twice", cut(name)));
                }
                extensions.entry(name.to_owned()).or_default()
            }
        };
        if !place.is_empty() {
            return Err(format!("`{}` appears twice", cut(name)));
        }
        place.push_str(value);
        Ok(())
    }

    fn check_version(&self) -> Result<(), Unreadable> {
        match self.version.as_deref() {
            Some("1.0") => Ok(()),
            Some(other) => Err(invalid(format!(
                "`specversion` {:?} is not supported; it must be \"1.0\"",
                cut(other)
            ))),
            None => Err(invalid(
                "`specversion` is missing: not a CloudEvent; it must be \"1.0\"",
            )),
        }
    }
}

/// Reads a CloudEvent in JSON. Its data is a slice of `value`.
pub(crate) fn from_json(value: &Bytes) -> Result<wire::Event, Unreadable> {
    let unreadable = |detail: String| Unreadable {
        reason: reason::UNREADABLE,
        detail,
    };
    let text = std::str::from_utf8(value)
        .map_err(|error| unreadable(format!("the value is not UTF-8: {error}")))?;
    let mut json = serde_json::Deserializer::from_str(text);
    let mut fault = None;
    let draft = json
        .deserialize_any(Attributes { fault: &mut fault })
        .and_then(|draft| json.end().map(|()| draft));
    let draft = match draft {
        Ok(draft) => draft,
        Err(error) => {
            return Err(fault.map_or_else(
                || unreadable(format!("not a CloudEvent in JSON: {error}")),
                invalid,
            ));
        }
    };
    draft.check_version()?;
    let Draft {
        mut event,
        data,
        data_base64,
        ..
    } = draft;
    match (data, data_base64) {
        (Some(_), Some(_)) => {
            return Err(invalid("`data` and `data_base64` exclude each other"));
        }
        (Some(data), None) => event.data = data_bytes(value, data, &event.data_content_type)?,
        (None, Some(encoded)) => {
            let bytes = STANDARD
                .decode(encoded.as_bytes())
                .map_err(|error| invalid(format!("`data_base64` is not base64: {error}")))?;
            event.data = bytes.into();
            settle_data(&mut event)?;
        }
        (None, None) => {}
    }
    Ok(event)
}

/// JSON data as it stands; but where the media type is not JSON's, a JSON string stands for the text in it.
fn data_bytes(value: &Bytes, data: &RawValue, media: &str) -> Result<Bytes, Unreadable> {
    let raw = data.get();
    if raw.starts_with('"') && !is_json(media) {
        let text: String = serde_json::from_str(raw)
            .map_err(|error| invalid(format!("`data` is no valid string: {error}")))?;
        return Ok(text.into());
    }
    Ok(value.slice_ref(raw.as_bytes()))
}

/// Reads the members of a CloudEvent in JSON. What breaks a rule (and is not a matter of JSON) is left in `fault`.
struct Attributes<'f> {
    fault: &'f mut Option<String>,
}

impl Attributes<'_> {
    fn fail<E: serde::de::Error>(&mut self, detail: String) -> E {
        let error = E::custom(&detail);
        *self.fault = Some(detail);
        error
    }
}

impl<'de> Visitor<'de> for Attributes<'_> {
    type Value = Draft<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a CloudEvent (a JSON object)")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Draft<'de>, A::Error> {
        let mut draft = Draft::default();
        while let Some(Name(name)) = map.next_key()? {
            // A raw value is checked without recursion, so depth costs nothing, and a number is no more than its digits.
            let raw: &'de RawValue = map.next_value()?;
            let text = raw.get();
            if text == "null" {
                // CloudEvents: as if it were not there.
                continue;
            }
            match (&*name, text.as_bytes().first()) {
                ("data", _) => {
                    if draft.data.replace(raw).is_some() {
                        return Err(self.fail("`data` appears twice".into()));
                    }
                }
                ("data_base64", Some(b'"')) => {
                    let encoded: Name<'de> =
                        serde_json::from_str(text).map_err(A::Error::custom)?;
                    if draft.data_base64.replace(encoded.0).is_some() {
                        return Err(self.fail("`data_base64` appears twice".into()));
                    }
                }
                ("data_base64", _) => {
                    return Err(self.fail("`data_base64` must be a string".into()));
                }
                (_, Some(b'"')) => {
                    let Name(value) = serde_json::from_str(text).map_err(A::Error::custom)?;
                    draft
                        .set(&name, &value, true)
                        .map_err(|detail| self.fail(detail))?;
                }
                (_, Some(b'{' | b'[')) => {
                    let detail = format!("`{}` must not be an object or a list", cut(&name));
                    return Err(self.fail(detail));
                }
                _ => draft
                    .set(&name, text, false)
                    .map_err(|detail| self.fail(detail))?,
            }
        }
        Ok(draft)
    }
}

/// A JSON string, borrowed where it has no escapes.
struct Name<'a>(Cow<'a, str>);

impl<'de> serde::Deserialize<'de> for Name<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Owned(text.to_owned())))
            }
        }
        from.deserialize_str(Text)
    }
}

/// Reads a CloudEvent in binary mode: attributes in `ce_*` headers, the value is the data.
pub(crate) fn from_headers(
    headers: &[(String, Bytes)],
    value: &Bytes,
) -> Result<wire::Event, Unreadable> {
    let mut draft = Draft::default();
    for (name, bytes) in headers {
        let lower = name.to_ascii_lowercase();
        let attribute = match lower.strip_prefix("ce_") {
            Some(attribute) => attribute,
            None if lower == wire::header::CONTENT_TYPE => "datacontenttype",
            None => continue,
        };
        if matches!(attribute, "data" | "data_base64") {
            return Err(invalid(format!(
                "`ce_{attribute}` is no attribute; in binary mode the value is the data"
            )));
        }
        let text = std::str::from_utf8(bytes)
            .map_err(|_| invalid(format!("header `{}` is not UTF-8", cut(name))))?;
        draft.set(attribute, text, true).map_err(invalid)?;
    }
    draft.check_version()?;
    let mut event = draft.event;
    event.data = value.clone();
    settle_data(&mut event)?;
    Ok(event)
}

/// The event as a CloudEvent in JSON. JSON data stands in it byte for byte, text as a string, anything else as `data_base64`.
#[must_use]
pub fn to_cloudevent_json(event: &wire::Event) -> Vec<u8> {
    let mut out = Vec::with_capacity(event.data.len() + 512);
    out.extend_from_slice(b"{\"specversion\":\"1.0\"");
    let mut member = |name: &str, value: &str| {
        if !value.is_empty() {
            out.push(b',');
            push_text(&mut out, name);
            out.push(b':');
            push_text(&mut out, value);
        }
    };
    member("id", &event.id);
    member("source", &event.source);
    member("type", &event.r#type);
    member("time", &event.time);
    member("subject", &event.subject);
    member("project", &event.project);
    member("partitionkey", &event.key);
    if let Some(contact) = &event.contact {
        member("contactid", &contact.id);
        member("contactemail", &contact.email);
        member("contactphone", &contact.phone);
    }
    for (name, value) in &event.extensions {
        member(name, value);
    }
    member("dataschema", &event.data_schema);
    member("datacontenttype", &event.data_content_type);
    if event.data.is_empty() {
        // No data: no member.
    } else if is_json(&event.data_content_type) {
        out.extend_from_slice(b",\"data\":");
        out.extend_from_slice(&event.data);
    } else if let Ok(text) = std::str::from_utf8(&event.data) {
        member("data", text);
    } else {
        member("data_base64", &STANDARD.encode(&event.data));
    }
    out.push(b'}');
    out
}

/// Writes a JSON string.
pub(crate) fn push_text(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("text is written to memory");
}
