//! What the process answers over HTTP: metrics, health, and the API. The console comes to stand beside them.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::extract::State as Extract;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use hookline_journal::Journal;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::api::{self, Api, Problem};
use crate::lag::Lag;
use crate::metrics::Metrics;
use crate::tasks::{Board, State, Stop, TaskError};

/// How long readiness waits for the journal's answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// What the pages show. The journal and what follows from it are filled in once they are there.
pub(crate) struct Pages {
    metrics: Arc<Metrics>,
    board: Arc<Board>,
    started: OnceLock<(Arc<dyn Journal>, Lag)>,
    api: OnceLock<Arc<Api>>,
}

impl Pages {
    /// Pages of a process that has just begun.
    pub(crate) fn new(metrics: Arc<Metrics>, board: Arc<Board>) -> Arc<Self> {
        Arc::new(Self {
            metrics,
            board,
            started: OnceLock::new(),
            api: OnceLock::new(),
        })
    }

    /// The API, once there is one.
    ///
    /// # Errors
    /// As long as the process is starting.
    pub(crate) fn api(&self) -> Result<Arc<Api>, Problem> {
        let api = self.api.get().cloned();
        api.ok_or_else(|| {
            Problem::unavailable("this process is starting; `/readyz` says what it waits for")
        })
    }

    /// The journal answers, the registry is loaded and the roles were started.
    pub(crate) fn started(&self, journal: Arc<dyn Journal>, lag: Lag, api: Api) {
        // Said once in the life of a process; there is no second journal.
        drop(self.started.set((journal, lag)));
        drop(self.api.set(Arc::new(api)));
    }

    /// Nobody waits for anything any more.
    fn close(&self) {
        if let Some(api) = self.api.get() {
            api.following.close();
        }
    }

    /// What is not ready: name and why.
    async fn missing(&self) -> Vec<(String, String)> {
        let mut missing = Vec::new();
        match self.started.get() {
            None => {
                missing.push(("journal".into(), "has not answered yet".into()));
                missing.push(("registry".into(), "not loaded yet".into()));
            }
            Some((journal, _)) => {
                let answer = tokio::time::timeout(ANSWER_WITHIN, journal.healthy()).await;
                if answer != Ok(true) {
                    missing.push(("journal".into(), "does not answer".into()));
                }
            }
        }
        for (kind, state) in self.board.states() {
            let why = match state {
                State::Running => continue,
                State::Restarting(reason) => format!("failed and is started again: {reason}"),
                State::Failed(reason) => format!("failed: {reason}"),
                State::Stopped => "stopped".into(),
            };
            missing.push((kind.as_str().into(), why));
        }
        missing
    }
}

/// Serves the pages until told to stop.
pub(crate) async fn serve(
    listener: TcpListener,
    pages: Arc<Pages>,
    mut stop: Stop,
) -> Result<(), TaskError> {
    axum::serve(listener, router(Arc::clone(&pages)))
        .with_graceful_shutdown(async move {
            // An error means that the whole process is going.
            drop(stop.wait_for(|stop| *stop).await);
            pages.close();
        })
        .await?;
    Ok(())
}

fn router(pages: Arc<Pages>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route(
            "/healthz",
            get(|| async { Json(json!({"status": "alive"})) }),
        )
        .route("/readyz", get(ready))
        .merge(api::router())
        .fallback(nothing_there)
        .method_not_allowed_fallback(wrong_method)
        .with_state(pages)
}

async fn metrics(Extract(pages): Extract<Arc<Pages>>) -> Response {
    if let Some((_, lag)) = pages.started.get() {
        lag.refresh().await;
    }
    match pages.metrics.text() {
        Ok(text) => (
            [(
                header::CONTENT_TYPE,
                "text/plain; version=0.0.4; charset=utf-8",
            )],
            text,
        )
            .into_response(),
        Err(error) => Problem::internal(&error).into_response(),
    }
}

async fn ready(Extract(pages): Extract<Arc<Pages>>) -> Response {
    let missing = pages.missing().await;
    let status = if missing.is_empty() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let missing: Vec<Value> = missing
        .into_iter()
        .map(|(what, why)| json!({"what": what, "why": why}))
        .collect();
    let body = json!({"ready": missing.is_empty(), "missing": missing});
    (status, Json(body)).into_response()
}

async fn nothing_there(uri: Uri) -> Problem {
    Problem::not_found(format!("there is nothing at {}", uri.path()))
}

async fn wrong_method() -> Problem {
    Problem::wrong_method("the header Allow says what can be done here")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::Tasks;

    async fn read(path: &str, pages: Arc<Pages>) -> String {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (tell, stop) = tokio::sync::watch::channel(false);
        let client = async {
            let mut socket = tokio::net::TcpStream::connect(address)
                .await
                .expect("there");
            let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
            socket.write_all(request.as_bytes()).await.expect("sent");
            let mut answer = String::new();
            socket.read_to_string(&mut answer).await.expect("answered");
            tell.send_replace(true);
            answer
        };
        let (served, answer) = tokio::join!(serve(listener, pages, stop), client);
        served.expect("stops cleanly");
        answer
    }

    fn pages() -> Arc<Pages> {
        let metrics = Arc::new(Metrics::new(&crate::clock::SystemClock).expect("valid"));
        let tasks = Tasks::new(metrics.panics());
        Pages::new(metrics, tasks.board())
    }

    #[tokio::test]
    async fn a_process_that_has_just_begun_is_alive_but_not_ready() {
        let answer = read("/healthz", pages()).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let answer = read("/readyz", pages()).await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(answer.contains("\"what\":\"journal\""), "{answer}");
    }

    #[tokio::test]
    async fn metrics_are_text_and_everything_else_is_a_problem_document() {
        let answer = read("/metrics", pages()).await;
        assert!(answer.contains("text/plain; version=0.0.4"), "{answer}");
        assert!(answer.contains("hookline_build_info"), "{answer}");
        let answer = read("/v1/projects", pages()).await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(answer.contains("retry-after: 1"), "{answer}");
        let answer = read("/v2/projects", pages()).await;
        assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
        assert!(answer.contains("application/problem+json"), "{answer}");
    }
}
