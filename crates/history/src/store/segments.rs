//! Rows stand in segments, in the order in which they came in.
//!
//! What nearly every row has a value of its own for (event, delivery, key, contact) would put each new row into another page of an index of all
//! rows: with millions of them a transaction writes a page for each row and index. So these indexes begin with the segment: a transaction writes
//! into those of one segment, and who looks such a value up does so segment by segment, the latest first.
//!
//! Each partition fills a segment of its own, which only its owner does, so that nobody waits for anybody. Within one, attempts are nearly in the
//! order of time; which times it has stands in its row.

use hookline_model::time::Millis;
use sqlx::any::AnyRow;
use sqlx::{Any, Row as _, Transaction};

use super::query::{AttemptFilter, AttemptPage, Place};
use super::rows::{self, Row};
use super::{Statement, Store, StoreError};
use crate::AttemptLine;

/// Attempts after which a segment takes no further batch. Twice as many are written in twice as many pages; half as many make twice as many
/// segments to look into.
const SEGMENT_ATTEMPTS: i64 = 32_768;
/// Segments of a partition: their numbers have this many bits.
const NUMBER_BITS: u32 = 32;
/// Segments found at a time.
const FOUND_AT_ONCE: u32 = 64;

/// Where attempts are looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Within {
    /// Everywhere, by an index of all.
    All,
    /// In this segment.
    Segment(i64),
    /// In these.
    Segments(Vec<i64>),
}

impl Within {
    /// The condition, with `AND` behind it.
    pub(super) fn write(&self, statement: &mut Statement) {
        match self {
            Self::All => {}
            Self::Segment(segment) => {
                statement.push("segment = ");
                statement.number(*segment);
                statement.push(" AND ");
            }
            Self::Segments(segments) => {
                // Not bound: there may be more of them than a statement takes values. `NULL` is in none, and a list must not be empty.
                let numbers = segments.iter().map(|segment| format!(", {segment}"));
                let numbers: String = numbers.collect();
                statement.push(&format!("segment IN (NULL{numbers}) AND "));
            }
        }
    }
}

/// A segment in which there is something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    number: i64,
    last_ms: i64,
}

impl Store {
    /// The segment into which a partition's next batch goes.
    pub(super) async fn segment(
        &self,
        transaction: &mut Transaction<'_, Any>,
        partition: u32,
    ) -> Result<i64, sqlx::Error> {
        let first = i64::from(partition) << NUMBER_BITS;
        let last = sqlx::query(
            "SELECT segment, attempts FROM segments WHERE segment >= $1 AND segment < $2 ORDER BY segment DESC LIMIT 1",
        )
        .bind(first)
        .bind(first + (1 << NUMBER_BITS))
        .fetch_optional(&mut **transaction)
        .await?;
        let Some(last) = last else {
            return Ok(first);
        };
        let (segment, attempts): (i64, i64) = (last.try_get(0)?, last.try_get(1)?);
        Ok(segment + i64::from(attempts >= SEGMENT_ATTEMPTS))
    }

    /// Says that these are in a segment, too.
    pub(super) async fn grow_segment(
        &self,
        transaction: &mut Transaction<'_, Any>,
        segment: i64,
        rows: &[Row<'_>],
    ) -> Result<(), sqlx::Error> {
        let times = || rows.iter().map(|row| row.line.started_ms);
        let (Some(first), Some(last)) = (times().min(), times().max()) else {
            return Ok(());
        };
        sqlx::query(
            "INSERT INTO segments (segment, attempts, first_ms, last_ms) VALUES ($1, $2, $3, $4) ON CONFLICT (segment) DO UPDATE SET \
             attempts = segments.attempts + excluded.attempts, \
             first_ms = CASE WHEN excluded.first_ms < segments.first_ms THEN excluded.first_ms ELSE segments.first_ms END, \
             last_ms = CASE WHEN excluded.last_ms > segments.last_ms THEN excluded.last_ms ELSE segments.last_ms END",
        )
        .bind(segment)
        .bind(i64::try_from(rows.len()).unwrap_or(i64::MAX))
        .bind(first)
        .bind(last)
        .execute(&mut **transaction)
        .await?;
        Ok(())
    }

    /// Where attempts that a filter takes are to be looked for, when all of them are wanted.
    pub(super) async fn within(
        &self,
        project: &str,
        filter: &AttemptFilter,
    ) -> Result<Within, StoreError> {
        if !filter.looks_up() {
            return Ok(Within::All);
        }
        let mut moment = self.moment().await?;
        let mut all = Vec::new();
        let mut after = None;
        loop {
            let found = filter.found(&mut moment, project, i64::MAX, after).await?;
            all.extend(found.iter().map(|segment| segment.number));
            after = found.last().copied();
            if after.is_none() {
                return Ok(Within::Segments(all));
            }
        }
    }

    /// A page of attempts that are looked up: from segment to segment, until what else there is begins before all that was found.
    pub(super) async fn looked_up(
        &self,
        project: &str,
        filter: &AttemptFilter,
        after: Option<Place>,
        limit: usize,
    ) -> Result<AttemptPage, StoreError> {
        // What comes in meanwhile would move segments past others.
        let mut moment = self.moment().await?;
        let wanted = limit.saturating_add(1);
        let until = after.map_or(i64::MAX, |place| place.started_ms);
        let mut lines: Vec<AttemptLine> = Vec::new();
        let mut last = None;
        loop {
            let found = filter.found(&mut moment, project, until, last).await?;
            for segment in &found {
                let enough = lines.len() == wanted;
                if enough && lines.last().is_some_and(|l| l.started_ms > segment.last_ms) {
                    return Ok(AttemptPage::of(lines, limit));
                }
                let within = Within::Segment(segment.number);
                let page = filter.page(&within, project, after, limit);
                for row in page.fetch(&mut *moment).await? {
                    lines.push(rows::read(&row)?);
                }
                lines.sort_by_key(|line| std::cmp::Reverse(Place::of(line)));
                lines.truncate(wanted);
            }
            last = found.last().copied();
            if last.is_none() {
                return Ok(AttemptPage::of(lines, limit));
            }
        }
    }

    /// Forgets segments of which nothing is left: all that began before then was deleted.
    pub(super) async fn forget_segments(&self, before: Millis) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM segments WHERE last_ms < $1")
            .bind(before.0)
            .execute(self.pool().await?)
            .await?;
        Ok(())
    }
}

impl AttemptFilter {
    /// The next segments in which the value is that is looked up, and which have times that it takes: the latest first.
    async fn found(
        &self,
        moment: &mut Transaction<'_, Any>,
        project: &str,
        until: i64,
        after: Option<Segment>,
    ) -> Result<Vec<Segment>, StoreError> {
        let segment = |row: &AnyRow| {
            Ok(Segment {
                number: row.try_get(0)?,
                last_ms: row.try_get(1)?,
            })
        };
        let asked = self.segments(project, until, after);
        asked
            .fetch(&mut **moment)
            .await?
            .iter()
            .map(segment)
            .collect()
    }

    /// Whether it says something that stands in the indexes by segment.
    pub(super) fn looks_up(&self) -> bool {
        let said = [&self.delivery, &self.event_id, &self.key, &self.contact];
        said.iter().any(|said| said.is_some())
    }

    /// What asks for segments. Whether there is something in one is asked of an index of that segment; not with `EXISTS`, which PostgreSQL may
    /// turn into a look at all attempts.
    pub(super) fn segments(&self, project: &str, until: i64, after: Option<Segment>) -> Statement {
        let looked_up = Self {
            delivery: self.delivery.clone(),
            event_id: self.event_id.clone(),
            key: self.key.clone(),
            ..Self::default()
        };
        let mut statement =
            Statement::new("SELECT segment, last_ms FROM segments WHERE last_ms >= ");
        statement.number(self.from.map_or(i64::MIN, |from| from.0));
        statement.push(" AND first_ms <= ");
        statement.number(self.to.map_or(until, |to| to.0.min(until)));
        if let Some(Segment { number, last_ms }) = after {
            statement.push(" AND (last_ms, segment) < (");
            statement.number(last_ms);
            statement.push(", ");
            statement.number(number);
            statement.push(")");
        }
        statement.push(" AND ");
        self.write_whom(&mut statement, project, |statement, whom| {
            statement
                .push("(SELECT 1 FROM attempts WHERE attempts.segment = segments.segment AND ");
            whom.write(statement);
            looked_up.write(statement);
            statement.push(" LIMIT 1) IS NOT NULL");
        });
        statement.push(&format!(
            " ORDER BY last_ms DESC, segment DESC LIMIT {FOUND_AT_ONCE}"
        ));
        statement
    }
}
