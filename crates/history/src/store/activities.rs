//! The events themselves, in the order in which they came into the store.
//!
//! That order is a number, `seq`. A transaction that puts events in takes its numbers from one row of `sequences`, which it then holds until it
//! is committed: numbers become visible in their order, whichever partition and process they come from. So who has seen a number has seen all
//! that will ever be below it, and reads on behind it without missing anything. Times would not do: producers set them, and partitions are read
//! at different speeds.

use std::collections::BTreeMap;

use hookline_model::matching::TypePattern;
use hookline_model::time::Millis;
use sqlx::any::{AnyArguments, AnyRow};
use sqlx::query::Query;
use sqlx::{Any, Row as _, Transaction};

use super::rows::{plain, small};
use super::statistics::HOUR_MS;
use super::write::chunks;
use super::{Statement, Store, StoreError, signed, unsigned};
use crate::ContactView;
use crate::activity::{Activity, ActivityData};

/// The columns of an activity, in the order in which they are bound and read.
pub(super) const COLUMNS: &str = "seq, record_partition, record_offset, project, event_source, event_id, event_type, event_key, event_time, \
     accepted_ms, contact_id, contact_email, contact_phone, email_lower, status, subject, data_schema, data_content_type, extensions, \
     data_form, data_bytes, data";
pub(super) const COLUMNS_COUNT: usize = 22;

/// What `data_form` says.
mod form {
    pub(super) const NONE: i64 = 0;
    pub(super) const JSON: i64 = 1;
    pub(super) const BASE64: i64 = 2;
}

/// Data of one page, in bytes; a page has at least one event.
const PAGE_BYTES: u64 = 4 * 1024 * 1024;
/// Events that are looked through at a time, where something is asked that the store does not know.
const SEARCHED: usize = 200;

type Bound<'q> = Query<'q, Any, AnyArguments<'q>>;

/// Which events are wanted; what is not said matches everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ActivityFilter {
    /// About a contact with this e-mail address, in capital or small letters.
    pub email: Option<String>,
    /// With this status.
    pub status: Option<String>,
    /// Of this type.
    pub event_type: Option<String>,
    /// Of a type that one of these matches.
    pub patterns: Option<Vec<TypePattern>>,
    /// Accepted at this moment or later.
    pub from: Option<Millis>,
    /// Accepted before this moment.
    pub to: Option<Millis>,
}

/// Whether an event that the store has found is wanted.
pub type Wanted<'a> = &'a (dyn Fn(&Activity) -> bool + Send + Sync);

/// Events in the order in which they came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActivityPage {
    /// The events. Where some were looked through in vain, there may be fewer than asked for, or none, and still more behind.
    pub items: Vec<Activity>,
    /// Up to where this goes: behind it the next page begins.
    pub position: u64,
    /// Whether there is more behind.
    pub more: bool,
}

/// The end of the order as it is now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ActivityEnd {
    /// The last number given.
    pub last: u64,
    /// When the first was given: numbers of a store that was made anew mean something else. 0: none was given yet.
    pub began: i64,
}

impl ActivityFilter {
    fn write(&self, statement: &mut Statement, project: &str) {
        statement.push("project = ");
        statement.text(&plain(project));
        if let Some(email) = &self.email {
            statement.push(" AND email_lower IS NOT NULL AND email_lower = ");
            statement.text(&plain(&email.to_lowercase()));
        }
        if let Some(status) = &self.status {
            statement.push(" AND status IS NOT NULL AND status = ");
            statement.text(&plain(status));
        }
        if let Some(event_type) = &self.event_type {
            statement.push(" AND event_type = ");
            statement.text(&plain(event_type));
        }
        if let Some(patterns) = &self.patterns {
            write_patterns(statement, patterns);
        }
        if let Some(from) = self.from {
            statement.push(" AND accepted_ms >= ");
            statement.number(from.0);
        }
        if let Some(to) = self.to {
            statement.push(" AND accepted_ms < ");
            statement.number(to.0);
        }
    }

    /// What asks for the numbers and sizes of up to `limit` events behind `after` and not behind `until`.
    pub(super) fn numbers(&self, project: &str, after: u64, until: u64, limit: usize) -> Statement {
        let mut statement = Statement::new("SELECT seq, data_bytes FROM activities WHERE ");
        self.write(&mut statement, project);
        statement.push(" AND seq > ");
        statement.number(signed(after));
        statement.push(" AND seq <= ");
        statement.number(signed(until));
        statement.push(" ORDER BY seq LIMIT ");
        statement.number(i64::try_from(limit).unwrap_or(i64::MAX));
        statement
    }
}

fn write_patterns(statement: &mut Statement, patterns: &[TypePattern]) {
    if patterns.contains(&TypePattern::All) {
        return;
    }
    // With none nothing matches.
    statement.push(" AND (1 = 0");
    for pattern in patterns {
        match pattern {
            TypePattern::All => {}
            TypePattern::Exact(name) => {
                statement.push(" OR event_type = ");
                statement.text(&plain(name));
            }
            TypePattern::Below(category) => {
                let start = format!("{category}.");
                let length = i64::try_from(start.chars().count()).unwrap_or(i64::MAX);
                statement.push(" OR (substr(event_type, 1, ");
                statement.push(&length.to_string());
                statement.push(") = ");
                statement.text(&plain(&start));
                statement.push(" AND length(event_type) > ");
                statement.push(&length.to_string());
                statement.push(")");
            }
        }
    }
    statement.push(")");
}

impl Store {
    /// Up to `limit` events of a project behind `after`, in the order in which they came; of those that the filter finds the ones that are
    /// `wanted`.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn activities(
        &self,
        project: &str,
        filter: &ActivityFilter,
        wanted: Option<Wanted<'_>>,
        after: u64,
        limit: usize,
    ) -> Result<ActivityPage, StoreError> {
        let mut page = ActivityPage {
            items: Vec::new(),
            position: after,
            more: false,
        };
        let Some((first, last)) = self.window(filter).await? else {
            return Ok(page);
        };
        let pool = self.pool().await?;
        let searched = if wanted.is_some() { SEARCHED } else { 0 };
        let most = limit.max(searched);
        let begin = after.max(first.saturating_sub(1));
        let asked = filter.numbers(project, begin, last, most.saturating_add(1));
        let found = asked.fetch(pool).await?;
        let mut numbers = Vec::with_capacity(found.len().min(most));
        let mut bytes = 0;
        for row in found.iter().take(most) {
            bytes += unsigned(row.try_get(1)?);
            if !numbers.is_empty() && bytes > PAGE_BYTES {
                break;
            }
            numbers.push(row.try_get::<i64, _>(0)?);
        }
        page.more = found.len() > numbers.len();
        let (Some(low), Some(high)) = (numbers.first(), numbers.last()) else {
            return Ok(page);
        };
        let mut statement = Statement::new(format!("SELECT {COLUMNS} FROM activities WHERE "));
        filter.write(&mut statement, project);
        statement.push(" AND seq >= ");
        statement.number(*low);
        statement.push(" AND seq <= ");
        statement.number(*high);
        statement.push(" ORDER BY seq");
        // Retention may have taken some meanwhile, and nothing else changes.
        page.position = unsigned(*high);
        for row in statement.fetch(pool).await? {
            let activity = read(&row)?;
            if wanted.is_some_and(|wanted| !wanted(&activity)) {
                continue;
            }
            page.items.push(activity);
            if page.items.len() == limit {
                let position = unsigned(row.try_get(0)?);
                page.more |= position < page.position;
                page.position = position;
                break;
            }
        }
        Ok(page)
    }

    /// Where events of the hours that the filter concerns stand; `None`: there are none.
    async fn window(&self, filter: &ActivityFilter) -> Result<Option<(u64, u64)>, StoreError> {
        let pool = self.pool().await?;
        let mut statement =
            Statement::new("SELECT MIN(first_seq), MAX(last_seq) FROM activity_hours WHERE 1 = 1");
        if let Some(from) = filter.from {
            statement.push(" AND hour_ms >= ");
            statement.number(hour(from.0));
        }
        if let Some(to) = filter.to {
            statement.push(" AND hour_ms < ");
            statement.number(to.0);
        }
        let found = statement.fetch(pool).await?;
        let Some(row) = found.first() else {
            return Ok(None);
        };
        let first: Option<i64> = row.try_get(0)?;
        let last: Option<i64> = row.try_get(1)?;
        Ok(first.map(unsigned).zip(last.map(unsigned)))
    }

    /// Where an event stands in its topic: partition and offset. `None` when the store does not have it.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn event_place(
        &self,
        project: &str,
        source: &str,
        id: &str,
    ) -> Result<Option<(u32, u64)>, StoreError> {
        let pool = self.pool().await?;
        let mut statement = Statement::new(
            "SELECT record_partition, record_offset FROM activities WHERE project = ",
        );
        for (text, and) in [
            (project, " AND event_source = "),
            (source, " AND event_id = "),
            (id, ""),
        ] {
            statement.text(&plain(text));
            statement.push(and);
        }
        let found = statement.fetch(pool).await?;
        let Some(row) = found.first() else {
            return Ok(None);
        };
        Ok(Some((small(row.try_get(0)?), unsigned(row.try_get(1)?))))
    }

    /// The end of the order of events. Everything up to it is there to be read.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn activities_end(&self) -> Result<ActivityEnd, StoreError> {
        let pool = self.pool().await?;
        let asked =
            Statement::new("SELECT last, began_ms FROM sequences WHERE name = 'activities'");
        let found = asked.fetch(pool).await?;
        match found.first() {
            None => Ok(ActivityEnd::default()),
            Some(row) => Ok(ActivityEnd {
                last: unsigned(row.try_get(0)?),
                began: row.try_get(1)?,
            }),
        }
    }

    /// Puts events in, in this order; those that are there already stay as they are.
    pub(super) async fn put_activities(
        &self,
        transaction: &mut Transaction<'_, Any>,
        activities: &[Activity],
        now: Millis,
    ) -> Result<(), sqlx::Error> {
        if activities.is_empty() {
            return Ok(());
        }
        let count = i64::try_from(activities.len()).unwrap_or(i64::MAX);
        let taken = sqlx::query(
            "INSERT INTO sequences (name, last, began_ms) VALUES ('activities', $1, $2) \
             ON CONFLICT (name) DO UPDATE SET last = sequences.last + excluded.last RETURNING last",
        )
        .bind(count)
        .bind(now.0.max(1))
        .fetch_all(&mut **transaction)
        .await?;
        let last: i64 = taken.first().ok_or(sqlx::Error::RowNotFound)?.try_get(0)?;
        let rows: Vec<Row<'_>> = (last - count + 1..)
            .zip(activities)
            .map(|(seq, activity)| Row::new(seq, activity))
            .collect();
        for chunk in chunks(&rows) {
            let sql = self.inserts.activities(chunk.len());
            let bound = chunk.iter().fold(sqlx::query(sql), |q, row| row.bind(q));
            bound.execute(&mut **transaction).await?;
        }
        let mut hours: BTreeMap<i64, (i64, i64)> = BTreeMap::new();
        for row in &rows {
            let within = hours
                .entry(hour(row.activity.accepted_ms))
                .or_insert((row.seq, row.seq));
            within.1 = row.seq;
        }
        for (hour, (first, last)) in hours {
            sqlx::query(
                "INSERT INTO activity_hours (hour_ms, first_seq, last_seq) VALUES ($1, $2, $3) \
                 ON CONFLICT (hour_ms) DO UPDATE SET last_seq = excluded.last_seq",
            )
            .bind(hour)
            .bind(first)
            .bind(last)
            .execute(&mut **transaction)
            .await?;
        }
        Ok(())
    }
}

fn hour(moment_ms: i64) -> i64 {
    moment_ms.div_euclid(HOUR_MS) * HOUR_MS
}

/// An event on its way in.
struct Row<'a> {
    seq: i64,
    activity: &'a Activity,
    email: Option<String>,
    extensions: Option<String>,
}

impl<'a> Row<'a> {
    fn new(seq: i64, activity: &'a Activity) -> Self {
        let contact = activity.contact.as_ref();
        let extensions = &activity.extensions;
        Self {
            seq,
            activity,
            email: contact.and_then(|c| c.email.as_ref().map(|email| email.to_lowercase())),
            // Texts always serialise.
            extensions: (!extensions.is_empty())
                .then(|| serde_json::to_string(extensions).ok())
                .flatten(),
        }
    }

    /// Binds the columns of [`COLUMNS`].
    fn bind<'q>(&'q self, query: Bound<'q>) -> Bound<'q> {
        let activity = self.activity;
        let contact = activity.contact.as_ref();
        let (form, data) = match &activity.data {
            ActivityData::None => (form::NONE, None),
            ActivityData::Json(text) => (form::JSON, Some(text.as_str())),
            ActivityData::Bytes(base64) => (form::BASE64, Some(base64.as_str())),
        };
        query
            .bind(self.seq)
            .bind(i64::from(activity.at.0))
            .bind(signed(activity.at.1))
            .bind(activity.project.as_str())
            .bind(activity.source.as_str())
            .bind(activity.id.as_str())
            .bind(activity.event_type.as_str())
            .bind(activity.key.as_str())
            .bind(activity.timed.then_some(activity.time.as_str()))
            .bind(activity.accepted_ms)
            .bind(contact.and_then(|c| c.id.as_deref()))
            .bind(contact.and_then(|c| c.email.as_deref()))
            .bind(contact.and_then(|c| c.phone.as_deref()))
            .bind(self.email.as_deref())
            .bind(activity.status.as_deref())
            .bind(activity.subject.as_deref())
            .bind(activity.data_schema.as_deref())
            .bind(activity.data_content_type.as_deref())
            .bind(self.extensions.as_deref())
            .bind(form)
            .bind(i64::try_from(data.map_or(0, str::len)).unwrap_or(i64::MAX))
            .bind(data)
    }
}

/// Reads a row of [`COLUMNS`].
fn read(row: &AnyRow) -> Result<Activity, StoreError> {
    let accepted_ms: i64 = row.try_get(9)?;
    let accepted_at = Millis(accepted_ms).to_rfc3339();
    let time: Option<String> = row.try_get(8)?;
    let extensions: Option<String> = row.try_get(18)?;
    let extensions = extensions.map(|text| serde_json::from_str(&text));
    let data: Option<String> = row.try_get(21)?;
    let data = match (row.try_get::<i64, _>(19)?, data) {
        (form::JSON, Some(text)) => ActivityData::Json(text),
        (form::BASE64, Some(text)) => ActivityData::Bytes(text),
        _ => ActivityData::None,
    };
    Ok(Activity {
        id: row.try_get(5)?,
        source: row.try_get(4)?,
        event_type: row.try_get(6)?,
        timed: time.is_some(),
        time: time.unwrap_or_else(|| accepted_at.clone()),
        accepted_at,
        key: row.try_get(7)?,
        contact: ContactView::of(row.try_get(10)?, row.try_get(11)?, row.try_get(12)?),
        status: row.try_get(14)?,
        subject: row.try_get(15)?,
        data_schema: row.try_get(16)?,
        data_content_type: row.try_get(17)?,
        extensions: extensions
            .transpose()
            .map_err(|_| StoreError::Damaged {
                what: "the attributes of an event",
            })?
            .unwrap_or_default(),
        data,
        project: row.try_get(3)?,
        accepted_ms,
        at: (small(row.try_get(1)?), unsigned(row.try_get(2)?)),
    })
}
