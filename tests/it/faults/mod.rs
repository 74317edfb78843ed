//! What hookline promises although processes are killed, frozen and replaced: nothing is lost, repeats stay within the exact bound, a
//! graceful stop repeats nothing, and it is never stuck.
//!
//! Every run is judged by [`Oracle::judge`], and every run says how much it provoked.

mod frozen;
mod halfway;
mod handed_over;
mod killed_again_and_again;
mod killed_at_each_stage;
mod ordered;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use hookline_journal::{Journal, ReadBudget, StoredRecord, TopicPartition, read_until};
use hookline_model::time::Millis;
use hookline_tests::oracle::lives::Lives;
use hookline_tests::oracle::log::Log;
use hookline_tests::oracle::{Arrivals, Evidence, Hook, Oracle, Verdict};
use hookline_tests::program::{Engine, Program, Site, Start};
use hookline_tests::publisher::Publisher;
use hookline_tests::receiver::{Received, Receiver};
use hookline_tests::say;
use hookline_tests::wait::{at_least, eventually};

/// A member silent for this long is out. Short, so that a takeover need not be waited for long; long enough for a busy machine.
pub(crate) const SESSION: Duration = Duration::from_secs(2);
/// Requests at once, per process: the bound of what a kill may repeat.
pub(crate) const IN_FLIGHT: usize = 64;
/// After any fault a fresh event is delivered this soon.
pub(crate) const NOT_STUCK: Duration = Duration::from_secs(30);
/// And what has piled up is worked off.
const DRAINED: Duration = Duration::from_secs(90);

/// A site whose processes things are done to, and what is known of it.
pub(crate) struct Run {
    pub(crate) site: Site,
    pub(crate) receiver: Receiver,
    pub(crate) oracle: Arc<Oracle>,
    pub(crate) lives: Lives,
}

impl Run {
    /// One with these webhooks.
    pub(crate) async fn new(engine: Engine, hooks: Vec<Hook>) -> Self {
        Self::of(engine, Oracle::new(fastrand::u64(..1 << 32), hooks)).await
    }

    /// One by this oracle.
    pub(crate) async fn of(engine: Engine, oracle: Oracle) -> Self {
        Self::on(Site::new(engine).await, oracle).await
    }

    /// One by this oracle on this site.
    pub(crate) async fn on(site: Site, oracle: Oracle) -> Self {
        let receiver = Receiver::start().await;
        site.apply(&oracle.documents(&receiver)).await;
        Self {
            site,
            receiver,
            oracle: Arc::new(oracle),
            lives: Lives::default(),
        }
    }

    /// Starts a process and waits until it says that it is ready.
    pub(crate) async fn start(&self, start: &Start) -> Program {
        let program = self.site.start_with(&in_flight(start)).await;
        self.lives.begin(&program);
        program
    }

    /// Starts a process that may not live until it is ready.
    pub(crate) fn spawn(&self, start: &Start) -> Program {
        let program = self.site.spawn(&in_flight(start));
        self.lives.begin(&program);
        program
    }

    /// A producer. On the embedded engine it goes through the process that runs now.
    pub(crate) async fn publisher(&self) -> Publisher {
        Publisher::open(&self.site, &self.oracle).await
    }

    /// Never stuck: a fresh event is delivered soon, what has piled up is worked off, and every group has committed all of it.
    pub(crate) async fn is_not_stuck(&self) {
        let publisher = self.publisher().await;
        let fresh = publisher.publish(1).await;
        let mut arrivals = Arrivals::new(&self.oracle, &self.receiver);
        let reached = || {
            let reached = arrivals.has_reached_the_prompt(fresh);
            let missing = arrivals.missing();
            async move { if reached { Ok(()) } else { Err(missing) } }
        };
        eventually("a fresh event is delivered", NOT_STUCK, reached).await;
        self.has_drained().await;
    }

    /// What has piled up is worked off, and every group has committed all of it.
    pub(crate) async fn has_drained(&self) {
        let mut arrivals = Arrivals::new(&self.oracle, &self.receiver);
        let arrived = || {
            let missing = arrivals.missing();
            async move {
                if missing.is_empty() {
                    Ok(())
                } else {
                    Err(missing)
                }
            }
        };
        eventually("everything accepted has arrived", DRAINED, arrived).await;
        let journal = self.site.journal().await;
        let committed = || async { self.uncommitted(&*journal).await };
        eventually("every group has committed everything", NOT_STUCK, committed).await;
    }

    /// Topics of which their group has not committed everything, with how much is left.
    async fn uncommitted(&self, journal: &dyn Journal) -> Result<(), Vec<(String, u64)>> {
        let mut left = Vec::new();
        let topics = journal.topics().await.expect("topics");
        for (topic, info) in topics {
            let Some(suffix) = topic.strip_prefix(&self.site.topic("")) else {
                continue;
            };
            let role = match suffix {
                "events" => "fanout",
                "deliveries" => "dispatch",
                tier if tier.starts_with("retry.") => "tiers",
                _ => continue,
            };
            let places = (0..info.partitions).map(|partition| TopicPartition {
                topic: topic.clone(),
                partition,
            });
            let places: Vec<_> = places.collect();
            let group = self.site.topic(role);
            let committed = journal.committed(&group, &places).await.expect("an answer");
            for (place, committed) in places.iter().zip(committed) {
                let end = journal.end(&topic, place.partition).await.expect("an end");
                let start = journal.start(&topic, place.partition).await;
                let done = committed.map_or(0, |committed| committed.offset);
                let done = done.max(start.expect("a start"));
                // Where a torn tail was cut, offsets are skipped: what counts is whether a record stands there.
                let records = records(journal, place, done..end).await;
                if records > 0 {
                    left.push((format!("{suffix}[{}]", place.partition), records));
                }
            }
        }
        if left.is_empty() { Ok(()) } else { Err(left) }
    }

    /// How many requests of a process arrived from then on.
    pub(crate) fn sent(&self, program: &Program, since: Millis) -> usize {
        let of = |r: &&Received| r.header("hookline-worker") == Some(program.name());
        self.receiver.journal(|requests| {
            let latest = requests.iter().rev().take_while(|r| r.wall >= since);
            latest.filter(of).count()
        })
    }

    /// Waits until so many have.
    pub(crate) async fn sends(&self, program: &Program, since: Millis, count: usize) {
        let what = format!("requests of {}", program.name());
        at_least(&what, count, NOT_STUCK, || self.sent(program, since)).await;
    }

    /// Judges the run, in which nothing may be under way any more, and says what it saw.
    pub(crate) async fn judged(&self) -> Verdict {
        self.judged_by(&Log::read(&self.site).await)
    }

    /// The same, by a log that was read.
    pub(crate) fn judged_by(&self, log: &Log) -> Verdict {
        let verdict = self.receiver.journal(|requests| {
            self.oracle.judge(Evidence {
                requests,
                log,
                lives: &self.lives,
                max_in_flight: IN_FLIGHT,
            })
        });
        say(&format!(
            "{}; partitions were lost {} times without anybody's doing",
            verdict.summary(),
            self.lives.losses()
        ));
        verdict.assert_kept();
        verdict
    }
}

fn in_flight(start: &Start) -> Start {
    start
        .clone()
        .with("HOOKLINE_OUTGOING__MAX_IN_FLIGHT", &IN_FLIGHT.to_string())
}

/// A process of this name and these roles, which others need not wait for long when it is gone.
pub(crate) fn worker(name: &str, roles: &str) -> Start {
    Start::roles(roles).named(name).session(SESSION)
}

/// All roles that there are to run.
pub(crate) const ALL: &str = "fanout,dispatch,tiers";

/// Records between two offsets.
async fn records(journal: &dyn Journal, place: &TopicPartition, between: Range<u64>) -> u64 {
    let mut records = 0;
    if between.is_empty() {
        return records;
    }
    let budget = ReadBudget::of(1 << 20);
    let reader = journal.reader(&place.topic, place.partition, between.start, budget);
    let mut reader = reader.await.expect("a reader");
    let count = |record: StoredRecord| records += u64::from(record.offset < between.end);
    // What is being deleted just now is looked for once more.
    match read_until(&mut *reader, between.end, count).await {
        Ok(()) => records,
        Err(_) => 1,
    }
}
