//! One process has the directory: a locked file says which.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::JournalError;

const FILE: &str = "hookline.lock";

/// Held while the directory is open. The system lets go of it when the process ends, however that happens.
#[derive(Debug)]
pub(super) struct DirectoryLock {
    file: File,
}

impl DirectoryLock {
    /// Makes the directory (for its owner only) where it is missing, and locks it.
    pub(super) fn acquire(dir: &Path) -> Result<Self, JournalError> {
        let failed = |e: std::io::Error| JournalError::Failed {
            what: format!("open the data directory {}", dir.display()),
            reason: e.to_string(),
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(failed)?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path(dir))
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(busy(dir, &mut file)),
            Err(TryLockError::Error(e)) => return Err(failed(e)),
        }
        write_pid(&mut file).map_err(failed)?;
        Ok(Self { file })
    }
}

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        // An empty file names nobody.
        if let Err(error) = self.file.set_len(0) {
            tracing::debug!(%error, "the lock file keeps its last pid");
        }
        // The lock would go with the file handle, but a process that is being started has a copy of that until it runs its program.
        if let Err(error) = self.file.unlock() {
            tracing::debug!(%error, "the lock goes with the last copy of its handle");
        }
    }
}

fn path(dir: &Path) -> PathBuf {
    dir.join(FILE)
}

fn write_pid(file: &mut File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(std::process::id().to_string().as_bytes())
}

fn busy(dir: &Path, file: &mut File) -> JournalError {
    let mut pid = String::new();
    let read = file.take(32).read_to_string(&mut pid);
    let holder = match (read, pid.trim()) {
        (Ok(_), pid) if !pid.is_empty() => format!("process {pid}"),
        _ => "another process".to_owned(),
    };
    JournalError::Busy {
        reason: format!(
            "the data directory {} is held by {holder}: stop that one, or use another directory",
            dir.display()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_of_the_handle_keeps_nobody_out() {
        let dir = tempfile::tempdir().expect("a directory");
        let lock = DirectoryLock::acquire(dir.path()).expect("free");
        let copy = lock.file.try_clone().expect("copied");
        assert!(matches!(
            DirectoryLock::acquire(dir.path()),
            Err(JournalError::Busy { .. })
        ));
        drop(lock);
        DirectoryLock::acquire(dir.path()).expect("free again");
        drop(copy);
    }
}
