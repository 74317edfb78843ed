//! Pure: how far everything is done, while acknowledgements come in any order.

use std::collections::VecDeque;

/// One event being worked on.
#[derive(Debug)]
struct Open {
    offset: u64,
    timestamp_ms: i64,
    /// Appends not yet acknowledged, and one more while it is being planned.
    waiting: u32,
}

/// Names an event that was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

/// The lowest offset that is not done: what may be committed.
#[derive(Debug)]
pub(crate) struct Floor {
    open: VecDeque<Open>,
    /// The ticket of the first of `open`.
    first: u64,
    position: u64,
    /// Everything below was read.
    read: u64,
}

impl Floor {
    pub(crate) fn at(position: u64) -> Self {
        Self {
            open: VecDeque::new(),
            first: 0,
            position,
            read: position,
        }
    }

    /// Begins the next event. It counts as planned only after [`Floor::done`] was called for it once.
    pub(crate) fn begin(&mut self, offset: u64, timestamp_ms: i64) -> Ticket {
        let ticket = Ticket(self.first + self.open.len() as u64);
        self.open.push_back(Open {
            offset,
            timestamp_ms,
            waiting: 1,
        });
        ticket
    }

    /// One more append of the event is on its way.
    pub(crate) fn add(&mut self, ticket: Ticket) {
        if let Some(open) = self.get(ticket) {
            open.waiting += 1;
        }
    }

    /// One append of the event, or its planning, is done.
    pub(crate) fn done(&mut self, ticket: Ticket) {
        if let Some(open) = self.get(ticket) {
            open.waiting = open.waiting.saturating_sub(1);
        }
        while let Some(open) = self.open.front()
            && open.waiting == 0
        {
            self.position = open.offset + 1;
            self.first += 1;
            self.open.pop_front();
        }
        self.rise();
    }

    /// Everything below `next` was read; there may be nothing at its end.
    pub(crate) fn read_to(&mut self, next: u64) {
        self.read = self.read.max(next);
        self.rise();
    }

    fn rise(&mut self) {
        if self.open.is_empty() {
            self.position = self.position.max(self.read);
        }
    }

    /// Everything below is done.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Nothing is on its way.
    pub(crate) fn idle(&self) -> bool {
        self.open.is_empty()
    }

    /// The time of the oldest event that is not done.
    pub(crate) fn oldest_ms(&self) -> Option<i64> {
        self.open.front().map(|open| open.timestamp_ms)
    }

    fn get(&mut self, ticket: Ticket) -> Option<&mut Open> {
        let index = usize::try_from(ticket.0.checked_sub(self.first)?).ok()?;
        self.open.get_mut(index)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_floor_waits_for_the_lowest() {
        let mut floor = Floor::at(10);
        let (a, b) = (floor.begin(10, 1), floor.begin(13, 2));
        floor.add(a);
        floor.add(b);
        for ticket in [a, b] {
            floor.done(ticket);
        }
        floor.read_to(20);
        assert_eq!((floor.position(), floor.idle()), (10, false));
        floor.done(b);
        assert_eq!((floor.position(), floor.oldest_ms()), (10, Some(1)));
        floor.done(a);
        assert_eq!(
            (floor.position(), floor.idle()),
            (20, true),
            "the gap behind is done, too"
        );
        assert_eq!(floor.oldest_ms(), None);
    }

    #[test]
    fn planning_counts_as_work() {
        let mut floor = Floor::at(0);
        let a = floor.begin(0, 0);
        floor.add(a);
        floor.done(a);
        assert_eq!(
            floor.position(),
            0,
            "acknowledged before the next append was added"
        );
        floor.add(a);
        floor.done(a);
        floor.done(a);
        assert_eq!(floor.position(), 1);
    }

    proptest! {
        /// Against the plain definition: the lowest offset that is not done.
        #[test]
        fn never_above_what_is_not_done(counts in proptest::collection::vec(0..4_u32, 1..30), seed in any::<u64>()) {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut floor = Floor::at(0);
            let mut left: Vec<(u64, Ticket, u32)> = Vec::new();
            for (i, count) in counts.iter().enumerate() {
                let ticket = floor.begin(i as u64 * 2, 0);
                (0..*count).for_each(|_| floor.add(ticket));
                left.push((i as u64 * 2, ticket, count + 1));
            }
            while left.iter().any(|(_, _, n)| *n > 0) {
                let open: Vec<_> = (0..left.len()).filter(|i| left[*i].2 > 0).collect();
                let at = open[random.usize(..open.len())];
                left[at].2 -= 1;
                floor.done(left[at].1);
                let lowest = left.iter().find(|(_, _, n)| *n > 0).map(|(o, _, _)| *o);
                if let Some(lowest) = lowest {
                    prop_assert!(floor.position() <= lowest);
                    let done_before = left.iter().take_while(|(_, _, n)| *n == 0).last();
                    prop_assert_eq!(floor.position(), done_before.map_or(0, |(o, _, _)| o + 1));
                }
            }
            prop_assert!(floor.idle());
        }
    }
}
