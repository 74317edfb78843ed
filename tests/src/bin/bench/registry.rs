//! `make bench ARGS=registry`: a registry of a hundred thousand webhooks. How fast it loads, what it takes in memory, how fast an event is matched
//! against it, and how fast the API answers beside it.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use hookline_registry::{Kek, Registry, RegistryConfig, Sealer};
use hookline_tests::api::Api;
use hookline_tests::program::{Engine, Program, Site, SystemClock};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval};

use crate::process::{Spread, rss_mib};
use crate::{Figure, Scale, print, say, settle};

/// Customers of a platform, each with some registrations.
const PROJECTS: usize = 100;
/// Types that the webhooks of a project are spread over; each has one pattern with a category's wildcard, too.
const TYPES: usize = 100;
/// Documents of one `apply`.
const APPLIED_AT_ONCE: usize = 5_000;
/// Requests a second, a tenth of them writes.
const API_RATE: u64 = 200;

pub(crate) async fn measure(scale: Scale) {
    let webhooks = if scale.deliveries >= Scale::FULL.deliveries {
        100_000
    } else {
        10_000
    };
    say("hookline bench, registry: real Kafka, one machine; this takes some minutes");
    let site = Site::new(Engine::Kafka).await;
    say("an empty one …");
    let (program, _) = started(&site).await;
    settle().await;
    let empty = rss_mib(program.pid().as_raw());
    assert!(program.stop().await.success(), "it stops gracefully");
    let begun = Instant::now();
    for first in (0..webhooks).step_by(APPLIED_AT_ONCE) {
        let some: String = (first..first + APPLIED_AT_ONCE).map(document).collect();
        site.apply(&some).await;
        say(&format!("{} webhooks …", first + APPLIED_AT_ONCE));
    }
    let applied = webhooks as f64 / begun.elapsed().as_secs_f64();
    say("loading them …");
    let (program, load) = started(&site).await;
    settle().await;
    let each = (rss_mib(program.pid().as_raw()) - empty) * 1024.0 / webhooks as f64;
    say("matching …");
    let matching = matching(&site).await;
    say("the API at 200 requests/s …");
    let answers = answers(&site, &program, scale).await;
    assert!(program.stop().await.success(), "it stops gracefully");

    let ms = |us: u64| us as f64 / 1000.0;
    print(vec![
        Figure {
            name: "webhooks; applied by the command line, each second",
            value: format!("{webhooks}; {applied:.0}"),
            aim: "",
            met: None,
        },
        Figure {
            name: "from start to ready, s",
            value: format!("{:.1}", load.as_secs_f64()),
            aim: "≤ 10",
            met: Some(load <= Duration::from_secs(10)),
        },
        Figure {
            name: "memory of each, KiB",
            value: format!("{each:.2}"),
            aim: "≤ 3",
            met: Some(each <= 3.0),
        },
        Figure {
            name: "matching an event, µs",
            value: format!("{matching:.2}"),
            aim: "≤ 10",
            met: Some(matching <= 10.0),
        },
        Figure {
            name: "API at 200/s, p50 / p99, ms",
            value: format!("{:.1} / {:.1}", ms(answers.p50), ms(answers.p99)),
            aim: "≤ 20",
            met: Some(answers.p99 <= 20_000),
        },
    ]);
}

async fn started(site: &Site) -> (Program, Duration) {
    let begun = Instant::now();
    let program = site.start().await;
    (program, begun.elapsed())
}

fn document(n: usize) -> String {
    let (project, kind) = (n % PROJECTS, n / PROJECTS % TYPES);
    format!(
        "kind: Webhook\nproject: customer-{project}\nname: hook-{n}\ntitle: Number {n}\nurl: https://receiver-{n}.example.com/hooks/{n}\nevents: [\"kind-{kind}.done\", \"rare-{kind}.*\"]\nheaders: {{x-tenant: \"{n}\"}}\n---\n"
    )
}

/// Microseconds for all webhooks of one event, ten of a thousand of its project and of all the others.
async fn matching(site: &Site) -> f64 {
    const EVENTS: usize = 200_000;
    let key = std::fs::read_to_string(site.dir().join("hookline.key")).expect("the site's key");
    let sealer = Sealer::new(&Kek::from_base64(key.trim()).expect("a key"));
    let config = RegistryConfig::new(site.topic(""));
    let journal = site.journal().await;
    let registry = Registry::open(journal, config, Arc::new(SystemClock), sealer).await;
    let snapshot = registry.expect("the registry can be read").snapshot();
    let names: Vec<_> = (0..PROJECTS * TYPES)
        .map(|n| {
            let (project, kind) = (n % PROJECTS, n / PROJECTS);
            (format!("customer-{project}"), format!("kind-{kind}.done"))
        })
        .collect();
    let begun = Instant::now();
    let mut matched = 0;
    for (project, kind) in names.iter().cycle().take(EVENTS) {
        matched += black_box(snapshot.matching(project, kind)).count();
    }
    let took = begun.elapsed();
    assert!(matched >= EVENTS, "every event matches somebody");
    took.as_secs_f64() * 1e6 / EVENTS as f64
}

/// Latencies of reads and writes that come at a steady rate, whether those before were answered or not.
async fn answers(site: &Site, program: &Program, scale: Scale) -> Spread {
    let api = Api::with_role(site, program, "admin", None).await;
    let mut ticks = interval(Duration::from_micros(1_000_000 / API_RATE));
    let mut asked = JoinSet::new();
    for n in 0..usize::try_from(scale.seconds * API_RATE).expect("not many") {
        ticks.tick().await;
        let api = api.clone();
        #[expect(
            clippy::disallowed_methods,
            reason = "the set is reaped below, and a benchmark has no supervisor"
        )]
        asked.spawn(async move {
            let (project, hook) = (n % PROJECTS, n % 1_000);
            let hook = hook - hook % PROJECTS + project;
            let hooks = format!("/v1/projects/customer-{project}/webhooks");
            let one = format!("{hooks}/hook-{hook}");
            let begun = Instant::now();
            let answer = match n % 10 {
                0 => {
                    let body = format!("{{\"title\": \"Number {n}\"}}");
                    api.call("PATCH", &one, &[], body).await
                }
                1 => api.call("GET", &format!("{hooks}?limit=50"), &[], "").await,
                _ => api.call("GET", &one, &[], "").await,
            };
            let took = begun.elapsed();
            drop(answer.expect("there is an answer").expect(200));
            took
        });
    }
    let took = asked.join_all().await.into_iter();
    Spread::of(
        took.map(|span| u64::try_from(span.as_micros()).unwrap_or(u64::MAX))
            .collect(),
    )
}
