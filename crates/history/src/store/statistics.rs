//! What attempts came to, per webhook and span of time. Added up while attempts are stored, so that asking costs the same however many there
//! were: of three months, some 2,200 rows for each webhook.

use std::collections::BTreeMap;
use std::time::Duration;

use hookline_model::time::Millis;
use serde::Serialize;
use sqlx::any::{AnyArguments, AnyRow};
use sqlx::query::Query;
use sqlx::{Any, Row as _, Transaction};

use super::rows::plain;
use super::write::chunks;
use super::{Statement, Store, StoreError, unsigned};
use crate::AttemptLine;
use crate::attempt_line::ENDED;

/// Up to how many milliseconds an exchange took, for each class but the last.
const CLASSES: [u32; 29] = [
    1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048,
    3072, 4096, 6144, 8192, 12288, 16384, 24576,
];
/// Where the last class is taken to end: no exchange may take longer.
const LONGEST_MS: u32 = 32768;
const LATENCIES: usize = CLASSES.len() + 1;

/// Final outcomes that have a column, in its order.
const FINAL: [&str; 5] = ["delivered", "exhausted", "refused", "expired", "cancelled"];
const NUMBERS: usize = 1 + FINAL.len() + LATENCIES;
pub(super) const COLUMNS_COUNT: usize = 4 + NUMBERS;

pub(super) const MINUTE_MS: i64 = 60_000;
pub(super) const HOUR_MS: i64 = 60 * MINUTE_MS;
pub(super) const DAY_MS: i64 = 24 * HOUR_MS;
/// What is kept: by minute and by hour.
const STEPS: [i64; 2] = [MINUTE_MS, HOUR_MS];
/// How long minutes are kept.
pub(crate) const MINUTES_KEPT: Duration = Duration::from_secs(2 * 24 * 3600);
/// Longer intervals are shown by the hour, and still longer ones by the day.
const BY_MINUTE_MAX: i64 = 3 * HOUR_MS;
const BY_HOUR_MAX: i64 = 7 * DAY_MS;

/// Names of the columns behind the key, in order.
fn numbers() -> impl Iterator<Item = String> {
    let words = std::iter::once("attempts").chain(FINAL);
    let latencies = (0..LATENCIES).map(|class| format!("l{class}"));
    words.map(str::to_owned).chain(latencies)
}

/// The statement around so many rows of places.
pub(super) fn insert(places: &str) -> String {
    let columns: Vec<String> = numbers().collect();
    let added: Vec<_> = columns
        .iter()
        .map(|column| format!("{column} = statistics.{column} + excluded.{column}"))
        .collect();
    format!(
        "INSERT INTO statistics (project, webhook_uid, step_ms, at_ms, {}) VALUES {places} \
         ON CONFLICT (project, webhook_uid, step_ms, at_ms) DO UPDATE SET {}",
        columns.join(", "),
        added.join(", ")
    )
}

/// What attempts of one webhook came to in a span of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figures([i64; NUMBERS]);

impl Default for Figures {
    fn default() -> Self {
        Self([0; NUMBERS])
    }
}

/// How long exchanges took: so many of a hundred took no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Latency {
    /// Half of them.
    pub p50: u32,
    /// 95 of a hundred.
    pub p95: u32,
    /// 99 of a hundred.
    pub p99: u32,
}

impl Figures {
    fn add(&mut self, other: &Self) {
        for (sum, number) in self.0.iter_mut().zip(other.0) {
            *sum += number;
        }
    }

    fn count(&mut self, line: &AttemptLine) {
        if let Some(place) = FINAL.iter().position(|word| *word == line.outcome) {
            self.0[1 + place] += 1;
        }
        // An outcome without an exchange is none.
        if line.id.ends_with(ENDED) {
            return;
        }
        self.0[0] += 1;
        let class = CLASSES.partition_point(|longest| *longest < line.duration_ms);
        self.0[1 + FINAL.len() + class] += 1;
    }

    /// Exchanges.
    #[must_use]
    pub fn attempts(&self) -> u64 {
        unsigned(self.0[0])
    }

    /// Exchanges that delivered.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        unsigned(self.0[1])
    }

    /// Exchanges that did not, whatever followed from them.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.attempts().saturating_sub(self.delivered())
    }

    /// Final outcomes, with or without an exchange.
    pub fn outcomes(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.0.iter().skip(1).map(|count| unsigned(*count));
        FINAL.into_iter().zip(counts)
    }

    /// The part of the exchanges that delivered; `None`: there were none.
    #[must_use]
    pub fn success_rate(&self) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let rate = self.delivered() as f64 / self.attempts() as f64;
        (self.attempts() > 0).then(|| (rate * 10_000.0).round() / 10_000.0)
    }

    /// How long exchanges took, within the breadth of a class; `None`: there were none.
    #[must_use]
    pub fn latency(&self) -> Option<Latency> {
        (self.attempts() > 0).then(|| Latency {
            p50: self.percentile(50),
            p95: self.percentile(95),
            p99: self.percentile(99),
        })
    }

    fn percentile(&self, of_a_hundred: u64) -> u32 {
        let counts = self.0.iter().skip(1 + FINAL.len());
        let counts: Vec<u64> = counts.map(|count| unsigned(*count)).collect();
        let all: u64 = counts.iter().sum();
        let wanted = (all * of_a_hundred).div_ceil(100);
        let (mut below, mut low) = (0, 0);
        for (count, high) in counts.iter().zip(CLASSES.into_iter().chain([LONGEST_MS])) {
            if below + count >= wanted && *count > 0 {
                // As if those of a class were spread evenly over it.
                let part = (u64::from(high - low) * (wanted - below)).div_ceil(*count);
                return low + u32::try_from(part).unwrap_or(0);
            }
            below += count;
            low = high;
        }
        low
    }
}

/// How long a step of a series is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// A minute.
    Minute,
    /// An hour.
    Hour,
    /// A day, in UTC.
    Day,
}

impl Step {
    fn ms(self) -> i64 {
        match self {
            Self::Minute => MINUTE_MS,
            Self::Hour => HOUR_MS,
            Self::Day => DAY_MS,
        }
    }

    /// What it is added up from.
    fn stored(self) -> i64 {
        match self {
            Self::Minute => MINUTE_MS,
            Self::Hour | Self::Day => HOUR_MS,
        }
    }
}

/// Whole steps of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval {
    /// The first moment.
    pub from: Millis,
    /// The first moment behind it.
    pub to: Millis,
    /// The steps of its series.
    pub step: Step,
}

impl Interval {
    /// The steps that hold the time from one moment up to another, as fine as is kept and as coarse as it takes for a series to stay short.
    #[must_use]
    pub fn around(from: Millis, to: Millis, now: Millis) -> Self {
        let span = to.0.saturating_sub(from.0);
        let kept = i64::try_from(MINUTES_KEPT.as_millis()).unwrap_or(i64::MAX);
        let step = if span <= BY_MINUTE_MAX && from.0 > now.0.saturating_sub(kept) {
            Step::Minute
        } else if span <= BY_HOUR_MAX {
            Step::Hour
        } else {
            Step::Day
        };
        // Days are made of hours, and those of the first and last day that were not asked for are left out.
        let edge = step.stored();
        Self {
            from: Millis(from.0.div_euclid(edge).saturating_mul(edge)),
            to: Millis(
                to.0.saturating_add(edge - 1)
                    .div_euclid(edge)
                    .saturating_mul(edge),
            ),
            step,
        }
    }
}

/// What one webhook's attempts came to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WebhookStatistics {
    /// In the whole interval.
    pub whole: Figures,
    /// In those of its steps in which there was something, by their first moment.
    pub series: Vec<(Millis, Figures)>,
    /// When the first attempt was made of the oldest delivery that is still to be delivered now.
    pub oldest_waiting: Option<Millis>,
}

impl Store {
    /// What attempts of these webhooks came to, by their uids.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn statistics(
        &self,
        project: &str,
        webhooks: &[String],
        interval: Interval,
    ) -> Result<BTreeMap<String, WebhookStatistics>, StoreError> {
        let mut found: BTreeMap<String, WebhookStatistics> = webhooks
            .iter()
            .map(|uid| (uid.clone(), WebhookStatistics::default()))
            .collect();
        if found.is_empty() {
            return Ok(found);
        }
        let pool = self.pool().await?;
        for row in series(project, webhooks, interval).fetch(pool).await? {
            let uid: String = row.try_get(0)?;
            let (at, figures) = (Millis(row.try_get(1)?), read(&row)?);
            let of = found.entry(uid).or_default();
            of.whole.add(&figures);
            of.series.push((at, figures));
        }
        for row in waiting(project, webhooks).fetch(pool).await? {
            let uid: String = row.try_get(0)?;
            found.entry(uid).or_default().oldest_waiting = Some(Millis(row.try_get(1)?));
        }
        Ok(found)
    }

    /// Adds what these attempts came to.
    pub(super) async fn put_statistics(
        &self,
        transaction: &mut Transaction<'_, Any>,
        attempts: &[AttemptLine],
    ) -> Result<(), sqlx::Error> {
        let mut sums: BTreeMap<(&str, &str, i64, i64), Figures> = BTreeMap::new();
        for line in attempts.iter().filter(|line| !line.stray) {
            for step in STEPS {
                let at = line.started_ms.div_euclid(step) * step;
                let key = (line.project.as_str(), line.webhook_uid.as_str(), step, at);
                sums.entry(key).or_default().count(line);
            }
        }
        let rows: Vec<_> = sums.into_iter().collect();
        for chunk in chunks(&rows) {
            let sql = self.inserts.statistics(chunk.len());
            let bound = chunk.iter().fold(sqlx::query(sql), bind);
            bound.execute(&mut **transaction).await?;
        }
        Ok(())
    }
}

type Sum<'a> = ((&'a str, &'a str, i64, i64), Figures);

fn bind<'q>(
    query: Query<'q, Any, AnyArguments<'q>>,
    (key, figures): &'q Sum<'_>,
) -> Query<'q, Any, AnyArguments<'q>> {
    let (project, uid, step, at) = *key;
    let query = query.bind(project).bind(uid).bind(step).bind(at);
    figures
        .0
        .iter()
        .fold(query, |query, number| query.bind(*number))
}

fn read(row: &AnyRow) -> Result<Figures, StoreError> {
    let mut figures = Figures::default();
    for (column, number) in figures.0.iter_mut().enumerate() {
        *number = row.try_get(2 + column)?;
    }
    Ok(figures)
}

/// What asks for the steps of an interval.
pub(super) fn series(project: &str, webhooks: &[String], interval: Interval) -> Statement {
    let step = interval.step.ms();
    let sums: Vec<_> = numbers()
        .map(|column| format!("CAST(SUM({column}) AS BIGINT)"))
        .collect();
    let mut statement = Statement::new(format!(
        "SELECT webhook_uid, at_ms / {step} * {step}, {} FROM statistics WHERE project = ",
        sums.join(", ")
    ));
    statement.text(&plain(project));
    statement.push(" AND webhook_uid IN (");
    for (place, uid) in webhooks.iter().enumerate() {
        if place > 0 {
            statement.push(", ");
        }
        statement.text(&plain(uid));
    }
    statement.push(") AND step_ms = ");
    statement.number(interval.step.stored());
    statement.push(" AND at_ms >= ");
    statement.number(interval.from.0);
    statement.push(" AND at_ms < ");
    statement.number(interval.to.0);
    statement.push(" GROUP BY 1, 2 ORDER BY 1, 2");
    statement
}

/// What asks for the oldest delivery of each that waits: one step into an index for each webhook, however many wait.
pub(super) fn waiting(project: &str, webhooks: &[String]) -> Statement {
    let mut statement = Statement::default();
    for (place, uid) in webhooks.iter().enumerate() {
        if place > 0 {
            statement.push(" UNION ALL ");
        }
        statement.push("SELECT * FROM (SELECT webhook_uid, first_ms FROM deliveries WHERE outcome = 'failed' AND project = ");
        statement.text(&plain(project));
        statement.push(" AND webhook_uid = ");
        statement.text(&plain(uid));
        statement.push(" ORDER BY first_ms LIMIT 1) AS oldest");
    }
    statement
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_as_many_columns_as_the_tables_have() {
        let made = include_str!("../../migrations/0003_statistics.sql");
        for column in numbers() {
            assert!(
                made.contains(&format!("\n  {column} BIGINT NOT NULL,\n")),
                "{column}"
            );
        }
        assert!(!made.contains(&format!("l{LATENCIES} ")));
        for (class, longest) in CLASSES.iter().enumerate().skip(1) {
            let shorter = CLASSES[class - 1];
            let text = format!("duration_ms > {shorter} AND duration_ms <= {longest} ");
            assert!(made.contains(&text), "{text}");
        }
    }

    #[test]
    fn percentiles_are_within_their_class() {
        let mut figures = Figures::default();
        for duration_ms in 1..=1000 {
            let mut line = crate::testing::attempt(0, 0, "a");
            line.duration_ms = duration_ms;
            figures.count(&line);
        }
        let latency = figures.latency().expect("some");
        assert!((450..=550).contains(&latency.p50), "{latency:?}");
        assert!((900..=1024).contains(&latency.p95), "{latency:?}");
        assert!((latency.p95..=1024).contains(&latency.p99), "{latency:?}");
        assert_eq!(Figures::default().latency(), None);
        assert_eq!(Figures::default().success_rate(), None);
        let mut longest = Figures::default();
        let mut line = crate::testing::attempt(0, 0, "a");
        line.duration_ms = u32::MAX;
        longest.count(&line);
        assert_eq!(longest.latency().expect("one").p50, LONGEST_MS);
    }

    #[test]
    fn an_interval_is_cut_into_few_steps_that_hold_all_of_it() {
        let now = Millis(1_700_000_123_456);
        let hour = Duration::from_secs(3600);
        for (hours, step, most) in [
            (1, Step::Minute, 61),
            (3, Step::Minute, 181),
            (4, Step::Hour, 5),
            (7 * 24, Step::Hour, 7 * 24 + 1),
            (92 * 24, Step::Day, 94),
        ] {
            let from = Millis(now.0 - i64::from(hours) * HOUR_MS);
            let interval = Interval::around(from, now, now);
            assert_eq!(interval.step, step, "{hours} h");
            assert!(interval.from <= from && interval.to >= now);
            let steps = (interval.to.0 - interval.from.0) / step.ms();
            assert!(steps <= most, "{steps} steps for {hours} h");
        }
        let long_ago = Millis(now.0 - 3 * DAY_MS);
        let interval = Interval::around(long_ago, long_ago.plus(hour), now);
        assert_eq!(interval.step, Step::Hour, "minutes are not kept so long");
    }
}
