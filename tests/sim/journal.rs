//! The journal as one life of a process sees it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hookline_journal::*;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout_at};

use super::clock::SimClock;
use super::groups::Letters;
use super::world::{Life, NotTaken, Shared, World, place};

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// See the module's documentation.
#[derive(Clone)]
pub(crate) struct SimJournal {
    pub(crate) world: Shared,
    pub(crate) life: Life,
    pub(crate) clock: Arc<SimClock>,
}

impl SimJournal {
    /// Resolves when the brokers can be reached.
    async fn reached(&self) {
        loop {
            let healed = {
                let world = self.world.lock();
                if world.reaches(self.life) {
                    return;
                }
                world.healed[&self.life].clone()
            };
            healed.notified().await;
        }
    }

    /// A question and its answer, either of which may get lost.
    async fn ask<T>(
        &self,
        what: &str,
        hear: impl FnOnce(&mut World) -> Result<T, JournalError> + Send,
    ) -> Result<T, JournalError> {
        let until = Instant::now() + PATIENCE;
        let lost = || JournalError::Timeout {
            what: what.to_owned(),
            waited: PATIENCE,
        };
        let (there, back, unanswered, unheard) = {
            let mut world = self.world.lock();
            world.happened += 1;
            let unanswered = {
                let likely = world.weather.unanswered;
                world.chance(likely)
            };
            (
                world.latency(),
                world.latency(),
                unanswered,
                world.random.bool(),
            )
        };
        sleep(millis(there)).await;
        if timeout_at(until, self.reached()).await.is_err() {
            return Err(lost());
        }
        if unanswered && unheard {
            tokio::time::sleep_until(until).await;
            return Err(lost());
        }
        let answer = hear(&mut self.world.lock());
        if unanswered {
            tokio::time::sleep_until(until).await;
            return Err(lost());
        }
        sleep(millis(back)).await;
        answer
    }

    fn known<'a>(
        world: &'a mut World,
        topic: &str,
        partition: u32,
    ) -> Result<&'a mut super::world::Log, JournalError> {
        world
            .logs
            .get_mut(&place(topic, partition))
            .ok_or_else(|| JournalError::NoPartition {
                topic: topic.to_owned(),
                partition,
            })
    }
}

fn millis(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

#[async_trait]
impl Journal for SimJournal {
    async fn appender(&self, _: &str) -> Result<Arc<dyn Appender>, JournalError> {
        let mut world = self.world.lock();
        let id = world.new_appender();
        let room = world.room_of(id);
        Ok(Arc::new(SimAppender {
            journal: self.clone(),
            id,
            room,
        }))
    }

    async fn reader(
        &self,
        topic: &str,
        partition: u32,
        from: u64,
        budget: ReadBudget,
    ) -> Result<Box<dyn Reader>, JournalError> {
        let notify = Arc::new(Notify::new());
        let mut world = self.world.lock();
        Self::known(&mut world, topic, partition)?;
        let at = place(topic, partition);
        world.follow(&at, self.life, notify.clone());
        Ok(Box::new(SimReader {
            journal: self.clone(),
            place: at,
            position: from,
            bytes: budget.bytes,
            notify,
        }))
    }

    async fn start(&self, topic: &str, partition: u32) -> Result<u64, JournalError> {
        self.ask("start", |world| {
            Ok(Self::known(world, topic, partition)?.start)
        })
        .await
    }

    async fn end(&self, topic: &str, partition: u32) -> Result<u64, JournalError> {
        self.ask("end", |world| Ok(Self::known(world, topic, partition)?.end))
            .await
    }

    async fn delete_records(
        &self,
        topic: &str,
        partition: u32,
        before: u64,
    ) -> Result<(), JournalError> {
        self.ask("delete records", |world| {
            Self::known(world, topic, partition)?;
            world.delete(&place(topic, partition), before);
            Ok(())
        })
        .await
    }

    async fn join(&self, spec: GroupSpec) -> Result<Box<dyn Member>, JournalError> {
        let letters = Arc::new(Letters::default());
        let session = i64::try_from(spec.session_timeout.as_millis()).unwrap_or(i64::MAX);
        // Whoever joins makes a client and no more; that the group hears of it takes a while.
        let delay = self.world.lock().latency();
        sleep(millis(delay)).await;
        self.world.lock().join(
            &spec.group,
            self.life,
            &spec.topics,
            session,
            letters.clone(),
        );
        Ok(Box::new(SimMember {
            journal: self.clone(),
            group: spec.group,
            letters,
        }))
    }

    async fn committed(
        &self,
        group: &str,
        partitions: &[TopicPartition],
    ) -> Result<Vec<Option<Committed>>, JournalError> {
        self.ask("committed", |world| {
            let of = |place: &TopicPartition| {
                world
                    .committed
                    .get(&(group.to_owned(), place.clone()))
                    .cloned()
            };
            Ok(partitions.iter().map(of).collect())
        })
        .await
    }

    async fn create_topics(&self, topics: &[TopicSpec]) -> Result<(), JournalError> {
        let mut world = self.world.lock();
        for topic in topics {
            world.make_topic(&topic.name, topic.partitions);
        }
        Ok(())
    }

    async fn topics(&self) -> Result<BTreeMap<String, TopicInfo>, JournalError> {
        Ok(BTreeMap::new())
    }

    async fn healthy(&self) -> bool {
        self.world.lock().reaches(self.life)
    }
}

struct SimAppender {
    journal: SimJournal,
    id: u64,
    room: Arc<Notify>,
}

#[async_trait]
impl Appender for SimAppender {
    fn append(
        &self,
        topic: &str,
        partition: u32,
        record: Record,
        done: OnAppended,
    ) -> Result<(), AppendRefused> {
        let SimJournal { world, life, clock } = &self.journal;
        let sent = world.lock().send(
            *life,
            self.id,
            place(topic, partition),
            record,
            done,
            clock.elapsed_ms(),
        );
        sent.map_err(|not| match not {
            NotTaken::Full(record, done) => AppendRefused::Full {
                record: Box::new(record),
                done,
            },
            NotTaken::Failed(error) => AppendRefused::Failed(error),
        })
    }

    async fn room(&self) {
        loop {
            let freed = self.room.notified();
            if self.journal.world.lock().has_room(self.id) {
                return;
            }
            freed.await;
        }
    }
}

struct SimReader {
    journal: SimJournal,
    place: TopicPartition,
    position: u64,
    bytes: usize,
    notify: Arc<Notify>,
}

impl SimReader {
    fn look(&mut self, max: usize) -> Option<Result<Batch, ReadError>> {
        let mut world = self.journal.world.lock();
        if !world.reaches(self.journal.life) {
            return None;
        }
        let log = world.log(&self.place);
        let (start, end, position) = (log.start, log.end, self.position);
        let TopicPartition { topic, partition } = self.place.clone();
        if position < start {
            return Some(Err(ReadError::Deleted {
                topic,
                partition,
                position,
                start,
            }));
        }
        if position > end {
            return Some(Err(ReadError::BeyondEnd {
                topic,
                partition,
                position,
                end,
            }));
        }
        if position == end {
            return None;
        }
        let mut bytes = 0;
        let mut records = Vec::new();
        let mut next = end;
        for (offset, record) in log.records.range(position..) {
            let size = record.value.as_ref().map_or(0, |value| value.len());
            if records.len() >= max || (bytes + size > self.bytes && !records.is_empty()) {
                next = *offset;
                break;
            }
            bytes += size;
            records.push(record.clone());
        }
        self.position = next;
        if let Some(lie) = world.lie {
            records
                .iter_mut()
                .for_each(|record| lie.tell(&topic, record));
        }
        world.happened += 1;
        Some(Ok(Batch { records, next }))
    }
}

#[async_trait]
impl Reader for SimReader {
    async fn next(&mut self, max: usize) -> Result<Batch, ReadError> {
        loop {
            let slow = {
                let mut world = self.journal.world.lock();
                let likely = world.weather.slow_read;
                world.chance(likely).then(|| world.random.u64(1..400))
            };
            if let Some(slow) = slow {
                sleep(Duration::from_millis(slow)).await;
            }
            let notify = self.notify.clone();
            let changed = notify.notified();
            if let Some(found) = self.look(max) {
                return found;
            }
            changed.await;
        }
    }

    fn position(&self) -> u64 {
        self.position
    }
}

impl Drop for SimReader {
    fn drop(&mut self) {
        self.journal
            .world
            .lock()
            .unfollow(&self.place, &self.notify);
    }
}

struct SimMember {
    journal: SimJournal,
    group: String,
    letters: Arc<Letters>,
}

#[async_trait]
impl Member for SimMember {
    async fn next(&mut self) -> Result<MemberEvent, JournalError> {
        loop {
            let filled = self.letters.filled.notified();
            let event = self.letters.events.lock().pop_front();
            match event {
                Some(event) => return event,
                None => filled.await,
            }
        }
    }

    fn committer(&self) -> Arc<dyn Committer> {
        Arc::new(SimCommitter {
            journal: self.journal.clone(),
            group: self.group.clone(),
            letters: self.letters.clone(),
        })
    }

    async fn leave(self: Box<Self>) {}
}

impl Drop for SimMember {
    fn drop(&mut self) {
        self.letters
            .gone
            .store(true, std::sync::atomic::Ordering::Relaxed);
        // What was not read is let go, and with it the guards of what is to be given back.
        let unread = std::mem::take(&mut *self.letters.events.lock());
        drop(unread);
        let mut world = self.journal.world.lock();
        if world.alive(self.journal.life) {
            world.leave(&self.group, &self.letters);
        }
    }
}

struct SimCommitter {
    journal: SimJournal,
    group: String,
    letters: Arc<Letters>,
}

#[async_trait]
impl Committer for SimCommitter {
    async fn commit(
        &self,
        positions: Vec<(TopicPartition, Committed)>,
    ) -> Result<(), JournalError> {
        let (group, letters) = (self.group.clone(), self.letters.clone());
        self.journal
            .ask("commit", move |world| {
                if !world.renew(&group, &letters) {
                    return Err(JournalError::NotMember { group });
                }
                for (place, position) in positions {
                    world.trace.line(
                        world.now,
                        format_args!(
                            "{group}: {}[{}] committed {}",
                            place.topic, place.partition, position.offset
                        ),
                    );
                    let reached = world
                        .reached
                        .entry((group.clone(), place.clone()))
                        .or_default();
                    *reached = position.offset.max(*reached);
                    world.committed.insert((group.clone(), place), position);
                }
                Ok(())
            })
            .await
    }
}
