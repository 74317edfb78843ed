//! Bulk jobs: the role that runs them, and how one is made, by the API and by the command line alike.

use std::sync::Arc;

use hookline_history::{Jobs, JobsConfig, RangesError, job_ranges};
use hookline_journal::Journal;
use hookline_model::ids::Slug;
use hookline_model::job::{Job, JobSpec, JobWebhook};
use hookline_model::resource::State;
use hookline_model::time::Clock;
use hookline_registry::{JobEntry, Registry, Snapshot, WriteError};

use crate::engine::{System, worker_name};
use crate::process::Process;
use crate::tasks::{Kind, Start};

/// dead, events → deliveries.
pub(crate) fn start(process: &Process, system: &System) -> Start {
    let (system, metrics) = (system.clone(), Arc::clone(&process.metrics));
    Box::new(move |stop| {
        let (system, metrics) = (system.clone(), metrics.stage(Kind::Jobs));
        Box::pin(async move {
            let config = JobsConfig {
                prefix: system.config.journal.prefix.clone(),
                worker: worker_name(),
            };
            let journal = system.journal();
            let stage = Jobs::new(config, journal, system.registry, system.clock, &metrics)?;
            stage.run(stop).await;
            Ok(())
        })
    })
}

/// Why a job was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotMade {
    /// There is no such webhook.
    #[error("there is no webhook {0} in the project")]
    NoWebhook(String),
    /// Nothing is sent to it now.
    #[error("webhook {0} is inactive, and nothing is sent to it: activate it first")]
    Inactive(String),
    /// What it is to read is not there.
    #[error(transparent)]
    Ranges(#[from] RangesError),
    /// The registry did not take it.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Where jobs are made.
pub(crate) struct Maker {
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) registry: Registry,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) prefix: String,
}

impl Maker {
    /// Of this system.
    pub(crate) fn new(system: &System) -> Self {
        Self {
            journal: system.journal(),
            registry: system.registry.clone(),
            clock: Arc::clone(&system.clock),
            prefix: system.config.journal.prefix.clone(),
        }
    }

    /// Makes a job, over what its source has now. `snapshot` is no older than the request.
    ///
    /// # Errors
    /// See [`NotMade`].
    pub(crate) async fn make(
        &self,
        project: &Slug,
        spec: &JobSpec,
        snapshot: &Snapshot,
    ) -> Result<JobEntry, NotMade> {
        let webhook = match &spec.webhook {
            None => None,
            Some(name) => Some(webhook(project, name, snapshot)?),
        };
        let now = self.clock.now();
        let ranges = job_ranges(&*self.journal, &self.prefix, spec, now).await?;
        let job = Job::new(spec, webhook, ranges, now);
        Ok(self.registry.create_job(project, &job).await?)
    }
}

fn webhook(project: &Slug, name: &str, snapshot: &Snapshot) -> Result<JobWebhook, NotMade> {
    let found = snapshot.by_name(project.as_str(), name);
    let found = found.ok_or_else(|| NotMade::NoWebhook(name.to_owned()))?;
    if found.state() == State::Inactive {
        return Err(NotMade::Inactive(name.to_owned()));
    }
    Ok(JobWebhook {
        name: name.to_owned(),
        uid: found.uid,
    })
}
