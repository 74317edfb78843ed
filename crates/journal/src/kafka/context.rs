//! What the client library tells: log lines and errors, turned into our log. Nothing here decides anything.

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// A context that only logs.
pub(crate) struct LogContext {
    client: String,
}

impl LogContext {
    pub(crate) fn new(client: &str) -> Self {
        Self {
            client: client.to_owned(),
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
            L::Error | L::Warning => {
                tracing::warn!(target: "librdkafka", client, facility, "{text}");
            }
            L::Notice | L::Info => {
                tracing::debug!(target: "librdkafka", client, facility, "{text}");
            }
            L::Debug => tracing::trace!(target: "librdkafka", client, facility, "{text}"),
        }
    }

    pub(crate) fn trouble(&self, error: &KafkaError, reason: &str) {
        let client = self.client.as_str();
        match error.rdkafka_error_code() {
            // Not trouble: readers ask to be told, and tell themselves.
            Some(RDKafkaErrorCode::PartitionEOF | RDKafkaErrorCode::AutoOffsetReset) => {}
            Some(RDKafkaErrorCode::Fatal) => {
                tracing::error!(client, reason, "kafka client failed for good");
            }
            _ => tracing::warn!(client, %error, reason, "kafka client is in trouble"),
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
