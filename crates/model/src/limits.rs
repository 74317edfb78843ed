//! The physics: how large, how many, how long. Each with its reason; those that depend on one another are checked at compile time.

use std::time::Duration;

/// The default ladder of tiers: name (as in the topic) and delay. Shortest first.
pub const TIERS: [(&str, Duration); 20] = [
    ("1s", secs(1)),
    ("5s", secs(5)),
    ("30s", secs(30)),
    ("1m", secs(60)),
    ("100s", secs(100)),
    ("2m", secs(120)),
    ("4m", secs(240)),
    ("5m", secs(300)),
    ("8m", secs(480)),
    ("10m", secs(600)),
    ("16m", secs(960)),
    ("30m", secs(1800)),
    ("32m", secs(1920)),
    ("1h", secs(3600)),
    ("2h", secs(7200)),
    ("5h", secs(5 * 3600)),
    ("10h", secs(10 * 3600)),
    ("14h", secs(14 * 3600)),
    ("20h", secs(20 * 3600)),
    ("24h", secs(24 * 3600)),
];

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Waits shorter than the first tier stay in the lane and never leave the worker.
pub const IN_PLACE_BELOW: Duration = TIERS[0].1;

/// The largest event, in bytes of its published form.
pub const EVENT_BYTES_MAX: usize = 768 * 1024;

/// Events of one batch, as a webhook may ask for.
pub const BATCH_EVENTS_MAX: u32 = 1_000;
/// As [`BATCH_EVENTS_MAX`], where nothing else is asked for.
pub const BATCH_EVENTS_DEFAULT: u32 = 100;
/// Bytes of one batch, as a webhook may ask for: receivers seldom take more, and a worker holds many at a time.
pub const BATCH_BYTES: std::ops::RangeInclusive<u64> = 1024..=1024 * 1024;
/// As [`BATCH_BYTES`], where nothing else is asked for.
pub const BATCH_BYTES_DEFAULT: u64 = 256 * 1024;
/// How long a batch may wait for more events, as a webhook may ask for: it waits in the worker, which has to go on without it.
pub const BATCH_WAIT_MAX: Duration = secs(300);
/// As [`BATCH_WAIT_MAX`], where nothing else is asked for.
pub const BATCH_WAIT_DEFAULT: Duration = Duration::from_millis(200);

/// Events of one request to publish, and bytes of its body.
pub const PUBLISH_EVENTS_MAX: usize = 1_000;
/// See [`PUBLISH_EVENTS_MAX`].
pub const PUBLISH_BODY_BYTES: usize = 4 * 1024 * 1024;
const _: () = assert!(EVENT_BYTES_MAX < PUBLISH_BODY_BYTES);

/// The largest record of an internal topic. Room for an event, its sends and the frame around it.
pub const RECORD_BYTES_MAX: usize = 2 * 1024 * 1024;
const _: () = assert!(EVENT_BYTES_MAX * 2 < RECORD_BYTES_MAX);

/// Topics whose records are deleted when they are settled are cut into files of this size: brokers free whole files only, and their default of 1 GiB a
/// partition would keep the disk full of what is long settled.
pub const SETTLED_SEGMENT_BYTES: usize = 64 * 1024 * 1024;
const _: () = assert!(SETTLED_SEGMENT_BYTES >= 16 * RECORD_BYTES_MAX);

/// Webhooks named by one record of `deliveries`; more matches take more records.
pub const SENDS_PER_RECORD_MAX: usize = 5_000;
const _: () = assert!(EVENT_BYTES_MAX + SENDS_PER_RECORD_MAX * 80 < RECORD_BYTES_MAX);

/// Event identities remembered per partition of `events`.
pub const IDENTITY_WINDOW: usize = 50_000;

/// The in-flight window of a webhook: where it starts and how far it grows. It never falls below one.
pub const WINDOW_START: u32 = 8;
/// See [`WINDOW_START`].
pub const WINDOW_MAX: u32 = 128;
/// Requests of one worker to one scheme, host and port at the same time, whoever they are for. Twice what one webhook may have, so that those
/// who share a host with many (an automation service, say) are not slowed down at once.
pub const PER_DESTINATION: usize = 256;
/// After so many failures in a row, with its window at one, a webhook pauses between attempts: to knock as fast as it can refuse would be of no
/// use to it, and at the expense of others.
pub const FAILURES_BEFORE_PAUSE: u32 = 64;
/// See [`FAILURES_BEFORE_PAUSE`].
pub const FAILING_PAUSE: Duration = Duration::from_millis(5);

/// Sends and bytes that one lane may queue in memory before it falls behind.
pub const LANE_QUEUE_SENDS: usize = 2_000;
/// See [`LANE_QUEUE_SENDS`].
pub const LANE_QUEUE_BYTES: usize = 1024 * 1024;
/// Sends that a lane keeps queued while its webhook fails: what waits for it would only take room from those that send. The rest stays in the log.
pub const SUSPECT_QUEUE_SENDS: usize = if cfg!(test) { 2 } else { 64 };
const _: () = assert!(SUSPECT_QUEUE_SENDS < LANE_QUEUE_SENDS);
/// Runs of deliveries that are ended while they wait elsewhere, at most in one partition; and how long that is remembered: longer than any wait.
pub const ENDED_MAX: usize = 10_000;
/// See [`ENDED_MAX`].
pub const ENDED_KEPT: Duration = Duration::from_secs(40 * 86_400);
/// Lanes of a webhook that is ordered by event key: keys share them by their hash. Stored positions depend on it.
pub const KEY_LANES: u32 = 64;
/// Batches of an unordered webhook that wait to go again, at most: with more, nothing new goes to it.
pub const BATCHES_WAITING_MAX: u32 = 16;
/// Suspect webhooks that are asked in vain for a place before the rest has to wait for the next time.
pub const SUSPECTS_ASKED: usize = 64;
/// What all lanes of a worker may queue together; those of failing webhooks half of it.
pub const WORKER_QUEUE_BYTES: usize = 16 * 1024 * 1024;
/// Bytes of payloads that a worker keeps of what waits in place, beyond which they are read again when it is their turn.
pub const WORKER_RESTING_BYTES: usize = 32 * 1024 * 1024;

/// Attempts in one record of `attempts`, and the bytes at which it is closed.
pub const ATTEMPTS_PER_RECORD_MAX: usize = 256;
/// See [`ATTEMPTS_PER_RECORD_MAX`].
pub const ATTEMPTS_RECORD_BYTES: usize = 512 * 1024;

/// Bytes of one chunk of a checkpoint. Tests cut smaller, so that they see many.
pub const CHECKPOINT_CHUNK_BYTES: usize = if cfg!(test) { 1280 } else { 512 * 1024 };
/// Deltas may take up as much as their base, and at least so much, before there is a new base.
pub const CHECKPOINT_DELTAS_BYTES: usize = if cfg!(test) { 512 } else { 64 * 1024 };
/// How often a partition's progress is stored when it changed.
pub const CHECKPOINT_EVERY: Duration = secs(1);

/// What is unsettled at the old end of a partition is moved to `held` when it is as old as this, or when so many bytes follow it: till then one
/// webhook that waits keeps the records of all.
pub const OLD_END_AFTER: Duration = secs(6 * 3_600);
/// See [`OLD_END_AFTER`].
pub const OLD_END_BYTES: u64 = 10 * 1024 * 1024 * 1024;
/// How long a send may wait for its turn in its lane, unless configured otherwise.
pub const MAX_HOLD: Duration = secs(30 * 86_400);

/// The deadline of an attempt, connect to body.
pub const DEADLINE_DEFAULT: Duration = secs(15);
/// The longest deadline a webhook may ask for.
pub const DEADLINE_MAX: Duration = secs(30);
/// Of a response body: bytes read, and bytes kept.
pub const RESPONSE_BODY_READ: usize = 64 * 1024;
/// See [`RESPONSE_BODY_READ`].
pub const RESPONSE_BODY_KEPT: usize = 16 * 1024;
/// Of a response's head: bytes, headers, and interim (1xx) responses.
pub const RESPONSE_HEAD_BYTES: usize = 64 * 1024;
/// See [`RESPONSE_HEAD_BYTES`].
pub const RESPONSE_HEADERS: usize = 100;
/// See [`RESPONSE_HEAD_BYTES`].
pub const RESPONSE_INTERIM: u32 = 8;

/// Own headers of a webhook: how many, bytes of one value, bytes of all.
pub const HEADERS_MAX: usize = 32;
/// See [`HEADERS_MAX`].
pub const HEADER_VALUE_BYTES: usize = 4096;
/// See [`HEADERS_MAX`].
pub const HEADERS_BYTES: usize = 16 * 1024;

/// The longest URL.
pub const URL_BYTES_MAX: usize = 2048;

/// Group session: a member silent for this long is out. A broker that died and came back keeps a place for the member that gave itself up
/// meanwhile, and lets nobody work before that place has timed out, too: hence little more than the 6 s that brokers accept at least.
pub const SESSION_TIMEOUT: Duration = secs(7);
/// A worker stops starting sends this long before its session could have ended.
pub const LEASE_MARGIN: Duration = secs(2);
const _: () = assert!(LEASE_MARGIN.as_millis() * 3 < SESSION_TIMEOUT.as_millis());

/// How long a path's highest ticket is remembered beyond the path's own length. A tier that was stopped in between copying and
/// committing repeats the copy when it comes back: within this time that repeat is recognised.
pub const PATH_MARK_GRACE: Duration = secs(7 * 24 * 3600);

/// Bytes of a rejected record that are kept.
pub const REJECTED_BYTES_KEPT: usize = 64 * 1024;

/// A schema and an example of an event type, in bytes of their JSON.
pub const SCHEMA_BYTES_MAX: usize = 64 * 1024;
/// See [`SCHEMA_BYTES_MAX`].
pub const EXAMPLE_BYTES_MAX: usize = 64 * 1024;
const _: () = assert!(2 * (SCHEMA_BYTES_MAX + EXAMPLE_BYTES_MAX) < RECORD_BYTES_MAX);
/// Of a schema, its references written out: how many schemas it has in it, and how deep they stand in one another. They bound what it
/// costs to check an event in a project that asks for it.
pub const SCHEMA_PARTS_MAX: u32 = 2_000;
/// See [`SCHEMA_PARTS_MAX`].
pub const SCHEMA_DEPTH_MAX: u32 = 40;
/// The weight of a pattern of a schema, by the bytes that it has when compiled: about how long it takes, at worst, to match a byte.
pub const PATTERN_WEIGHTS: [(usize, u32); 3] = [(4 * 1024, 1), (16 * 1024, 4), (64 * 1024, 16)];
/// Different patterns of a schema: each has to be compiled, some times over, before it is known how large it is.
pub const PATTERNS_MAX: usize = 200;
/// A larger pattern is refused.
pub const PATTERN_BYTES_MAX: usize = PATTERN_WEIGHTS[2].0;
/// What one event may cost to check against a schema: values times parts, and bytes of text times weights of patterns. Either is about a
/// second at the very worst (measured with patterns made for it); what is larger is refused unchecked.
pub const CHECKED_VALUES: u64 = 20_000_000;
/// See [`CHECKED_VALUES`].
pub const CHECKED_TEXT: u64 = 1024 * 1024;
const _: () = assert!(EVENT_BYTES_MAX as u64 <= CHECKED_TEXT);
/// Errors that are told of one schema or one event.
pub const SCHEMA_ERRORS_MAX: usize = 20;
/// Keys of one project; as many again see all projects.
pub const KEYS_MAX: usize = 500;
/// Secrets of one webhook that sign at the same time.
pub const SECRETS_MAX: usize = 3;
/// Keys that a process has to open secrets with; the first also seals. Two are enough to replace one by another.
pub const SECRETS_KEYS_MAX: usize = 8;
/// How long an old secret, or an old key, may be accepted beside its successor.
pub const OVERLAP_MAX: Duration = secs(7 * 24 * 3600);
/// As [`OVERLAP_MAX`], where nothing else is asked for.
pub const OVERLAP_DEFAULT: Duration = secs(24 * 3600);
/// Connectors of one project.
pub const CONNECTORS_MAX: usize = 1_000;
/// Jobs of one project, those that are over included.
pub const JOBS_MAX: usize = 2_000;
/// How long a job is shown after it is over.
pub const JOB_KEPT: Duration = secs(14 * 24 * 3600);
/// How long a partition remembers how far a job came after it is over. A runner that was stopped in between may still write what is recognised as
/// a repeat within this time. The job itself is kept for longer, because it says when it was over.
pub const JOB_MARK_KEPT: Duration = secs(7 * 24 * 3600);
const _: () = assert!(JOB_MARK_KEPT.as_millis() * 2 <= JOB_KEPT.as_millis());
/// Event types of one project.
pub const EVENT_TYPES_MAX: usize = 2_000;

/// A filter of a webhook: bytes of its text, and tokens that are neither literals nor commas. What follows keeps any filter from using up the
/// stack or, on the largest event, more than a moment: tests hold hostile ones against them.
pub const FILTER_BYTES_MAX: usize = 4 * 1024;
/// See [`FILTER_BYTES_MAX`].
pub const FILTER_TOKENS_MAX: usize = 500;
/// Brackets within brackets.
pub const FILTER_NESTING_MAX: usize = 24;
/// Operations within operations; chains of `&&` and `||` count by their logarithm.
pub const FILTER_DEPTH_MAX: usize = 40;
/// `… ? … : …` in one filter.
pub const FILTER_CHOICES_MAX: usize = 16;
/// `+` in one filter: each may copy a text.
pub const FILTER_SUMS_MAX: usize = 16;
/// Entries of a list that a filter itself writes and goes through while it looks at the event.
pub const FILTER_LIST_MAX: usize = 32;
/// Operations and values that are evaluated for every entry of a list, in all loops of a filter together. The largest event has a list of some
/// 390,000 entries, for which this takes about a second.
pub const FILTER_LOOP_MAX: usize = 50;
