//! The request of an attempt, of a test, of a verification: body, headers, signature. Built once, signed and sent byte for byte.

use bytes::Bytes;
use hookline_model::body::{self, Body, BodyForm};
use hookline_model::core::lane::{LaneKey, LaneKind};
use hookline_model::ids::Position;
use hookline_model::outcome::ErrorClass;
use hookline_model::resource::{Secret, Webhook};
use hookline_model::signature::{self, SigningKey};
use hookline_model::time::Millis;
use hookline_model::wire;
use hookline_registry::ConnectorEntry;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use crate::credentials::Credentials;
use crate::guard::{Target, UrlPolicy};
use crate::transport::{OutgoingRequest, TlsOwn};

/// Why a request cannot be built: what kind of failure that is, and a sentence for people.
pub(crate) type Unbuilt = (ErrorClass, String);

/// Marks a request as a test.
const TEST: &str = "hookline-test";

/// Where a send of an ordered webhook stands, for receivers that check.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    /// `hookline-lane`: sequences compare within it.
    lane: String,
    /// `hookline-sequence`.
    sequence: u64,
}

impl Order {
    /// `None`: what stands in this lane is in no order.
    pub(crate) fn of(lane: LaneKey, position: Position) -> Option<Self> {
        let webhook = lane.webhook;
        let lane = match lane.kind {
            LaneKind::Ordered => webhook.to_string(),
            LaneKind::OrderedBulk => format!("{webhook}/bulk"),
            LaneKind::Key(key) => format!("{webhook}/{key}"),
            LaneKind::Fresh | LaneKind::Due | LaneKind::Bulk => return None,
        };
        Some(Self {
            lane,
            sequence: position.sequence(),
        })
    }
}

/// What a request is made of.
pub(crate) struct Draft<'a> {
    pub(crate) settings: &'a Webhook,
    /// The `webhook-id`.
    pub(crate) id: &'a str,
    /// 1, 2, …
    pub(crate) attempt: u32,
    /// Just before sending: receivers refuse what is more than five minutes old.
    pub(crate) now: Millis,
    pub(crate) keys: &'a [SigningKey],
    /// The connector of the webhook, if there is one of that name.
    pub(crate) connector: Option<&'a ConnectorEntry>,
    /// The token that was had for it, where it needs one.
    pub(crate) token: Option<&'a Secret>,
    /// Its place in the order, where there is one.
    pub(crate) order: Option<Order>,
    /// It is not for real, and says so.
    pub(crate) test: bool,
}

impl Draft<'_> {
    /// A request with an event, and what is recorded of it.
    pub(crate) fn with_event(
        &self,
        urls: &UrlPolicy,
        event: &wire::Event,
        accepted_at: Millis,
    ) -> Result<(OutgoingRequest, wire::Request), Unbuilt> {
        let form = self.settings.body;
        let body = match self.test {
            true => body::build_test(form, event, accepted_at),
            false => body::build(form, event, accepted_at),
        };
        self.with_method(urls, body)
    }

    /// The same with the events of a batch. Should the webhook's bodies no longer be lists, what began as a batch is one all the same.
    pub(crate) fn with_events<'e>(
        &self,
        urls: &UrlPolicy,
        events: impl Iterator<Item = (&'e wire::Event, Millis)>,
    ) -> Result<(OutgoingRequest, wire::Request), Unbuilt> {
        let form = match self.settings.body {
            BodyForm::Ndjson => BodyForm::Ndjson,
            _ => BodyForm::Array,
        };
        self.with_method(urls, body::build_batch(form, events))
    }

    fn with_method(
        &self,
        urls: &UrlPolicy,
        body: Body,
    ) -> Result<(OutgoingRequest, wire::Request), Unbuilt> {
        let target = self.target(urls)?;
        let method = Method::from_bytes(self.settings.method.as_str().as_bytes())
            .map_err(|e| invalid(e.to_string()))?;
        self.with_body(target, method, body)
    }

    /// Where to; judged anew each time.
    pub(crate) fn target(&self, urls: &UrlPolicy) -> Result<Target, Unbuilt> {
        let url = &self.settings.url;
        let plain = urls.check(url);
        let plain = plain.map_err(|refused| (ErrorClass::UrlRefused, refused.to_string()))?;
        self.credentials()?.target(urls, url, plain)
    }

    fn credentials(&self) -> Result<Credentials<'_>, Unbuilt> {
        Credentials::of(self.settings, self.connector, self.token)
    }

    /// A request with this body.
    pub(crate) fn with_body(
        &self,
        target: Target,
        method: Method,
        body: Body,
    ) -> Result<(OutgoingRequest, wire::Request), Unbuilt> {
        let settings = self.settings;
        let timestamp = self.now.0.div_euclid(1000);
        let signed = signature::sign(self.id, timestamp, &body.bytes, self.keys);
        let mut headers = HeaderMap::with_capacity(7 + settings.headers.len());
        for (name, value) in settings.headers.iter() {
            let name = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| invalid(format!("header name {name:?} cannot be sent")))?;
            headers.append(name, text(value)?);
        }
        let credentials = self.credentials()?;
        credentials.put(&mut headers)?;
        let mut shown = Vec::with_capacity(5);
        let mut ours = |name: &'static str, value: HeaderValue, show: bool| {
            if show {
                shown.push(wire::Header {
                    name: name.to_owned(),
                    value: Bytes::copy_from_slice(value.as_bytes()),
                });
            }
            headers.insert(HeaderName::from_static(name), value);
        };
        if let Some(content_type) = &body.content_type {
            ours("content-type", text(content_type)?, true);
        }
        ours("webhook-id", text(self.id)?, true);
        ours("webhook-timestamp", HeaderValue::from(timestamp), true);
        ours("webhook-signature", text(&signed)?, false);
        ours("hookline-attempt", HeaderValue::from(self.attempt), true);
        if let Some(order) = &self.order {
            ours("hookline-lane", text(&order.lane)?, true);
            ours("hookline-sequence", HeaderValue::from(order.sequence), true);
        }
        if self.test {
            ours(TEST, HeaderValue::from_static("true"), true);
        }
        #[cfg(feature = "failpoints")]
        if let Some(name) = named_worker() {
            ours("hookline-worker", text(&name)?, false);
        }
        let recorded = wire::Request {
            method: method.to_string(),
            url: settings.url.clone(),
            headers: shown,
            body_bytes: body.bytes.len() as u64,
        };
        let request = OutgoingRequest {
            method,
            target,
            headers,
            body: body.bytes,
            deadline: settings.deadline,
            tls: TlsOwn {
                authorities: settings.trusted_ca.clone(),
                identity: credentials.identity(),
            },
        };
        Ok((request, recorded))
    }
}

fn text(value: &str) -> Result<HeaderValue, Unbuilt> {
    HeaderValue::from_str(value).map_err(|e| invalid(format!("a header value cannot be sent: {e}")))
}

pub(crate) fn invalid(detail: String) -> Unbuilt {
    (ErrorClass::RequestInvalid, detail)
}

/// The name that a test has given to this process, so that a receiver can tell its requests from those of others.
#[cfg(feature = "failpoints")]
fn named_worker() -> Option<String> {
    fail::fail_point!("request-names-its-worker", |name| name);
    None
}
