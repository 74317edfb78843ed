//! How an endpoint is tried when its webhook is saved. Each kind is one request and one rule for its answer; the rules are pure.

use bytes::Bytes;
use hookline_model::body::Body;
use hookline_model::outcome::Answer;
use hookline_model::resource::{Verification, Webhook};
use hookline_model::signature::SigningKey;
use hookline_model::units::Rate;
use hookline_model::wire;
use hookline_registry::ConnectorEntry;
use http::{HeaderName, HeaderValue, Method};

use super::{Outside, Tried};
use crate::request::{Draft, Unbuilt, invalid};
use crate::transport::{Exchange, OutgoingRequest};

/// Where the abuse protection of CloudEvents' HTTP 1.1 Web Hooks, section 4, has its values.
const REQUEST_ORIGIN: HeaderName = HeaderName::from_static("webhook-request-origin");
const REQUEST_RATE: HeaderName = HeaderName::from_static("webhook-request-rate");
const ALLOWED_ORIGIN: &str = "webhook-allowed-origin";
const ALLOWED_RATE: &str = "webhook-allowed-rate";
/// The type of the body that asks for a text back.
const CHALLENGE: &str = "webhook.challenge";

/// What is needed for a try beside the webhook.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// What the request is signed with.
    pub keys: &'a [SigningKey],
    /// The connector of the webhook, if there is one of that name.
    pub connector: Option<&'a ConnectorEntry>,
    /// What is sent where a test event is wanted.
    pub event: &'a wire::Event,
    /// The `webhook-id`; unguessable, because it is also what a challenge asks for.
    pub id: &'a str,
}

/// What a try has shown.
#[derive(Debug, Clone)]
pub struct Findings {
    /// Whether the endpoint passed.
    pub passed: bool,
    /// Why not, for people; empty when it passed.
    pub detail: String,
    /// The rate that the endpoint grants, where it names one.
    pub rate: Option<Rate>,
    /// The request and what came of it.
    pub tried: Tried,
}

impl Findings {
    /// Whether a webhook that asks for this kind may not be saved with such findings.
    #[must_use]
    pub fn forbid(&self, kind: Verification) -> bool {
        !self.passed && kind != Verification::Get
    }
}

impl Outside {
    /// Tries the endpoint as the webhook asks for it; `None` where it asks for nothing.
    pub async fn verify(&self, webhook: &Webhook, asked: Asked<'_>) -> Option<Findings> {
        let kind = webhook.verification;
        let tried = match kind {
            Verification::None => return None,
            Verification::Test => self.test(webhook, asked).await,
            Verification::Head => self.probe(webhook, asked, Method::HEAD).await,
            Verification::Get => self.probe(webhook, asked, Method::GET).await,
            Verification::Challenge => self.challenge(webhook, asked).await,
            Verification::Handshake => self.handshake(webhook, asked).await,
        };
        let verdict = match kind {
            Verification::None => Ok(None),
            Verification::Head => head(tried.exchange.answer),
            Verification::Get | Verification::Test => success(webhook, &tried),
            Verification::Challenge => challenged(&tried.exchange, asked.id),
            Verification::Handshake => handshaken(&tried.exchange, &self.origin),
        };
        let (passed, detail, rate) = match verdict {
            Ok(rate) => (true, String::new(), rate),
            Err(detail) => (false, detail, None),
        };
        Some(Findings {
            passed,
            detail,
            rate,
            tried,
        })
    }

    async fn probe(&self, webhook: &Webhook, asked: Asked<'_>, method: Method) -> Tried {
        self.send(webhook, asked, |draft| self.plain(draft, method, none()))
            .await
    }

    async fn challenge(&self, webhook: &Webhook, asked: Asked<'_>) -> Tried {
        self.send(webhook, asked, |draft| {
            self.plain(draft, Method::POST, challenge(draft))
        })
        .await
    }

    async fn handshake(&self, webhook: &Webhook, asked: Asked<'_>) -> Tried {
        self.send(webhook, asked, |draft| {
            let mut request = self.plain(draft, Method::OPTIONS, none())?;
            let origin = HeaderValue::from_str(&self.origin)
                .map_err(|_| invalid("the origin cannot be sent as a header".into()))?;
            request.headers.insert(REQUEST_ORIGIN, origin);
            if let Some(rate) = draft.settings.rate_limit {
                let a_minute = HeaderValue::from(per_minute(rate));
                request.headers.insert(REQUEST_RATE, a_minute);
            }
            Ok(request)
        })
        .await
    }

    fn plain(
        &self,
        draft: &Draft<'_>,
        method: Method,
        body: Body,
    ) -> Result<OutgoingRequest, Unbuilt> {
        let target = draft.target(self.way.urls())?;
        let (request, _) = draft.with_body(target, method, body)?;
        Ok(request)
    }
}

fn none() -> Body {
    Body {
        bytes: Bytes::new(),
        content_type: None,
    }
}

fn challenge(draft: &Draft<'_>) -> Body {
    let body = serde_json::json!({
        "type": CHALLENGE,
        "timestamp": draft.now.to_rfc3339(),
        "challenge": draft.id,
    });
    Body {
        bytes: body.to_string().into(),
        content_type: Some("application/json".into()),
    }
}

/// Whole requests a minute, at least one.
fn per_minute(rate: Rate) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "rates are positive and far below 2^53"
    )]
    let whole = (rate.per_second() * 60.0).floor() as u64;
    whole.max(1)
}

type Verdict = Result<Option<Rate>, String>;

/// VidCorp checks that the URL exists: servers that know no `HEAD` still know that.
fn head(answer: Answer) -> Verdict {
    match answer {
        Answer::Status(status @ (404 | 410)) => {
            Err(format!("HEAD was answered with {status}: nothing is there"))
        }
        Answer::Status(status) if status >= 500 => {
            Err(format!("HEAD was answered with {status}, a server error"))
        }
        Answer::Status(_) => Ok(None),
        Answer::Failed(class) => Err(format!("HEAD was not answered ({class})")),
    }
}

fn success(webhook: &Webhook, tried: &Tried) -> Verdict {
    if tried.delivered(webhook) {
        return Ok(None);
    }
    let what = tried.sent.as_ref().map_or("the test", |sent| &sent.method);
    Err(match tried.exchange.answer {
        Answer::Status(status) => {
            format!("{what} was answered with {status}, which is no success for this webhook")
        }
        Answer::Failed(class) => {
            format!(
                "{what} was not answered ({class}): {}",
                tried.exchange.detail
            )
        }
    })
}

/// The text must come back, alone or as the member `challenge` of a JSON object.
fn challenged(exchange: &Exchange, text: &str) -> Verdict {
    match exchange.answer {
        Answer::Status(200..=299) => {}
        Answer::Status(status) => {
            return Err(format!("the challenge was answered with {status}"));
        }
        Answer::Failed(class) => {
            return Err(format!("the challenge was not answered ({class})"));
        }
    }
    let alone = exchange.body.trim_ascii() == text.as_bytes();
    let member = || {
        let body: serde_json::Value = serde_json::from_slice(&exchange.body).ok()?;
        let text = body.as_str().or_else(|| body.get("challenge")?.as_str())?;
        Some(text.to_owned())
    };
    if alone || member().as_deref() == Some(text) {
        return Ok(None);
    }
    Err(
        "the answer does not hold the challenge; answer with its text, alone or as {\"challenge\": …}"
            .into(),
    )
}

fn handshaken(exchange: &Exchange, origin: &str) -> Verdict {
    match exchange.answer {
        Answer::Status(200..=299) => {}
        Answer::Status(status) => return Err(format!("OPTIONS was answered with {status}")),
        Answer::Failed(class) => return Err(format!("OPTIONS was not answered ({class})")),
    }
    let header = |name: &str| {
        let value = exchange.headers.iter().find(|(n, _)| n == name);
        value.map(|(_, value)| String::from_utf8_lossy(value).trim().to_owned())
    };
    match header(ALLOWED_ORIGIN) {
        Some(allowed) if allowed == "*" || allowed.eq_ignore_ascii_case(origin) => {}
        Some(allowed) => {
            let allowed: String = allowed.chars().take(64).collect();
            return Err(format!(
                "OPTIONS was answered with WebHook-Allowed-Origin: {allowed:?}, but it is {origin} that asks"
            ));
        }
        None => {
            return Err(format!(
                "OPTIONS was answered without WebHook-Allowed-Origin; it must be {origin} or *"
            ));
        }
    }
    match header(ALLOWED_RATE).as_deref() {
        None | Some("*") => Ok(None),
        Some(text) => match text.parse::<u32>() {
            Ok(a_minute) if a_minute > 0 => format!("{a_minute}/m")
                .parse()
                .map(Some)
                .map_err(|error| format!("WebHook-Allowed-Rate: {error}")),
            _ => {
                let text: String = text.chars().take(64).collect();
                Err(format!(
                    "WebHook-Allowed-Rate is {text:?}; it must be a number of requests a minute, or *"
                ))
            }
        },
    }
}
