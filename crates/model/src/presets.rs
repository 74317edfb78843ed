//! The presets: what a webhook is when its resource document leaves things out, and the event types of the platform that it stands for.
//! Each is two files that one can read: the policy, `presets/*.yaml` (values not in it are those of `standard`), and the catalog of event
//! types, `presets/catalog/*.yaml`. One after the other they are a single document, which is how they are shown.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::catalog::{self, CatalogEntry};
use crate::outcome::words;

words! {
    /// A named bundle of policy and catalog that reproduces one platform's behaviour.
    Preset, "preset" {
        /// The default.
        Standard = "standard",
        /// VidCorp.
        Vidcorp = "vidcorp",
        /// The SMS gateway.
        SmsGateway = "sms-gateway",
        /// eSputnik.
        Esputnik = "esputnik",
        /// Wooxy.
        Wooxy = "wooxy",
        /// VIDIZMO.
        Vidizmo = "vidizmo",
    }
}

/// What a preset says.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PresetDefinition {
    /// The platform's name.
    pub title: String,
    /// What it does, in a few sentences.
    pub description: String,
    /// Where in an event the platform's status stands, for the `status` filter of the pull interface.
    #[serde(default)]
    pub status_path: Option<String>,
    /// Values for what a webhook's document leaves out.
    pub webhook: Map<String, Value>,
}

/// The files of a preset: policy, and catalog where there is one.
macro_rules! files {
    ($name:literal) => {
        (include_str!(concat!("../presets/", $name, ".yaml")), None)
    };
    ($name:literal, catalog) => {
        (
            include_str!(concat!("../presets/", $name, ".yaml")),
            Some(include_str!(concat!("../presets/catalog/", $name, ".yaml"))),
        )
    };
}

impl Preset {
    /// What it says.
    #[must_use]
    pub fn definition(self) -> &'static PresetDefinition {
        static ALL: OnceLock<Vec<PresetDefinition>> = OnceLock::new();
        let all = ALL.get_or_init(|| {
            let parse = |preset: &Self| {
                serde_yaml_ng::from_str(preset.files().0).expect("a test reads every preset")
            };
            Self::ALL.iter().map(parse).collect()
        });
        &all[self as usize]
    }

    /// The event types of its platform, in the order of the file.
    #[must_use]
    pub fn catalog(self) -> &'static [CatalogEntry] {
        static ALL: OnceLock<Vec<Vec<CatalogEntry>>> = OnceLock::new();
        let all = ALL.get_or_init(|| {
            let read = |preset: &Self| match preset.files().1 {
                Some(text) => catalog::read_file(text).expect("a test reads every catalog"),
                None => Vec::new(),
            };
            Self::ALL.iter().map(read).collect()
        });
        &all[self as usize]
    }

    /// The entry of that name in its catalog.
    #[must_use]
    pub fn event_type(self, name: &str) -> Option<&'static CatalogEntry> {
        self.catalog().iter().find(|entry| entry.name == name)
    }

    /// Policy and catalog as they stand in the files: one YAML document.
    #[must_use]
    pub fn text(self) -> String {
        match self.files() {
            (policy, Some(catalog)) => format!("{policy}\n{catalog}"),
            (policy, None) => policy.to_owned(),
        }
    }

    fn files(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::Standard => files!("standard"),
            Self::Vidcorp => files!("vidcorp", catalog),
            Self::SmsGateway => files!("sms-gateway", catalog),
            Self::Esputnik => files!("esputnik", catalog),
            Self::Wooxy => files!("wooxy", catalog),
            Self::Vidizmo => files!("vidizmo", catalog),
        }
    }

    /// The document with this preset's values, then those of `standard`, where it has none. `retry` is completed key by key.
    pub(crate) fn complete(self, given: &Map<String, Value>) -> Map<String, Value> {
        let mut whole = Self::Standard.definition().webhook.clone();
        overlay(&mut whole, &self.definition().webhook);
        overlay(&mut whole, given);
        whole
    }
}

fn overlay(under: &mut Map<String, Value>, over: &Map<String, Value>) {
    for (key, value) in over {
        match (under.get_mut(key), value) {
            (_, Value::Null) => {}
            (Some(Value::Object(below)), Value::Object(above)) if key == "retry" => {
                for (key, value) in above.iter().filter(|(_, v)| !v.is_null()) {
                    below.insert(key.clone(), value.clone());
                }
            }
            _ => {
                under.insert(key.clone(), value.clone());
            }
        }
    }
}

impl Serialize for Preset {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Preset {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_is_readable_and_shown_as_one_document() {
        for preset in Preset::ALL {
            let definition = preset.definition();
            assert!(!definition.title.is_empty() && !definition.description.is_empty());
            let whole: Value = serde_yaml_ng::from_str(&preset.text()).expect("one document");
            assert_eq!(whole["webhook"], Value::Object(definition.webhook.clone()));
            let listed = whole["event_types"].as_array().map_or(0, Vec::len);
            assert_eq!(listed, preset.catalog().len(), "{preset}");
        }
        let sizes = Preset::ALL.iter().map(|p| p.catalog().len());
        assert_eq!(sizes.collect::<Vec<_>>(), [0, 16, 4, 7, 43, 6]);
    }
}
