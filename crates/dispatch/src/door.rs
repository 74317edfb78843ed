//! What the world outside says of a send that could start: the registry, the lease, the places.

use std::collections::HashSet;
use std::sync::Arc;

use hookline_model::core::lane::{Batch, Door, Queued, Seat, Terms};
use hookline_model::core::partition::{Resting, Sendable as _};
use hookline_model::ids::{DeliveryId, WebhookUid};
use hookline_model::outcome::Outcome;
use hookline_model::policy;
use hookline_model::resource::{Batching, State};
use hookline_model::time::Millis;
use hookline_model::units::Rate;
use hookline_registry::{Snapshot, WebhookEntry};

use crate::payload::{Outline, Payload};
use crate::places::{Lack, Place};
use crate::shared::Shared;
use crate::worker::{BY_HAND, DELETED, HELD_TOO_LONG, TOO_OLD};

/// Runs of deliveries that are ended wherever they are met.
pub(crate) type Ended = HashSet<(DeliveryId, u64)>;

/// The door of one turn.
pub(crate) struct WorkerDoor<'a> {
    shared: &'a Arc<Shared>,
    snapshot: Arc<Snapshot>,
    /// Runs that somebody has ended.
    ended: Arc<Ended>,
    now: Millis,
    leased: bool,
    given_back: u64,
    place: Option<Place>,
    /// Something could have started, but lacked the lease or any place.
    pub(crate) lacked: bool,
    /// A send could have started, but others hold all places that its kind may hold: suspects, those of its project, those to its destination.
    pub(crate) suspects_lack: bool,
}

/// What to do with a send that was handed out.
pub(crate) enum Opened {
    /// It goes out.
    Send {
        webhook: Arc<WebhookEntry>,
        place: Place,
    },
    /// It ends here.
    End {
        webhook: Option<Arc<WebhookEntry>>,
        outcome: Outcome,
        why: &'static str,
    },
}

impl<'a> WorkerDoor<'a> {
    pub(crate) fn new(
        shared: &'a Arc<Shared>,
        snapshot: &Arc<Snapshot>,
        ended: &Arc<Ended>,
        now: Millis,
    ) -> Self {
        let leased = shared.leased();
        Self {
            shared,
            snapshot: snapshot.clone(),
            ended: ended.clone(),
            now,
            leased,
            given_back: shared.places.given_back(),
            place: None,
            lacked: false,
            suspects_lack: false,
        }
    }

    /// What requests to this URL are counted by; `None` where the operator allows its address by name.
    fn capped(&self, url: &str) -> Option<Arc<str>> {
        let target = self.shared.maker.way.urls().check(url).ok()?;
        (!target.is_exempt()).then(|| Arc::clone(target.origin()))
    }

    /// The webhook, if the send is still wanted.
    fn wanted(
        &self,
        webhook: WebhookUid,
        send: &Outline,
    ) -> Result<&Arc<WebhookEntry>, (Outcome, &'static str)> {
        let entry = self.snapshot.webhook(webhook).ok_or(DELETED)?;
        if !self.ended.is_empty() && self.ended.contains(&(send.delivery, send.run)) {
            return Err(BY_HAND);
        }
        if send.webhook_epoch < entry.epoch || entry.settings.state == State::Inactive {
            return Err(DELETED);
        }
        if send.first_try != Millis(0)
            && policy::expired(&entry.settings.retry, send.first_try, self.now)
        {
            return Err(TOO_OLD);
        }
        if self.now.since(send.entered_at) > self.shared.config.max_hold {
            return Err(HELD_TOO_LONG);
        }
        Ok(entry)
    }

    /// Whether it would be ended if it went now.
    pub(crate) fn ends(&self, resting: &Resting<Outline>) -> bool {
        self.wanted(resting.lane.webhook, &resting.outline).is_err()
    }

    /// What to do with a send that [`hookline_model::core::lane::Lanes::next`] has handed out just now.
    pub(crate) fn opened(&mut self, queued: &Queued<Payload>, send: bool) -> Opened {
        let webhook = self.snapshot.webhook(queued.lane.webhook).cloned();
        match (self.place.take(), webhook, send) {
            (Some(place), Some(webhook), true) => Opened::Send { webhook, place },
            (_, webhook, _) => {
                let (outcome, why) = self
                    .wanted(queued.lane.webhook, &queued.payload.outline())
                    .err()
                    .unwrap_or(DELETED);
                Opened::End {
                    webhook,
                    outcome,
                    why,
                }
            }
        }
    }
}

fn together(batch: Batching) -> Batch {
    Batch {
        sends: batch.max_events as usize,
        bytes: usize::try_from(batch.max_bytes).unwrap_or(usize::MAX),
        wait: batch.max_wait,
    }
}

impl Door<Payload> for WorkerDoor<'_> {
    fn terms(&mut self, webhook: WebhookUid, payload: &Payload) -> Terms {
        match self.wanted(webhook, &payload.outline()) {
            Err(_) => Terms::End,
            Ok(entry) if entry.settings.state == State::Paused => Terms::Wait,
            Ok(entry) => Terms::Send {
                rate: entry.rate_limit().map(Rate::per_second),
                batch: entry.settings.batch.map(together),
            },
        }
    }

    fn take_place(&mut self, webhook: WebhookUid, suspect: bool) -> Seat {
        let taken = match self.snapshot.webhook(webhook) {
            Some(entry) if self.leased => {
                let destination = entry.destination(|url| self.capped(url));
                self.shared
                    .places
                    .take(&entry.project, destination, suspect)
            }
            _ => Err(Lack::Place),
        };
        match taken {
            Ok(place) => {
                self.place = Some(place);
                Seat::Taken
            }
            Err(Lack::Share) => {
                self.suspects_lack = true;
                Seat::ShareTaken
            }
            Err(Lack::SuspectPlace) => {
                self.suspects_lack = true;
                Seat::NoneLeft
            }
            Err(Lack::Place) => {
                self.lacked = true;
                Seat::NoneLeft
            }
        }
    }

    fn freed(&self) -> u64 {
        self.given_back
    }
}
