//! Against a scripted token server, with a clock that is set by hand.

use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use hookline_model::outcome::ErrorClass;
use hookline_model::resource::{ConnectorSpec, Resource, parse_documents};
use hookline_model::time::{Clock, Millis};

use super::*;
use crate::attempt;
use crate::guard::{UrlPolicy, UrlPolicyConfig};
use crate::transport::{Exchange, Transport};

/// Answers every request with the next of its answers, after a moment in which others may come.
struct Server {
    answers: Mutex<Vec<(Answer, String)>>,
    requests: Mutex<Vec<OutgoingRequest>>,
}

#[async_trait]
impl Transport for Server {
    async fn exchange(&self, request: OutgoingRequest) -> Exchange {
        let number = {
            let mut requests = self.requests.lock();
            requests.push(request);
            requests.len() - 1
        };
        tokio::task::yield_now().await;
        let (answer, body) = self.answers.lock()[number].clone();
        Exchange {
            answer,
            body: body.into(),
            ..attempt::failed(Millis(0), ErrorClass::Internal, "as scripted".into())
        }
    }
}

#[derive(Default)]
struct ByHand(AtomicU64);

impl Clock for ByHand {
    fn now(&self) -> Millis {
        Millis(1_700_000_000_000)
    }

    fn boot(&self) -> Duration {
        Duration::from_secs(self.0.load(Ordering::Relaxed))
    }
}

struct Scene {
    server: Arc<Server>,
    clock: Arc<ByHand>,
    way: WayOut,
    tokens: Tokens,
}

impl Scene {
    fn new(answers: &[(u16, &str)]) -> Self {
        let answers = answers
            .iter()
            .map(|(status, body)| (Answer::Status(*status), (*body).to_owned()));
        Self::with(answers.collect())
    }

    fn with(answers: Vec<(Answer, String)>) -> Self {
        let server = Arc::new(Server {
            answers: Mutex::new(answers),
            requests: Mutex::default(),
        });
        let clock = Arc::new(ByHand::default());
        let urls = UrlPolicy::new(UrlPolicyConfig::default()).expect("policy");
        let way = WayOut::new(server.clone(), Arc::new(urls), clock.clone());
        Self {
            server,
            clock,
            way,
            tokens: Tokens::default(),
        }
    }

    fn at(&self, seconds: u64) {
        self.clock.0.store(seconds, Ordering::Relaxed);
    }

    fn asked(&self) -> usize {
        self.server.requests.lock().len()
    }

    async fn token(&self, connector: &ConnectorEntry) -> Result<String, String> {
        let deadline = Duration::from_secs(5);
        let token = self.tokens.of(&self.way, connector, deadline).await?;
        Ok(token.expect("of an OAuth2 connector").expose().to_owned())
    }
}

fn connector(more: &str) -> ConnectorEntry {
    let text = format!(
        "kind: Connector\nproject: shop\nname: login\ntype: oauth2\ntoken_url: https://login.example.com/token\nclient_id: \"hook line\"\nclient_secret: \"s:3cr3t&\"\n{more}"
    );
    let spec: Box<ConnectorSpec> = match parse_documents(&text).expect("valid").remove(0) {
        Resource::Connector(spec) => spec,
        other => panic!("{other:?}"),
    };
    let mut entry = ConnectorEntry::unsaved(&spec).expect("it has a secret");
    entry.version = 1;
    entry
}

const A: (u16, &str) = (
    200,
    r#"{"access_token": "a", "token_type": "Bearer", "expires_in": 100}"#,
);
const B: (u16, &str) = (200, r#"{"access_token": "b", "expires_in": 100}"#);

#[tokio::test]
async fn one_request_serves_all_attempts_until_the_token_grows_old() {
    let scene = Scene::new(&[A, B]);
    let connector = connector("");
    let all = (0..50).map(|_| scene.token(&connector));
    for token in futures::future::join_all(all).await {
        assert_eq!(token.as_deref(), Ok("a"));
    }
    scene.at(89);
    assert_eq!(scene.token(&connector).await.as_deref(), Ok("a"));
    assert_eq!(scene.asked(), 1, "they share it");
    scene.at(91);
    assert_eq!(scene.token(&connector).await.as_deref(), Ok("b"));
}

#[tokio::test]
async fn the_request_is_that_of_the_standard() {
    for (more, authorization, body) in [
        (
            "scopes: [a, b]\naudience: https://crm.example.com/",
            // Both parts encoded as in a form: hook+line:s%3A3cr3t%26
            Some("Basic aG9vaytsaW5lOnMlM0EzY3IzdCUyNg=="),
            "grant_type=client_credentials&scope=a+b&audience=https%3A%2F%2Fcrm.example.com%2F",
        ),
        (
            "client_auth: body",
            None,
            "grant_type=client_credentials&client_id=hook+line&client_secret=s%3A3cr3t%26",
        ),
    ] {
        let scene = Scene::new(&[A]);
        scene.token(&connector(more)).await.expect("a token");
        let request = scene.server.requests.lock().remove(0);
        assert_eq!(request.method, Method::POST);
        assert_eq!(request.target.url(), "https://login.example.com/token");
        assert_eq!(request.body, body);
        let sent = request.headers.get(AUTHORIZATION);
        assert_eq!(
            sent.map(HeaderValue::as_bytes),
            authorization.map(str::as_bytes)
        );
        assert!(sent.is_none_or(HeaderValue::is_sensitive));
        assert_eq!(
            request.headers[CONTENT_TYPE],
            "application/x-www-form-urlencoded"
        );
    }
}

#[tokio::test]
async fn a_refused_token_is_dropped_but_not_more_than_once_a_second() {
    let scene = Scene::new(&[A, B, A]);
    let connector = connector("");
    let refuse = |token: &str| scene.tokens.refused(&connector, &Secret::from(token));
    scene.token(&connector).await.expect("a token");
    refuse("other");
    assert_eq!(scene.token(&connector).await.as_deref(), Ok("a"));
    refuse("a");
    assert_eq!(scene.token(&connector).await.as_deref(), Ok("b"));
    refuse("b");
    assert_eq!(
        scene.token(&connector).await.as_deref(),
        Ok("b"),
        "too soon"
    );
    scene.at(1);
    assert_eq!(scene.token(&connector).await.as_deref(), Ok("a"));
    assert_eq!(scene.asked(), 3);
}

#[tokio::test]
async fn what_fails_is_told_once_a_second_and_an_old_token_helps_out() {
    let down = (503, "down");
    let scene = Scene::new(&[down, A, down, down]);
    let connector = connector("");
    let wrong = "the token server answered with 503";
    assert_eq!(scene.token(&connector).await.unwrap_err(), wrong);
    assert_eq!(scene.token(&connector).await.unwrap_err(), wrong);
    assert_eq!(scene.asked(), 1);
    scene.at(2);
    assert_eq!(scene.token(&connector).await.as_deref(), Ok("a"));
    scene.at(95);
    assert_eq!(scene.token(&connector).await.as_deref(), Ok("a"), "for now");
    assert_eq!(scene.asked(), 3);
    scene.at(103);
    assert_eq!(scene.token(&connector).await.unwrap_err(), wrong);
}

#[tokio::test]
async fn a_changed_connector_asks_anew_and_an_unsaved_one_keeps_nothing() {
    let scene = Scene::new(&[A, B, A, A]);
    let mut connector = connector("");
    assert_eq!(scene.token(&connector).await.as_deref(), Ok("a"));
    connector.version = 2;
    assert_eq!(scene.token(&connector).await.as_deref(), Ok("b"));
    // An attempt from before the change does not bring the old token back.
    connector.version = 1;
    assert_eq!(scene.token(&connector).await.as_deref(), Ok("a"));
    connector.version = 2;
    assert_eq!(scene.token(&connector).await.as_deref(), Ok("b"));
    connector.version = 0;
    assert_eq!(scene.token(&connector).await.as_deref(), Ok("a"));
    assert_eq!(scene.asked(), 4);
}

#[tokio::test]
async fn bad_answers_have_words_and_repeat_nothing() {
    for (answer, body, why) in [
        (
            Answer::Status(401),
            r#"{"error": "invalid_client", "error_description": "hush"}"#,
            "the token server answered with 401 (invalid_client)",
        ),
        (
            Answer::Status(400),
            r#"{"error": "<b>hush</b>"}"#,
            "the token server answered with 400",
        ),
        (
            Answer::Status(302),
            "hush",
            "the token server answered with 302",
        ),
        (
            Answer::Status(200),
            "access_token=hush",
            "the token server's answer is no JSON object with an access_token",
        ),
        (
            Answer::Status(200),
            r#"{"access_token": "hush", "token_type": "mac"}"#,
            "the token server gave a token of another type than bearer",
        ),
        (
            Answer::Status(200),
            r#"{"access_token": "hush\r\nx: y"}"#,
            "the token server gave a token that cannot be sent in a header",
        ),
        (
            Answer::Failed(ErrorClass::Blocked),
            "",
            "the token server was not reached (blocked): as scripted",
        ),
    ] {
        let scene = Scene::with(vec![(answer, body.to_owned())]);
        assert_eq!(scene.token(&connector("")).await.unwrap_err(), why);
    }
    let refused = connector("");
    let mut spec = refused.settings.clone();
    spec.secret = Some(Secret::from("x"));
    if let ConnectorType::OAuth2(client) = &mut spec.of {
        client.token_url = "https://127.0.0.1/token".into();
    }
    let entry = ConnectorEntry::unsaved(&spec).expect("it has a secret");
    let why = Scene::with(Vec::new()).token(&entry).await.unwrap_err();
    assert!(why.starts_with("token_url: "), "{why}");
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_a_token_waits_no_longer_than_its_attempt_may() {
    let scene = Scene::new(&[A]);
    let connector = connector("");
    let slot = scene.tokens.slot(&connector);
    let asking = slot.state.lock().await;
    let why = scene.token(&connector).await.unwrap_err();
    assert_eq!(why, "no token came in the time that the attempt has");
    drop(asking);
    assert_eq!(scene.token(&connector).await.as_deref(), Ok("a"));
}

#[test]
fn lives_are_bounded() {
    for (expires_in, life) in [
        ("", LIFE_DEFAULT),
        (r#", "expires_in": 3600"#, Duration::from_secs(3600)),
        (r#", "expires_in": 1e30"#, LIFE_MAX),
        (r#", "expires_in": -5"#, LIFE_DEFAULT),
        (r#", "expires_in": 0"#, LIFE_DEFAULT),
    ] {
        let body = format!(r#"{{"access_token": "a"{expires_in}}}"#);
        let (_, found) = granted(body.as_bytes()).expect(expires_in);
        assert_eq!(found, life, "{expires_in}");
    }
}
