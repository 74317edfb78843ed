//! The directory that `hookline dev` keeps everything in: what it writes there the first time, and what it remembers.

use std::fs;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// The configuration, so that every other command can be used beside `dev`.
const CONFIG: &str = "hookline.toml";
/// The address of the built-in receiver, which the sample webhooks name.
const RECEIVER: &str = "receiver.address";
/// A key to the API, ready to use.
const KEY: &str = "api.key";
/// What would be on standard error if the view were not.
const LOG: &str = "hookline.log";
/// A log longer than this is put away at the next start.
const LOG_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// The directory.
pub(super) struct Home(PathBuf);

impl Home {
    /// Makes the directory where it is missing.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)?;
        Ok(Self(dir.to_owned()))
    }

    /// Where the configuration is.
    pub(super) fn config(&self) -> PathBuf {
        self.0.join(CONFIG)
    }

    /// Where the log goes while the view has the terminal.
    pub(super) fn log(&self) -> PathBuf {
        self.0.join(LOG)
    }

    /// Opens the log to write on. What an earlier process wrote is kept once, when it has become long.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn open_log(&self) -> io::Result<fs::File> {
        let log = self.log();
        if fs::metadata(&log).is_ok_and(|meta| meta.len() > LOG_BYTES_MAX) {
            let mut old = log.clone().into_os_string();
            old.push(".old");
            fs::rename(&log, old)?;
        }
        fs::OpenOptions::new().create(true).append(true).open(log)
    }

    /// Writes the configuration, if there is none. What a person changed in it stays.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn write_config(&self, listen: SocketAddr) -> io::Result<()> {
        if self.config().exists() {
            return Ok(());
        }
        let text = format!(
            r#"# Written by `hookline dev`. Other commands reach it with --config and this file; what is changed here stays.

[journal]
engine = "embedded"
partitions = 4

[journal.embedded]
dir = "."

# `dev` listens where --listen says; this is for `serve`.
[http]
listen = "{listen}"

# For trying things out on one machine: endpoints on loopback, without TLS. Never in production.
[outgoing]
allow_http = true
allow_addresses = ["127.0.0.0/8", "::1/128"]

[secrets]
key_file = "hookline.key"
"#
        );
        write_whole(&self.config(), &text)
    }

    /// Where the receiver was the last time.
    pub(super) fn receiver(&self) -> Option<SocketAddr> {
        let text = fs::read_to_string(self.0.join(RECEIVER)).ok()?;
        text.trim().parse().ok()
    }

    /// The key to the API of the last time.
    pub(super) fn key(&self) -> Option<String> {
        let text = fs::read_to_string(self.0.join(KEY)).ok()?;
        Some(text.trim().to_owned())
    }

    /// Keeps a key to the API, for its owner alone.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn remember_key(&self, key: &str) -> io::Result<()> {
        let file = self.0.join(KEY);
        match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(file)?;
        writeln!(file, "{key}")
    }

    /// Remembers where the receiver is.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn remember_receiver(&self, address: SocketAddr) -> io::Result<()> {
        write_whole(&self.0.join(RECEIVER), &format!("{address}\n"))
    }
}

/// The file appears whole or not at all.
fn write_whole(file: &Path, text: &str) -> io::Result<()> {
    let mut draft = file.as_os_str().to_owned();
    draft.push(".new");
    fs::write(&draft, text)?;
    fs::rename(&draft, file)
}

/// The argument as one writes it in a shell.
pub(super) fn quoted(argument: &str) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !argument.is_empty() && argument.chars().all(safe) {
        return argument.to_owned();
    }
    format!("'{}'", argument.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_stays_and_the_receiver_is_remembered() {
        let dir = std::env::temp_dir().join(format!("hookline-dev-{}", uuid::Uuid::now_v7()));
        let home = Home::open(&dir).expect("made");
        let listen = "127.0.0.1:0".parse().expect("valid");
        home.write_config(listen).expect("written");
        let config = crate::config::Config::load_without_key(&home.config()).expect("valid");
        assert!(config.outgoing.allow_http);
        assert_eq!(config.listen, listen);
        fs::write(home.config(), "mine").expect("written");
        home.write_config(listen).expect("left alone");
        assert_eq!(fs::read_to_string(home.config()).expect("there"), "mine");

        assert_eq!(home.receiver(), None);
        home.remember_receiver(listen).expect("written");
        assert_eq!(home.receiver(), Some(listen));
        fs::remove_dir_all(&dir).expect("removed");
    }

    #[test]
    fn arguments_are_quoted_where_the_shell_needs_it() {
        assert_eq!(quoted("data/hookline.toml"), "data/hookline.toml");
        assert_eq!(quoted("my data"), "'my data'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
