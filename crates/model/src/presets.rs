//! The presets: what a webhook is when its resource document leaves things out, and the event types of the platform that it stands for.
//! Each is a file that one can read, `presets/*.yaml`; values not in it are those of `standard`.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

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
    /// The catalog.
    #[serde(default)]
    pub event_types: Vec<CatalogEntry>,
}

/// An event type of a preset's catalog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogEntry {
    /// Its name.
    pub name: String,
    /// Under which heading it stands.
    pub category: String,
    /// For people.
    pub title: String,
    /// For people.
    #[serde(default)]
    pub description: String,
}

impl Preset {
    /// What it says.
    #[must_use]
    pub fn definition(self) -> &'static PresetDefinition {
        static ALL: OnceLock<Vec<PresetDefinition>> = OnceLock::new();
        let all = ALL.get_or_init(|| {
            let parse = |preset: &Self| {
                serde_yaml_ng::from_str(preset.text()).expect("a test reads every preset")
            };
            Self::ALL.iter().map(parse).collect()
        });
        &all[self as usize]
    }

    fn text(self) -> &'static str {
        match self {
            Self::Standard => include_str!("../presets/standard.yaml"),
            Self::Vidcorp => include_str!("../presets/vidcorp.yaml"),
            Self::SmsGateway => include_str!("../presets/sms-gateway.yaml"),
            Self::Esputnik => include_str!("../presets/esputnik.yaml"),
            Self::Wooxy => include_str!("../presets/wooxy.yaml"),
            Self::Vidizmo => include_str!("../presets/vidizmo.yaml"),
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
    use crate::matching::TypePattern;

    #[test]
    fn every_preset_is_readable_and_its_catalog_sound() {
        for preset in Preset::ALL {
            let definition = preset.definition();
            assert!(!definition.title.is_empty() && !definition.description.is_empty());
            let mut names: Vec<_> = definition.event_types.iter().map(|t| &t.name).collect();
            names.sort();
            names.dedup();
            assert_eq!(names.len(), definition.event_types.len(), "{preset}");
            for entry in &definition.event_types {
                let pattern = entry.name.parse::<TypePattern>();
                assert!(matches!(pattern, Ok(TypePattern::Exact(_))), "{entry:?}");
                assert!(
                    !entry.category.is_empty() && !entry.title.is_empty(),
                    "{entry:?}"
                );
            }
        }
        let sizes = Preset::ALL.iter().map(|p| p.definition().event_types.len());
        assert_eq!(sizes.collect::<Vec<_>>(), [0, 16, 4, 7, 43, 6]);
    }
}
