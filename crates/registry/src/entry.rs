//! One project, one event type, one webhook: as stored, and as the rest of the system sees them.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use hookline_model::access::StoredKey;
use hookline_model::filter::{Filter, FilterError};
use hookline_model::ids::WebhookUid;
use hookline_model::limits::SECRETS_MAX;
use hookline_model::resource::{
    EventTypeSpec, ProjectSpec, State, StoredWebhook, Verified, Webhook,
};
use hookline_model::signature::{Scheme, SigningKey, format_secret};
use hookline_model::time::Millis;
use hookline_model::units::Rate;
use secrecy::{ExposeSecret as _, SecretString};
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
    /// What it signs by, where that is not the first scheme that there was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) scheme: Option<String>,
    pub(crate) sealed: String,
}

impl SealedSecret {
    pub(crate) fn live(&self, now: Millis) -> bool {
        self.expires_at_ms.is_none_or(|at| now.0 < at)
    }

    /// What it signs by; `None` for a scheme of a newer version.
    pub(crate) fn scheme(&self) -> Option<Scheme> {
        let word = self.scheme.as_deref();
        word.map_or(Some(Scheme::V1), |word| word.parse().ok())
    }
}

/// Seals a new secret of a webhook, in front of those that it has. `secret` is random.
pub(crate) fn new_secret(
    sealer: &Sealer,
    project: &str,
    uid: &str,
    scheme: Scheme,
    before: &[SealedSecret],
    secret: &[u8],
    now: Millis,
) -> Result<SealedSecret, SealError> {
    let version = before.iter().map(|s| s.version).max().unwrap_or(0) + 1;
    let place = Place {
        project,
        owner: uid,
        field: SIGNING,
        version,
    };
    Ok(SealedSecret {
        version,
        created_at_ms: now.0,
        expires_at_ms: None,
        scheme: (scheme != Scheme::V1).then(|| scheme.as_str().to_owned()),
        sealed: sealer.seal(&place, secret)?,
    })
}

/// Puts a new secret in front; those of before sign until `ends` at most, and [`SECRETS_MAX`] in all.
pub(crate) fn in_front(
    new: SealedSecret,
    before: Vec<SealedSecret>,
    ends: Millis,
    now: Millis,
) -> Vec<SealedSecret> {
    let mut secrets = vec![new];
    secrets.extend(before.into_iter().map(|old| SealedSecret {
        expires_at_ms: Some(old.expires_at_ms.map_or(ends.0, |at| at.min(ends.0))),
        ..old
    }));
    secrets.retain(|secret| secret.live(now));
    secrets.truncate(SECRETS_MAX);
    secrets
}

/// A new secret as it is shown to its owner once; a private key is not: its public key is shown always.
pub(crate) fn shown_secret(scheme: Scheme, secret: &[u8]) -> Option<SecretString> {
    (scheme == Scheme::V1).then(|| format_secret(secret).into())
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

/// What may be shown of a secret that requests are signed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretInfo {
    /// When it was made.
    pub created_at: Millis,
    /// Until when it signs; the newest has no end.
    pub expires_at: Option<Millis>,
    /// What receivers check its signatures with (`whpk_…`), where that is not the secret itself.
    pub public_key: Option<String>,
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
    destination: OnceLock<Option<Arc<str>>>,
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
            destination: OnceLock::new(),
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

    /// The secrets that sign at `now`, newest first, as far as they may be shown.
    pub fn secrets(&self, now: Millis) -> impl Iterator<Item = SecretInfo> {
        // Public keys are had from the private ones; nobody needs those of webhooks that have none.
        let keys = match self.secrets.iter().any(|s| s.scheme.is_some()) {
            true => self.keys.get_or_init(|| self.open_keys()).clone().ok(),
            false => None,
        };
        let all = self.secrets.iter().enumerate();
        let live = all.filter(move |(_, secret)| secret.live(now));
        live.map(move |(place, secret)| SecretInfo {
            created_at: Millis(secret.created_at_ms),
            expires_at: secret.expires_at_ms.map(Millis),
            public_key: keys.as_ref().and_then(|keys| keys.get(place)?.public_key()),
        })
    }

    /// What its requests are counted by beside those of others, as `find` says once of its URL; remembered, because it is asked for with every send.
    pub fn destination(&self, find: impl FnOnce(&str) -> Option<Arc<str>>) -> Option<&Arc<str>> {
        let found = self.destination.get_or_init(|| find(&self.settings.url));
        found.as_ref()
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
            let scheme = secret.scheme();
            let secret = self.sealer.open(&place, &secret.sealed)?;
            let scheme = scheme.ok_or(SealError::Malformed)?;
            SigningKey::new(scheme, secret.expose_secret()).map_err(|_| SealError::Damaged)
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
