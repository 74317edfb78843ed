//! The key under which secrets are stored: from the environment, else from a file that is made when missing.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use hookline_registry::Kek;
use secrecy::ExposeSecret as _;

use crate::config::keys::SECRETS_KEY;
use crate::config::{Config, ConfigError, ConfigErrors};

/// Checks a key.
///
/// # Errors
/// What is wrong with it; never the key.
pub(crate) fn check(text: &str) -> Result<Kek, String> {
    Kek::from_base64(text)
        .map_err(|error| format!("{error}; `head -c 32 /dev/urandom | base64` makes a key"))
}

/// The key.
///
/// # Errors
/// When it is not a key, or the file can be neither read nor made.
pub(crate) fn load(config: &Config) -> Result<Kek, ConfigErrors> {
    if let Some(key) = &config.key {
        return check(key.expose_secret())
            .map_err(|problem| ConfigErrors(vec![ConfigError::new(SECRETS_KEY, problem)]));
    }
    let file = &config.key_file;
    let wrong = |problem: String| {
        ConfigErrors(vec![ConfigError::new(
            "secrets.key_file",
            format!("{}: {problem}", file.display()),
        )])
    };
    if !file.exists() {
        make(file).map_err(|error| wrong(format!("cannot be made: {error}")))?;
    }
    let text =
        fs::read_to_string(file).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    warn_when_open(file);
    check(&text).map_err(wrong)
}

/// Checks the key that is there, and makes none.
///
/// # Errors
/// As [`load`].
pub(crate) fn check_only(config: &Config) -> Result<(), ConfigErrors> {
    if config.key.is_none() && !config.key_file.exists() {
        return Ok(());
    }
    load(config).map(drop)
}

/// Makes the file. It appears whole or not at all, and whoever is first wins: others read what stands there.
fn make(file: &Path) -> std::io::Result<()> {
    let key = Kek::generate().map_err(std::io::Error::other)?.to_base64();
    if let Some(dir) = file.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        fs::create_dir_all(dir)?;
    }
    let mut draft = file.as_os_str().to_owned();
    draft.push(format!(".{}", std::process::id()));
    let mut out = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&draft)?;
    let written = writeln!(out, "{}", key.expose_secret()).and_then(|()| out.sync_all());
    let placed = written.and_then(|()| fs::hard_link(&draft, file));
    fs::remove_file(&draft)?;
    match placed {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
        Ok(()) => {
            tracing::warn!(
                file = %file.display(),
                "made a new key for secrets: keep a copy, and give it to every process; without it stored secrets are lost"
            );
            Ok(())
        }
    }
}

fn warn_when_open(file: &Path) {
    let mode = fs::metadata(file).map_or(0, |meta| meta.permissions().mode());
    if mode & 0o077 != 0 {
        tracing::warn!(
            file = %file.display(),
            "other users of this machine may read the key for secrets: chmod 600"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_key_is_never_repeated_in_the_error() {
        for bad in [
            "$$$",
            "BwcHBwcHBwcHBwcHBwcHBw==",
            "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=",
        ] {
            let problem = check(bad).expect_err("refused");
            assert!(!problem.contains(bad), "{problem}");
        }
    }

    #[test]
    fn a_missing_file_is_made_once_and_only_for_its_owner() {
        let dir = std::env::temp_dir().join(format!("hookline-key-{}", uuid::Uuid::now_v7()));
        let file = dir.join("hookline.key");
        make(&file).expect("made");
        let first = fs::read_to_string(&file).expect("there");
        make(&file).expect("the second one yields");
        assert_eq!(fs::read_to_string(&file).expect("there"), first);
        assert!(check(&first).is_ok());
        let mode = fs::metadata(&file).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(&dir).expect("there").count(), 1);
        fs::remove_dir_all(&dir).expect("removed");
    }
}
