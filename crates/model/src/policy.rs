//! When a delivery is tried again and when it ends: the retry policy, as a pure decision over what an attempt brought.

mod check;
mod retry_after;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

pub use retry_after::parse_retry_after;

use crate::outcome::{Answer, ErrorClass, Outcome, words};
use crate::time::Millis;

/// How often, at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Times {
    /// So often.
    Limited(u32),
    /// For ever.
    Unlimited,
}

/// The waits between attempts. Entries and times are retries: the first attempt comes before them.
#[derive(Debug, Clone, PartialEq)]
pub enum Schedule {
    /// The same wait each time.
    Fixed {
        /// The wait.
        delay: Duration,
        /// How many retries.
        times: Times,
    },
    /// Each wait by itself.
    List(Vec<Duration>),
    /// Waits that grow.
    Exponential {
        /// The first wait.
        initial: Duration,
        /// Each wait is so many times the one before.
        factor: f64,
        /// No wait is longer.
        cap: Duration,
        /// How many retries.
        times: Times,
    },
}

/// After the last retry: wait, then one attempt and the whole schedule again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rest {
    /// The wait.
    pub after: Duration,
    /// How often it starts over.
    pub cycles: Times,
}

words! {
    /// What follows from a final outcome.
    Then, "consequence" {
        /// The delivery goes to `dead`.
        Dead = "dead",
        /// The delivery goes to `dead` and the webhook becomes inactive.
        Deactivate = "deactivate",
        /// Ordered only: the lane waits until someone skips or releases it.
        Hold = "hold",
        /// Batches only: its events are sent one by one.
        Split = "split",
    }
}

/// Which answers a permanent rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Match {
    /// Statuses from … to, both included. Written `410`, `4xx` or `400-407`.
    Status(u16, u16),
    /// An error class, by its word.
    Class(ErrorClass),
}

/// Answers after which nothing is tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PermanentRule {
    /// The answers.
    pub matches: Vec<Match>,
    /// What follows.
    pub then: Then,
}

/// Which statuses mean that the receiver took the delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Success {
    /// Every 2xx.
    Any2xx,
    /// These.
    Codes(Vec<u16>),
}

/// What a `Retry-After` is worth. It counts with 429 and 503 only and never makes a retry earlier than the schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryAfter {
    /// Whether it is heeded.
    pub honour: bool,
    /// The longest wait that it can ask for.
    pub cap: Duration,
}

/// A webhook's retry policy.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    /// The waits.
    pub schedule: Schedule,
    /// Each wait grows by up to this share of it, at random.
    pub jitter: f64,
    /// Whether it starts over when the schedule has run out.
    pub rest: Option<Rest>,
    /// No attempt begins later than this after the first one of the run.
    pub max_age: Option<Duration>,
    /// What counts as delivered.
    pub success: Success,
    /// What ends a delivery at once; the first rule that matches wins.
    pub permanent: Vec<PermanentRule>,
    /// What follows when the schedule has run out.
    pub on_exhausted: Then,
    /// Whether the receiver may ask for longer waits.
    pub retry_after: RetryAfter,
}

/// What is known after an attempt.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Facts {
    /// The number of the attempt just made, from 1 in each run.
    pub attempt: u32,
    /// When the run's first attempt began.
    pub first_try: Millis,
    /// When this attempt ended; waits count from here.
    pub ended: Millis,
    /// What came back.
    pub answer: Answer,
    /// What the receiver asked for, by [`parse_retry_after`].
    pub retry_after: Option<Duration>,
    /// Chance, from 0 to below 1.
    pub draw: f64,
}

/// What to do after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The receiver took it.
    Delivered,
    /// Try again.
    Retry {
        /// So long after the attempt ended.
        delay: Duration,
    },
    /// It is over.
    Final {
        /// `Exhausted`, `Refused` or `Expired`.
        outcome: Outcome,
        /// What follows.
        then: Then,
    },
}

impl Verdict {
    /// The outcome to record for the attempt.
    #[must_use]
    pub fn outcome(self) -> Outcome {
        match self {
            Self::Delivered => Outcome::Delivered,
            Self::Retry { .. } => Outcome::Failed,
            Self::Final { outcome, .. } => outcome,
        }
    }
}

/// What follows from the attempt that brought these facts.
#[must_use]
pub fn decide(policy: &RetryPolicy, facts: &Facts) -> Verdict {
    if let Answer::Status(status) = facts.answer
        && policy.success.contains(status)
    {
        return Verdict::Delivered;
    }
    let refused = |then| Verdict::Final {
        outcome: Outcome::Refused,
        then,
    };
    if let Some(rule) = policy.permanent.iter().find(|r| r.covers(facts.answer)) {
        return refused(rule.then);
    }
    // Asking again cannot help: nothing but an edit changes a URL.
    if facts.answer == Answer::Failed(ErrorClass::UrlRefused) {
        return refused(Then::Dead);
    }
    let Some(scheduled) = policy.wait_after(facts.attempt) else {
        return Verdict::Final {
            outcome: Outcome::Exhausted,
            then: policy.on_exhausted,
        };
    };
    let delay = policy
        .with_jitter(scheduled, facts.draw)
        .max(policy.asked_for(facts));
    if expired(policy, facts.first_try, facts.ended.plus(delay)) {
        return Verdict::Final {
            outcome: Outcome::Expired,
            then: Then::Dead,
        };
    }
    Verdict::Retry { delay }
}

/// Whether an attempt that would begin at `now` comes too late, the run's first one having begun at `first_try`.
#[must_use]
pub fn expired(policy: &RetryPolicy, first_try: Millis, now: Millis) -> bool {
    policy
        .max_age
        .is_some_and(|max_age| now > first_try.plus(max_age))
}

impl RetryPolicy {
    /// The scheduled wait after this attempt, without jitter; `None` when there is no retry. The number alone says which cycle it is and
    /// where in it: a cycle is one attempt and all retries.
    #[must_use]
    pub fn wait_after(&self, attempt: u32) -> Option<Duration> {
        let made_before = attempt.saturating_sub(1);
        let Times::Limited(retries) = self.schedule.times() else {
            return self.schedule.wait(made_before);
        };
        let length = u64::from(retries) + 1;
        let (cycle, place) = (
            u64::from(made_before) / length,
            u64::from(made_before) % length,
        );
        if place < u64::from(retries) {
            // A limited schedule that starts over without a rest to allow it has run out long ago.
            return (cycle == 0 || self.rest.is_some_and(|r| r.allows(cycle - 1)))
                .then(|| self.schedule.wait(u32::try_from(place).unwrap_or(u32::MAX)))
                .flatten();
        }
        self.rest.filter(|r| r.allows(cycle)).map(|r| r.after)
    }

    /// How many attempts a run has at most; `None`: no limit.
    #[must_use]
    pub fn attempts_max(&self) -> Option<u64> {
        let Times::Limited(retries) = self.schedule.times() else {
            return None;
        };
        let cycles = match self.rest.map(|r| r.cycles) {
            None => 0,
            Some(Times::Limited(cycles)) => u64::from(cycles),
            Some(Times::Unlimited) => return None,
        };
        Some((u64::from(retries) + 1).saturating_mul(cycles + 1))
    }

    fn with_jitter(&self, wait: Duration, draw: f64) -> Duration {
        let draw = if (0.0..1.0).contains(&draw) {
            draw
        } else {
            0.0
        };
        // Rounding of floating point must not make it shorter.
        scale(wait, 1.0 + self.jitter * draw).max(wait)
    }

    fn asked_for(&self, facts: &Facts) -> Duration {
        let counts = self.retry_after.honour && matches!(facts.answer, Answer::Status(429 | 503));
        facts
            .retry_after
            .filter(|_| counts)
            .map_or(Duration::ZERO, |asked| asked.min(self.retry_after.cap))
    }
}

impl Rest {
    /// Whether it may start over once more after so many times.
    fn allows(&self, started_over: u64) -> bool {
        match self.cycles {
            Times::Unlimited => true,
            Times::Limited(cycles) => started_over < u64::from(cycles),
        }
    }
}

impl Schedule {
    /// How many retries it has.
    #[must_use]
    pub fn times(&self) -> Times {
        match self {
            Self::Fixed { times, .. } | Self::Exponential { times, .. } => *times,
            Self::List(waits) => Times::Limited(u32::try_from(waits.len()).unwrap_or(u32::MAX)),
        }
    }

    /// The wait before this retry, from 0.
    fn wait(&self, retry: u32) -> Option<Duration> {
        match self {
            Self::Fixed { delay, .. } => Some(*delay),
            Self::List(waits) => waits.get(usize::try_from(retry).ok()?).copied(),
            Self::Exponential {
                initial,
                factor,
                cap,
                ..
            } => {
                let growth = factor.powi(i32::try_from(retry).unwrap_or(i32::MAX));
                Some(scale(*initial, growth).min(*cap))
            }
        }
    }
}

/// A span times a factor of at least 1; what does not fit is the longest span.
fn scale(span: Duration, factor: f64) -> Duration {
    Duration::try_from_secs_f64(span.as_secs_f64() * factor).unwrap_or(Duration::MAX)
}

impl PermanentRule {
    pub(crate) fn covers(&self, answer: Answer) -> bool {
        self.matches.iter().any(|m| m.covers(answer))
    }
}

impl Match {
    fn covers(self, answer: Answer) -> bool {
        match self {
            Self::Status(from, to) => answer.status().is_some_and(|s| (from..=to).contains(&s)),
            Self::Class(class) => answer.error_class() == class,
        }
    }
}

impl Success {
    /// Whether this status means delivered.
    #[must_use]
    pub fn contains(&self, status: u16) -> bool {
        match self {
            Self::Any2xx => (200..=299).contains(&status),
            Self::Codes(codes) => codes.contains(&status),
        }
    }
}

/// Something that a permanent rule cannot match.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{value:?} matches nothing; write a status (410), a class (4xx), a range (400-407) or an error class ({classes})"
)]
pub struct MatchError {
    /// What was given, cut to 64 characters.
    pub value: String,
    /// The error classes.
    pub classes: String,
}

impl FromStr for Match {
    type Err = MatchError;

    fn from_str(text: &str) -> Result<Self, MatchError> {
        let code = |t: &str| {
            let code: u16 = (t.len() == 3).then(|| t.parse().ok()).flatten()?;
            (100..=599).contains(&code).then_some(code)
        };
        let class = |t: &str| {
            let first = t.strip_suffix("xx").filter(|d| d.len() == 1)?;
            let first: u16 = first.parse().ok().filter(|d| (1..=5).contains(d))?;
            Some((first * 100, first * 100 + 99))
        };
        let range = |t: &str| {
            let (from, to) = t.split_once('-')?;
            Some((code(from)?, code(to)?)).filter(|(from, to)| from <= to)
        };
        if let Some((from, to)) = code(text)
            .map(|c| (c, c))
            .or_else(|| class(text))
            .or_else(|| range(text))
        {
            return Ok(Self::Status(from, to));
        }
        text.parse().map(Self::Class).map_err(|_| MatchError {
            value: text.chars().take(64).collect(),
            classes: ErrorClass::ALL
                .iter()
                .map(|c| c.as_str())
                .collect::<Vec<_>>()
                .join(", "),
        })
    }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Status(from, to) if from == to => write!(f, "{from}"),
            Self::Status(from, to) if from % 100 == 0 && to == from + 99 => {
                write!(f, "{}xx", from / 100)
            }
            Self::Status(from, to) => write!(f, "{from}-{to}"),
            Self::Class(class) => write!(f, "{class}"),
        }
    }
}
