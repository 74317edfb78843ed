//! Projects, event types, webhooks, keys and the layout, as one compacted topic: checked writes, and a live snapshot of what is current.
//!
//! In comes the log of `registry`; out go [`Snapshot`]s, and records written by the protocol in `write`. Reading order: `log` (pure:
//! what the records mean), `snapshot` and `entry` (what is current), `follow` (reading), `write`, `typed`, `catalog`, `connectors`, `lifecycle`,
//! `jobs` and `keys` (changing), `seal` (how secrets are stored), `rekey` (replacing the key they are sealed with).
//!
//! Invariants: of each name the surviving record with the highest version is current, among equals the one with the lowest offset;
//! the current one is never tombstoned; secrets stand in the journal only sealed. What this crate does not know: what webhooks are for.

mod catalog;
mod connectors;
mod cow;
mod end;
mod entry;
mod error;
mod follow;
mod jobs;
mod keys;
mod lifecycle;
mod log;
mod rekey;
mod seal;
mod snapshot;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod typed;
mod write;

use std::sync::Arc;
use std::time::Duration;

use hookline_journal::Journal;
use hookline_model::time::Clock;
use hookline_model::topics::Topic;
use tokio::sync::watch;

pub use catalog::{CatalogLoaded, CatalogScope, EventTypeWritten};
pub use connectors::{ConnectorEntry, ConnectorWritten};
pub use entry::{EventTypeEntry, KeyEntry, ProjectEntry, SecretInfo, WebhookEntry};
pub use error::{FollowError, OpenError, WriteError};
pub use jobs::JobEntry;
pub use keys::{KeyChange, KeyMade, NewKey};
pub use lifecycle::{DeletedWebhook, SecretRotated};
pub use log::Current;
pub use seal::{Kek, KekError, KeyId, NoRandomness, Place, Random, SealError, Sealer};
pub use snapshot::{Layout, Matches, Snapshot};
pub use typed::{ProjectWritten, PutWebhook, WebhookWritten};
pub use write::{Change, Written};

use end::EndQuery;
use follow::Follow;
use log::Name;
use write::Write;

/// How long a write may take before its outcome counts as unknown.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often superseded records are looked for.
const TIDY_EVERY: Duration = Duration::from_secs(60);
/// Tombstones of one round.
const TIDY_MAX: usize = 500;

/// About how often it is looked for secrets under an old key, when there is something new to look at.
const REKEY_EVERY: Duration = Duration::from_secs(4);

/// Where the registry is and how it behaves.
#[derive(Debug, Clone)]
pub struct RegistryConfig {
    /// What the names of topics begin with.
    pub prefix: String,
    /// How long a write may take before its outcome counts as unknown.
    pub write_timeout: Duration,
    /// How often superseded records are tombstoned, once they have been seen for a whole such round. It counts as no less than the longest
    /// write of *any* process, which all have to agree on: a writer must have given up before what it lost to may be compacted away.
    pub tidy_every: Duration,
}

impl RegistryConfig {
    /// The registry under that prefix, all else by default.
    #[must_use]
    pub fn new(prefix: impl Into<String>) -> Self {
        Self {
            prefix: prefix.into(),
            write_timeout: WRITE_TIMEOUT,
            tidy_every: TIDY_EVERY,
        }
    }
}

/// The registry: a live view, and checked writes. Clones share everything.
#[derive(Clone)]
pub struct Registry {
    follow: Arc<Follow>,
    write: Arc<Write>,
    end: Arc<EndQuery>,
    tidy_every: Duration,
}

impl Registry {
    /// Opens the registry and reads it to its end. Where it is empty, the record by which the key is checked is written.
    ///
    /// # Errors
    /// When it cannot be read, a newer program wrote it, or secrets in it are sealed with a key that `sealer` does not have.
    pub async fn open(
        journal: Arc<dyn Journal>,
        config: RegistryConfig,
        clock: Arc<dyn Clock>,
        sealer: Sealer,
    ) -> Result<Self, OpenError> {
        let topic = Topic::Registry.name(&config.prefix);
        let follow = Follow::open(topic.clone(), journal, Arc::new(sealer))
            .await
            .map_err(|source| OpenError::Follow { topic, source })?;
        let registry = Self {
            follow: Arc::new(follow),
            write: Arc::new(Write::new(clock, config.write_timeout)),
            end: Arc::new(EndQuery::default()),
            tidy_every: config.tidy_every.max(config.write_timeout),
        };
        registry.check_keys().await?;
        Ok(registry)
    }

    /// Keeps the view live, tidies up behind, and seals again what an old key has sealed, until `shutdown` says true or is gone.
    ///
    /// # Errors
    /// When the log can no longer be followed: the process must not go on with what it knows.
    pub async fn run(&self, mut shutdown: watch::Receiver<bool>) -> Result<(), FollowError> {
        tokio::select! {
            biased;
            _ = shutdown.wait_for(|stop| *stop) => Ok(()),
            ended = self.follow.until(|_| None::<std::convert::Infallible>) => {
                ended.map(|never| match never {})
            }
            never = self.tidy_for_ever() => match never {},
            never = self.rekey_for_ever() => match never {},
        }
    }

    async fn tidy_for_ever(&self) -> std::convert::Infallible {
        let mut before = self.snapshot().offset;
        loop {
            // Not all processes at the same time: what one has done, the others need not do.
            tokio::time::sleep(self.tidy_every.mul_f64(1.0 + fastrand::f64())).await;
            match self.write.tidy(&self.follow, before, TIDY_MAX).await {
                Ok(0) => {}
                Ok(count) => tracing::debug!(count, "superseded registry records tombstoned"),
                Err(error) => {
                    tracing::warn!(error = %error, "superseded registry records were not tombstoned");
                }
            }
            before = self.snapshot().offset;
        }
    }

    /// What is current, as far as it has been read.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.follow.snapshot()
    }

    /// Tells of every new snapshot, as long as somebody runs [`Registry::run`].
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.follow.changes()
    }

    /// Waits until everything below `offset` is applied. Cancel safe.
    ///
    /// # Errors
    /// When the log can no longer be followed.
    pub async fn applied(&self, offset: u64) -> Result<Arc<Snapshot>, FollowError> {
        let snapshot = self.snapshot();
        if snapshot.offset >= offset {
            return Ok(snapshot);
        }
        self.follow
            .until(|view| (view.snapshot.offset >= offset).then(|| Arc::new(view.snapshot.clone())))
            .await
    }

    /// Asks for the end of the log and waits until everything below is applied: sees every write acknowledged before the call.
    ///
    /// # Errors
    /// When the journal does not answer, or the log can no longer be followed.
    pub async fn refresh(&self) -> Result<Arc<Snapshot>, FollowError> {
        let end = self
            .end
            .ask(&*self.follow.journal, &self.follow.topic)
            .await?;
        self.applied(end).await
    }

    /// Changes what `kind`, `project`, `name` means, by the write protocol. `edit` sees what is current at the end of the log (a deletion
    /// is shown as such) and says what is to be; without `if_match` it may be called again, when another writer was faster.
    /// `if_match` is the version that must be current; 0 is none.
    ///
    /// # Errors
    /// What `edit` says; [`WriteError::Conflict`] when `if_match` is not the version; [`WriteError::OutcomeUnknown`] when the own record
    /// was not seen in time.
    pub async fn write(
        &self,
        kind: &str,
        project: &str,
        name: &str,
        if_match: Option<u64>,
        mut edit: impl FnMut(Option<&Current>) -> Result<Change, WriteError> + Send,
    ) -> Result<Written, WriteError> {
        if [kind, project, name].iter().any(|part| part.contains('/')) {
            return Err(WriteError::Invalid {
                kind: kind.into(),
                name: format!("{project}/{name}"),
                problem: "names hold no '/'".into(),
            });
        }
        let name = Name::new(kind, project, name);
        self.write
            .write(&self.follow, &name, if_match, &mut edit)
            .await
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry")
            .field("topic", &self.follow.topic)
            .field("snapshot", &self.snapshot())
            .finish_non_exhaustive()
    }
}
