//! Asking for the end of the log, once for many who ask at the same time.

use std::sync::atomic::{AtomicU64, Ordering};

use hookline_journal::{Journal, JournalError};
use tokio::sync::Mutex;

/// One question under way at a time. An answer counts for everybody who came before its question was put, and for nobody who came later: that
/// is what keeps it linear with acknowledged appends.
#[derive(Default)]
pub(crate) struct EndQuery {
    came: AtomicU64,
    /// Who came up to this number got this end.
    answered: Mutex<(u64, u64)>,
}

impl EndQuery {
    pub(crate) async fn ask(
        &self,
        journal: &dyn Journal,
        topic: &str,
    ) -> Result<u64, JournalError> {
        let number = self.came.fetch_add(1, Ordering::SeqCst) + 1;
        let mut answered = self.answered.lock().await;
        if answered.0 >= number {
            return Ok(answered.1);
        }
        let all = self.came.load(Ordering::SeqCst);
        let end = journal.end(topic, 0).await?;
        *answered = (all, end);
        Ok(end)
    }
}
