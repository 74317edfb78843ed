//! One ordered lane that is paused, and a flow of large events past it: what waits is moved out of the way, the disk stays small, and later the lane
//! gets everything in order, by its first sequences.

use std::fs;
use std::path::Path;
use std::time::Duration;

use hookline_tests::broker::Broker;
use hookline_tests::program::{Engine, Site};
use hookline_tests::receiver::Receiver;
use hookline_tests::say;
use hookline_tests::wait::{at_least, eventually};
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::{event, noise, numbers, place, webhook};

both_engines!(one_paused_lane_keeps_the_disk_bounded);

const WITHIN: Duration = Duration::from_secs(60);
const MIB: u64 = 1024 * 1024;
const DATA_BYTES: usize = 64 * 1024;
/// Published at a time.
const AT_ONCE: usize = 128;
const ROUNDS: usize = 32;
/// What flows past, all in all.
const FLOW: u64 = (ROUNDS * AT_ONCE * DATA_BYTES) as u64;
/// When what waits is moved.
const OLD_END: &str = "[dispatch]\nold_end_after = \"3s\"\nold_end_bytes = \"8MiB\"\n";
/// The smallest that Kafka allows.
const SEGMENT_BYTES: u64 = MIB;
const PAUSED: &str = "/ok/paused";
const FLOWING: &str = "/sink/flow";

/// Where the site's records lie.
struct Disk<'a> {
    site: &'a Site,
    /// The most that they took, and what of that was for `held`.
    most: u64,
    held: u64,
}

impl Disk<'_> {
    /// Of the broker, what the two topics take. The built-in engine has all topics in one place.
    fn look(&mut self) {
        let (all, held) = match self.site.engine() {
            Engine::Kafka => {
                let broker = Broker::shared();
                let held = broker.disk(&self.site.topic("held"));
                (broker.disk(&self.site.topic("deliveries")) + held, held)
            }
            Engine::Embedded => (bytes_in(&self.site.dir().join("data")), 0),
        };
        if all > self.most {
            (self.most, self.held) = (all, held);
        }
    }
}

/// Bytes of all files below a directory, some of which may go away meanwhile.
fn bytes_in(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => bytes_in(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
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
        most: 0,
        held: 0,
    };
    let begun = Instant::now();
    // Where each send of the paused lane stands: between these.
    let mut places = Vec::new();
    for round in 0..ROUNDS {
        let before = journal.end(&deliveries, 0).await.unwrap();
        let some: Vec<_> = (0..AT_ONCE).map(|n| large(round, n)).collect();
        site.publish(&some).await;
        let came = (round + 1) * (AT_ONCE - 1);
        let all = || {
            disk.look();
            receiver.count(FLOWING)
        };
        at_least("the flow", came, WITHIN, all).await;
        places.push(before..journal.end(&deliveries, 0).await.unwrap());
        if engine == Engine::Embedded {
            // It has no files by topic: what events take is not of interest here.
            let end = journal.end(&events, 0).await.unwrap();
            journal.delete_records(&events, 0, end).await.unwrap();
        }
    }
    let took = begun.elapsed();
    let moved = program
        .metric("hookline_dispatch_held_bytes_total", "")
        .await;
    say(&format!(
        "{} MiB flowed past a paused lane in {took:.1?}; at most {} MiB on disk at a time, of which {} MiB held; {:.0} MiB were moved",
        FLOW / MIB,
        disk.most / MIB,
        disk.held / MIB,
        moved / MIB as f64
    ));
    assert_eq!(receiver.count(PAUSED), 0);
    assert!(moved > 0.0, "what waits was moved");
    assert!(disk.most <= FLOW / 2, "{} bytes on disk", disk.most);

    site.apply(&paused("active")).await;
    at_least("all of it", ROUNDS, WITHIN, || receiver.count(PAUSED)).await;
    let came = receiver.at(PAUSED);
    let seen: Vec<_> = came.iter().flat_map(numbers).collect();
    assert!(seen.iter().copied().eq(0..ROUNDS as u64), "{seen:?}");
    for (request, place_of) in came.iter().zip(&places) {
        let offset = place(request).1 >> 13;
        assert!(place_of.contains(&offset), "{offset} of {place_of:?}");
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
    drop(journal);
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
