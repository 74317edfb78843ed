//! What people ask: attempts by filter, page by page, and single attempts and deliveries.

use hookline_model::time::Millis;
use serde::Serialize;
use sqlx::Row as _;
use sqlx::any::AnyRow;
use tokio::time::timeout;

use super::rows::{self, small};
use super::segments::Within;
use super::{ANSWER_WITHIN, Statement, Store, StoreError, signed, unsigned};
use crate::attempt_line::{ENDED, known_outcome};
use crate::{AttemptLine, ContactView};

/// Attempts of a delivery that are shown with it, the latest; the list of attempts has them all.
const DELIVERY_ATTEMPTS_MAX: u32 = 100;

/// Which attempts are wanted; what is not said matches everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AttemptFilter {
    /// Of the webhook with this name.
    pub webhook: Option<String>,
    /// With this outcome.
    pub outcome: Option<String>,
    /// With this HTTP status.
    pub status: Option<StatusFilter>,
    /// With this class of error.
    pub error_class: Option<String>,
    /// With this number.
    pub attempt: Option<u32>,
    /// Sent to this URL; its query does not matter.
    pub endpoint: Option<String>,
    /// Of this delivery.
    pub delivery: Option<String>,
    /// Of events with this id.
    pub event_id: Option<String>,
    /// Of events of this type.
    pub event_type: Option<String>,
    /// Of events with this key.
    pub key: Option<String>,
    /// Of events about a contact with this id, e-mail address (in capital or small letters) or phone number.
    pub contact: Option<String>,
    /// Begun at this moment or later.
    pub from: Option<Millis>,
    /// Begun before this moment.
    pub to: Option<Millis>,
}

/// Which HTTP status is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusFilter {
    /// This one.
    Exactly(u16),
    /// Any of a class: 5 is 500 to 599.
    Class(u16),
}

/// An attempt's place in the list of all, latest first. It stays the same whatever comes in or goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub(super) started_ms: i64,
    partition: u32,
    offset: u64,
    index: u32,
}

impl Place {
    pub(super) fn of(line: &AttemptLine) -> Self {
        Self {
            started_ms: line.started_ms,
            partition: line.position.partition,
            offset: line.position.offset,
            index: line.position.index,
        }
    }

    /// Reads what [`Place::fmt`](std::fmt::Display) wrote, and nothing else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let place = Self {
            started_ms: parts.next()?.parse().ok()?,
            partition: parts.next()?.parse().ok()?,
            offset: parts.next()?.parse().ok()?,
            index: parts.next()?.parse().ok()?,
        };
        // One way to write it: no signs, no zeros in front.
        (place.to_string() == text).then_some(place)
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            started_ms,
            partition,
            offset,
            index,
        } = self;
        write!(f, "{started_ms}.{partition}.{offset}.{index}")
    }
}

/// Attempts, latest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptPage {
    /// The attempts.
    pub items: Vec<AttemptLine>,
    /// The place of the last, if there are more behind it.
    pub next: Option<Place>,
}

impl AttemptPage {
    /// Of so many attempts and perhaps one more, which says that there are more.
    pub(super) fn of(mut items: Vec<AttemptLine>, limit: usize) -> Self {
        let more = items.len() > limit;
        items.truncate(limit);
        let next = items.last().filter(|_| more).map(Place::of);
        Self { items, next }
    }
}

/// What a contact may be asked for by.
const CONTACT_COLUMNS: [Option<&str>; 3] = [
    Some("contact_id"),
    Some("contact_email"),
    Some("contact_phone"),
];

/// A project, and where a contact is asked for, the column and its value.
pub(super) struct Whom {
    project: String,
    contact: Option<(&'static str, String)>,
}

impl Whom {
    pub(super) fn write(&self, statement: &mut Statement) {
        statement.push("project = ");
        statement.text(&self.project);
        match &self.contact {
            None => {}
            Some((column @ "contact_email", contact)) => {
                // Capital and small letters are the same; each database says what that means to both sides.
                statement.push(&format!(
                    " AND {column} IS NOT NULL AND lower({column}) = lower("
                ));
                statement.text(contact);
                statement.push(")");
            }
            Some((column, contact)) => {
                statement.push(&format!(" AND {column} = "));
                statement.text(contact);
            }
        }
    }
}

/// A delivery, as people and programs see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeliveryView {
    /// The delivery, which is also the request's `webhook-id`.
    pub id: String,
    /// The project.
    pub project: String,
    /// The event's id.
    pub event_id: String,
    /// The event's source.
    pub event_source: String,
    /// The event's type.
    pub event_type: String,
    /// The event key.
    pub event_key: String,
    /// Who the event is about, where it is about one.
    pub contact: Option<ContactView>,
    /// The webhook's name.
    pub webhook: String,
    /// The webhook's uid.
    pub webhook_uid: String,
    /// The outcome of the latest attempt of the latest run.
    pub outcome: &'static str,
    /// When the next attempt is due, RFC 3339.
    pub next_attempt_at: Option<String>,
    /// Its runs, the first one first.
    pub runs: Vec<RunView>,
    /// Its attempts, latest first; at most a hundred.
    pub attempts: Vec<AttemptLine>,
    /// When the latest attempt of the latest run began, in milliseconds since 1970.
    #[serde(skip)]
    pub last_ms: i64,
}

/// How a run of a delivery stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RunView {
    /// 0 is the one from fan-out.
    pub run: u64,
    /// The outcome of its latest attempt.
    pub outcome: &'static str,
    /// Attempts made.
    pub attempts: u32,
    /// HTTP status of the latest.
    pub status: Option<u32>,
    /// Why the latest failed.
    pub error_class: Option<String>,
    /// When the first began, RFC 3339.
    pub first_attempt_at: String,
    /// When the latest began, RFC 3339.
    pub last_attempt_at: String,
    /// When the next is due, RFC 3339.
    pub next_attempt_at: Option<String>,
}

impl AttemptFilter {
    /// What is asked for, in words and values, but for the times. Of an endpoint without what may be secret in a URL.
    #[must_use]
    pub fn said(&self) -> Vec<(&'static str, String)> {
        let status = self.status.map(|status| match status {
            StatusFilter::Exactly(status) => status.to_string(),
            StatusFilter::Class(class) => format!("{class}xx"),
        });
        let endpoint = self.endpoint.as_deref().map(|url| {
            let url = rows::endpoint(url);
            let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
            let (place, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let host = place.rsplit_once('@').map_or(place, |(_, host)| host);
            let scheme = if scheme.is_empty() {
                String::new()
            } else {
                format!("{scheme}://")
            };
            format!("{scheme}{host}{path}")
        });
        let all = [
            ("webhook", self.webhook.clone()),
            ("outcome", self.outcome.clone()),
            ("status", status),
            ("error_class", self.error_class.clone()),
            ("attempt", self.attempt.map(|attempt| attempt.to_string())),
            ("endpoint", endpoint),
            ("delivery", self.delivery.clone()),
            ("event_id", self.event_id.clone()),
            ("event_type", self.event_type.clone()),
            ("key", self.key.clone()),
            ("contact", self.contact.clone()),
        ];
        all.into_iter()
            .filter_map(|(word, value)| Some((word, value?)))
            .collect()
    }

    /// What asks for up to `limit` attempts, and one more, which says whether there are more.
    pub(super) fn page(
        &self,
        within: &Within,
        project: &str,
        after: Option<Place>,
        limit: usize,
    ) -> Statement {
        let mut statement =
            Statement::new(format!("SELECT {} FROM attempts WHERE ", rows::COLUMNS));
        self.write_all(&mut statement, within, project);
        if let Some(after) = after {
            // Not as one comparison of all four: the index by time would be entered for it even where another one leads to less.
            statement.push(" AND started_ms <= ");
            statement.number(after.started_ms);
            statement.push(" AND NOT (started_ms = ");
            statement.number(after.started_ms);
            statement.push(" AND (record_partition, record_offset, record_index) >= (");
            statement.number(i64::from(after.partition));
            statement.push(", ");
            statement.number(signed(after.offset));
            statement.push(", ");
            statement.number(i64::from(after.index));
            statement.push("))");
        }
        statement.push(
            " ORDER BY started_ms DESC, record_partition DESC, record_offset DESC, record_index DESC LIMIT ",
        );
        statement.number(i64::try_from(limit.saturating_add(1)).unwrap_or(i64::MAX));
        statement
    }

    /// All conditions but for a place.
    pub(super) fn write_all(&self, statement: &mut Statement, within: &Within, project: &str) {
        self.write_whom(statement, project, |statement, whom| {
            within.write(statement);
            whom.write(statement);
        });
        self.write(statement);
    }

    /// Whose attempts: any of these, with what `each` says of one. Of a contact there are three indexes; each is entered only where project and
    /// segment stand beside it, and nowhere else.
    pub(super) fn write_whom(
        &self,
        statement: &mut Statement,
        project: &str,
        each: impl Fn(&mut Statement, &Whom),
    ) {
        for (place, whom) in self.of_whom(project).iter().enumerate() {
            statement.push(if place == 0 { "((" } else { " OR (" });
            each(statement, whom);
            statement.push(")");
        }
        statement.push(")");
    }

    fn of_whom(&self, project: &str) -> Vec<Whom> {
        let project = rows::plain(project).into_owned();
        let columns = match self.contact {
            None => &[None][..],
            Some(_) => &CONTACT_COLUMNS,
        };
        let contact = rows::plain(self.contact.as_deref().unwrap_or_default()).into_owned();
        let whom = |column: &Option<&'static str>| Whom {
            project: project.clone(),
            contact: column.map(|column| (column, contact.clone())),
        };
        columns.iter().map(whom).collect()
    }

    /// The conditions, each with `AND` before it.
    pub(super) fn write(&self, statement: &mut Statement) {
        let texts = [
            ("webhook", &self.webhook),
            ("outcome", &self.outcome),
            ("error_class", &self.error_class),
            ("delivery_id", &self.delivery),
            ("event_id", &self.event_id),
            ("event_type", &self.event_type),
            ("event_key", &self.key),
        ];
        for (column, value) in texts {
            if let Some(value) = value {
                statement.push(&format!(" AND {column} = "));
                statement.text(&rows::plain(value));
            }
        }
        if self.outcome.as_deref().is_some_and(|o| o != "delivered") {
            // There is an index of these.
            statement.push(" AND outcome <> 'delivered'");
        }
        if let Some(url) = &self.endpoint {
            statement.push(" AND endpoint = ");
            statement.text(&rows::plain(rows::endpoint(url)));
        }
        match self.status {
            None => {}
            Some(StatusFilter::Class(class)) => {
                statement.push(" AND status IS NOT NULL AND status / 100 = ");
                statement.number(i64::from(class));
            }
            Some(StatusFilter::Exactly(status)) => {
                // The class, too: by it there is an index. Not as an equation, which SQLite would put into the one before, and then not know it again.
                statement.push(" AND status IS NOT NULL AND status / 100 = ");
                statement.number(i64::from(status / 100));
                statement.push(" AND status BETWEEN ");
                statement.number(i64::from(status));
                statement.push(" AND ");
                statement.number(i64::from(status));
            }
        }
        if let Some(attempt) = self.attempt {
            if attempt > 1 {
                // There is an index of these.
                statement.push(" AND attempt > 1");
            }
            statement.push(" AND attempt = ");
            statement.number(i64::from(attempt));
        }
        if let Some(from) = self.from {
            statement.push(" AND started_ms >= ");
            statement.number(from.0);
        }
        if let Some(to) = self.to {
            statement.push(" AND started_ms < ");
            statement.number(to.0);
        }
    }
}

impl Store {
    /// Up to `limit` attempts of a project, latest first, behind a place.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn attempts(
        &self,
        project: &str,
        filter: &AttemptFilter,
        after: Option<Place>,
        limit: usize,
    ) -> Result<AttemptPage, StoreError> {
        if filter.looks_up() {
            let page = self.looked_up(project, filter, after, limit);
            let page = timeout(ANSWER_WITHIN, page).await;
            return page.map_err(|_| StoreError::Late)?;
        }
        let pool = self.pool().await?;
        let page = filter.page(&Within::All, project, after, limit);
        let found = page.fetch(pool).await?;
        let lines: Result<_, _> = found.iter().map(rows::read).collect();
        Ok(AttemptPage::of(lines?, limit))
    }

    /// One attempt of a project. Of several with one identity the one that counts.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn attempt(
        &self,
        project: &str,
        id: &str,
    ) -> Result<Option<AttemptLine>, StoreError> {
        let (number, ended) = match id.strip_suffix(ENDED) {
            Some(number) => (number, 1),
            None => (id, 0),
        };
        let mut parts = number.split('.');
        let (Some(delivery), Some(Ok(run)), Some(Ok(attempt)), None) = (
            parts.next(),
            parts.next().map(str::parse::<i64>),
            parts.next().map(str::parse::<i64>),
            parts.next(),
        ) else {
            return Ok(None);
        };
        let of_this = AttemptFilter {
            delivery: Some(delivery.to_owned()),
            ..AttemptFilter::default()
        };
        let within = self.within(project, &of_this).await?;
        let mut statement =
            Statement::new(format!("SELECT {} FROM attempts WHERE ", rows::COLUMNS));
        of_this.write_all(&mut statement, &within, project);
        for (column, value) in [("run", run), ("attempt", attempt), ("ended", ended)] {
            statement.push(&format!(" AND {column} = "));
            statement.number(value);
        }
        statement.push(" ORDER BY stray, record_offset, record_index LIMIT 1");
        let found = statement.fetch(self.pool().await?).await?;
        let line = found.first().map(rows::read).transpose()?;
        Ok(line.filter(|line| line.id == id))
    }

    /// One delivery of a project, with its runs and its latest attempts.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn delivery(
        &self,
        project: &str,
        id: &str,
    ) -> Result<Option<DeliveryView>, StoreError> {
        let pool = self.pool().await?;
        let mut statement = Statement::new(format!(
            "SELECT {} FROM deliveries WHERE delivery_id = ",
            rows::RUN_COLUMNS
        ));
        statement.text(&rows::plain(id));
        statement.push(" AND project = ");
        statement.text(&rows::plain(project));
        statement.push(" ORDER BY run");
        let found = statement.fetch(pool).await?;
        let runs: Vec<_> = found.iter().map(run).collect::<Result<_, _>>()?;
        let (Some(row), Some(latest)) = (found.last(), runs.last()) else {
            return Ok(None);
        };
        let of_this = AttemptFilter {
            delivery: Some(id.to_owned()),
            ..AttemptFilter::default()
        };
        let limit = usize::try_from(DELIVERY_ATTEMPTS_MAX).unwrap_or(usize::MAX);
        let attempts = self.attempts(project, &of_this, None, limit).await?;
        Ok(Some(DeliveryView {
            id: row.try_get(0)?,
            project: row.try_get(2)?,
            event_id: row.try_get(4)?,
            event_source: row.try_get(3)?,
            event_type: row.try_get(5)?,
            event_key: row.try_get(6)?,
            contact: ContactView::of(row.try_get(7)?, row.try_get(8)?, row.try_get(9)?),
            webhook: row.try_get(10)?,
            webhook_uid: row.try_get(11)?,
            outcome: latest.outcome,
            next_attempt_at: latest.next_attempt_at.clone(),
            runs,
            attempts: attempts.items,
            last_ms: row.try_get(17)?,
        }))
    }
}

fn run(row: &AnyRow) -> Result<RunView, StoreError> {
    let outcome: String = row.try_get(12)?;
    let due: Option<i64> = row.try_get(18)?;
    Ok(RunView {
        run: unsigned(row.try_get(1)?),
        outcome: known_outcome(&outcome),
        attempts: small(row.try_get(13)?),
        status: row.try_get::<Option<i64>, _>(14)?.map(small),
        error_class: row.try_get(15)?,
        first_attempt_at: Millis(row.try_get(16)?).to_rfc3339(),
        last_attempt_at: Millis(row.try_get(17)?).to_rfc3339(),
        next_attempt_at: due.map(|ms| Millis(ms).to_rfc3339()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_back_and_nothing_else_is() {
        let place = Place {
            started_ms: 1_700_000_000_000,
            partition: 3,
            offset: 7,
            index: 1,
        };
        assert_eq!(Place::parse(&place.to_string()), Some(place));
        for forged in [
            "",
            "1.2.3",
            "1.2.3.4.5",
            "1.2.3.-4",
            "+1.2.3.4",
            "01.2.3.4",
            "a.2.3.4",
            "1.2.3.4 OR 1=1",
        ] {
            assert_eq!(Place::parse(forged), None, "{forged}");
        }
    }
}
