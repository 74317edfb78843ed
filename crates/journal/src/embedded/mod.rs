//! The embedded engine: durable topics in one directory, in this process, with no server to install.
//!
//! Reading order: [`store`] is what lies on disk; [`state`] what the parts share; [`writer`] the one thread that changes anything;
//! [`reader`], [`groups`] and [`retention`] are the rest of the [`Journal`]. [`lock`] keeps other processes out, [`control`] lets them in by
//! the front door, [`repair`] mends what a crash left.
//!
//! - Only the writer changes what is stored; an append is acknowledged, and visible, only after its fsync.
//! - Offsets are contiguous, except after compaction and after a repair, which skips [`OFFSETS_SKIPPED`] of them: what was cut may have
//!   been seen by somebody.
//! - Group members live in this process; a member lasts until it leaves, is dropped, or is expired by hand.

mod control;
mod groups;
mod lock;
mod reader;
mod repair;
mod retention;
mod state;
mod store;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use hookline_model::time::Clock;
use parking_lot::Mutex;

pub use control::{RemoteJournal, open_or_connect};

use crate::{
    Appender, Committed, GroupSpec, Journal, JournalError, Member, ReadBudget, Reader, TopicInfo,
    TopicPartition, TopicSpec,
};
use lock::DirectoryLock;
use retention::{Force, Housekeeper};
use state::Shared;
use store::Store;
use writer::{Command, EmbeddedAppender};

/// After a repair all partitions go on this much higher, so that no offset that was cut is used again.
const OFFSETS_SKIPPED: u64 = 1 << 20;
/// The file that says so, from before the first log is mended until the higher ends are stored: a crash in between makes them higher once more. Were
/// they not stored, the next start would give out offsets that others may have committed to, or have taken for settled.
const SKIPS: &str = "skips-offsets";
/// As Kafka's limit for names of topics.
const TOPIC_NAME_BYTES_MAX: usize = 249;
const PARTITIONS_MAX: u32 = 4096;
/// Keys of the store hold the group's name.
const GROUP_NAME_BYTES_MAX: usize = 1024;

/// How to open a directory.
#[derive(Clone)]
pub struct EmbeddedConfig {
    /// The data directory; made where it is missing.
    pub dir: PathBuf,
    /// Gives the append time and measures retention.
    pub clock: Arc<dyn Clock>,
    /// Appends that may wait for the writer.
    pub queue_records: usize,
    /// Bytes of appends that may wait for the writer.
    pub queue_bytes: usize,
    /// How often old records are looked for.
    pub housekeeping_every: Duration,
    /// How long a tombstone stays at least, so that every reader sees it.
    pub tombstones_kept: Duration,
}

impl EmbeddedConfig {
    /// The defaults for a directory.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>, clock: Arc<dyn Clock>) -> Self {
        Self {
            dir: dir.into(),
            clock,
            queue_records: 16 * 1024,
            queue_bytes: 16 * 1024 * 1024,
            housekeeping_every: Duration::from_secs(10),
            tombstones_kept: Duration::from_secs(24 * 3600),
        }
    }
}

impl std::fmt::Debug for EmbeddedConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedConfig")
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

/// A directory that this process has open. See the module's documentation.
pub struct EmbeddedJournal {
    shared: Arc<Shared>,
    housekeeper: Arc<Housekeeper>,
    repairs: Vec<String>,
    open: Mutex<Option<Open>>,
}

/// What closing ends, in the order of the fields.
struct Open {
    housekeeping: JoinHandle<()>,
    writing: JoinHandle<()>,
    lock: DirectoryLock,
}

impl EmbeddedJournal {
    /// Opens a directory: makes it, or mends and reads what it holds. Blocks while it reads.
    ///
    /// # Errors
    /// [`JournalError::Busy`] when another process has it open; else when the directory cannot be used or its content cannot be read.
    pub fn open(config: EmbeddedConfig) -> Result<Arc<Self>, JournalError> {
        let dir = config.dir.clone();
        let failed = |reason: String| JournalError::Failed {
            what: format!("open the data directory {}", dir.display()),
            reason,
        };
        let lock = DirectoryLock::acquire(&dir)?;
        let repairs = mend(&dir).map_err(|e| failed(e.to_string()))?;
        let store = Store::open(&store_dir(&dir)).map_err(|e| failed(e.to_string()))?;
        let loaded = store.load().map_err(failed)?;
        let skips = dir.join(SKIPS).exists();
        let skipped = if skips { OFFSETS_SKIPPED } else { 0 };
        let shared = Arc::new(Shared::new(config, store, loaded, skipped).map_err(failed)?);
        if skips {
            shared.keep_ends().map_err(failed)?;
            fs::remove_file(dir.join(SKIPS)).map_err(|e| failed(e.to_string()))?;
        }
        let housekeeper = Arc::new(Housekeeper::default());
        let writing = thread("hookline-writer", {
            let shared = shared.clone();
            move || writer::run(&shared)
        })
        .map_err(|e| failed(e.to_string()))?;
        let housekeeping = thread("hookline-keeper", {
            let (shared, housekeeper) = (shared.clone(), housekeeper.clone());
            move || housekeeper.run(&shared)
        })
        .map_err(|e| failed(e.to_string()))?;
        let open = Mutex::new(Some(Open {
            housekeeping,
            writing,
            lock,
        }));
        Ok(Arc::new(Self {
            shared,
            housekeeper,
            repairs,
            open,
        }))
    }

    /// What was damaged when the directory was opened, and what was done about it.
    #[must_use]
    pub fn repairs(&self) -> Vec<String> {
        self.repairs.clone()
    }

    /// The data directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.shared.config.dir
    }

    /// Ends a member's session as if it had been silent for too long. False when the group has no member of that name. For tests.
    pub fn expire_member(&self, group: &str, member: &str) -> bool {
        let now = self.shared.config.clock.boot();
        self.shared
            .groups
            .expire(group, member, &groups::counts(&self.shared), now)
    }

    /// Looks for old records and frees their space, now. For tests; else it happens by itself.
    ///
    /// # Errors
    /// When the store fails or is closed.
    pub async fn housekeep_now(&self) -> Result<(), JournalError> {
        self.housekeep(Force::Nothing).await
    }

    /// Compacts all compacted topics, now. For tests; else it happens by itself.
    ///
    /// # Errors
    /// When the store fails or is closed.
    pub async fn compact_now(&self) -> Result<(), JournalError> {
        self.housekeep(Force::Compaction).await
    }

    async fn housekeep(&self, force: Force) -> Result<(), JournalError> {
        let (shared, housekeeper) = (self.shared.clone(), self.housekeeper.clone());
        tokio::task::spawn_blocking(move || housekeeper.pass(&shared, force))
            .await
            .unwrap_or_else(|e| {
                Err(JournalError::Failed {
                    what: "housekeeping".to_owned(),
                    reason: e.to_string(),
                })
            })
    }

    /// Stores what waits, ends the threads and lets go of the directory. Later calls fail; readers that wait end with an error.
    pub async fn close(&self) {
        let open = self.open.lock().take();
        let shared = self.shared.clone();
        let housekeeper = self.housekeeper.clone();
        let closing = tokio::task::spawn_blocking(move || close(&shared, &housekeeper, open));
        if closing.await.is_err() {
            tracing::error!("closing the embedded journal came to an unexpected end");
        }
    }

    fn partition(
        &self,
        topic: &str,
        partition: u32,
    ) -> Result<Arc<state::Partition>, JournalError> {
        if *self.shared.ended.borrow() {
            return Err(self.shared.gone("look up a topic"));
        }
        self.shared.partition(topic, partition)
    }
}

impl Drop for EmbeddedJournal {
    fn drop(&mut self) {
        let open = self.open.lock().take();
        close(&self.shared, &self.housekeeper, open);
    }
}

fn close(shared: &Shared, housekeeper: &Housekeeper, open: Option<Open>) {
    let Some(open) = open else {
        return;
    };
    housekeeper.signal.stop();
    shared.queue.close();
    let threads = [open.housekeeping, open.writing];
    let here = std::thread::current().id();
    // A callback of an append may drop the journal; a thread does not wait for itself, nor for one that waits for it.
    if threads.iter().all(|t| t.thread().id() != here) {
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a thread of the embedded journal came to an unexpected end");
            }
        }
    }
    shared.ended.send_replace(true);
    control::remove_socket(&shared.config.dir);
    // The store waits for its own threads, then the directory is free.
    drop(shared.store.write().take());
    drop(open.lock);
}

fn thread(name: &str, run: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(run)
}

fn store_dir(dir: &Path) -> PathBuf {
    dir.join("journal")
}

fn mend(dir: &Path) -> std::io::Result<Vec<String>> {
    let skip = || {
        File::create(dir.join(SKIPS))?.sync_all()?;
        File::open(dir)?.sync_all()
    };
    let repairs = repair::mend(&store_dir(dir), &dir.join("damaged"), skip)?;
    for repair in &repairs {
        tracing::warn!(%repair, "the journal was damaged and has been mended");
    }
    Ok(repairs.iter().map(ToString::to_string).collect())
}

/// Checks a topic that is to be made.
fn check_spec(spec: &TopicSpec) -> Result<(), JournalError> {
    let refuse = |reason: &str| {
        Err(JournalError::Failed {
            what: format!("make topic {:?}", spec.name),
            reason: reason.to_owned(),
        })
    };
    let letter = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
    let length = spec.name.len();
    if length == 0 || length > TOPIC_NAME_BYTES_MAX || !spec.name.bytes().all(letter) {
        return refuse("a name has 1 to 249 of a-z, A-Z, 0-9, '.', '_' and '-'");
    }
    if spec.partitions == 0 || spec.partitions > PARTITIONS_MAX {
        return refuse("the embedded engine takes 1 to 4096 partitions");
    }
    Ok(())
}

fn check_group(group: &str) -> Result<(), JournalError> {
    if group.is_empty() || group.len() > GROUP_NAME_BYTES_MAX {
        return Err(JournalError::Failed {
            what: "join a group".to_owned(),
            reason: "a group's name has 1 to 1024 bytes".to_owned(),
        });
    }
    Ok(())
}

#[async_trait::async_trait]
impl Journal for EmbeddedJournal {
    async fn appender(&self, name: &str) -> Result<Arc<dyn Appender>, JournalError> {
        if *self.shared.ended.borrow() {
            return Err(self.shared.gone("make an appender"));
        }
        tracing::debug!(appender = name, "appender made");
        Ok(Arc::new(EmbeddedAppender {
            shared: self.shared.clone(),
        }))
    }

    async fn reader(
        &self,
        topic: &str,
        partition: u32,
        from: u64,
        budget: ReadBudget,
    ) -> Result<Box<dyn Reader>, JournalError> {
        let partition = self.partition(topic, partition)?;
        Ok(Box::new(reader::EmbeddedReader::new(
            self.shared.clone(),
            partition,
            from,
            budget,
        )))
    }

    async fn start(&self, topic: &str, partition: u32) -> Result<u64, JournalError> {
        Ok(self.partition(topic, partition)?.start())
    }

    async fn end(&self, topic: &str, partition: u32) -> Result<u64, JournalError> {
        Ok(self.partition(topic, partition)?.end())
    }

    async fn delete_records(
        &self,
        topic: &str,
        partition: u32,
        before: u64,
    ) -> Result<(), JournalError> {
        let partition = self.partition(topic, partition)?;
        let end = partition.end();
        if before > end {
            return Err(JournalError::Failed {
                what: format!("delete records of {topic} before {before}"),
                reason: format!("the partition ends at {end}"),
            });
        }
        if before <= partition.start() {
            return Ok(());
        }
        self.shared
            .control("delete records", |told| Command::DeleteBefore {
                partition,
                before,
                told,
            })
            .await?;
        self.housekeeper.signal.poke();
        Ok(())
    }

    async fn join(&self, group: GroupSpec) -> Result<Box<dyn Member>, JournalError> {
        check_group(&group.group)?;
        if *self.shared.ended.borrow() {
            return Err(self.shared.gone("join a group"));
        }
        let member = groups::EmbeddedMember::join(self.shared.clone(), &group);
        Ok(Box::new(member))
    }

    async fn committed(
        &self,
        group: &str,
        partitions: &[TopicPartition],
    ) -> Result<Vec<Option<Committed>>, JournalError> {
        let committed = self.shared.committed.read();
        let of_group = committed.get(group);
        Ok(partitions
            .iter()
            .map(|at| of_group?.get(at).cloned())
            .collect())
    }

    async fn create_topics(&self, topics: &[TopicSpec]) -> Result<(), JournalError> {
        topics.iter().try_for_each(check_spec)?;
        let specs = {
            let known = self.shared.topics.read();
            let new = topics.iter().filter(|t| !known.contains_key(&t.name));
            new.cloned().collect::<Vec<_>>()
        };
        if specs.is_empty() {
            return Ok(());
        }
        self.shared
            .control("make topics", |told| Command::CreateTopics { specs, told })
            .await
    }

    async fn topics(&self) -> Result<BTreeMap<String, TopicInfo>, JournalError> {
        let topics = self.shared.topics.read();
        Ok(topics
            .iter()
            .map(|(name, topic)| (name.clone(), topic.meta.info()))
            .collect())
    }

    async fn healthy(&self) -> bool {
        !*self.shared.ended.borrow()
    }
}
