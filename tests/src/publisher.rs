//! Publishes what an oracle hands out, straight into the topic `events` as any producer may, and tells it what was acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hookline_journal::{Appender, Journal, Record, append_when_room};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::oracle::{Event, Oracle};
use crate::program::{Site, kafka_journal_at};

/// How often a stream hands over what is due.
const TICK: Duration = Duration::from_millis(5);
/// How long acknowledgements may take when nothing is wrong with the journal.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(30);

/// A producer of events.
#[derive(Clone)]
pub struct Publisher {
    oracle: Arc<Oracle>,
    appender: Arc<dyn Appender>,
    topic: String,
    partitions: u32,
    under_way: Arc<UnderWay>,
}

/// Events handed over and not yet answered.
#[derive(Default)]
struct UnderWay {
    count: AtomicUsize,
    /// How many were acknowledged, and how long that took all in all.
    acknowledged: Mutex<(u32, Duration)>,
    failed: Mutex<Option<String>>,
    answered: Notify,
}

impl Publisher {
    /// One for this site. On the embedded engine it goes through the running program and ends with it.
    ///
    /// # Panics
    /// When the journal cannot be reached.
    pub async fn open(site: &Site, oracle: &Arc<Oracle>) -> Self {
        Self::over(site.journal().await, site, oracle).await
    }

    /// One for this site that reaches its brokers in its own way.
    ///
    /// # Panics
    /// When they do not answer.
    pub async fn open_at(site: &Site, servers: &str, oracle: &Arc<Oracle>) -> Self {
        Self::over(kafka_journal_at(servers, "producer"), site, oracle).await
    }

    async fn over(journal: Arc<dyn Journal>, site: &Site, oracle: &Arc<Oracle>) -> Self {
        let topic = site.topic("events");
        let topics = journal
            .topics()
            .await
            .expect("the journal lists its topics");
        Self {
            oracle: Arc::clone(oracle),
            appender: journal.appender("oracle").await.expect("an appender"),
            partitions: topics[&topic].partitions,
            topic,
            under_way: Arc::default(),
        }
    }

    /// Publishes so many events and waits until all are acknowledged; the number of the last one.
    ///
    /// # Panics
    /// When one is not.
    pub async fn publish(&self, count: usize) -> usize {
        let mut last = 0;
        for _ in 0..count {
            last = self.hand_over().await.expect("the journal takes events");
        }
        self.settled(ACKNOWLEDGED_WITHIN)
            .await
            .expect("acknowledged");
        last
    }

    /// Publishes so many events a second from now on. What fails to be acknowledged is perhaps there; after it nothing more is published.
    #[must_use]
    pub fn stream(&self, per_second: f64) -> Stream {
        let stop = Arc::new(AtomicBool::new(false));
        let (publisher, stopped) = (self.clone(), Arc::clone(&stop));
        let mut publishing = JoinSet::new();
        #[expect(
            clippy::disallowed_methods,
            reason = "the set is owned by the stream, which is waited for or ends it"
        )]
        publishing.spawn(async move {
            let mut ticks = interval(TICK);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let (begun, mut handed) = (Instant::now(), 0_usize);
            while !stopped.load(Ordering::Relaxed) {
                ticks.tick().await;
                let due = begun.elapsed().as_secs_f64() * per_second;
                while (handed as f64) < due {
                    if publisher.hand_over().await.is_err() {
                        return handed;
                    }
                    handed += 1;
                }
            }
            handed
        });
        Stream {
            publisher: self.clone(),
            stop,
            publishing,
        }
    }

    /// Hands over the next event, waiting only for room.
    async fn hand_over(&self) -> Result<usize, String> {
        let event = self.oracle.hand_out();
        let (oracle, under_way, number) = (
            Arc::clone(&self.oracle),
            Arc::clone(&self.under_way),
            event.number,
        );
        under_way.count.fetch_add(1, Ordering::AcqRel);
        let done = {
            let (under_way, handed) = (Arc::clone(&under_way), Instant::now());
            Box::new(move |result: Result<_, _>| {
                match result {
                    Ok(_) => {
                        oracle.accepted(number);
                        let mut acknowledged = under_way.acknowledged.lock();
                        acknowledged.0 += 1;
                        acknowledged.1 += handed.elapsed();
                    }
                    Err(error) => under_way.fail(&error),
                }
                under_way.answer();
            })
        };
        let partition = partition_of(&event, self.partitions);
        append_when_room(
            &*self.appender,
            &self.topic,
            partition,
            record(&event),
            done,
        )
        .await
        .map_err(|error| {
            under_way.fail(&error);
            under_way.answer();
            error.to_string()
        })?;
        Ok(number)
    }

    /// How long an acknowledgement takes on average: what the journal itself costs.
    #[must_use]
    pub fn round_trip(&self) -> Duration {
        let (count, all) = *self.under_way.acknowledged.lock();
        all / count.max(1)
    }

    /// Waits until everything handed over is answered.
    ///
    /// # Errors
    /// What went wrong first, if anything has, ever.
    ///
    /// # Panics
    /// When it takes too long.
    pub async fn settled(&self, within: Duration) -> Result<(), String> {
        let all = async {
            loop {
                let answered = self.under_way.answered.notified();
                if self.under_way.count.load(Ordering::Acquire) == 0 {
                    return;
                }
                answered.await;
            }
        };
        timeout(within, all)
            .await
            .unwrap_or_else(|_| panic!("events were not answered within {within:?}"));
        match &*self.under_way.failed.lock() {
            None => Ok(()),
            Some(error) => Err(error.clone()),
        }
    }
}

impl UnderWay {
    fn fail(&self, error: &dyn std::fmt::Display) {
        self.failed.lock().get_or_insert_with(|| error.to_string());
    }

    fn answer(&self) {
        self.count.fetch_sub(1, Ordering::AcqRel);
        self.answered.notify_waiters();
    }
}

/// Publishing that goes on.
pub struct Stream {
    publisher: Publisher,
    stop: Arc<AtomicBool>,
    publishing: JoinSet<usize>,
}

impl Stream {
    /// Ends it, waits for the answers that are under way, and says how many events were handed over.
    ///
    /// # Errors
    /// What went wrong first, if anything has.
    ///
    /// # Panics
    /// When that takes too long.
    pub async fn finish(mut self, within: Duration) -> Result<usize, String> {
        self.stop.store(true, Ordering::Relaxed);
        let handed = timeout(within, self.publishing.join_next()).await;
        let handed = handed
            .unwrap_or_else(|_| panic!("publishing did not end within {within:?}"))
            .expect("there is one task")
            .expect("it does not panic");
        self.publisher.settled(within).await.map(|()| handed)
    }
}

/// Any partition will do, as long as it is the same for the same key.
fn partition_of(event: &Event, partitions: u32) -> u32 {
    let sum = event.key.bytes().fold(0_u32, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(u32::from(byte))
    });
    sum % partitions.max(1)
}

fn record(event: &Event) -> Record {
    Record {
        key: Some(Bytes::from(event.key.clone())),
        value: Some(Bytes::from(event.document())),
        headers: vec![(
            "content-type".to_owned(),
            Bytes::from_static(b"application/cloudevents+json"),
        )],
    }
}
