//! Against scripted servers: each test says in raw bytes what the server does.

mod answers;
mod limits;
mod places;
mod proxied;
mod server;
mod tls;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hookline_model::outcome::{Answer, ErrorClass};
use hookline_model::time::{Clock, Millis};

use super::*;
use crate::guard::UrlPolicyConfig;
use crate::transport::{Exchange, OutgoingRequest, Transport as _};

/// A clock that stands still: the client only reads when an exchange began.
pub(crate) struct Still;

impl Clock for Still {
    fn now(&self) -> Millis {
        Millis(1_700_000_000_000)
    }

    fn boot(&self) -> Duration {
        Duration::ZERO
    }
}

fn local_policy() -> UrlPolicy {
    UrlPolicy::new(UrlPolicyConfig {
        allow_http: true,
        allow_addresses: vec!["127.0.0.0/8".parse().expect("network")],
        ..UrlPolicyConfig::default()
    })
    .expect("policy")
}

/// A client that may reach loopback, and to which every name is one of these addresses.
fn client_with(names: &'static [&'static str]) -> HttpClient {
    let look_up: LookUp = Arc::new(move |_| {
        Ok(names
            .iter()
            .map(|a| a.parse::<IpAddr>().expect("address"))
            .collect())
    });
    HttpClient::with_look_up(ClientConfig::new(local_policy()), Arc::new(Still), look_up)
        .expect("client")
}

fn client() -> HttpClient {
    client_with(&["127.0.0.1"])
}

fn request(url: &str) -> OutgoingRequest {
    OutgoingRequest {
        method: http::Method::POST,
        target: local_policy().check(url).expect("allowed"),
        headers: http::HeaderMap::new(),
        body: Bytes::from_static(b"hello"),
        deadline: Duration::from_secs(5),
        tls: crate::transport::TlsOwn::default(),
    }
}

fn failed(exchange: &Exchange) -> ErrorClass {
    match exchange.answer {
        Answer::Failed(class) => {
            assert!(!exchange.detail.is_empty());
            class
        }
        Answer::Status(status) => panic!("a status: {status}"),
    }
}
