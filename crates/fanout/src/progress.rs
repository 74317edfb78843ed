//! How far a partition is, shared with the callbacks of its appends.

use std::sync::Arc;

use hookline_journal::{AppendError, OnAppended};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::floor::{Floor, Ticket};

pub(crate) struct Progress {
    state: Mutex<State>,
    wake: Notify,
}

struct State {
    floor: Floor,
    failed: Option<AppendError>,
}

impl Progress {
    pub(crate) fn at(position: u64) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                floor: Floor::at(position),
                failed: None,
            }),
            wake: Notify::new(),
        })
    }

    pub(crate) fn begin(&self, offset: u64, timestamp_ms: i64) -> Ticket {
        self.state.lock().floor.begin(offset, timestamp_ms)
    }

    /// The event is planned: all its appends were handed over.
    pub(crate) fn planned(&self, ticket: Ticket) {
        self.done(ticket);
    }

    /// One more append belongs to the event; the answer takes its fate.
    pub(crate) fn append(self: &Arc<Self>, ticket: Ticket) -> OnAppended {
        self.state.lock().floor.add(ticket);
        let progress = Arc::clone(self);
        Box::new(move |result| match result {
            Ok(_) => {
                hookline_model::fail_point!("fanout-acknowledged");
                progress.done(ticket);
            }
            Err(error) => progress.fail(error),
        })
    }

    fn done(&self, ticket: Ticket) {
        let mut state = self.state.lock();
        state.floor.done(ticket);
        if state.floor.idle() {
            self.wake.notify_one();
        }
    }

    fn fail(&self, error: AppendError) {
        self.state.lock().failed.get_or_insert(error);
        self.wake.notify_one();
    }

    pub(crate) fn read_to(&self, next: u64) {
        self.state.lock().floor.read_to(next);
    }

    /// Everything below is done and acknowledged.
    pub(crate) fn position(&self) -> u64 {
        self.state.lock().floor.position()
    }

    pub(crate) fn oldest_ms(&self) -> Option<i64> {
        self.state.lock().floor.oldest_ms()
    }

    /// Resolves when an append failed. Nothing more will be stored by its appender.
    pub(crate) async fn failed(&self) -> AppendError {
        loop {
            if let Some(error) = self.state.lock().failed.clone() {
                return error;
            }
            self.wake.notified().await;
        }
    }

    /// Resolves when nothing is on its way, or an append failed.
    pub(crate) async fn settled(&self) {
        loop {
            {
                let state = self.state.lock();
                if state.floor.idle() || state.failed.is_some() {
                    return;
                }
            }
            self.wake.notified().await;
        }
    }
}
