//! Receivers may do whatever they like: each misbehaviour ends as documented, costs exactly the requests that are logged, and nobody else
//! notices. All of them at once, on one program.

mod cases;
mod changed;
mod flapping;
mod judge;
mod many_hang;
mod recovered;
mod slow;
mod throttled;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hookline_model::outcome::ErrorClass;
use hookline_tests::api::Api;
use hookline_tests::chaos::{Chaos, Script, Step, Wire};
use hookline_tests::program::{Engine, Program, Site, Tail};
use hookline_tests::receiver::{Received, Receiver};
use hookline_tests::wait::{at_least, eventually};
use serde_json::Value;
use tokio::time::Instant;

use crate::promises::{assert_each_once, event, webhook};
use cases::{CAP, Case, RETRY};

both_engines!(
    every_misbehaviour_ends_as_documented_and_nobody_else_notices,
    every_status_has_its_outcome
);

/// Webhooks with receivers that behave.
const HEALTHY: usize = 4;
/// Events of a wave to them.
const WAVE: usize = 20;
/// Waves before anybody misbehaves, for comparison, and at least so many while all do.
const CALM: usize = 10;
/// Between two waves.
const BETWEEN: Duration = Duration::from_millis(100);
const WITHIN: Duration = Duration::from_secs(60);
/// Whoever waits longer for an event, 99 times of a hundred, notices what others do.
const NOTICED: Duration = Duration::from_millis(500);
/// What the program may take in memory beyond what it took before.
const GROWTH_MAX: u64 = 128 * 1024 * 1024;

/// A case with the receiver that does it.
struct Played {
    case: Case,
    chaos: Chaos,
}

impl Played {
    /// Its webhook: the number makes names unique and findable in the table.
    fn webhook(&self) -> String {
        format!("{}-{}", self.case.number.to_lowercase(), self.case.name).replace('.', "-")
    }

    fn document(&self) -> String {
        let types = if self.case.is_slow() {
            "[chaos.first]"
        } else {
            "[\"chaos.*\"]"
        };
        let url = if self.case.secure {
            self.chaos.secure_url("/hook")
        } else {
            self.chaos.url("/hook")
        };
        let more = format!(
            "events: {types}\ndeadline: {}ms\nretry: {{jitter: 0, schedule: {{list: [{}ms]}}, permanent: none, retry_after: {{honour: true, cap: {}ms}}}}",
            self.case.deadline.as_millis(),
            RETRY.as_millis(),
            CAP.as_millis(),
        );
        webhook(&self.webhook(), &url, &(more + &self.trusts()))
    }

    /// Whose certificates it accepts beside the usual ones.
    fn trusts(&self) -> String {
        let Script::Tls(certificate) = &self.case.script else {
            return String::new();
        };
        let lines = certificate.trusted().unwrap_or_default().lines();
        let indented: String = lines.map(|line| format!("\n  {line}")).collect();
        if indented.is_empty() {
            indented
        } else {
            format!("\ntrusted_ca: |{indented}")
        }
    }

    /// Events that it gets.
    fn events(&self) -> &'static [&'static str] {
        if self.case.is_slow() {
            &["first"]
        } else {
            &["first", "second"]
        }
    }
}

/// Attempts, by event.
type ByEvent = BTreeMap<String, Vec<Value>>;

/// Everything that was logged, by webhook.
fn logged(tail: &Tail) -> BTreeMap<String, ByEvent> {
    let mut logged = BTreeMap::<_, ByEvent>::new();
    for attempt in tail.attempts() {
        let text = |key: &str| attempt[key].as_str().unwrap_or_default().to_owned();
        let of = logged.entry(text("webhook")).or_default();
        of.entry(text("event_id")).or_default().push(attempt);
    }
    logged
}

/// The webhooks for which this event is not over.
fn unfinished(tail: &Tail, played: &[Played], event: &str, with_slow: bool) -> Vec<String> {
    let logged = logged(tail);
    let is_over = |webhook: &String| {
        let attempts = logged.get(webhook).and_then(|of| of.get(event));
        let last = attempts.and_then(|all| all.last());
        last.is_some_and(|attempt| attempt["outcome"] != "failed")
    };
    played
        .iter()
        .filter(|p| p.events().contains(&event) && (with_slow || !p.case.is_slow()))
        .map(Played::webhook)
        .filter(|webhook| !is_over(webhook))
        .collect()
}

/// Sends waves of events to those who behave and notes how long each took to arrive.
struct Healthy {
    receiver: Receiver,
    sent: usize,
}

impl Healthy {
    async fn start() -> Self {
        Self {
            receiver: Receiver::start().await,
            sent: 0,
        }
    }

    /// Who publishes for them.
    async fn publisher(&self, site: &Site, program: &Program) -> Api {
        Api::with_role(site, program, "publisher", Some("shop")).await
    }

    fn documents(&self) -> String {
        (0..HEALTHY)
            .map(|n| {
                let url = self.receiver.url(&format!("/ok/{n}"));
                webhook(&format!("healthy-{n}"), &url, "events: [healthy]")
            })
            .collect()
    }

    /// Publishes a wave and waits until all of it has come.
    async fn wave(&mut self, publisher: &Api) {
        let events: Vec<_> = (self.sent..self.sent + WAVE)
            .map(|n| event("healthy", &format!("h{n}"), "{}"))
            .collect();
        let headers = [("content-type", "application/cloudevents-batch+json")];
        let list = format!("[{}]", events.join(","));
        let path = "/v1/projects/shop/events";
        let answer = publisher.call("POST", path, &headers, list).await;
        let answer = answer.expect("an answer");
        assert_eq!(answer.status, 202, "{}", answer.body);
        self.sent += WAVE;
        let expected = self.sent * HEALTHY;
        at_least("the healthy", expected, WITHIN, || {
            self.receiver.count("/ok")
        })
        .await;
        // A steady trickle, not all that the machine can do.
        tokio::time::sleep(BETWEEN).await;
    }

    /// Wave after wave as long as something else lasts, and at least a few.
    async fn waves_during<T>(&mut self, publisher: &Api, other: impl Future<Output = T>) -> T {
        let over = Cell::new(false);
        let other = async {
            let outcome = other.await;
            over.set(true);
            outcome
        };
        let waves = async {
            let mut waves = 0;
            while !over.get() || waves < CALM {
                self.wave(publisher).await;
                waves += 1;
            }
        };
        tokio::join!(other, waves).0
    }

    /// Of the requests but for the first so many: the time since the event was published, as the 99th of a hundred, and the longest.
    fn latencies(&self, but: usize) -> (Duration, Duration) {
        let mut all: Vec<_> = self.receiver.all().iter().skip(but).map(latency).collect();
        all.sort_unstable();
        (all[all.len() * 99 / 100], all[all.len() - 1])
    }

    /// Those after the first so many waited no longer than what nobody notices, or twice as long as those before; the very first wave apart. Three of
    /// four requests decide: whoever holds the others up does so for longer than a machine stands still.
    #[track_caller]
    fn assert_unnoticed(&self, what: &str, calm: usize) {
        let three_of_four = |mut part: Vec<Duration>| {
            part.sort_unstable();
            part[part.len() * 3 / 4]
        };
        let all: Vec<_> = self.receiver.all().iter().map(latency).collect();
        let (before, during) = all.split_at(calm * HEALTHY);
        let before = three_of_four(before.iter().skip(WAVE * HEALTHY).copied().collect());
        let during = three_of_four(during.to_vec());
        hookline_tests::say(&format!(
            "{what}: three of four of the healthy within {during:?}, before {before:?}"
        ));
        let allowed = NOTICED.max(before * 2);
        assert!(during <= allowed, "{what}: {during:?}, before {before:?}");
    }

    fn assert_nothing_missing(&self) {
        for n in 0..HEALTHY {
            assert_each_once(&self.receiver.at(&format!("/ok/{n}")), self.sent);
        }
    }
}

fn latency(request: &Received) -> Duration {
    let published = request.json()["timestamp"].as_str().unwrap().to_owned();
    let published: jiff::Timestamp = published.parse().unwrap();
    let millis = request.wall.0 - published.as_millisecond();
    Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

fn memory(program: &Program, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", program.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kibibytes = line.unwrap().trim_matches([':', ' ', '\t', 'k', 'B']);
    kibibytes.parse::<u64>().unwrap() * 1024
}

async fn every_misbehaviour_ends_as_documented_and_nobody_else_notices(engine: Engine) {
    let mut played = Vec::new();
    for case in cases::all() {
        let chaos = Chaos::start(case.script.clone()).await;
        played.push(Played { case, chaos });
    }
    let mut healthy = Healthy::start().await;
    let site = Site::new(engine).await;
    let documents: String = played.iter().map(Played::document).collect();
    site.apply(&(documents + &healthy.documents())).await;
    let program = site.start().await;
    let tail = site.tail();
    let publisher = healthy.publisher(&site, &program).await;
    // The first one opens the connections.
    for _ in 0..=CALM {
        healthy.wave(&publisher).await;
    }
    let calm = healthy.latencies(WAVE * HEALTHY);
    let calm_until = healthy.sent;
    let before = memory(&program, "VmRSS");

    for (name, with_slow) in [("first", false), ("second", true)] {
        let published = event(&format!("chaos.{name}"), name, "{\"a\": 1}");
        site.publish(&[published]).await;
        let begun = Instant::now();
        loop {
            healthy.wave(&publisher).await;
            let mut left = unfinished(&tail, &played, name, with_slow);
            if with_slow {
                left.extend(unfinished(&tail, &played, "first", true));
            }
            if left.is_empty() {
                break;
            }
            assert!(begun.elapsed() < WITHIN, "{name}: not over for {left:?}");
        }
    }
    let grown = memory(&program, "VmHWM").saturating_sub(before);
    assert!(grown < GROWTH_MAX, "{grown} bytes more than before");
    let noticed = healthy.latencies(calm_until * HEALTHY);
    let events = healthy.sent - calm_until;
    hookline_tests::say(&format!(
        "chaos: {} cases; {events} events to the healthy, (99 %, longest) {noticed:?}, before {calm:?}; memory +{} KiB",
        played.len(),
        grown / 1024,
    ));
    assert!(events >= CALM * WAVE, "{events} events");

    let (logged, nothing) = (logged(&tail), ByEvent::new());
    let wrong: Vec<_> = played
        .iter()
        .flat_map(|p| judge::wrongs(p, logged.get(&p.webhook()).unwrap_or(&nothing)))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let allowed = NOTICED.max(calm.0 * 2);
    assert!(noticed.0 <= allowed, "{noticed:?}, before {calm:?}");
    healthy.assert_nothing_missing();
    // What is of no use any more is given back: none is held by an attempt that is over.
    let closed = async || {
        let open = played.iter().filter(|p| p.chaos.open() > 0);
        let open: Vec<_> = open.map(Played::webhook).collect();
        if open.is_empty() { Ok(()) } else { Err(open) }
    };
    // Those that promised to wait for a minute are kept for twenty seconds, and no longer.
    eventually(
        "all connections are closed",
        Duration::from_secs(25),
        closed,
    )
    .await;
    assert!(program.stop().await.success());
}

/// Classes that no receiver on loopback can bring about: names, and what is wrong on our side.
/// The tests of the client have them.
const NOT_HERE: &[ErrorClass] = &[
    ErrorClass::ConnFailed,
    ErrorClass::DnsNotFound,
    ErrorClass::DnsFailed,
    ErrorClass::DnsTimeout,
    ErrorClass::Blocked,
    ErrorClass::UrlRefused,
    ErrorClass::AuthFailed,
    ErrorClass::RequestInvalid,
    ErrorClass::Internal,
];

#[test]
fn the_table_is_complete() {
    let mut missing: BTreeSet<_> = ErrorClass::ALL.iter().collect();
    missing.retain(|class| !NOT_HERE.contains(class));
    let mut names = BTreeSet::new();
    for case in cases::all() {
        assert!(names.insert(case.name), "{} stands there twice", case.name);
        for class in judge::classes(&case.expect) {
            assert!(!NOT_HERE.contains(class), "{}: {class}", case.name);
            missing.remove(class);
        }
    }
    assert!(missing.is_empty(), "no case has {missing:?}");
}

/// Answers with the status that the event asks for.
fn as_asked(wire: &Wire) -> Vec<u8> {
    let body = String::from_utf8_lossy(&wire.body);
    let digits = body.split("\"status\":").nth(1).unwrap_or_default();
    let digits: String = digits.chars().take_while(char::is_ascii_digit).collect();
    // It says that it closes: whoever closes unsaid may do so just when the next request is written, and that is a failed attempt.
    format!("HTTP/1.1 {digits:0>3} x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        .into_bytes()
}

/// What must be logged for a status: status, class and outcome.
fn expected_of(status: u64) -> (Value, Value, Value) {
    let logged = |class: &str| (status.into(), class.into(), "exhausted".into());
    match status {
        0..=99 => (Value::Null, "http_protocol".into(), "exhausted".into()),
        // Only a word on the way; the answer never comes.
        100 | 102..=199 => (Value::Null, "conn_closed".into(), "exhausted".into()),
        200..=299 => (status.into(), Value::Null, "delivered".into()),
        300..=399 => logged("redirect"),
        _ => logged("status"),
    }
}

async fn every_status_has_its_outcome(engine: Engine) {
    let script = Script::Requests(vec![vec![Step::Answer(as_asked), Step::Close]]);
    let chaos = Chaos::start(script).await;
    let site = Site::new(engine).await;
    let more = "retry: {jitter: 0, schedule: {fixed: {delay: 1s, times: 0}}, permanent: none}";
    site.apply(&webhook("statuses", &chaos.url("/hook"), more))
        .await;
    let program = site.start().await;
    let tail = site.tail();
    let events: Vec<_> = (0..1000)
        .map(|n| event("order", &n.to_string(), &format!("{{\"status\":{n}}}")))
        .collect();
    for part in events.chunks(250) {
        site.publish(part).await;
    }
    let count = || tail.attempts().len();
    at_least("attempts", events.len(), WITHIN, count).await;
    let by_event = logged(&tail).remove("statuses").unwrap();
    assert_eq!(by_event.len(), events.len());
    for (id, attempts) in &by_event {
        let [attempt] = attempts.as_slice() else {
            panic!("{id}: {attempts:?}");
        };
        let seen = ["status", "error_class", "outcome"].map(|key| attempt[key].clone());
        let (status, class, outcome) = expected_of(id.parse().unwrap());
        assert_eq!(seen, [status, class, outcome], "{id}");
    }
    assert_eq!(chaos.requests().len(), events.len());
    assert!(program.stop().await.success());
}
