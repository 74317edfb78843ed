//! What a run is to be, all of it drawn from its seed.

use std::time::Duration;

use hookline_model::core::lane::QueueLimits;
use hookline_model::resource::State;

use super::admin::{Order, PROJECT};
use super::by_hand::Wish;
use super::hooks::{Hook, hooks};
use super::process::{OldEnd, Roles, Setup};
use super::world::Weather;

/// Which kinds of trouble a run has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mix {
    /// None at all.
    None,
    /// Processes are asked to stop, and started again.
    Graceful,
    /// Processes are killed.
    Kills,
    /// Processes stand still, or cannot reach the brokers.
    Freezes,
    /// Appends fail, acknowledgements and answers get lost.
    Losses,
    /// The brokers go away.
    Broker,
    /// All of it.
    All,
    /// All of it, and no two clocks agree.
    Clocks,
}

impl Mix {
    pub(crate) const ALL: [Self; 8] = [
        Self::None,
        Self::Graceful,
        Self::Kills,
        Self::Freezes,
        Self::Losses,
        Self::Broker,
        Self::All,
        Self::Clocks,
    ];
}

/// Something that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// `SIGKILL`; it is started again after so long.
    Kill { process: usize, down: i64 },
    /// `SIGTERM`; it is started again when it has ended.
    Restart { process: usize },
    /// `SIGSTOP` for so long.
    Freeze { process: usize, span: i64 },
    /// Nothing passes between it and the brokers for so long.
    Cut { process: usize, span: i64 },
    /// Its appenders fail for good.
    Appends { process: usize },
    /// Its groups forget it.
    Forget { process: usize },
    /// Nobody reaches the brokers for so long.
    Broker { span: i64 },
    /// The leader's clock steps.
    Step { by: i64 },
    /// The registry is compacted.
    Compact,
}

/// What is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    /// Its id; the same twice is a repeat.
    pub(crate) id: String,
    pub(crate) kind: &'static str,
    pub(crate) data: String,
    pub(crate) project: &'static str,
    /// In which partition, modulo their number; and what it is ordered by, unless it has no key.
    pub(crate) key: u32,
    pub(crate) keyed: bool,
    /// Not an event at all.
    pub(crate) garbage: bool,
}

/// What is to happen at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Deed {
    Publish(Event),
    Fault(Fault),
    /// At the registry, through this process.
    Admin(usize, Order),
    /// Of a single delivery: that of so many that it could be asked of.
    Wish(Wish, usize),
}

/// See the module's documentation.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) mix: Mix,
    pub(crate) partitions: u32,
    pub(crate) tier_partitions: u32,
    pub(crate) processes: Vec<Roles>,
    pub(crate) setup: Setup,
    pub(crate) weather: Weather,
    pub(crate) hooks: Vec<Hook>,
    /// By when, in order.
    pub(crate) deeds: Vec<(i64, Deed)>,
    /// When it becomes calm.
    pub(crate) calm_at: i64,
    /// By how much the wall clock of each process is wrong.
    pub(crate) wrong_by: Vec<i64>,
}

/// The types that are published.
const TYPES: [&str; 3] = ["order.paid", "order.shipped", "user.new"];
/// The longest error of a clock in [`Mix::Clocks`], either way.
pub(crate) const WRONG_BY: i64 = 400;

impl Plan {
    pub(crate) fn of(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed ^ 0x9e37_79b9_7f4a_7c15);
        let mix = Mix::ALL[usize::try_from(seed % 8).unwrap_or(0)];
        let hard = !matches!(mix, Mix::None | Mix::Graceful);
        let count = random.usize(2..=4);
        let split = random.bool();
        let processes = (0..count).map(|n| roles(split, n)).collect::<Vec<_>>();
        let calm_at = random.i64(25_000..60_000);
        let mut plan = Self {
            mix,
            partitions: random.u32(1..=4),
            tier_partitions: random.u32(1..=2),
            setup: setup(&mut random),
            weather: weather(mix, &mut random),
            hooks: hooks(&mut random),
            deeds: Vec::new(),
            calm_at,
            wrong_by: (0..count)
                .map(|_| {
                    if mix == Mix::Clocks {
                        random.i64(-WRONG_BY..=WRONG_BY)
                    } else {
                        0
                    }
                })
                .collect(),
            processes,
        };
        plan.publish(&mut random);
        plan.administer(&mut random);
        plan.wish(&mut random);
        if mix != Mix::None {
            let faults = if hard {
                random.usize(3..12)
            } else {
                random.usize(1..6)
            };
            for _ in 0..faults {
                let at = random.i64(1_000..calm_at - 1_000);
                let fault = fault(mix, count, &mut random);
                plan.deeds.push((at, Deed::Fault(fault)));
            }
        }
        plan.deeds.sort_by_key(|(at, _)| *at);
        plan
    }

    fn publish(&mut self, random: &mut fastrand::Rng) {
        let count = random.usize(20..120);
        let bursts = random.bool();
        let mut at = 500;
        let mut key = 0;
        for n in 0..count {
            at += if bursts && random.u8(0..10) > 0 {
                0
            } else {
                random.i64(0..600)
            };
            let at = at.min(self.calm_at - 500);
            let repeated = n > 0 && random.u8(0..15) == 0;
            if !repeated {
                key = random.u32(0..4);
            }
            // Some fill a batch by their size.
            let pad = if random.u8(0..5) == 0 { 300 } else { 0 };
            let event = Event {
                id: format!("e{}", if repeated { n - 1 } else { n }),
                kind: TYPES[random.usize(0..TYPES.len())],
                data: format!("{{\"n\":  {n}, \"pad\": \"{}\"}}", "~".repeat(pad)),
                project: if random.u8(0..30) == 0 {
                    "nobody"
                } else {
                    PROJECT
                },
                key,
                keyed: key != 3,
                garbage: random.u8(0..40) == 0,
            };
            self.deeds.push((at, Deed::Publish(event)));
        }
    }

    /// What people want of single deliveries.
    fn wish(&mut self, random: &mut fastrand::Rng) {
        for _ in 0..random.usize(0..8) {
            let at = random.i64(2_000..self.calm_at);
            let wish = Wish::ALL[random.usize(0..Wish::ALL.len())];
            let deed = Deed::Wish(wish, random.usize(0..100));
            // Twice, now and then.
            if random.u8(0..4) == 0 {
                self.deeds.push((at, deed.clone()));
            }
            self.deeds.push((at, deed));
        }
    }

    fn administer(&mut self, random: &mut fastrand::Rng) {
        let unsteady: Vec<Hook> = self
            .hooks
            .iter()
            .filter(|hook| !hook.steady)
            .cloned()
            .collect();
        if unsteady.is_empty() {
            return;
        }
        for _ in 0..random.usize(0..14) {
            let at = random.i64(1_000..self.calm_at);
            let hook = &unsteady[random.usize(0..unsteady.len())];
            let name = hook.name.clone();
            let order = match random.u8(0..10) {
                0..4 => Order::Put {
                    document: hook.documents[random.usize(0..hook.documents.len())].clone(),
                    matching: random.bool(),
                },
                4..6 => Order::State {
                    name,
                    state: State::Paused,
                },
                6..8 => Order::State {
                    name,
                    state: State::Active,
                },
                8 => Order::State {
                    name,
                    state: State::Inactive,
                },
                _ => Order::Delete { name },
            };
            // Two at the same time, now and then.
            if random.u8(0..3) == 0 {
                self.deeds.push((
                    at,
                    Deed::Admin(random.usize(0..self.processes.len()), order.clone()),
                ));
            }
            self.deeds.push((
                at,
                Deed::Admin(random.usize(0..self.processes.len()), order),
            ));
        }
    }
}

fn roles(split: bool, n: usize) -> Roles {
    if split {
        // Every role is somebody's, and dispatch is more than one's.
        Roles {
            fanout: n == 0 || n == 3,
            dispatch: n > 0,
            tiers: n == 0 || n == 2,
        }
    } else {
        Roles {
            fanout: true,
            dispatch: true,
            tiers: true,
        }
    }
}

fn setup(random: &mut fastrand::Rng) -> Setup {
    let tight = QueueLimits {
        lane_sends: random.usize(2..6),
        lane_bytes: 2_000,
        suspect_sends: random.usize(1..3),
        worker_bytes: 8_000,
    };
    Setup {
        max_in_flight: if random.bool() {
            random.usize(4..12)
        } else {
            1024
        },
        queues: if random.u8(0..3) > 0 {
            tight
        } else {
            QueueLimits::default()
        },
        checkpoint_every: Duration::from_millis(random.u64(100..1500)),
        identity_window: 1_000,
        old_end: old_end(random),
    }
}

/// By default nothing of a run becomes old enough.
fn old_end(random: &mut fastrand::Rng) -> OldEnd {
    let mut old_end = OldEnd::default();
    if random.bool() {
        old_end.after = Duration::from_millis(random.u64(1_000..8_000));
    }
    if random.u8(0..4) == 0 {
        old_end.bytes = random.u64(500..8_000);
    }
    if random.u8(0..6) == 0 {
        old_end.max_hold = Duration::from_millis(random.u64(8_000..40_000));
    }
    old_end
}

fn weather(mix: Mix, random: &mut fastrand::Rng) -> Weather {
    let latency = random.i64(1..20);
    let gap = if random.bool() { 0.1 } else { 0.0 };
    match mix {
        Mix::None | Mix::Graceful => Weather {
            latency,
            gap,
            ..Weather::default()
        },
        Mix::Losses | Mix::All | Mix::Clocks => Weather {
            latency: latency * 3,
            gap,
            nowhere: 0.05,
            unanswered: 0.02,
            slow_read: 0.03,
        },
        Mix::Kills | Mix::Freezes | Mix::Broker => Weather {
            latency,
            gap,
            slow_read: 0.01,
            nowhere: 0.01,
            unanswered: 0.0,
        },
    }
}

fn fault(mix: Mix, processes: usize, random: &mut fastrand::Rng) -> Fault {
    let process = random.usize(0..processes);
    let span = if random.bool() {
        random.i64(200..3_000)
    } else {
        random.i64(3_000..14_000)
    };
    let kill = Fault::Kill {
        process,
        down: random.i64(50..4_000),
    };
    let all = [
        kill,
        Fault::Restart { process },
        Fault::Freeze { process, span },
        Fault::Cut { process, span },
        Fault::Appends { process },
        Fault::Forget { process },
        Fault::Broker { span },
        Fault::Compact,
    ];
    match mix {
        Mix::None => Fault::Compact,
        Mix::Graceful => {
            [Fault::Restart { process }, Fault::Compact][usize::from(random.u8(0..5) == 0)]
        }
        Mix::Kills => kill,
        Mix::Freezes => [
            Fault::Freeze { process, span },
            Fault::Cut { process, span },
        ][random.usize(0..2)],
        Mix::Losses => Fault::Appends { process },
        Mix::Broker => Fault::Broker { span },
        Mix::All => all[random.usize(0..all.len())],
        Mix::Clocks => {
            if random.u8(0..3) == 0 {
                Fault::Step {
                    by: random.i64(-WRONG_BY..=WRONG_BY),
                }
            } else {
                all[random.usize(0..all.len())]
            }
        }
    }
}
