//! `make bench ARGS=outgoing`: what the way out costs a request, in processor time, over what a bare HTTP client takes for the same: the guard, the
//! limits, the signature. All against the same receiver in the same run; each client is a process of its own.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hookline_dispatch::WayOut;
use hookline_dispatch::client::{ClientConfig, HttpClient};
use hookline_dispatch::guard::{UrlPolicy, UrlPolicyConfig};
use hookline_dispatch::outside::{Asked, Outside};
use hookline_model::resource::{Resource, parse_documents};
use hookline_model::signature::{Scheme, SigningKey};
use hookline_model::time::Clock;
use hookline_model::wire;
use hookline_tests::program::SystemClock;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::bare::{self, Bare, IN_FLIGHT};
use crate::process::cpu_seconds;
use crate::receiver::ReceiverProcess;
use crate::{Figure, Scale, load, print, say, settle};

/// What the way out may cost more than a bare client, in microseconds of processor time a request.
const COST_MAX: f64 = 8.0;

pub(crate) async fn measure(scale: Scale) {
    say("hookline bench, outgoing: the way out beside a bare client; this takes a minute or two");
    let receiver = ReceiverProcess::start().await;
    say("a bare client …");
    let before = bare::measure(&receiver, scale).await;
    say("the way out, signing v1 …");
    let v1 = ours(&receiver, scale, Scheme::V1).await;
    say("the way out, signing v1a …");
    let v1a = ours(&receiver, scale, Scheme::V1a).await;
    say("the bare client once more, to see whether the machine held still …");
    let after = bare::measure(&receiver, scale).await;
    let base = f64::midpoint(before.cpu_us, after.cpu_us);
    let cost = v1.cpu_us - base;
    let figure = |name, value: String, aim, met| Figure {
        name,
        value,
        aim,
        met,
    };
    print(vec![
        figure(
            "bare client, CPU µs a request",
            format!("{base:.1} ({:.1}, {:.1})", before.cpu_us, after.cpu_us),
            "",
            None,
        ),
        figure(
            "the way out with v1, CPU µs a request; requests/s",
            format!("{:.1}; {:.0}", v1.cpu_us, v1.rate),
            "",
            None,
        ),
        figure(
            "guard, limits and v1 over the bare client, µs",
            format!("{cost:.1}"),
            "≤ 8",
            Some(cost <= COST_MAX),
        ),
        figure(
            "with v1a in its place, µs",
            format!("{:.1}", v1a.cpu_us - base),
            "",
            None,
        ),
    ]);
}

async fn ours(receiver: &ReceiverProcess, scale: Scale, scheme: Scheme) -> Bare {
    let this = std::env::current_exe().expect("this program has a path");
    let output = Command::new(this)
        .arg("way-out")
        .args([receiver.address(), &scale.seconds.to_string()])
        .arg(scheme.as_str())
        .stdin(Stdio::null())
        .output()
        .await
        .expect("this program can be started again");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    settle().await;
    serde_json::from_slice(&output.stdout).expect("it prints JSON")
}

/// The way out by itself: `way-out ADDRESS SECONDS SCHEME`.
pub(crate) async fn run(arguments: &[String]) {
    let [_, address, seconds, scheme] = arguments else {
        panic!("an address, seconds, a scheme")
    };
    let text = format!(
        "kind: Webhook\nproject: bench\nname: out\nurl: http://{address}/hooks/out\nevents: ['*']\n"
    );
    let webhook = match parse_documents(&text).expect("a webhook").remove(0) {
        Resource::Webhook(spec) => Arc::new(spec.settings),
        other => panic!("{other:?}"),
    };
    let policy = UrlPolicy::new(UrlPolicyConfig {
        allow_http: true,
        allow_addresses: vec!["127.0.0.0/8".parse().expect("a network")],
        ..UrlPolicyConfig::default()
    });
    let policy = policy.expect("a policy");
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let client = HttpClient::new(ClientConfig::new(policy.clone()), Arc::clone(&clock));
    let way = WayOut::new(Arc::new(client.expect("a client")), Arc::new(policy), clock);
    let outside = Outside::new(way, "hookline");
    let scheme = scheme.parse().expect("a scheme");
    let keys: Arc<[SigningKey]> = [SigningKey::new(scheme, &[7; 32]).expect("a key")].into();
    let event = Arc::new(wire::Event {
        id: "1".into(),
        source: "/bench".into(),
        project: "bench".into(),
        r#type: "bench.done".into(),
        time: "2026-01-01T00:00:00Z".into(),
        data: load::data().into(),
        ..wire::Event::default()
    });
    let seconds = seconds.parse().expect("seconds");
    let begun = Instant::now();
    let deadline = begun + Duration::from_secs(seconds);
    let count = Arc::new(AtomicU64::new(0));
    let pid = i32::try_from(std::process::id()).expect("process ids are small");
    let cpu_before = cpu_seconds(pid);
    let mut sending = JoinSet::new();
    for _ in 0..IN_FLIGHT {
        let (outside, webhook) = (outside.clone(), Arc::clone(&webhook));
        let (keys, event) = (Arc::clone(&keys), Arc::clone(&event));
        let count = Arc::clone(&count);
        bare::start(&mut sending, async move {
            while Instant::now() < deadline {
                let asked = Asked {
                    keys: &keys,
                    connector: None,
                    event: &event,
                    id: "0123456789abcdef0123456789abcdef",
                };
                let tried = outside.test(&webhook, asked).await;
                assert!(tried.delivered(&webhook), "{}", tried.exchange.detail);
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    while let Some(ended) = sending.join_next().await {
        ended.expect("it sends to the end");
    }
    let requests = count.load(Ordering::Relaxed) as f64;
    let ours = Bare {
        rate: requests / begun.elapsed().as_secs_f64(),
        cpu_us: (cpu_seconds(pid) - cpu_before) * 1e6 / requests,
    };
    say(&serde_json::to_string(&ours).expect("numbers are JSON"));
}
