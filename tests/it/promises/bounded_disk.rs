//! One ordered lane that is paused, and a flow of large events past it: what waits is moved out of the way, the disk stays small, and later the lane
//! gets everything in order, by its first sequences.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hookline_journal::Journal;
use hookline_tests::broker::Broker;
use hookline_tests::program::{Engine, Site};
use hookline_tests::receiver::Receiver;
use hookline_tests::say;
use hookline_tests::wait::{at_least, eventually};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use super::{event, noise, numbers, place, webhook};

both_engines!(one_paused_lane_keeps_the_disk_bounded);

const WITHIN: Duration = Duration::from_secs(150);
const MIB: u64 = 1024 * 1024;
const DATA_BYTES: usize = 64 * 1024;
/// Published at a time.
const AT_ONCE: usize = 128;
const ROUNDS: usize = 24;
/// What flows past, all in all.
const FLOW: u64 = (ROUNDS * AT_ONCE * DATA_BYTES) as u64;
/// When what waits is moved.
const OLD_END: &str = "[dispatch]\nold_end_after = \"3s\"\nold_end_bytes = \"8MiB\"\n";
/// The smallest that Kafka allows.
const SEGMENT_BYTES: u64 = MIB;
const PAUSED: &str = "/ok/paused";
const FLOWING: &str = "/sink/flow";

/// What the site takes of the disk.
struct Disk<'a> {
    site: &'a Site,
    journal: Arc<dyn Journal>,
    /// Of the broker the most that both topics had at a time, of the built-in engine all that it had.
    most: u64,
    /// The most records that `deliveries` had.
    records: u64,
}

impl Disk<'_> {
    /// On Kafka the files of the topics; else all but the engine's log, which has a bound of its own.
    fn now(&self) -> u64 {
        match self.site.engine() {
            Engine::Kafka => {
                let topics = ["deliveries", "held"].map(|topic| self.site.topic(topic));
                topics.iter().map(|t| Broker::shared().disk(t)).sum()
            }
            Engine::Embedded => bytes_in(&self.site.dir().join("data")),
        }
    }

    async fn look(&mut self) {
        let topic = self.site.topic("deliveries");
        let start = self.journal.start(&topic, 0).await.unwrap();
        let end = self.journal.end(&topic, 0).await.unwrap();
        self.records = self.records.max(end - start);
        self.most = self.most.max(self.now());
    }
}

/// Bytes of the files below a directory that are not of the engine's log; some may go away meanwhile.
fn bytes_in(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => bytes_in(&entry.path()),
        Ok(meta) if entry.path().extension().is_none_or(|e| e != "jnl") => meta.len(),
        _ => 0,
    });
    sizes.sum()
}

async fn one_paused_lane_keeps_the_disk_bounded(engine: Engine) {
    let receiver = Receiver::start().await;
    let site = Site::sized(engine, 1, OLD_END).await;
    if engine == Engine::Kafka {
        let topics = ["deliveries", "held"].map(|topic| site.topic(topic));
        let cut = spawn_blocking(move || Broker::shared().cut(&topics, SEGMENT_BYTES));
        cut.await.unwrap();
    }
    let paused = |state: &str| {
        let more = format!("events: [paused]\nordered: true\nbody: data\nstate: {state}");
        webhook("paused", &receiver.url(PAUSED), &more)
    };
    let flow = webhook("flow", &receiver.url(FLOWING), "events: [flow]");
    site.apply(&(paused("paused") + &flow)).await;
    let program = site.start_roles(Some("fanout,dispatch,tiers")).await;
    let journal = site.journal().await;
    let (events, deliveries) = (site.topic("events"), site.topic("deliveries"));

    let mut disk = Disk {
        site: &site,
        journal: Arc::clone(&journal),
        most: 0,
        records: 0,
    };
    let begun = Instant::now();
    // Where the log ended before each round: there stand the sends of the paused lane.
    let mut places = Vec::new();
    for round in 0..=ROUNDS {
        let before = journal.end(&deliveries, 0).await.unwrap();
        if round < ROUNDS {
            let some: Vec<_> = (0..AT_ONCE).map(|n| large(round, n)).collect();
            site.publish(&some).await;
        }
        // Of the round before, while this one is under way.
        disk.look().await;
        while receiver.count(FLOWING) < round * (AT_ONCE - 1) {
            disk.look().await;
            assert!(begun.elapsed() < WITHIN, "round {round} took too long");
            sleep(Duration::from_millis(20)).await;
        }
        places.push(before);
        if engine == Engine::Embedded {
            // It has no files by topic. What events take is not of interest here, so they go when they are fanned out.
            let end = round.saturating_sub(1) * AT_ONCE;
            let done = journal.delete_records(&events, 0, end as u64).await;
            done.unwrap();
        }
    }
    places.push(journal.end(&deliveries, 0).await.unwrap());
    let took = begun.elapsed();
    let moved = program
        .metric("hookline_dispatch_held_bytes_total", "")
        .await;
    say(&format!(
        "{} MiB flowed past a paused lane in {took:.1?}; {:.0} MiB were moved; at most {} MiB were on disk at a time, and {} records of the flow's {}",
        FLOW / MIB,
        moved / MIB as f64,
        disk.most / MIB,
        disk.records,
        ROUNDS * AT_ONCE,
    ));
    assert_eq!(receiver.count(PAUSED), 0);
    assert!(moved > 0.0, "what waits was moved");
    let records = FLOW / 2 / DATA_BYTES as u64;
    assert!(disk.records <= records, "{} records", disk.records);
    // The built-in engine, through which twice the flow has passed (the events, too), frees in steps what was deleted.
    let left = match engine {
        Engine::Kafka => {
            assert!(disk.most <= FLOW / 2, "{} bytes on disk", disk.most);
            FLOW / 2
        }
        Engine::Embedded => FLOW,
    };
    let small = async || match disk.now() {
        bytes if bytes <= left => Ok(()),
        bytes => Err(bytes),
    };
    eventually("the disk is small", WITHIN, small).await;
    say(&format!("{} MiB are left", disk.now() / MIB));

    site.apply(&paused("active")).await;
    at_least("all of it", ROUNDS, WITHIN, || receiver.count(PAUSED)).await;
    let came = receiver.at(PAUSED);
    let seen: Vec<_> = came.iter().flat_map(numbers).collect();
    assert!(seen.iter().copied().eq(0..ROUNDS as u64), "{seen:?}");
    // A sequence begins with the offset at which the send stood first. Meanwhile one round more was under way.
    for (request, stood) in came.iter().zip(places.windows(3)) {
        let offset = place(request).1 >> 13;
        assert!(
            (stood[0]..stood[2]).contains(&offset),
            "{offset}: {stood:?}"
        );
    }
    // Then nobody needs the copies.
    let held = site.topic("held");
    let gone = || async {
        let end = journal.end(&held, 0).await.unwrap();
        let start = journal.start(&held, 0).await.unwrap();
        if start == end {
            Ok(())
        } else {
            Err((start, end))
        }
    };
    eventually("the copies are gone", WITHIN, gone).await;
    drop((journal, disk));
    assert!(program.stop().await.success());
}

/// An event for the flow; the first of each round is for the paused lane.
fn large(round: usize, n: usize) -> String {
    let (kind, number) = match n {
        0 => ("paused", round),
        n => ("flow", n),
    };
    let data = format!("{{\"n\": {number}, \"noise\": \"{}\"}}", noise(DATA_BYTES));
    event(kind, &format!("{round}-{n}"), &data)
}
