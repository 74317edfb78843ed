//! The properties of the client library that could break a promise, by name, with the reason.

use hookline_model::limits;

/// What a property may be.
enum Allowed {
    /// One of these values, compared without regard to case.
    Only(&'static [&'static str]),
    /// Nothing: we set it ourselves or must not have it at all.
    Nothing,
    /// At least this number.
    AtLeast(i64),
    /// Between these numbers.
    Between(i64, i64),
}

struct Rule {
    key: &'static str,
    allowed: Allowed,
    reason: &'static str,
}

const TRUE: Allowed = Allowed::Only(&["true", "t", "1"]);
const FALSE: Allowed = Allowed::Only(&["false", "f", "0"]);

/// Other names of the same property, and the one used here.
const ALIASES: [(&str, &str); 10] = [
    ("metadata.broker.list", "bootstrap.servers"),
    ("max.in.flight", "max.in.flight.requests.per.connection"),
    ("sasl.mechanism", "sasl.mechanisms"),
    ("max.partition.fetch.bytes", "fetch.message.max.bytes"),
    ("queue.buffering.max.ms", "linger.ms"),
    ("retries", "message.send.max.retries"),
    ("compression.codec", "compression.type"),
    ("request.required.acks", "acks"),
    ("delivery.timeout.ms", "message.timeout.ms"),
    ("auto.commit.enable", "enable.auto.commit"),
];

const fn rule(key: &'static str, allowed: Allowed, reason: &'static str) -> Rule {
    Rule {
        key,
        allowed,
        reason,
    }
}

/// Every property that could break a promise, by its canonical name.
const RULES: &[Rule] = &[
    rule(
        "acks",
        Allowed::Only(&["all", "-1"]),
        "what was accepted must survive the loss of a broker: leave it out, or set all",
    ),
    rule(
        "enable.idempotence",
        TRUE,
        "without it a retried request can store records twice or out of order: leave it out",
    ),
    rule(
        "enable.gapless.guarantee",
        TRUE,
        "a writer must not go on after a record that failed: leave it out",
    ),
    rule(
        "message.timeout.ms",
        Allowed::Only(&["0"]),
        "a record that is given up after a while is a gap: leave it out, or set 0",
    ),
    rule(
        "message.send.max.retries",
        Allowed::AtLeast(2_147_483_647),
        "a record that is given up after some retries is a gap: leave it out",
    ),
    rule(
        "max.in.flight.requests.per.connection",
        Allowed::Between(1, 5),
        "more than 5 requests in flight can be stored out of order: set 1 to 5, or leave it out",
    ),
    rule(
        "delivery.report.only.error",
        FALSE,
        "acknowledgements of stored records are needed: leave it out",
    ),
    rule(
        "queuing.strategy",
        Allowed::Only(&["fifo"]),
        "records must be stored in the order in which they were appended: leave it out",
    ),
    rule(
        "queue.buffering.max.messages",
        Allowed::AtLeast(1),
        "0 means without bound: set how many records a writer may hold",
    ),
    rule(
        "message.max.bytes",
        Allowed::AtLeast(limits::RECORD_BYTES_MAX as i64),
        "internal records may be as large as 2 MiB (2097152): set at least that, or leave it out",
    ),
    rule(
        "transactional.id",
        Allowed::Nothing,
        "hookline writes without transactions: leave it out",
    ),
    rule(
        "enable.auto.commit",
        FALSE,
        "a position is committed only when what lies before it is settled: leave it out",
    ),
    rule(
        "enable.auto.offset.store",
        FALSE,
        "a position is committed only when what lies before it is settled: leave it out",
    ),
    rule(
        "offset.store.method",
        Allowed::Only(&["broker"]),
        "positions are kept by the brokers: leave it out",
    ),
    rule(
        "auto.offset.reset",
        Allowed::Only(&["error"]),
        "records that were deleted unread must raise an alarm, not be skipped: leave it out",
    ),
    rule(
        "isolation.level",
        Allowed::Only(&["read_committed"]),
        "records of an aborted transaction never happened: leave it out",
    ),
    rule(
        "enable.partition.eof",
        TRUE,
        "readers must learn where a partition ends: leave it out",
    ),
    rule(
        "group.id",
        Allowed::Nothing,
        "group names are made from the journal's prefix: set journal.prefix instead",
    ),
    rule(
        "group.protocol",
        Allowed::Only(&["classic"]),
        "the consumer protocol hands partitions over without the lease that forbids two owners: leave it out",
    ),
    rule(
        "group.protocol.type",
        Allowed::Only(&["consumer"]),
        "only members of the type consumer share partitions out: leave it out",
    ),
    rule(
        "group.remote.assignor",
        Allowed::Nothing,
        "it belongs to group.protocol=consumer, which hands partitions over without the lease: leave it out",
    ),
    rule(
        "group.instance.id",
        Allowed::Nothing,
        "a static member takes over partitions without the lease that forbids two owners: leave it out",
    ),
    rule(
        "partition.assignment.strategy",
        Allowed::Only(&["cooperative-sticky"]),
        "other strategies take all partitions from everybody at each change: leave it out",
    ),
    rule(
        "session.timeout.ms",
        Allowed::Nothing,
        "the lease on a partition is computed from hookline's own session timeout: leave it out",
    ),
    rule(
        "heartbeat.interval.ms",
        Allowed::Nothing,
        "it follows from hookline's own session timeout: leave it out",
    ),
    rule(
        "max.poll.interval.ms",
        Allowed::AtLeast(60_000),
        "a member that drains a revoked partition must not be thrown out meanwhile: set at least 60000",
    ),
    rule(
        "allow.auto.create.topics",
        FALSE,
        "topics made by accident have the wrong settings: make them with `hookline topics create`",
    ),
    rule(
        "api.version.request",
        TRUE,
        "protocols without version requests know neither headers nor idempotence: leave it out",
    ),
    rule(
        "test.mock.num.brokers",
        Allowed::Nothing,
        "a mock cluster stores nothing: leave it out",
    ),
    rule(
        "enabled_events",
        Allowed::Nothing,
        "hookline decides which events it takes from the client library: leave it out",
    ),
    rule(
        "log.queue",
        TRUE,
        "log lines go through hookline's own log: leave it out",
    ),
];

/// The one name of a property that has several.
pub(crate) fn canonical(key: &str) -> &str {
    ALIASES
        .iter()
        .find(|(alias, _)| *alias == key)
        .map_or(key, |(_, name)| name)
}

/// Why the property of this canonical name may not have this value.
pub(crate) fn refusal(name: &str, value: &str) -> Option<String> {
    let rule = RULES.iter().find(|rule| rule.key == name)?;
    let text = value.trim();
    let fine = match rule.allowed {
        Allowed::Only(values) => values.iter().any(|v| v.eq_ignore_ascii_case(text)),
        Allowed::Nothing => false,
        // What is no number is for the client library to name.
        Allowed::AtLeast(least) => text.parse::<i64>().is_ok_and(|n| n >= least),
        Allowed::Between(least, most) => text
            .parse::<i64>()
            .is_ok_and(|n| (least..=most).contains(&n)),
    };
    (!fine).then(|| format!("may not be {text:?}: {}", rule.reason))
}
