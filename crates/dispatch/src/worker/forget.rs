//! How far jobs came, forgotten once they can no longer speak: a checkpoint must not grow with every job there ever was.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hookline_model::core::marks::JobIs;
use hookline_model::time::Millis;
use hookline_registry::JobEntry;

use super::Worker;

/// How often it is looked which jobs are over. They are remembered for days after that.
const LOOK_EVERY: Duration = Duration::from_secs(60);

impl Worker {
    /// Asks the registry now and then how the jobs stand whose sends have come. One that it does not have is gone: no send is taken before our
    /// view of the registry has reached what its job was at.
    pub(super) fn forget_jobs(&mut self, now: Millis) {
        let lately = now.since(self.jobs_asked) < LOOK_EVERY && now >= self.jobs_asked;
        if lately || !self.partition.remembers_jobs() {
            return;
        }
        self.jobs_asked = now;
        let stands = standing(self.snapshot.all_jobs());
        self.partition
            .forget_jobs(|job| stands.get(job).copied().unwrap_or(JobIs::Gone));
    }
}

/// How the jobs stand that the registry has.
fn standing<'a>(jobs: impl Iterator<Item = &'a Arc<JobEntry>>) -> HashMap<&'a str, JobIs> {
    jobs.map(|entry| {
        let over = entry.job.finished_at_ms;
        let is = over.map_or(JobIs::Open, |at| JobIs::Over(Millis(at)));
        (&*entry.id, is)
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_over_once_it_says_when() {
        let job = |id: &str, status: &str, finished: Option<i64>| {
            let job = serde_json::json!({
                "kind": "redrive",
                "status": status,
                "created_at_ms": 1,
                "finished_at_ms": finished,
                "partitions": [],
            });
            Arc::new(JobEntry {
                project: "shop".into(),
                id: id.into(),
                version: 1,
                job: serde_json::from_value(job).unwrap(),
            })
        };
        let jobs = [
            job("waits", "pending", None),
            job("rests", "paused", None),
            job("ended", "cancelled", Some(7)),
        ];
        let stands = standing(jobs.iter());
        assert_eq!(stands.get("waits"), Some(&JobIs::Open));
        assert_eq!(stands.get("rests"), Some(&JobIs::Open));
        assert_eq!(stands.get("ended"), Some(&JobIs::Over(Millis(7))));
        assert_eq!(stands.get("another"), None);
    }
}
