//! An attempt as a row, and back.

use std::borrow::Cow;
use std::sync::OnceLock;

use hookline_model::time::Millis;
use sqlx::any::{AnyArguments, AnyRow};
use sqlx::query::Query;
use sqlx::{Any, Row as _};

use super::write::SIZES;
use super::{Dialect, StoreError, activities, signed, statistics, unsigned};
use crate::attempt_line::{ENDED, attempt_id, known_outcome};
use crate::{AttemptLine, ContactView, PositionView};

/// The columns of an attempt, in the order in which they are bound and read.
pub(super) const COLUMNS: &str = "record_partition, record_offset, record_index, project, delivery_id, run, attempt, ended, stray, \
     event_source, event_id, event_type, event_key, contact_id, contact_email, contact_phone, webhook, webhook_uid, outcome, status, \
     error_class, error_detail, started_ms, duration_ms, due_ms, url, endpoint, request, response";
const COLUMNS_COUNT: usize = 29;

/// The columns of a run of a delivery, likewise.
pub(super) const RUN_COLUMNS: &str = "delivery_id, run, project, event_source, event_id, event_type, event_key, contact_id, \
     contact_email, contact_phone, webhook, webhook_uid, outcome, attempts, status, error_class, first_ms, last_ms, due_ms, \
     record_partition, record_offset, record_index";
const RUN_COLUMNS_COUNT: usize = 22;

type Bound<'q> = Query<'q, Any, AnyArguments<'q>>;

/// An attempt on its way in.
pub(super) struct Row<'a> {
    pub(super) line: &'a AttemptLine,
    endpoint: Option<String>,
    request: Option<String>,
    response: Option<String>,
}

impl<'a> Row<'a> {
    pub(super) fn new(line: &'a AttemptLine) -> Self {
        Self {
            line,
            endpoint: line.url.as_deref().map(|url| endpoint(url).to_owned()),
            // Texts, numbers and flags always serialise.
            request: line
                .request
                .as_ref()
                .and_then(|request| serde_json::to_string(request).ok()),
            response: line
                .response
                .as_ref()
                .and_then(|response| serde_json::to_string(response).ok()),
        }
    }

    /// Binds the columns of [`COLUMNS`], and the segment.
    pub(super) fn bind<'q>(&'q self, query: Bound<'q>, segment: i64) -> Bound<'q> {
        let line = self.line;
        let contact = line.contact.as_ref();
        query
            .bind(i64::from(line.position.partition))
            .bind(signed(line.position.offset))
            .bind(i64::from(line.position.index))
            .bind(line.project.as_str())
            .bind(line.delivery_id.as_str())
            .bind(signed(line.run))
            .bind(i64::from(line.attempt))
            .bind(i64::from(line.id.ends_with(ENDED)))
            .bind(i64::from(line.stray))
            .bind(line.event_source.as_str())
            .bind(line.event_id.as_str())
            .bind(line.event_type.as_str())
            .bind(line.event_key.as_str())
            .bind(contact.and_then(|c| c.id.as_deref()))
            .bind(contact.and_then(|c| c.email.as_deref()))
            .bind(contact.and_then(|c| c.phone.as_deref()))
            .bind(line.webhook.as_str())
            .bind(line.webhook_uid.as_str())
            .bind(line.outcome)
            .bind(line.status.map(i64::from))
            .bind(line.error_class.as_deref())
            .bind(line.error_detail.as_deref())
            .bind(line.started_ms)
            .bind(i64::from(line.duration_ms))
            .bind(line.due_ms)
            .bind(line.url.as_deref())
            .bind(self.endpoint.as_deref())
            .bind(self.request.as_deref())
            .bind(self.response.as_deref())
            .bind(segment)
    }
}

/// A run of a delivery on its way in: its last attempt, when its first began, and how many there were.
pub(super) struct Run<'a> {
    line: &'a AttemptLine,
    first_ms: i64,
    attempts: u32,
}

impl<'a> Run<'a> {
    pub(super) fn new(row: &Row<'a>) -> Self {
        Self {
            line: row.line,
            first_ms: row.line.started_ms,
            attempts: row.line.attempt,
        }
    }

    /// What was said later.
    pub(super) fn then(&mut self, row: &Row<'a>) {
        self.line = row.line;
        self.attempts = self.attempts.max(row.line.attempt);
    }

    /// Binds the columns of [`RUN_COLUMNS`].
    pub(super) fn bind<'q>(&'q self, query: Bound<'q>) -> Bound<'q> {
        let line = self.line;
        let contact = line.contact.as_ref();
        query
            .bind(line.delivery_id.as_str())
            .bind(signed(line.run))
            .bind(line.project.as_str())
            .bind(line.event_source.as_str())
            .bind(line.event_id.as_str())
            .bind(line.event_type.as_str())
            .bind(line.event_key.as_str())
            .bind(contact.and_then(|c| c.id.as_deref()))
            .bind(contact.and_then(|c| c.email.as_deref()))
            .bind(contact.and_then(|c| c.phone.as_deref()))
            .bind(line.webhook.as_str())
            .bind(line.webhook_uid.as_str())
            .bind(line.outcome)
            .bind(i64::from(self.attempts))
            .bind(line.status.map(i64::from))
            .bind(line.error_class.as_deref())
            .bind(self.first_ms)
            .bind(line.started_ms)
            .bind(line.due_ms)
            .bind(i64::from(line.position.partition))
            .bind(signed(line.position.offset))
            .bind(i64::from(line.position.index))
    }
}

/// PostgreSQL has no NUL in texts: what is stored has none ([`AttemptLine::without_nul`]), and what is asked neither.
pub(super) fn plain(text: &str) -> Cow<'_, str> {
    if text.contains('\0') {
        Cow::Owned(text.replace('\0', "\u{fffd}"))
    } else {
        Cow::Borrowed(text)
    }
}

/// Where a request goes, without what the query of the URL says.
pub(super) fn endpoint(url: &str) -> &str {
    url.split_once('?').map_or(url, |(before, _)| before)
}

/// `($1, $2), ($3, $4)` and so on. SQLite looks every numbered place up among all of them, which costs more than all else in a statement
/// of thousands; it gets `?`.
fn places(dialect: Dialect, rows: usize, columns: usize) -> String {
    let place = |place: usize| match dialect {
        Dialect::Sqlite => "?".to_owned(),
        Dialect::Postgres => format!("${place}"),
    };
    let row = |row: usize| {
        let places = (1..=columns).map(|column| place(row * columns + column));
        format!("({})", places.collect::<Vec<_>>().join(", "))
    };
    (0..rows).map(row).collect::<Vec<_>>().join(", ")
}

/// The statements that put rows in, for each number of rows made once.
pub(super) struct Inserts {
    dialect: Dialect,
    attempts: [OnceLock<String>; SIZES.len()],
    deliveries: [OnceLock<String>; SIZES.len()],
    activities: [OnceLock<String>; SIZES.len()],
    statistics: [OnceLock<String>; SIZES.len()],
}

impl Inserts {
    pub(super) fn new(dialect: Dialect) -> Self {
        Self {
            dialect,
            attempts: Default::default(),
            deliveries: Default::default(),
            activities: Default::default(),
            statistics: Default::default(),
        }
    }

    /// Inserts so many attempts; those that are there already stay.
    pub(super) fn attempts(&self, rows: usize) -> &str {
        cached(&self.attempts, rows, || {
            let places = places(self.dialect, rows, COLUMNS_COUNT + 1);
            format!(
                "INSERT INTO attempts ({COLUMNS}, segment) VALUES {places} ON CONFLICT DO NOTHING"
            )
        })
    }

    /// Inserts so many events; those that are there already stay.
    pub(super) fn activities(&self, rows: usize) -> &str {
        cached(&self.activities, rows, || {
            let places = places(self.dialect, rows, activities::COLUMNS_COUNT);
            let columns = activities::COLUMNS;
            format!("INSERT INTO activities ({columns}) VALUES {places} ON CONFLICT DO NOTHING")
        })
    }

    /// Adds so many sums to what is there.
    pub(super) fn statistics(&self, rows: usize) -> &str {
        cached(&self.statistics, rows, || {
            statistics::insert(&places(self.dialect, rows, statistics::COLUMNS_COUNT))
        })
    }

    /// Puts so many runs as they stand now, unless what is there says something later.
    pub(super) fn deliveries(&self, rows: usize) -> &str {
        cached(&self.deliveries, rows, || {
            let places = places(self.dialect, rows, RUN_COLUMNS_COUNT);
            format!(
                "INSERT INTO deliveries ({RUN_COLUMNS}) VALUES {places} ON CONFLICT (delivery_id, run) DO UPDATE SET \
                 webhook = excluded.webhook, outcome = excluded.outcome, status = excluded.status, \
                 attempts = CASE WHEN excluded.attempts > deliveries.attempts THEN excluded.attempts ELSE deliveries.attempts END, \
                 error_class = excluded.error_class, last_ms = excluded.last_ms, due_ms = excluded.due_ms, \
                 record_partition = excluded.record_partition, record_offset = excluded.record_offset, record_index = excluded.record_index \
                 WHERE excluded.record_offset > deliveries.record_offset \
                 OR (excluded.record_offset = deliveries.record_offset AND excluded.record_index > deliveries.record_index)"
            )
        })
    }
}

fn cached(
    made: &[OnceLock<String>; SIZES.len()],
    rows: usize,
    make: impl FnOnce() -> String,
) -> &str {
    let place = SIZES.iter().position(|size| *size == rows).unwrap_or(0);
    made[place].get_or_init(make)
}

/// Reads a row of [`COLUMNS`].
pub(super) fn read(row: &AnyRow) -> Result<AttemptLine, StoreError> {
    let delivery_id: String = row.try_get(4)?;
    let run = unsigned(row.try_get(5)?);
    let attempt = small(row.try_get(6)?);
    let ended = row.try_get::<i64, _>(7)? != 0;
    let started_ms: i64 = row.try_get(22)?;
    let due_ms: Option<i64> = row.try_get(24)?;
    let outcome: String = row.try_get(18)?;
    Ok(AttemptLine {
        id: attempt_id(&delivery_id, run, attempt, ended),
        delivery_id,
        run,
        project: row.try_get(3)?,
        event_id: row.try_get(10)?,
        event_source: row.try_get(9)?,
        event_type: row.try_get(11)?,
        event_key: row.try_get(12)?,
        contact: ContactView::of(row.try_get(13)?, row.try_get(14)?, row.try_get(15)?),
        webhook: row.try_get(16)?,
        webhook_uid: row.try_get(17)?,
        attempt,
        outcome: known_outcome(&outcome),
        status: row.try_get::<Option<i64>, _>(19)?.map(small),
        error_class: row.try_get(20)?,
        error_detail: row.try_get(21)?,
        started_at: Millis(started_ms).to_rfc3339(),
        duration_ms: small(row.try_get(23)?),
        next_attempt_at: due_ms.map(|ms| Millis(ms).to_rfc3339()),
        url: row.try_get(25)?,
        request: parsed(row.try_get(27)?, "a request")?,
        response: parsed(row.try_get(28)?, "a response")?,
        stray: row.try_get::<i64, _>(8)? != 0,
        position: PositionView {
            partition: small(row.try_get(0)?),
            offset: unsigned(row.try_get(1)?),
            index: small(row.try_get(2)?),
        },
        due_ms,
        started_ms,
    })
}

pub(super) fn small(number: i64) -> u32 {
    u32::try_from(number).unwrap_or(0)
}

fn parsed<T: serde::de::DeserializeOwned>(
    text: Option<String>,
    what: &'static str,
) -> Result<Option<T>, StoreError> {
    text.map(|text| serde_json::from_str(&text))
        .transpose()
        .map_err(|_| StoreError::Damaged { what })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_columns_are_as_many_as_are_bound() {
        assert_eq!(COLUMNS.split(',').count(), COLUMNS_COUNT);
        assert_eq!(RUN_COLUMNS.split(',').count(), RUN_COLUMNS_COUNT);
        let activities = activities::COLUMNS.split(',').count();
        assert_eq!(activities, activities::COLUMNS_COUNT);
        assert_eq!(places(Dialect::Postgres, 2, 2), "($1, $2), ($3, $4)");
        assert_eq!(places(Dialect::Sqlite, 2, 2), "(?, ?), (?, ?)");
    }
}
