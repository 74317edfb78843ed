//! Which topics there must be, and whether those that are there are right.

use std::collections::BTreeMap;

use hookline_journal::{Cleanup, TopicInfo, TopicSpec};
use hookline_model::limits;
use hookline_model::topics::{Kept, Partitions, Topic};

/// The most partitions of a tier: a tier is a plain copier, and every one of the twenty costs each worker a reader per partition.
const TIER_PARTITIONS_MAX: u32 = 4;

/// How many partitions there are of what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Of the topics by p.
    pub(crate) partitions: u32,
    /// Of the tiers.
    pub(crate) tier_partitions: u32,
    /// Copies of each.
    pub(crate) replication: u16,
}

impl Shape {
    /// What a new system with that many `partitions` gets.
    pub(crate) fn new(partitions: u32, replication: u16) -> Self {
        Self {
            partitions,
            tier_partitions: partitions.min(TIER_PARTITIONS_MAX),
            replication,
        }
    }

    fn of(self, topic: Topic) -> u32 {
        match topic.partitions() {
            Partitions::Layout => self.partitions,
            Partitions::Tiers => self.tier_partitions,
            Partitions::One => 1,
        }
    }
}

/// The topics as they are made.
pub(crate) fn specs(prefix: &str, shape: Shape) -> Vec<TopicSpec> {
    Topic::all()
        .map(|topic| TopicSpec {
            name: topic.name(prefix),
            partitions: shape.of(topic),
            replication: shape.replication,
            cleanup: match topic.kept() {
                Kept::For(retention) => Cleanup::Delete {
                    retention: Some(retention),
                },
                Kept::UntilSettled => Cleanup::Delete { retention: None },
                Kept::Compacted => Cleanup::Compact,
            },
            append_time: topic.append_time(),
            max_record_bytes: limits::RECORD_BYTES_MAX,
            settings: match topic.kept() {
                Kept::UntilSettled => BTreeMap::from([(
                    "segment.bytes".to_owned(),
                    limits::SETTLED_SEGMENT_BYTES.to_string(),
                )]),
                Kept::For(_) | Kept::Compacted => BTreeMap::new(),
            },
        })
        .collect()
}

/// The topics that are not there.
pub(crate) fn missing(specs: &[TopicSpec], there: &BTreeMap<String, TopicInfo>) -> Vec<String> {
    specs
        .iter()
        .filter(|spec| !there.contains_key(&spec.name))
        .map(|spec| spec.name.clone())
        .collect()
}

/// Something about a topic that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Deviation {
    /// The topic.
    pub(crate) topic: String,
    /// Which of its settings.
    pub(crate) setting: &'static str,
    /// What it is.
    pub(crate) is: String,
    /// What it should be.
    pub(crate) should: String,
    /// The command that mends it.
    pub(crate) mend: String,
}

impl Deviation {
    /// The registry says nothing about how work is divided.
    pub(crate) fn without_layout(registry: &str) -> Self {
        Self {
            mend: "hookline topics create".into(),
            ..Self::new(registry, "layout", "missing", "written")
        }
    }

    fn new(topic: &str, setting: &'static str, is: impl ToString, should: impl ToString) -> Self {
        let should = should.to_string();
        Self {
            topic: topic.to_owned(),
            setting,
            is: is.to_string(),
            mend: format!(
                "kafka-configs.sh --alter --entity-type topics --entity-name {topic} --add-config {setting}={}",
                should.trim_start_matches("at least ")
            ),
            should,
        }
    }
}

/// Everything about the topics that is not as it must be.
pub(crate) fn deviations(
    specs: &[TopicSpec],
    there: &BTreeMap<String, TopicInfo>,
) -> Vec<Deviation> {
    let mut found = Vec::new();
    for spec in specs {
        match there.get(&spec.name) {
            None => found.push(Deviation {
                mend: "hookline topics create".into(),
                ..Deviation::new(&spec.name, "topic", "missing", "there")
            }),
            Some(info) => compare(spec, info, &mut found),
        }
    }
    found
}

fn compare(spec: &TopicSpec, info: &TopicInfo, found: &mut Vec<Deviation>) {
    let name = &spec.name;
    if info.partitions < spec.partitions {
        found.push(Deviation {
            mend: format!(
                "kafka-topics.sh --alter --topic {name} --partitions {}",
                spec.partitions
            ),
            ..Deviation::new(
                name,
                "partitions",
                info.partitions,
                format!("at least {}", spec.partitions),
            )
        });
    }
    let mut differs = |setting: &'static str, right: &dyn Fn(&str) -> bool, should: String| {
        // An engine that does not tell a setting does not have it.
        if let Some(is) = info.settings.get(setting)
            && !right(is)
        {
            found.push(Deviation::new(name, setting, is, should));
        }
    };
    let policy = match spec.cleanup {
        Cleanup::Compact => "compact",
        Cleanup::Delete { .. } => "delete",
    };
    differs("cleanup.policy", &|is| is == policy, policy.into());
    match spec.cleanup {
        Cleanup::Delete { retention: None } => {
            differs("retention.ms", &|is| is == "-1", "-1".into());
        }
        Cleanup::Delete {
            retention: Some(least),
        } => {
            let least = i64::try_from(least.as_millis()).unwrap_or(i64::MAX);
            differs(
                "retention.ms",
                &|is| number(is).is_some_and(|ms| ms < 0 || ms >= least),
                format!("at least {least}"),
            );
        }
        Cleanup::Compact => {}
    }
    differs("retention.bytes", &|is| is == "-1", "-1".into());
    if spec.append_time {
        differs(
            "message.timestamp.type",
            &|is| is == "LogAppendTime",
            "LogAppendTime".into(),
        );
    }
    let largest = i64::try_from(spec.max_record_bytes).unwrap_or(i64::MAX);
    differs(
        "max.message.bytes",
        &|is| number(is).is_some_and(|bytes| bytes >= largest),
        format!("at least {largest}"),
    );
    if info.replication >= 3 {
        differs(
            "min.insync.replicas",
            &|is| number(is).is_some_and(|replicas| replicas >= 2),
            "at least 2".into(),
        );
        differs(
            "unclean.leader.election.enable",
            &|is| is == "false",
            "false".into(),
        );
    }
}

fn number(text: &str) -> Option<i64> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there(change: impl Fn(&str, &mut TopicInfo)) -> BTreeMap<String, TopicInfo> {
        specs("p.", Shape::new(16, 3))
            .into_iter()
            .map(|spec| {
                let retention = match spec.cleanup {
                    Cleanup::Delete { retention: Some(r) } => r.as_millis().to_string(),
                    _ => "-1".into(),
                };
                let policy = match spec.cleanup {
                    Cleanup::Compact => "compact",
                    Cleanup::Delete { .. } => "delete",
                };
                let settings = [
                    ("cleanup.policy", policy),
                    ("retention.ms", &retention),
                    ("retention.bytes", "-1"),
                    ("message.timestamp.type", "LogAppendTime"),
                    ("max.message.bytes", "2097152"),
                    ("min.insync.replicas", "2"),
                    ("unclean.leader.election.enable", "false"),
                ];
                let mut info = TopicInfo {
                    partitions: spec.partitions,
                    replication: 3,
                    settings: settings
                        .iter()
                        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                        .collect(),
                };
                change(&spec.name, &mut info);
                (spec.name, info)
            })
            .collect()
    }

    fn found(there: &BTreeMap<String, TopicInfo>) -> Vec<(String, &'static str)> {
        deviations(&specs("p.", Shape::new(16, 3)), there)
            .into_iter()
            .map(|d| (d.topic, d.setting))
            .collect()
    }

    #[test]
    fn what_create_makes_check_finds_right() {
        assert_eq!(found(&there(|_, _| ())), []);
    }

    #[test]
    fn tiers_never_have_more_than_four_partitions_and_the_registry_one() {
        let specs = specs("p.", Shape::new(16, 1));
        let of = |name: &str| specs.iter().find(|s| s.name == name).map(|s| s.partitions);
        assert_eq!(of("p.registry"), Some(1));
        assert_eq!(of("p.retry.24h"), Some(4));
        assert_eq!(of("p.deliveries"), Some(16));
    }

    #[test]
    fn each_deviation_is_found_and_says_how_to_mend_it() {
        let wrong: [(&str, &'static str, &str); 7] = [
            ("p.deliveries", "retention.ms", "604800000"),
            ("p.deliveries", "retention.bytes", "1000000"),
            ("p.attempts", "retention.ms", "1000"),
            ("p.registry", "cleanup.policy", "delete"),
            ("p.retry.1s", "message.timestamp.type", "CreateTime"),
            ("p.events", "max.message.bytes", "1048588"),
            ("p.dead", "min.insync.replicas", "1"),
        ];
        for (topic, setting, value) in wrong {
            let there = there(|name, info| {
                if name == topic {
                    info.settings.insert(setting.into(), value.into());
                }
            });
            assert_eq!(
                found(&there),
                [(topic.to_owned(), setting)],
                "{topic} {setting}"
            );
        }
        let fewer = there(|name, info| {
            if name == "p.dead" {
                info.partitions = 8;
            }
        });
        let found = deviations(&specs("p.", Shape::new(16, 3)), &fewer);
        assert_eq!(found.len(), 1);
        assert!(found[0].mend.contains("--partitions 16"), "{found:?}");
        assert_eq!(found[0].should, "at least 16");
    }

    #[test]
    fn longer_retention_than_needed_is_right_and_a_missing_topic_is_named() {
        let mut there = there(|name, info| {
            if name == "p.attempts" {
                info.settings.insert("retention.ms".into(), "-1".into());
            }
        });
        assert_eq!(found(&there), []);
        there.remove("p.held");
        assert_eq!(found(&there), [("p.held".to_owned(), "topic")]);
        assert_eq!(missing(&specs("p.", Shape::new(16, 3)), &there), ["p.held"]);
    }
}
