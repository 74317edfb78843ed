//! The stage over a journal in memory, in paused time.

mod memory;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hookline_journal::{Committed, MemberEvent, RevokeGuard, TopicPartition};
use hookline_model::limits::TIERS;
use hookline_model::wire;
use prost::Message as _;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::*;
use memory::{Memory, SimClock};

const PREFIX: &str = "t.";

struct Stage {
    registry: prometheus::Registry,
    stop: watch::Sender<bool>,
    running: JoinHandle<Result<(), TiersError>>,
}

fn topic(name: &str) -> TopicPartition {
    TopicPartition {
        topic: format!("{PREFIX}{name}"),
        partition: 0,
    }
}

fn everything() -> Vec<TopicPartition> {
    Topic::tiers().map(|t| topic(&t.suffix())).collect()
}

#[expect(clippy::disallowed_methods, reason = "a test owns what it starts")]
fn start(memory: &Arc<Memory>) -> Stage {
    let registry = prometheus::Registry::new();
    let layout = Layout {
        partitions: 4,
        tier_partitions: 1,
        generations: BTreeMap::new(),
    };
    let tiers = Tiers::new(
        TiersConfig::new(PREFIX),
        Arc::clone(memory) as Arc<dyn Journal>,
        Arc::new(layout),
        Arc::clone(&memory.clock) as Arc<dyn Clock>,
        &registry,
    )
    .expect("stage");
    let (stop, stopped) = watch::channel(false);
    memory.tell(MemberEvent::Assigned(everything()));
    Stage {
        registry,
        stop,
        running: tokio::spawn(tiers.run(stopped)),
    }
}

impl Stage {
    async fn stop(self) -> Result<(), TiersError> {
        self.stop.send_replace(true);
        self.running.await.expect("no panic")
    }

    fn metric(&self, name: &str) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|f| f.name() == name).expect("family");
        let metric = &family.get_metric()[0];
        match family.get_field_type() {
            prometheus::proto::MetricType::COUNTER => metric.get_counter().get_value(),
            prometheus::proto::MetricType::GAUGE => metric.get_gauge().get_value(),
            _ => metric.get_histogram().get_sample_count() as f64,
        }
    }
}

/// Puts a send at the beginning of a path; the ticket tells it apart.
fn send_along(memory: &Memory, path: &[usize], ticket: u64) {
    let path_ms = path.iter().map(|t| millis(TIERS[*t].1)).collect();
    let waiting = wire::Waiting {
        format: wire::FORMAT,
        partition: 2,
        source: Some(wire::FromRetry {
            path_ms,
            ticket: Some(wire::Position {
                offset: ticket,
                index: 0,
            }),
        }),
        hop: 0,
        event: Some(wire::Event::default()),
        send: Some(wire::Send::default()),
        registry_offset: 0,
        accepted_at_ms: 0,
    };
    let first = topic(&format!("retry.{}", TIERS[path[0]].0));
    memory.put(&first, waiting.encode_to_vec());
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).expect("fits")
}

fn back() -> TopicPartition {
    TopicPartition {
        topic: format!("{PREFIX}deliveries"),
        partition: 2,
    }
}

/// Tickets and append times of what came back.
fn returned(memory: &Memory) -> Vec<(u64, i64)> {
    memory
        .records(&back())
        .into_iter()
        .map(|r| {
            let record = wire::Deliveries::decode(r.value.expect("value")).expect("decodes");
            let Some(wire::source::Stream::Retry(from)) = record.source.and_then(|s| s.stream)
            else {
                panic!("from a retry");
            };
            (from.ticket.expect("ticket").offset, r.timestamp_ms)
        })
        .collect()
}

fn tickets(memory: &Memory) -> Vec<u64> {
    returned(memory).into_iter().map(|(t, _)| t).collect()
}

#[tokio::test(start_paused = true)]
async fn a_path_takes_the_sum_of_its_tiers_and_not_less() {
    let memory = Memory::new(SimClock::new());
    let stage = start(&memory);
    let begun = memory.clock.broker();
    send_along(&memory, &[2, 1, 0], 7);
    memory.wait_for(&back(), 1).await;
    let (ticket, at) = returned(&memory)[0];
    assert_eq!(ticket, 7);
    let took = at - begun;
    assert!((36_000..36_250).contains(&took), "{took}");
    assert!((stage.metric("hookline_tiers_copies_total") - 3.0).abs() < 0.1);
    assert!((stage.metric("hookline_tiers_lateness_seconds") - 1.0).abs() < 0.1);
    stage.stop().await.expect("stops");
}

#[tokio::test(start_paused = true)]
async fn order_is_kept_and_everything_is_committed_and_then_deleted() {
    let memory = Memory::new(SimClock::new());
    let stage = start(&memory);
    for ticket in 0..500 {
        send_along(&memory, &[1], ticket);
        if ticket % 50 == 0 {
            tokio::time::sleep(Duration::from_millis(70)).await;
        }
    }
    memory.wait_for(&back(), 500).await;
    assert_eq!(tickets(&memory), (0..500).collect::<Vec<_>>());
    tokio::time::sleep(Duration::from_millis(500)).await;
    let committed = memory.committed_at(&topic("retry.5s")).expect("committed");
    assert_eq!(committed.offset, 500);
    assert!(committed.metadata.starts_with("due="));
    // Deleted only a while after it was committed.
    assert_eq!(memory.start_of(&topic("retry.5s")), 0);
    tokio::time::sleep(Duration::from_secs(125)).await;
    assert_eq!(memory.start_of(&topic("retry.5s")), 500);
    stage.stop().await.expect("stops");
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_steps_back_makes_nothing_early() {
    let memory = Memory::new(SimClock::new());
    let stage = start(&memory);
    send_along(&memory, &[1], 0);
    memory.wait_for(&back(), 1).await;
    let first = tokio::time::Instant::now();
    send_along(&memory, &[1], 1);
    memory.clock.step_broker(-4_000);
    send_along(&memory, &[1], 2);
    memory.wait_for(&back(), 3).await;
    assert!(first.elapsed() >= Duration::from_secs(5));
    // Late by the step at most, and in order.
    assert!(
        first.elapsed() < Duration::from_millis(9_300),
        "{:?}",
        first.elapsed()
    );
    assert_eq!(tickets(&memory), [0, 1, 2]);
    stage.stop().await.expect("stops");
}

#[tokio::test(start_paused = true)]
async fn a_wrong_clock_of_ours_is_found_out_by_the_first_copy() {
    let memory = Memory::new(SimClock::new());
    // The brokers are an hour behind our clock: all looks due at once.
    memory.clock.step_broker(-3_600_000);
    for ticket in 0..20 {
        send_along(&memory, &[1], ticket);
    }
    let begun = tokio::time::Instant::now();
    let stage = start(&memory);
    memory.wait_for(&back(), 1).await;
    assert!(begun.elapsed() < Duration::from_secs(1));
    memory.wait_for(&back(), 20).await;
    let stamps: Vec<_> = returned(&memory).into_iter().map(|(_, at)| at).collect();
    let early = stamps.iter().filter(|at| **at < stamps[19] - 1000).count();
    assert_eq!(early, 1);
    assert!(begun.elapsed() >= Duration::from_secs(5));
    stage.stop().await.expect("stops");
}

#[tokio::test(start_paused = true)]
async fn stopping_commits_and_going_on_repeats_nothing() {
    let memory = Memory::new(SimClock::new());
    let stage = start(&memory);
    for ticket in 0..10 {
        send_along(&memory, &[0], ticket);
    }
    memory.wait_for(&back(), 10).await;
    stage.stop().await.expect("stops");
    assert_eq!(
        memory
            .committed_at(&topic("retry.1s"))
            .expect("committed")
            .offset,
        10
    );
    for ticket in 10..20 {
        send_along(&memory, &[0], ticket);
    }
    let stage = start(&memory);
    memory.wait_for(&back(), 20).await;
    assert_eq!(tickets(&memory), (0..20).collect::<Vec<_>>());
    stage.stop().await.expect("stops");
}

#[tokio::test(start_paused = true)]
async fn a_revoked_partition_is_committed_before_it_is_given_back() {
    let memory = Memory::new(SimClock::new());
    let stage = start(&memory);
    send_along(&memory, &[0], 0);
    memory.wait_for(&back(), 1).await;
    let (guard, gone) = RevokeGuard::new();
    memory.tell(MemberEvent::Revoked(vec![topic("retry.1s")], guard));
    while gone.try_recv() != Err(std::sync::mpsc::TryRecvError::Disconnected) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(
        memory
            .committed_at(&topic("retry.1s"))
            .expect("committed")
            .offset,
        1
    );
    // Nobody copies now …
    send_along(&memory, &[0], 1);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(tickets(&memory), [0]);
    assert!(
        stage
            .metric("hookline_tiers_oldest_undelivered_seconds")
            .abs()
            < 0.1
    );
    // … until it is given again.
    memory.tell(MemberEvent::Assigned(vec![topic("retry.1s")]));
    memory.wait_for(&back(), 2).await;
    assert_eq!(tickets(&memory), [0, 1]);
    memory.tell(MemberEvent::Lost(vec![topic("retry.1s")]));
    tokio::time::sleep(Duration::from_millis(1)).await;
    send_along(&memory, &[0], 2);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(tickets(&memory), [0, 1]);
    stage.stop().await.expect("stops");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_used_goes_to_rejected_and_the_rest_flows_on() {
    let memory = Memory::new(SimClock::new());
    let stage = start(&memory);
    memory.put(&topic("retry.1s"), b"\xff\xff\xff".to_vec());
    send_along(&memory, &[0], 1);
    memory.wait_for(&back(), 1).await;
    let rejected = memory.records(&topic("rejected"));
    let record =
        wire::Rejected::decode(rejected[0].value.clone().expect("value")).expect("decodes");
    assert_eq!((record.topic.as_str(), record.offset), ("t.retry.1s", 0));
    assert_eq!(record.value, b"\xff\xff\xff".as_slice());
    assert!((stage.metric("hookline_tiers_rejected_total") - 1.0).abs() < 0.1);
    stage.stop().await.expect("stops");
    assert_eq!(
        memory
            .committed_at(&topic("retry.1s"))
            .expect("committed")
            .offset,
        2
    );
}

#[tokio::test(start_paused = true)]
async fn deleted_records_stop_their_partition_and_no_other() {
    let memory = Memory::new(SimClock::new());
    for ticket in 0..3 {
        send_along(&memory, &[0], ticket);
    }
    memory.commit_at(
        &topic("retry.1s"),
        Committed {
            offset: 1,
            metadata: String::new(),
        },
    );
    memory
        .delete_records(&topic("retry.1s").topic, 0, 2)
        .await
        .expect("deletes");
    let stage = start(&memory);
    send_along(&memory, &[1], 9);
    memory.wait_for(&back(), 1).await;
    assert_eq!(tickets(&memory), [9]);
    let stopped = || stage.metric("hookline_tiers_partitions_stopped");
    assert!((stopped() - 1.0).abs() < 0.1);
    // As after a broker's fault: lost, and given again.
    memory.tell(MemberEvent::Lost(everything()));
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(stopped() < 0.1, "it is somebody else's now");
    memory.tell(MemberEvent::Assigned(everything()));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!((stopped() - 1.0).abs() < 0.1, "one partition counts once");
    stage.stop().await.expect("stops");
}

#[tokio::test(start_paused = true)]
async fn a_failed_appender_ends_the_stage_and_the_next_start_goes_on() {
    let memory = Memory::new(SimClock::new());
    let stage = start(&memory);
    // It makes its appender first.
    tokio::time::sleep(Duration::from_millis(1)).await;
    memory.fail_after(3);
    for ticket in 0..10 {
        send_along(&memory, &[0], ticket);
    }
    let error = stage.running.await.expect("no panic").expect_err("fails");
    assert!(matches!(error, TiersError::Copy { .. }), "{error}");
    assert_eq!(tickets(&memory), [0, 1, 2]);
    let stage = start(&memory);
    let all_there = || tickets(&memory).last() == Some(&9);
    while !all_there() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    stage.stop().await.expect("stops");
    // A copy that was acknowledged, but not committed before the end, is made again. The partition keeps the highest ticket of the
    // path and drops what is not above it: to it, each came once and in order.
    let copies = tickets(&memory);
    let mut taken: Vec<u64> = Vec::new();
    for ticket in &copies {
        if taken.last().is_none_or(|highest| ticket > highest) {
            taken.push(*ticket);
        }
    }
    assert!(
        copies.len() <= 13,
        "only what was not committed is copied again"
    );
    assert_eq!(taken, (0..10).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_fails_is_made_again() {
    let memory = Memory::new(SimClock::new());
    memory.refuse_commits(2);
    let stage = start(&memory);
    send_along(&memory, &[0], 0);
    memory.wait_for(&back(), 1).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(
        memory
            .committed_at(&topic("retry.1s"))
            .expect("committed")
            .offset,
        1
    );
    stage.stop().await.expect("stops");
}

#[tokio::test(start_paused = true)]
async fn what_waits_too_long_shows() {
    let memory = Memory::new(SimClock::new());
    let stage = start(&memory);
    memory.block_appends(true);
    send_along(&memory, &[0], 0);
    tokio::time::sleep(Duration::from_secs(11)).await;
    let age = stage.metric("hookline_tiers_oldest_undelivered_seconds");
    assert!((9.9..10.1).contains(&age), "{age}");
    memory.block_appends(false);
    memory.wait_for(&back(), 1).await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert!(
        stage
            .metric("hookline_tiers_oldest_undelivered_seconds")
            .abs()
            < 0.1
    );
    stage.stop().await.expect("stops");
}
