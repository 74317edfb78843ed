//! Where a partition's task finds what has happened: answers, acknowledgements. Everything that waits is taken at once.

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Many writers, one reader. Its length is bounded by what is under way: each entry answers something that the reader has begun.
pub(crate) struct Mailbox<T> {
    waiting: Mutex<Vec<T>>,
    came: Notify,
}

impl<T> Mailbox<T> {
    pub(crate) fn new() -> Self {
        Self {
            waiting: Mutex::new(Vec::new()),
            came: Notify::new(),
        }
    }

    pub(crate) fn put(&self, entry: T) {
        self.waiting.lock().push(entry);
        self.came.notify_one();
    }

    /// Everything that has come, into `taken` (which must be empty, and whose room is used again).
    pub(crate) fn take(&self, taken: &mut Vec<T>) {
        std::mem::swap(&mut *self.waiting.lock(), taken);
    }

    /// Resolves when something may have come since the last call.
    pub(crate) async fn came(&self) {
        self.came.notified().await;
    }
}
