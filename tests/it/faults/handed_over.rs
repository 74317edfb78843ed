//! Workers come and go: two share, both die and a third takes over; and in a rolling restart, where everybody stops gracefully, nothing is
//! repeated at all.

use hookline_model::time::Millis;
use hookline_tests::oracle::Hook;
use hookline_tests::oracle::lives::Kind;
use hookline_tests::oracle::log::Log;
use hookline_tests::program::{Engine, Start};

use super::{ALL, NOT_STUCK, Run, worker};

fn hooks() -> Vec<Hook> {
    // So many that each of the two partitions has some of them, but once in thousands of runs.
    let mut hooks: Vec<_> = (0..12)
        .map(|n| {
            let hook = Hook::new(&format!("quick-{n}"), &format!("/ok/{n}/"));
            hook.only(["user.signup", "email.message.clicked"][n % 2])
        })
        .collect();
    hooks.push(Hook::new("slow", "/slow/40/slow").only("user.signup"));
    let policy = "retry: {jitter: 0, schedule: {list: [1s, 200ms]}}";
    let second = Hook::new("second", "/until/3/second").only("email.message.clicked");
    hooks.push(second.delivered_at(3, policy));
    hooks
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_workers_share_both_die_and_a_third_takes_over() {
    let run = Run::new(Engine::Kafka, hooks()).await;
    let a = run.start(&worker("a", ALL)).await;
    let b = run.start(&worker("b", ALL)).await;
    let stream = run.publisher().await.stream(200.0);
    for program in [&a, &b] {
        run.sends(program, Millis(0), 100).await;
    }
    // At the same time; the group learns of neither.
    tokio::join!(run.lives.kill(a), run.lives.kill(b));
    let c = run.start(&worker("c", ALL)).await;
    run.sends(&c, Millis(0), 100).await;
    stream.finish(NOT_STUCK).await.expect("all acknowledged");
    run.is_not_stuck().await;
    let d = run.start(&worker("d", ALL)).await;
    let stream = run.publisher().await.stream(200.0);
    run.sends(&d, Millis(0), 100).await;
    // And one of two that share, so that the other one has it all.
    run.lives.kill(c).await;
    stream.finish(NOT_STUCK).await.expect("all acknowledged");
    run.is_not_stuck().await;
    assert!(d.stop().await.success());
    let verdict = run.judged().await;
    assert_eq!(run.lives.faults(Kind::Killed), 3);
    assert!(verdict.accepted > 300, "{}", verdict.summary());
    assert!(
        verdict.repeats_of(Kind::Killed) > 0,
        "killed with requests under way, some are made again: {}",
        verdict.summary()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_repeats_nothing_at_all() {
    // The session of a real installation: a busy machine does not end it, and a graceful stop waits for none.
    let roomy = |name: &str| Start::roles(ALL).named(name);
    let run = Run::new(Engine::Kafka, hooks()).await;
    let mut old = run.start(&roomy("a-0")).await;
    let mut other = run.start(&roomy("b-0")).await;
    let stream = run.publisher().await.stream(200.0);
    for program in [&old, &other] {
        run.sends(program, Millis(0), 50).await;
    }
    for round in 1..=3 {
        for (which, program) in [("a", &mut old), ("b", &mut other)] {
            // The new one is started before the old one stops, or after.
            let name = format!("{which}-{round}");
            let overlapping = round % 2 == 1;
            if overlapping {
                let new = run.start(&roomy(&name)).await;
                let stopped = std::mem::replace(program, new).stop().await;
                assert!(stopped.success());
            } else {
                program.ask_to_stop();
                assert!(program.ended(NOT_STUCK).await.success());
                *program = run.start(&roomy(&name)).await;
            }
            run.sends(program, Millis(0), 50).await;
        }
    }
    stream.finish(NOT_STUCK).await.expect("all acknowledged");
    run.is_not_stuck().await;
    for program in [old, other] {
        assert!(program.stop().await.success());
    }
    let verdict = run.judged_by(&Log::read(&run.site).await);
    assert_eq!(verdict.repeats.len(), 0, "{}", verdict.summary());
    assert_eq!(verdict.uncounted, 0, "{}", verdict.summary());
    assert_eq!(run.lives.losses(), 0, "nobody lost anything unawares");
    assert!(verdict.accepted > 500, "{}", verdict.summary());
    // Two at first, and each restart takes at least one partition elsewhere.
    assert!(verdict.claims >= 8, "{}", verdict.summary());
}
