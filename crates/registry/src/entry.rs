//! One project, one event type, one webhook: as stored, and as the rest of the system sees them.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use hookline_model::access::StoredKey;
use hookline_model::filter::{Filter, FilterError};
use hookline_model::ids::WebhookUid;
use hookline_model::resource::{
    EventTypeSpec, ProjectSpec, State, StoredWebhook, Verified, Webhook,
};
use hookline_model::signature::SigningKey;
use hookline_model::time::Millis;
use hookline_model::units::Rate;
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};

use crate::log::{Current, Name};
use crate::seal::{Place, SealError, Sealer};

/// The field of [`Place`] for secrets that requests are signed with.
pub(crate) const SIGNING: &str = "signing";

/// A project.
#[derive(Debug, Clone)]
pub struct ProjectEntry {
    /// Its id.
    pub id: Arc<str>,
    /// The version of its record.
    pub version: u64,
    /// What it is.
    pub settings: ProjectSpec,
}

impl ProjectEntry {
    pub(crate) fn read(name: &Name, current: &Current) -> Result<Self, String> {
        Ok(Self {
            id: Arc::clone(&name.project),
            version: current.version,
            settings: serde_json::from_slice(&current.body).map_err(|e| e.to_string())?,
        })
    }
}

/// An event type of a project's catalog.
#[derive(Debug, Clone)]
pub struct EventTypeEntry {
    /// The version of its record.
    pub version: u64,
    /// What it is.
    pub settings: EventTypeSpec,
}

impl EventTypeEntry {
    pub(crate) fn read(current: &Current) -> Result<Self, String> {
        Ok(Self {
            version: current.version,
            settings: serde_json::from_slice(&current.body).map_err(|e| e.to_string())?,
        })
    }
}

/// A key to the API.
#[derive(Debug, Clone)]
pub struct KeyEntry {
    /// The version of its record.
    pub version: u64,
    /// What it is.
    pub key: StoredKey,
}

impl KeyEntry {
    pub(crate) fn read(current: &Current) -> Result<Self, String> {
        Ok(Self {
            version: current.version,
            key: serde_json::from_slice(&current.body).map_err(|e| e.to_string())?,
        })
    }

    /// Whether it is accepted at `now`.
    #[must_use]
    pub fn live(&self, now: Millis) -> bool {
        self.key.expires_at_ms.is_none_or(|at| now.0 < at)
    }
}

/// One of `secrets` in the stored form of a webhook; newest first; all that have not expired sign.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SealedSecret {
    pub(crate) version: u64,
    pub(crate) created_at_ms: i64,
    /// From when on it no longer signs; the newest has no end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) expires_at_ms: Option<i64>,
    pub(crate) sealed: String,
}

impl SealedSecret {
    pub(crate) fn live(&self, now: Millis) -> bool {
        self.expires_at_ms.is_none_or(|at| now.0 < at)
    }
}

/// Reads the stored form of a webhook.
pub(crate) fn read_stored(body: &[u8]) -> Result<StoredWebhook, String> {
    serde_json::from_slice(body).map_err(|e| e.to_string())
}

/// Sets the state; becoming inactive raises the epoch, which cancels what waits.
pub(crate) fn set_state(stored: &mut StoredWebhook, state: State, reason: &str, now: Millis) {
    if state == stored.settings.state {
        return;
    }
    if state == State::Inactive {
        stored.epoch += 1;
    }
    stored.settings.state = state;
    stored.state_reason = reason.into();
    stored.state_at_ms = now.0;
}

/// A webhook as it is at one version.
pub struct WebhookEntry {
    /// Made by us, never reused.
    pub uid: WebhookUid,
    /// The project it belongs to.
    pub project: Arc<str>,
    /// Unique in the project; another webhook may have it later.
    pub name: Arc<str>,
    /// Raised when it is deactivated or deleted. A delivery of a lower epoch ends cancelled.
    pub epoch: u64,
    /// The version of its record.
    pub version: u64,
    /// When it was made.
    pub created_at: Millis,
    /// Why it has the state it has, where nobody simply asked for it.
    pub state_reason: Option<String>,
    /// Since when it has that state; its making, if that never changed.
    pub state_at: Millis,
    /// The verification that its endpoint has passed, as long as that still says something about it.
    pub verified: Option<Verified>,
    /// Everything that the customer chose, with the preset's values where nothing was chosen.
    pub settings: Webhook,
    secrets: Vec<SealedSecret>,
    sealer: Arc<Sealer>,
    keys: OnceLock<Result<Arc<[SigningKey]>, SealError>>,
    filter: OnceLock<Result<Filter, FilterError>>,
    /// Partitions and partition of the last answer of [`WebhookEntry::partition`].
    partition: AtomicU64,
}

impl WebhookEntry {
    pub(crate) fn read(
        name: &Name,
        current: &Current,
        sealer: &Arc<Sealer>,
    ) -> Result<Self, String> {
        let stored = read_stored(&current.body)?;
        Self::new(name, current.version, stored, sealer)
    }

    pub(crate) fn new(
        name: &Name,
        version: u64,
        stored: StoredWebhook,
        sealer: &Arc<Sealer>,
    ) -> Result<Self, String> {
        let created_at = Millis(stored.created_at_ms);
        let secrets = serde_json::from_value::<Vec<SealedSecret>>(stored.secrets);
        Ok(Self {
            uid: stored.uid,
            project: Arc::clone(&name.project),
            name: Arc::clone(&name.name),
            epoch: stored.epoch,
            version,
            created_at,
            state_reason: Some(stored.state_reason).filter(|r| !r.is_empty()),
            state_at: Millis(stored.state_at_ms).max(created_at),
            verified: stored.verified,
            settings: stored.settings,
            secrets: secrets.map_err(|e| e.to_string())?,
            sealer: Arc::clone(sealer),
            keys: OnceLock::new(),
            filter: OnceLock::new(),
            partition: AtomicU64::new(0),
        })
    }

    /// Its state.
    #[must_use]
    pub fn state(&self) -> State {
        self.settings.state
    }

    /// How many attempts may begin in a span: what the customer chose, or the endpoint granted, whichever is less.
    #[must_use]
    pub fn rate_limit(&self) -> Option<Rate> {
        let granted = self.verified.as_ref().and_then(|verified| verified.rate);
        match (self.settings.rate_limit, granted) {
            (Some(own), Some(granted)) if own.per_second() > granted.per_second() => Some(granted),
            (own, granted) => own.or(granted),
        }
    }

    /// The keys that requests are signed with at `now`, newest first. Opened once, when first asked for.
    ///
    /// # Errors
    /// When they are sealed with another key or damaged.
    pub fn signing_keys(&self, now: Millis) -> Result<Arc<[SigningKey]>, SealError> {
        let all = self.keys.get_or_init(|| self.open_keys()).clone()?;
        if self.secrets.iter().all(|secret| secret.live(now)) {
            return Ok(all);
        }
        let live = all.iter().zip(&self.secrets);
        let live = live.filter(|(_, secret)| secret.live(now));
        Ok(live.map(|(key, _)| key.clone()).collect())
    }

    /// Which of the events that it is subscribed to it wants; `None`: all. Read once, when first asked for. An error is a filter of a newer
    /// version, for none that this one cannot read is ever saved by it.
    pub fn filter(&self) -> Option<&Result<Filter, FilterError>> {
        let text = self.settings.filter.as_deref()?;
        Some(self.filter.get_or_init(|| Filter::compile(text)))
    }

    /// When each of the secrets that sign at `now` was made and until when it signs, newest first.
    pub fn secrets(&self, now: Millis) -> impl Iterator<Item = (Millis, Option<Millis>)> {
        let live = self.secrets.iter().filter(move |secret| secret.live(now));
        live.map(|secret| {
            (
                Millis(secret.created_at_ms),
                secret.expires_at_ms.map(Millis),
            )
        })
    }

    fn open_keys(&self) -> Result<Arc<[SigningKey]>, SealError> {
        let uid = self.uid.to_string();
        let open = |secret: &SealedSecret| {
            let place = Place {
                project: &self.project,
                owner: &uid,
                field: SIGNING,
                version: secret.version,
            };
            let secret = self.sealer.open(&place, &secret.sealed)?;
            SigningKey::from_bytes(secret.expose_secret()).map_err(|_| SealError::Damaged)
        };
        self.secrets.iter().map(open).collect()
    }

    /// The partition it belongs to; remembered, because it is asked for with every event.
    #[must_use]
    pub fn partition(&self, partitions: u32) -> u32 {
        let known = self.partition.load(Ordering::Relaxed);
        if known >> 32 == u64::from(partitions) {
            return u32::try_from(known & u64::from(u32::MAX)).unwrap_or(0);
        }
        let partition = self.uid.partition(partitions);
        let known = u64::from(partitions) << 32 | u64::from(partition);
        self.partition.store(known, Ordering::Relaxed);
        partition
    }
}

impl fmt::Debug for WebhookEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookEntry")
            .field("uid", &self.uid)
            .field("project", &self.project)
            .field("name", &self.name)
            .field("epoch", &self.epoch)
            .field("version", &self.version)
            .field("state", &self.settings.state)
            .finish_non_exhaustive()
    }
}
