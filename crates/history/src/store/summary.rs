//! What the attempts of a list come to, in a few numbers: for the first page of a report, and to know how far an export is.

use std::collections::BTreeMap;
use std::time::Duration;

use hookline_model::time::Millis;
use sqlx::Row as _;

use super::query::AttemptFilter;
use super::segments::Within;
use super::statistics::{DAY_MS, HOUR_MS, MINUTE_MS};
use super::{Statement, Store, StoreError, unsigned};
use crate::OUTCOMES;

/// All that a filter takes is looked through, once for a whole file.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// Spans of time that are told apart, at most.
const SPANS_MAX: i64 = 60;
/// How long they may be; longer ones are whole days.
const STEPS: [i64; 12] = [
    MINUTE_MS,
    2 * MINUTE_MS,
    5 * MINUTE_MS,
    15 * MINUTE_MS,
    30 * MINUTE_MS,
    HOUR_MS,
    2 * HOUR_MS,
    3 * HOUR_MS,
    6 * HOUR_MS,
    12 * HOUR_MS,
    DAY_MS,
    2 * DAY_MS,
];

/// So many with each of [`OUTCOMES`], in their order.
pub type OutcomeCounts = [u64; OUTCOMES.len()];

/// What attempts come to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AttemptSummary {
    /// How many there are.
    pub count: u64,
    /// By outcome.
    pub outcomes: OutcomeCounts,
    /// When the first and the last began; `None`: there are none.
    pub interval: Option<(Millis, Millis)>,
    /// How long each span of the series is, in milliseconds.
    pub step_ms: i64,
    /// By outcome in those spans in which there are some, by their first moment; the interval has no more than sixty.
    pub series: Vec<(Millis, OutcomeCounts)>,
}

impl Store {
    /// What the attempts that a filter takes come to.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn attempt_summary(
        &self,
        project: &str,
        filter: &AttemptFilter,
    ) -> Result<AttemptSummary, StoreError> {
        let pool = self.pool().await?;
        let within = self.within(project, filter).await?;
        let ends = filter.select(&within, project, "MIN(started_ms), MAX(started_ms)");
        let found = ends.fetch_within(pool, ANSWER_WITHIN).await?;
        let Some(row) = found.first() else {
            return Ok(AttemptSummary::default());
        };
        let (Some(first), Some(last)) = (row.try_get(0)?, row.try_get::<Option<i64>, _>(1)?) else {
            return Ok(AttemptSummary::default());
        };
        let step = step(first, last);
        let counted = format!("outcome, started_ms / {step}, COUNT(*)");
        let mut counts = filter.select(&within, project, &counted);
        counts.push(" GROUP BY 1, 2");
        let mut summary = AttemptSummary {
            interval: Some((Millis(first), Millis(last))),
            step_ms: step,
            ..AttemptSummary::default()
        };
        let mut series: BTreeMap<i64, OutcomeCounts> = BTreeMap::new();
        for row in counts.fetch_within(pool, ANSWER_WITHIN).await? {
            let outcome: String = row.try_get(0)?;
            let (span, count): (i64, i64) = (row.try_get(1)?, row.try_get(2)?);
            let count = unsigned(count);
            summary.count += count;
            if let Some(place) = OUTCOMES.iter().position(|word| *word == outcome) {
                summary.outcomes[place] += count;
                series.entry(span).or_default()[place] += count;
            }
        }
        // What has come in since the first question may lie beyond the interval.
        let within = first / step..=last / step;
        let series = series.into_iter().filter(|(span, _)| within.contains(span));
        summary.series = series
            .map(|(span, counts)| (Millis(span * step), counts))
            .collect();
        Ok(summary)
    }
}

impl AttemptFilter {
    fn select(&self, within: &Within, project: &str, columns: &str) -> Statement {
        let mut statement = Statement::new(format!("SELECT {columns} FROM attempts WHERE "));
        self.write_all(&mut statement, within, project);
        statement
    }
}

/// The shortest step by which an interval has few spans.
fn step(first: i64, last: i64) -> i64 {
    let spans = |step: i64| last / step - first / step + 1;
    let found = STEPS.into_iter().find(|step| spans(*step) <= SPANS_MAX);
    found.unwrap_or_else(|| {
        let days = last.saturating_sub(first) / DAY_MS / (SPANS_MAX - 2) + 1;
        days * DAY_MS
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_has_few_spans_and_not_too_few() {
        let first = 1_700_000_123_456;
        for (span, expected) in [
            (0, Some(MINUTE_MS)),
            (50 * MINUTE_MS, Some(MINUTE_MS)),
            (3 * HOUR_MS, Some(5 * MINUTE_MS)),
            (2 * DAY_MS, Some(HOUR_MS)),
            (50 * DAY_MS, Some(DAY_MS)),
            (90 * DAY_MS, Some(2 * DAY_MS)),
            (400 * DAY_MS, None),
            (36_500 * DAY_MS, None),
        ] {
            let last = first + span;
            let step = step(first, last);
            let spans = last / step - first / step + 1;
            assert!((1..=SPANS_MAX).contains(&spans), "{span}: {spans}");
            assert!(
                expected.is_none_or(|expected| expected == step),
                "{span}: {step}"
            );
        }
        let all = step(0, i64::MAX);
        assert!(i64::MAX / all < SPANS_MAX);
    }
}
