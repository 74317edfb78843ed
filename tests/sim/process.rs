//! A process: a runtime of its own, whose time stands still whenever the process does. It can be stopped, killed and frozen like a real one.

use std::sync::Arc;
use std::time::Duration;

use hookline_dispatch::guard::{UrlPolicy, UrlPolicyConfig};
use hookline_dispatch::tiers::{Tiers, TiersConfig};
use hookline_dispatch::{Dispatch, DispatchConfig, WayOut};
use hookline_fanout::{Fanout, FanoutConfig};
use hookline_journal::Journal;
use hookline_model::core::lane::QueueLimits;
use hookline_model::limits;
use hookline_model::time::Clock;
use hookline_registry::{Kek, Layout, Registry, RegistryConfig, Sealer};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};

use super::admin::{self, Order};
use super::clock::SimClock;
use super::journal::SimJournal;
use super::receivers::SimTransport;
use super::world::{Life, Shared, World};

/// What the names of topics begin with.
pub(crate) const PREFIX: &str = "sim.";
/// A member silent for this long is out.
pub(crate) const SESSION: Duration = Duration::from_secs(6);

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Roles {
    pub(crate) fanout: bool,
    pub(crate) dispatch: bool,
    pub(crate) tiers: bool,
}

/// How the processes of a run are set up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) max_in_flight: usize,
    pub(crate) queues: QueueLimits,
    pub(crate) checkpoint_every: Duration,
    pub(crate) identity_window: usize,
    pub(crate) old_end: OldEnd,
}

/// When what waits is moved out of the way, and how long it may wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OldEnd {
    pub(crate) after: Duration,
    pub(crate) bytes: u64,
    pub(crate) max_hold: Duration,
}

impl Default for OldEnd {
    fn default() -> Self {
        Self {
            after: limits::OLD_END_AFTER,
            bytes: limits::OLD_END_BYTES,
            max_hold: limits::MAX_HOLD,
        }
    }
}

/// A process in one of its lives.
pub(crate) struct Process {
    pub(crate) life: Life,
    world: Shared,
    runtime: Option<Runtime>,
    begun: Instant,
    began_ms: i64,
    stop: watch::Sender<bool>,
    main: Option<JoinHandle<()>>,
    orders: mpsc::Sender<Order>,
    frozen_at: Option<i64>,
}

/// What its main function has to do with.
#[derive(Clone)]
struct Surroundings {
    journal: SimJournal,
    clock: Arc<SimClock>,
    transport: Arc<SimTransport>,
    setup: Setup,
    life: Life,
}

impl Process {
    /// Begins a life.
    pub(crate) fn start(
        world: &Shared,
        life: Life,
        roles: Roles,
        setup: Setup,
        wrong_by_ms: i64,
    ) -> Self {
        Self::launch(world, life, roles, setup, wrong_by_ms, None)
    }

    /// Begins a life that only serves people at the registry, and writes the layout first.
    pub(crate) fn administrator(world: &Shared, life: Life, setup: Setup, layout: Layout) -> Self {
        let roles = Roles {
            fanout: false,
            dispatch: false,
            tiers: false,
        };
        Self::launch(world, life, roles, setup, 0, Some(layout))
    }

    fn launch(
        world: &Shared,
        life: Life,
        roles: Roles,
        setup: Setup,
        wrong_by_ms: i64,
        layout: Option<Layout>,
    ) -> Self {
        let runtime = runtime(fastrand::u64(..));
        let began_ms = {
            let mut world = world.lock();
            world.born(life);
            let now = world.now;
            world.trace.line(now, format_args!("{life:?} starts"));
            now
        };
        let (begun, clock) = {
            let _inside = runtime.enter();
            (
                Instant::now(),
                Arc::new(SimClock::new(began_ms, wrong_by_ms)),
            )
        };
        let surroundings = Surroundings {
            journal: SimJournal {
                world: world.clone(),
                life,
                clock: clock.clone(),
            },
            transport: Arc::new(SimTransport {
                world: world.clone(),
                life,
                clock: clock.clone(),
            }),
            clock,
            setup,
            life,
        };
        let (stop, stopped) = watch::channel(false);
        let (orders, ordered) = mpsc::channel(16);
        let main = runtime.spawn(main(surroundings, roles, stopped, ordered, layout));
        Self {
            life,
            world: world.clone(),
            runtime: Some(runtime),
            begun,
            began_ms,
            stop,
            main: Some(main),
            orders,
            frozen_at: None,
        }
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("it lives")
    }

    /// Lets it go on until that moment.
    pub(crate) fn run_until(&self, moment: i64) {
        if self.frozen_at.is_some() {
            return;
        }
        let until = self.begun + millis(moment - self.began_ms);
        self.runtime()
            .block_on(async move { tokio::time::sleep_until(until).await });
    }

    /// Runs `what` as if one of its threads did.
    pub(crate) fn inside<T>(&self, what: impl FnOnce() -> T) -> T {
        let _inside = self.runtime().enter();
        what()
    }

    /// Whether its main function has returned.
    pub(crate) fn ended(&self) -> bool {
        self.main.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Asks it to stop, as `SIGTERM` does.
    pub(crate) fn terminate(&self) {
        self.stop.send_replace(true);
    }

    /// `SIGSTOP`.
    pub(crate) fn freeze(&mut self, now: i64, until: i64) {
        self.frozen_at = Some(now);
        self.world.lock().freezes(self.life, until);
    }

    /// Whether it is stopped.
    pub(crate) fn frozen(&self) -> bool {
        self.frozen_at.is_some()
    }

    /// `SIGCONT`: its clocks have gone on meanwhile, and everything that was to happen does so at once.
    pub(crate) fn thaw(&mut self, now: i64) {
        let Some(at) = self.frozen_at.take() else {
            return;
        };
        self.world.lock().thaws(self.life);
        self.runtime()
            .block_on(async move { tokio::time::advance(millis(now - at)).await });
    }

    /// An order for its registry.
    pub(crate) fn order(&self, order: Order) {
        // One that is busy takes no more.
        drop(self.orders.try_send(order));
    }

    /// Ends it: after its main function has returned, or as `SIGKILL` does.
    pub(crate) fn end(mut self) {
        if let Some(main) = self.main.take_if(|main| main.is_finished()) {
            self.runtime()
                .block_on(main)
                .expect("the main function of a process does not panic");
        }
        self.finish();
    }

    fn finish(&mut self) {
        {
            let mut world = self.world.lock();
            let life = self.life;
            let now = world.now;
            world.trace.line(now, format_args!("{life:?} ends"));
            world.dies(life);
        }
        // Nothing that its tasks do while they are dropped reaches the world any more.
        drop(self.runtime.take());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.runtime.is_some() {
            self.finish();
        }
    }
}

/// Why a run cannot be repeated byte for byte, if it cannot.
pub(crate) const NOT_SEEDABLE: Option<&str> = if cfg!(tokio_unstable) {
    None
} else {
    Some(
        "the runtime cannot be seeded: build with `--cfg tokio_unstable`, as .cargo/config.toml says (does RUSTFLAGS replace it?)",
    )
};

/// A runtime whose time stands still while anybody works. What it draws at random (in which order it wakes those who wait for the same) comes from the
/// seed, where it can be told so.
fn runtime(seed: u64) -> Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true);
    #[cfg(tokio_unstable)]
    builder.rng_seed(tokio::runtime::RngSeed::from_bytes(&seed.to_be_bytes()));
    #[cfg(not(tokio_unstable))]
    let _not_told = seed;
    builder.build().expect("a runtime")
}

fn millis(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

/// The key under which all processes seal secrets.
fn kek() -> Kek {
    Kek::from_base64("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").expect("32 bytes")
}

/// The main function of `hookline serve`, as far as the stages go.
async fn main(
    all: Surroundings,
    roles: Roles,
    mut stop: watch::Receiver<bool>,
    orders: mpsc::Receiver<Order>,
    layout: Option<Layout>,
) {
    let Some(registry) = open(&all, &mut stop).await else {
        return;
    };
    if let Some(layout) = layout {
        registry
            .ensure_layout(&layout)
            .await
            .expect("nobody else is there, and the weather is fine");
    }
    let mut following = JoinSet::new();
    let (end_following, until) = watch::channel(false);
    following.spawn({
        let registry = registry.clone();
        async move { registry.run(until).await }
    });
    let mut readers = JoinSet::new();
    let mut senders = JoinSet::new();
    let mut admins = JoinSet::new();
    admins.spawn(admin::run(
        registry.clone(),
        orders,
        all.journal.world.clone(),
        all.life,
    ));
    if roles.fanout {
        let (all, registry, stop) = (all.clone(), registry.clone(), stop.clone());
        readers.spawn(supervise(stop.clone(), move || {
            fanout(all.clone(), registry.clone(), stop.clone())
        }));
    }
    if roles.tiers {
        let (all, registry, stop) = (all.clone(), registry.clone(), stop.clone());
        readers.spawn(supervise(stop.clone(), move || {
            tiers(all.clone(), registry.clone(), stop.clone())
        }));
    }
    let (stop_sending, sending) = watch::channel(false);
    if roles.dispatch {
        let (all, registry) = (all.clone(), registry.clone());
        senders.spawn(supervise(sending.clone(), move || {
            dispatch(all.clone(), registry.clone(), sending.clone())
        }));
    }
    tokio::select! {
        biased;
        _ = stop.wait_for(|stop| *stop) => {}
        // Its view would be out of date: the process ends, and is started again.
        _ = following.join_next() => return,
    }
    drop(
        timeout(Duration::from_secs(2), async {
            while readers.join_next().await.is_some() {}
        })
        .await,
    );
    stop_sending.send_replace(true);
    while senders.join_next().await.is_some() {}
    while readers.join_next().await.is_some() {}
    end_following.send_replace(true);
    while following.join_next().await.is_some() {}
}

async fn open(all: &Surroundings, stop: &mut watch::Receiver<bool>) -> Option<Registry> {
    loop {
        let journal: Arc<dyn Journal> = Arc::new(all.journal.clone());
        let sealer = Sealer::with_random(&kek(), |bytes| {
            fastrand::fill(bytes);
            Ok(())
        });
        let opening = Registry::open(
            journal,
            RegistryConfig::new(PREFIX),
            all.clock.clone(),
            sealer,
        );
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return None,
            opened = opening => match opened {
                Ok(registry) => return Some(registry),
                Err(error) => tracing::warn!(%error, "the registry cannot be opened yet"),
            },
        }
        sleep(Duration::from_millis(500)).await;
    }
}

type StageResult = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// Starts a stage again when it fails, ever later.
async fn supervise<F: Future<Output = StageResult>>(
    mut stop: watch::Receiver<bool>,
    mut stage: impl FnMut() -> F,
) {
    let mut pause = Duration::from_millis(200);
    loop {
        match stage().await {
            Ok(()) => {
                assert!(*stop.borrow(), "a stage ended although nobody asked it to");
                return;
            }
            Err(error) => tracing::warn!(error, "a stage failed and is started again"),
        }
        if timeout(pause, stop.wait_for(|stop| *stop)).await.is_ok() {
            return;
        }
        pause = (pause * 2).min(Duration::from_secs(10));
    }
}

async fn fanout(all: Surroundings, registry: Registry, stop: watch::Receiver<bool>) -> StageResult {
    let mut config = FanoutConfig::new(PREFIX, format!("{:?}", all.life));
    config.session_timeout = SESSION;
    config.identity_window = all.setup.identity_window;
    let clock: Arc<dyn Clock> = all.clock.clone();
    let stage = Fanout::new(
        config,
        Arc::new(all.journal),
        registry,
        clock,
        &prometheus::Registry::new(),
    )?;
    Ok(stage.run(stop).await?)
}

async fn tiers(all: Surroundings, registry: Registry, stop: watch::Receiver<bool>) -> StageResult {
    let mut config = TiersConfig::new(PREFIX);
    config.session_timeout = SESSION;
    // Longer than a commit can be on its way, as in life.
    config.trim_every = Duration::from_secs(15);
    let layout = registry
        .snapshot()
        .layout()
        .cloned()
        .ok_or("no layout yet")?;
    let clock: Arc<dyn Clock> = all.clock.clone();
    let stage = Tiers::new(
        config,
        Arc::new(all.journal),
        layout,
        clock,
        &prometheus::Registry::new(),
    )?;
    Ok(stage.run(stop).await?)
}

async fn dispatch(
    all: Surroundings,
    registry: Registry,
    stop: watch::Receiver<bool>,
) -> StageResult {
    let mut config = DispatchConfig::new(PREFIX, &format!("{:?}", all.life));
    config.session_timeout = SESSION;
    config.max_in_flight = all.setup.max_in_flight;
    config.checkpoint_every = all.setup.checkpoint_every;
    config.queues = all.setup.queues;
    config.old_end_after = all.setup.old_end.after;
    config.old_end_bytes = all.setup.old_end.bytes;
    config.max_hold = all.setup.old_end.max_hold;
    let policy = UrlPolicyConfig {
        allow_http: true,
        allow_addresses: vec!["127.0.0.0/8".parse()?],
        ..UrlPolicyConfig::default()
    };
    let clock: Arc<dyn Clock> = all.clock.clone();
    let stage = Dispatch::new(
        config,
        Arc::new(all.journal),
        registry,
        WayOut::new(
            all.transport,
            Arc::new(UrlPolicy::new(policy)?),
            Arc::clone(&clock),
        ),
        clock,
        &prometheus::Registry::new(),
    )?;
    Ok(stage.run(stop).await?)
}

/// Fires what is due, inside the process that it is for.
pub(crate) fn tell(processes: &[Process], world: &Shared) {
    let due = world.lock().due_answers();
    for answer in due {
        if let Some(process) = processes.iter().find(|process| process.life == answer.life) {
            process.inside(|| (answer.done)(answer.result));
        }
    }
}

/// Moves everything on by a moment.
pub(crate) fn step(processes: &[Process], world: &Shared, longest: i64) {
    let moment = {
        let world = world.lock();
        let next = world.next_arrival().unwrap_or(i64::MAX).max(world.now + 1);
        next.min(world.now + longest)
    };
    for process in processes {
        process.run_until(moment);
    }
    {
        let mut world = world.lock();
        let before = world.broker_down_until > world.now;
        let cut: Vec<Life> = lives_cut(&world);
        world.now = moment;
        world.arrive();
        world.look_after_groups();
        if before && world.broker_down_until <= moment {
            for process in processes {
                world.wake_line(process.life);
            }
        }
        for life in cut {
            if world.reaches(life) {
                world.wake_line(life);
            }
        }
    }
    tell(processes, world);
}

fn lives_cut(world: &World) -> Vec<Life> {
    let cut = world
        .lines
        .iter()
        .filter(|(_, line)| line.cut_until > world.now);
    cut.map(|(life, _)| *life).collect()
}
