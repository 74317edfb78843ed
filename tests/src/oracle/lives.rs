//! Which processes ran, and what was done to them and when.

use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use hookline_model::time::{Clock as _, Millis};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parking_lot::Mutex;

use crate::program::{Program, SystemClock};

/// What a process says when it has lost partitions without being told beforehand, or gives up what is in flight.
const LOSSES: [&str; 3] = [
    "partitions were lost",
    "the dispatch group was lost",
    "not everything in flight has ended in time",
];
/// Others may have owned a partition for this long when a process notices that it has lost it.
const NOTICED_WITHIN: Duration = Duration::from_secs(10);

/// What happened to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// It was killed, or ended by itself without cleaning up.
    Killed,
    /// It was stopped, and perhaps continued.
    Frozen,
    /// It says that it lost partitions.
    Lost,
    /// What all processes stand on failed.
    Everywhere,
}

/// Something that happened to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// What.
    pub kind: Kind,
    /// Just before it struck.
    pub from: Millis,
    /// Just after it had struck.
    pub to: Millis,
    /// When it was over: the process was continued.
    pub over: Option<Millis>,
}

/// A process, from its start.
#[derive(Debug, Clone)]
pub struct Life {
    /// Its name, which its requests carry.
    pub name: String,
    /// Its process id.
    pub pid: i32,
    pub(super) log: PathBuf,
    faults: Vec<Fault>,
}

impl Life {
    #[cfg(test)]
    pub(super) fn fabricated(name: &str, pid: i32, faults: Vec<Fault>) -> Self {
        Self {
            name: name.to_owned(),
            pid,
            log: PathBuf::new(),
            faults,
        }
    }

    /// Whether this process made that claim.
    #[must_use]
    pub fn is(&self, worker: &str) -> bool {
        let pid = worker.rsplit_once('-').map(|(_, pid)| pid);
        pid.and_then(|pid| pid.parse().ok()) == Some(self.pid)
    }

    /// What happened to it, by what was done and by its own words, in this order.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        let mut faults = self.faults.clone();
        faults.extend(self.losses());
        faults
    }

    /// When it said that it had lost partitions.
    #[must_use]
    pub fn losses(&self) -> Vec<Fault> {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let said = log
            .lines()
            .filter(|line| LOSSES.iter().any(|loss| line.contains(loss)));
        said.filter_map(|line| {
            let at: jiff::Timestamp = line.split_whitespace().next()?.parse().ok()?;
            let to = Millis(at.as_millisecond());
            let before = i64::try_from(NOTICED_WITHIN.as_millis()).unwrap_or(i64::MAX);
            Some(Fault {
                kind: Kind::Lost,
                from: Millis(to.0 - before),
                to,
                over: None,
            })
        })
        .collect()
    }
}

/// All processes of a run.
#[derive(Debug, Default)]
pub struct Lives {
    lives: Mutex<Vec<Life>>,
    everywhere: Mutex<Vec<Fault>>,
}

impl Lives {
    /// A process has been started.
    pub fn begin(&self, program: &Program) {
        self.lives.lock().push(Life {
            name: program.name().to_owned(),
            pid: program.pid().as_raw(),
            log: program.log_file().to_owned(),
            faults: Vec::new(),
        });
    }

    #[cfg(test)]
    pub(super) fn fabricate(&self, life: Life) {
        self.lives.lock().push(life);
    }

    /// All of them so far.
    #[must_use]
    pub fn all(&self) -> Vec<Life> {
        self.lives.lock().clone()
    }

    /// What happened to all of them at once.
    #[must_use]
    pub fn everywhere(&self) -> Vec<Fault> {
        self.everywhere.lock().clone()
    }

    /// What was done to processes, all in all.
    #[must_use]
    pub fn faults(&self, kind: Kind) -> usize {
        let lives = self.lives.lock();
        let faults = lives.iter().flat_map(|life| &life.faults);
        faults.filter(|fault| fault.kind == kind).count()
    }

    /// How often processes said that they had lost partitions.
    #[must_use]
    pub fn losses(&self) -> usize {
        self.all().iter().map(|life| life.losses().len()).sum()
    }

    /// Kills a process as a crash would.
    pub async fn kill(&self, program: Program) {
        let (pid, from) = (program.pid(), SystemClock.now());
        program.kill().await;
        self.note(pid, Kind::Killed, from);
    }

    /// Waits until a process has ended by itself, as a crash.
    ///
    /// # Panics
    /// When it does not end in time, or in an orderly way.
    pub async fn died(&self, mut program: Program, within: Duration) -> ExitStatus {
        let (pid, from) = (program.pid(), SystemClock.now());
        let status = program.ended(within).await;
        assert!(!status.success(), "it ended in an orderly way: {status}");
        self.note(pid, Kind::Killed, from);
        status
    }

    /// Stops a process where it is; it may be continued.
    ///
    /// # Panics
    /// When it cannot be signalled.
    pub fn freeze(&self, program: &Program) {
        let from = SystemClock.now();
        kill(program.pid(), Signal::SIGSTOP).expect("the program can be signalled");
        self.note(program.pid(), Kind::Frozen, from);
    }

    /// Continues a process that was stopped.
    ///
    /// # Panics
    /// When it cannot be signalled.
    pub fn thaw(&self, program: &Program) {
        let now = SystemClock.now();
        let pid = program.pid();
        for life in self.lives.lock().iter_mut() {
            let frozen = life.faults.iter_mut();
            let frozen = frozen.filter(|f| f.kind == Kind::Frozen && f.over.is_none());
            if life.pid == pid.as_raw() {
                frozen.for_each(|fault| fault.over = Some(now));
            }
        }
        kill(pid, Signal::SIGCONT).expect("the program can be signalled");
    }

    /// What all processes stand on failed from then on, and may have done so to each of them until now.
    pub fn failed_everywhere(&self, from: Millis) {
        self.everywhere.lock().push(Fault {
            kind: Kind::Everywhere,
            from,
            to: SystemClock.now(),
            over: None,
        });
    }

    fn note(&self, pid: Pid, kind: Kind, from: Millis) {
        let mut lives = self.lives.lock();
        let life = lives.iter_mut().rev().find(|l| l.pid == pid.as_raw());
        let life = life.expect("the process was begun");
        life.faults.push(Fault {
            kind,
            from,
            to: SystemClock.now(),
            over: None,
        });
    }
}
