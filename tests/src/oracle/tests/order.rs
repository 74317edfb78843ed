//! The same for the order that ordered webhooks saw.

use super::*;

/// The run of the other tests with its first webhook in an order.
fn ordered() -> Run {
    run_with(vec![
        Hook::new("ok", "/ok/a").ordered("webhook"),
        Hook::new("second", "/until/2/b").data().delivered_at(2, ""),
    ])
}

#[test]
fn a_lane_that_kept_its_order_passes() {
    let verdict = judged(&ordered());
    verdict.assert_kept();
    assert_eq!((verdict.lanes, verdict.repeats.len()), (1, 1));
    assert_eq!(judged(&run()).lanes, 0);
}

#[test]
fn what_starts_before_the_one_before_it_is_final_is_found() {
    found_in(ordered(), "came before 0 was final", |run| {
        run.requests[0].answered_at = Some(run.requests[3].at + Duration::from_secs(1));
    });
    found_in(ordered(), "came before 0 was final", |run| {
        run.requests[0].answered_at = None;
    });
    // Each takes two attempts, and the second send did not wait for the other one's second.
    let second = run_with(vec![
        Hook::new("ok", "/ok/a"),
        Hook::new("second", "/until/2/b")
            .data()
            .delivered_at(2, "")
            .ordered("key"),
    ]);
    found_in(second, "0 came again after 8192", |_| ());
}

#[test]
fn more_than_one_repeat_in_a_lane_is_found() {
    found_in(ordered(), "2 repeats in", |run| {
        // The first one's record was lost with the process, too.
        (run.log.attempts[0].epoch, run.log.attempts[0].at) = (2, Millis(691));
        let again = request(&run.oracle, 0, 0, 1, "b", 690);
        run.requests.insert(3, again);
        run.max_in_flight = 2;
    });
}

#[test]
fn an_order_other_than_that_of_the_keys_is_found() {
    let number = |run: &mut Run, event: usize, sequence: &str| {
        let requests = run.requests.iter_mut();
        for request in requests.filter(|r| number_in(&r.body) == Some(event)) {
            let header = request.headers.iter_mut();
            let header = header.filter(|(name, _)| name == "hookline-sequence");
            header.for_each(|(_, value)| sequence.clone_into(value));
        }
    };
    found_in(ordered(), "have the sequence 0", |run| number(run, 1, "0"));
    let mut same_key = ordered();
    // By a seed whose first two events have the same key.
    let of = |seed| Oracle::new(seed, same_key.oracle.hooks.clone());
    let seed = (0..500).find(|seed| of(*seed).event(0).key == of(*seed).event(1).key);
    let seed = seed.expect("one of 16 keys");
    same_key = seeded(seed, same_key.oracle.hooks.clone());
    found_in(same_key, "which was published later with its key", |run| {
        number(run, 0, "16384");
    });
    found_in(ordered(), "names its lane and sequence", |run| {
        run.requests[0]
            .headers
            .retain(|(name, _)| name != "hookline-lane");
    });
}
