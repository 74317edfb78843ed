//! The keys under which secrets are stored: from the environment, else from a file. The first seals, further ones only open, while the key is
//! being replaced. Only `hookline dev` makes one by itself: elsewhere a process that made its own would store what no other can read, and would
//! lose it with its disk.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use hookline_model::limits::SECRETS_KEYS_MAX;
use hookline_registry::{Kek, Registry, Sealer};
use prometheus::IntGauge;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use secrecy::{ExposeSecret as _, SecretString};

use crate::config::keys::SECRETS_KEY;
use crate::config::{Config, ConfigError, ConfigErrors};

/// What to do without a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    /// Say how to make one.
    Refuse,
    /// Go on: one is made in a moment.
    WillBeMade,
}

/// The keys of a process.
#[derive(Debug)]
pub(crate) struct Keys {
    first: Kek,
    others: Vec<Kek>,
}

impl Keys {
    /// What seals and opens with them.
    pub(crate) fn sealer(&self) -> Sealer {
        Sealer::new(&self.first).opening(&self.others)
    }
}

/// Keys in base64, one a line or with commas in between.
fn parse(text: &str) -> Result<Keys, String> {
    let mut keys = Vec::new();
    let words = text.split(|c: char| c == ',' || c.is_whitespace());
    for word in words.filter(|word| !word.is_empty()) {
        let key = Kek::from_base64(word)
            .map_err(|error| format!("{error}; `head -c 32 /dev/urandom | base64` makes a key"))?;
        keys.push(key);
    }
    if keys.len() > SECRETS_KEYS_MAX {
        return Err(format!(
            "has {} keys; {SECRETS_KEYS_MAX} are the most: the first seals, further ones are for the time until everything is sealed with it",
            keys.len()
        ));
    }
    let mut keys = keys.into_iter();
    let first = keys
        .next()
        .ok_or("has no key in it; `head -c 32 /dev/urandom | base64` makes one")?;
    Ok(Keys {
        first,
        others: keys.collect(),
    })
}

/// Reads what is configured.
///
/// # Errors
/// What is wrong with it, or that there is none; never the key.
pub(crate) fn read(key: Option<&SecretString>, file: &Path) -> Result<Keys, ConfigError> {
    if let Some(key) = key {
        return parse(key.expose_secret())
            .map_err(|problem| ConfigError::new(SECRETS_KEY, problem));
    }
    let shown = file.display();
    let wrong = |problem: String| ConfigError::new("secrets.key_file", problem);
    let text = fs::read_to_string(file).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => wrong(format!(
            "there is no key to seal secrets with: {shown} does not exist and {SECRETS_KEY} is not set; \
             make a key with `(umask 077; head -c 32 /dev/urandom | base64 > \"{shown}\")`, give it to every process, and keep a copy"
        )),
        _ => wrong(format!("{shown}: cannot be read: {error}")),
    })?;
    parse(&text).map_err(|problem| wrong(format!("{shown}: {problem}")))
}

/// What is wrong with what is configured.
pub(crate) fn problem(
    key: Option<&SecretString>,
    file: &Path,
    missing: Missing,
) -> Option<ConfigError> {
    if missing == Missing::WillBeMade && key.is_none() && !file.exists() {
        return None;
    }
    read(key, file).err()
}

/// The keys of this process.
///
/// # Errors
/// As [`read`].
pub(crate) fn load(config: &Config) -> Result<Keys, ConfigErrors> {
    let key = read(config.key.as_ref(), &config.key_file);
    if config.key.is_none() {
        warn_when_open(&config.key_file);
    }
    key.map_err(|error| ConfigErrors(vec![error]))
}

/// Makes the key where there is none.
///
/// # Errors
/// When the file cannot be made.
pub(crate) fn make_missing(config: &Config) -> Result<(), ConfigErrors> {
    let file = &config.key_file;
    if config.key.is_some() || file.exists() {
        return Ok(());
    }
    make(file).map_err(|error| {
        let problem = format!("{}: cannot be made: {error}", file.display());
        ConfigErrors(vec![ConfigError::new("secrets.key_file", problem)])
    })
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
                "made a new key for secrets: keep a copy; without it stored secrets are lost"
            );
            Ok(())
        }
    }
}

/// How much is still sealed with other keys than the first: looked for when somebody asks.
pub(crate) struct UnderOldKeys {
    registry: Registry,
    gauge: IntGauge,
}

impl UnderOldKeys {
    /// Shows it among these metrics.
    ///
    /// # Errors
    /// When it is shown there already.
    pub(crate) fn show(
        registry: &Registry,
        among: &prometheus::Registry,
    ) -> Result<(), prometheus::Error> {
        let gauge = IntGauge::new(
            "hookline_registry_secrets_under_old_keys",
            "Records whose secrets are sealed with another key than the first. At 0 on every process, the other keys can be removed.",
        )?;
        let registry = registry.clone();
        among.register(Box::new(Self { registry, gauge }))
    }
}

impl Collector for UnderOldKeys {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let count = self.registry.under_old_keys();
        self.gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        self.gauge.collect()
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
            let problem = parse(bad).expect_err("refused");
            assert!(!problem.contains(bad), "{problem}");
        }
    }

    #[test]
    fn several_keys_stand_on_lines_of_their_own_or_behind_commas() {
        let key = |n: u8| {
            use base64::Engine as _;
            let bytes: [u8; 32] = std::array::from_fn(|i| n.wrapping_add(i as u8));
            base64::prelude::BASE64_STANDARD.encode(bytes)
        };
        let (a, b) = (key(1), key(2));
        for text in [
            format!("{a}\n{b}\n"),
            format!(" {a}, {b}"),
            format!("{a},{b}"),
        ] {
            let keys = parse(&text).expect("two keys");
            assert_eq!(keys.others.len(), 1);
            let alone = parse(&a).expect("a key");
            assert_eq!(
                keys.sealer().key_id(),
                alone.sealer().key_id(),
                "the first seals"
            );
        }
        assert!(parse(" \n").is_err_and(|problem| problem.starts_with("has no key")));
        let many: Vec<_> = (0..=SECRETS_KEYS_MAX).map(|n| key(n as u8)).collect();
        assert!(parse(&many.join("\n")).is_err_and(|problem| problem.contains("the most")));
        let wrong = parse(&format!("{a}\nAAEC")).map(drop);
        assert!(wrong.is_err_and(|problem| problem.contains("has 3 bytes")));
    }

    #[test]
    fn without_a_key_it_is_said_how_to_make_one() {
        let file = std::env::temp_dir().join(format!("hookline-none-{}", uuid::Uuid::now_v7()));
        let refused = problem(None, &file, Missing::Refuse).expect("there is none");
        let told = refused.to_string();
        assert!(
            told.starts_with("secrets.key_file: there is no key"),
            "{told}"
        );
        assert!(
            told.contains("head -c 32 /dev/urandom | base64 >"),
            "{told}"
        );
        assert_eq!(problem(None, &file, Missing::WillBeMade), None);
        let key = SecretString::from("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=");
        assert_eq!(problem(Some(&key), &file, Missing::Refuse), None);
        let bad = SecretString::from("AAEC");
        let refused = problem(Some(&bad), &file, Missing::WillBeMade).expect("no key");
        assert_eq!(refused.key, SECRETS_KEY);
    }

    #[test]
    fn a_missing_file_is_made_once_and_only_for_its_owner() {
        let dir = std::env::temp_dir().join(format!("hookline-key-{}", uuid::Uuid::now_v7()));
        let file = dir.join("hookline.key");
        make(&file).expect("made");
        let first = fs::read_to_string(&file).expect("there");
        make(&file).expect("the second one yields");
        assert_eq!(fs::read_to_string(&file).expect("there"), first);
        assert!(read(None, &file).is_ok());
        let mode = fs::metadata(&file).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(&dir).expect("there").count(), 1);
        fs::remove_dir_all(&dir).expect("removed");
    }
}
