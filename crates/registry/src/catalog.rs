//! Changes to the catalog of a project: its event types, one by one or those of a preset.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use hookline_model::catalog::{self, Load};
use hookline_model::ids::Slug;
use hookline_model::limits::EVENT_TYPES_MAX;
use hookline_model::presets::Preset;
use hookline_model::resource::{EventTypeSpec, FieldError};

use crate::Registry;
use crate::entry::EventTypeEntry;
use crate::error::WriteError;
use crate::log::{Current, Name};
use crate::snapshot::{Snapshot, kind};
use crate::typed::{invalid, json, not_found, same};
use crate::write::{Change, Written};

/// An event type that was written.
#[derive(Debug, Clone)]
pub struct EventTypeWritten {
    /// As it is now.
    pub event_type: Arc<EventTypeEntry>,
    /// Version, offset, and whether anything changed.
    pub written: Written,
    /// It did not exist before.
    pub created: bool,
}

/// Which event types of a preset are loaded. Those that are there and not archived are left alone in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CatalogScope {
    /// Those that the project never had: what was deleted or archived stays so, however often a project is written.
    New,
    /// All: what was deleted is made anew, what was archived is taken out of the archive.
    All,
}

/// What loading a preset's catalog did: how many event types of each sort.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CatalogLoaded {
    /// Made.
    pub created: usize,
    /// Taken out of the archive.
    pub revived: usize,
    /// Left alone.
    pub kept: usize,
}

impl Snapshot {
    /// What stands against an event: in a strict project everything that its catalog does not describe, else nothing. `json` says whether
    /// the data is JSON.
    #[must_use]
    pub fn refusals(
        &self,
        project: &str,
        event_type: &str,
        data: &[u8],
        json: bool,
    ) -> Vec<FieldError> {
        if self.project(project).is_none_or(|p| !p.settings.strict) {
            return Vec::new();
        }
        let data = match data {
            [] => Ok(serde_json::Value::Null),
            data if json => serde_json::from_slice(data),
            data => Ok(String::from_utf8_lossy(data).into()),
        };
        match data {
            Ok(data) => {
                let found = self.event_type(project, event_type);
                catalog::refusals(event_type, found.map(|entry| &entry.settings), &data)
            }
            Err(error) => vec![FieldError::new("data", error.to_string())],
        }
    }
}

impl Snapshot {
    /// Where in an event of that type the platform's status stands: as the preset says that the event type follows, else that of the project.
    #[must_use]
    pub fn status_path(&self, project: &str, event_type: &str) -> Option<&'static str> {
        let by_type = self.event_type(project, event_type);
        let by_type = by_type.and_then(|entry| entry.settings.preset);
        let by_project = self.project(project).and_then(|p| p.settings.preset);
        let mut presets = by_type.into_iter().chain(by_project);
        presets.find_map(|preset| preset.definition().status_path.as_deref())
    }
}

impl Registry {
    /// Writes an event type, or makes it. The same content again writes nothing.
    ///
    /// # Errors
    /// As [`Registry::write`]; [`WriteError::NotFound`] when there is no such project and none is to be made; [`WriteError::Invalid`] when
    /// the project has too many.
    pub async fn put_event_type(
        &self,
        spec: &EventTypeSpec,
        make_project: bool,
        if_match: Option<u64>,
    ) -> Result<EventTypeWritten, WriteError> {
        let project = spec.project.as_str();
        if make_project {
            self.ensure_project(&spec.project).await?;
        }
        let snapshot = self.refresh().await?;
        if snapshot.project(project).is_none() {
            return Err(not_found(kind::PROJECT, project));
        }
        let name = Name::new(kind::EVENT_TYPE, project, &spec.name);
        if snapshot.event_type(project, &spec.name).is_none()
            && snapshot.event_types(project).count() >= EVENT_TYPES_MAX
        {
            let problem = format!("a project has at most {EVENT_TYPES_MAX} event types");
            return Err(invalid(&name, &problem));
        }
        let body = json(&name, spec)?;
        let mut created = false;
        let written = self
            .write(kind::EVENT_TYPE, project, &spec.name, if_match, |current| {
                let live = current.filter(|c| !c.deleted);
                created = live.is_none();
                Ok(match live {
                    Some(live) if same::<EventTypeSpec>(&live.body, &body) => Change::Nothing,
                    _ => Change::Put(body.clone()),
                })
            })
            .await?;
        Ok(EventTypeWritten {
            event_type: Arc::new(EventTypeEntry {
                version: written.version,
                settings: spec.clone(),
            }),
            written,
            created,
        })
    }

    /// Deletes an event type from the catalog. Events of it are delivered as before.
    ///
    /// # Errors
    /// As [`Registry::write`]; [`WriteError::NotFound`] when there is none.
    pub async fn delete_event_type(
        &self,
        project: &str,
        name: &str,
        if_match: Option<u64>,
    ) -> Result<Written, WriteError> {
        self.write(
            kind::EVENT_TYPE,
            project,
            name,
            if_match,
            |current| match current.filter(|c| !c.deleted) {
                Some(live) => Ok(Change::Delete(live.body.clone())),
                None => {
                    let name = format!("{project}/{name}");
                    Err(not_found(kind::EVENT_TYPE, &name))
                }
            },
        )
        .await
    }

    /// Writes the event types of a preset's catalog into a project, as far as `scope` says. What others write at the same time wins.
    ///
    /// # Errors
    /// As [`Registry::write`]; [`WriteError::NotFound`] when there is no such project. Those written before stay written.
    pub async fn load_catalog(
        &self,
        project: &Slug,
        preset: Preset,
        scope: CatalogScope,
    ) -> Result<CatalogLoaded, WriteError> {
        let snapshot = self.refresh().await?;
        if snapshot.project(project.as_str()).is_none() {
            return Err(not_found(kind::PROJECT, project.as_str()));
        }
        let existing = |name: &str| snapshot.event_type(project.as_str(), name);
        let steps = catalog::load(project, preset, |name| {
            existing(name).map(|entry| &entry.settings)
        });
        let mut loaded = CatalogLoaded::default();
        for step in steps {
            let count = match (step, scope) {
                (Load::Create(spec), _) if self.create(&spec, scope).await? => &mut loaded.created,
                (Load::Revive(spec), CatalogScope::All) if self.revive(&spec).await? => {
                    &mut loaded.revived
                }
                _ => &mut loaded.kept,
            };
            *count += 1;
        }
        Ok(loaded)
    }

    /// Writes an event type where there is none, and in scope `New` never was one. Says whether it did.
    async fn create(&self, spec: &EventTypeSpec, scope: CatalogScope) -> Result<bool, WriteError> {
        let name = Name::new(kind::EVENT_TYPE, spec.project.as_str(), &spec.name);
        let stays = |current: Option<&Current>| {
            current.is_some_and(|current| !current.deleted || scope == CatalogScope::New)
        };
        // A project may be written again and again: what it once had costs no question to the broker.
        if stays(self.follow.view.lock().log.current(&name)) {
            return Ok(false);
        }
        let body = json(&name, spec)?;
        let edit = |current: Option<&Current>| {
            Ok(match stays(current) {
                true => Change::Nothing,
                false => Change::Put(body.clone()),
            })
        };
        let written = self.write(kind::EVENT_TYPE, &name.project, &name.name, None, edit);
        Ok(written.await?.changed)
    }

    /// Takes an event type out of the archive, as it is now. Says whether it did.
    async fn revive(&self, spec: &EventTypeSpec) -> Result<bool, WriteError> {
        let name = Name::new(kind::EVENT_TYPE, spec.project.as_str(), &spec.name);
        let edit = |current: Option<&Current>| {
            let Some(live) = current.filter(|c| !c.deleted) else {
                return Ok(Change::Nothing);
            };
            let mut spec: EventTypeSpec = serde_json::from_slice(&live.body)
                .map_err(|error| invalid(&name, &error.to_string()))?;
            if !std::mem::take(&mut spec.archived) {
                return Ok(Change::Nothing);
            }
            json(&name, &spec).map(Change::Put)
        };
        let written = self.write(kind::EVENT_TYPE, &name.project, &name.name, None, edit);
        Ok(written.await?.changed)
    }
}
