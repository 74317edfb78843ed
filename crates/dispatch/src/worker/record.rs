//! Writing down, in `attempts`, what was judged, begun, done and moved.

use hookline_journal::{AppendError, Appended, append_when_room};
use hookline_model::core::held::HeldRange;
use hookline_model::ids::Position;
use hookline_model::limits;
use hookline_model::wire;

use super::by_hand::Done;
use super::{Mail, Worker, WorkerError};
use crate::attempt::{Judged, Unit};
use crate::records;

/// Records of attempts under way at once; what comes meanwhile is bundled.
const RECORDS_UNDER_WAY: usize = 1;

impl Worker {
    /// Hands what was judged to the journal: at once when there is little, bundled while records are under way.
    pub(super) async fn record(&mut self) -> Result<(), WorkerError> {
        while !self.to_write.is_empty()
            && (self.log.pending() < RECORDS_UNDER_WAY
                || self.to_write.len() >= limits::ATTEMPTS_PER_RECORD_MAX)
        {
            let mut bytes = 0;
            let fit = self.to_write.iter().take_while(|to_write| {
                let first = bytes == 0;
                bytes += to_write.encoded.len();
                first || bytes <= limits::ATTEMPTS_RECORD_BYTES
            });
            let count = fit.take(limits::ATTEMPTS_PER_RECORD_MAX).count();
            let taken = &self.to_write[..count];
            let attempts = |w: &ToWrite| matches!(w.what, Written::Judged(_));
            let kind = if taken.iter().any(attempts) {
                wire::header::KIND_ATTEMPT
            } else {
                wire::header::KIND_NOTE
            };
            let encoded = taken.iter().map(|to_write| to_write.encoded.as_slice());
            let (epoch, sequence) = (self.log.epoch(), self.log.next_sequence());
            let record = records::attempts(kind, epoch, sequence, encoded, bytes);
            let mut recorded = Vec::with_capacity(count);
            for to_write in self.to_write.drain(..count) {
                if let Written::Judged(judged) = &to_write.what {
                    self.shared
                        .metrics
                        .attempts
                        .with_label_values(&[judged.outcome.as_str()])
                        .inc();
                }
                recorded.push(to_write.what);
            }
            let sequence = self.log.appended(recorded);
            let mailbox = self.mailbox.clone();
            let done = Box::new(move |result: Result<Appended, AppendError>| {
                if result.is_ok() {
                    hookline_model::fail_point!("dispatch-record-stored");
                }
                mailbox.put(Mail::Stored { sequence, result });
            });
            append_when_room(
                &*self.appender,
                &self.shared.names.attempts,
                self.p,
                record,
                done,
            )
            .await?;
            hookline_model::fail_point!("dispatch-record-handed");
        }
        Ok(())
    }
}

/// What a record of the owner's says, for when it has certainly counted.
pub(crate) enum Written {
    /// An attempt.
    Judged(Box<Judged>),
    /// The batch whose first stands there begins.
    Begins(Position),
    /// What waits at the old end was copied.
    Moved(HeldRange),
    /// A command is done.
    Done(Box<Done>),
}

/// The same, to be written: encoded already, and what it is.
pub(super) struct ToWrite {
    pub(super) encoded: Vec<u8>,
    pub(super) what: Written,
}

impl ToWrite {
    pub(super) fn judged(mut judged: Judged) -> Self {
        Self {
            encoded: std::mem::take(&mut judged.encoded),
            what: Written::Judged(Box::new(judged)),
        }
    }

    pub(super) fn begins(unit: &Unit) -> Self {
        Self {
            encoded: records::batch_begun(unit.lane.webhook, &unit.positions()),
            what: Written::Begins(unit.position),
        }
    }

    pub(super) fn done(done: Done) -> Self {
        Self {
            encoded: records::command_done(&done.done),
            what: Written::Done(Box::new(done)),
        }
    }

    pub(super) fn moved(range: HeldRange) -> Self {
        Self {
            encoded: records::moved(range),
            what: Written::Moved(range),
        }
    }
}
