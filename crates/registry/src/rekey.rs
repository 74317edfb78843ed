//! Replacing the key that secrets are sealed with, while everything runs.
//!
//! A process has several keys for a while: the first seals, the others only open. Whoever sees that the registry is not yet under its first key
//! says so in the registry, the old key being retired and the canary sealed anew, and then seals again what is under other keys, record by
//! record, by checked writes. Every process does that, at times of its own: what one has done the others find done. One whose first key is
//! retired (it was not told of the new one yet) leaves all as it is, so that two of them never undo each other's work.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use hookline_model::time::Millis;
use secrecy::ExposeSecret as _;
use serde::Deserialize;
use serde_json::Value;

use crate::connectors::CREDENTIALS;
use crate::entry::{SIGNING, SealedSecret};
use crate::error::{OpenError, WriteError};
use crate::log::{Current, Name};
use crate::seal::{KeyId, Place, SealError, sealed_with};
use crate::snapshot::{SYSTEM, kind};
use crate::typed::invalid;
use crate::write::Change;
use crate::{REKEY_EVERY, Registry};

/// The name of the canary, and what is sealed in it.
const CANARY: &str = "canary";
/// Names of the records that say which keys are no longer to seal anything begin so.
const RETIRED: &str = "retired-";
/// Between two records: they are written beside everything else that is written to the registry.
const PAUSE: Duration = Duration::from_millis(20);
/// Kinds whose records hold secrets, in the form of webhooks.
const KINDS: [&str; 3] = [kind::WEBHOOK, kind::DELETED, kind::CONNECTOR];

const CANARY_PLACE: Place<'_> = Place {
    project: SYSTEM,
    owner: CANARY,
    field: "canary",
    version: 1,
};

/// The part of a record that is looked at.
#[derive(Deserialize)]
struct Sealed {
    #[serde(default)]
    secrets: Vec<SealedSecret>,
}

/// Which records hold secrets under other keys than the first, kept up with the log: looking through all of them takes long.
#[derive(Debug, Default)]
pub(crate) struct UnderOldKeys(BTreeMap<Name, BTreeSet<KeyId>>);

impl UnderOldKeys {
    /// Takes over what `name` means now. Deleted records, which can be restored, count; what cannot be read is told where it is used.
    pub(crate) fn update(&mut self, name: &Name, current: Option<&Current>, first: KeyId) {
        if !KINDS.contains(&&*name.kind) {
            return;
        }
        let sealed = current.and_then(|c| serde_json::from_slice::<Sealed>(&c.body).ok());
        let secrets = sealed.iter().flat_map(|sealed| &sealed.secrets);
        let keys = secrets.filter_map(|secret| sealed_with(&secret.sealed).ok());
        let keys: BTreeSet<_> = keys.filter(|key| *key != first).collect();
        if keys.is_empty() {
            self.0.remove(name);
        } else {
            self.0.insert(name.clone(), keys);
        }
    }
}

/// What was told already.
#[derive(Default)]
struct Told {
    under_way: bool,
    retired: bool,
    /// Records that cannot be sealed again.
    failed: HashSet<Name>,
}

impl Registry {
    /// How many records hold secrets that are sealed with another key than the first. An old key may be removed from all processes when this is 0.
    #[must_use]
    pub fn under_old_keys(&self) -> usize {
        self.follow.view.lock().under_old_keys.0.len()
    }

    /// Looks whether the keys are those that the registry's secrets are sealed with; where nobody has said so, the first one is.
    pub(crate) async fn check_keys(&self) -> Result<(), OpenError> {
        let topic = &self.follow.topic;
        if self.canary().is_none() {
            let write = async {
                let body = Bytes::from(self.sealed_canary()?);
                self.write(kind::KEK, SYSTEM, CANARY, None, |current| {
                    Ok(match current {
                        Some(current) if !current.deleted => Change::Nothing,
                        _ => Change::Put(body.clone()),
                    })
                })
                .await
            };
            write.await.map_err(|error| OpenError::Canary {
                topic: topic.clone(),
                source: Box::new(error),
            })?;
        }
        let canary = self.canary().unwrap_or_default();
        let opened = self.follow.sealer.open(&CANARY_PLACE, &canary);
        opened.map_err(|source| OpenError::WrongKey {
            topic: topic.clone(),
            ours: self.follow.sealer.key_id(),
            source,
        })?;
        let mut missing: BTreeMap<KeyId, usize> = BTreeMap::new();
        for keys in self.stale().into_values() {
            for key in keys {
                if !self.follow.sealer.has(key) {
                    *missing.entry(key).or_default() += 1;
                }
            }
        }
        match missing.into_iter().next() {
            None => Ok(()),
            Some((key, count)) => Err(OpenError::MissingKey {
                topic: topic.clone(),
                count,
                key,
            }),
        }
    }

    pub(crate) async fn rekey_for_ever(&self) -> Infallible {
        let mut told = Told::default();
        loop {
            // Not all processes at the same time: what one has done, the others need not do.
            tokio::time::sleep(REKEY_EVERY.mul_f64(0.5 + fastrand::f64())).await;
            if let Err(error) = self.rekey(&mut told).await {
                tracing::warn!(error = %error, "what an old secrets key has sealed was not sealed again; trying on");
            }
        }
    }

    /// One round: everything that is under another key than the first.
    async fn rekey(&self, told: &mut Told) -> Result<(), WriteError> {
        if !self.first_key_holds(told).await? {
            return Ok(());
        }
        if self.under_old_keys() == 0 {
            if std::mem::take(&mut told.under_way) {
                tracing::info!(
                    key = %self.follow.sealer.key_id(),
                    "all secrets are sealed with the first secrets key; the others can be removed"
                );
            }
            return Ok(());
        }
        for (name, keys) in self.stale() {
            if keys.iter().any(|key| !self.follow.sealer.has(*key)) {
                self.tell_failure(told, &name, &"this process does not have its key");
                continue;
            }
            if !std::mem::replace(&mut told.under_way, true) {
                tracing::info!(
                    key = %self.follow.sealer.key_id(),
                    records = self.under_old_keys(),
                    "secrets are being sealed again, with the first secrets key"
                );
            }
            match self.seal_again(&name).await {
                // One damaged record keeps no other waiting.
                Err(WriteError::Seal(error)) => self.tell_failure(told, &name, &error),
                other => other?,
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    fn tell_failure(&self, told: &mut Told, name: &Name, why: &dyn std::fmt::Display) {
        if told.failed.insert(name.clone()) {
            let Name {
                kind,
                project,
                name,
            } = name;
            tracing::error!(record = %format_args!("{kind} {project}/{name}"), why = %why, "a secret cannot be sealed again");
        }
    }

    /// Whether the registry is under the first key of this process; where it is under another one that this process has, it is from now on,
    /// unless the first one is retired.
    async fn first_key_holds(&self, told: &mut Told) -> Result<bool, WriteError> {
        let sealer = &self.follow.sealer;
        let first = sealer.key_id();
        let holds = sealed_with(&self.canary().unwrap_or_default())?;
        if holds == first {
            return Ok(true);
        }
        let retired = |key: KeyId| {
            let name = Name::new(kind::KEK, SYSTEM, &format!("{RETIRED}{key}"));
            self.follow.view.lock().log.current(&name).is_some()
        };
        if retired(first) || !sealer.has(holds) {
            if !std::mem::replace(&mut told.retired, true) {
                tracing::warn!(
                    key = %first, registry = %holds,
                    "this process seals with a key that the registry has left behind: give it the keys of the others, in their order"
                );
            }
            return Ok(false);
        }
        let name = format!("{RETIRED}{holds}");
        self.write(kind::KEK, SYSTEM, &name, None, |current| {
            Ok(match current {
                Some(_) => Change::Nothing,
                None => Change::Put(Bytes::from_static(b"retired")),
            })
        })
        .await?;
        let body = Bytes::from(self.sealed_canary()?);
        self.write(kind::KEK, SYSTEM, CANARY, None, |current| {
            let under = current.map(|c| sealed_with(&String::from_utf8_lossy(&c.body)));
            Ok(match under.transpose()? {
                // Another process was faster.
                Some(key) if key != holds => Change::Nothing,
                _ => Change::Put(body.clone()),
            })
        })
        .await?;
        tracing::info!(old = %holds, new = %first, "the registry has a new secrets key");
        Ok(sealed_with(&self.canary().unwrap_or_default())? == first)
    }

    fn canary(&self) -> Option<String> {
        let name = Name::new(kind::KEK, SYSTEM, CANARY);
        let view = self.follow.view.lock();
        let current = view.log.current(&name).filter(|c| !c.deleted);
        current.map(|c| String::from_utf8_lossy(&c.body).into_owned())
    }

    fn sealed_canary(&self) -> Result<String, SealError> {
        let sealer = &self.follow.sealer;
        sealer.seal(&CANARY_PLACE, CANARY.as_bytes())
    }

    /// Records with secrets under other keys than the first, and under which.
    fn stale(&self) -> BTreeMap<Name, BTreeSet<KeyId>> {
        self.follow.view.lock().under_old_keys.0.clone()
    }

    async fn seal_again(&self, name: &Name) -> Result<(), WriteError> {
        let now = self.write.clock.now();
        self.write(&name.kind, &name.project, &name.name, None, |current| {
            let Some(current) = current else {
                return Ok(Change::Nothing);
            };
            let body = self.sealed_again(name, current, now)?;
            Ok(body.map_or(Change::Nothing, Change::Again))
        })
        .await
        .map(drop)
    }

    /// A record with all secrets under the first key; `None` if they are. Those that no longer sign are left out, and all else stays as it is,
    /// what only newer versions know included.
    fn sealed_again(
        &self,
        name: &Name,
        current: &Current,
        now: Millis,
    ) -> Result<Option<Bytes>, WriteError> {
        let unreadable = |error: serde_json::Error| invalid(name, &error.to_string());
        if current.body.is_empty() {
            return Ok(None);
        }
        let sealer = &self.follow.sealer;
        let mut record: Value = serde_json::from_slice(&current.body).map_err(unreadable)?;
        let (owner, field) = match &*name.kind {
            kind::CONNECTOR => (name.name.to_string(), CREDENTIALS),
            _ => (
                record["uid"].as_str().unwrap_or_default().to_owned(),
                SIGNING,
            ),
        };
        let secrets: Vec<SealedSecret> =
            serde_json::from_value(record["secrets"].take()).map_err(unreadable)?;
        let under_first =
            |secret: &SealedSecret| sealed_with(&secret.sealed) == Ok(sealer.key_id());
        if secrets.iter().all(under_first) {
            return Ok(None);
        }
        let live = secrets.into_iter().filter(|secret| secret.live(now));
        let again = live.map(|secret| {
            if under_first(&secret) {
                return Ok(secret);
            }
            let place = Place {
                project: &name.project,
                owner: &owner,
                field,
                version: secret.version,
            };
            let opened = sealer.open(&place, &secret.sealed)?;
            let sealed = sealer.seal(&place, opened.expose_secret())?;
            Ok(SealedSecret { sealed, ..secret })
        });
        let again = again.collect::<Result<Vec<_>, SealError>>()?;
        record["secrets"] = serde_json::to_value(again).map_err(unreadable)?;
        let body = serde_json::to_vec(&record).map_err(unreadable)?;
        Ok(Some(body.into()))
    }
}

#[cfg(test)]
mod tests;
