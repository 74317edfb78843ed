//! `kill -9` in a loop: of the processes that fan out, dispatch and keep retries, at random moments, while a thousand events a second come in.

use std::time::Duration;

use fastrand::Rng;
use hookline_tests::oracle::lives::Kind;
use hookline_tests::oracle::{Arrivals, Hook};
use hookline_tests::program::{Engine, Program};
use hookline_tests::say;
use hookline_tests::wait::eventually;
use tokio::time::{Instant, sleep};

use super::{NOT_STUCK, Run, worker};

/// At least so many kills, and events.
const KILLS: usize = 30;
const EVENTS: usize = 30_000;
/// Kills of a dispatcher that keeps up; the others come whatever it does.
const STEADY: usize = 8;
/// Events a second.
const RATE: f64 = 1000.0;
/// On average a kill repeats at most so much of what goes to a fast receiver at this rate.
const REPEATS_PER_KILL: f64 = 10.0;
/// That holds for a broker that answers as soon as one does that is not short of processors. An outcome is not acknowledged for as long as
/// its exchange, the record before it and its own record take; if each of them takes a round trip, so much is under way at the rate.
const ROUND_TRIPS: f64 = 3.0;
/// No more kills while a fresh event has been on its way for so long.
const BREATH: Duration = Duration::from_secs(8);
/// So few deliveries to the fast receiver are outstanding when it keeps up.
const KEEPS_UP: usize = 50;

fn hooks() -> Vec<Hook> {
    vec![
        Hook::new("quick", "/ok/quick").data(),
        Hook::new("slow", "/slow/20/slow").only("user.signup"),
        Hook::new("tiered", "/until/2/tiered")
            .only("email.message.clicked")
            .delivered_at(2, "retry: {jitter: 0, schedule: {list: [1s]}}")
            .unhurried(""),
        Hook::new("hiccup", "/until/2/hiccup")
            .only("email.message.clicked")
            .delivered_at(2, "retry: {jitter: 0, schedule: {list: [200ms]}}")
            .unhurried(""),
    ]
}

/// The processes, by what they do. Two dispatch, so that one takes over what the other leaves.
const ROLES: [(&str, &str); 4] = [
    ("dispatch-a", "dispatch"),
    ("fanout", "fanout"),
    ("tiers", "tiers"),
    ("dispatch-b", "dispatch"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_is_killed_again_and_again_and_nothing_is_lost() {
    let run = Run::new(Engine::Kafka, hooks()).await;
    let mut random = Rng::with_seed(fastrand::u64(..1 << 32));
    say(&format!("kills by seed {}", random.get_seed()));
    let (last, others) = ROLES.split_last().unwrap();
    let mut processes = Vec::new();
    for (name, roles) in others {
        processes.push(run.start(&worker(&format!("{name}-0"), roles)).await);
    }
    let publisher = run.publisher().await;
    let stream = publisher.stream(RATE);
    let mut watch = Watch::new(&run);
    let (begun, mut kills) = (Instant::now(), 0);

    // The only dispatcher, while it keeps up: what is under way then is what a kill costs at this rate.
    let mut steady = Vec::new();
    while kills < STEADY {
        watch.keeps_up(processes[0].name()).await;
        sleep(Duration::from_millis(random.u64(50..500))).await;
        steady.push(processes[0].name().to_owned());
        kill(&run, &mut processes, 0, kills).await;
        kills += 1;
        watch.look();
    }
    // Any process, at any moment, now and then two at a time.
    processes.push(run.start(&worker(&format!("{}-0", last.0), last.1)).await);
    while kills < KILLS || run.oracle.counts().1 < EVENTS {
        sleep(Duration::from_millis(random.u64(1000..3000))).await;
        watch.breathes().await;
        let victim = kills % ROLES.len();
        kill(&run, &mut processes, victim, kills).await;
        kills += 1;
        if random.u8(..4) == 0 {
            let other = (victim + random.usize(1..ROLES.len())) % ROLES.len();
            kill(&run, &mut processes, other, kills).await;
            kills += 1;
        }
        watch.look();
    }
    let handed = stream.finish(NOT_STUCK).await.expect("all acknowledged");
    let took = begun.elapsed();
    watch.all().await;
    run.is_not_stuck().await;
    for process in processes {
        assert!(process.stop().await.success());
    }
    let verdict = run.judged().await;
    let killed = run.lives.faults(Kind::Killed);
    assert_eq!(killed, kills);
    assert!(killed >= KILLS && verdict.accepted >= EVENTS);
    assert!(verdict.claims >= STEADY, "{}", verdict.summary());

    let lives = run.lives.all();
    let quick = verdict.repeats.iter().filter(|repeat| repeat.hook == 0);
    let of_steady = quick
        .clone()
        .filter(|repeat| steady.contains(&lives[repeat.life].name))
        .count();
    let per_kill = of_steady as f64 / STEADY as f64;
    let round_trip = publisher.round_trip();
    say(&format!(
        "{handed} events in {took:.1?}, {kills} kills; of the {STEADY} at full rate {per_kill:.1} repeats each on average, \
         with a round trip to the broker of {round_trip:.1?}; all repeats to the fast receiver: {}; \
         the longest wait for a fresh event after a kill: {:.1?}",
        quick.count(),
        watch.longest
    ));
    assert!(
        of_steady > 0,
        "killed with requests under way, some are made again"
    );
    let bound = REPEATS_PER_KILL.max(RATE * ROUND_TRIPS * round_trip.as_secs_f64());
    assert!(
        per_kill <= bound,
        "{per_kill} repeats a kill on average, at most {bound} may be"
    );
}

/// Kills a process and starts it again at once.
async fn kill(run: &Run, processes: &mut [Program], victim: usize, number: usize) {
    let (name, roles) = ROLES[victim];
    let again = run.spawn(&worker(&format!("{name}-{}", number + 1), roles));
    let before = std::mem::replace(&mut processes[victim], again);
    run.lives.kill(before).await;
}

/// Never stuck: after every kill an event published then must reach the webhooks that are quick, soon.
struct Watch<'a> {
    run: &'a Run,
    arrivals: Arrivals<'a>,
    /// Events published just after a kill, and when.
    fresh: Vec<(usize, Instant)>,
    longest: Duration,
}

impl<'a> Watch<'a> {
    fn new(run: &'a Run) -> Self {
        Self {
            run,
            arrivals: Arrivals::new(&run.oracle, &run.receiver),
            fresh: Vec::new(),
            longest: Duration::ZERO,
        }
    }

    /// Adds the next event, and looks after those before.
    fn look(&mut self) {
        self.fresh
            .push((self.run.oracle.counts().0, Instant::now()));
        self.check();
    }

    fn check(&mut self) {
        let arrivals = &mut self.arrivals;
        let longest = &mut self.longest;
        self.fresh.retain(|(number, since)| {
            let reached = arrivals.has_reached_the_prompt(*number);
            *longest = (*longest).max(since.elapsed());
            assert!(
                reached || since.elapsed() < NOT_STUCK,
                "event {number} is not delivered within {NOT_STUCK:?}"
            );
            !reached
        });
    }

    /// Waits until all of them have arrived.
    async fn all(&mut self) {
        self.none_since(Duration::ZERO).await;
    }

    /// Waits as long as one is on its way for long: killed faster than it can recover, nobody would get anything done.
    async fn breathes(&mut self) {
        self.none_since(BREATH).await;
    }

    async fn none_since(&mut self, span: Duration) {
        while self.fresh.iter().any(|(_, since)| since.elapsed() >= span) {
            self.check();
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until this process has begun to send and the fast receiver gets what comes in.
    async fn keeps_up(&mut self, name: &str) {
        let (arrivals, run) = (&mut self.arrivals, self.run);
        let few = || {
            let missing = arrivals.missing().get("quick").copied().unwrap_or(0);
            let begun = run.receiver.journal(|requests| {
                let mut latest = requests.iter().rev().take(500);
                latest.any(|r| r.header("hookline-worker") == Some(name))
            });
            async move {
                if begun && missing < KEEPS_UP {
                    Ok(())
                } else {
                    Err((begun, missing))
                }
            }
        };
        eventually("the fast receiver keeps up", NOT_STUCK, few).await;
    }
}
