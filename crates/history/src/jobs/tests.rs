use std::time::Duration;

use hookline_model::ids::DeliveryId;
use hookline_model::job::JobCounts;
use hookline_model::time::Millis;

use super::flight::{Flight, Reached, Seen};
use super::ranges::{Extent, kept_from};

fn at(position: u64, written: u64) -> Reached {
    let counts = JobCounts {
        written,
        ..JobCounts::default()
    };
    Reached { position, counts }
}

#[test]
fn what_is_reached_is_what_is_acknowledged_and_nothing_before_it_flies() {
    let mut flight = Flight::at(at(10, 0));
    flight.pass(at(12, 0));
    assert_eq!(flight.reached(), at(12, 0), "nothing came of it");
    flight.push(at(15, 1), 100, "a");
    flight.pass(at(17, 1));
    flight.push(at(18, 2), 50, "b");
    flight.pass(at(20, 2));
    assert_eq!((flight.reached(), flight.read()), (at(12, 0), at(20, 2)));
    assert!(flight.has_room(3, 151) && !flight.has_room(2, 151) && !flight.has_room(3, 150));
    assert_eq!(flight.front(), Some(&mut "a"));
    flight.acknowledged();
    assert_eq!(flight.reached(), at(15, 1), "what follows flies");
    flight.acknowledged();
    assert_eq!(flight.reached(), at(20, 2));
    flight.acknowledged();
    assert_eq!((flight.reached(), flight.front()), (at(20, 2), None));
    assert!(flight.has_room(1, 1));
}

#[test]
fn a_delivery_that_comes_again_is_recognised_for_a_while() {
    let mut seen = Seen::new(2);
    let [a, b, c] = [1, 2, 3].map(|n| DeliveryId([n; 16]));
    assert!(seen.note(a) && seen.note(b) && !seen.note(a));
    assert!(seen.note(c), "the first is forgotten");
    assert!(!seen.note(b) && !seen.note(c) && seen.note(a));
}

#[test]
fn how_far_events_reach_back() {
    const NOW: Millis = Millis(1_000_000);
    let week = Some(Duration::from_millis(400_000));
    let part = |start, end, first_at: Option<i64>| Extent {
        start,
        end,
        first_at: first_at.map(Millis),
    };
    let whole = part(0, 9, None);
    // Where nothing was deleted, everything that the topic keeps is there.
    assert_eq!(kept_from(&[whole], week, NOW), Some(Millis(600_000)));
    assert_eq!(kept_from(&[whole], None, NOW), None);
    // Else the first record that is left says it, of all partitions the latest.
    let cut = [whole, part(5, 9, Some(700_000)), part(2, 9, Some(650_000))];
    assert_eq!(kept_from(&cut, week, NOW), Some(Millis(700_000)));
    assert_eq!(kept_from(&cut, None, NOW), Some(Millis(700_000)));
    // What age has not got round to deleting is there.
    let old = [part(5, 9, Some(500_000))];
    assert_eq!(kept_from(&old, week, NOW), Some(Millis(500_000)));
    // A partition without records says nothing but that age took them.
    let empty = [part(5, 5, None)];
    assert_eq!(kept_from(&empty, week, NOW), Some(Millis(600_000)));
    assert_eq!(kept_from(&empty, None, NOW), Some(NOW));
}
