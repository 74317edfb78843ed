//! The control socket: other commands on this machine use the directory through the process that has it open.
//!
//! The socket lies in the data directory and is open to its owner only. What it carries is described in [`frame`].

mod client;
mod failure;
mod frame;
mod server;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

pub use client::RemoteJournal;
pub(super) use server::remove_socket;

use super::{EmbeddedConfig, EmbeddedJournal};
use crate::{Journal, JournalError};

const SOCKET: &str = "control.sock";
/// The system's limit for the path of a socket, without the final zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// A holder that is just starting, or a short command that is about to end, gets this long.
const BUSY_WAIT: Duration = Duration::from_secs(5);
const BUSY_LOOK_EVERY: Duration = Duration::from_millis(50);

/// Where the socket is bound or connected to. Keep it until that is done.
struct Address {
    path: PathBuf,
    _dir: Option<File>,
}

impl Address {
    fn of(dir: &Path) -> io::Result<Self> {
        let path = dir.join(SOCKET);
        if path.as_os_str().as_bytes().len() <= SOCKET_PATH_BYTES_MAX {
            return Ok(Self { path, _dir: None });
        }
        // Too long for the system: the same place by a short way, through the open directory.
        let dir = File::open(dir)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd()));
        tracing::debug!(path = %path.display(), "the control socket's path is too long, so it is reached by another");
        Ok(Self {
            path,
            _dir: Some(dir),
        })
    }
}

/// Opens the directory when it is free, else connects to the process that has it open.
///
/// # Errors
/// When the directory cannot be opened, or its holder does not answer.
pub async fn open_or_connect(config: EmbeddedConfig) -> Result<Arc<dyn Journal>, JournalError> {
    let deadline = Instant::now() + BUSY_WAIT;
    loop {
        let opening = config.clone();
        let opened = tokio::task::spawn_blocking(|| EmbeddedJournal::open(opening));
        let opened = opened.await.map_err(|e| JournalError::Failed {
            what: format!("open the data directory {}", config.dir.display()),
            reason: e.to_string(),
        })?;
        let busy = match opened {
            Ok(journal) => return Ok(journal),
            Err(JournalError::Busy { reason }) => reason,
            Err(other) => return Err(other),
        };
        let refused = match RemoteJournal::connect(&config.dir).await {
            Ok(journal) => return Ok(Arc::new(journal)),
            Err(refused) => refused,
        };
        if Instant::now() >= deadline {
            return Err(JournalError::Busy {
                reason: format!("{busy} (it does not serve its control socket: {refused})"),
            });
        }
        tokio::time::sleep(BUSY_LOOK_EVERY).await;
    }
}
