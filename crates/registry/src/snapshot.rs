//! What is current, as of one offset of the log. A snapshot never changes; a newer one shares all that is the same.

use std::collections::BTreeMap;
use std::fmt;
use std::iter::Peekable;
use std::sync::Arc;

use hookline_model::ids::WebhookUid;
use hookline_model::matching::TypePattern;
use hookline_model::policy::RetryPolicy;
use hookline_model::resource::State;
use serde::{Deserialize, Serialize};

use crate::connectors::ConnectorEntry;
use crate::cow::{CowMap, UidSet};
use crate::entry::{EventTypeEntry, KeyEntry, ProjectEntry, WebhookEntry};
use crate::jobs::JobEntry;
use crate::log::{Current, Name};
use crate::seal::Sealer;

/// Kinds of records.
pub(crate) mod kind {
    pub(crate) const PROJECT: &str = "project";
    pub(crate) const EVENT_TYPE: &str = "event-type";
    pub(crate) const CONNECTOR: &str = "connector";
    pub(crate) const WEBHOOK: &str = "webhook";
    /// Deleted webhooks whose name was used again, by uid.
    pub(crate) const DELETED: &str = "deleted";
    /// Keys to the API, by id; those that see every project belong to [`super::SYSTEM`].
    pub(crate) const KEY: &str = "key";
    /// Bulk jobs, by id.
    pub(crate) const JOB: &str = "job";
    pub(crate) const LAYOUT: &str = "layout";
    /// The canary by which a wrong secrets key is noticed.
    pub(crate) const KEK: &str = "kek";
}

/// The project of records that belong to no project. Not a slug, so nobody can have it.
pub(crate) const SYSTEM: &str = "_";

/// How the work is shared out. It comes from here and never from topic metadata, so that a topic grown by hand moves nobody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Partitions of `deliveries` and the topics beside it.
    pub partitions: u32,
    /// Partitions of each tier.
    pub tier_partitions: u32,
    /// By topic (without prefix): raised when an operator accepts that the topic was made anew. Part of the stream's name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub generations: BTreeMap<String, u32>,
}

impl Layout {
    /// How often the topic was made anew.
    #[must_use]
    pub fn generation(&self, suffix: &str) -> u32 {
        self.generations.get(suffix).copied().unwrap_or(0)
    }
}

/// Who gets what in one project. Inactive webhooks are not in it.
#[derive(Debug, Clone, Default)]
struct ProjectIndex {
    exact: CowMap<Arc<str>, UidSet>,
    /// By category, without the dot: `email` for `email.*`.
    below: CowMap<Arc<str>, UidSet>,
    all: UidSet,
}

impl ProjectIndex {
    fn add(&mut self, webhook: &Arc<WebhookEntry>) {
        for pattern in &webhook.settings.events {
            match pattern {
                TypePattern::All => &mut self.all,
                TypePattern::Exact(text) => self
                    .exact
                    .get_mut_or_insert(Arc::from(&**text), UidSet::default),
                TypePattern::Below(text) => self
                    .below
                    .get_mut_or_insert(Arc::from(&**text), UidSet::default),
            }
            .insert(Arc::clone(webhook));
        }
    }

    fn remove(&mut self, webhook: &WebhookEntry) {
        for pattern in &webhook.settings.events {
            let (sets, text) = match pattern {
                TypePattern::All => {
                    self.all.remove(webhook.uid);
                    continue;
                }
                TypePattern::Exact(text) => (&mut self.exact, &**text),
                TypePattern::Below(text) => (&mut self.below, &**text),
            };
            if let Some(set) = sets.get_mut(text) {
                set.remove(webhook.uid);
                if set.is_empty() {
                    sets.remove(text);
                }
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.below.is_empty() && self.all.is_empty()
    }

    fn sets<'a>(&'a self, event_type: &'a str) -> impl Iterator<Item = &'a UidSet> {
        let below = TypePattern::categories(event_type).filter_map(|c| self.below.get(c));
        self.exact
            .get(event_type)
            .into_iter()
            .chain(below)
            .chain((!self.all.is_empty()).then_some(&self.all))
    }
}

/// Something of one project, by name.
type Named<T> = BTreeMap<Arc<str>, Arc<T>>;

/// The event types of one project.
type Catalog = Named<EventTypeEntry>;

/// The connectors of one project.
type Connectors = Named<ConnectorEntry>;

/// The jobs of one project.
type Jobs = Named<JobEntry>;

/// What is current, as of one offset.
#[derive(Clone)]
pub struct Snapshot {
    /// Everything below this offset of the registry's log is in it.
    pub offset: u64,
    layout: Option<Arc<Layout>>,
    projects: CowMap<Arc<str>, Arc<ProjectEntry>>,
    /// By project.
    catalogs: CowMap<Arc<str>, Arc<Catalog>>,
    /// By project.
    connectors: CowMap<Arc<str>, Arc<Connectors>>,
    /// By project.
    jobs: CowMap<Arc<str>, Arc<Jobs>>,
    indexes: CowMap<Arc<str>, Arc<ProjectIndex>>,
    /// By id.
    keys: CowMap<Arc<str>, Arc<KeyEntry>>,
    by_uid: CowMap<WebhookUid, Arc<WebhookEntry>>,
    /// Key: `project/name`.
    by_name: CowMap<Arc<str>, Arc<WebhookEntry>>,
    policies: Policies,
}

/// Retry policies that webhooks have in common: most have that of their preset, and it is larger than all the rest of them.
#[derive(Clone, Default)]
struct Policies(Vec<Arc<RetryPolicy>>);

impl Policies {
    /// More are not looked through for each webhook.
    const MAX: usize = 32;

    /// The same policy, where there is one already.
    fn share(&mut self, policy: &mut Arc<RetryPolicy>) {
        if let Some(known) = self.0.iter().find(|known| ***known == **policy) {
            *policy = Arc::clone(known);
            return;
        }
        if self.0.len() >= Self::MAX {
            self.0.remove(0);
        }
        self.0.push(Arc::clone(policy));
    }
}

impl Snapshot {
    pub(crate) fn at(offset: u64) -> Self {
        Self {
            offset,
            layout: None,
            projects: CowMap::default(),
            catalogs: CowMap::default(),
            connectors: CowMap::default(),
            jobs: CowMap::default(),
            indexes: CowMap::default(),
            keys: CowMap::default(),
            by_uid: CowMap::default(),
            by_name: CowMap::default(),
            policies: Policies::default(),
        }
    }

    /// How the work is shared out; `None` until somebody has said so.
    #[must_use]
    pub fn layout(&self) -> Option<&Arc<Layout>> {
        self.layout.as_ref()
    }

    /// The project of that id.
    #[must_use]
    pub fn project(&self, id: &str) -> Option<&Arc<ProjectEntry>> {
        self.projects.get(id)
    }

    /// All projects, in no order.
    pub fn projects(&self) -> impl Iterator<Item = &Arc<ProjectEntry>> {
        self.projects.values()
    }

    /// The event type of that name in a project's catalog. Archived ones are there, deleted ones are not.
    #[must_use]
    pub fn event_type(&self, project: &str, name: &str) -> Option<&Arc<EventTypeEntry>> {
        self.catalogs.get(project)?.get(name)
    }

    /// The event types of a project's catalog, by name.
    pub fn event_types(&self, project: &str) -> impl Iterator<Item = &Arc<EventTypeEntry>> {
        let catalog = self.catalogs.get(project);
        catalog.into_iter().flat_map(|catalog| catalog.values())
    }

    /// The connector of that name.
    #[must_use]
    pub fn connector(&self, project: &str, name: &str) -> Option<&Arc<ConnectorEntry>> {
        self.connectors.get(project)?.get(name)
    }

    /// The connectors of a project, by name.
    pub fn connectors(&self, project: &str) -> impl Iterator<Item = &Arc<ConnectorEntry>> {
        let connectors = self.connectors.get(project);
        connectors.into_iter().flat_map(|all| all.values())
    }

    /// The job of that id.
    #[must_use]
    pub fn job(&self, project: &str, id: &str) -> Option<&Arc<JobEntry>> {
        self.jobs.get(project)?.get(id)
    }

    /// The jobs of a project, the earliest first.
    pub fn jobs(&self, project: &str) -> impl Iterator<Item = &Arc<JobEntry>> {
        let jobs = self.jobs.get(project);
        jobs.into_iter().flat_map(|all| all.values())
    }

    /// The jobs of all projects, those of each project together.
    pub fn all_jobs(&self) -> impl Iterator<Item = &Arc<JobEntry>> {
        self.jobs.values().flat_map(|all| all.values())
    }

    /// The key of that id. Revoked ones are not there, expired ones are.
    #[must_use]
    pub fn key(&self, id: &str) -> Option<&Arc<KeyEntry>> {
        self.keys.get(id)
    }

    /// All keys, in no order.
    pub fn keys(&self) -> impl Iterator<Item = &Arc<KeyEntry>> {
        self.keys.values()
    }

    /// The webhook of that uid. Deleted ones are not there.
    #[must_use]
    pub fn webhook(&self, uid: WebhookUid) -> Option<&Arc<WebhookEntry>> {
        self.by_uid.get(&uid)
    }

    /// The webhook of that name. Deleted ones are not there.
    #[must_use]
    pub fn by_name(&self, project: &str, name: &str) -> Option<&Arc<WebhookEntry>> {
        self.by_name.get(path(project, name).as_str())
    }

    /// All webhooks, in no order.
    pub fn webhooks(&self) -> impl Iterator<Item = &Arc<WebhookEntry>> {
        self.by_uid.values()
    }

    /// Webhooks that get events of that type: active and paused ones, in order of their uids, each once.
    pub fn matching<'a>(&'a self, project: &str, event_type: &'a str) -> Matches<'a> {
        let index = self.indexes.get(project);
        let mut sets: Vec<_> = index
            .into_iter()
            .flat_map(|index| index.sets(event_type))
            .map(|set| (Box::new(set.iter()) as Uids<'a>).peekable())
            .collect();
        match sets.pop() {
            Some(only) if sets.is_empty() => Matches(Merge::One(only)),
            Some(last) => {
                sets.push(last);
                Matches(Merge::Many(sets))
            }
            None => Matches(Merge::None),
        }
    }

    /// Takes over what `name` means now; what is deleted is gone.
    pub(crate) fn update(
        &mut self,
        name: &Name,
        current: Option<&Current>,
        sealer: &Arc<Sealer>,
    ) -> Result<(), String> {
        let live = current.filter(|c| !c.deleted);
        match &*name.kind {
            kind::PROJECT => match live {
                Some(current) => {
                    let entry = Arc::new(ProjectEntry::read(name, current)?);
                    self.projects.insert(Arc::clone(&name.project), entry);
                }
                None => drop(self.projects.remove(&*name.project)),
            },
            kind::EVENT_TYPE => {
                let entry = live.map(EventTypeEntry::read).transpose()?;
                put_named(&mut self.catalogs, name, entry.map(Arc::new));
            }
            kind::CONNECTOR => {
                let entry = live
                    .map(|current| ConnectorEntry::read(name, current, sealer))
                    .transpose()?;
                put_named(&mut self.connectors, name, entry.map(Arc::new));
            }
            kind::WEBHOOK => {
                let entry = live.map(|current| WebhookEntry::read(name, current, sealer));
                let mut entry = entry.transpose()?;
                if let Some(entry) = &mut entry {
                    self.policies.share(&mut entry.settings.retry);
                }
                self.put_webhook(name, entry.map(Arc::new));
            }
            kind::KEY => match live {
                Some(current) => {
                    let entry = Arc::new(KeyEntry::read(current)?);
                    self.keys.insert(Arc::clone(&name.name), entry);
                }
                None => drop(self.keys.remove(&*name.name)),
            },
            kind::JOB => {
                let entry = live.map(|current| JobEntry::read(name, current));
                put_named(&mut self.jobs, name, entry.transpose()?.map(Arc::new));
            }
            kind::LAYOUT => {
                let layout = live.map(|current| serde_json::from_slice(&current.body));
                self.layout = layout.transpose().map_err(|e| e.to_string())?.map(Arc::new);
            }
            _ => {}
        }
        Ok(())
    }

    fn put_webhook(&mut self, name: &Name, new: Option<Arc<WebhookEntry>>) {
        let path: Arc<str> = path(&name.project, &name.name).into();
        let old = self.by_name.remove(&*path);
        let index = self
            .indexes
            .get_mut_or_insert(Arc::clone(&name.project), Arc::default);
        let index = Arc::make_mut(index);
        if let Some(old) = &old {
            index.remove(old);
        }
        if let Some(new) = &new
            && new.settings.state != State::Inactive
        {
            index.add(new);
        }
        if index.is_empty() {
            self.indexes.remove(&*name.project);
        }
        if let Some(old) = old {
            self.by_uid.remove(&old.uid);
        }
        if let Some(new) = new {
            self.by_uid.insert(new.uid, Arc::clone(&new));
            self.by_name.insert(path, new);
        }
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("offset", &self.offset)
            .field("layout", &self.layout)
            .field("projects", &self.projects.len())
            .field("webhooks", &self.by_uid.len())
            .finish()
    }
}

/// Puts something under its name in its project, or takes it away.
fn put_named<T>(
    by_project: &mut CowMap<Arc<str>, Arc<Named<T>>>,
    name: &Name,
    new: Option<Arc<T>>,
) {
    let project = Arc::clone(&name.project);
    let named = by_project.get_mut_or_insert(project, Arc::default);
    let named = Arc::make_mut(named);
    match new {
        Some(new) => drop(named.insert(Arc::clone(&name.name), new)),
        None => drop(named.remove(&name.name)),
    }
    if named.is_empty() {
        by_project.remove(&*name.project);
    }
}

fn path(project: &str, name: &str) -> String {
    format!("{project}/{name}")
}

type Uids<'a> = Box<dyn Iterator<Item = &'a Arc<WebhookEntry>> + Send + 'a>;

/// See [`Snapshot::matching`].
pub struct Matches<'a>(Merge<'a>);

enum Merge<'a> {
    None,
    One(Peekable<Uids<'a>>),
    Many(Vec<Peekable<Uids<'a>>>),
}

impl<'a> Iterator for Matches<'a> {
    type Item = &'a Arc<WebhookEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        let sets = match &mut self.0 {
            Merge::None => return None,
            Merge::One(set) => return set.next(),
            Merge::Many(sets) => sets,
        };
        let lowest = sets
            .iter_mut()
            .filter_map(|set| set.peek().map(|w| w.uid))
            .min()?;
        let mut found = None;
        for set in sets {
            // A webhook may match by several of its patterns.
            if let Some(webhook) = set.next_if(|w| w.uid == lowest) {
                found = Some(webhook);
            }
        }
        found
    }
}
