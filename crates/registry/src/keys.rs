//! Keys to the API: made, changed, replaced, revoked. The text of a key is shown once and stored nowhere.

use std::sync::Arc;

use hookline_model::access::{self, KEY_RANDOM_BYTES, Role, StoredKey};
use hookline_model::ids::Slug;
use hookline_model::limits::KEYS_MAX;
use hookline_model::time::Millis;
use secrecy::SecretString;
use secrecy::zeroize::Zeroizing;

use crate::Registry;
use crate::entry::KeyEntry;
use crate::error::WriteError;
use crate::log::{Current, Name};
use crate::snapshot::{SYSTEM, kind};
use crate::typed::{invalid, json, not_found};
use crate::write::{Change, Written};

/// A key to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewKey {
    /// The only project it shall see; `None`: all.
    pub project: Option<Slug>,
    /// What its bearer may do.
    pub role: Role,
    /// Free text.
    pub title: String,
    /// From when on it is refused; `None`: never.
    pub expires_at: Option<Millis>,
}

/// A key that was made.
#[derive(Debug, Clone)]
pub struct KeyMade {
    /// As it is now.
    pub entry: Arc<KeyEntry>,
    /// The text that its bearer presents. It is shown once.
    pub text: SecretString,
}

/// What is to be different about a key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyChange {
    /// Its title.
    pub title: Option<String>,
    /// When it ends; `Some(None)`: never.
    pub expires_at: Option<Option<Millis>>,
}

impl Registry {
    /// Makes a key.
    ///
    /// # Errors
    /// As [`Registry::write`]; [`WriteError::NotFound`] when there is no such project, [`WriteError::Invalid`] when it has too many keys.
    pub async fn create_key(&self, new: &NewKey) -> Result<KeyMade, WriteError> {
        let snapshot = self.refresh().await?;
        let project = new.project.as_ref().map_or(SYSTEM, Slug::as_str);
        if new.project.is_some() && snapshot.project(project).is_none() {
            return Err(not_found(kind::PROJECT, project));
        }
        let of_project = snapshot.keys().filter(|k| k.key.project == new.project);
        if of_project.count() >= KEYS_MAX {
            let name = Name::new(kind::KEY, project, "");
            let problem = format!("a project has at most {KEYS_MAX} keys; revoke some");
            return Err(invalid(&name, &problem));
        }
        let mut random = Zeroizing::new([0; KEY_RANDOM_BYTES]);
        self.follow.sealer.random(random.as_mut_slice())?;
        let (text, read) = access::make_key(&random);
        let key = StoredKey {
            id: read.id,
            project: new.project.clone(),
            role: new.role,
            title: new.title.clone(),
            hash: read.hash,
            hint: read.hint,
            created_at_ms: self.write.clock.now().0,
            expires_at_ms: new.expires_at.map(|at| at.0),
        };
        let name = Name::new(kind::KEY, project, &key.id);
        let body = json(&name, &key)?;
        let written = self.write(kind::KEY, project, &key.id, Some(0), |_| {
            Ok(Change::Put(body.clone()))
        });
        let version = written.await?.version;
        Ok(KeyMade {
            entry: Arc::new(KeyEntry { version, key }),
            text: text.into(),
        })
    }

    /// Changes title or end of a key.
    ///
    /// # Errors
    /// As [`Registry::write`]; [`WriteError::NotFound`] when there is none.
    pub async fn change_key(
        &self,
        project: Option<&Slug>,
        id: &str,
        change: &KeyChange,
        if_match: Option<u64>,
    ) -> Result<Arc<KeyEntry>, WriteError> {
        let project = project.map_or(SYSTEM, Slug::as_str);
        let name = Name::new(kind::KEY, project, id);
        let mut changed = None;
        let edit = |current: Option<&Current>| {
            let mut key = live(&name, current)?;
            if let Some(title) = &change.title {
                key.title.clone_from(title);
            }
            if let Some(at) = change.expires_at {
                key.expires_at_ms = at.map(|at| at.0);
            }
            let body = json(&name, &key)?;
            changed = Some(key);
            Ok(match current {
                Some(current) if current.body == body => Change::Nothing,
                _ => Change::Put(body),
            })
        };
        let written = self.write(kind::KEY, project, id, if_match, edit).await?;
        let key = changed.ok_or_else(|| no_key(&name))?;
        Ok(Arc::new(KeyEntry {
            version: written.version,
            key,
        }))
    }

    /// Makes a key like this one, which is accepted until `old_ends` beside it, or until its own end if that comes sooner.
    ///
    /// # Errors
    /// As [`Registry::create_key`] and [`Registry::change_key`]; when only the second step fails, the new key exists and nobody has seen it.
    pub async fn rotate_key(
        &self,
        project: Option<&Slug>,
        id: &str,
        old_ends: Millis,
    ) -> Result<KeyMade, WriteError> {
        let snapshot = self.refresh().await?;
        let old = snapshot
            .key(id)
            .filter(|entry| entry.key.project.as_ref() == project)
            .ok_or_else(|| {
                no_key(&Name::new(
                    kind::KEY,
                    project.map_or(SYSTEM, Slug::as_str),
                    id,
                ))
            })?;
        let made = self
            .create_key(&NewKey {
                project: project.cloned(),
                role: old.key.role,
                title: old.key.title.clone(),
                expires_at: old.key.expires_at_ms.map(Millis),
            })
            .await?;
        let ends = old
            .key
            .expires_at_ms
            .map_or(old_ends, |at| old_ends.min(Millis(at)));
        let change = KeyChange {
            title: None,
            expires_at: Some(Some(ends)),
        };
        self.change_key(project, id, &change, None).await?;
        Ok(made)
    }

    /// Revokes a key: whoever reads the registry refuses it from then on.
    ///
    /// # Errors
    /// As [`Registry::write`]; [`WriteError::NotFound`] when there is none.
    pub async fn revoke_key(
        &self,
        project: Option<&Slug>,
        id: &str,
        if_match: Option<u64>,
    ) -> Result<Written, WriteError> {
        let project = project.map_or(SYSTEM, Slug::as_str);
        let name = Name::new(kind::KEY, project, id);
        self.write(kind::KEY, project, id, if_match, |current| {
            let key = live(&name, current)?;
            json(&name, &key).map(Change::Delete)
        })
        .await
    }
}

fn live(name: &Name, current: Option<&Current>) -> Result<StoredKey, WriteError> {
    let current = current.filter(|c| !c.deleted).ok_or_else(|| no_key(name))?;
    serde_json::from_slice(&current.body).map_err(|error| invalid(name, &error.to_string()))
}

fn no_key(name: &Name) -> WriteError {
    not_found(kind::KEY, &name.name)
}
