//! The write protocol: read to the end, take version v, append v + 1, and see whether it became current at its own offset.
//!
//! What was seen counts only within the time that a write may take, by a clock that runs while the machine is suspended. Later the records
//! to which this one lost may have been superseded themselves and compacted away, and it would look like the winner.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hookline_journal::{AppendError, AppendRefused, Appended, Appender, Record, append_when_room};
use hookline_model::time::Clock;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::error::{FollowError, WriteError};
use crate::follow::Follow;
use crate::log::{Current, Name, Nonce, encode_key, encode_value};

/// Losing so often in a row means that somebody writes all the time.
const TRIES: u32 = 20;

/// What an edit wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// This content is to be current.
    Put(Bytes),
    /// It is to be deleted; the content is kept so that it can be restored.
    Delete(Bytes),
    /// The same content in another form: it stays deleted or not, and as old as it is.
    Again(Bytes),
    /// It is already as it should be.
    Nothing,
}

/// What came of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// The version that is current now; 0 if there is none.
    pub version: u64,
    /// The registry's offset from which on everybody sees it (exclusive).
    pub offset: u64,
    /// Whether a record was written.
    pub changed: bool,
}

/// Writes to the log.
pub(crate) struct Write {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) timeout: Duration,
    appender: tokio::sync::Mutex<Option<Arc<dyn Appender>>>,
}

/// Until when a write may take.
#[derive(Clone, Copy)]
struct Deadline {
    /// For waiting.
    at: Instant,
    /// The same on the clock that runs while suspended, for believing what was seen.
    boot: Duration,
}

/// What is known about an append.
enum Fate {
    Acknowledged(Appended),
    NotTaken(AppendError),
    Unknown,
}

/// Waits for an own record; forgets it when dropped.
struct Awaited<'a>(&'a Follow, Nonce);

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        self.0.view.lock().awaited.remove(&self.1);
    }
}

impl Write {
    pub(crate) fn new(clock: Arc<dyn Clock>, timeout: Duration) -> Self {
        Self {
            clock,
            timeout,
            appender: tokio::sync::Mutex::new(None),
        }
    }

    /// See [`Registry::write`](crate::Registry::write).
    pub(crate) async fn write(
        &self,
        follow: &Follow,
        name: &Name,
        if_match: Option<u64>,
        edit: &mut (dyn FnMut(Option<&Current>) -> Result<Change, WriteError> + Send),
    ) -> Result<Written, WriteError> {
        let deadline = Deadline {
            at: Instant::now() + self.timeout,
            boot: self.clock.boot() + self.timeout,
        };
        for _ in 0..TRIES {
            let current = timeout_at(deadline.at, at_end(follow, name))
                .await
                .map_err(|_| behind(follow, self.timeout))??;
            let live = current.as_ref().filter(|c| !c.deleted);
            let version = live.map_or(0, |c| c.version);
            if let Some(expected) = if_match
                && expected != version
            {
                return Err(conflict(name, expected, version));
            }
            let now = self.clock.now().0;
            let (deleted, written_at_ms, body) = match (edit(current.as_ref())?, &current) {
                (Change::Put(body), _) | (Change::Again(body), None) => (false, now, body),
                (Change::Delete(body), _) => (true, now, body),
                (Change::Again(body), Some(same)) => (same.deleted, same.written_at_ms, body),
                (Change::Nothing, _) => {
                    return Ok(Written {
                        version,
                        offset: current.map_or(0, |c| c.offset + 1),
                        changed: false,
                    });
                }
            };
            let mut nonce = Nonce::default();
            follow.sealer.random(&mut nonce)?;
            let record = Current {
                version: current.as_ref().map_or(0, |c| c.version) + 1,
                offset: 0,
                deleted,
                written_at_ms,
                body,
                nonce,
            };
            match self.decide(follow, name, &record, deadline).await? {
                Some(offset) => {
                    return Ok(Written {
                        version: record.version,
                        offset,
                        changed: true,
                    });
                }
                None if if_match.is_some() => {
                    let expected = if_match.unwrap_or_default();
                    let now = follow
                        .view
                        .lock()
                        .log
                        .current(name)
                        .map_or(0, |c| c.version);
                    return Err(conflict(name, expected, now));
                }
                None => {}
            }
        }
        Err(WriteError::Contended {
            kind: name.kind.to_string(),
            name: full(name),
        })
    }

    /// Appends the record and says whether it has won: the offset behind it, or `None`.
    async fn decide(
        &self,
        follow: &Follow,
        name: &Name,
        record: &Current,
        deadline: Deadline,
    ) -> Result<Option<u64>, WriteError> {
        let unknown = || WriteError::OutcomeUnknown {
            kind: name.kind.to_string(),
            name: full(name),
        };
        let nonce = record.nonce;
        follow.view.lock().awaited.insert(nonce, None);
        let _awaited = Awaited(follow, nonce);
        let stored = Record {
            key: Some(encode_key(name, record.version, &nonce)),
            value: Some(encode_value(name, record)),
            headers: Vec::new(),
        };
        let mut behind = None;
        hookline_model::fail_point!("registry-appending");
        match self.append(follow, stored, deadline.at).await? {
            Fate::Acknowledged(appended) => behind = appended.offset.map(|o| o + 1),
            Fate::NotTaken(error) => return Err(WriteError::Journal(error.into())),
            // It may have been stored all the same: then it shows in the log.
            Fate::Unknown => {}
        }
        hookline_model::fail_point!("registry-appended");
        let seen = follow.until(|view| match view.awaited.get(&nonce) {
            Some(Some(won)) => Some(Some((*won, view.snapshot.offset))),
            // Passed and not there: superseded and compacted away before it was read.
            _ if behind.is_some_and(|o| view.snapshot.offset >= o) => Some(None),
            _ => None,
        });
        match timeout_at(deadline.at, seen).await {
            Ok(Ok(Some((true, _)))) if self.clock.boot() >= deadline.boot => Err(unknown()),
            Ok(Ok(Some((won, offset)))) => Ok(won.then_some(offset)),
            Ok(Ok(None)) | Err(_) => Err(unknown()),
            Ok(Err(error)) => {
                tracing::error!(error = %error, "the registry can no longer be followed");
                Err(unknown())
            }
        }
    }

    /// Appends one record, with a new appender if the last one has failed.
    async fn append(
        &self,
        follow: &Follow,
        record: Record,
        deadline: Instant,
    ) -> Result<Fate, WriteError> {
        for last_try in [false, true] {
            let appender = timeout_at(deadline, self.appender(follow))
                .await
                .map_err(|_| behind(follow, self.timeout))??;
            let (tell, told) = oneshot::channel();
            let done = Box::new(move |result| drop(tell.send(result)));
            match appender.append(&follow.topic, 0, record.clone(), done) {
                Ok(()) => {}
                Err(AppendRefused::Full { .. }) => {
                    // Nothing but these rare writes goes through it, so this does not last.
                    if timeout_at(deadline, appender.room()).await.is_err() || last_try {
                        return Ok(Fate::NotTaken(AppendError::Closed));
                    }
                    continue;
                }
                Err(AppendRefused::Failed(error)) => {
                    self.forget(&appender).await;
                    if last_try || permanent(&error) {
                        return Ok(Fate::NotTaken(error));
                    }
                    continue;
                }
            }
            return Ok(match timeout_at(deadline, told).await {
                Ok(Ok(Ok(appended))) => Fate::Acknowledged(appended),
                Ok(Ok(Err(error))) if permanent(&error) => Fate::NotTaken(error),
                Ok(_) => {
                    self.forget(&appender).await;
                    Fate::Unknown
                }
                // Still on its way, perhaps; the appender goes on.
                Err(_) => Fate::Unknown,
            });
        }
        Ok(Fate::NotTaken(AppendError::Closed))
    }

    async fn appender(&self, follow: &Follow) -> Result<Arc<dyn Appender>, WriteError> {
        let mut slot = self.appender.lock().await;
        match &mut *slot {
            Some(appender) => Ok(Arc::clone(appender)),
            none => Ok(Arc::clone(
                none.insert(follow.journal.appender("registry").await?),
            )),
        }
    }

    async fn forget(&self, failed: &Arc<dyn Appender>) {
        let mut slot = self.appender.lock().await;
        if slot.as_ref().is_some_and(|a| Arc::ptr_eq(a, failed)) {
            *slot = None;
        }
    }

    /// Tombstones up to `max` records below `before` that are not current. Says how many.
    pub(crate) async fn tidy(
        &self,
        follow: &Follow,
        before: u64,
        max: usize,
    ) -> Result<usize, WriteError> {
        let keys = follow.view.lock().log.superseded(before, max);
        if keys.is_empty() {
            return Ok(0);
        }
        let appender = self.appender(follow).await?;
        let mut last = None;
        for key in &keys {
            let (tell, told) = oneshot::channel();
            let tombstone = Record {
                key: Some(key.clone()),
                value: None,
                headers: Vec::new(),
            };
            let done = Box::new(move |result| drop(tell.send(result)));
            if let Err(error) =
                append_when_room(&*appender, &follow.topic, 0, tombstone, done).await
            {
                self.forget(&appender).await;
                return Err(WriteError::Journal(error.into()));
            }
            last = Some(told);
        }
        // One appender stores in order: with the last acknowledged, all are.
        if let Some(told) = last
            && let Ok(Err(error)) = told.await
        {
            self.forget(&appender).await;
            return Err(WriteError::Journal(error.into()));
        }
        Ok(keys.len())
    }
}

/// What is current at the end of the log.
async fn at_end(follow: &Follow, name: &Name) -> Result<Option<Current>, WriteError> {
    let end = follow.journal.end(&follow.topic, 0).await?;
    follow
        .until(|view| (view.snapshot.offset >= end).then(|| view.log.current(name).cloned()))
        .await
        .map_err(WriteError::from)
}

fn permanent(error: &AppendError) -> bool {
    matches!(
        error,
        AppendError::TooLarge { .. } | AppendError::NoPartition { .. }
    )
}

fn behind(follow: &Follow, waited: Duration) -> WriteError {
    WriteError::Follow(FollowError::Journal(
        hookline_journal::JournalError::Timeout {
            what: format!("reading {} to its end", follow.topic),
            waited,
        },
    ))
}

fn full(name: &Name) -> String {
    format!("{}/{}", name.project, name.name)
}

fn conflict(name: &Name, expected: u64, version: u64) -> WriteError {
    WriteError::Conflict {
        kind: name.kind.to_string(),
        name: full(name),
        expected,
        version,
    }
}
