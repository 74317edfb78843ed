//! Whatever befalls the broker: nothing accepted is lost, what was interrupted goes on by itself, and meanwhile every answer is honest.

mod frozen;
mod killed;
mod unreachable;

use std::collections::BTreeSet;
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hookline_journal::{Appender, Journal, Record, append_when_room};
use hookline_tests::program::{Program, Site};
use hookline_tests::receiver::Receiver;
use hookline_tests::wait::{at_least, eventually};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::promises::{event, webhook};

/// What is promised: from the broker's return to the next request.
const RESUMES_WITHIN: Duration = Duration::from_secs(60);
/// What is promised after any fault: a fresh event is delivered.
const FRESH_WITHIN: Duration = Duration::from_secs(30);
/// How long what piled up may take to come through.
const DRAINS_WITHIN: Duration = Duration::from_secs(60);
/// How long a command may take to say that the broker does not answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(40);

/// Webhooks that every event goes to: one that is quick, one that is slow, and one whose first attempts fail, so that the tiers have work.
fn webhooks(receiver: &Receiver) -> String {
    let retry = "retry: {jitter: 0, schedule: {list: [1s, 5s]}}";
    let names = PATHS.map(|path| path.rsplit('/').next().unwrap_or_default());
    let all = names.iter().zip(PATHS);
    all.map(|(name, path)| webhook(name, &receiver.url(path), retry))
        .collect()
}

const PATHS: [&str; 3] = ["/ok/quick", "/slow/300/slow", "/flaky/1/flaky"];

/// Events that go on coming, whatever happens; each counts once its producer was told that it is stored.
struct Traffic {
    accepted: Arc<Mutex<BTreeSet<usize>>>,
    stop: watch::Sender<bool>,
    task: JoinHandle<(usize, Arc<dyn Appender>)>,
}

impl Traffic {
    /// One event every `every`, straight to the topic, by a producer of its own.
    fn start(journal: Arc<dyn Journal>, topic: String, every: Duration) -> Self {
        let accepted = Arc::new(Mutex::new(BTreeSet::new()));
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(produce(
            journal,
            topic,
            every,
            Arc::clone(&accepted),
            stopped,
        ));
        Self {
            accepted,
            stop,
            task,
        }
    }

    fn accepted(&self) -> usize {
        self.accepted.lock().len()
    }

    /// Stops, and waits until the fate of every event is known. All of them are accepted: a producer without a time limit goes on trying.
    async fn finish(self) -> BTreeSet<usize> {
        self.stop.send_replace(true);
        let (sent, _appender) = self.task.await.unwrap();
        let accepted = || self.accepted.lock().len();
        at_least(
            "events acknowledged",
            sent,
            Duration::from_secs(30),
            accepted,
        )
        .await;
        std::mem::take(&mut *self.accepted.lock())
    }
}

async fn produce(
    journal: Arc<dyn Journal>,
    topic: String,
    every: Duration,
    accepted: Arc<Mutex<BTreeSet<usize>>>,
    stopped: watch::Receiver<bool>,
) -> (usize, Arc<dyn Appender>) {
    let appender = journal.appender("traffic").await.unwrap();
    let mut tick = tokio::time::interval(every);
    let mut n = 0;
    while !*stopped.borrow() {
        tick.tick().await;
        let record = Record {
            key: Some(Bytes::from(format!("{}", n % 2))),
            value: Some(Bytes::from(event(
                "order",
                &format!("e{n}"),
                &format!("{{\"n\": {n}}}"),
            ))),
            headers: Vec::new(),
        };
        let accepted = Arc::clone(&accepted);
        let done = Box::new(move |result: Result<_, _>| {
            if result.is_ok() {
                accepted.lock().insert(n);
            }
        });
        let partition = u32::try_from(n % 2).unwrap();
        append_when_room(&*appender, &topic, partition, record, done)
            .await
            .unwrap();
        n += 1;
    }
    // Dropped, it would take back what is still under way.
    (n, appender)
}

/// Waits until requests come after `returned`, and says how long that took.
async fn resumed(receiver: &Receiver, what: &str, returned: Instant) -> Duration {
    let after = || receiver.all().iter().filter(|r| r.at > returned).count();
    at_least(
        &format!("requests after {what}"),
        1,
        Duration::from_secs(60),
        after,
    )
    .await;
    let all = receiver.all();
    let first = all.iter().map(|r| r.at).find(|at| *at > returned).unwrap();
    first - returned
}

#[track_caller]
fn assert_resumed_in_time(what: &str, took: Duration) {
    assert!(
        took <= RESUMES_WITHIN,
        "after {what} delivery went on only after {took:?}"
    );
}

/// Everything accepted came through every webhook, in order where order was asked for, and nothing is left.
async fn assert_all_came(
    site: &Site,
    program: &Program,
    receiver: &Receiver,
    accepted: &BTreeSet<usize>,
) {
    assert!(accepted.len() > 100, "{} events say little", accepted.len());
    for path in PATHS {
        let missing = || async {
            let came: BTreeSet<usize> = numbers(receiver, path, 200).into_iter().collect();
            let missing: Vec<_> = accepted.difference(&came).collect();
            if missing.is_empty() {
                Ok(())
            } else {
                Err(format!("{} missing: {missing:?}", missing.len()))
            }
        };
        eventually(path, DRAINS_WITHIN, missing).await;
    }
    // A fresh one, on a way of its own.
    site.apply(&webhook(
        "fresh",
        &receiver.url("/ok/fresh"),
        "events: [fresh]",
    ))
    .await;
    site.publish(&[event("fresh", "fresh", "{}")]).await;
    at_least("a fresh event", 1, FRESH_WITHIN, || {
        receiver.count("/ok/fresh")
    })
    .await;
    eventually("the backlog drains to nothing", DRAINS_WITHIN, || async {
        let lag = program
            .metric("hookline_journal_consumer_lag_records", "")
            .await;
        let queued = program.metric("hookline_dispatch_queued_sends", "").await;
        let behind = program.metric("hookline_dispatch_lanes_behind", "").await;
        if lag + queued + behind < 0.5 {
            Ok(())
        } else {
            Err((lag, queued, behind))
        }
    })
    .await;
    for stage in ["fanout", "dispatch", "tiers"] {
        let name = format!("hookline_{stage}_partitions_stopped");
        assert!(program.metric(&name, "").await < 0.5, "{name}");
    }
}

/// The numbers of the events whose requests were answered so at this path, in order of arrival.
fn numbers(receiver: &Receiver, path: &str, answered: u16) -> Vec<usize> {
    let there = receiver.at(path).into_iter();
    let answered = there.filter(|r| r.answered == answered && r.json()["type"] == "order");
    answered
        .map(|r| usize::try_from(r.json()["data"]["n"].as_u64().unwrap()).unwrap())
        .collect()
}

/// How often a delivery came again to a webhook that takes everything at once.
fn repeats(receiver: &Receiver, path: &str) -> usize {
    let came = numbers(receiver, path, 200);
    let different: BTreeSet<_> = came.iter().collect();
    came.len() - different.len()
}

/// While the broker does not answer, every command says so within a reasonable time, and none claims to have done anything.
async fn assert_commands_say_so(site: &Site) {
    let publish = event("order-unsure", "unsure", "{}") + "\n";
    let apply = webhook("unsure", "http://127.0.0.1:9/unsure", "");
    let (publish, apply, get, check, tail) = tokio::join!(
        timed(site, &["publish", "-"], &publish),
        timed(site, &["apply", "-f", "-"], &apply),
        timed(site, &["get", "webhooks", "--output", "json"], ""),
        timed(site, &["topics", "check"], ""),
        timed(site, &["tail", "--output", "json"], ""),
    );
    for (what, output, took) in [publish, apply, get, check, tail] {
        let (said, printed) = (text(&output.stderr), text(&output.stdout));
        assert_eq!(output.status.code(), Some(1), "{what}: {said}{printed}");
        assert_eq!(printed, "", "{what} printed a result");
        assert!(said.starts_with("error: "), "{what} said: {said}");
        assert_eq!(said.lines().count(), 1, "{what} said: {said}");
        println!("{what}: {took:?}: {said}");
    }
}

async fn timed<'a>(
    site: &Site,
    arguments: &'a [&'a str],
    input: &str,
) -> (String, Output, Duration) {
    let begun = Instant::now();
    let what = arguments.join(" ");
    let output = timeout(ANSWERS_WITHIN, site.run(arguments, input)).await;
    let output = output.unwrap_or_else(|_| panic!("{what} took more than {ANSWERS_WITHIN:?}"));
    (what, output, begun.elapsed())
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
    let (status, body) = program.get("/metrics").await.unwrap();
    assert_eq!(status, 200, "{body}");
    assert!(
        body.contains("hookline_process_resident_memory_bytes"),
        "{body}"
    );
    assert!(program.ended().is_none());
}
