//! `make bench ARGS=fairness`: what healthy webhooks notice when a tenth of the traffic goes to endpoints that hang, drip, reset or answer 500. The
//! healthy traffic is the same with and without; both are measured in turns in one run.

use hookline_tests::program::{Engine, Site, kafka_journal};

use crate::hookline::webhook;
use crate::load::{event, publish_at};
use crate::process::Spread;
use crate::receiver::ReceiverProcess;
use crate::{Figure, Scale, print, say, settle};

const PARTITIONS: u32 = 8;
/// Events a second; of these, one in [`ONE_IN`] is for a bad endpoint when there are any.
const RATE: u64 = 1_000;
const ONE_IN: usize = 10;
const HEALTHY: usize = 50;
/// What each of the bad endpoints does.
const BAD: [&str; 4] = ["hang", "drip", "reset", "fail"];
const TURNS: usize = 3;

pub(crate) async fn measure(scale: Scale) {
    say("hookline bench, fairness: real Kafka, one machine; this takes a few minutes");
    let receiver = ReceiverProcess::start().await;
    let site = Site::sized(Engine::Kafka, PARTITIONS, "").await;
    let url = |path: &str| format!("http://{}/{path}", receiver.address());
    let mut documents = String::new();
    for n in 0..HEALTHY {
        let hook = format!("good-{n}");
        documents += &webhook(
            &hook,
            &format!("good.n{n}"),
            &url(&format!("hooks/{n}")),
            "",
        );
    }
    for bad in BAD {
        let more = "deadline: 5s\nretry: {schedule: {list: [5s, 30s, 60s]}}\n";
        documents += &webhook(bad, &format!("bad.{bad}"), &url(bad), more);
    }
    site.apply(&documents).await;
    let program = site.start().await;
    let journal = kafka_journal("bench-load");
    let appender = journal.appender("load").await.expect("a producer");
    let topic = site.topic("events");
    let mut next = fastrand::usize(..1 << 40);
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for turn in 0..=2 * TURNS {
        let trouble = turn % 2 == 0 && turn > 0;
        settle().await;
        drop(receiver.statistics().await);
        let first = next;
        let make = |n: usize| {
            let kind = match n % ONE_IN {
                0 if trouble => format!("bad.{}", BAD[n / ONE_IN % BAD.len()]),
                _ => format!("good.n{}", n % HEALTHY),
            };
            event(&kind, first + n)
        };
        next += publish_at(&*appender, &topic, PARTITIONS, RATE, scale.seconds, make).await;
        // The last are on their way still.
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        let seen = receiver.statistics().await.healthy_age;
        say(&format!(
            "{}: p50 {:.2} ms, p99 {:.2} ms",
            if trouble { "beside trouble" } else { "alone" },
            seen.p50 as f64 / 1000.0,
            seen.p99 as f64 / 1000.0
        ));
        match (turn, trouble) {
            // The first one warms up.
            (0, _) => {}
            (_, true) => beside.push(seen),
            (_, false) => alone.push(seen),
        }
    }
    assert!(program.stop().await.success(), "it stops gracefully");
    let mean = |all: &[Spread], of: fn(&Spread) -> u64| {
        all.iter().map(|seen| of(seen) as f64).sum::<f64>() / all.len() as f64
    };
    let ratio = |of| mean(&beside, of) / mean(&alone, of);
    let (p50, p99) = (ratio(|seen| seen.p50), ratio(|seen| seen.p99));
    print(vec![
        Figure {
            name: "publish → request, ratio of p50",
            value: format!("{p50:.2}"),
            aim: "≤ 1.2",
            met: Some(p50 <= 1.2),
        },
        Figure {
            name: "publish → request, ratio of p99",
            value: format!("{p99:.2}"),
            aim: "≤ 1.5",
            met: Some(p99 <= 1.5),
        },
    ]);
}
