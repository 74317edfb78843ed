//! The changes that people and stages ask for, each as edits of the write protocol.

use std::sync::Arc;

use bytes::Bytes;
use hookline_model::ids::{Slug, WebhookUid};
use hookline_model::limits::OVERLAP_DEFAULT;
use hookline_model::resource::{ProjectSpec, State, StoredWebhook, Verified, Webhook};
use hookline_model::time::Millis;
use secrecy::SecretString;
use secrecy::zeroize::Zeroizing;
use serde::Serialize;

use crate::entry::{WebhookEntry, new_secret, read_stored, set_state, shown_secret};
use crate::error::WriteError;
use crate::log::{Current, Name};
use crate::snapshot::{Layout, SYSTEM, kind};
use crate::write::{Change, Written};
use crate::{CatalogLoaded, CatalogScope, ProjectEntry, Registry};

/// The name of the one layout.
const LAYOUT: &str = "layout";
/// How often a deleted webhook may be put out of a name's way before giving up.
const TRIES: u32 = 5;
/// Bytes of a new secret.
pub(crate) const SECRET_BYTES: usize = 32;
/// A secret, or the seed of a key pair, that was drawn just now.
pub(crate) type NewSecret = Zeroizing<[u8; SECRET_BYTES]>;

/// A webhook to write.
#[derive(Debug, Clone)]
pub struct PutWebhook {
    /// The project it belongs to.
    pub project: Slug,
    /// Its name in the project.
    pub name: Slug,
    /// Everything that was chosen; project and name are the same here.
    pub settings: Webhook,
    /// Leave the state of an existing one as it is (where the customer did not say which).
    pub keep_state: bool,
    /// What was verified just now, with success. Without it, what was verified before holds as long as it is about the same.
    pub verified: Option<Verified>,
    /// Make the project, if there is none.
    pub make_project: bool,
    /// The version that must be current; 0 is none.
    pub if_match: Option<u64>,
}

/// A webhook that was written.
#[derive(Debug, Clone)]
pub struct WebhookWritten {
    /// As it is now.
    pub webhook: Arc<WebhookEntry>,
    /// Version, offset, and whether anything changed.
    pub written: Written,
    /// The secret that its requests are signed with (`whsec_…`), where it was made just now. It is shown once.
    pub new_secret: Option<SecretString>,
    /// It did not exist before.
    pub created: bool,
}

/// A project that was written.
#[derive(Debug, Clone)]
pub struct ProjectWritten {
    /// As it is now.
    pub project: Arc<ProjectEntry>,
    /// Version, offset, and whether anything changed.
    pub written: Written,
    /// It did not exist before.
    pub created: bool,
    /// What became of the event types of its preset, if it has one.
    pub loaded: Option<CatalogLoaded>,
}

/// A deleted webhook: the name it had, and about when that was.
pub(crate) struct Deleted {
    pub(crate) name: String,
    pub(crate) at: Millis,
    pub(crate) stored: StoredWebhook,
}

impl Registry {
    /// Writes a project, or makes it. If it has a preset, it gets those of the preset's event types that it never had.
    ///
    /// # Errors
    /// As [`Registry::write`] and [`Registry::load_catalog`]; then the project may be written already, and writing it again does the rest.
    pub async fn put_project(
        &self,
        spec: &ProjectSpec,
        if_match: Option<u64>,
    ) -> Result<ProjectWritten, WriteError> {
        let id = spec.id.as_str();
        let name = Name::new(kind::PROJECT, id, id);
        let body = json(&name, spec)?;
        let mut created = false;
        let written = self
            .write(kind::PROJECT, id, id, if_match, |current| {
                let live = current.filter(|c| !c.deleted);
                created = live.is_none();
                Ok(match live {
                    Some(live) if same::<ProjectSpec>(&live.body, &body) => Change::Nothing,
                    _ => Change::Put(body.clone()),
                })
            })
            .await?;
        let loaded = match spec.preset {
            Some(preset) => Some(
                self.load_catalog(&spec.id, preset, CatalogScope::New)
                    .await?,
            ),
            None => None,
        };
        let project = Arc::new(ProjectEntry {
            id: name.project,
            version: written.version,
            settings: spec.clone(),
        });
        Ok(ProjectWritten {
            project,
            written,
            created,
            loaded,
        })
    }

    /// Makes the project if there is none, and leaves it alone if there is. Says whether it was made.
    ///
    /// # Errors
    /// As [`Registry::write`].
    pub async fn ensure_project(&self, id: &Slug) -> Result<bool, WriteError> {
        if self.snapshot().project(id.as_str()).is_some() {
            return Ok(false);
        }
        let name = Name::new(kind::PROJECT, id.as_str(), id.as_str());
        let spec = ProjectSpec::new(id.clone());
        let body = json(&name, &spec)?;
        let written = self
            .write(kind::PROJECT, id.as_str(), id.as_str(), None, |current| {
                Ok(match current {
                    Some(current) if !current.deleted => Change::Nothing,
                    _ => Change::Put(body.clone()),
                })
            })
            .await?;
        Ok(written.changed)
    }

    /// Writes a webhook, or makes it with a new uid and a new secret. The same content again writes nothing.
    ///
    /// # Errors
    /// As [`Registry::write`]; [`WriteError::NotFound`] when there is no such project and none is to be made.
    pub async fn put_webhook(&self, put: &PutWebhook) -> Result<WebhookWritten, WriteError> {
        let project = put.project.as_str();
        if put.make_project {
            self.ensure_project(&put.project).await?;
        } else if self.refresh().await?.project(project).is_none() {
            return Err(not_found(kind::PROJECT, project));
        }
        let name = Name::new(kind::WEBHOOK, project, put.name.as_str());
        if (&put.settings.project, &put.settings.name) != (&put.project, &put.name) {
            return Err(invalid(&name, "its settings name another webhook"));
        }
        self.check_connector(&put.settings).await?;
        let now = self.write.clock.now();
        let mut fresh = None;
        let mut archived = None;
        for _ in 0..TRIES {
            let mut in_the_way = None;
            let mut result = None;
            let mut rekeyed = None;
            let edit = |current: Option<&Current>| {
                (in_the_way, result, rekeyed) = (None, None, None);
                let existing = current.map(|c| self.stored(&name, c).map(|s| (c, s)));
                let (mut stored, created) = match existing.transpose()? {
                    Some((current, stored)) if !current.deleted => (stored, false),
                    Some((_, stored)) if archived != Some(stored.uid) => {
                        in_the_way = Some(stored);
                        return Ok(Change::Nothing);
                    }
                    _ => match &fresh {
                        Some((stored, _)) => (StoredWebhook::clone(stored), true),
                        None => (fresh.insert(self.make(&name, put, now)?).0.clone(), true),
                    },
                };
                let before = json(&name, &stored)?;
                let state = match put.keep_state && !created {
                    true => stored.settings.state,
                    false => put.settings.state,
                };
                set_state(&mut stored, state, "", now);
                if !created && stored.settings.signature != put.settings.signature {
                    let scheme = put.settings.signature;
                    let overlap = OVERLAP_DEFAULT;
                    rekeyed = Some(self.renew_secret(&name, &mut stored, scheme, overlap, now)?);
                }
                stored.settings = put.settings.clone();
                stored.settings.state = state;
                let part = stored.settings.verified_part();
                let verified = put.verified.clone().or_else(|| stored.verified.take());
                stored.verified = verified.filter(|verified| verified.part == part);
                let after = json(&name, &stored)?;
                let unchanged = !created && before == after;
                result = Some((stored, created));
                Ok(match unchanged {
                    true => Change::Nothing,
                    false => Change::Put(after),
                })
            };
            let written = self.write(kind::WEBHOOK, project, &name.name, put.if_match, edit);
            let written = written.await?;
            if let Some(stored) = in_the_way {
                self.archive(&name, &stored).await?;
                archived = Some(stored.uid);
            } else if let Some((stored, created)) = result {
                let sealer = &self.follow.sealer;
                let entry = WebhookEntry::new(&name, written.version, stored, sealer);
                let entry = entry.map_err(|problem| invalid(&name, &problem))?;
                let secret = match created {
                    true => fresh.and_then(|(_, secret)| secret),
                    false => {
                        let scheme = put.settings.signature;
                        rekeyed.and_then(|secret| shown_secret(scheme, secret.as_slice()))
                    }
                };
                return Ok(WebhookWritten {
                    webhook: Arc::new(entry),
                    written,
                    new_secret: secret,
                    created,
                });
            }
        }
        Err(contended(&name))
    }

    /// Deletes a webhook: its epoch is raised, what waits for it is cancelled, its name is free. It can be restored by its uid.
    ///
    /// # Errors
    /// As [`Registry::write`]; [`WriteError::NotFound`] when there is none.
    pub async fn delete_webhook(
        &self,
        project: &str,
        name: &str,
        if_match: Option<u64>,
    ) -> Result<Written, WriteError> {
        let name = Name::new(kind::WEBHOOK, project, name);
        self.write(kind::WEBHOOK, project, &name.name, if_match, |current| {
            let mut stored = self.live(&name, current)?;
            stored.epoch += 1;
            json(&name, &stored).map(Change::Delete)
        })
        .await
    }

    /// Brings a deleted webhook back under its name, which must be free, with its uid, its secrets and its raised epoch.
    ///
    /// # Errors
    /// As [`Registry::write`]; [`WriteError::NotFound`] when no deleted webhook has that uid; [`WriteError::NameTaken`].
    pub async fn restore_webhook(
        &self,
        project: &str,
        uid: WebhookUid,
    ) -> Result<Arc<WebhookEntry>, WriteError> {
        self.refresh().await?;
        let deleted = self.deleted_webhooks(project)?;
        let Deleted { name, stored, .. } = deleted
            .into_iter()
            .find(|deleted| deleted.stored.uid == uid)
            .ok_or_else(|| not_found(kind::WEBHOOK, &format!("{project}/{uid}")))?;
        self.check_connector(&stored.settings).await?;
        let name = Name::new(kind::WEBHOOK, project, &name);
        let body = json(&name, &stored)?;
        let mut archived = None;
        for _ in 0..TRIES {
            let mut in_the_way = None;
            let edit = |current: Option<&Current>| {
                in_the_way = None;
                let Some(current) = current else {
                    return Ok(Change::Put(body.clone()));
                };
                let there = self.stored(&name, current)?;
                match (current.deleted, there.uid == uid) {
                    (false, true) => Ok(Change::Nothing),
                    (false, false) => Err(WriteError::NameTaken {
                        name: format!("{project}/{}", name.name),
                    }),
                    (true, false) if archived != Some(there.uid) => {
                        in_the_way = Some(there);
                        Ok(Change::Nothing)
                    }
                    (true, _) => Ok(Change::Put(body.clone())),
                }
            };
            let written = self.write(kind::WEBHOOK, project, &name.name, None, edit);
            let written = written.await?;
            if let Some(there) = in_the_way {
                self.archive(&name, &there).await?;
                archived = Some(there.uid);
                continue;
            }
            self.unarchive(project, uid).await?;
            let entry = WebhookEntry::new(&name, written.version, stored, &self.follow.sealer);
            return entry
                .map(Arc::new)
                .map_err(|problem| invalid(&name, &problem));
        }
        Err(contended(&name))
    }

    /// Sets the state of a webhook. Becoming inactive raises its epoch.
    ///
    /// # Errors
    /// As [`Registry::write`]; [`WriteError::NotFound`] when there is none.
    pub async fn set_state(
        &self,
        project: &str,
        name: &str,
        state: State,
        reason: Option<&str>,
        if_match: Option<u64>,
    ) -> Result<Written, WriteError> {
        let name = Name::new(kind::WEBHOOK, project, name);
        let now = self.write.clock.now();
        self.write(kind::WEBHOOK, project, &name.name, if_match, |current| {
            let mut stored = self.live(&name, current)?;
            if stored.settings.state == state {
                return Ok(Change::Nothing);
            }
            set_state(&mut stored, state, reason.unwrap_or_default(), now);
            json(&name, &stored).map(Change::Put)
        })
        .await
    }

    /// What an attempt may do: set the webhook inactive, if its epoch is still `epoch`. Says whether it did.
    ///
    /// # Errors
    /// As [`Registry::write`].
    pub async fn deactivate(
        &self,
        uid: WebhookUid,
        epoch: u64,
        reason: &str,
    ) -> Result<bool, WriteError> {
        let snapshot = self.refresh().await?;
        let Some(webhook) = snapshot.webhook(uid) else {
            return Ok(false);
        };
        let name = Name::new(kind::WEBHOOK, &webhook.project, &webhook.name);
        let now = self.write.clock.now();
        let written = self
            .write(kind::WEBHOOK, &name.project, &name.name, None, |current| {
                let Some(current) = current.filter(|c| !c.deleted) else {
                    return Ok(Change::Nothing);
                };
                let mut stored = self.stored(&name, current)?;
                let meant = stored.uid == uid
                    && stored.epoch == epoch
                    && stored.settings.state != State::Inactive;
                if !meant {
                    return Ok(Change::Nothing);
                }
                set_state(&mut stored, State::Inactive, reason, now);
                json(&name, &stored).map(Change::Put)
            })
            .await?;
        Ok(written.changed)
    }

    /// Writes the layout.
    ///
    /// # Errors
    /// As [`Registry::write`]; [`WriteError::Invalid`] when it has no partitions.
    pub async fn put_layout(
        &self,
        layout: &Layout,
        if_match: Option<u64>,
    ) -> Result<Written, WriteError> {
        let name = Name::new(kind::LAYOUT, SYSTEM, LAYOUT);
        if layout.partitions == 0 || layout.tier_partitions == 0 {
            return Err(invalid(
                &name,
                "a layout has at least one partition of each",
            ));
        }
        let body = json(&name, layout)?;
        self.write(kind::LAYOUT, SYSTEM, LAYOUT, if_match, |current| {
            Ok(match current.filter(|c| !c.deleted) {
                Some(live) if same::<Layout>(&live.body, &body) => Change::Nothing,
                _ => Change::Put(body.clone()),
            })
        })
        .await
    }

    /// The layout; where there is none yet, `wanted` becomes it.
    ///
    /// # Errors
    /// As [`Registry::put_layout`].
    pub async fn ensure_layout(&self, wanted: &Layout) -> Result<Arc<Layout>, WriteError> {
        if let Some(layout) = self.refresh().await?.layout() {
            return Ok(Arc::clone(layout));
        }
        match self.put_layout(wanted, Some(0)).await {
            // Somebody else was faster.
            Ok(_) | Err(WriteError::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
        let snapshot = self.refresh().await?;
        let layout = snapshot.layout().cloned();
        layout.ok_or_else(|| not_found(kind::LAYOUT, LAYOUT))
    }

    /// Deleted webhooks of a project; those whose uid is live again are not.
    pub(crate) fn deleted_webhooks(&self, project: &str) -> Result<Vec<Deleted>, WriteError> {
        let view = self.follow.view.lock();
        let mut found: Vec<Deleted> = Vec::new();
        for (name, current) in view.log.of_kind(kind::WEBHOOK, project) {
            if current.deleted {
                found.push(Deleted {
                    name: name.name.to_string(),
                    at: Millis(current.written_at_ms),
                    stored: self.stored(name, current)?,
                });
            }
        }
        for (name, current) in view.log.of_kind(kind::DELETED, project) {
            if current.deleted {
                continue;
            }
            let stored = self.stored(name, current)?;
            // Being put out of the way of its name, it stands in both for a moment.
            if !found.iter().any(|d| d.stored.uid == stored.uid) {
                found.push(Deleted {
                    name: stored.settings.name.to_string(),
                    at: Millis(current.written_at_ms),
                    stored,
                });
            }
        }
        found.retain(|d| view.snapshot.webhook(d.stored.uid).is_none());
        Ok(found)
    }

    /// Keeps a deleted webhook under its uid, before its name is used again.
    async fn archive(&self, name: &Name, stored: &StoredWebhook) -> Result<(), WriteError> {
        let body = json(name, stored)?;
        let uid = stored.uid.to_string();
        self.write(kind::DELETED, &name.project, &uid, None, |current| {
            Ok(match current.filter(|c| !c.deleted) {
                Some(live) if live.body == body => Change::Nothing,
                _ => Change::Put(body.clone()),
            })
        })
        .await
        .map(drop)
    }

    async fn unarchive(&self, project: &str, uid: WebhookUid) -> Result<(), WriteError> {
        self.write(kind::DELETED, project, &uid.to_string(), None, |current| {
            Ok(match current.filter(|c| !c.deleted) {
                Some(_) => Change::Delete(Bytes::new()),
                None => Change::Nothing,
            })
        })
        .await
        .map(drop)
    }

    /// A webhook that never was: a new uid, a new secret.
    fn make(
        &self,
        name: &Name,
        put: &PutWebhook,
        now: Millis,
    ) -> Result<(StoredWebhook, Option<SecretString>), WriteError> {
        let mut tail = [0; 10];
        let mut secret = Zeroizing::new([0; SECRET_BYTES]);
        for bytes in [tail.as_mut_slice(), secret.as_mut_slice()] {
            self.follow.sealer.random(bytes)?;
        }
        let millis = u64::try_from(now.0).unwrap_or(0);
        let uid = uuid::Builder::from_unix_timestamp_millis(millis, &tail).into_uuid();
        let scheme = put.settings.signature;
        let (sealer, owner) = (&self.follow.sealer, uid.to_string());
        let project = put.project.as_str();
        let row = new_secret(sealer, project, &owner, scheme, &[], secret.as_slice(), now)?;
        let stored = StoredWebhook {
            uid: WebhookUid(uid),
            epoch: 1,
            created_at_ms: now.0,
            state_reason: String::new(),
            state_at_ms: now.0,
            verified: None,
            secrets: serde_json::to_value([row]).map_err(|e| invalid(name, &e.to_string()))?,
            settings: put.settings.clone(),
        };
        Ok((stored, shown_secret(scheme, secret.as_slice())))
    }

    fn stored(&self, name: &Name, current: &Current) -> Result<StoredWebhook, WriteError> {
        read_stored(&current.body).map_err(|problem| invalid(name, &problem))
    }

    /// The webhook as it is stored, which must not be deleted.
    pub(crate) fn live(
        &self,
        name: &Name,
        current: Option<&Current>,
    ) -> Result<StoredWebhook, WriteError> {
        match current {
            Some(current) if !current.deleted => self.stored(name, current),
            _ => Err(not_found(
                kind::WEBHOOK,
                &format!("{}/{}", name.project, name.name),
            )),
        }
    }
}

pub(crate) fn json(name: &Name, value: &impl Serialize) -> Result<Bytes, WriteError> {
    serde_json::to_vec(value)
        .map(Bytes::from)
        .map_err(|error| invalid(name, &error.to_string()))
}

/// Whether what is stored says the same as `new`, however an earlier build may have spelled it.
pub(crate) fn same<T: Serialize + serde::de::DeserializeOwned>(stored: &[u8], new: &[u8]) -> bool {
    serde_json::from_slice::<T>(stored)
        .and_then(|value| serde_json::to_vec(&value))
        .is_ok_and(|again| again == new)
}

pub(crate) fn not_found(kind: &str, name: &str) -> WriteError {
    WriteError::NotFound {
        kind: kind.into(),
        name: name.into(),
    }
}

pub(crate) fn invalid(name: &Name, problem: &str) -> WriteError {
    WriteError::Invalid {
        kind: name.kind.to_string(),
        name: format!("{}/{}", name.project, name.name),
        problem: problem.into(),
    }
}

fn contended(name: &Name) -> WriteError {
    WriteError::Contended {
        kind: name.kind.to_string(),
        name: format!("{}/{}", name.project, name.name),
    }
}
