//! Records are deleted under a reader, by hand or by a wrong retention: an alarm says so, that partition stops, the others go on.

use std::time::Duration;

use hookline_journal::{Appender, Journal, Record, append_and_wait};
use hookline_model::ids::WebhookUid;
use hookline_tests::program::{Engine, Program, Site};
use hookline_tests::receiver::Receiver;
use hookline_tests::wait::{at_least, eventually};
use tokio::time::sleep;

use crate::promises::{event, webhook};

both_engines!(
    events_deleted_before_they_were_fanned_out,
    deliveries_deleted_under_a_lane_that_is_behind,
    attempts_deleted_before_a_takeover_has_read_them,
    retries_deleted_in_their_tier,
);

const WITHIN: Duration = Duration::from_secs(30);

/// The partitions of a site in these tests.
const PARTITIONS: u32 = 2;

struct Scene {
    site: Site,
    receiver: Receiver,
}

impl Scene {
    async fn new(engine: Engine) -> Self {
        Self {
            receiver: Receiver::start().await,
            site: Site::new(engine).await,
        }
    }

    /// Makes webhooks until each partition has one of this name (with the partition's number behind it), all with these further lines.
    async fn webhooks(&self, name: &str, path: &str, more: &str) -> [String; PARTITIONS as usize] {
        let mut found: [Option<String>; PARTITIONS as usize] = Default::default();
        for n in 0..40 {
            let name = format!("{name}-{n}");
            let url = self.receiver.url(&format!("{path}/{name}/"));
            let document = webhook(&name, &url, &format!("state: inactive\n{more}"));
            self.site.apply(&document).await;
            let arguments = ["get", "webhooks", &name, "--output", "json"];
            let shown = self.site.succeed(&arguments, "").await;
            let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
            let uid: WebhookUid = shown["uid"].as_str().unwrap().parse().unwrap();
            let partition = uid.partition(PARTITIONS) as usize;
            if found[partition].is_none() {
                let document = webhook(&name, &url, &format!("state: active\n{more}"));
                self.site.apply(&document).await;
                found[partition] = Some(name);
            }
            if found.iter().all(Option::is_some) {
                break;
            }
        }
        found.map(|name| name.expect("forty webhooks leave no partition empty"))
    }

    fn count(&self, name: &str) -> usize {
        let requests = self.receiver.all();
        let there = requests
            .iter()
            .filter(|r| r.path.contains(&format!("/{name}/")));
        there.count()
    }

    async fn came(&self, name: &str, count: usize) {
        at_least(name, count, WITHIN, || self.count(name)).await;
    }
}

async fn deleted(journal: &dyn Journal, topic: &str, partition: u32, before: u64) {
    journal
        .delete_records(topic, partition, before)
        .await
        .unwrap();
    assert_eq!(journal.start(topic, partition).await.unwrap(), before);
}

async fn append(appender: &dyn Appender, topic: &str, partition: u32, record: Record) {
    let appended = append_and_wait(appender, topic, partition, record).await;
    appended.unwrap();
}

/// One partition of this stage has stopped, the log says why in a sentence that names the topic, and the process lives on.
async fn assert_alarm(program: &mut Program, stage: &str, sentence: &str, topic: &str) {
    let name = format!("hookline_{stage}_partitions_stopped");
    eventually(&name, WITHIN, || async {
        let stopped = program.metric(&name, "").await;
        if (stopped - 1.0).abs() < 0.1 {
            Ok(())
        } else {
            Err(stopped)
        }
    })
    .await;
    let log = program.log();
    let alarm = log
        .lines()
        .find(|line| line.contains(" ERROR ") && line.contains(sentence))
        .unwrap_or_else(|| panic!("no alarm:\n{log}"));
    assert!(alarm.contains(topic), "{alarm}");
    // It stays so: no loop of restarts.
    sleep(Duration::from_secs(2)).await;
    assert!(!program.has_ended());
    assert!((program.metric(&name, "").await - 1.0).abs() < 0.1);
    let alarms = |log: &str| log.lines().filter(|line| line.contains(sentence)).count();
    assert_eq!(alarms(&program.log()), alarms(&log), "told once");
    assert!(alarms(&log) <= 2, "told once");
}

fn events(count: usize, what: &str, bytes: usize) -> Vec<String> {
    let filling = "x".repeat(bytes);
    let one = |n| event("order", &format!("{what}-{n}"), &format!("\"{filling}\""));
    (0..count).map(one).collect()
}

async fn events_deleted_before_they_were_fanned_out(engine: Engine) {
    let scene = Scene::new(engine).await;
    let (site, topic) = (&scene.site, scene.site.topic("events"));
    let document = webhook("all", &scene.receiver.url("/ok/all/"), "");
    site.apply(&document).await;
    let program = site.start().await;
    publish_to_each(site, 1, "before").await;
    scene.came("all", 2).await;
    assert!(program.stop().await.success());

    // While nobody fans out, more come, and most of one partition go.
    let program = site.start_roles(Some("dispatch,tiers")).await;
    publish_to_each(site, 20, "meanwhile").await;
    deleted(&*site.journal().await, &topic, 0, 15).await;
    assert!(program.stop().await.success());

    let mut program = site.start().await;
    let sentence = "the fan-out of a partition has stopped";
    assert_alarm(&mut program, "fanout", sentence, &format!("{topic}[0]")).await;
    scene.came("all", 2 + 20).await;
    publish_to_each(site, 1, "after").await;
    scene.came("all", 2 + 20 + 1).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(scene.count("all"), 23, "nothing is jumped over silently");
    assert!(program.stop().await.success());
}

/// So many events to each partition.
async fn publish_to_each(site: &Site, count: usize, what: &str) {
    let journal = site.journal().await;
    let appender = journal.appender("test").await.unwrap();
    for partition in 0..PARTITIONS {
        for n in 0..count {
            let value = event("order", &format!("{what}-{partition}-{n}"), "{}");
            let record = Record {
                value: Some(value.into()),
                ..Record::default()
            };
            append(&*appender, &site.topic("events"), partition, record).await;
        }
    }
}

async fn deliveries_deleted_under_a_lane_that_is_behind(engine: Engine) {
    const COUNT: usize = 600;
    let scene = Scene::new(engine).await;
    let (site, topic) = (&scene.site, scene.site.topic("deliveries"));
    let mut program = site.start().await;
    let live = scene.webhooks("live", "/ok", "").await;
    let held = scene.webhooks("held", "/ok", "").await;
    let url = scene.receiver.url(&format!("/ok/{}/", held[0]));
    site.apply(&webhook(&held[0], &url, "state: paused")).await;
    site.apply(&webhook(&held[1], &url, "state: inactive"))
        .await;
    // More than a lane keeps in memory.
    site.publish(&events(COUNT, "many", 6000)).await;
    for name in &live {
        scene.came(name, COUNT).await;
    }
    let behind = || async {
        let behind = program.metric("hookline_dispatch_lanes_behind", "").await;
        if behind > 0.5 { Ok(()) } else { Err(behind) }
    };
    eventually("the paused lane falls behind", WITHIN, behind).await;

    let journal = site.journal().await;
    let end = journal.end(&topic, 0).await.unwrap();
    deleted(&*journal, &topic, 0, end - 5).await;
    site.apply(&webhook(&held[0], &url, "state: active")).await;
    let sentence = "ALARM: this partition stops until somebody has looked";
    assert_alarm(&mut program, "dispatch", sentence, &topic).await;
    site.publish(&events(5, "after", 10)).await;
    scene.came(&live[1], COUNT + 5).await;
    assert_eq!(scene.count(&live[0]), COUNT, "its partition has stopped");
    assert!(program.stop().await.success());
}

async fn attempts_deleted_before_a_takeover_has_read_them(engine: Engine) {
    const COUNT: usize = 200;
    let scene = Scene::new(engine).await;
    let (site, topic) = (&scene.site, scene.site.topic("attempts"));
    let program = site.start().await;
    let names = scene.webhooks("live", "/slow/50", "").await;
    site.publish(&events(COUNT, "many", 10)).await;
    scene.came(&names[0], 30).await;
    program.kill().await;

    // What was recorded since the last checkpoint is lost; and something of somebody else, so that there is no doubt that something was.
    let program = site.start_roles(Some("fanout,tiers")).await;
    let journal = site.journal().await;
    let appender = journal.appender("test").await.unwrap();
    append(&*appender, &topic, 0, Record::default()).await;
    let end = journal.end(&topic, 0).await.unwrap();
    deleted(&*journal, &topic, 0, end).await;
    drop((appender, journal));
    assert!(program.stop().await.success());

    let mut program = site.start().await;
    let sentence = "ALARM: this partition stops until somebody has looked";
    assert_alarm(&mut program, "dispatch", sentence, &topic).await;
    let all = || by_id_of(&scene, &names[1]);
    at_least(&names[1], COUNT, WITHIN, all).await;
    assert!(by_id_of(&scene, &names[0]) < COUNT, "it has stopped");
    assert!(program.stop().await.success());
}

/// How many different deliveries came.
fn by_id_of(scene: &Scene, name: &str) -> usize {
    let requests = scene.receiver.at(&format!("/slow/50/{name}/"));
    crate::promises::by_id(&requests).len()
}

async fn retries_deleted_in_their_tier(engine: Engine) {
    const COUNT: usize = 100;
    let scene = Scene::new(engine).await;
    let (site, topic) = (&scene.site, scene.site.topic("retry.5s"));
    let mut program = site.start().await;
    let policy = "retry: {jitter: 0, schedule: {list: [5s, 1m]}}";
    let names = scene.webhooks("failing", "/status/500", policy).await;
    let well = webhook("well", &scene.receiver.url("/ok/well/"), "");
    site.apply(&well).await;
    site.publish(&events(COUNT, "many", 6000)).await;
    // Far more than is read ahead, and before the first is due.
    let journal = site.journal().await;
    let waiting = || async {
        match journal.end(&topic, 0).await.unwrap() {
            end if end >= 60 => Ok(()),
            end => Err(end),
        }
    };
    eventually("retries wait", WITHIN, waiting).await;
    let end = journal.end(&topic, 0).await.unwrap();
    deleted(&*journal, &topic, 0, end - 1).await;

    let sentence = "a tier's partition is stopped";
    assert_alarm(&mut program, "tiers", sentence, &topic).await;
    // The other partition of the tier goes on, and so does everything else.
    scene.came(&names[1], 2 * COUNT).await;
    scene.came("well", COUNT).await;
    assert!(scene.count(&names[0]) < 2 * COUNT);
    site.publish(&events(1, "after", 10)).await;
    scene.came("well", COUNT + 1).await;
    assert!(program.stop().await.success());
}

/// The same while the reader lives and has read on up to there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_deleted_under_a_living_reader() {
    let scene = Scene::new(Engine::Kafka).await;
    let (site, topic) = (&scene.site, scene.site.topic("events"));
    let document = webhook("all", &scene.receiver.url("/ok/all/"), "");
    site.apply(&document).await;
    let mut program = site.start().await;
    publish_to_each(site, 1, "before").await;
    scene.came("all", 2).await;
    let pid = program.pid();
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    publish_to_each(site, 20, "meanwhile").await;
    deleted(&*site.journal().await, &topic, 0, 20).await;
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).unwrap();
    let sentence = "the fan-out of a partition has stopped";
    assert_alarm(&mut program, "fanout", sentence, &format!("{topic}[0]")).await;
    scene.came("all", 2 + 20).await;
    assert!(program.stop().await.success());
}
