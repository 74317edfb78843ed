//! What outlives a process: the topics, what is on its way to them, who can reach them, and the time.
//!
//! Everything happens in an order that the seed decides. Processes run one after another for a moment each (see [`super::process`]); between two moments the
//! world moves on: appends arrive, acknowledgements are told, groups are looked after.

use std::collections::BTreeMap;
use std::sync::Arc;

use hookline_journal::{
    AppendError, Appended, Committed, OnAppended, Record, StoredRecord, TopicPartition,
};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::admin::Acknowledged;
use super::groups::Group;
use super::lies::Lie;
use super::receivers::Receivers;
use super::trace::Trace;

/// 2023-11-14, in milliseconds: what the clocks show at the beginning.
pub(crate) const EPOCH_MS: i64 = 1_700_000_000_000;

/// A process, and which of its lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Life {
    pub(crate) process: u32,
    pub(crate) number: u32,
}

/// How likely trouble is at any moment; zero while it is calm.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Weather {
    /// An acknowledgement that does not say where the record stands.
    pub(crate) nowhere: f64,
    /// Offsets left out behind a record.
    pub(crate) gap: f64,
    /// A question or a commit that gets no answer, whether or not it was heard.
    pub(crate) unanswered: f64,
    /// A reader that is handed nothing for a while.
    pub(crate) slow_read: f64,
    /// The longest an append or an answer takes, in milliseconds.
    pub(crate) latency: i64,
}

/// One partition.
#[derive(Default)]
pub(crate) struct Log {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) records: BTreeMap<u64, StoredRecord>,
    /// Everything that ever stood there, with when it came: for the judge.
    pub(crate) ever: Vec<(i64, StoredRecord)>,
    readers: Vec<(Life, Arc<Notify>)>,
}

/// How a life stands to the brokers.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Line {
    pub(crate) dead: bool,
    pub(crate) frozen: bool,
    /// Nothing passes before this.
    pub(crate) cut_until: i64,
}

/// An append on its way.
struct Parcel {
    life: Life,
    appender: u64,
    place: TopicPartition,
    record: Record,
    done: Option<OnAppended>,
}

/// An answer on its way.
pub(crate) struct Answer {
    pub(crate) life: Life,
    pub(crate) done: OnAppended,
    pub(crate) result: Result<Appended, AppendError>,
}

/// See the module's documentation.
pub(crate) struct World {
    /// Milliseconds since the beginning.
    pub(crate) now: i64,
    pub(crate) random: fastrand::Rng,
    pub(crate) weather: Weather,
    pub(crate) trace: Trace,
    pub(crate) receivers: Receivers,
    /// What readers are told wrongly: only to see that the judge finds it out.
    pub(crate) lie: Option<Lie>,
    /// Writes to the registry that somebody was told of.
    pub(crate) writes: Vec<Acknowledged>,
    pub(crate) logs: BTreeMap<TopicPartition, Log>,
    pub(crate) committed: BTreeMap<(String, TopicPartition), Committed>,
    /// The highest that ever was: a commit that comes late sets a position back, which costs a repeat at most.
    pub(crate) reached: BTreeMap<(String, TopicPartition), u64>,
    pub(crate) groups: BTreeMap<String, Group>,
    pub(crate) lines: BTreeMap<Life, Line>,
    /// Wakes whoever waits for a line.
    pub(crate) healed: BTreeMap<Life, Arc<Notify>>,
    pub(crate) broker_down_until: i64,
    /// By how much the leader's clock is ahead.
    pub(crate) broker_ahead: i64,
    /// Counts everything that happens, so that nothing happening can be noticed.
    pub(crate) happened: u64,
    parcels: BTreeMap<(i64, u64), Parcel>,
    answers: BTreeMap<(i64, u64), Answer>,
    numbers: u64,
    appenders: BTreeMap<u64, AppenderState>,
}

#[derive(Default)]
struct AppenderState {
    failed: bool,
    under_way: usize,
    /// Parcels to one partition arrive in order, and so are they answered: the last of both.
    last: BTreeMap<TopicPartition, (i64, i64)>,
    room: Arc<Notify>,
}

/// Parcels that an appender takes on before it says that it is full.
const APPENDER_ROOM: usize = 64;

/// Why the world did not take an append on.
pub(crate) enum NotTaken {
    Full(Record, OnAppended),
    Failed(AppendError),
}

pub(crate) type Shared = Arc<Mutex<World>>;

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            now: 0,
            random: fastrand::Rng::with_seed(seed),
            weather: Weather::default(),
            trace: Trace::default(),
            receivers: Receivers::default(),
            lie: None,
            writes: Vec::new(),
            logs: BTreeMap::new(),
            committed: BTreeMap::new(),
            reached: BTreeMap::new(),
            groups: BTreeMap::new(),
            lines: BTreeMap::new(),
            healed: BTreeMap::new(),
            broker_down_until: 0,
            broker_ahead: 0,
            happened: 0,
            parcels: BTreeMap::new(),
            answers: BTreeMap::new(),
            numbers: 0,
            appenders: BTreeMap::new(),
        }
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    pub(crate) fn chance(&mut self, likely: f64) -> bool {
        likely > 0.0 && self.random.f64() < likely
    }

    pub(crate) fn latency(&mut self) -> i64 {
        self.random.i64(1..=self.weather.latency.max(1))
    }

    /// A new life, reachable.
    pub(crate) fn born(&mut self, life: Life) {
        self.lines.insert(life, Line::default());
        self.healed.insert(life, Arc::default());
    }

    /// Whether the brokers and this life hear one another.
    pub(crate) fn reaches(&self, life: Life) -> bool {
        let line = self.lines.get(&life).copied().unwrap_or_default();
        !line.dead
            && !line.frozen
            && line.cut_until <= self.now
            && self.broker_down_until <= self.now
    }

    pub(crate) fn alive(&self, life: Life) -> bool {
        self.lines.get(&life).is_some_and(|line| !line.dead)
    }

    // --- topics ---------------------------------------------------------

    pub(crate) fn make_topic(&mut self, name: &str, partitions: u32) {
        for partition in 0..partitions {
            self.logs.entry(place(name, partition)).or_default();
        }
    }

    pub(crate) fn log(&mut self, place: &TopicPartition) -> &mut Log {
        self.logs
            .get_mut(place)
            .unwrap_or_else(|| panic!("nobody made {place:?}"))
    }

    /// Stores a record, as the leader does.
    pub(crate) fn store(&mut self, place: &TopicPartition, record: Record) -> Appended {
        let stamp = EPOCH_MS + self.now + self.broker_ahead;
        let left_out = if self.chance(self.weather.gap) {
            self.random.u64(1..4)
        } else {
            0
        };
        let now = self.now;
        let log = self.log(place);
        let offset = log.end;
        log.end = offset + 1 + left_out;
        let stored = StoredRecord {
            offset,
            timestamp_ms: stamp,
            key: record.key,
            value: record.value,
            headers: record.headers,
        };
        log.ever.push((now, stored.clone()));
        self.trace.stored(now, place, &stored);
        let log = self.log(place);
        log.records.insert(offset, stored);
        log.wake();
        self.happened += 1;
        Appended {
            offset: Some(offset),
            timestamp_ms: Some(stamp),
        }
    }

    pub(crate) fn delete(&mut self, place: &TopicPartition, before: u64) {
        let log = self.log(place);
        let before = before.min(log.end);
        if before > log.start {
            log.start = before;
            log.records = log.records.split_off(&before);
        }
    }

    /// What compaction may do at any time: drop what is not the last of its key, then tombstones that stand alone.
    pub(crate) fn compact(&mut self, topic: &str) {
        let mut random = self.random.fork();
        for (_, log) in self.logs.iter_mut().filter(|(at, _)| at.topic == topic) {
            let mut last = BTreeMap::new();
            for record in log.records.values() {
                last.insert(record.key.clone(), record.offset);
            }
            log.records
                .retain(|offset, record| last[&record.key] == *offset || random.bool());
            let mut count = BTreeMap::new();
            for record in log.records.values() {
                *count.entry(record.key.clone()).or_insert(0) += 1;
            }
            log.records.retain(|_, record| {
                record.value.is_some() || count[&record.key] > 1 || random.bool()
            });
        }
    }

    pub(crate) fn follow(&mut self, place: &TopicPartition, life: Life, notify: Arc<Notify>) {
        self.log(place).readers.push((life, notify));
    }

    pub(crate) fn unfollow(&mut self, place: &TopicPartition, notify: &Arc<Notify>) {
        self.log(place)
            .readers
            .retain(|(_, other)| !Arc::ptr_eq(other, notify));
    }

    // --- appends --------------------------------------------------------

    pub(crate) fn new_appender(&mut self) -> u64 {
        let id = self.number();
        self.appenders.insert(id, AppenderState::default());
        id
    }

    pub(crate) fn room_of(&self, appender: u64) -> Arc<Notify> {
        self.appenders[&appender].room.clone()
    }

    pub(crate) fn has_room(&self, appender: u64) -> bool {
        let state = &self.appenders[&appender];
        state.failed || state.under_way < APPENDER_ROOM
    }

    /// Hands a record over. `at` is the present moment of the life, which may be ahead of the world's.
    pub(crate) fn send(
        &mut self,
        life: Life,
        appender: u64,
        place: TopicPartition,
        record: Record,
        done: OnAppended,
        at: i64,
    ) -> Result<(), NotTaken> {
        if !self.alive(life) {
            return Err(NotTaken::Failed(failed(&place.topic)));
        }
        let line = self.lines[&life];
        let earliest = (at + self.latency())
            .max(line.cut_until)
            .max(self.broker_down_until);
        let number = self.number();
        let Some(state) = self
            .appenders
            .get_mut(&appender)
            .filter(|state| !state.failed)
        else {
            return Err(NotTaken::Failed(failed(&place.topic)));
        };
        if state.under_way >= APPENDER_ROOM {
            return Err(NotTaken::Full(record, done));
        }
        state.under_way += 1;
        let last = state.last.entry(place.clone()).or_default();
        last.0 = last.0.max(earliest);
        let key = (last.0, number);
        self.happened += 1;
        self.parcels.insert(
            key,
            Parcel {
                life,
                appender,
                place,
                record,
                done: Some(done),
            },
        );
        Ok(())
    }

    /// What arrives up to now.
    pub(crate) fn arrive(&mut self) {
        while let Some(entry) = self.parcels.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            let parcel = entry.remove();
            let appended = self.store(&parcel.place, parcel.record);
            let Some(done) = parcel.done else { continue };
            let nowhere = self.chance(self.weather.nowhere);
            let appended = if nowhere {
                Appended {
                    offset: None,
                    timestamp_ms: None,
                }
            } else {
                appended
            };
            let at = self.now + self.latency();
            let number = self.number();
            // Nothing is known of an appender whose life is over.
            let at = self
                .appenders
                .get_mut(&parcel.appender)
                .map_or(at, |state| {
                    state.under_way = state.under_way.saturating_sub(1);
                    state.room.notify_waiters();
                    let last = state.last.entry(parcel.place).or_default();
                    last.1 = last.1.max(at);
                    last.1
                });
            self.answers.insert(
                (at, number),
                Answer {
                    life: parcel.life,
                    done,
                    result: Ok(appended),
                },
            );
        }
    }

    /// Answers that are told now. Those to whom they cannot be told wait.
    pub(crate) fn due_answers(&mut self) -> Vec<Answer> {
        let mut due = Vec::new();
        let later = self.answers.split_off(&(self.now + 1, 0));
        for (key, answer) in std::mem::replace(&mut self.answers, later) {
            if !self.alive(answer.life) {
                continue;
            }
            if self.reaches(answer.life)
                || (answer.result.is_err() && !self.lines[&answer.life].frozen)
            {
                self.happened += 1;
                due.push(answer);
            } else {
                self.answers.insert(key, answer);
            }
        }
        due
    }

    /// When something arrives or is told next.
    pub(crate) fn next_arrival(&self) -> Option<i64> {
        let parcel = self.parcels.keys().next().map(|(at, _)| *at);
        let answer = self.answers.keys().next().map(|(at, _)| *at);
        parcel.into_iter().chain(answer).min()
    }

    /// Interrupts what is under way: of each line (life, partition) some parcels, in order, have left it already; the others leave it at `later`, or
    /// (`None`) never, but for some that were held up and come late. With `tell`, their sender is told that they failed, and nothing more.
    fn interrupt(&mut self, of: impl Fn(&Parcel) -> bool, later: Option<i64>, tell: bool) {
        let mut lines: BTreeMap<(u64, TopicPartition), Vec<(i64, u64)>> = BTreeMap::new();
        for (key, parcel) in self.parcels.iter().filter(|(_, parcel)| of(parcel)) {
            lines
                .entry((parcel.appender, parcel.place.clone()))
                .or_default()
                .push(*key);
        }
        for ((appender, place), keys) in lines {
            let left = self.random.usize(0..=keys.len());
            let late = match later {
                None if self.random.bool() => self.random.usize(0..=keys.len() - left),
                _ => 0,
            };
            let mut held_until = self.now;
            for (index, key) in keys.into_iter().enumerate() {
                let mut parcel = self.parcels.remove(&key).expect("it was there");
                if let Some(done) = parcel.done.take_if(|_| tell) {
                    let answer = Answer {
                        life: parcel.life,
                        done,
                        result: Err(failed(&place.topic)),
                    };
                    let number = self.number();
                    self.answers.insert((self.now + 1, number), answer);
                }
                let at = match later {
                    _ if index < left => key.0,
                    Some(later) => key.0.max(later),
                    None if index < left + late => {
                        held_until = held_until.max(key.0) + self.random.i64(0..3_000);
                        held_until
                    }
                    None => continue,
                };
                self.parcels.insert((at, key.1), parcel);
                if let Some(last) = self
                    .appenders
                    .get_mut(&appender)
                    .and_then(|a| a.last.get_mut(&place))
                {
                    last.0 = last.0.max(at);
                }
            }
        }
    }

    /// The life ends at once.
    pub(crate) fn dies(&mut self, life: Life) {
        self.interrupt(|parcel| parcel.life == life, None, false);
        for parcel in self.parcels.values_mut().filter(|p| p.life == life) {
            parcel.done = None;
        }
        let line = self.lines.entry(life).or_default();
        line.dead = true;
        for log in self.logs.values_mut() {
            log.readers.retain(|(other, _)| *other != life);
        }
    }

    /// The life stands still, and with it what it has not yet handed to the network.
    pub(crate) fn freezes(&mut self, life: Life, until: i64) {
        self.interrupt(|parcel| parcel.life == life, Some(until), false);
        self.lines.entry(life).or_default().frozen = true;
    }

    pub(crate) fn thaws(&mut self, life: Life) {
        self.lines.entry(life).or_default().frozen = false;
        self.wake_line(life);
    }

    /// The life and the brokers do not hear one another until then.
    pub(crate) fn cut(&mut self, life: Life, until: i64) {
        self.interrupt(|parcel| parcel.life == life, Some(until), false);
        self.lines.entry(life).or_default().cut_until = until;
    }

    /// The brokers are away until then.
    pub(crate) fn broker_down(&mut self, until: i64) {
        self.interrupt(|_| true, Some(until), false);
        self.broker_down_until = until;
    }

    /// All appenders of a life fail for good.
    pub(crate) fn appenders_fail(&mut self, life: Life) {
        let ids: Vec<u64> = self
            .parcels
            .values()
            .filter(|p| p.life == life)
            .map(|p| p.appender)
            .collect();
        self.interrupt(|parcel| parcel.life == life, None, true);
        for id in ids {
            if let Some(state) = self.appenders.get_mut(&id) {
                state.failed = true;
                state.under_way = 0;
                state.room.notify_waiters();
            }
        }
    }

    pub(crate) fn wake_line(&mut self, life: Life) {
        if let Some(notify) = self.healed.get(&life) {
            notify.notify_waiters();
        }
        for log in self.logs.values() {
            for (_, notify) in log.readers.iter().filter(|(other, _)| *other == life) {
                notify.notify_waiters();
            }
        }
    }
}

impl Log {
    fn wake(&self) {
        for (_, notify) in &self.readers {
            notify.notify_waiters();
        }
    }
}

pub(crate) fn place(topic: &str, partition: u32) -> TopicPartition {
    TopicPartition {
        topic: topic.to_owned(),
        partition,
    }
}

fn failed(topic: &str) -> AppendError {
    AppendError::Failed {
        topic: topic.to_owned(),
        reason: "the simulation says so".into(),
    }
}
