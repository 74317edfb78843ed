//! The webhooks of a run, and what their endpoints do.

use super::admin::PROJECT;
use super::receivers::Behaviour;

/// A webhook of the run.
#[derive(Debug, Clone)]
pub(crate) struct Hook {
    pub(crate) name: String,
    /// What people write of it; the first is what it begins with.
    pub(crate) documents: Vec<String>,
    pub(crate) behaviour: Behaviour,
    /// Nobody changes it, and nothing deactivates it.
    pub(crate) steady: bool,
}

const PATTERNS: [&str; 5] = [
    "\"*\"",
    "\"order.*\"",
    "order.paid",
    "\"order.*\", user.new",
    "user.new",
];
const SCHEDULES: [&str; 6] = [
    "{fixed: {delay: 300ms, times: 4}}",
    "{list: [200ms, 1s, 5s, 1s]}",
    "{list: [1s, 1s, 1s, 1s, 1s]}",
    "{exponential: {initial: 1s, factor: 2, cap: 5s, times: unlimited}}",
    "{fixed: {delay: 2s, times: 3}}",
    "{list: [5s, 100ms, 7s]}",
];
/// Those of webhooks for whose sends others wait.
const QUICK: [&str; 4] = [
    "{exponential: {initial: 1s, factor: 2, cap: 2s, times: unlimited}}",
    "{exponential: {initial: 1s, factor: 1.5, cap: 3s, times: unlimited}}",
    "{list: [300ms, 1s, 500ms, 1s]}",
    "{fixed: {delay: 400ms, times: 5}}",
];

/// The webhook that everybody leaves alone, and whose endpoint is well.
pub(crate) const CANARY: &str = "canary";

fn document(name: &str, events: &str, retry: &str, more: &str) -> String {
    format!(
        "kind: Webhook\nproject: {PROJECT}\nname: {name}\nurl: http://127.0.0.1:9/{name}\nevents: [{events}]\ndeadline: 3s\n\
         retry: {{{retry}, jitter: 0}}\n{more}"
    )
}

fn some<'a>(random: &mut fastrand::Rng, of: &[&'a str]) -> &'a str {
    of[random.usize(0..of.len())]
}

/// All of a run.
pub(crate) fn hooks(random: &mut fastrand::Rng) -> Vec<Hook> {
    let canary = format!("schedule: {}", SCHEDULES[3]);
    let mut hooks = vec![Hook {
        name: CANARY.into(),
        documents: vec![document(CANARY, "\"*\"", &canary, "")],
        behaviour: Behaviour::Well,
        steady: true,
    }];
    for n in 0..random.usize(1..7) {
        hooks.push(free(format!("w{n}"), random));
    }
    for n in 0..random.usize(0..5) {
        hooks.push(bound(format!("o{n}"), random));
    }
    hooks
}

/// One in no order, each event by itself.
fn free(name: String, random: &mut fastrand::Rng) -> Hook {
    let behaviour = match random.u8(0..12) {
        0..3 => Behaviour::Well,
        3..5 => Behaviour::FailsFirst(random.u32(1..4)),
        5 => Behaviour::Always(500),
        6..8 => Behaviour::Flaps(random.i64(500..6_000)),
        8 => Behaviour::Hangs,
        9 => Behaviour::AsksToWait(random.u32(1..4)),
        10 => Behaviour::Gone(random.u64(8..40)),
        _ => Behaviour::Always(404),
    };
    let mut schedule = some(random, &SCHEDULES);
    if matches!(behaviour, Behaviour::Always(_)) {
        schedule = SCHEDULES[1];
    }
    let gone = matches!(behaviour, Behaviour::Gone(_));
    let retry = format!("schedule: {schedule}");
    let more = limited(random);
    Hook {
        documents: vec![document(&name, some(random, &PATTERNS), &retry, &more)],
        steady: !gone && random.u8(0..3) > 0,
        name,
        behaviour,
    }
}

fn limited(random: &mut fastrand::Rng) -> String {
    let limited = random.u8(0..4) == 0;
    String::from(if limited { "rate_limit: 20/s\n" } else { "" })
}

/// One in order, or in batches, or both.
fn bound(name: String, random: &mut fastrand::Rng) -> Hook {
    let (ordered, batched) = match random.u8(0..7) {
        0..2 => ("webhook", false),
        2 => ("key", false),
        3 => ("webhook", true),
        4 => ("key", true),
        _ => ("false", true),
    };
    let behaviour = match random.u8(0..18) {
        0..2 => Behaviour::Well,
        2..5 => Behaviour::Stumbles {
            one_in: random.u64(2..8),
            times: random.u32(1..4),
        },
        5..8 => Behaviour::Down,
        8..10 => Behaviour::Flaps(random.i64(500..6_000)),
        10..12 => Behaviour::Hangs,
        12 => Behaviour::Slow(random.u64(50..500)),
        13 => Behaviour::Gone(random.u64(20..60)),
        14..16 if batched => Behaviour::TakesAtMost(random.usize(1..3)),
        _ => Behaviour::Objects(random.u64(4..12)),
    };
    let in_order = ordered != "false";
    let mut retry = format!("schedule: {}", some(random, &QUICK));
    let own = match behaviour {
        Behaviour::TakesAtMost(_) => ", permanent: [{match: [413], then: split}]",
        Behaviour::Objects(_) if in_order => ", permanent: [{match: [422], then: hold}]",
        Behaviour::Objects(_) if batched && random.bool() => {
            ", permanent: [{match: [422], then: split}]"
        }
        Behaviour::Objects(_) => ", permanent: [{match: [422], then: dead}]",
        Behaviour::Down if in_order && random.u8(0..4) == 0 => ", on_exhausted: hold",
        Behaviour::Down if random.u8(0..4) == 0 => ", max_age: 6s",
        _ => "",
    };
    retry.push_str(own);
    let mut rest = limited(random);
    let batch = format!(
        "batch: {{max_events: {}, max_bytes: {}, max_wait: {}}}\n",
        random.u32(2..7),
        some(random, &["1KiB", "256KiB"]),
        some(random, &["0s", "200ms", "1s"])
    );
    if batched {
        rest.push_str(some(random, &["body: array\n", "body: ndjson\n"]));
    }
    let pattern = some(random, &PATTERNS);
    let written = |ordered: &str, batched: bool| {
        let batch = if batched { batch.as_str() } else { "" };
        document(
            &name,
            pattern,
            &retry,
            &format!("{rest}ordered: {ordered}\n{batch}"),
        )
    };
    let mut documents = vec![written(ordered, batched)];
    // People change their minds, where nothing else depends on it.
    if random.u8(0..3) == 0 && !own.contains("hold") && !own.contains("split") {
        documents.push(written(some(random, &["false", "webhook", "key"]), batched));
        if batched {
            documents.push(written(ordered, false));
        }
    }
    let gone = matches!(behaviour, Behaviour::Gone(_));
    Hook {
        steady: !gone && documents.len() == 1 && random.u8(0..3) > 0,
        documents,
        name,
        behaviour,
    }
}
