//! Following the log: whoever waits for something in it drives the one reader, so it works with and without
//! [`Registry::run`](crate::Registry::run).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hookline_journal::{Batch, Journal, ReadBudget, ReadError, Reader};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::error::FollowError;
use crate::log::{Log, Name, Nonce, Unreadable};
use crate::rekey::UnderOldKeys;
use crate::seal::Sealer;
use crate::snapshot::Snapshot;

/// How long to wait before a reader that failed is made anew.
const READER_PAUSE: Duration = Duration::from_millis(200);
/// Records taken at once.
const BATCH: usize = 1000;
/// A registry record is small; this is many of them.
const BUDGET: ReadBudget = ReadBudget::of(1024 * 1024);

/// What was read so far.
pub(crate) struct View {
    pub(crate) log: Log,
    /// The snapshot in the making.
    pub(crate) snapshot: Snapshot,
    /// What is to be sealed again.
    pub(crate) under_old_keys: UnderOldKeys,
    /// Own records not yet seen (`None`), or seen, and whether they were current at their own offset.
    pub(crate) awaited: HashMap<Nonce, Option<bool>>,
}

/// The live view of the log.
pub(crate) struct Follow {
    pub(crate) topic: String,
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) sealer: Arc<Sealer>,
    pub(crate) view: Mutex<View>,
    published: watch::Sender<Arc<Snapshot>>,
    reader: tokio::sync::Mutex<Place>,
    failed: Mutex<Option<FollowError>>,
}

/// Where reading stands.
struct Place {
    position: u64,
    reader: Option<Box<dyn Reader>>,
}

impl Follow {
    /// Reads the whole log.
    pub(crate) async fn open(
        topic: String,
        journal: Arc<dyn Journal>,
        sealer: Arc<Sealer>,
    ) -> Result<Self, FollowError> {
        let start = journal.start(&topic, 0).await?;
        let end = journal.end(&topic, 0).await?;
        let view = View {
            log: Log::default(),
            snapshot: Snapshot::at(start),
            under_old_keys: UnderOldKeys::default(),
            awaited: HashMap::new(),
        };
        let follow = Self {
            published: watch::Sender::new(Arc::new(Snapshot::at(start))),
            topic,
            journal,
            sealer,
            view: Mutex::new(view),
            reader: tokio::sync::Mutex::new(Place {
                position: start,
                reader: None,
            }),
            failed: Mutex::new(None),
        };
        let mut place = follow.reader.lock().await;
        while place.position < end {
            // Not published in between: a published snapshot is shared, and changing it then copies.
            follow.step(&mut place).await?;
            hookline_model::fail_point!("registry-reading");
        }
        drop(place);
        follow.publish();
        Ok(follow)
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.published.borrow().clone()
    }

    pub(crate) fn changes(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.published.subscribe()
    }

    /// Reads on until `look` finds what it looks for in the view. Cancel safe.
    pub(crate) async fn until<T>(
        &self,
        mut look: impl FnMut(&View) -> Option<T>,
    ) -> Result<T, FollowError> {
        let mut changes = self.published.subscribe();
        loop {
            changes.mark_unchanged();
            if let Some(found) = self.look(&mut look) {
                return Ok(found);
            }
            if let Some(error) = self.failed.lock().clone() {
                return Err(error);
            }
            tokio::select! {
                biased;
                changed = changes.changed() => changed.unwrap_or_default(),
                mut place = self.reader.lock() => {
                    // Whoever had the reader before may have read just what is looked for; nothing else might ever come.
                    if let Some(found) = self.look(&mut look) {
                        return Ok(found);
                    }
                    self.step(&mut place).await?;
                    drop(place);
                    self.publish();
                }
            }
        }
    }

    /// Looks in the view. What is found there everybody sees from then on: whoever had the reader may have read it, and not yet published it.
    fn look<T>(&self, look: &mut impl FnMut(&View) -> Option<T>) -> Option<T> {
        let found = look(&self.view.lock())?;
        self.publish();
        Some(found)
    }

    /// Takes the next records. Cancel safe: nothing is awaited between reading and applying.
    async fn step(&self, place: &mut Place) -> Result<(), FollowError> {
        if let Some(error) = self.failed.lock().clone() {
            return Err(error);
        }
        let reader = match &mut place.reader {
            Some(reader) => reader,
            none => {
                let from = place.position;
                match self.journal.reader(&self.topic, 0, from, BUDGET).await {
                    Ok(reader) => none.insert(reader),
                    Err(error) => {
                        tracing::warn!(error = %error, "the registry's reader could not be made, trying again");
                        tokio::time::sleep(READER_PAUSE).await;
                        return Ok(());
                    }
                }
            }
        };
        match reader.next(BATCH).await {
            Ok(batch) => {
                place.position = batch.next;
                self.apply(&batch).map_err(|error| self.fail(error))
            }
            Err(error @ ReadError::Failed { .. }) => {
                tracing::warn!(error = %error, "the registry's reader failed, making a new one");
                place.reader = None;
                tokio::time::sleep(READER_PAUSE).await;
                Ok(())
            }
            Err(error) => Err(self.fail(error.into())),
        }
    }

    /// Nobody can go on behind this: whoever waits is told, now and later.
    fn fail(&self, error: FollowError) -> FollowError {
        *self.failed.lock() = Some(error.clone());
        self.published.send_modify(|_| {});
        error
    }

    fn publish(&self) {
        let snapshot = {
            let view = self.view.lock();
            if view.snapshot.offset <= self.published.borrow().offset {
                return;
            }
            Arc::new(view.snapshot.clone())
        };
        self.published.send_if_modified(|published| {
            let newer = snapshot.offset > published.offset;
            if newer {
                *published = snapshot;
            }
            newer
        });
    }

    fn apply(&self, batch: &Batch) -> Result<(), FollowError> {
        let view = &mut *self.view.lock();
        for record in &batch.records {
            let applied = view.log.apply(
                record.key.as_deref(),
                record.value.as_deref(),
                record.offset,
            );
            match applied {
                Ok(applied) => {
                    if let Some((nonce, won)) = applied.won
                        && let Some(fate) = view.awaited.get_mut(&nonce)
                    {
                        *fate = Some(won);
                    }
                    if let Some(name) = applied.changed {
                        self.show(view, &name)?;
                    }
                }
                Err(Unreadable::Format(format)) => {
                    let key = record.key.as_deref().unwrap_or_default();
                    let name = Name::new("record", "", &String::from_utf8_lossy(key));
                    let problem = format!("format {format}");
                    return Err(self.unreadable(&name, record.offset, problem));
                }
                // Not written by any version of this program; it decides nothing.
                Err(error) => tracing::error!(
                    topic = %self.topic, offset = record.offset, error = %error,
                    "a record in the registry's topic is none of ours and is ignored"
                ),
            }
        }
        view.snapshot.offset = batch.next;
        Ok(())
    }

    fn show(&self, view: &mut View, name: &Name) -> Result<(), FollowError> {
        let current = view.log.current(name);
        let first = self.sealer.key_id();
        view.under_old_keys.update(name, current, first);
        view.snapshot
            .update(name, current, &self.sealer)
            .map_err(|problem| {
                let offset = current.map_or(0, |c| c.offset);
                self.unreadable(name, offset, problem)
            })
    }

    fn unreadable(&self, name: &Name, offset: u64, problem: String) -> FollowError {
        FollowError::Unreadable {
            topic: self.topic.clone(),
            offset,
            record: format!("{} {}/{}", name.kind, name.project, name.name),
            problem,
        }
    }
}
