//! The limits of a retry policy.

use std::time::Duration;

use super::{RetryPolicy, Schedule, Success, Then, Times};
use crate::resource::FieldError;
use crate::units::format_duration;

/// The shortest wait: less would be a flood.
const DELAY_MIN: Duration = Duration::from_millis(10);
/// The shortest wait of a schedule without end.
const ENDLESS_DELAY_MIN: Duration = Duration::from_secs(1);
/// The longest wait, and the longest `max_age`.
const DELAY_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// Entries of a list, and matches of all permanent rules together.
const ENTRIES_MAX: usize = 100;
/// Retries of a schedule that says how many, and cycles of a rest.
const TIMES_MAX: u32 = 10_000;
/// The steepest growth.
const FACTOR_MAX: f64 = 100.0;
/// The most that jitter may add.
const JITTER_MAX: f64 = 0.5;

struct Errors(Vec<FieldError>);

impl Errors {
    fn unless(&mut self, ok: bool, field: impl Into<String>, message: impl Into<String>) {
        if !ok {
            self.0.push(FieldError::new(field, message));
        }
    }

    fn wait(&mut self, field: impl Into<String>, wait: Duration, least: Duration) {
        self.unless(
            (least..=DELAY_MAX).contains(&wait),
            field,
            format!(
                "must be from {} to {}",
                format_duration(least),
                format_duration(DELAY_MAX)
            ),
        );
    }

    fn times(&mut self, field: &str, times: Times) {
        self.unless(
            !matches!(times, Times::Limited(n) if n > TIMES_MAX),
            field,
            format!("must be at most {TIMES_MAX}, or `unlimited`"),
        );
    }
}

impl RetryPolicy {
    /// Everything in it that is beyond the limits, by field as in the resource file (`schedule.list[2]`). [`super::decide`] is total even
    /// over a policy that fails this; it would only be a foolish one.
    #[must_use]
    pub fn check(&self) -> Vec<FieldError> {
        let mut errors = Errors(Vec::new());
        check_schedule(&self.schedule, &mut errors);
        errors.unless(
            (0.0..=JITTER_MAX).contains(&self.jitter),
            "jitter",
            "must be from 0 to 0.5; it only adds",
        );
        if let Some(rest) = self.rest {
            errors.wait("rest.after", rest.after, ENDLESS_DELAY_MIN);
            errors.times("rest.cycles", rest.cycles);
            errors.unless(
                self.schedule.times() != Times::Unlimited,
                "rest",
                "never comes after an unlimited schedule; leave it out or limit `times`",
            );
        }
        if let Some(max_age) = self.max_age {
            errors.wait("max_age", max_age, ENDLESS_DELAY_MIN);
        }
        self.check_answers(&mut errors);
        errors.wait("retry_after.cap", self.retry_after.cap, ENDLESS_DELAY_MIN);
        errors.0
    }

    fn check_answers(&self, errors: &mut Errors) {
        if let Success::Codes(codes) = &self.success {
            errors.unless(
                !codes.is_empty() && codes.len() <= ENTRIES_MAX,
                "success",
                "must have 1 to 100 codes, or be `2xx`",
            );
            for (index, code) in codes.iter().enumerate() {
                errors.unless(
                    matches!(code, 200..=299 | 400..=599),
                    format!("success[{index}]"),
                    "must be a status from 200 to 599 and no redirect (3xx), which is never followed",
                );
            }
        }
        let matches: usize = self.permanent.iter().map(|r| r.matches.len()).sum();
        errors.unless(
            matches <= ENTRIES_MAX,
            "permanent",
            "must have at most 100 matches in all; ranges (400-407) make it shorter",
        );
        for (index, rule) in self.permanent.iter().enumerate() {
            errors.unless(
                !rule.matches.is_empty(),
                format!("permanent[{index}].match"),
                "must not be empty; leave the rule out instead",
            );
        }
        errors.unless(
            self.on_exhausted != Then::Split,
            "on_exhausted",
            "must be dead, deactivate or hold; `split` is for permanent rules of batched webhooks",
        );
    }
}

fn check_schedule(schedule: &Schedule, errors: &mut Errors) {
    let least = match schedule.times() {
        Times::Unlimited => ENDLESS_DELAY_MIN,
        Times::Limited(_) => DELAY_MIN,
    };
    match schedule {
        Schedule::Fixed { delay, times } => {
            errors.wait("schedule.fixed.delay", *delay, least);
            errors.times("schedule.fixed.times", *times);
        }
        Schedule::List(waits) => {
            errors.unless(
                waits.len() <= ENTRIES_MAX,
                "schedule.list",
                "must have at most 100 entries; use `fixed` or `exponential` for more",
            );
            for (index, wait) in waits.iter().enumerate() {
                errors.wait(format!("schedule.list[{index}]"), *wait, least);
            }
        }
        Schedule::Exponential {
            initial,
            factor,
            cap,
            times,
        } => {
            errors.wait("schedule.exponential.initial", *initial, least);
            errors.unless(
                (1.0..=FACTOR_MAX).contains(factor),
                "schedule.exponential.factor",
                "must be from 1 to 100",
            );
            errors.wait("schedule.exponential.cap", *cap, least);
            errors.unless(
                cap >= initial,
                "schedule.exponential.cap",
                "must not be shorter than `initial`",
            );
            errors.times("schedule.exponential.times", *times);
        }
    }
}
