//! One run: a plan carried out, until it is calm and everything has come to rest.

use hookline_journal::Record;
use hookline_model::resource::State;
use hookline_model::topics::{Partitions, Topic};
use serde_json::json;

use super::admin::Order;
use super::book::Book;
use super::by_hand;
use super::hooks::CANARY;
use super::plan::{Deed, Event, Fault, Plan};
use super::process::{self, PREFIX, Process};
use super::world::{Life, Shared, place};

/// How long after it has become calm everything must have come to rest.
const REST_WITHIN: i64 = 180_000;
/// How long after it has become calm a new event may take.
const FRESH_WITHIN: i64 = 30_000;
/// How long a graceful stop may take: an attempt's deadline, the revoked partitions of others, and five seconds.
const STOP_WITHIN: i64 = 45_000;
/// The longest moment.
const LONGEST: i64 = 25;

/// What was done to a life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Done {
    pub(crate) life: Life,
    pub(crate) from: i64,
    pub(crate) to: i64,
    pub(crate) fault: Fault,
}

/// An event that stands in the topic.
#[derive(Debug, Clone)]
pub(crate) struct Published {
    pub(crate) event: Event,
    pub(crate) partition: u32,
    pub(crate) offset: u64,
}

/// What is left when a run is over.
pub(crate) struct Ended {
    pub(crate) plan: Plan,
    pub(crate) world: Shared,
    pub(crate) published: Vec<Published>,
    pub(crate) done: Vec<Done>,
    /// Whether every fault was one of those after which nothing may be repeated.
    pub(crate) lives: u32,
}

struct Slot {
    process: Option<Process>,
    /// When it is started again.
    start_at: i64,
    thaw_at: i64,
    life: u32,
}

struct Run {
    plan: Plan,
    world: Shared,
    slots: Vec<Slot>,
    published: Vec<Published>,
    done: Vec<Done>,
    lives: u32,
    /// What the logs say so far.
    book: Book,
    /// The length of the next moment.
    pace: i64,
    /// Who ends is not started again.
    stopping: bool,
}

/// Carries out the plan of this seed in `world`, which nobody else has in the end.
pub(crate) fn run(seed: u64, world: Shared) -> Ended {
    fastrand::seed(seed);
    let plan = Plan::of(seed);
    let slots = plan
        .processes
        .iter()
        .map(|_| Slot {
            process: None,
            start_at: 0,
            thaw_at: i64::MAX,
            life: 0,
        })
        .collect();
    let mut run = Run {
        plan,
        world,
        slots,
        published: Vec::new(),
        done: Vec::new(),
        lives: 0,
        book: Book::default(),
        pace: 1,
        stopping: false,
    };
    run.set_up();
    run.carry_out();
    run.calm_down();
    run.stop();
    let Run {
        plan,
        world,
        published,
        done,
        lives,
        ..
    } = run;
    Ended {
        plan,
        world,
        published,
        done,
        lives,
    }
}

impl Run {
    fn now(&self) -> i64 {
        self.world.lock().now
    }

    fn set_up(&mut self) {
        let mut world = self.world.lock();
        for topic in Topic::all() {
            let count = match topic.partitions() {
                Partitions::Layout => self.plan.partitions,
                Partitions::Tiers => self.plan.tier_partitions,
                Partitions::One => 1,
            };
            world.make_topic(&topic.name(PREFIX), count);
        }
        for hook in &self.plan.hooks {
            world
                .receivers
                .behaviours
                .insert(hook.name.clone(), hook.behaviour);
        }
        world.weather.latency = 2;
        drop(world);
        super::admin::prepare(&self.world, &self.plan);
        self.world.lock().weather = self.plan.weather;
        for index in 0..self.slots.len() {
            self.start(index);
        }
        // The plan's time begins when everything stands ready.
        let begun = self.now();
        self.plan.calm_at += begun;
        for (at, _) in &mut self.plan.deeds {
            *at += begun;
        }
    }

    fn start(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        slot.life += 1;
        self.lives += 1;
        let life = Life {
            process: u32::try_from(index).expect("few"),
            number: slot.life,
        };
        let roles = self.plan.processes[index];
        slot.process = Some(Process::start(
            &self.world,
            life,
            roles,
            self.plan.setup,
            self.plan.wrong_by[index],
        ));
        slot.start_at = i64::MAX;
        slot.thaw_at = i64::MAX;
    }

    fn carry_out(&mut self) {
        let deeds = std::mem::take(&mut self.plan.deeds);
        let mut deeds = deeds.into_iter().peekable();
        while deeds.peek().is_some() || self.now() < self.plan.calm_at {
            while let Some((_, deed)) = deeds.next_if(|(at, _)| *at <= self.now()) {
                self.pace = 1;
                self.deed(deed);
            }
            let next = deeds.peek().map_or(i64::MAX, |(at, _)| *at);
            self.step(next);
            if self.now() >= self.plan.calm_at {
                self.weather_clears();
            }
        }
    }

    /// A moment, and whoever is to wake up or to be started again afterwards.
    fn step(&mut self, next: i64) {
        for index in 0..self.slots.len() {
            let now = self.now();
            let slot = &mut self.slots[index];
            if slot.thaw_at <= now {
                slot.thaw_at = i64::MAX;
                if let Some(process) = &mut slot.process {
                    process.thaw(now);
                }
            }
            if slot.process.as_ref().is_some_and(Process::ended) {
                if let Some(process) = slot.process.take() {
                    process.end();
                }
                slot.start_at = if self.stopping { i64::MAX } else { now + 100 };
            }
            if slot.process.is_none() && slot.start_at <= now {
                self.start(index);
            }
        }
        let now = self.now();
        let wakes = self
            .slots
            .iter()
            .flat_map(|slot| [slot.start_at, slot.thaw_at])
            .min()
            .unwrap_or(i64::MAX);
        let longest = self.pace.min(next.min(wakes).saturating_sub(now).max(1));
        let before = self.world.lock().happened;
        let running: Vec<Process> = self
            .slots
            .iter_mut()
            .filter_map(|slot| slot.process.take())
            .collect();
        process::step(&running, &self.world, longest);
        for process in running {
            let index = usize::try_from(process.life.process).expect("few");
            self.slots[index].process = Some(process);
        }
        let quiet = self.world.lock().happened == before;
        self.pace = if quiet {
            (self.pace * 2).min(LONGEST)
        } else {
            1
        };
    }

    fn deed(&mut self, deed: Deed) {
        match deed {
            Deed::Publish(event) => self.publish(event),
            Deed::Admin(index, order) => {
                if let Some(process) = &self.slots[index].process {
                    process.order(order);
                }
            }
            Deed::Fault(fault) => self.fault(fault),
            Deed::Wish(wish, pick) => {
                let mut world = self.world.lock();
                self.book.read_on(&world);
                by_hand::wish(&mut world, &self.book, wish, pick);
            }
        }
    }

    fn publish(&mut self, event: Event) {
        let mut world = self.world.lock();
        let value = if event.garbage {
            "{\"specversion\": \"1.0\", ".to_owned()
        } else {
            let mut head = json!({"specversion": "1.0", "id": event.id, "source": "/sim", "type": event.kind, "project": event.project});
            if event.keyed {
                head["partitionkey"] = format!("k{}", event.key).into();
            }
            let head = head.to_string();
            format!("{}, \"data\": {}}}", head.trim_end_matches('}'), event.data)
        };
        let partition = event.key % self.plan.partitions;
        let at = place(&Topic::Events.name(PREFIX), partition);
        let record = Record {
            key: None,
            value: Some(value.into()),
            headers: Vec::new(),
        };
        let appended = world.store(&at, record);
        let offset = appended.offset.expect("the leader knows");
        drop(world);
        self.published.push(Published {
            event,
            partition,
            offset,
        });
    }

    fn fault(&mut self, fault: Fault) {
        let now = self.now();
        self.world.lock().trace.line(now, format_args!("{fault:?}"));
        let (index, span) = match fault {
            Fault::Kill { process, down } => (process, down),
            Fault::Restart { process } | Fault::Appends { process } | Fault::Forget { process } => {
                (process, 0)
            }
            Fault::Freeze { process, span } | Fault::Cut { process, span } => (process, span),
            Fault::Broker { span } => {
                self.world.lock().broker_down(now + span);
                let lives: Vec<Life> = self
                    .slots
                    .iter()
                    .filter_map(|slot| Some(slot.process.as_ref()?.life))
                    .collect();
                self.done.extend(lives.into_iter().map(|life| Done {
                    life,
                    from: now,
                    to: now + span,
                    fault,
                }));
                return;
            }
            Fault::Step { by } => {
                self.world.lock().broker_ahead += by;
                return;
            }
            Fault::Compact => return self.world.lock().compact(&Topic::Registry.name(PREFIX)),
        };
        let slot = &mut self.slots[index];
        let Some(process) = slot.process.as_mut().filter(|process| !process.frozen()) else {
            return;
        };
        let life = process.life;
        self.done.push(Done {
            life,
            from: now,
            to: now + span,
            fault,
        });
        match fault {
            Fault::Kill { down, .. } => {
                slot.start_at = now + down;
                if let Some(process) = slot.process.take() {
                    process.end();
                }
            }
            Fault::Restart { .. } => process.terminate(),
            Fault::Freeze { span, .. } => {
                process.freeze(now, now + span);
                slot.thaw_at = now + span;
            }
            Fault::Cut { span, .. } => self.world.lock().cut(life, now + span),
            Fault::Appends { .. } => self.world.lock().appenders_fail(life),
            Fault::Forget { .. } => self.world.lock().forget_members(life),
            Fault::Broker { .. } | Fault::Step { .. } | Fault::Compact => {}
        }
    }

    fn weather_clears(&mut self) {
        let mut world = self.world.lock();
        world.receivers.calm = true;
        let gap = world.weather.gap;
        world.weather = super::world::Weather {
            latency: 2,
            gap,
            ..Default::default()
        };
    }

    fn calm_down(&mut self) {
        self.weather_clears();
        let begun = self.now();
        let fresh = Event {
            id: "fresh".into(),
            kind: "order.paid",
            data: "{\"fresh\":true}".into(),
            project: super::admin::PROJECT,
            key: 0,
            keyed: true,
            garbage: false,
        };
        self.publish(fresh);
        let mut arrived = false;
        let mut nudge_at = begun + 1_000;
        let mut release_at = begun + 1_000;
        loop {
            self.step(i64::MAX);
            let now = self.now();
            if now >= nudge_at {
                self.nobody_is_kept_waiting();
                nudge_at = now + 10_000;
            }
            if now >= release_at {
                let mut world = self.world.lock();
                self.book.read_on(&world);
                by_hand::release_what_is_held(&mut world, &self.book);
                release_at = now + 1_000;
            }
            if !arrived {
                arrived = self.fresh_arrived();
                assert!(
                    arrived || now < begun + FRESH_WITHIN,
                    "a fresh event was not delivered within 30 s after everything was well again"
                );
            }
            if arrived && self.at_rest().is_ok() {
                return;
            }
            if now >= begun + REST_WITHIN {
                panic!("it never comes to rest: {:?}", self.at_rest());
            }
        }
    }

    /// What people paused goes on.
    fn nobody_is_kept_waiting(&self) {
        let Some(process) = self.slots.iter().find_map(|slot| slot.process.as_ref()) else {
            return;
        };
        for hook in self.plan.hooks.iter().filter(|hook| !hook.steady) {
            process.order(Order::State {
                name: hook.name.clone(),
                state: State::Active,
            });
        }
    }

    fn fresh_arrived(&self) -> bool {
        let world = self.world.lock();
        let requests = world.receivers.requests.iter().rev();
        let mut of_canary = requests.filter(|request| request.webhook == CANARY);
        of_canary.any(|request| {
            request.answered.is_some()
                && String::from_utf8_lossy(&request.body).contains("\"fresh\"")
        })
    }

    /// Whether everything that was written has been read and settled.
    fn at_rest(&mut self) -> Result<(), String> {
        let world = self.world.lock();
        let tiers = Topic::tiers().map(|tier| ("tiers", tier.name(PREFIX)));
        let read = [
            ("fanout", Topic::Events.name(PREFIX)),
            ("dispatch", Topic::Deliveries.name(PREFIX)),
        ]
        .into_iter()
        .chain(tiers);
        for (group, topic) in read {
            for (at, log) in world.logs.iter().filter(|(at, _)| at.topic == topic) {
                let reached = world.reached.get(&(format!("{PREFIX}{group}"), at.clone()));
                let reached = reached.copied().unwrap_or(0);
                // Left-out offsets behind the last record are nobody's.
                let last = log.ever.last().map_or(0, |(_, record)| record.offset + 1);
                if reached < last {
                    return Err(format!(
                        "{topic}[{}] is done up to {reached} of {last}",
                        at.partition
                    ));
                }
            }
        }
        // What was moved out of the way is not in that.
        self.book.read_on(&world);
        if let Some((id, run)) = self.book.open.first() {
            let open = self.book.open.len();
            return Err(format!(
                "run {run} of {id} and {} more are not final",
                open - 1
            ));
        }
        let name = Topic::Commands.name(PREFIX);
        for (at, log) in world.logs.iter().filter(|(at, _)| at.topic == name) {
            let last = log.ever.last().map(|(_, record)| record.offset);
            if let Some(last) =
                last.filter(|o| !self.book.commands.contains_key(&(at.partition, *o)))
            {
                return Err(format!(
                    "the command at {}[{}] {last} is not done",
                    at.topic, at.partition
                ));
            }
        }
        Ok(())
    }

    /// Everybody stops, as asked; who stands still does so when it goes on.
    fn stop(&mut self) {
        self.stopping = true;
        for slot in &mut self.slots {
            slot.start_at = i64::MAX;
            if let Some(process) = &slot.process {
                process.terminate();
            }
        }
        let thawed = self
            .slots
            .iter()
            .map(|slot| slot.thaw_at)
            .filter(|at| *at < i64::MAX)
            .max();
        let begun = self.now().max(thawed.unwrap_or(0));
        while self.slots.iter().any(|slot| slot.process.is_some()) {
            assert!(self.now() < begun + STOP_WITHIN, "a process does not stop");
            self.step(i64::MAX);
        }
    }
}
