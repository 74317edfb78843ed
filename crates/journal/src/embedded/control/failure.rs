//! How errors cross the control socket.

use crate::{AppendError, JournalError, ReadError};

/// Any of the errors that cross the socket. What does not fit a kind goes as [`FailureKind::Other`] with its text.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Failure {
    #[prost(enumeration = "FailureKind", tag = "1")]
    pub(super) kind: i32,
    #[prost(string, tag = "2")]
    pub(super) topic: String,
    #[prost(uint32, tag = "3")]
    pub(super) partition: u32,
    /// A position, or the bytes of a record.
    #[prost(uint64, tag = "4")]
    pub(super) number: u64,
    /// The start or the end of the partition.
    #[prost(uint64, tag = "5")]
    pub(super) bound: u64,
    #[prost(string, tag = "6")]
    pub(super) what: String,
    #[prost(string, tag = "7")]
    pub(super) reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(super) enum FailureKind {
    Other = 0,
    NoPartition = 1,
    TooLarge = 2,
    Deleted = 3,
    BeyondEnd = 4,
    Closed = 5,
}

impl From<JournalError> for Failure {
    fn from(error: JournalError) -> Self {
        let kind = |kind: FailureKind| Self {
            kind: kind.into(),
            ..Self::default()
        };
        match error {
            JournalError::NoPartition { topic, partition } => Self {
                topic,
                partition,
                ..kind(FailureKind::NoPartition)
            },
            JournalError::Failed { what, reason } => Self {
                what,
                reason,
                ..kind(FailureKind::Other)
            },
            JournalError::Read(error) => error.into(),
            JournalError::Append(error) => error.into(),
            other => Self {
                what: "control".to_owned(),
                reason: other.to_string(),
                ..kind(FailureKind::Other)
            },
        }
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        let (kind, topic, partition, number, bound, reason) = match error {
            ReadError::Deleted {
                topic,
                partition,
                position,
                start,
            } => (
                FailureKind::Deleted,
                topic,
                partition,
                position,
                start,
                String::new(),
            ),
            ReadError::BeyondEnd {
                topic,
                partition,
                position,
                end,
            } => (
                FailureKind::BeyondEnd,
                topic,
                partition,
                position,
                end,
                String::new(),
            ),
            ReadError::Failed {
                topic,
                partition,
                reason,
            } => (FailureKind::Other, topic, partition, 0, 0, reason),
        };
        Self {
            kind: kind.into(),
            topic,
            partition,
            number,
            bound,
            reason,
            what: "read".to_owned(),
        }
    }
}

impl From<AppendError> for Failure {
    fn from(error: AppendError) -> Self {
        let mut failure = Self {
            what: "append".to_owned(),
            reason: error.to_string(),
            ..Self::default()
        };
        let kind = match error {
            AppendError::TooLarge { topic, bytes } => {
                (failure.topic, failure.number) = (topic, bytes as u64);
                FailureKind::TooLarge
            }
            AppendError::NoPartition { topic, partition } => {
                (failure.topic, failure.partition) = (topic, partition);
                FailureKind::NoPartition
            }
            AppendError::Failed { topic, reason } => {
                (failure.topic, failure.reason) = (topic, reason);
                FailureKind::Other
            }
            AppendError::Closed => FailureKind::Closed,
        };
        failure.set_kind(kind);
        failure
    }
}

impl From<Failure> for JournalError {
    fn from(f: Failure) -> Self {
        match f.kind() {
            FailureKind::NoPartition => Self::NoPartition {
                topic: f.topic,
                partition: f.partition,
            },
            _ => Self::Failed {
                what: f.what,
                reason: f.reason,
            },
        }
    }
}

impl From<Failure> for ReadError {
    fn from(f: Failure) -> Self {
        let (topic, partition, position) = (f.topic.clone(), f.partition, f.number);
        match f.kind() {
            FailureKind::Deleted => Self::Deleted {
                topic,
                partition,
                position,
                start: f.bound,
            },
            FailureKind::BeyondEnd => Self::BeyondEnd {
                topic,
                partition,
                position,
                end: f.bound,
            },
            _ => Self::Failed {
                topic,
                partition,
                reason: f.reason,
            },
        }
    }
}

impl From<Failure> for AppendError {
    fn from(f: Failure) -> Self {
        let topic = f.topic.clone();
        match f.kind() {
            FailureKind::TooLarge => Self::TooLarge {
                topic,
                bytes: usize::try_from(f.number).unwrap_or(usize::MAX),
            },
            FailureKind::NoPartition => Self::NoPartition {
                topic,
                partition: f.partition,
            },
            FailureKind::Closed => Self::Closed,
            _ => Self::Failed {
                topic,
                reason: f.reason,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_come_back_as_they_were() {
        let append = [
            AppendError::TooLarge {
                topic: "t".into(),
                bytes: 5,
            },
            AppendError::NoPartition {
                topic: "t".into(),
                partition: 3,
            },
            AppendError::Failed {
                topic: "t".into(),
                reason: "disk".into(),
            },
            AppendError::Closed,
        ];
        for error in append {
            let back = AppendError::from(Failure::from(error.clone()));
            assert_eq!(format!("{back:?}"), format!("{error:?}"));
        }
        let (topic, partition, position) = ("t".to_owned(), 2, 4);
        let read = [
            ReadError::Deleted {
                topic: topic.clone(),
                partition,
                position,
                start: 9,
            },
            ReadError::BeyondEnd {
                topic: topic.clone(),
                partition,
                position,
                end: 1,
            },
            ReadError::Failed {
                topic,
                partition,
                reason: "disk".into(),
            },
        ];
        for error in read {
            let back = ReadError::from(Failure::from(error.clone()));
            assert_eq!(format!("{back:?}"), format!("{error:?}"));
        }
    }
}
