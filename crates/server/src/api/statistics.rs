//! `/v1/projects/{project}/statistics`: what attempts came to, per webhook, from the history's store.

use std::time::Duration;

use axum::Json;
use axum::extract::Path;
use axum::response::{IntoResponse as _, Response};
use hookline_history::{Figures, Interval, WebhookStatistics};
use hookline_model::time::Millis;
use hookline_model::topics::Topic;
use serde_json::{Map, Value, json};

use super::Problem;
use super::activities::within_three_months;
use super::attempts::unanswered;
use super::caller::{Caller, Read};
use super::request::Parameters;

/// Webhooks of one answer.
const LIMIT_MAX: usize = 100;
/// How long the interval is where its beginning is not said.
const SPAN: Duration = Duration::from_secs(24 * 3600);

/// `GET …/statistics`.
pub(super) async fn show(
    caller: Caller<Read>,
    Path(project): Path<String>,
    parameters: Parameters,
) -> Result<Response, Problem> {
    parameters.only(&["webhook", "from", "to", "limit", "cursor"])?;
    let page = parameters.page(&format!("statistics/{project}"))?;
    if page.limit() > LIMIT_MAX {
        let message = format!("must be from 1 to {LIMIT_MAX}");
        return Err(Problem::parameter("limit", message));
    }
    let now = caller.api.clock.now();
    let interval = interval(&parameters, now)?;
    let (webhooks, more) = match parameters.text("webhook") {
        Some(name) => {
            let found = caller.snapshot.by_name(&project, &name);
            let found = found
                .ok_or_else(|| Problem::parameter("webhook", "there is no webhook of this name"))?;
            (vec![(found.name.to_string(), found.uid.to_string())], false)
        }
        None => named(&caller, &project, page.after(), page.limit()),
    };
    let uids: Vec<String> = webhooks.iter().map(|(_, uid)| uid.clone()).collect();
    let store = &caller.api.history;
    let found = store.statistics(&project, &uids, interval).await;
    let found = found.map_err(unanswered)?;
    let kept_from = store.kept_from(Topic::Attempts).await.map_err(unanswered)?;
    let nothing = WebhookStatistics::default();
    let items = webhooks.iter().map(|(name, uid)| {
        let statistics = found.get(uid).unwrap_or(&nothing);
        item(name, uid, statistics, now)
    });
    let items: Vec<Value> = items.collect();
    let last = webhooks.last().filter(|_| more);
    Ok(Json(json!({
        "from": interval.from.to_rfc3339(),
        "to": interval.to.to_rfc3339(),
        "step": interval.step,
        "items": items,
        "next_cursor": last.map(|(name, _)| page.cursor(name)),
        "kept_from": kept_from.map(Millis::to_rfc3339),
    }))
    .into_response())
}

/// Names and uids of the project's webhooks behind `after`, by name, and whether there are more.
fn named(
    caller: &Caller<Read>,
    project: &str,
    after: Option<&str>,
    limit: usize,
) -> (Vec<(String, String)>, bool) {
    let webhooks = caller.snapshot.webhooks();
    let webhooks = webhooks.filter(|w| *w.project == *project);
    let mut named: Vec<_> = webhooks
        .filter(|w| after.is_none_or(|after| *w.name > *after))
        .map(|w| (w.name.to_string(), w.uid.to_string()))
        .collect();
    named.sort_unstable();
    let more = named.len() > limit;
    named.truncate(limit);
    (named, more)
}

fn interval(parameters: &Parameters, now: Millis) -> Result<Interval, Problem> {
    let to = parameters.moment("to")?.unwrap_or(now);
    let span = i64::try_from(SPAN.as_millis()).unwrap_or(i64::MAX);
    let from = parameters.moment("from")?;
    let from = from.unwrap_or(Millis(to.0.saturating_sub(span)));
    within_three_months(from, to)?;
    Ok(Interval::around(from, to, now))
}

fn item(name: &str, uid: &str, statistics: &WebhookStatistics, now: Millis) -> Value {
    let mut item = figures(&statistics.whole);
    item.insert("webhook".into(), name.into());
    item.insert("webhook_uid".into(), uid.into());
    let waits = statistics.oldest_waiting.map(|at| now.since(at).as_secs());
    item.insert("oldest_undelivered_seconds".into(), json!(waits));
    let series = statistics.series.iter().map(|(at, step)| {
        let mut step = figures(step);
        step.insert("at".into(), at.to_rfc3339().into());
        Value::Object(step)
    });
    item.insert("series".into(), series.collect());
    Value::Object(item)
}

fn figures(figures: &Figures) -> Map<String, Value> {
    let outcomes: Map<String, Value> = figures
        .outcomes()
        .map(|(word, count)| (word.to_owned(), count.into()))
        .collect();
    let members = [
        ("attempts", json!(figures.attempts())),
        ("delivered", json!(figures.delivered())),
        ("failed", json!(figures.failed())),
        ("outcomes", Value::Object(outcomes)),
        ("success_rate", json!(figures.success_rate())),
        ("latency_ms", json!(figures.latency())),
    ];
    members
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}
