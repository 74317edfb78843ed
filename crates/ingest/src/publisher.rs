//! Appends events, many at a time.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hookline_journal::{AppendError, Appender, Journal, JournalError, Record, append_when_room};
use hookline_model::time::Clock;
use hookline_model::topics::Topic;
use tokio::sync::oneshot;

use crate::line::{Defaults, LineError, Prepared, headers};
use crate::partition::partition_of;

/// Why events cannot be published.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The journal could not be asked.
    #[error("cannot open the topic of events")]
    Journal(#[from] JournalError),
    /// There is nothing to publish to.
    #[error("there is no topic {topic}: make it with `hookline topics create`")]
    NoTopic {
        /// Its full name.
        topic: String,
    },
    /// The journal did not store the event, or may not have.
    #[error("the event was not acknowledged")]
    Append(#[from] AppendError),
    /// The line is not an event.
    #[error(transparent)]
    Line(#[from] LineError),
}

/// An event that was acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The event's id.
    pub id: String,
    /// The partition of `events`.
    pub partition: u32,
    /// Where it stands there; unknown when the broker did not say.
    pub offset: Option<u64>,
}

/// The acknowledgement of one event. Resolves when the journal has stored it for good.
#[must_use = "an event is accepted only once this has resolved"]
pub struct Ack {
    id: String,
    partition: u32,
    told: oneshot::Receiver<Result<hookline_journal::Appended, AppendError>>,
}

impl Future for Ack {
    type Output = Result<Published, PublishError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let told = std::task::ready!(Pin::new(&mut self.told).poll(cx));
        let appended = told.unwrap_or(Err(AppendError::Closed))?;
        Poll::Ready(Ok(Published {
            id: std::mem::take(&mut self.id),
            partition: self.partition,
            offset: appended.offset,
        }))
    }
}

/// Writes events to the topic `events`. Cheap to share by reference; events of one key are stored in the order of the calls.
pub struct Publisher {
    appender: Arc<dyn Appender>,
    topic: String,
    partitions: u32,
    clock: Arc<dyn Clock>,
}

impl Publisher {
    /// Opens the topic of events under `prefix`.
    ///
    /// # Errors
    /// When the journal does not answer, or has no such topic.
    pub async fn open(
        journal: &Arc<dyn Journal>,
        prefix: &str,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, PublishError> {
        let topic = Topic::Events.name(prefix);
        let partitions = journal.topics().await?.get(&topic).map(|t| t.partitions);
        let Some(partitions) = partitions.filter(|n| *n > 0) else {
            return Err(PublishError::NoTopic { topic });
        };
        Ok(Self {
            appender: journal.appender("publish").await?,
            topic,
            partitions,
            clock,
        })
    }

    /// Hands over the event of one line, waiting only for room. The acknowledgement is awaited apart, so that many are under way at a time.
    ///
    /// # Errors
    /// When the line is not an event, or the appender has failed: then open a new publisher.
    pub async fn publish_line(
        &self,
        line: &[u8],
        defaults: &Defaults,
    ) -> Result<Ack, PublishError> {
        let prepared = defaults.prepare(line, self.clock.now())?;
        self.publish(prepared).await
    }

    /// Hands over a prepared event; see [`Publisher::publish_line`].
    ///
    /// # Errors
    /// When the appender has failed: then open a new publisher.
    pub async fn publish(&self, event: Prepared) -> Result<Ack, PublishError> {
        let partition = partition_of(event.key.as_bytes(), self.partitions);
        let record = Record {
            key: Some(Bytes::from(event.key)),
            value: Some(event.value),
            headers: headers(),
        };
        let (tell, told) = oneshot::channel();
        append_when_room(
            &*self.appender,
            &self.topic,
            partition,
            record,
            Box::new(move |result| drop(tell.send(result))),
        )
        .await?;
        Ok(Ack {
            id: event.id,
            partition,
            told,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hookline_journal::embedded::{EmbeddedConfig, EmbeddedJournal};
    use hookline_journal::{Cleanup, ReadBudget, TopicSpec};
    use hookline_model::event::{self, Input};
    use hookline_model::limits;
    use hookline_model::time::Millis;

    use super::*;

    struct Fixed;

    impl Clock for Fixed {
        fn now(&self) -> Millis {
            Millis(1_700_000_000_000)
        }
        fn boot(&self) -> Duration {
            Duration::ZERO
        }
    }

    async fn journal(dir: &std::path::Path) -> Arc<EmbeddedJournal> {
        let journal = EmbeddedJournal::open(EmbeddedConfig::new(dir, Arc::new(Fixed))).unwrap();
        let topic = TopicSpec {
            name: "h.events".into(),
            partitions: 4,
            replication: 1,
            cleanup: Cleanup::Delete { retention: None },
            append_time: false,
            max_record_bytes: limits::RECORD_BYTES_MAX,
            settings: std::collections::BTreeMap::new(),
        };
        journal.create_topics(&[topic]).await.unwrap();
        journal
    }

    #[tokio::test]
    async fn events_of_a_key_are_stored_in_order_where_any_producer_puts_them() {
        let dir = tempfile::tempdir().unwrap();
        let engine = journal(dir.path()).await;
        let journal: Arc<dyn Journal> = engine.clone();
        let publisher = Publisher::open(&journal, "h.", Arc::new(Fixed))
            .await
            .unwrap();
        let defaults = Defaults {
            project: Some("demo".into()),
            event_type: Some("a.b".into()),
            key: Some("21".into()),
            source: None,
        };
        let mut acks = Vec::new();
        for n in 0..100 {
            let line = n.to_string();
            acks.push(
                publisher
                    .publish_line(line.as_bytes(), &defaults)
                    .await
                    .unwrap(),
            );
        }
        let wrong = publisher.publish_line(b"{", &defaults).await;
        assert!(matches!(
            wrong,
            Err(PublishError::Line(LineError::Json { .. }))
        ));
        let partition = partition_of(b"21", 4);
        for ack in acks {
            let published = ack.await.unwrap();
            assert_eq!(published.partition, partition);
            assert!(published.offset.is_some());
        }
        let budget = ReadBudget::of(1 << 20);
        let mut reader = journal
            .reader("h.events", partition, 0, budget)
            .await
            .unwrap();
        let mut data = Vec::new();
        while data.len() < 100 {
            for record in reader.next(1000).await.unwrap().records {
                let input = Input {
                    key: record.key.as_deref(),
                    value: record.value.as_ref(),
                    headers: &record.headers,
                };
                let event = event::parse(input, limits::EVENT_BYTES_MAX).unwrap();
                assert_eq!((event.project.as_str(), event.key.as_str()), ("demo", "21"));
                data.push(String::from_utf8(event.data.to_vec()).unwrap());
            }
        }
        let expected: Vec<_> = (0..100).map(|n| n.to_string()).collect();
        assert_eq!(data, expected);
        drop(reader);
        engine.close().await;
    }

    #[tokio::test]
    async fn without_the_topic_it_says_how_to_make_it() {
        let dir = tempfile::tempdir().unwrap();
        let engine = journal(dir.path()).await;
        let journal: Arc<dyn Journal> = engine.clone();
        let error = Publisher::open(&journal, "other.", Arc::new(Fixed))
            .await
            .err()
            .unwrap();
        assert!(error.to_string().contains("other.events"), "{error}");
        engine.close().await;
    }
}
