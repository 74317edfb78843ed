//! `/v1/projects/{project}/activities`: the events themselves, from the history's store, page by page and as they come.
//!
//! A cursor is a place in the order in which events came into the store, with the interval that the list began with: what comes later stands
//! behind it, however late it comes and whatever its time.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::Path;
use axum::response::{IntoResponse as _, Response};
use hookline_history::{
    Activity, ActivityEnd, ActivityFilter, ActivityPage, Store, StoreError, Wanted,
};
use hookline_model::filter::{EventData, Subject};
use hookline_model::time::Millis;
use hookline_model::topics::Topic;
use hookline_model::units::parse_duration;
use hookline_registry::WebhookEntry;
use serde::Serialize;
use tokio::sync::{Mutex, Semaphore, watch};
use tokio::time::{Instant, timeout_at};

use super::Problem;
use super::attempts::unanswered;
use super::caller::{Caller, Read};
use super::request::{Page, Parameters};

/// The longest that a call waits for something new.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// How often the store is asked whether there is something new, for all that wait together.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Calls of one process that wait at the same time.
const WAITING_MAX: usize = 256;
/// Parts of a list that one call looks through in vain before it says how far it came.
const VAIN_PARTS_MAX: usize = 10;
/// How long the interval is where its beginning is not said.
const SPAN: Duration = Duration::from_secs(24 * 3600);

#[derive(Serialize)]
struct Answer {
    items: Vec<Activity>,
    next_cursor: Option<String>,
    kept_from: Option<String>,
}

/// `GET …/activities`, in the order in which they came.
pub(super) async fn list(
    caller: Caller<Read>,
    Path(project): Path<String>,
    parameters: Parameters,
) -> Result<Response, Problem> {
    parameters.only(&[
        "from", "to", "email", "status", "type", "webhook", "limit", "cursor", "wait",
    ])?;
    let wait = wait(&parameters)?;
    let page = parameters.page(&format!("activities/{project}"))?;
    let given = page.after().map(Given::parse).transpose()?;
    let now = caller.api.clock.now();
    let (from, to) = interval(&parameters, given.as_ref(), now)?;
    let webhook = match parameters.text("webhook") {
        None => None,
        Some(name) => Some(subscription(&caller, &project, &name)?),
    };
    let asked = Asked {
        store: &caller.api.history,
        project: &project,
        filter: ActivityFilter {
            email: parameters.text("email"),
            status: parameters.text("status"),
            event_type: parameters.text("type"),
            patterns: webhook.as_ref().map(|w| w.settings.events.to_vec()),
            from: Some(from),
            to,
        },
        webhook: webhook.filter(|webhook| webhook.settings.filter.is_some()),
        limit: page.limit(),
    };
    let following = &caller.api.following;
    let end = asked.store.activities_end().await.map_err(unanswered)?;
    let after = given.as_ref().map_or(0, |given| given.seq);
    if after > 0 && given.is_some_and(|given| given.began != end.began) {
        return Err(Problem::parameter(
            "cursor",
            "is of a history store that was made anew since; begin without one, with `from` where you were",
        ));
    }
    let mut found = asked.after(after).await.map_err(unanswered)?;
    if let Some(wait) = wait
        && found.items.is_empty()
        && !found.more
        && !wait.is_zero()
    {
        let until = Instant::now() + wait;
        found = following.wait(&asked, found, end, until).await?;
    }
    let kept_from = asked.store.kept_from(Topic::Events).await;
    let kept_from = kept_from.map_err(unanswered)?;
    // A store begins when something first comes into it.
    let began = match end.began {
        0 if found.position > 0 => {
            asked
                .store
                .activities_end()
                .await
                .map_err(unanswered)?
                .began
        }
        began => began,
    };
    let next = (found.more || wait.is_some()).then(|| {
        let place = Given {
            began,
            seq: found.position,
            from,
            to,
        };
        cursor(&page, &place)
    });
    Ok(Json(Answer {
        items: found.items,
        next_cursor: next,
        kept_from: kept_from.map(Millis::to_rfc3339),
    })
    .into_response())
}

/// A webhook's subscription as it is now, whatever its state.
fn subscription(
    caller: &Caller<Read>,
    project: &str,
    name: &str,
) -> Result<Arc<WebhookEntry>, Problem> {
    let found = caller.snapshot.by_name(project, name).cloned();
    found.ok_or_else(|| Problem::parameter("webhook", "there is no webhook of this name"))
}

/// Whether a webhook's filter wants the event; one without an answer does not, as in fan-out.
fn wants(webhook: &WebhookEntry, activity: &Activity) -> bool {
    match webhook.filter() {
        None => true,
        Some(Err(_)) => false,
        Some(Ok(filter)) => {
            let event = activity.to_event();
            let data = EventData::of(&event);
            filter.wants(&Subject::new(&event, &data)) == Ok(true)
        }
    }
}

/// `20s`, at most [`WAIT_MAX`].
fn wait(parameters: &Parameters) -> Result<Option<Duration>, Problem> {
    let Some(text) = parameters.text("wait") else {
        return Ok(None);
    };
    if matches!(text.as_str(), "0" | "0s") {
        return Ok(Some(Duration::ZERO));
    }
    match parse_duration(&text) {
        Ok(wait) if wait <= WAIT_MAX => Ok(Some(wait)),
        Ok(_) => Err(Problem::parameter("wait", "must be at most 60s")),
        Err(error) => Err(Problem::parameter("wait", error.to_string())),
    }
}

/// From when and up to when. Behind a cursor what the list began with goes on, where nothing else is said; without `to` it has no end, as
/// what is accepted while it is read belongs to it.
fn interval(
    parameters: &Parameters,
    given: Option<&Given>,
    now: Millis,
) -> Result<(Millis, Option<Millis>), Problem> {
    let (from, to) = (parameters.moment("from")?, parameters.moment("to")?);
    if let Some(given) = given
        && from.is_none()
        && to.is_none()
    {
        return Ok((given.from, given.to));
    }
    let to_or_given = to.or(given.and_then(|given| given.to));
    let end = to_or_given.unwrap_or(now);
    let from = match (from, given) {
        (Some(from), _) => from,
        (None, Some(given)) => given.from,
        (None, None) => {
            let span = i64::try_from(SPAN.as_millis()).unwrap_or(i64::MAX);
            Millis(end.0.saturating_sub(span))
        }
    };
    // Who follows a list that has no end may do so for longer; what it costs depends on the cursor.
    if given.is_none() || to.is_some() {
        within_three_months(from, end)?;
    }
    Ok((from, to_or_given))
}

/// The longest interval that may be asked about: by the calendar.
pub(super) fn within_three_months(from: Millis, to: Millis) -> Result<(), Problem> {
    let moment = |moment: Millis| jiff::Timestamp::from_millisecond(moment.0).ok();
    let last = moment(from)
        .map(|from| from.to_zoned(jiff::tz::TimeZone::UTC))
        .and_then(|from| from.checked_add(jiff::Span::new().months(3)).ok())
        .map(|last| last.timestamp());
    if to < from {
        return Err(Problem::parameter("from", "must not be later than `to`"));
    }
    match (last, moment(to)) {
        (Some(last), Some(to)) if to > last => Err(Problem::parameter(
            "from",
            "must be at most 3 months before `to`, which is now where it is not said",
        )),
        _ => Ok(()),
    }
}

/// What a cursor says.
struct Given {
    /// Which store it is of.
    began: i64,
    /// The place in its order.
    seq: u64,
    /// The interval that the list began with.
    from: Millis,
    to: Option<Millis>,
}

impl Given {
    fn parse(text: &str) -> Result<Self, Problem> {
        Self::read(text).ok_or_else(|| {
            Problem::parameter(
                "cursor",
                "is not one that this list gave; begin without one",
            )
        })
    }

    /// Reads what [`cursor`] wrote, and nothing else.
    fn read(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let given = Self {
            began: parts.next()?.parse().ok()?,
            seq: parts.next()?.parse().ok()?,
            from: Millis(parts.next()?.parse().ok()?),
            to: match parts.next()? {
                "" => None,
                to => Some(Millis(to.parse().ok()?)),
            },
        };
        (given.to_string() == text).then_some(given)
    }
}

impl std::fmt::Display for Given {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            began,
            seq,
            from,
            to,
        } = self;
        write!(f, "{began}.{seq}.{}.", from.0)?;
        to.map_or(Ok(()), |to| write!(f, "{}", to.0))
    }
}

fn cursor(page: &Page, place: &Given) -> String {
    page.cursor(&place.to_string())
}

/// A list, whatever part of it.
struct Asked<'a> {
    store: &'a Store,
    project: &'a str,
    filter: ActivityFilter,
    /// One whose filter is to be asked.
    webhook: Option<Arc<WebhookEntry>>,
    limit: usize,
}

impl Asked<'_> {
    /// What stands behind `after`. Where a filter refuses much, there may be nothing in it, and still more behind.
    async fn after(&self, after: u64) -> Result<ActivityPage, StoreError> {
        let asks = |activity: &Activity| self.webhook.as_ref().is_none_or(|w| wants(w, activity));
        let wanted: Option<Wanted<'_>> = self.webhook.is_some().then_some(&asks);
        let mut position = after;
        let mut parts = 0;
        loop {
            let found =
                self.store
                    .activities(self.project, &self.filter, wanted, position, self.limit);
            let found = found.await?;
            parts += 1;
            if !found.items.is_empty() || !found.more || parts >= VAIN_PARTS_MAX {
                return Ok(found);
            }
            position = found.position;
        }
    }
}

/// Calls that wait for what comes.
pub(crate) struct Following {
    known: Mutex<Option<(Instant, ActivityEnd)>>,
    waiting: Semaphore,
    closing: watch::Sender<bool>,
}

impl Following {
    /// Nobody waits yet.
    pub(crate) fn new() -> Self {
        Self {
            known: Mutex::new(None),
            waiting: Semaphore::new(WAITING_MAX),
            closing: watch::Sender::new(false),
        }
    }

    /// Lets everybody go who waits: the process is stopping.
    pub(crate) fn close(&self) {
        self.closing.send_replace(true);
    }

    /// The end as it was a moment ago; one question for all who ask in that moment.
    async fn recent_end(&self, store: &Store) -> Result<ActivityEnd, StoreError> {
        let mut known = self.known.lock().await;
        if let Some((at, end)) = *known
            && at.elapsed() < LOOK_EVERY
        {
            return Ok(end);
        }
        let end = store.activities_end().await?;
        *known = Some((Instant::now(), end));
        Ok(end)
    }

    /// Waits until there is something behind what was `found`, the time is over, or the process stops.
    async fn wait(
        &self,
        asked: &Asked<'_>,
        mut found: ActivityPage,
        mut end: ActivityEnd,
        until: Instant,
    ) -> Result<ActivityPage, Problem> {
        let Ok(_place) = self.waiting.try_acquire() else {
            return Err(Problem::too_many(
                format!("{WAITING_MAX} calls wait here already"),
                Duration::from_secs(1),
            ));
        };
        let mut closing = self.closing.subscribe();
        while found.items.is_empty() && !found.more {
            let stopped = timeout_at(
                until.min(Instant::now() + LOOK_EVERY),
                closing.wait_for(|closing| *closing),
            );
            if stopped.await.is_ok() || Instant::now() >= until {
                break;
            }
            let now = self.recent_end(asked.store).await.map_err(unanswered)?;
            if now != end {
                end = now;
                found = asked.after(found.position).await.map_err(unanswered)?;
                if found.items.is_empty() && !found.more {
                    // Everything up to there was seen, and is not looked through again.
                    found.position = found.position.max(now.last);
                }
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_back_and_nothing_else_is() {
        for text in ["1700000000000.7.-5.", "0.0.5.6"] {
            assert_eq!(Given::read(text).expect("one").to_string(), text);
        }
        for forged in [
            "",
            "1.2.3",
            "1.2.3.4.5",
            "1.-2.3.",
            "01.2.3.",
            "+1.2.3.",
            "1.2.x.",
        ] {
            assert!(Given::read(forged).is_none(), "{forged}");
        }
    }

    #[test]
    fn three_months_are_those_of_the_calendar() {
        let moment = |text: &str| {
            Millis(
                text.parse::<jiff::Timestamp>()
                    .expect("a moment")
                    .as_millisecond(),
            )
        };
        let within = |from: &str, to: &str| within_three_months(moment(from), moment(to)).is_ok();
        assert!(within("2026-01-31T00:00:00Z", "2026-04-30T00:00:00Z"));
        assert!(!within("2026-01-31T00:00:00Z", "2026-04-30T00:00:01Z"));
        assert!(within("2026-06-01T00:00:00Z", "2026-09-01T00:00:00Z"));
        assert!(!within("2026-09-01T00:00:00Z", "2026-06-01T00:00:00Z"));
    }
}
