//! A real PostgreSQL for tests: on a free port of loopback, with a directory of its own, as long as somebody uses it.
//!
//! The tests of the history crate include this file, too.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

/// Starts the server, says so, and stops it by its process id as soon as the standard input ends: also when the test was killed.
const RUN: &str = r#"
"$BIN/initdb" -D "$DIR/data" -U postgres -A trust --no-sync >"$DIR/log" 2>&1 || { tail -20 "$DIR/log" >&2; echo failed; exit 1; }
"$BIN/pg_ctl" -D "$DIR/data" -w -l "$DIR/log" -o "-p $PORT -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off -c max_connections=200" start >/dev/null 2>&1 \
  || { tail -20 "$DIR/log" >&2; echo failed; exit 1; }
echo ready
read -r _
"$BIN/pg_ctl" -D "$DIR/data" -m immediate -w stop >/dev/null 2>&1
"#;

/// A running server.
#[derive(Debug)]
pub struct Postgres {
    shell: Child,
    bin: PathBuf,
    port: u16,
    databases: AtomicU32,
    _dir: tempfile::TempDir,
}

impl Postgres {
    /// The one that the tests of this process share; started when there is none. `None`: PostgreSQL is not installed.
    ///
    /// # Panics
    /// When it is and does not start.
    #[must_use]
    pub fn shared() -> Option<Arc<Self>> {
        static SHARED: OnceLock<Mutex<Weak<Postgres>>> = OnceLock::new();
        let bin = installed()?;
        let shared = SHARED.get_or_init(Mutex::default);
        let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = shared.upgrade() {
            return Some(running);
        }
        let started = Arc::new(Self::start(bin));
        *shared = Arc::downgrade(&started);
        Some(started)
    }

    fn start(bin: PathBuf) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("hookline-postgres-")
            .tempdir()
            .expect("a temporary directory");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        drop(listener);
        let mut shell = Command::new("sh");
        shell
            .args(["-c", RUN])
            .env("BIN", &bin)
            .env("DIR", dir.path())
            .env("PORT", port.to_string())
            .env("LC_ALL", "C")
            .current_dir(dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        // It refuses to run as root.
        if let Some((user, group)) = somebody_else() {
            chown(dir.path(), Some(user), Some(group)).expect("root may");
            shell.uid(user).gid(group);
        }
        let mut shell = shell.spawn().expect("there is a shell");
        let mut said = String::new();
        let stdout = shell.stdout.take().expect("piped");
        BufReader::new(stdout)
            .read_line(&mut said)
            .expect("it says something");
        assert_eq!(said.trim(), "ready", "PostgreSQL starts");
        Self {
            shell,
            bin,
            port,
            databases: AtomicU32::new(0),
            _dir: dir,
        }
    }

    /// The URL of a new, empty database.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn database(&self) -> String {
        let name = format!("test{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let port = self.port.to_string();
        let made = Command::new(self.bin.join("createdb"))
            .args(["-h", "127.0.0.1", "-p", &port, "-U", "postgres", &name])
            .status()
            .expect("it is installed with the server");
        assert!(made.success(), "the database is made");
        format!("postgres://postgres@127.0.0.1:{port}/{name}")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        drop(self.shell.wait());
    }
}

/// Where its programs are; of several versions the newest.
fn installed() -> Option<PathBuf> {
    let has = |dir: &Path| dir.join("initdb").exists() && dir.join("pg_ctl").exists();
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let newest = versions
        .filter_map(|entry| {
            let dir = entry.ok()?.path();
            let version: u32 = dir.file_name()?.to_str()?.parse().ok()?;
            Some((version, dir.join("bin")))
        })
        .filter(|(_, dir)| has(dir))
        .max();
    let path = std::env::var_os("PATH").unwrap_or_default();
    newest
        .map(|(_, dir)| dir)
        .or_else(|| std::env::split_paths(&path).find(|dir| has(dir)))
}

/// For root: the user and group to run as.
fn somebody_else() -> Option<(u32, u32)> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    if uid.split_whitespace().nth(1)? != "0" {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let of = |name: &str| {
        let line = users.lines().find(|l| l.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    of("postgres").or_else(|| of("nobody"))
}
