//! What happened, line by line: the same seed must give the same bytes.

use std::fmt::{self, Write as _};

use bytes::Bytes;
use hookline_journal::{StoredRecord, TopicPartition};
use hookline_model::wire::{self, checkpoint_entry::Entry, header, next, source::Stream};
use prost::Message as _;

use super::process::PREFIX;

/// The record of a run.
#[derive(Default)]
pub(crate) struct Trace {
    text: String,
    /// Whether to say what records hold, for somebody who looks into a seed.
    pub(crate) at_length: bool,
}

impl Trace {
    pub(crate) fn line(&mut self, now: i64, what: fmt::Arguments<'_>) {
        writeln!(self.text, "{now:>8} {what}").expect("text takes text");
    }

    pub(crate) fn stored(&mut self, now: i64, place: &TopicPartition, record: &StoredRecord) {
        let hash = hash(&[
            record.key.as_deref().unwrap_or_default(),
            record.value.as_deref().unwrap_or_default(),
        ]);
        let TopicPartition { topic, partition } = place;
        let more = if self.at_length {
            told(topic.trim_start_matches(PREFIX), record)
        } else {
            String::new()
        };
        self.line(
            now,
            format_args!("{topic}[{partition}] {} {hash:016x}{more}", record.offset),
        );
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }
}

/// FNV-1a: enough to tell two runs apart.
fn hash(parts: &[&[u8]]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in parts.iter().flat_map(|part| part.iter()) {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash
}

/// What a record says, in short.
fn told(topic: &str, record: &StoredRecord) -> String {
    let value = record.value.clone().unwrap_or_default();
    match topic {
        "deliveries" => deliveries(value),
        "attempts" => attempts(record, value),
        "progress" => progress(value),
        "held" => held(value),
        _ if topic.starts_with("retry.") => waiting(value),
        _ => String::new(),
    }
}

/// The last two bytes of an id tell those of a run apart.
fn short(id: &[u8]) -> String {
    id.iter()
        .rev()
        .take(2)
        .rev()
        .fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

fn at(position: Option<wire::Position>) -> String {
    position.map_or_else(|| "?".to_owned(), |p| format!("{}.{}", p.offset, p.index))
}

fn from(source: Option<wire::Source>) -> String {
    match source.and_then(|source| source.stream) {
        Some(Stream::Events(e)) => format!("events[{}]{}", e.partition, e.offset),
        Some(Stream::Retry(r)) => format!("path{:?}{}", r.path_ms, at(r.ticket)),
        other => format!("{other:?}"),
    }
}

fn deliveries(value: Bytes) -> String {
    let Ok(record) = wire::Deliveries::decode(value) else {
        return " unreadable".into();
    };
    let sends = record
        .sends
        .iter()
        .map(|s| format!(" {}/{}", short(&s.webhook_uid), short(&s.delivery_id)));
    format!(
        " from {}:{}",
        from(record.source.clone()),
        sends.collect::<String>()
    )
}

fn waiting(value: Bytes) -> String {
    let Ok(record) = wire::Waiting::decode(value) else {
        return " unreadable".into();
    };
    let source = record.source.unwrap_or_default();
    let send = record.send.unwrap_or_default();
    format!(
        " hop {} of {:?} ticket {}: {}/{}",
        record.hop,
        source.path_ms,
        at(source.ticket),
        short(&send.webhook_uid),
        short(&send.delivery_id)
    )
}

fn attempts(record: &StoredRecord, value: Bytes) -> String {
    if record.header(header::KIND).map(Bytes::as_ref) == Some(header::KIND_CLAIM.as_bytes()) {
        let claim = wire::Claim::decode(value).unwrap_or_default();
        return format!(" claim {} by {}", claim.epoch, claim.worker);
    }
    let Ok(record) = wire::Attempts::decode(value) else {
        return " unreadable".into();
    };
    let mut text = format!(" epoch {} #{}:", record.epoch, record.sequence);
    for attempt in &record.attempts {
        let then = match attempt.next.as_ref().and_then(|next| next.kind.as_ref()) {
            Some(next::Kind::Retry(retry)) => format!(" then {:?}", retry.path_ms),
            Some(next::Kind::InPlace(_)) => " then in place".to_owned(),
            Some(next::Kind::Dead(_)) => " then dead".to_owned(),
            Some(next::Kind::Hold(_)) => " then held".to_owned(),
            Some(next::Kind::Split(_)) => " then split".to_owned(),
            None => String::new(),
        };
        let outcome = attempt
            .outcome()
            .as_str_name()
            .trim_start_matches("OUTCOME_")
            .to_lowercase();
        write!(
            text,
            " {} {}/{} #{} {outcome}{then};",
            at(attempt.send),
            short(&attempt.webhook_uid),
            short(&attempt.delivery_id),
            attempt.attempt
        )
        .expect("text takes text");
    }
    for begun in &record.batches {
        let sends = begun.sends.as_ref().map(wire::Positions::read);
        let sends = sends.unwrap_or_default().into_iter();
        let sends: Vec<String> = sends.map(|position| at(Some(position.into()))).collect();
        let webhook = short(&begun.webhook_uid);
        write!(text, " batch of {webhook}: {};", sends.join(" ")).expect("text takes text");
    }
    for done in &record.commands {
        let (offset, send) = (done.offset, at(done.send));
        write!(text, " command {offset} done: {send} {};", done.refused).expect("text takes text");
    }
    for moved in &record.moved {
        let wire::HeldRange {
            from,
            to,
            first,
            end,
            ..
        } = moved;
        write!(text, " moved {from}-{to} to {first}-{end};").expect("text takes text");
    }
    text
}

fn held(value: Bytes) -> String {
    let Ok(held) = wire::HeldSends::decode(value) else {
        return " unreadable".into();
    };
    format!(" epoch {}: {} {:?}", held.epoch, held.offset, held.indexes)
}

fn progress(value: Bytes) -> String {
    let Ok(chunk) = wire::CheckpointChunk::decode(value) else {
        return " unreadable".into();
    };
    let head = chunk.head.unwrap_or_default();
    let entries = |list: &[wire::CheckpointEntry]| {
        list.iter()
            .filter_map(|e| e.entry.as_ref())
            .map(entry)
            .collect::<Vec<_>>()
            .join(" ")
    };
    format!(
        " link {} {}/{}: watermark {} low {} attempts {} epoch {}; {} - {}",
        chunk.link,
        chunk.index + 1,
        chunk.count,
        head.watermark,
        head.low,
        head.attempts_end,
        head.epoch,
        entries(&chunk.entries),
        entries(&chunk.removed)
    )
}

fn entry(entry: &Entry) -> String {
    match entry {
        Entry::Single(s) => format!("single {}", at(s.position)),
        Entry::Lane(l) => format!("lane {}.{}@{}", short(&l.webhook_uid), l.kind, at(l.cursor)),
        Entry::Mark(m) => format!("mark {} {}", from(m.stream.clone()), short(&m.webhook_uid)),
        Entry::Repeats(r) => format!("skip {}-{}", at(r.from), at(r.to)),
        Entry::Ended(e) => format!("ended {}/{}", short(&e.delivery_id), e.run),
        Entry::Commands(c) => format!("commands {}", c.before),
        Entry::Held(h) => format!("held {} below {}", h.ranges.len(), h.edge),
    }
}
