//! Tokens of OAuth2 servers, by client credentials (RFC 6749, section 4.4): asked for once for all attempts that need them, kept while they are
//! fresh, and dropped when an endpoint refuses them. The request takes the same way out as every other: the same guard, the same limits.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use hookline_model::outcome::Answer;
use hookline_model::resource::{ClientAuth, ConnectorType, OAuth2, Secret};
use hookline_registry::ConnectorEntry;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method};
use parking_lot::Mutex;
use serde::Deserialize;
use url::form_urlencoded;

use crate::transport::{OutgoingRequest, TlsOwn};
use crate::way_out::WayOut;

/// How long a token server may take, where the attempt has not less time itself.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long a server is left alone after it was asked in vain, or in the place of a token that an endpoint had refused.
const REST: Duration = Duration::from_secs(1);
/// How long a token counts as fresh whose server does not say how long it lives.
const LIFE_DEFAULT: Duration = Duration::from_secs(300);
/// The longest that a token is kept.
const LIFE_MAX: Duration = Duration::from_secs(24 * 3600);
/// How long before its end a token is replaced, but for short-lived ones: those have a tenth of their life.
const MARGIN: Duration = Duration::from_secs(30);
/// Connectors whose tokens are kept; beyond that those that are not fresh go first.
const SLOTS_MAX: usize = 10_000;
/// Longer tokens fit into no header.
const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// The tokens of a process. See the module's documentation.
#[derive(Default)]
pub(crate) struct Tokens {
    slots: Mutex<HashMap<Key, Arc<Slot>>>,
}

/// Project and name of a connector.
type Key = (Arc<str>, Arc<str>);

/// What is known of one version of a connector. Whoever holds the lock asks; the others wait for what comes of it.
struct Slot {
    version: u64,
    state: tokio::sync::Mutex<State>,
}

#[derive(Default)]
struct State {
    held: Option<Held>,
    /// The server is not asked before this.
    rest_until: Duration,
    /// What came of asking, where it came to nothing.
    failed: String,
}

struct Held {
    token: Secret,
    fresh_until: Duration,
    valid_until: Duration,
    refused: bool,
}

/// What a server answers (RFC 6749, section 5.1).
#[derive(Deserialize)]
struct Granted {
    access_token: String,
    #[serde(default)]
    token_type: Option<String>,
    #[serde(default)]
    expires_in: Option<f64>,
}

/// What a server answers when it refuses (section 5.2).
#[derive(Deserialize)]
struct Refused {
    error: String,
}

impl Tokens {
    /// The token that requests with this connector carry; nothing where it is of another type.
    pub(crate) async fn of(
        &self,
        way: &WayOut,
        connector: &ConnectorEntry,
        deadline: Duration,
    ) -> Result<Option<Secret>, String> {
        let ConnectorType::OAuth2(client) = &connector.settings.of else {
            return Ok(None);
        };
        let slot = self.slot(connector);
        let fetched = tokio::time::timeout(deadline, async {
            let mut state = slot.state.lock().await;
            let now = way.clock().boot();
            if let Some(token) = state.usable(now) {
                return Ok(token);
            }
            if now < state.rest_until {
                return state.last_resort(now);
            }
            match fetch(way, connector, client, deadline.min(DEADLINE)).await {
                Ok((token, life)) => {
                    let now = way.clock().boot();
                    let refused = state.held.as_ref().is_some_and(|held| held.refused);
                    *state = State {
                        held: Some(Held::new(token.clone(), life, now)),
                        rest_until: if refused { now + REST } else { Duration::ZERO },
                        failed: String::new(),
                    };
                    Ok(token)
                }
                Err(why) => {
                    let now = way.clock().boot();
                    state.rest_until = now + REST;
                    state.failed = why;
                    state.last_resort(now)
                }
            }
        });
        match fetched.await {
            Ok(token) => token.map(Some),
            Err(_) => Err("no token came in the time that the attempt has".into()),
        }
    }

    /// An endpoint did not take this token: another is asked for, unless it has been replaced already.
    pub(crate) fn refused(&self, connector: &ConnectorEntry, token: &Secret) {
        let slot = self.slot(connector);
        // Whoever holds it asks for another one already, and this attempt does not wait for that.
        let Ok(mut state) = slot.state.try_lock() else {
            return;
        };
        if let Some(held) = state.held.as_mut().filter(|held| held.token == *token) {
            held.refused = true;
        }
    }

    fn slot(&self, connector: &ConnectorEntry) -> Arc<Slot> {
        let fresh = || {
            Arc::new(Slot {
                version: connector.version,
                state: tokio::sync::Mutex::default(),
            })
        };
        // What is not saved has no version to keep anything by.
        if connector.version == 0 {
            return fresh();
        }
        let key = (Arc::clone(&connector.project), Arc::clone(&connector.name));
        let mut slots = self.slots.lock();
        if slots.len() >= SLOTS_MAX && !slots.contains_key(&key) {
            // Whoever uses one holds it.
            slots.retain(|_, slot| Arc::strong_count(slot) > 1);
        }
        let slot = slots.entry(key).or_insert_with(fresh);
        // An attempt that began before the connector changed must not bring the old one back.
        if slot.version < connector.version {
            *slot = fresh();
        } else if slot.version > connector.version {
            return fresh();
        }
        Arc::clone(slot)
    }
}

impl Held {
    fn new(token: Secret, life: Duration, now: Duration) -> Self {
        Self {
            token,
            fresh_until: now + life.saturating_sub(MARGIN.min(life / 10)),
            valid_until: now + life,
            refused: false,
        }
    }
}

impl State {
    /// The token, as long as there is no reason to ask for another.
    fn usable(&self, now: Duration) -> Option<Secret> {
        let held = self.held.as_ref()?;
        // A server that gives the refused one again, or an endpoint that takes none, does not make us ask without end.
        let good = now < held.fresh_until && (!held.refused || now < self.rest_until);
        good.then(|| held.token.clone())
    }

    /// A token that is about to end is better than none.
    fn last_resort(&self, now: Duration) -> Result<Secret, String> {
        let held = self.held.as_ref().filter(|held| now < held.valid_until);
        held.map(|held| held.token.clone())
            .ok_or_else(|| self.failed.clone())
    }
}

async fn fetch(
    way: &WayOut,
    connector: &ConnectorEntry,
    client: &OAuth2,
    deadline: Duration,
) -> Result<(Secret, Duration), String> {
    let secret = connector.secret().map_err(|error| error.to_string())?;
    let request = request(way, client, secret, deadline)?;
    let exchange = way.exchange(request).await;
    match exchange.answer {
        Answer::Status(200) if exchange.body_truncated => {
            Err("the answer of the token server is too long".into())
        }
        Answer::Status(200) => granted(&exchange.body),
        Answer::Status(status) => {
            let code = refusal(&exchange.body);
            Err(format!("the token server answered with {status}{code}"))
        }
        Answer::Failed(class) => Err(format!(
            "the token server was not reached ({class}): {}",
            exchange.detail
        )),
    }
}

fn request(
    way: &WayOut,
    client: &OAuth2,
    secret: &Secret,
    deadline: Duration,
) -> Result<OutgoingRequest, String> {
    let target = way.urls().check(&client.token_url);
    let target = target.map_err(|refused| format!("token_url: {refused}"))?;
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", "client_credentials");
    if !client.scopes.is_empty() {
        form.append_pair("scope", &client.scopes.join(" "));
    }
    if let Some(audience) = &client.audience {
        form.append_pair("audience", audience);
    }
    let mut headers = HeaderMap::new();
    match client.client_auth {
        ClientAuth::Basic => {
            // Both are encoded as in a form before they are joined (RFC 6749, section 2.3.1).
            let encoded =
                |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
            let pair = format!(
                "{}:{}",
                encoded(&client.client_id),
                encoded(secret.expose())
            );
            let value = format!("Basic {}", BASE64_STANDARD.encode(pair));
            let mut value = HeaderValue::from_str(&value)
                .map_err(|_| "the client's credentials cannot be sent".to_owned())?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        ClientAuth::Body => {
            form.append_pair("client_id", &client.client_id);
            form.append_pair("client_secret", secret.expose());
        }
    }
    let form_type = HeaderValue::from_static("application/x-www-form-urlencoded");
    headers.insert(CONTENT_TYPE, form_type);
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    Ok(OutgoingRequest {
        method: Method::POST,
        target,
        headers,
        body: Bytes::from(form.finish()),
        deadline,
        tls: TlsOwn::default(),
    })
}

/// Nothing of the answer is repeated: it may be a token all the same.
fn granted(body: &[u8]) -> Result<(Secret, Duration), String> {
    let granted: Granted = serde_json::from_slice(body).map_err(|_| {
        "the token server's answer is no JSON object with an access_token".to_owned()
    })?;
    let kind = granted.token_type.as_deref().unwrap_or("bearer");
    if !kind.eq_ignore_ascii_case("bearer") {
        return Err("the token server gave a token of another type than bearer".into());
    }
    let token = granted.access_token;
    let fits = token.len() <= TOKEN_BYTES_MAX && token.bytes().all(|b| b.is_ascii_graphic());
    if token.is_empty() || !fits {
        return Err("the token server gave a token that cannot be sent in a header".into());
    }
    let seconds = granted.expires_in.filter(|s| s.is_finite() && *s > 0.0);
    let life = seconds.map_or(LIFE_DEFAULT, |s| {
        Duration::try_from_secs_f64(s).map_or(LIFE_MAX, |life| life.min(LIFE_MAX))
    });
    Ok((Secret::from(&*token), life))
}

/// The code of a refusal, where it is one of the standard's form.
fn refusal(body: &[u8]) -> String {
    let code = serde_json::from_slice(body).map(|Refused { error }| error);
    let word = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
    match code {
        Ok(code) if (1..=64).contains(&code.len()) && code.bytes().all(word) => {
            format!(" ({code})")
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests;
