//! Topics: making them, looking at them, and deleting records.

use std::collections::BTreeMap;

use rdkafka::admin::{
    AdminClient, AdminOptions, NewTopic, OwnedResourceSpecifier, ResourceSpecifier,
    TopicReplication,
};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::Metadata;
use rdkafka::topic_partition_list::Offset;

use super::client::{
    ANSWER_WITHIN, checked_partition, failed, missing, no_partition, one, raw_offset,
};
use super::context::LogContext;
use super::producer::FRAME_BYTES;
use crate::{Cleanup, JournalError, TopicInfo, TopicSpec};

/// What the broker counts toward a record's size beyond what we do, rounded up: a record of exactly the largest size must fit.
const ALLOWANCE_BYTES: usize = 4096;
const _: () = assert!(ALLOWANCE_BYTES > FRAME_BYTES);

/// Topics asked about in one request.
const DESCRIBED_AT_ONCE: usize = 100;

pub(crate) type Admin = AdminClient<LogContext>;

fn options() -> AdminOptions {
    AdminOptions::new()
        .request_timeout(Some(ANSWER_WITHIN))
        .operation_timeout(Some(ANSWER_WITHIN))
}

/// The broker's settings of a topic to make.
fn settings_of(spec: &TopicSpec) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::new();
    let mut set = |key: &str, value: String| settings.insert(key.to_owned(), value);
    match spec.cleanup {
        Cleanup::Compact => {
            set("cleanup.policy", "compact".into());
        }
        Cleanup::Delete { retention } => {
            set("cleanup.policy", "delete".into());
            set(
                "retention.ms",
                retention.map_or("-1".into(), |age| age.as_millis().to_string()),
            );
            // The broker's default may be a size, which would delete what is still needed.
            set("retention.bytes", "-1".into());
        }
    }
    let time = if spec.append_time {
        "LogAppendTime"
    } else {
        "CreateTime"
    };
    set("message.timestamp.type", time.into());
    set(
        "max.message.bytes",
        (spec.max_record_bytes + ALLOWANCE_BYTES).to_string(),
    );
    set("unclean.leader.election.enable", "false".into());
    if spec.replication >= 3 {
        set("min.insync.replicas", "2".into());
    }
    settings.extend(spec.settings.clone());
    settings
}

/// Makes the topics that do not exist.
pub(crate) async fn create_topics(admin: &Admin, topics: &[TopicSpec]) -> Result<(), JournalError> {
    if topics.is_empty() {
        return Ok(());
    }
    let settings: Vec<_> = topics.iter().map(settings_of).collect();
    let mut new = Vec::with_capacity(topics.len());
    for (spec, settings) in topics.iter().zip(&settings) {
        let count = i32::try_from(spec.partitions).unwrap_or(i32::MAX);
        let copies = TopicReplication::Fixed(i32::from(spec.replication));
        let topic = NewTopic::new(&spec.name, count, copies);
        new.push(settings.iter().fold(topic, |t, (k, v)| t.set(k, v)));
    }
    let made = admin
        .create_topics(&new, &options())
        .await
        .map_err(|e| failed("making topics", &e))?;
    let refused: Vec<_> = made
        .into_iter()
        .filter_map(Result::err)
        .filter(|(_, code)| *code != RDKafkaErrorCode::TopicAlreadyExists)
        .map(|(name, code)| format!("{name}: {code}"))
        .collect();
    if refused.is_empty() {
        return Ok(());
    }
    Err(JournalError::Failed {
        what: "making topics".to_owned(),
        reason: refused.join("; "),
    })
}

/// Topics as `metadata` shows them, without the broker's own.
pub(crate) fn listed(metadata: &Metadata) -> BTreeMap<String, TopicInfo> {
    metadata
        .topics()
        .iter()
        .filter(|topic| topic.error().is_none() && !topic.name().starts_with("__"))
        .map(|topic| {
            let partitions = topic.partitions();
            let copies = partitions.iter().map(|p| p.replicas().len()).min();
            let info = TopicInfo {
                partitions: u32::try_from(partitions.len()).unwrap_or(u32::MAX),
                replication: u16::try_from(copies.unwrap_or(0)).unwrap_or(u16::MAX),
                settings: BTreeMap::new(),
            };
            (topic.name().to_owned(), info)
        })
        .collect()
}

/// Fills in the settings of `topics`. One that was deleted meanwhile keeps none.
pub(crate) async fn describe(
    admin: &Admin,
    topics: &mut BTreeMap<String, TopicInfo>,
) -> Result<(), JournalError> {
    let names: Vec<String> = topics.keys().cloned().collect();
    for names in names.chunks(DESCRIBED_AT_ONCE) {
        let asked: Vec<_> = names.iter().map(|n| ResourceSpecifier::Topic(n)).collect();
        let answers = admin
            .describe_configs(&asked, &options())
            .await
            .map_err(|e| failed("asking for the settings of topics", &e))?;
        for answer in answers {
            let found = match answer {
                Ok(found) => found,
                Err(RDKafkaErrorCode::UnknownTopicOrPartition) => continue,
                Err(code) => {
                    return Err(failed(
                        "asking for the settings of topics",
                        &KafkaError::AdminOp(code),
                    ));
                }
            };
            let OwnedResourceSpecifier::Topic(name) = found.specifier else {
                continue;
            };
            if let Some(info) = topics.get_mut(&name) {
                info.settings = found
                    .entries
                    .into_iter()
                    .filter_map(|entry| Some((entry.name, entry.value?)))
                    .collect();
            }
        }
    }
    Ok(())
}

/// The largest record of each topic, for appenders to refuse what the broker would.
pub(crate) fn record_limits(
    topics: &BTreeMap<String, TopicInfo>,
) -> impl Iterator<Item = (String, usize)> {
    topics.iter().filter_map(|(name, info)| {
        let bytes = info.settings.get("max.message.bytes")?.parse().ok()?;
        Some((name.clone(), bytes))
    })
}

/// Deletes the records of a partition below `before`.
pub(crate) async fn delete_records(
    admin: &Admin,
    topic: &str,
    partition: u32,
    before: u64,
) -> Result<(), JournalError> {
    let number = checked_partition(topic, partition)?;
    let what = || format!("deleting records of {topic}[{partition}] below {before}");
    let wanted = one(topic, number, Offset::Offset(raw_offset(before)));
    let said = |error: &KafkaError| {
        if missing(error) {
            no_partition(topic, partition)
        } else {
            failed(&what(), error)
        }
    };
    let done = admin
        .delete_records(&wanted, &options())
        .await
        .map_err(|e| said(&e))?;
    for element in done.elements() {
        element.error().map_err(|e| said(&e))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn spec(cleanup: Cleanup, replication: u16) -> TopicSpec {
        TopicSpec {
            name: "t".into(),
            partitions: 1,
            replication,
            cleanup,
            append_time: true,
            max_record_bytes: 1000,
            settings: BTreeMap::from([("segment.ms".into(), "7".into())]),
        }
    }

    #[test]
    fn what_is_kept_until_settled_has_no_limit_at_all() {
        let settings = settings_of(&spec(Cleanup::Delete { retention: None }, 1));
        assert_eq!(settings["cleanup.policy"], "delete");
        assert_eq!(settings["retention.ms"], "-1");
        assert_eq!(settings["retention.bytes"], "-1");
        assert_eq!(settings["message.timestamp.type"], "LogAppendTime");
        assert_eq!(settings["max.message.bytes"], "5096");
        assert_eq!(settings["segment.ms"], "7");
        assert!(!settings.contains_key("min.insync.replicas"));
    }

    #[test]
    fn three_copies_need_two_in_sync() {
        let retention = Some(Duration::from_secs(7));
        let settings = settings_of(&spec(Cleanup::Delete { retention }, 3));
        assert_eq!(settings["retention.ms"], "7000");
        assert_eq!(settings["min.insync.replicas"], "2");
        assert_eq!(settings["unclean.leader.election.enable"], "false");
        assert_eq!(
            settings_of(&spec(Cleanup::Compact, 1))["cleanup.policy"],
            "compact"
        );
    }
}
