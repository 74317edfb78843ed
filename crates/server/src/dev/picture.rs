//! What there is to see, gathered from the sources that every user has: the metrics, and attempts as they happen. Pure.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use hookline_history::AttemptLine;
use hookline_model::time::Millis;

/// Attempts kept for the screen.
const RECENT_MAX: usize = 64;
/// Waiting retries counted one by one; beyond that the count stops being exact.
const WAITING_MAX: usize = 10_000;
/// What rates are measured over.
const RATE_SPAN: Duration = Duration::from_secs(5);

/// The outcomes in the order in which they are shown.
pub(super) const OUTCOMES: [&str; 6] = [
    "delivered",
    "failed",
    "exhausted",
    "refused",
    "expired",
    "cancelled",
];

/// What the metrics say, counted since the start of the process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Numbers {
    /// Events read by fan-out.
    pub(super) events: u64,
    /// Of these, those that no webhook wanted.
    pub(super) unmatched: u64,
    /// Of these, those that could not be placed.
    pub(super) rejected: u64,
    /// Deliveries made.
    pub(super) deliveries: u64,
    /// Attempts, in the order of [`OUTCOMES`].
    pub(super) attempts: [u64; 6],
    /// Requests under way.
    pub(super) in_flight: u64,
    /// Lanes that fell behind.
    pub(super) lanes_behind: u64,
}

impl Numbers {
    /// Reads the metrics by their public names.
    pub(super) fn read(families: &[prometheus::proto::MetricFamily]) -> Self {
        let mut numbers = Self::default();
        for family in families {
            for metric in family.get_metric() {
                let label = |name: &str| {
                    metric
                        .get_label()
                        .iter()
                        .find(|label| label.name() == name)
                        .map_or("", |label| label.value())
                };
                let value = metric.get_counter().get_value() + metric.get_gauge().get_value();
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "counts are whole and not negative"
                )]
                let value = value.max(0.0) as u64;
                match family.name() {
                    "hookline_fanout_events_total" => {
                        numbers.events += value;
                        match label("result") {
                            "unmatched" => numbers.unmatched += value,
                            "rejected" => numbers.rejected += value,
                            _ => {}
                        }
                    }
                    "hookline_fanout_deliveries_total" => numbers.deliveries += value,
                    "hookline_dispatch_attempts_total" => {
                        let place = OUTCOMES.iter().position(|o| *o == label("outcome"));
                        if let Some(count) = place.and_then(|i| numbers.attempts.get_mut(i)) {
                            *count += value;
                        }
                    }
                    "hookline_dispatch_in_flight" => numbers.in_flight += value,
                    "hookline_dispatch_lanes_behind" => numbers.lanes_behind += value,
                    _ => {}
                }
            }
        }
        numbers
    }

    /// Attempts of all outcomes.
    pub(super) fn attempts_all(&self) -> u64 {
        self.attempts.iter().sum()
    }
}

/// What is known of a webhook.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Row {
    /// As the registry says; empty when it is gone.
    pub(super) state: String,
    /// Attempts since the start, by what came of them.
    pub(super) delivered: u64,
    /// See `delivered`.
    pub(super) failed: u64,
    /// Deliveries that ended without success.
    pub(super) ended: u64,
    /// Retries waiting.
    pub(super) waiting: usize,
    /// The last answer, and how long it took.
    pub(super) last: Option<(String, u32)>,
}

struct Waiting {
    webhook: String,
    due: Millis,
}

/// Everything that is on the screen.
pub(super) struct Picture {
    started: Millis,
    /// The metrics as last read.
    pub(super) numbers: Numbers,
    /// Webhooks by name.
    pub(super) rows: BTreeMap<String, Row>,
    /// The newest first.
    pub(super) recent: VecDeque<AttemptLine>,
    /// Something went wrong that a person should know.
    pub(super) note: Option<String>,
    waiting: HashMap<(String, u64), Waiting>,
    /// Numbers of events at earlier moments, oldest first.
    history: VecDeque<(Duration, u64)>,
}

impl Picture {
    /// Nothing seen yet; what began before `started` is not counted.
    pub(super) fn new(started: Millis) -> Self {
        Self {
            started,
            numbers: Numbers::default(),
            rows: BTreeMap::new(),
            recent: VecDeque::new(),
            note: None,
            waiting: HashMap::new(),
            history: VecDeque::new(),
        }
    }

    /// When counting began.
    pub(super) fn started_ms(&self) -> i64 {
        self.started.0
    }

    /// Takes in the metrics as they are `up` after the start.
    pub(super) fn measured(&mut self, numbers: Numbers, up: Duration) {
        self.history.push_back((up, numbers.events));
        while self.history.len() > 2
            && self
                .history
                .get(1)
                .is_some_and(|(at, _)| up.saturating_sub(*at) >= RATE_SPAN)
        {
            self.history.pop_front();
        }
        self.numbers = numbers;
    }

    /// Events per second over the last seconds.
    pub(super) fn rate(&self) -> f64 {
        match (self.history.front(), self.history.back()) {
            (Some((from, before)), Some((to, now))) if to > from => {
                #[expect(clippy::cast_precision_loss, reason = "for people")]
                let events = now.saturating_sub(*before) as f64;
                events / to.saturating_sub(*from).as_secs_f64()
            }
            _ => 0.0,
        }
    }

    /// Takes in which webhooks there are, with their state.
    pub(super) fn registered(&mut self, webhooks: Vec<(String, String)>) {
        for row in self.rows.values_mut() {
            row.state.clear();
        }
        for (name, state) in webhooks {
            self.rows.entry(name).or_default().state = state;
        }
        self.rows.retain(|_, row| !row.state.is_empty());
    }

    /// Takes in an attempt.
    pub(super) fn attempted(&mut self, line: AttemptLine) {
        if line.stray {
            return;
        }
        let key = (line.delivery_id.clone(), line.run);
        self.waiting.remove(&key);
        if let Some(due) = line.due_ms
            && self.waiting.len() < WAITING_MAX
        {
            let waiting = Waiting {
                webhook: line.webhook.clone(),
                due: Millis(due),
            };
            self.waiting.insert(key, waiting);
        }
        if let Some(row) = self.rows.get_mut(&line.webhook) {
            if line.started_ms >= self.started.0 {
                match line.outcome {
                    "delivered" => row.delivered += 1,
                    "failed" => row.failed += 1,
                    _ => row.ended += 1,
                }
            }
            let answer = match (&line.status, &line.error_class) {
                (Some(status), _) => Some(status.to_string()),
                (None, class) => class.clone(),
            };
            if let Some(answer) = answer {
                row.last = Some((answer, line.duration_ms));
            }
        }
        self.recent.push_front(line);
        self.recent.truncate(RECENT_MAX);
    }

    /// How many retries wait, and when the next is due.
    pub(super) fn retries(&mut self) -> (usize, Option<Millis>) {
        for row in self.rows.values_mut() {
            row.waiting = 0;
        }
        for waiting in self.waiting.values() {
            if let Some(row) = self.rows.get_mut(&waiting.webhook) {
                row.waiting += 1;
            }
        }
        let next = self.waiting.values().map(|waiting| waiting.due).min();
        (self.waiting.len(), next)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An attempt as the tail hands it out.
    pub(in crate::dev) fn line(
        webhook: &str,
        delivery: &str,
        outcome: &'static str,
        at: i64,
        due: Option<i64>,
    ) -> AttemptLine {
        let delivered = outcome == "delivered";
        AttemptLine {
            id: format!("{delivery}.0.1"),
            delivery_id: delivery.into(),
            run: 0,
            project: "demo".into(),
            event_id: "e".into(),
            event_source: "/s".into(),
            event_type: "activity.subscription_changed".into(),
            event_key: "k".into(),
            contact: None,
            webhook: webhook.into(),
            webhook_uid: "u".into(),
            attempt: 1,
            outcome,
            status: Some(if delivered { 200 } else { 500 }),
            error_class: (!delivered).then(|| "status".into()),
            error_detail: None,
            started_at: Millis(at).to_rfc3339(),
            duration_ms: 3,
            next_attempt_at: None,
            url: None,
            request: None,
            response: None,
            stray: false,
            position: hookline_history::PositionView {
                partition: 0,
                offset: 0,
                index: 0,
            },
            due_ms: due,
            started_ms: at,
        }
    }

    #[test]
    fn a_retry_waits_until_the_next_attempt_of_its_delivery() {
        let mut picture = Picture::new(Millis(1000));
        picture.registered(vec![("flaky".into(), "active".into())]);
        picture.attempted(line("flaky", "a", "failed", 500, Some(1500)));
        picture.attempted(line("flaky", "b", "failed", 1000, Some(3000)));
        assert_eq!(picture.retries(), (2, Some(Millis(1500))));
        assert_eq!(picture.rows["flaky"].waiting, 2);
        picture.attempted(line("flaky", "a", "delivered", 1500, None));
        assert_eq!(picture.retries(), (1, Some(Millis(3000))));
        let row = &picture.rows["flaky"];
        assert_eq!(
            (row.delivered, row.failed, row.ended),
            (1, 1, 0),
            "what happened before the start is not counted"
        );
        assert_eq!(row.last, Some(("200".into(), 3)));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut picture = Picture::new(Millis(0));
        for n in 0..WAITING_MAX + 100 {
            picture.attempted(line("dead", &n.to_string(), "failed", 0, Some(1)));
        }
        assert_eq!(picture.retries().0, WAITING_MAX);
        assert_eq!(picture.recent.len(), RECENT_MAX);
    }

    #[test]
    fn a_webhook_that_is_gone_is_not_shown() {
        let mut picture = Picture::new(Millis(0));
        picture.registered(vec![("a".into(), "active".into())]);
        picture.registered(vec![("b".into(), "paused".into())]);
        assert_eq!(picture.rows.keys().collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let mut picture = Picture::new(Millis(0));
        for second in 0..20 {
            let numbers = Numbers {
                events: if second < 10 { 0 } else { (second - 9) * 2 },
                ..Numbers::default()
            };
            picture.measured(numbers, Duration::from_secs(second));
        }
        assert!((picture.rate() - 2.0).abs() < 0.01, "{}", picture.rate());
    }

    #[test]
    fn metrics_are_read_by_their_public_names() {
        let registry = prometheus::Registry::new();
        let opts = prometheus::Opts::new("hookline_dispatch_attempts_total", "h");
        let attempts = prometheus::IntCounterVec::new(opts, &["outcome"]).unwrap();
        registry.register(Box::new(attempts.clone())).unwrap();
        attempts.with_label_values(&["failed"]).inc_by(3);
        let in_flight = prometheus::IntGauge::new("hookline_dispatch_in_flight", "h").unwrap();
        registry.register(Box::new(in_flight.clone())).unwrap();
        in_flight.set(2);
        let numbers = Numbers::read(&registry.gather());
        assert_eq!(numbers.attempts, [0, 3, 0, 0, 0, 0]);
        assert_eq!((numbers.in_flight, numbers.attempts_all()), (2, 3));
    }
}
