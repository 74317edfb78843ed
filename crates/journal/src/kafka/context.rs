//! What the client library tells: log lines and errors, turned into our log. Nothing here decides anything.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio::time::Instant;

/// While a broker is away every client says so dozens of times a second: of each kind of trouble one line in this time is enough.
const SAY_AGAIN: Duration = Duration::from_secs(30);

/// A context that only logs.
pub(crate) struct LogContext {
    client: String,
    said: Said,
}

/// When each kind of trouble was last told, and how often it was left out since. The kinds are the library's own words, a few dozen.
#[derive(Default)]
struct Said(Mutex<BTreeMap<String, (Instant, u64)>>);

impl Said {
    /// Whether to say it now, and how often it was left out before.
    fn now(&self, kind: &str) -> Option<u64> {
        let now = Instant::now();
        let mut said = self.0.lock();
        match said.get_mut(kind) {
            Some((last, left_out)) if now < *last + SAY_AGAIN => {
                *left_out += 1;
                None
            }
            Some((last, left_out)) => {
                *last = now;
                Some(std::mem::take(left_out))
            }
            None => {
                said.insert(kind.to_owned(), (now, 0));
                Some(0)
            }
        }
    }
}

impl LogContext {
    pub(crate) fn new(client: &str) -> Self {
        Self {
            client: client.to_owned(),
            said: Said::default(),
        }
    }

    pub(crate) fn line(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        use RDKafkaLogLevel as L;
        let client = self.client.as_str();
        // Settings of producers are handed to consumers, too, and the other way round: the library remarks on each.
        if facility == "CONFWARN" {
            tracing::trace!(target: "librdkafka", client, facility, "{text}");
            return;
        }
        match level {
            L::Emerg | L::Alert | L::Critical => {
                tracing::error!(target: "librdkafka", client, facility, "{text}");
            }
            // Lost connections and the like: the library goes on trying.
            L::Error | L::Warning => match self.said.now(facility) {
                Some(left_out) => {
                    tracing::warn!(target: "librdkafka", client, facility, left_out, "{text}");
                }
                None => tracing::debug!(target: "librdkafka", client, facility, "{text}"),
            },
            L::Notice | L::Info => {
                tracing::debug!(target: "librdkafka", client, facility, "{text}");
            }
            L::Debug => tracing::trace!(target: "librdkafka", client, facility, "{text}"),
        }
    }

    pub(crate) fn trouble(&self, error: &KafkaError, reason: &str) {
        use RDKafkaErrorCode as Code;
        let client = self.client.as_str();
        match error.rdkafka_error_code() {
            // Not trouble: readers ask to be told, and tell themselves.
            Some(Code::PartitionEOF | Code::AutoOffsetReset) => {}
            Some(Code::Fatal) => {
                tracing::error!(client, reason, "kafka client failed for good");
            }
            // The library's log line says the same, and more.
            Some(Code::BrokerTransportFailure | Code::AllBrokersDown) => {
                tracing::debug!(client, %error, reason, "kafka client is in trouble");
            }
            _ => match self.said.now(&error.to_string()) {
                Some(left_out) => {
                    tracing::warn!(client, %error, reason, left_out, "kafka client is in trouble");
                }
                None => tracing::debug!(client, %error, reason, "kafka client is in trouble"),
            },
        }
    }
}

impl ClientContext for LogContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        self.line(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.trouble(&error, reason);
    }

    fn stats_raw(&self, _: &[u8]) {}
}

impl ConsumerContext for LogContext {}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_kind_of_trouble_is_told_now_and_then_and_what_was_left_out_is_counted() {
        let said = Said::default();
        assert_eq!(said.now("FAIL"), Some(0));
        assert_eq!(said.now("FAIL"), None);
        assert_eq!(said.now("SESSTMOUT"), Some(0), "another kind");
        tokio::time::advance(SAY_AGAIN).await;
        assert_eq!(said.now("FAIL"), Some(1));
        assert_eq!(said.now("FAIL"), None);
    }
}
