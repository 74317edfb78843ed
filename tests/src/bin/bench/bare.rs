//! The bare client: hyper and hyper-util, the same request again and again, as many in flight as hookline may have.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::process::Command;
use tokio::time::Instant;

use crate::process::cpu_seconds;
use crate::receiver::ReceiverProcess;
use crate::{Scale, load, say, settle};

/// Requests in flight: what kept the receiver busiest.
pub(crate) const IN_FLIGHT: usize = 64;

/// What the bare client did.
#[derive(Debug, Clone, Copy, serde::Serialize, serde::Deserialize)]
pub(crate) struct Bare {
    /// Requests a second.
    pub(crate) rate: f64,
    /// Processor time of the client for each, in microseconds.
    pub(crate) cpu_us: f64,
}

/// Runs it as a process of its own against the receiver.
pub(crate) async fn measure(receiver: &ReceiverProcess, scale: Scale) -> Bare {
    drop(receiver.statistics().await);
    let this = std::env::current_exe().expect("this program has a path");
    let output = Command::new(this)
        .args(["bare", receiver.address(), &scale.seconds.to_string()])
        .stdin(Stdio::null())
        .output()
        .await
        .expect("this program can be started again");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let bare: Bare = serde_json::from_slice(&output.stdout).expect("the bare client prints JSON");
    let received = receiver.statistics().await;
    assert!(received.count > 0, "the receiver saw the bare client");
    settle().await;
    bare
}

/// The client itself: `bare ADDRESS SECONDS`.
pub(crate) async fn run(arguments: &[String]) {
    let address = arguments.get(1).expect("an address").clone();
    let seconds = arguments
        .get(2)
        .and_then(|s| s.parse().ok())
        .expect("seconds");
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client: Client<HttpConnector, Full<Bytes>> = Client::builder(TokioExecutor::new())
        .pool_max_idle_per_host(IN_FLIGHT)
        .build(connector);
    let count = Arc::new(AtomicU64::new(0));
    let uri: hyper::Uri = format!("http://{address}/hooks/bare")
        .parse()
        .expect("a URI");
    let body = Bytes::from(load::standard_body());
    let begun = Instant::now();
    let deadline = begun + Duration::from_secs(seconds);
    let pid = i32::try_from(std::process::id()).expect("process ids are small");
    let cpu_before = cpu_seconds(pid);
    let mut sending = tokio::task::JoinSet::new();
    for _ in 0..IN_FLIGHT {
        let (client, count, uri, body) = (
            client.clone(),
            Arc::clone(&count),
            uri.clone(),
            body.clone(),
        );
        start(&mut sending, async move {
            while Instant::now() < deadline {
                let response = client
                    .request(request(&uri, &body))
                    .await
                    .expect("an answer");
                response
                    .into_body()
                    .collect()
                    .await
                    .expect("a whole answer");
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    while sending.join_next().await.is_some() {}
    let requests = count.load(Ordering::Relaxed) as f64;
    let bare = Bare {
        rate: requests / begun.elapsed().as_secs_f64(),
        cpu_us: (cpu_seconds(pid) - cpu_before) * 1e6 / requests,
    };
    say(&serde_json::to_string(&bare).expect("numbers are JSON"));
}

/// A request like hookline's: as many headers, as long.
fn request(uri: &hyper::Uri, body: &Bytes) -> Request<Full<Bytes>> {
    Request::post(uri.clone())
        .header("content-type", "application/json")
        .header("user-agent", "hookline/0.1.0")
        .header("webhook-id", "0123456789abcdef0123456789abcdef")
        .header("webhook-timestamp", "1700000000")
        .header(
            "webhook-signature",
            "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=",
        )
        .header("hookline-attempt", "1")
        .body(Full::new(body.clone()))
        .expect("a request")
}

#[expect(
    clippy::disallowed_methods,
    reason = "the set is drained before the process ends"
)]
pub(crate) fn start(
    set: &mut tokio::task::JoinSet<()>,
    future: impl Future<Output = ()> + Send + 'static,
) {
    set.spawn(future);
}
