//! Bulk jobs: deliveries started over by their thousands, and how far each job is.
//!
//! *Redrive* takes deliveries that ended without success from `dead`; *replay* takes events from `events` and sends them to one webhook again.
//! What is here is pure: what a job asks for ([`JobSpec`]), what the registry keeps of it ([`Job`]), and who may do what to it when.
//!
//! A job reads each partition of its source from a position to an end that was fixed when it was made. It belongs to one runner at a time, by
//! a lease; that two run it for a moment costs work and nothing else, because every send says which record of the source it came from.

mod spec;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::WebhookUid;
use crate::outcome::words;
use crate::time::Millis;

pub use spec::{Final, JobFilter, JobSpec, StatusIs};

/// A runner that was silent for this long has lost its job to the next one.
pub const JOB_LEASE: Duration = Duration::from_secs(10);

words! {
    /// What a job does.
    JobKind, "kind of job" {
        /// Starts deliveries over that ended without success.
        Redrive = "redrive",
        /// Sends events of a range of time to a webhook again.
        Replay = "replay",
    }
}

words! {
    /// How a job is.
    JobStatus, "status of a job" {
        /// Nobody runs it yet.
        Pending = "pending",
        /// Somebody runs it.
        Running = "running",
        /// It waits until somebody resumes it.
        Paused = "paused",
        /// It came to its end.
        Done = "done",
        /// Somebody ended it.
        Cancelled = "cancelled",
        /// It cannot go on.
        Failed = "failed",
    }
}

/// Stores words as they are shown.
macro_rules! stored_as_words {
    ($($name:ident),+) => {$(
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(self.as_str())
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )+};
}
stored_as_words!(JobKind, JobStatus);

impl JobStatus {
    /// Whether it stays so for ever.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Cancelled | Self::Failed)
    }
}

/// The webhook that a job is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobWebhook {
    /// Its name when the job was made.
    pub name: String,
    /// Itself: another of that name is not meant.
    pub uid: WebhookUid,
}

/// One partition of the source: from where to where, and how far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobPartition {
    /// Which.
    pub partition: u32,
    /// The first record that is looked at.
    pub start: u64,
    /// Everything below is done, and what came of it is acknowledged.
    pub position: u64,
    /// The first record that is not looked at.
    pub end: u64,
}

/// What a job met so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct JobCounts {
    /// Records that its filter wants: written, skipped and repeated ones.
    pub matched: u64,
    /// Deliveries started over.
    pub written: u64,
    /// Left out because their webhook was deleted or is inactive.
    pub skipped: u64,
    /// Left out because the same delivery was met before.
    pub repeated: u64,
    /// Records that were deleted before they were read, or cannot be read.
    pub missed: u64,
}

/// Who runs a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobOwner {
    /// The process, for people.
    pub worker: String,
    /// Tells one taking of the job from the next.
    pub token: String,
    /// Until when it is taken to be alive.
    pub until_ms: i64,
}

/// A job as the registry keeps it; as JSON it is the body of a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// What it does.
    pub kind: JobKind,
    /// The webhook it is about, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<JobWebhook>,
    /// What it wants.
    #[serde(default)]
    pub filter: JobFilter,
    /// How it is.
    pub status: JobStatus,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When it was made.
    pub created_at_ms: i64,
    /// When somebody first took it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at_ms: Option<i64>,
    /// When it came into a final status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at_ms: Option<i64>,
    /// Who runs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<JobOwner>,
    /// What it met so far.
    #[serde(default)]
    pub counts: JobCounts,
    /// The partitions of its source that have something for it.
    pub partitions: Vec<JobPartition>,
}

/// How far a runner is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobReport {
    /// Which of [`Job::partitions`] it reads.
    pub index: usize,
    /// Everything below in that partition is done.
    pub position: u64,
    /// What was met until there.
    pub counts: JobCounts,
}

/// What a runner is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Go on.
    Ours,
    /// Stop: somebody paused or ended the job.
    Told,
    /// Stop: somebody else has it.
    Lost,
}

/// A person asked for what cannot be done to the job now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is {status}, and only {of} can be {asked}")]
pub struct JobRefusal {
    /// How it is.
    pub status: JobStatus,
    /// Which it can be done to.
    pub of: &'static str,
    /// What was asked for.
    pub asked: &'static str,
}

impl Job {
    /// A new one over these partitions.
    #[must_use]
    pub fn new(
        spec: &JobSpec,
        webhook: Option<JobWebhook>,
        partitions: Vec<JobPartition>,
        now: Millis,
    ) -> Self {
        Self {
            kind: spec.kind,
            webhook,
            filter: spec.filter.clone(),
            status: JobStatus::Pending,
            error: None,
            created_at_ms: now.0,
            started_at_ms: None,
            finished_at_ms: None,
            owner: None,
            counts: JobCounts::default(),
            partitions,
        }
    }

    /// Records of the source that have been looked at, and how many there are in all.
    #[must_use]
    pub fn read_of(&self) -> (u64, u64) {
        let sum = |part: fn(&JobPartition) -> u64| self.partitions.iter().map(part).sum();
        (
            sum(|p| p.position.saturating_sub(p.start)),
            sum(|p| p.end.saturating_sub(p.start)),
        )
    }

    /// Whether a runner may take it now: nobody has it, or whoever had it is silent.
    #[must_use]
    pub fn is_free(&self, now: Millis) -> bool {
        match self.status {
            JobStatus::Pending => true,
            JobStatus::Running => self.owner.as_ref().is_none_or(|o| o.until_ms < now.0),
            _ => false,
        }
    }

    /// A runner takes it, if it may.
    pub fn take(&mut self, worker: &str, token: &str, now: Millis) -> bool {
        if !self.is_free(now) {
            return false;
        }
        self.status = JobStatus::Running;
        self.started_at_ms.get_or_insert(now.0);
        self.owner = Some(JobOwner {
            worker: worker.to_owned(),
            token: token.to_owned(),
            until_ms: now.plus(JOB_LEASE).0,
        });
        true
    }

    /// What the job looks like to the runner with this token.
    #[must_use]
    pub fn standing(&self, token: &str) -> Standing {
        match &self.owner {
            Some(owner) if owner.token == token => match self.status {
                JobStatus::Running => Standing::Ours,
                _ => Standing::Told,
            },
            _ => Standing::Lost,
        }
    }

    /// The runner with this token says how far it is, which renews its lease. Told to stop, it has let the job go with this.
    pub fn report(&mut self, token: &str, report: &JobReport, now: Millis) -> Standing {
        let standing = self.standing(token);
        if standing == Standing::Lost {
            return standing;
        }
        if let Some(partition) = self.partitions.get_mut(report.index) {
            partition.position = partition.position.max(report.position.min(partition.end));
        }
        self.counts = report.counts;
        match &mut self.owner {
            Some(owner) if standing == Standing::Ours => owner.until_ms = now.plus(JOB_LEASE).0,
            _ => self.owner = None,
        }
        standing
    }

    /// The runner with this token lets it go; the next one may take it at once.
    pub fn release(&mut self, token: &str) {
        match self.standing(token) {
            Standing::Ours => {
                self.status = JobStatus::Pending;
                self.owner = None;
            }
            Standing::Told => self.owner = None,
            Standing::Lost => {}
        }
    }

    /// The runner with this token is through.
    pub fn finish(&mut self, token: &str, now: Millis) {
        if self.standing(token) == Standing::Ours {
            self.end(JobStatus::Done, now);
        }
    }

    /// The runner with this token cannot go on, for this reason, and nobody else could.
    pub fn fail(&mut self, token: &str, error: &str, now: Millis) {
        if self.standing(token) == Standing::Ours {
            self.error = Some(error.to_owned());
            self.end(JobStatus::Failed, now);
        }
    }

    /// A person wants it to wait.
    ///
    /// # Errors
    /// When it is over.
    pub fn pause(&mut self) -> Result<(), JobRefusal> {
        self.refuse_final("paused")?;
        self.status = JobStatus::Paused;
        Ok(())
    }

    /// A person wants it to go on.
    ///
    /// # Errors
    /// When it is over.
    pub fn resume(&mut self) -> Result<(), JobRefusal> {
        self.refuse_final("resumed")?;
        if self.status == JobStatus::Paused {
            self.status = JobStatus::Pending;
        }
        Ok(())
    }

    /// A person wants no more of it. What it has written already is sent.
    ///
    /// # Errors
    /// When it is over in another way.
    pub fn cancel(&mut self, now: Millis) -> Result<(), JobRefusal> {
        if self.status == JobStatus::Cancelled {
            return Ok(());
        }
        self.refuse_final("cancelled")?;
        // The owner learns of it and says once more how far it came.
        let owner = self.owner.take();
        self.end(JobStatus::Cancelled, now);
        self.owner = owner;
        Ok(())
    }

    fn refuse_final(&self, asked: &'static str) -> Result<(), JobRefusal> {
        if !self.status.is_final() {
            return Ok(());
        }
        Err(JobRefusal {
            status: self.status,
            of: "a job that is not over",
            asked,
        })
    }

    fn end(&mut self, status: JobStatus, now: Millis) {
        self.status = status;
        self.finished_at_ms = Some(now.0);
        self.owner = None;
    }
}
