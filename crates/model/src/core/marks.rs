//! Repeats are recognised by their source.
//!
//! Every send on `deliveries` says where it came from: a stream and a position in it, and writers keep each stream's order. So the highest
//! position seen of a stream tells what is new: a process killed between producing and committing, or a zombie of it, repeats nothing.
//!
//! A stream is forgotten when it can no longer speak. That is judged by what has been read, not by a clock: a repeat that was written in time may be
//! read much later, when the partition stood still in between, and the mark must still be there then.

use std::collections::BTreeMap;
use std::time::Duration;

use super::mutation::mutated;
use crate::ids::{Position, WebhookUid};
use crate::limits::{JOB_MARK_KEPT, PATH_MARK_GRACE};
use crate::time::Millis;
use crate::wire;

/// Where sends come from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stream {
    /// Fan-out of a partition of `events`; the generation is raised when an operator accepts that the topic was made anew.
    Events {
        /// The partition of `events`.
        partition: u32,
        /// The layout's number for it.
        generation: u32,
    },
    /// What comes back through these tiers (milliseconds each).
    Path(Vec<u64>),
    /// A job reading a source partition.
    Job {
        /// The job.
        job: String,
        /// Its source partition.
        partition: u32,
    },
    /// Runs that people started.
    Commands {
        /// The layout's number for the topic.
        generation: u32,
    },
}

/// A place in a stream. The webhook is zero where the offset alone decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(test, derive(Hash))]
pub struct StreamPosition {
    at: Position,
    webhook: [u8; 16],
}

impl Stream {
    /// The stream of a record and the place in it of the record's send for `webhook`. `None`: the record says nothing that we know.
    #[must_use]
    pub fn of(source: &wire::Source, webhook: WebhookUid) -> Option<(Self, StreamPosition)> {
        use wire::source::Stream as Wire;
        let with_webhook = |offset| StreamPosition {
            at: Position::at(offset),
            webhook: *webhook.as_bytes(),
        };
        Some(match source.stream.as_ref()? {
            Wire::Events(from) => (
                Self::Events {
                    partition: from.partition,
                    generation: from.generation,
                },
                with_webhook(from.offset),
            ),
            Wire::Retry(from) => (
                Self::Path(if mutated!(PathsAreOneStream) {
                    Vec::new()
                } else {
                    from.path_ms.clone()
                }),
                StreamPosition {
                    at: from.ticket?.into(),
                    webhook: [0; 16],
                },
            ),
            Wire::Job(from) => (
                Self::Job {
                    job: from.job.clone(),
                    partition: from.partition,
                },
                with_webhook(from.offset),
            ),
            Wire::Command(from) => (
                Self::Commands {
                    generation: from.generation,
                },
                StreamPosition {
                    at: Position::at(from.offset),
                    webhook: [0; 16],
                },
            ),
        })
    }

    /// How long after it last spoke it is forgotten; `None`: never, or when somebody says that it is over ([`SourceMarks::forget_jobs`]).
    fn forgotten_after(&self) -> Option<Duration> {
        match self {
            Self::Path(tiers) => {
                let longest = Duration::from_millis(
                    tiers.iter().fold(0_u64, |sum, ms| sum.saturating_add(*ms)),
                );
                Some(longest.saturating_add(PATH_MARK_GRACE))
            }
            Self::Events { .. } | Self::Job { .. } | Self::Commands { .. } => None,
        }
    }
}

/// How a job stands whose sends have been read, by the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobIs {
    /// It is not over.
    Open,
    /// It was over at this moment.
    Over(Millis),
    /// The registry no longer has it.
    Gone,
}

/// The highest position seen of every stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[cfg_attr(test, derive(Hash))]
pub struct SourceMarks {
    marks: BTreeMap<Stream, (StreamPosition, Millis)>,
}

impl SourceMarks {
    /// Takes note of a send; false when it is a repeat.
    pub fn admit(&mut self, stream: Stream, position: StreamPosition, now: Millis) -> bool {
        match self.marks.get_mut(&stream) {
            Some((highest, _)) if position <= *highest => false,
            Some((highest, _)) if mutated!(MarksByRecord) && position.at == highest.at => false,
            Some(mark) => {
                *mark = (position, now);
                true
            }
            None => {
                self.marks.insert(stream, (position, now));
                true
            }
        }
    }

    /// Forgets the paths that can no longer speak, where everything that was written before `entered` has been read.
    pub fn forget(&mut self, entered: Millis) {
        self.marks.retain(|stream, (_, seen)| {
            stream
                .forgotten_after()
                .is_none_or(|after| entered.since(*seen) <= after)
        });
    }

    /// Forgets the jobs that were over long before `entered`, up to which everything has been read. Of one that is gone it is not known when it
    /// was over; when it last spoke stands for that.
    pub fn forget_jobs(&mut self, entered: Millis, mut is: impl FnMut(&str) -> JobIs) {
        self.marks.retain(|stream, (_, seen)| {
            let Stream::Job { job, .. } = stream else {
                return true;
            };
            let over = match is(job) {
                JobIs::Open => return true,
                JobIs::Over(at) => at,
                JobIs::Gone => *seen,
            };
            let kept = if mutated!(JobsForgottenEarly) {
                Duration::ZERO
            } else {
                JOB_MARK_KEPT
            };
            entered.since(over) <= kept
        });
    }

    /// The jobs among the streams; each as often as it has source partitions here.
    pub fn jobs(&self) -> impl Iterator<Item = &str> {
        self.marks.keys().filter_map(|stream| match stream {
            Stream::Job { job, .. } => Some(&**job),
            Stream::Events { .. } | Stream::Path(_) | Stream::Commands { .. } => None,
        })
    }

    /// Number of streams remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.marks.len()
    }

    /// Whether nothing is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }

    /// The stored form.
    pub(crate) fn to_wire(&self) -> impl Iterator<Item = wire::SourceMark> + '_ {
        self.marks
            .iter()
            .map(|(stream, (position, seen))| wire::SourceMark {
                stream: Some(source(stream, position.at)),
                webhook_uid: if position.webhook == [0; 16] {
                    bytes::Bytes::new()
                } else {
                    bytes::Bytes::copy_from_slice(&position.webhook)
                },
                seen_at_ms: seen.0,
            })
    }

    /// Takes a stored mark; false when it makes no sense.
    pub(crate) fn load(&mut self, mark: &wire::SourceMark) -> bool {
        let uid = if mark.webhook_uid.is_empty() {
            Some(WebhookUid(uuid::Uuid::nil()))
        } else {
            WebhookUid::from_slice(&mark.webhook_uid)
        };
        let Some((stream, position)) = mark
            .stream
            .as_ref()
            .zip(uid)
            .and_then(|(s, uid)| Stream::of(s, uid))
        else {
            return false;
        };
        self.marks
            .insert(stream, (position, Millis(mark.seen_at_ms)));
        true
    }
}

fn source(stream: &Stream, at: Position) -> wire::Source {
    use wire::source::Stream as Wire;
    let stream = match stream {
        Stream::Events {
            partition,
            generation,
        } => Wire::Events(wire::FromEvents {
            partition: *partition,
            offset: at.offset,
            generation: *generation,
        }),
        Stream::Path(path_ms) => Wire::Retry(wire::FromRetry {
            path_ms: path_ms.clone(),
            ticket: Some(at.into()),
        }),
        Stream::Job { job, partition } => Wire::Job(wire::FromJob {
            job: job.clone(),
            partition: *partition,
            offset: at.offset,
        }),
        Stream::Commands { generation } => Wire::Command(wire::FromCommand {
            offset: at.offset,
            generation: *generation,
        }),
    };
    wire::Source {
        stream: Some(stream),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uid(n: u128) -> WebhookUid {
        WebhookUid(uuid::Uuid::from_u128(n))
    }

    fn from_events(offset: u64) -> wire::Source {
        wire::Source {
            stream: Some(wire::source::Stream::Events(wire::FromEvents {
                partition: 3,
                offset,
                generation: 0,
            })),
        }
    }

    fn from_path(path: &[u64], offset: u64, index: u32) -> wire::Source {
        let ticket = Some(wire::Position { offset, index });
        wire::Source {
            stream: Some(wire::source::Stream::Retry(wire::FromRetry {
                path_ms: path.to_vec(),
                ticket,
            })),
        }
    }

    fn admit(marks: &mut SourceMarks, source: &wire::Source, webhook: u128, now: i64) -> bool {
        let (stream, position) = Stream::of(source, uid(webhook)).expect("a stream");
        marks.admit(stream, position, Millis(now))
    }

    #[test]
    fn sends_are_compared_one_by_one_not_by_record() {
        let mut marks = SourceMarks::default();
        assert!(admit(&mut marks, &from_events(7), 1, 0));
        assert!(
            admit(&mut marks, &from_events(7), 2, 0),
            "the same event for the next webhook"
        );
        assert!(!admit(&mut marks, &from_events(7), 2, 0), "written again");
        assert!(!admit(&mut marks, &from_events(6), 9, 0), "an older event");
        assert!(admit(&mut marks, &from_events(8), 1, 0));
    }

    #[test]
    fn paths_are_streams_of_their_own() {
        let mut marks = SourceMarks::default();
        assert!(admit(&mut marks, &from_path(&[5000], 10, 1), 1, 0));
        assert!(admit(&mut marks, &from_path(&[1000], 4, 0), 1, 0));
        assert!(!admit(&mut marks, &from_path(&[5000], 10, 0), 1, 0));
        assert!(admit(&mut marks, &from_path(&[5000], 10, 2), 1, 0));
    }

    #[test]
    fn a_path_is_forgotten_when_it_can_no_longer_speak_and_fan_out_never() {
        let mut marks = SourceMarks::default();
        admit(&mut marks, &from_path(&[5000], 10, 1), 1, 0);
        admit(&mut marks, &from_events(1), 1, 0);
        marks.forget(
            Millis(0)
                .plus(PATH_MARK_GRACE)
                .plus(Duration::from_millis(5000)),
        );
        assert_eq!(marks.len(), 2);
        marks.forget(
            Millis(1)
                .plus(PATH_MARK_GRACE)
                .plus(Duration::from_millis(5000)),
        );
        assert_eq!(marks.len(), 1);
    }

    #[test]
    fn a_job_is_forgotten_days_after_it_is_over_by_what_has_been_read() {
        let mut marks = SourceMarks::default();
        for (job, now) in [("open", 0), ("over", 0), ("gone", 5)] {
            let source = wire::Source {
                stream: Some(wire::source::Stream::Job(wire::FromJob {
                    job: job.into(),
                    partition: 0,
                    offset: 3,
                })),
            };
            assert!(admit(&mut marks, &source, 1, now));
        }
        admit(&mut marks, &from_events(1), 1, 0);
        let is = |job: &str| match job {
            "open" => JobIs::Open,
            "over" => JobIs::Over(Millis(9)),
            _ => JobIs::Gone,
        };
        // Whatever the clock says: nothing has been read that came in later.
        marks.forget_jobs(Millis(i64::MIN), is);
        assert_eq!(marks.jobs().collect::<Vec<_>>(), ["gone", "open", "over"]);
        marks.forget_jobs(Millis(5).plus(JOB_MARK_KEPT), is);
        assert_eq!(marks.jobs().count(), 3);
        marks.forget_jobs(Millis(9).plus(JOB_MARK_KEPT), is);
        assert_eq!(marks.jobs().collect::<Vec<_>>(), ["open", "over"]);
        marks.forget_jobs(Millis(10).plus(JOB_MARK_KEPT), is);
        assert_eq!(marks.jobs().collect::<Vec<_>>(), ["open"]);
        assert_eq!(marks.len(), 2);
    }

    #[test]
    fn the_stored_form_brings_back_the_same_marks() {
        let mut marks = SourceMarks::default();
        admit(&mut marks, &from_path(&[5000, 1000], 10, 1), 1, 5);
        admit(&mut marks, &from_events(1), 77, 6);
        let mut loaded = SourceMarks::default();
        for mark in marks.to_wire() {
            assert!(loaded.load(&mark));
        }
        assert_eq!(loaded, marks);
    }
}
