//! How far jobs came, forgotten once they can no longer speak: a checkpoint must not grow with every job there ever was.

use std::collections::HashMap;
use std::time::Duration;

use hookline_model::core::marks::JobIs;
use hookline_model::time::Millis;

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
        let jobs: HashMap<&str, JobIs> = self
            .snapshot
            .all_jobs()
            .map(|entry| {
                let over = entry.job.finished_at_ms;
                let is = over.map_or(JobIs::Open, |at| JobIs::Over(Millis(at)));
                (&*entry.id, is)
            })
            .collect();
        self.partition
            .forget_jobs(|job| jobs.get(job).copied().unwrap_or(JobIs::Gone));
    }
}
