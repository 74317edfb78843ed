//! The rounds in which webhooks take their turns, and who in them has to wait for a place.

use std::collections::VecDeque;

use crate::ids::WebhookUid;

/// Which webhooks go before which others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Round {
    /// They answer well.
    Healthy,
    /// They have not yet answered. They share their places with those that fail, but go first: one that is new is tried soon, however many fail.
    Untried,
    /// They fail.
    Failing,
}

/// Webhooks that have something to send and room in their window.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone, Hash))]
struct Queue {
    next: VecDeque<WebhookUid>,
    /// Found their share of the places taken: to ask them again is in vain until places have been given back.
    refused: VecDeque<WebhookUid>,
}

/// All rounds of a partition.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone, Hash))]
pub(super) struct Rounds {
    queues: [Queue; 3],
    /// How many places had been given back when the refused asked.
    freed: u64,
}

impl Rounds {
    pub(super) const ALL: [Round; 3] = [Round::Healthy, Round::Untried, Round::Failing];

    /// So many places have been given back by now. Whoever was refused before asks again, after those who have not asked yet: else the first of
    /// a project that has none left would keep those of others from being asked.
    pub(super) fn freed(&mut self, freed: u64) {
        if self.freed == freed {
            return;
        }
        self.freed = freed;
        for queue in &mut self.queues {
            queue.next.append(&mut queue.refused);
        }
    }

    /// Whether anybody was refused since.
    pub(super) fn any_refused(&self) -> bool {
        self.queues.iter().any(|queue| !queue.refused.is_empty())
    }

    pub(super) fn push(&mut self, round: Round, webhook: WebhookUid) {
        self.queues[round as usize].next.push_back(webhook);
    }

    pub(super) fn push_first(&mut self, round: Round, webhook: WebhookUid) {
        self.queues[round as usize].next.push_front(webhook);
    }

    pub(super) fn refuse(&mut self, round: Round, webhook: WebhookUid) {
        self.queues[round as usize].refused.push_back(webhook);
    }

    pub(super) fn pop(&mut self, round: Round) -> Option<WebhookUid> {
        self.queues[round as usize].next.pop_front()
    }
}
