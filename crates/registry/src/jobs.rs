//! Bulk jobs: what was asked for and how far it is, where every process sees it and no store can lose it.

use std::sync::Arc;

use hookline_model::ids::Slug;
use hookline_model::job::Job;
use hookline_model::limits::JOBS_MAX;

use crate::Registry;
use crate::error::WriteError;
use crate::log::{Current, Name};
use crate::snapshot::kind;
use crate::typed::{invalid, json, not_found};
use crate::write::{Change, Written};

/// A job as it is at one version.
#[derive(Debug, Clone)]
pub struct JobEntry {
    /// The project it belongs to.
    pub project: Arc<str>,
    /// Made by us, never used again; later ones sort behind earlier ones.
    pub id: Arc<str>,
    /// The version of its record.
    pub version: u64,
    /// What it is.
    pub job: Job,
}

impl JobEntry {
    pub(crate) fn read(name: &Name, current: &Current) -> Result<Self, String> {
        Ok(Self {
            project: Arc::clone(&name.project),
            id: Arc::clone(&name.name),
            version: current.version,
            job: serde_json::from_slice(&current.body).map_err(|e| e.to_string())?,
        })
    }
}

impl Registry {
    /// Makes a job.
    ///
    /// # Errors
    /// As [`Registry::write`]; [`WriteError::NotFound`] when there is no such project, [`WriteError::Invalid`] when it has too many.
    pub async fn create_job(&self, project: &Slug, job: &Job) -> Result<JobEntry, WriteError> {
        let project = project.as_str();
        let snapshot = self.refresh().await?;
        if snapshot.project(project).is_none() {
            return Err(not_found(kind::PROJECT, project));
        }
        let id = self.new_id()?;
        let name = Name::new(kind::JOB, project, &id);
        if snapshot.jobs(project).count() >= JOBS_MAX {
            let problem = format!(
                "a project has at most {JOBS_MAX} jobs, those that were over within two weeks included"
            );
            return Err(invalid(&name, &problem));
        }
        let body = json(&name, job)?;
        let put = |_: Option<&Current>| Ok(Change::Put(body.clone()));
        let written = self.write(kind::JOB, project, &id, Some(0), put).await?;
        Ok(JobEntry {
            project: name.project,
            id: name.name,
            version: written.version,
            job: job.clone(),
        })
    }

    /// Changes a job by `edit`, which sees it as it is at the end of the log and may be asked again. A job that it leaves as it is is not
    /// written.
    ///
    /// # Errors
    /// As [`Registry::write`]; [`WriteError::NotFound`] when there is none.
    pub async fn change_job(
        &self,
        project: &str,
        id: &str,
        mut edit: impl FnMut(&mut Job) + Send,
    ) -> Result<JobEntry, WriteError> {
        let name = Name::new(kind::JOB, project, id);
        let mut changed = None;
        let change = |current: Option<&Current>| {
            let live = current.filter(|c| !c.deleted);
            let live = live.ok_or_else(|| not_found(kind::JOB, id))?;
            let before = JobEntry::read(&name, live)
                .map_err(|e| invalid(&name, &e))?
                .job;
            let mut job = before.clone();
            edit(&mut job);
            let same = job == before;
            let body = json(&name, &job)?;
            changed = Some(job);
            Ok(match same {
                true => Change::Nothing,
                false => Change::Put(body),
            })
        };
        let written = self.write(kind::JOB, project, id, None, change).await?;
        let job = changed.ok_or_else(|| not_found(kind::JOB, id))?;
        Ok(JobEntry {
            project: name.project,
            id: name.name,
            version: written.version,
            job,
        })
    }

    /// Forgets a job.
    ///
    /// # Errors
    /// As [`Registry::write`]; [`WriteError::NotFound`] when there is none.
    pub async fn delete_job(&self, project: &str, id: &str) -> Result<Written, WriteError> {
        let change = |current: Option<&Current>| match current.filter(|c| !c.deleted) {
            Some(_) => Ok(Change::Delete(bytes::Bytes::new())),
            None => Err(not_found(kind::JOB, id)),
        };
        self.write(kind::JOB, project, id, None, change).await
    }

    /// An id whose order is that of time.
    fn new_id(&self) -> Result<String, WriteError> {
        let mut tail = [0; 10];
        self.follow.sealer.random(&mut tail)?;
        let millis = u64::try_from(self.write.clock.now().0).unwrap_or(0);
        Ok(uuid::Builder::from_unix_timestamp_millis(millis, &tail)
            .into_uuid()
            .to_string())
    }
}
