//! Whatever befalls the broker: nothing accepted is lost, what was interrupted goes on by itself, and meanwhile every answer is honest.

mod coordinator;
mod deleted;
mod frozen;
mod killed;
mod unreachable;

use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use hookline_tests::oracle::lives::Lives;
use hookline_tests::oracle::log::Log;
use hookline_tests::oracle::{Arrivals, Evidence, Hook, Oracle, Verdict};
use hookline_tests::program::{Program, Site};
use hookline_tests::publisher::{Publisher, Stream};
use hookline_tests::receiver::Receiver;
use hookline_tests::say;
use hookline_tests::wait::{at_least, eventually};
use tokio::time::{Instant, timeout};

use crate::promises::{event, webhook};

/// What is promised: from the broker's return to the next request.
const RESUMES_WITHIN: Duration = Duration::from_secs(10);
/// What is promised after any fault: a fresh event is delivered.
const FRESH_WITHIN: Duration = Duration::from_secs(30);
/// How long what piled up may take to come through.
const DRAINS_WITHIN: Duration = Duration::from_secs(60);
/// How long a command may take to say that the broker does not answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(20);
/// How long a program may take to stop while there is no broker: as long as with one, because it may come back.
const STOPS_WITHIN: Duration = Duration::from_secs(38);
/// Events a second, each for every webhook.
const EVENTS_PER_SECOND: f64 = 40.0;
/// The default of `outgoing.max_in_flight`.
const MAX_IN_FLIGHT: usize = 1024;

/// One that is quick, one that is slow, and one whose first attempts fail, so that the tiers have work, too.
fn hooks() -> Vec<Hook> {
    let retry = "retry: {jitter: 0, schedule: {list: [1s, 5s]}}";
    vec![
        Hook::new("quick", "/ok/quick").data(),
        Hook::new("slow", "/slow/300/slow").unhurried(retry),
        Hook::new("flaky", "/until/2/flaky").delivered_at(2, retry),
    ]
}

/// A system under steady traffic, whose events come from a producer that may have a way of its own to the broker.
struct Run {
    site: Site,
    receiver: Receiver,
    oracle: Arc<Oracle>,
    publisher: Publisher,
    stream: Stream,
    lives: Lives,
}

impl Run {
    /// Makes the topics and webhooks of `site`, starts the program there, and lets events come by way of `producer`.
    async fn begin(site: Site, producer: &str) -> (Self, Program) {
        let receiver = Receiver::start().await;
        site.succeed(&["topics", "create"], "").await;
        let oracle = Arc::new(Oracle::new(fastrand::u64(..), hooks()));
        site.apply(&oracle.documents(&receiver)).await;
        let program = site.start().await;
        let publisher = Publisher::open_at(&site, producer, &oracle).await;
        let run = Self {
            stream: publisher.stream(EVENTS_PER_SECOND),
            lives: Lives::default(),
            site,
            receiver,
            oracle,
            publisher,
        };
        run.lives.begin(&program);
        at_least("the stream runs", 100, Duration::from_secs(30), || {
            run.receiver.count("/ok/quick")
        })
        .await;
        (run, program)
    }

    /// Waits until requests come after `returned`, and says how long that took.
    async fn resumed(&self, after: &str, returned: Instant) -> Duration {
        let first = || {
            let of = |all: &[_]| all.iter().map(at).find(|at| *at > returned);
            self.receiver.journal(of)
        };
        let what = format!("a request after {after}");
        at_least(&what, 1, Duration::from_secs(60), || first().iter().len()).await;
        let took = first().map_or(Duration::MAX, |first| first - returned);
        say(&format!("delivery went on {took:?} after {after}"));
        took
    }

    /// As promised.
    async fn assert_resumes(&self, after: &str, returned: Instant) {
        let took = self.resumed(after, returned).await;
        assert!(
            took <= RESUMES_WITHIN,
            "after {after} delivery went on only after {took:?}"
        );
    }

    /// Ends the traffic. Then everything accepted has come, a fresh event comes soon, nothing is left, and the run is judged.
    async fn finish(self, program: Program) -> Verdict {
        let Self {
            site,
            receiver,
            oracle,
            publisher,
            stream,
            lives,
        } = self;
        let handed = stream.finish(Duration::from_secs(30)).await.unwrap();
        // A producer without a time limit goes on trying until it is told.
        assert_eq!(oracle.counts(), (handed, handed));
        let mut arrivals = Arrivals::new(&oracle, &receiver);
        wait_for("everything accepted", DRAINS_WITHIN, || arrivals.missing()).await;
        let fresh = publisher.publish(1).await;
        wait_for("a fresh event", FRESH_WITHIN, || {
            let here = arrivals.has_reached_the_prompt(fresh);
            (!here).then_some(fresh).into_iter().collect::<Vec<_>>()
        })
        .await;
        wait_for("everything accepted", DRAINS_WITHIN, || arrivals.missing()).await;
        assert_nothing_left(&program).await;
        assert!(program.stop().await.success());
        let log = Log::read(&site).await;
        let requests = receiver.all();
        let verdict = oracle.judge(Evidence {
            requests: &requests,
            log: &log,
            lives: &lives,
            max_in_flight: MAX_IN_FLIGHT,
        });
        say(&verdict.summary());
        verdict.assert_kept();
        verdict
    }
}

fn at(request: &hookline_tests::receiver::Received) -> Instant {
    request.at
}

/// Waits until nothing of this is left.
async fn wait_for<T>(what: &str, within: Duration, mut missing: impl FnMut() -> T)
where
    T: IntoIterator + std::fmt::Debug + Clone,
{
    eventually(what, within, || {
        let missing = missing();
        let none = missing.clone().into_iter().next().is_none();
        async move { if none { Ok(()) } else { Err(missing) } }
    })
    .await;
}

/// The backlog drains to nothing, and no partition is stopped.
async fn assert_nothing_left(program: &Program) {
    eventually("the backlog drains to nothing", DRAINS_WITHIN, || async {
        let mut left = Vec::new();
        for name in [
            "hookline_journal_consumer_lag_records",
            "hookline_dispatch_queued_sends",
            "hookline_dispatch_lanes_behind",
            "hookline_dispatch_in_flight",
        ] {
            let value = program.metric(name, "").await;
            if value > 0.5 {
                left.push((name, value));
            }
        }
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
    .await;
    for stage in ["fanout", "dispatch", "tiers"] {
        let name = format!("hookline_{stage}_partitions_stopped");
        assert!(program.metric(&name, "").await < 0.5, "{name}");
    }
}

/// While the broker does not answer, every command says so within a reasonable time, and none claims to have done anything.
async fn assert_commands_say_so(site: &Site) {
    let publish = event("order.unsure", "unsure", "{}") + "\n";
    let apply = webhook("unsure", "http://127.0.0.1:9/unsure", "");
    let (publish, apply, get, check, tail) = tokio::join!(
        run(site, &["publish", "-"], &publish),
        run(site, &["apply", "-f", "-"], &apply),
        run(site, &["get", "webhooks", "--output", "json"], ""),
        run(site, &["topics", "check"], ""),
        run(site, &["tail", "--output", "json"], ""),
    );
    for (what, output) in [publish, apply, get, check, tail] {
        let (said, printed) = (text(&output.stderr), text(&output.stdout));
        assert_eq!(output.status.code(), Some(1), "{what}: {said}{printed}");
        assert_eq!(printed, "", "{what} printed a result");
        let clear = said.starts_with("error: asking the brokers at 127.0.0.1:");
        assert!(clear && said.lines().count() == 1, "{what} said: {said}");
    }
}

async fn run<'a>(site: &Site, arguments: &'a [&'a str], input: &str) -> (String, Output) {
    let what = arguments.join(" ");
    let output = timeout(ANSWERS_WITHIN, site.run(arguments, input)).await;
    let output = output.unwrap_or_else(|_| panic!("{what} took more than {ANSWERS_WITHIN:?}"));
    (what, output)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Alive, but not ready, and it says why.
async fn assert_alive_but_not_ready(program: &mut Program) {
    eventually("not ready", Duration::from_secs(15), || async {
        match program.get("/readyz").await {
            Ok((503, body)) if body.contains("journal") => Ok(()),
            other => Err(other),
        }
    })
    .await;
    let (status, body) = program.get("/healthz").await.unwrap();
    assert_eq!(status, 200, "{body}");
    assert!(memory_of(program).await > 0.0);
    assert!(!program.has_ended());
}

/// Its memory in use, in MiB; `/metrics` answers whatever the broker does.
async fn memory_of(program: &Program) -> f64 {
    let bytes = program.metric("hookline_process_resident_memory_bytes", "");
    bytes.await / f64::from(1 << 20)
}
