//! A client of the REST API, as a script would be one.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::header::HeaderMap;
use hyper::{Method, Request};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio::time::timeout;

use crate::program::{Program, Site};

/// How long an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Somebody with a key, at one process.
#[derive(Debug, Clone)]
pub struct Api {
    address: String,
    key: Option<String>,
}

/// What was answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body as JSON; `null` when there is none.
    pub body: Value,
}

impl Answer {
    /// A header as text; empty when it is not there.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.and_then(|v| v.to_str().ok()).unwrap_or_default()
    }

    /// The body of an answer that must have this status.
    ///
    /// # Panics
    /// When it has another.
    #[track_caller]
    #[must_use]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        self.body
    }

    /// The names of the fields that a problem document names.
    #[must_use]
    pub fn fields(&self) -> Vec<&str> {
        let errors = self.body["errors"].as_array();
        let fields = errors.into_iter().flatten();
        fields.filter_map(|error| error["field"].as_str()).collect()
    }
}

impl Api {
    /// With a new key of that role, made by the command line; bound to a project or not.
    ///
    /// # Panics
    /// When none is made.
    pub async fn with_role(
        site: &Site,
        program: &Program,
        role: &str,
        project: Option<&str>,
    ) -> Self {
        let mut arguments = vec!["keys", "create", "--role", role];
        arguments.extend(project.iter().flat_map(|project| ["--project", project]));
        let key = site.succeed(&arguments, "").await;
        Self::new(program, Some(key.trim()))
    }

    /// With this key, or none.
    #[must_use]
    pub fn new(program: &Program, key: Option<&str>) -> Self {
        Self {
            address: program.address().to_owned(),
            key: key.map(str::to_owned),
        }
    }

    /// The same key at another process.
    #[must_use]
    pub fn at(&self, program: &Program) -> Self {
        Self::new(program, self.key.as_deref())
    }

    /// Sends a request with JSON, and these headers besides.
    ///
    /// # Errors
    /// When there is no answer.
    ///
    /// # Panics
    /// When the answer is no JSON, or takes too long.
    pub async fn call(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Answer, String> {
        let mut request = Request::builder()
            .method(Method::from_bytes(method.as_bytes()).expect("a method"))
            .uri(format!("http://{}{path}", self.address));
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        if !headers.iter().any(|(name, _)| *name == "content-type") {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).expect("a request");
        let client: Client<HttpConnector, Full<Bytes>> =
            Client::builder(TokioExecutor::new()).build_http();
        let exchange = async {
            let response = client
                .request(request)
                .await
                .map_err(|e| format!("{e:?}"))?;
            let (head, body) = response.into_parts();
            let body = body.collect().await.map_err(|e| e.to_string())?.to_bytes();
            let body = match body.is_empty() {
                true => Value::Null,
                false => serde_json::from_slice(&body).expect("answers are JSON"),
            };
            Ok(Answer {
                status: head.status.as_u16(),
                headers: head.headers,
                body,
            })
        };
        timeout(ANSWER_WITHIN, exchange)
            .await
            .expect("an answer in time")
    }

    /// Sends JSON and returns what is answered.
    ///
    /// # Panics
    /// When nothing is.
    pub async fn send(&self, method: &str, path: &str, body: &Value) -> Answer {
        let answer = self.call(method, path, &[], body.to_string()).await;
        answer.expect("an answer")
    }

    /// Sends JSON on a condition.
    ///
    /// # Panics
    /// When nothing is answered.
    pub async fn send_if(&self, method: &str, path: &str, tag: &str, body: &Value) -> Answer {
        let headers = [("if-match", tag)];
        let answer = self.call(method, path, &headers, body.to_string()).await;
        answer.expect("an answer")
    }

    /// Sends nothing but the request.
    ///
    /// # Panics
    /// When nothing is answered.
    pub async fn ask(&self, method: &str, path: &str) -> Answer {
        let answer = self.call(method, path, &[], Bytes::new()).await;
        answer.expect("an answer")
    }

    /// Reads a file that must be there: its headers, and what stands in it.
    ///
    /// # Panics
    /// When it is not, or breaks off.
    pub async fn download(&self, path: &str) -> (HeaderMap, String) {
        let (headers, bytes) = self.download_bytes(path).await;
        let text = String::from_utf8(bytes.to_vec()).expect("it is text");
        (headers, text)
    }

    /// Downloads a file of any kind.
    ///
    /// # Panics
    /// When it does not come, or not to its end.
    pub async fn download_bytes(&self, path: &str) -> (HeaderMap, Bytes) {
        let mut request = Request::builder().uri(format!("http://{}{path}", self.address));
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let request = request.body(Full::new(Bytes::new())).expect("a request");
        let client: Client<HttpConnector, Full<Bytes>> =
            Client::builder(TokioExecutor::new()).build_http();
        let exchange = async {
            let response = client.request(request).await.expect("an answer");
            let (head, body) = response.into_parts();
            let body = body.collect().await.expect("it is whole").to_bytes();
            let status = head.status.as_u16();
            assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
            (head.headers, body)
        };
        timeout(ANSWER_WITHIN, exchange)
            .await
            .expect("an answer in time")
    }

    /// Reads something that must be there.
    ///
    /// # Panics
    /// When it is not.
    pub async fn get(&self, path: &str) -> Value {
        self.ask("GET", path).await.expect(200)
    }
}
