//! What people want of single deliveries, by the API and by the command line alike. The owner of the partition does it; here it is found out what
//! is to be asked of it.

use std::sync::Arc;
use std::time::Duration;

use hookline_dispatch::commands::{Answer, Commands};
use hookline_history::{DeliveryView, KeptError, Store, StoreError, kept_event};
use hookline_journal::{Journal, JournalError};
use hookline_model::ids::{DeliveryId, WebhookUid};
use hookline_model::outcome::Outcome;
use hookline_model::resource::State;
use hookline_model::time::Clock;
use hookline_model::wire::{self, command::What};
use hookline_registry::{Snapshot, WebhookEntry};

use crate::engine::System;

/// How long an owner of the partition is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// What has become of a wish that was not refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Done {
    /// It is done.
    Now,
    /// It is stored, and done as soon as somebody owns the partition.
    Later,
}

impl Done {
    /// The word of the API.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Now => "done",
            Self::Later => "pending",
        }
    }
}

/// Why it is not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotDone {
    /// Nobody knows it.
    #[error(
        "there is no delivery {0} in the project, or nothing is known of it yet: a delivery is shown from its first attempt on"
    )]
    NoDelivery(String),
    /// It waits for nothing.
    #[error("the delivery is final ({0}): nothing of it waits")]
    Final(&'static str),
    /// Nobody would get it.
    #[error("webhook {0} was deleted: restore it first")]
    Deleted(String),
    /// As before.
    #[error("webhook {0} is inactive, and nothing is sent to it: activate it first")]
    Inactive(String),
    /// There is nothing left to send.
    #[error("the event of the delivery is no longer kept, neither in `events` nor in `dead`")]
    NotKept,
    /// The owner says no.
    #[error("{0}")]
    Refused(String),
    /// The owner says not now.
    #[error("{0}")]
    Full(String),
    /// Nothing is set up yet.
    #[error("the registry has no layout yet; try again")]
    NoLayout,
    /// It is not known whether the event is kept.
    #[error("it is not known whether the event of the delivery is kept")]
    Kept(#[source] KeptError),
    /// It is not known what became of the delivery.
    #[error("the history store does not answer")]
    Store(#[from] StoreError),
    /// It is not known whether it will be done.
    #[error("the command may not be stored")]
    Journal(#[from] JournalError),
}

/// Where wishes go.
pub(crate) struct ByHand {
    journal: Arc<dyn Journal>,
    prefix: String,
    commands: Commands,
    clock: Arc<dyn Clock>,
}

impl ByHand {
    /// Of this system.
    pub(crate) fn new(system: &System) -> Self {
        let prefix = system.config.journal.prefix.clone();
        Self {
            journal: system.journal(),
            commands: Commands::new(system.journal(), &prefix),
            clock: Arc::clone(&system.clock),
            prefix,
        }
    }

    /// Skips or releases the head of an ordered lane, if this delivery is (in) it.
    ///
    /// # Errors
    /// See [`NotDone`].
    pub(crate) async fn head(
        &self,
        snapshot: &Snapshot,
        webhook: &WebhookEntry,
        delivery: DeliveryId,
        what: What,
    ) -> Result<Done, NotDone> {
        self.give(snapshot, webhook, delivery, 0, what).await
    }

    /// Ends a delivery that waits for its next attempt.
    ///
    /// # Errors
    /// See [`NotDone`].
    pub(crate) async fn cancel(
        &self,
        store: &Store,
        snapshot: &Snapshot,
        project: &str,
        id: &str,
    ) -> Result<Done, NotDone> {
        let Known {
            view,
            delivery,
            webhook,
            waits,
        } = Known::of(store, snapshot, project, id).await?;
        let run = waits.ok_or(NotDone::Final(view.outcome))?;
        let what = What::Cancel(wire::command::Cancel {});
        self.give(snapshot, webhook, delivery, run, what).await
    }

    /// Sends a delivery now: what waits for its next attempt does not wait any longer, and what is final starts over. `snapshot` is no older than
    /// the request.
    ///
    /// # Errors
    /// See [`NotDone`].
    pub(crate) async fn retry(
        &self,
        store: &Store,
        snapshot: &Snapshot,
        project: &str,
        id: &str,
    ) -> Result<Done, NotDone> {
        let Known {
            view,
            delivery,
            webhook,
            waits,
        } = Known::of(store, snapshot, project, id).await?;
        if webhook.state() == State::Inactive {
            return Err(NotDone::Inactive(view.webhook));
        }
        let layout = snapshot.layout().ok_or(NotDone::NoLayout)?;
        let p = webhook.partition(layout.partitions);
        let kept = kept_event(&*self.journal, &self.prefix, store, &view, p).await;
        let kept = kept.map_err(NotDone::Kept)?.ok_or(NotDone::NotKept)?;
        let what = What::Start(wire::command::Start {
            event: Some(kept.event),
            webhook_epoch: webhook.epoch,
            ordered: webhook.settings.ordered.to_wire(),
            accepted_at_ms: kept.accepted_at.0,
            registry_offset: snapshot.offset,
            ends_run: waits.is_some(),
        });
        let run = waits.unwrap_or(0);
        self.give(snapshot, webhook, delivery, run, what).await
    }

    async fn give(
        &self,
        snapshot: &Snapshot,
        webhook: &WebhookEntry,
        delivery: DeliveryId,
        run: u64,
        what: What,
    ) -> Result<Done, NotDone> {
        let layout = snapshot.layout().ok_or(NotDone::NoLayout)?;
        let command = wire::Command {
            format: wire::FORMAT,
            webhook_uid: webhook.uid.as_bytes().to_vec().into(),
            delivery_id: delivery.0.to_vec().into(),
            at_ms: self.clock.now().0,
            run,
            what: Some(what),
            ..wire::Command::default()
        };
        let p = webhook.partition(layout.partitions);
        match self.commands.give(p, &command, PATIENCE).await? {
            Answer::Done => Ok(Done::Now),
            Answer::Pending => Ok(Done::Later),
            Answer::Refused(why) => Err(NotDone::Refused(why)),
            Answer::Full(why) => Err(NotDone::Full(why)),
        }
    }
}

/// What is known of a delivery.
struct Known<'a> {
    view: DeliveryView,
    delivery: DeliveryId,
    webhook: &'a WebhookEntry,
    /// The run of it that waits for its next attempt.
    waits: Option<u64>,
}

impl<'a> Known<'a> {
    async fn of(
        store: &Store,
        snapshot: &'a Snapshot,
        project: &str,
        id: &str,
    ) -> Result<Self, NotDone> {
        let none = || NotDone::NoDelivery(id.chars().take(64).collect());
        let delivery = DeliveryId::parse(id).ok_or_else(none)?;
        let view = store.delivery(project, id).await?.ok_or_else(none)?;
        let webhook = view.webhook_uid.parse::<WebhookUid>().ok();
        let webhook = webhook.and_then(|uid| snapshot.webhook(uid));
        let webhook = webhook.ok_or_else(|| NotDone::Deleted(view.webhook.clone()))?;
        let waits = view.runs.last();
        let waits = waits.filter(|run| run.outcome == Outcome::Failed.as_str());
        Ok(Self {
            waits: waits.map(|run| run.run),
            view,
            delivery,
            webhook,
        })
    }
}
