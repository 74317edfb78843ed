//! What happens to webhooks and projects beside being written: new secrets, deletion of a whole project, and what was deleted.

use std::sync::Arc;
use std::time::Duration;

use hookline_model::ids::{Slug, WebhookUid};
use hookline_model::resource::{StoredWebhook, Verified, Webhook};
use hookline_model::signature::Scheme;
use hookline_model::time::Millis;
use secrecy::SecretString;
use secrecy::zeroize::Zeroizing;

use crate::Registry;
use crate::entry::{SealedSecret, WebhookEntry, in_front, new_secret, shown_secret};
use crate::error::WriteError;
use crate::log::{Current, Name};
use crate::snapshot::kind;
use crate::typed::{NewSecret, SECRET_BYTES, invalid, json, not_found};
use crate::write::{Change, Written};

/// A webhook that was deleted and can be restored.
#[derive(Debug, Clone, PartialEq)]
pub struct DeletedWebhook {
    /// What it is restored by.
    pub uid: WebhookUid,
    /// The name that it had, and gets again if it is free.
    pub name: String,
    /// When it was made.
    pub created_at: Millis,
    /// When it was deleted.
    pub deleted_at: Millis,
    /// What it was.
    pub settings: Webhook,
}

/// A webhook with a new secret.
#[derive(Debug, Clone)]
pub struct SecretRotated {
    /// As it is now.
    pub webhook: Arc<WebhookEntry>,
    /// The new secret (`whsec_…`), which is shown once; `None` for a key pair, whose public key is shown always.
    pub new_secret: Option<SecretString>,
}

impl Registry {
    /// Gives a webhook a new secret. Those of before sign beside it for `overlap`, so that receivers can change over; at most
    /// [`SECRETS_MAX`](hookline_model::limits::SECRETS_MAX) sign, and the oldest end first.
    ///
    /// # Errors
    /// As [`Registry::write`]; [`WriteError::NotFound`] when there is none.
    pub async fn rotate_secret(
        &self,
        project: &str,
        name: &str,
        overlap: Duration,
        if_match: Option<u64>,
    ) -> Result<SecretRotated, WriteError> {
        let name = Name::new(kind::WEBHOOK, project, name);
        let now = self.write.clock.now();
        let mut result = None;
        let edit = |current: Option<&Current>| {
            let mut stored = self.live(&name, current)?;
            let scheme = stored.settings.signature;
            let secret = self.renew_secret(&name, &mut stored, scheme, overlap, now)?;
            let body = json(&name, &stored)?;
            result = Some((stored, secret));
            Ok(Change::Put(body))
        };
        let written = self.write(kind::WEBHOOK, project, &name.name, if_match, edit);
        let version = written.await?.version;
        let (stored, secret) = result.ok_or_else(|| not_found(kind::WEBHOOK, &name.name))?;
        let entry = WebhookEntry::new(&name, version, stored, &self.follow.sealer)
            .map_err(|problem| invalid(&name, &problem))?;
        Ok(SecretRotated {
            new_secret: shown_secret(entry.settings.signature, secret.as_slice()),
            webhook: Arc::new(entry),
        })
    }

    /// Puts a new secret of this scheme in front of those that a webhook has; they sign beside it for `overlap`. Returns what it is.
    pub(crate) fn renew_secret(
        &self,
        name: &Name,
        stored: &mut StoredWebhook,
        scheme: Scheme,
        overlap: Duration,
        now: Millis,
    ) -> Result<NewSecret, WriteError> {
        let sealer = &self.follow.sealer;
        let mut secret = Zeroizing::new([0; SECRET_BYTES]);
        sealer.random(secret.as_mut_slice())?;
        let before: Vec<SealedSecret> = serde_json::from_value(stored.secrets.take())
            .map_err(|error| invalid(name, &error.to_string()))?;
        let uid = stored.uid.to_string();
        let bytes = secret.as_slice();
        let new = new_secret(sealer, &name.project, &uid, scheme, &before, bytes, now)?;
        let secrets = in_front(new, before, now.plus(overlap), now);
        stored.secrets =
            serde_json::to_value(secrets).map_err(|error| invalid(name, &error.to_string()))?;
        Ok(secret)
    }

    /// Remembers that a webhook's endpoint has passed its verification. Says nothing where the webhook has become another meanwhile.
    ///
    /// # Errors
    /// As [`Registry::write`]; [`WriteError::NotFound`] when there is none.
    pub async fn set_verified(
        &self,
        project: &str,
        name: &str,
        verified: &Verified,
    ) -> Result<Written, WriteError> {
        let name = Name::new(kind::WEBHOOK, project, name);
        self.write(kind::WEBHOOK, project, &name.name, None, |current| {
            let mut stored = self.live(&name, current)?;
            let known = stored
                .verified
                .as_ref()
                .map(|known| (&known.part, known.rate));
            if stored.settings.verified_part() != verified.part
                || known == Some((&verified.part, verified.rate))
            {
                return Ok(Change::Nothing);
            }
            stored.verified = Some(verified.clone());
            json(&name, &stored).map(Change::Put)
        })
        .await
    }

    /// The deleted webhooks of a project, latest deletion first.
    ///
    /// # Errors
    /// When the registry cannot be read up to its end.
    pub async fn list_deleted(&self, project: &str) -> Result<Vec<DeletedWebhook>, WriteError> {
        self.refresh().await?;
        let found = self.deleted_webhooks(project)?;
        let mut all: Vec<_> = found
            .into_iter()
            .map(|deleted| DeletedWebhook {
                uid: deleted.stored.uid,
                name: deleted.name,
                created_at: Millis(deleted.stored.created_at_ms),
                deleted_at: deleted.at,
                settings: deleted.stored.settings,
            })
            .collect();
        all.sort_by_key(|deleted| (std::cmp::Reverse(deleted.deleted_at), deleted.uid));
        Ok(all)
    }

    /// Deletes a project that has no webhooks, and with it its keys, its connectors, its event types and its jobs. Keys go first: a failure on the way leaves a
    /// project that can be deleted again, never a key that would open a later project of the same id.
    ///
    /// # Errors
    /// As [`Registry::write`]; [`WriteError::NotFound`] when there is none, [`WriteError::InUse`] while it has webhooks.
    pub async fn delete_project(
        &self,
        id: &Slug,
        if_match: Option<u64>,
    ) -> Result<Written, WriteError> {
        let snapshot = self.refresh().await?;
        let Some(project) = snapshot.project(id.as_str()) else {
            return Err(not_found(kind::PROJECT, id.as_str()));
        };
        if let Some(expected) = if_match.filter(|version| *version != project.version) {
            return Err(WriteError::Conflict {
                kind: kind::PROJECT.into(),
                name: id.to_string(),
                expected,
                version: project.version,
            });
        }
        let webhooks = snapshot.webhooks().filter(|w| *w.project == *id.as_str());
        match webhooks.count() {
            0 => {}
            1 => return Err(in_use(id, "a webhook")),
            n => return Err(in_use(id, &format!("{n} webhooks"))),
        }
        let keys = snapshot
            .keys()
            .filter(|k| k.key.project.as_ref() == Some(id));
        for entry in keys {
            gone(self.revoke_key(Some(id), &entry.key.id, None).await)?;
        }
        for entry in snapshot.connectors(id.as_str()) {
            gone(self.delete_connector(id.as_str(), &entry.name, None).await)?;
        }
        for entry in snapshot.event_types(id.as_str()) {
            let name = &entry.settings.name;
            gone(self.delete_event_type(id.as_str(), name, None).await)?;
        }
        for entry in snapshot.jobs(id.as_str()) {
            gone(self.delete_job(id.as_str(), &entry.id).await)?;
        }
        self.write(
            kind::PROJECT,
            id.as_str(),
            id.as_str(),
            if_match,
            |current| match current.filter(|c| !c.deleted) {
                Some(live) => Ok(Change::Delete(live.body.clone())),
                None => Err(not_found(kind::PROJECT, id.as_str())),
            },
        )
        .await
    }
}

/// That somebody else has deleted it already is just as well.
fn gone(result: Result<Written, WriteError>) -> Result<(), WriteError> {
    match result {
        Ok(_) | Err(WriteError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

fn in_use(project: &Slug, what: &str) -> WriteError {
    WriteError::InUse {
        name: project.to_string(),
        what: what.into(),
    }
}
