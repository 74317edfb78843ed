//! Connectors: credentials that webhooks use by name. The secret of each is sealed, opened for requests only, and shown to nobody.

use std::fmt;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use hookline_model::ids::Slug;
use hookline_model::limits::CONNECTORS_MAX;
use hookline_model::resource::{
    ConnectorSpec, ConnectorType, Secret, Webhook, read_stored_connector,
};
use hookline_model::time::Millis;
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::Registry;
use crate::entry::{SealedSecret, WebhookEntry};
use crate::error::WriteError;
use crate::log::{Current, Name};
use crate::seal::{Place, SealError, Sealer};
use crate::snapshot::{Snapshot, kind};
use crate::typed::{invalid, json, not_found};
use crate::write::{Change, Written};

/// The field of [`Place`] for secrets of connectors.
pub(crate) const CREDENTIALS: &str = "credentials";

/// As it stands in the log; with one secret, in the form in which webhooks have theirs.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Stored {
    created_at_ms: i64,
    secrets: [SealedSecret; 1],
    settings: Map<String, Value>,
}

/// A connector as it is at one version.
pub struct ConnectorEntry {
    /// The project it belongs to.
    pub project: Arc<str>,
    /// Unique in the project.
    pub name: Arc<str>,
    /// The version of its record.
    pub version: u64,
    /// When it was made.
    pub created_at: Millis,
    /// When it got its secret.
    pub secret_at: Millis,
    /// Everything of it that is no secret.
    pub settings: ConnectorSpec,
    sealed: Option<(SealedSecret, Arc<Sealer>)>,
    opened: OnceLock<Result<Secret, SealError>>,
}

impl ConnectorEntry {
    pub(crate) fn read(
        name: &Name,
        current: &Current,
        sealer: &Arc<Sealer>,
    ) -> Result<Self, String> {
        let stored = serde_json::from_slice(&current.body).map_err(|e| e.to_string())?;
        Self::new(name, current.version, stored, sealer)
    }

    fn new(
        name: &Name,
        version: u64,
        stored: Stored,
        sealer: &Arc<Sealer>,
    ) -> Result<Self, String> {
        let settings = read_stored_connector(&stored.settings).map_err(|errors| {
            let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
            errors.join("; ")
        })?;
        let [sealed] = stored.secrets;
        Ok(Self {
            project: Arc::clone(&name.project),
            name: Arc::clone(&name.name),
            version,
            created_at: Millis(stored.created_at_ms),
            secret_at: Millis(sealed.created_at_ms),
            settings,
            sealed: Some((sealed, Arc::clone(sealer))),
            opened: OnceLock::new(),
        })
    }

    /// One that is not saved yet, to try an endpoint with; `None` where its secret is not given.
    #[must_use]
    pub fn unsaved(spec: &ConnectorSpec) -> Option<Self> {
        let secret = spec.secret.clone()?;
        Some(Self {
            project: spec.project.as_str().into(),
            name: spec.name.as_str().into(),
            version: 0,
            created_at: Millis(0),
            secret_at: Millis(0),
            settings: spec.clone(),
            sealed: None,
            opened: OnceLock::from(Ok(secret)),
        })
    }

    /// What its requests carry. Opened once, when first asked for.
    ///
    /// # Errors
    /// When it is sealed with another key or damaged.
    pub fn secret(&self) -> Result<&Secret, SealError> {
        let open = || match &self.sealed {
            Some((sealed, sealer)) => open(sealer, &self.project, &self.name, sealed),
            None => Err(SealError::Malformed),
        };
        self.opened.get_or_init(open).as_ref().map_err(Clone::clone)
    }
}

impl fmt::Debug for ConnectorEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectorEntry")
            .field("version", &self.version)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

fn place<'a>(project: &'a str, name: &'a str, version: u64) -> Place<'a> {
    Place {
        project,
        owner: name,
        field: CREDENTIALS,
        version,
    }
}

fn open(
    sealer: &Sealer,
    project: &str,
    name: &str,
    sealed: &SealedSecret,
) -> Result<Secret, SealError> {
    let opened = sealer.open(&place(project, name, sealed.version), &sealed.sealed)?;
    let text = std::str::from_utf8(opened.expose_secret()).map_err(|_| SealError::Damaged)?;
    Ok(text.into())
}

/// A connector that was written.
#[derive(Debug, Clone)]
pub struct ConnectorWritten {
    /// As it is now.
    pub connector: Arc<ConnectorEntry>,
    /// Version, offset, and whether anything changed.
    pub written: Written,
    /// It did not exist before.
    pub created: bool,
}

impl Snapshot {
    /// The connector that a webhook of these settings uses; `None` also where it names one that there is not.
    #[must_use]
    pub fn connector_of(&self, settings: &Webhook) -> Option<&Arc<ConnectorEntry>> {
        let name = settings.connector.as_ref()?;
        self.connector(settings.project.as_str(), name.as_str())
    }

    /// The webhooks that use a connector.
    pub fn users_of<'a>(
        &'a self,
        project: &'a str,
        connector: &'a str,
    ) -> impl Iterator<Item = &'a Arc<WebhookEntry>> {
        let of_project = self.webhooks().filter(move |w| *w.project == *project);
        of_project.filter(move |w| {
            let used = w.settings.connector.as_ref();
            used.is_some_and(|used| used.as_str() == connector)
        })
    }
}

impl Registry {
    /// Writes a connector, or makes it. Where no secret is given, one of the same type keeps its own. The same content again writes nothing.
    ///
    /// # Errors
    /// As [`Registry::write`]; [`WriteError::NotFound`] when there is no such project and none is to be made; [`WriteError::NoSecret`] when
    /// there is no secret to keep; [`WriteError::Invalid`] when the project has too many.
    pub async fn put_connector(
        &self,
        spec: &ConnectorSpec,
        make_project: bool,
        if_match: Option<u64>,
    ) -> Result<ConnectorWritten, WriteError> {
        let (project, name) = (spec.project.as_str(), spec.name.as_str());
        if make_project {
            self.ensure_project(&spec.project).await?;
        }
        let snapshot = self.refresh().await?;
        if snapshot.project(project).is_none() {
            return Err(not_found(kind::PROJECT, project));
        }
        let name = Name::new(kind::CONNECTOR, project, name);
        if snapshot.connector(project, &name.name).is_none()
            && snapshot.connectors(project).count() >= CONNECTORS_MAX
        {
            let problem = format!("a project has at most {CONNECTORS_MAX} connectors");
            return Err(invalid(&name, &problem));
        }
        let now = self.write.clock.now();
        let mut result = None;
        let edit = |current: Option<&Current>| {
            let live = current.filter(|c| !c.deleted);
            let old = live.map(|current| self.stored_connector(&name, current));
            let old = old.transpose()?;
            let stored = self.with_secret(&name, spec, old.as_ref(), now)?;
            let before = old.map(|old| json(&name, &old)).transpose()?;
            let after = json(&name, &stored)?;
            result = Some((stored, before.is_none()));
            Ok(match before {
                Some(before) if before == after => Change::Nothing,
                _ => Change::Put(after),
            })
        };
        let written = self.write(kind::CONNECTOR, project, &name.name, if_match, edit);
        let written = written.await?;
        let (stored, created) = result.ok_or_else(|| not_found(kind::CONNECTOR, &name.name))?;
        let entry = ConnectorEntry::new(&name, written.version, stored, &self.follow.sealer);
        Ok(ConnectorWritten {
            connector: Arc::new(entry.map_err(|problem| invalid(&name, &problem))?),
            written,
            created,
        })
    }

    /// Deletes a connector that no webhook uses.
    ///
    /// # Errors
    /// As [`Registry::write`]; [`WriteError::NotFound`] when there is none; [`WriteError::ConnectorInUse`].
    pub async fn delete_connector(
        &self,
        project: &str,
        name: &str,
        if_match: Option<u64>,
    ) -> Result<Written, WriteError> {
        let snapshot = self.refresh().await?;
        let mut users: Vec<_> = snapshot.users_of(project, name).collect();
        if !users.is_empty() {
            users.sort_by(|a, b| a.name.cmp(&b.name));
            return Err(WriteError::ConnectorInUse {
                name: name.to_owned(),
                users: users
                    .iter()
                    .map(|webhook| webhook.name.to_string())
                    .collect(),
            });
        }
        let name = Name::new(kind::CONNECTOR, project, name);
        self.write(
            kind::CONNECTOR,
            project,
            &name.name,
            if_match,
            |current| match current.filter(|c| !c.deleted) {
                Some(_) => Ok(Change::Delete(Bytes::new())),
                None => Err(not_found(
                    kind::CONNECTOR,
                    &format!("{project}/{}", name.name),
                )),
            },
        )
        .await
    }

    /// Refuses settings that name a connector that there is not.
    pub(crate) async fn check_connector(&self, settings: &Webhook) -> Result<(), WriteError> {
        let Some(name) = &settings.connector else {
            return Ok(());
        };
        match self.refresh().await?.connector_of(settings) {
            Some(_) => Ok(()),
            None => Err(WriteError::NoConnector {
                name: Slug::to_string(name),
            }),
        }
    }

    fn stored_connector(&self, name: &Name, current: &Current) -> Result<Stored, WriteError> {
        serde_json::from_slice(&current.body).map_err(|error| invalid(name, &error.to_string()))
    }

    /// What `spec` asks for, with the secret that it gives or `old` has.
    fn with_secret(
        &self,
        name: &Name,
        spec: &ConnectorSpec,
        old: Option<&Stored>,
        now: Millis,
    ) -> Result<Stored, WriteError> {
        let sealer = &self.follow.sealer;
        let settings = match spec.to_document() {
            Value::Object(settings) => settings,
            // Documents are objects.
            _ => Map::new(),
        };
        let known = old.and_then(|old| Some((old, read_stored_connector(&old.settings).ok()?)));
        let same_type = known
            .filter(|(_, known)| known.of.shares_secret(&spec.of))
            .map(|(old, _)| old);
        let keeps = same_type.filter(|old| match &spec.secret {
            None => true,
            Some(given) => {
                let known = open(sealer, &name.project, &name.name, &old.secrets[0]);
                known.is_ok_and(|known| known == *given)
            }
        });
        let secret = match (keeps, &spec.secret) {
            (Some(old), _) => old.secrets[0].clone(),
            (None, Some(given)) => {
                let version = old.map_or(0, |old| old.secrets[0].version) + 1;
                let place = place(&name.project, &name.name, version);
                SealedSecret {
                    version,
                    created_at_ms: now.0,
                    expires_at_ms: None,
                    scheme: None,
                    sealed: sealer.seal(&place, given.expose().as_bytes())?,
                }
            }
            (None, None) => {
                return Err(WriteError::NoSecret {
                    field: ConnectorType::secret_key(&spec.of),
                });
            }
        };
        Ok(Stored {
            created_at_ms: old.map_or(now.0, |old| old.created_at_ms),
            secrets: [secret],
            settings,
        })
    }
}
