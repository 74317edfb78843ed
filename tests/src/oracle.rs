//! What was accepted, and whether a run kept what is promised about it.
//!
//! The [`Oracle`] hands out events whose ids and payloads follow from a seed, and remembers which were accepted: those whose append was
//! acknowledged. One whose append failed is *perhaps* there: it is delivered completely or not at all. [`lives`] remembers which processes
//! ran and what was done to them. In the end [`Oracle::judge`] holds three things against one another: what was accepted, what a
//! [`Receiver`] journaled, and what the topic `attempts` says, read as the design says (a record of a lower epoch behind a claim counts for
//! nobody).

mod judge;
pub mod lives;
pub mod log;

use std::collections::BTreeMap;

use bytes::Bytes;
use hookline_model::wire;
use parking_lot::Mutex;

use crate::receiver::{Received, Receiver, stumbles};

pub use judge::{Evidence, Repeat, Verdict};

/// The project of all events.
pub const PROJECT: &str = "shop";
/// The source of all events.
pub const SOURCE: &str = "/oracle";

/// The types that events have by chance, and how many of a hundred have each.
pub const TYPES: [(&str, u8); 3] = [
    ("order.paid", 65),
    ("user.signup", 30),
    ("email.message.clicked", 5),
];

/// A moment that all events carry, so that a body does not depend on when it was accepted.
const TIME: &str = "2026-01-02T03:04:05.678Z";

/// What the body of a webhook's requests is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `{"type", "timestamp", "data"}`.
    Standard,
    /// The data as it was published.
    Data,
}

/// A webhook, and what becomes of an event that is sent to it.
#[derive(Debug, Clone)]
pub struct Hook {
    /// Its name.
    pub name: String,
    /// Where it points to at the receiver. No path of another webhook may begin so.
    pub path: String,
    /// What its requests carry.
    pub form: Form,
    /// The one type that it wants; `None`: all.
    pub only: Option<&'static str>,
    /// How many attempts a delivery takes.
    pub attempts: u32,
    /// One delivery in so many takes one attempt more, by [`stumbles`]; 0: none does.
    pub stumbles: u64,
    /// Whether its sends are in an order, and in which: `webhook` or `key`.
    pub ordered: Option<&'static str>,
    /// How it ends.
    pub ends: wire::Outcome,
    /// Whether a fresh event must reach it soon, whatever else is under way.
    pub prompt: bool,
    /// Further lines of its resource.
    pub more: String,
}

impl Hook {
    /// One that points to this path, takes everything at the first attempt, and is to get a fresh event soon.
    #[must_use]
    pub fn new(name: &str, path: &str) -> Self {
        Self {
            name: name.to_owned(),
            path: path.to_owned(),
            form: Form::Standard,
            only: None,
            attempts: 1,
            stumbles: 0,
            ordered: None,
            ends: wire::Outcome::Delivered,
            prompt: true,
            more: String::new(),
        }
    }

    /// With the data alone as its body.
    #[must_use]
    pub fn data(mut self) -> Self {
        self.form = Form::Data;
        self
    }

    /// For events of one type only.
    #[must_use]
    pub fn only(mut self, event_type: &'static str) -> Self {
        self.only = Some(event_type);
        self
    }

    /// Delivered at this attempt, by these further lines (its policy).
    #[must_use]
    pub fn delivered_at(mut self, attempts: u32, more: &str) -> Self {
        self.attempts = attempts;
        self.more.push_str(more);
        self.more.push('\n');
        self
    }

    /// One that fails now and then: its receiver (at `/hiccup/N/…`) does not take the first attempt of one delivery in so many.
    #[must_use]
    pub fn stumbling(mut self, one_in: u64, more: &str) -> Self {
        self.stumbles = one_in;
        self.delivered_at(1, more)
    }

    /// With its sends in order: of the whole `webhook`, or of each event `key`. A fresh event may have to wait.
    #[must_use]
    pub fn ordered(mut self, by: &'static str) -> Self {
        self.ordered = Some(by);
        self.unhurried(&format!("ordered: {by}"))
    }

    /// How many attempts the delivery with this `webhook-id` takes.
    #[must_use]
    pub fn attempts_of(&self, webhook_id: &str) -> u32 {
        let stumbles = self.stumbles > 0 && stumbles(webhook_id, self.stumbles);
        self.attempts + u32::from(stumbles)
    }

    /// Never delivered: it ends so at this attempt.
    #[must_use]
    pub fn ends_at(mut self, attempts: u32, outcome: wire::Outcome, more: &str) -> Self {
        self = self.delivered_at(attempts, more);
        self.ends = outcome;
        self
    }

    /// A fresh event may have to wait behind others of this webhook.
    #[must_use]
    pub fn unhurried(mut self, more: &str) -> Self {
        self.prompt = false;
        self.more.push_str(more);
        self.more.push('\n');
        self
    }

    fn wants(&self, event_type: &str) -> bool {
        self.only.is_none_or(|only| only == event_type)
    }

    fn document(&self, receiver: &Receiver) -> String {
        let events = self.only.unwrap_or("*");
        let body = match self.form {
            Form::Standard => "standard",
            Form::Data => "data",
        };
        format!(
            "kind: Webhook\nproject: {PROJECT}\nname: {}\nurl: {}\nevents: [\"{events}\"]\nbody: {body}\n{}---\n",
            self.name,
            receiver.url(&self.path),
            self.more
        )
    }
}

/// An event as it is handed out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its number, from 0.
    pub number: usize,
    /// Its id.
    pub id: String,
    /// Its type.
    pub event_type: &'static str,
    /// Its key.
    pub key: String,
    /// Its data: JSON whose bytes would not survive being parsed and written again.
    pub data: String,
}

impl Event {
    /// The event as a CloudEvent in JSON, on one line.
    #[must_use]
    pub fn document(&self) -> String {
        format!(
            r#"{{"specversion":"1.0","project":"{PROJECT}","source":"{SOURCE}","id":"{}","type":"{}","time":"{TIME}","partitionkey":"{}","data":{}}}"#,
            self.id, self.event_type, self.key, self.data
        )
    }

    /// What the body of a request must be, byte for byte.
    #[must_use]
    pub fn body(&self, form: Form) -> String {
        match form {
            Form::Standard => format!(
                r#"{{"type":"{}","timestamp":"{TIME}","data":{}}}"#,
                self.event_type, self.data
            ),
            Form::Data => self.data.clone(),
        }
    }
}

/// What is known of an event that was handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Handed out; nobody has acknowledged it.
    Perhaps,
    /// Its append was acknowledged.
    Accepted,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Oracle {
    seed: u64,
    hooks: Vec<Hook>,
    bytes_min: usize,
    fates: Mutex<Vec<Fate>>,
}

impl Oracle {
    /// One that says its seed.
    #[must_use]
    pub fn new(seed: u64, hooks: Vec<Hook>) -> Self {
        crate::say(&format!("oracle: seed {seed}"));
        assert!(hooks.len() <= 32, "a set of webhooks fits into 32 bits");
        for (n, hook) in hooks.iter().enumerate() {
            let others = hooks.iter().enumerate().filter(|(m, _)| *m != n);
            let mut clash = others.filter(|(_, other)| other.path.starts_with(&hook.path));
            assert!(
                clash.next().is_none(),
                "{}: a path begins with that of another webhook",
                hook.path
            );
        }
        Self {
            seed,
            hooks,
            bytes_min: 0,
            fates: Mutex::default(),
        }
    }

    /// Every payload has at least so many bytes.
    #[must_use]
    pub fn with_payloads_of(mut self, bytes_min: usize) -> Self {
        self.bytes_min = bytes_min;
        self
    }

    /// The webhooks.
    #[must_use]
    pub fn hooks(&self) -> &[Hook] {
        &self.hooks
    }

    /// The resources to apply.
    #[must_use]
    pub fn documents(&self, receiver: &Receiver) -> String {
        let documents = self.hooks.iter().map(|hook| hook.document(receiver));
        documents.collect()
    }

    /// The next event. It counts as accepted only once [`Self::accepted`] was called for it.
    #[must_use]
    pub fn hand_out(&self) -> Event {
        let mut fates = self.fates.lock();
        let number = fates.len();
        fates.push(Fate::Perhaps);
        drop(fates);
        self.event(number)
    }

    /// The append of this event was acknowledged.
    pub fn accepted(&self, number: usize) {
        if let Some(fate) = self.fates.lock().get_mut(number) {
            *fate = Fate::Accepted;
        }
    }

    /// How many events were handed out, and how many of these were accepted.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let fates = self.fates.lock();
        let accepted = fates.iter().filter(|fate| **fate == Fate::Accepted);
        (fates.len(), accepted.count())
    }

    /// The event of that number, as it was or will be handed out.
    #[must_use]
    pub fn event(&self, number: usize) -> Event {
        let mut random =
            fastrand::Rng::with_seed(self.seed ^ (number as u64).wrapping_mul(0x9e37_79b9));
        Event {
            number,
            id: format!("{:x}-{number}", self.seed),
            event_type: event_type(&mut random),
            key: format!("k{}", random.u8(..16)),
            data: payload(number, self.bytes_min, &mut random),
        }
    }

    /// The number in an event's id, if it is one of ours.
    #[must_use]
    pub fn number_of_id(&self, id: &str) -> Option<usize> {
        let (seed, number) = id.split_once('-')?;
        let number: usize = number.parse().ok()?;
        (seed == format!("{:x}", self.seed) && number < self.fates.lock().len()).then_some(number)
    }

    /// The webhook that a path of the receiver belongs to.
    #[must_use]
    pub fn hook_at(&self, path: &str) -> Option<usize> {
        self.hooks
            .iter()
            .position(|hook| path.starts_with(&hook.path))
    }

    /// Which webhooks want the event, as bits.
    fn wanted(&self, event: &Event) -> u32 {
        (0..)
            .zip(&self.hooks)
            .filter(|(_, hook)| hook.wants(event.event_type))
            .fold(0, |all, (n, _)| all | 1 << n)
    }
}

fn event_type(random: &mut fastrand::Rng) -> &'static str {
    let mut of_hundred = random.u8(..100);
    for (event_type, share) in TYPES {
        if of_hundred < share {
            return event_type;
        }
        of_hundred -= share;
    }
    TYPES[0].0
}

/// JSON with spacing, escapes and numbers that a parser would not keep.
fn payload(number: usize, bytes_min: usize, random: &mut fastrand::Rng) -> String {
    const PIECES: [&str; 8] = [
        "\"é\"",
        "\"\\u00e9\\n\"",
        "1.0",
        "-0.50e+2",
        " [ ]",
        "{\"b\" :null}",
        "12345678901234567890",
        "\"</script>\\/\"",
    ];
    let mut data = format!("{{\"event\":{number}, \"z\":[");
    let mut first = true;
    for _ in 0..random.usize(1..12) {
        if !first {
            data.push_str(random.choice([",", " ,", ",  "]).unwrap_or(","));
        }
        first = false;
        data.push_str(random.choice(PIECES).unwrap_or("null"));
    }
    data.push_str("],\"a\":\"");
    let pad = random.usize(..200);
    while data.len() < bytes_min.max(pad) {
        data.push(random.alphanumeric());
    }
    data.push_str("\"}");
    data
}

/// The number that a payload carries.
fn number_in(body: &[u8]) -> Option<usize> {
    const MARK: &[u8] = b"{\"event\":";
    let at = body.windows(MARK.len()).position(|w| w == MARK)? + MARK.len();
    let digits = body.get(at..)?.iter().take_while(|b| b.is_ascii_digit());
    let digits: Vec<u8> = digits.copied().collect();
    std::str::from_utf8(&digits).ok()?.parse().ok()
}

fn attempt_of(request: &Received) -> Option<u32> {
    request.header("hookline-attempt")?.parse().ok()
}

/// Follows what arrives, for waiting until nothing is missing.
#[derive(Debug)]
pub struct Arrivals<'a> {
    oracle: &'a Oracle,
    receiver: &'a Receiver,
    looked: usize,
    /// By event: the webhooks whose last attempt has come.
    arrived: Vec<u32>,
    /// By event, as long as it is not known: the webhooks that want it.
    wanted: Vec<u32>,
}

impl<'a> Arrivals<'a> {
    /// Nothing has come yet.
    #[must_use]
    pub fn new(oracle: &'a Oracle, receiver: &'a Receiver) -> Self {
        Self {
            oracle,
            receiver,
            looked: 0,
            arrived: Vec::new(),
            wanted: Vec::new(),
        }
    }

    fn look(&mut self) {
        let (oracle, arrived) = (self.oracle, &mut self.arrived);
        self.looked = self.receiver.journal(|requests| {
            for request in &requests[self.looked..] {
                let last = oracle.hook_at(&request.path).filter(|hook| {
                    let attempts = oracle.hooks[*hook].attempts_of(request.webhook_id());
                    attempt_of(request).is_some_and(|n| n >= attempts)
                });
                let Some((hook, number)) = last.zip(number_in(&request.body)) else {
                    continue;
                };
                if arrived.len() <= number {
                    arrived.resize(number + 1, 0);
                }
                arrived[number] |= 1 << hook;
            }
            requests.len()
        });
        let handed = self.oracle.fates.lock().len();
        for number in self.wanted.len()..handed {
            self.wanted
                .push(self.oracle.wanted(&self.oracle.event(number)));
        }
        self.arrived.resize(handed.max(self.arrived.len()), 0);
    }

    /// Deliveries of accepted events whose last attempt has not come, by webhook.
    pub fn missing(&mut self) -> BTreeMap<String, usize> {
        self.look();
        let mut missing = vec![0_usize; self.oracle.hooks.len()];
        let fates = self.oracle.fates.lock();
        let known = fates.iter().zip(&self.wanted).zip(&self.arrived);
        for ((fate, wanted), arrived) in known {
            let lacking = wanted & !arrived;
            if *fate == Fate::Accepted && lacking != 0 {
                (0..missing.len()).for_each(|n| missing[n] += (lacking >> n & 1) as usize);
            }
        }
        let named = self.oracle.hooks.iter().zip(missing);
        named
            .filter(|(_, n)| *n > 0)
            .map(|(hook, n)| (hook.name.clone(), n))
            .collect()
    }

    /// Whether the first attempt or a later one of this event has come to every webhook that is to get a fresh event soon.
    pub fn has_reached_the_prompt(&mut self, number: usize) -> bool {
        self.look();
        let prompt = (0..)
            .zip(&self.oracle.hooks)
            .filter(|(_, hook)| hook.prompt)
            .fold(0, |all: u32, (n, _)| all | 1 << n);
        let wanted = self.wanted.get(number).copied().unwrap_or(u32::MAX) & prompt;
        let arrived = self.arrived.get(number).copied().unwrap_or(0);
        wanted & !arrived == 0
    }
}

/// What a request must be, by the event that it carries. `Err`: what is wrong with it.
fn expected(oracle: &Oracle, request: &Received) -> Result<(usize, usize, u32), String> {
    let hook = oracle
        .hook_at(&request.path)
        .ok_or_else(|| "its path belongs to no webhook".to_owned())?;
    let number = number_in(&request.body).ok_or_else(|| "its body carries no event".to_owned())?;
    if number >= oracle.fates.lock().len() {
        return Err("its event was never handed out".to_owned());
    }
    let event = oracle.event(number);
    if !oracle.hooks[hook].wants(event.event_type) {
        return Err("its webhook did not want this event".to_owned());
    }
    let body = Bytes::from(event.body(oracle.hooks[hook].form));
    if body != request.body {
        return Err(format!("its body is not byte for byte {body:?}"));
    }
    let attempt =
        attempt_of(request).ok_or_else(|| "it does not say which attempt it is".to_owned())?;
    Ok((number, hook, attempt))
}

#[cfg(test)]
mod tests;
