//! The real program, as a process: one site (a configuration, an engine, a directory) and what is run on it.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use hookline_journal::Journal;
use hookline_journal::embedded::{EmbeddedConfig, open_or_connect};
use hookline_journal::kafka::{KafkaConfig, KafkaJournal};
use hookline_model::time::{Clock, Millis};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::broker::{Broker, target_dir};

mod start;

pub use start::Start;

/// Sites in use at a time: each is a whole system, and all share the machine's processors.
static SITES: Semaphore = Semaphore::const_new(2);
/// Sites with brokers of their own: they mostly wait for a fault to be over, and must not keep the others waiting with them.
static FAULTY_SITES: Semaphore = Semaphore::const_new(2);
/// How long a started program may take until it says that it is ready.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long a command may take.
const COMMAND_WITHIN: Duration = Duration::from_secs(60);
/// How long a program that was asked to stop may take: the longest deadline of an attempt in these tests, 5 s, and some air.
const STOP_WITHIN: Duration = Duration::from_secs(25);
/// Partitions of a test's topics: more than one, and few enough that a broker carries the topics of all tests.
const PARTITIONS: u32 = 2;

/// Under which engine a site runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// In the process, on disk.
    Embedded,
    /// The shared broker.
    Kafka,
}

/// A configuration with its own directory and topics.
#[derive(Debug)]
pub struct Site {
    engine: Engine,
    /// Of Kafka.
    servers: String,
    dir: tempfile::TempDir,
    config: PathBuf,
    prefix: String,
    http: String,
    _permit: SemaphorePermit<'static>,
}

impl Site {
    /// A new one, with its topics made.
    ///
    /// # Panics
    /// When that fails.
    pub async fn new(engine: Engine) -> Self {
        Self::with(engine, "").await
    }

    /// A new one with more lines of configuration (whole TOML tables).
    ///
    /// # Panics
    /// When its topics cannot be made.
    pub async fn with(engine: Engine, more: &str) -> Self {
        Self::sized(engine, PARTITIONS, more).await
    }

    /// A new one with so many partitions.
    ///
    /// # Panics
    /// When its topics cannot be made.
    pub async fn sized(engine: Engine, partitions: u32, more: &str) -> Self {
        let site = Self::bare(engine, partitions, more).await;
        if engine == Engine::Kafka {
            site.succeed(&["topics", "create"], "").await;
        }
        site
    }

    /// A new one on Kafka, whose topics nobody made.
    pub async fn without_topics() -> Self {
        Self::bare(Engine::Kafka, PARTITIONS, "").await
    }

    /// Waits until there is room for one more site with brokers of its own. They are to be started only then.
    ///
    /// # Panics
    /// Never: the semaphore is never closed.
    pub async fn room_for_brokers() -> SemaphorePermit<'static> {
        let permit = FAULTY_SITES.acquire().await;
        permit.expect("the semaphore is never closed")
    }

    /// A new one on these brokers, with so many copies of each topic, whose topics nobody made.
    pub async fn on_brokers(
        servers: &str,
        replication: u16,
        more: &str,
        room: SemaphorePermit<'static>,
    ) -> Self {
        Self::made(
            Engine::Kafka,
            servers,
            (PARTITIONS, replication),
            more,
            room,
        )
    }

    async fn bare(engine: Engine, partitions: u32, more: &str) -> Self {
        let permit = SITES
            .acquire()
            .await
            .expect("the semaphore is never closed");
        let servers = match engine {
            Engine::Embedded => String::new(),
            Engine::Kafka => Broker::shared().address().to_owned(),
        };
        Self::made(engine, &servers, (partitions, 1), more, permit)
    }

    fn made(
        engine: Engine,
        servers: &str,
        shape: (u32, u16),
        more: &str,
        permit: SemaphorePermit<'static>,
    ) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("hookline-site-")
            .tempdir()
            .expect("a temporary directory");
        let prefix = format!("t{:08x}.", fastrand::u32(..));
        let http = format!("127.0.0.1:{}", free_port());
        let config = dir.path().join("hookline.toml");
        let text = settings((engine, servers), shape, &prefix, &http, more);
        fs::write(&config, text).expect("the directory is ours");
        fs::write(dir.path().join("hookline.key"), new_key()).expect("the directory is ours");
        Self {
            engine,
            servers: servers.to_owned(),
            dir,
            config,
            prefix,
            http,
            _permit: permit,
        }
    }

    /// The engine.
    #[must_use]
    pub fn engine(&self) -> Engine {
        self.engine
    }

    /// The directory of its files.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The brokers, as `host:port`; empty for the embedded engine.
    #[must_use]
    pub fn servers(&self) -> &str {
        &self.servers
    }

    /// The configuration file.
    #[must_use]
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// The full name of a topic.
    #[must_use]
    pub fn topic(&self, suffix: &str) -> String {
        format!("{}{suffix}", self.prefix)
    }

    /// Starts `hookline serve` and waits until it says that it is ready.
    ///
    /// # Panics
    /// When it does not.
    pub async fn start(&self) -> Program {
        self.start_roles(None).await
    }

    /// Starts `hookline serve` with these roles only.
    ///
    /// # Panics
    /// When it does not become ready.
    pub async fn start_roles(&self, roles: Option<&str>) -> Program {
        let start = roles.map_or_else(Start::default, Start::roles);
        self.start_with(&start).await
    }

    /// Runs a command on this site's configuration and returns what came of it.
    ///
    /// # Panics
    /// When it does not end in time.
    pub async fn run(&self, arguments: &[&str], input: &str) -> Output {
        self.run_with(arguments, input, &[]).await
    }

    async fn run_with(
        &self,
        arguments: &[&str],
        input: &str,
        environment: &[(&str, &str)],
    ) -> Output {
        let mut child = self
            .hookline(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program was built (cargo build)");
        let mut stdin = child.stdin.take().expect("stdin was piped");
        let feed = async move {
            // A command that reads nothing closes its end; that is not for us to judge.
            drop(stdin.write_all(input.as_bytes()).await);
            drop(stdin);
        };
        let both = async { tokio::join!(feed, child.wait_with_output()).1 };
        timeout(COMMAND_WITHIN, both)
            .await
            .unwrap_or_else(|_| panic!("{arguments:?} did not end within {COMMAND_WITHIN:?}"))
            .expect("the command can be waited for")
    }

    /// Starts a command with its input and outputs piped. It is killed when dropped.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn piped(&self, arguments: &[&str]) -> Child {
        self.hookline(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the program was built (cargo build)")
    }

    /// Runs a command that must succeed and returns its standard output.
    ///
    /// # Panics
    /// When it fails.
    pub async fn succeed(&self, arguments: &[&str], input: &str) -> String {
        let output = self.run(arguments, input).await;
        assert!(
            output.status.success(),
            "{arguments:?}: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).expect("output is UTF-8")
    }

    /// Applies YAML documents and returns what was printed (new secrets stand there).
    ///
    /// # Panics
    /// When they are refused.
    pub async fn apply(&self, documents: &str) -> String {
        self.succeed(&["apply", "-f", "-"], documents).await
    }

    /// Publishes events, each a JSON document; returns when all are acknowledged.
    ///
    /// # Panics
    /// When one is refused.
    pub async fn publish(&self, events: &[String]) {
        let mut lines = events.join("\n");
        lines.push('\n');
        self.succeed(&["publish", "-"], &lines).await;
    }

    /// Follows `hookline tail` from the start.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn tail(&self) -> Tail {
        // It ends with an error when the program under it stops; that is looked at by hand only.
        let complaints =
            fs::File::create(self.dir().join("tail.log")).expect("the directory is ours");
        let mut child = self
            .hookline(&["tail", "--from", "start", "--output", "json"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(complaints)
            .spawn()
            .expect("the program was built (cargo build)");
        let stdout = child.stdout.take().expect("stdout was piped");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let mut reading = JoinSet::new();
        start(&mut reading, collect(stdout, Arc::clone(&lines)));
        Tail {
            _child: child,
            lines,
            _reading: reading,
        }
    }

    /// The journal below the site, for looking at topics: the broker, or the running process through its control socket.
    ///
    /// # Panics
    /// When it cannot be reached.
    pub async fn journal(&self) -> Arc<dyn Journal> {
        match self.engine {
            Engine::Kafka => kafka_journal_at(&self.servers, "test"),
            Engine::Embedded => embedded_journal(&self.dir().join("data")).await,
        }
    }

    fn hookline(&self, arguments: &[&str]) -> Command {
        let mut command = hookline();
        command.args(arguments).arg("--config").arg(&self.config);
        command.current_dir(self.dir());
        command
    }
}

/// The program, to be given arguments. It ends when the thread that started it does, and it sees no configuration but the file's.
#[must_use]
pub fn hookline() -> Command {
    let binary = target_dir()
        .join(if cfg!(debug_assertions) {
            "debug"
        } else {
            "release"
        })
        .join("hookline");
    assert!(
        binary.exists(),
        "{} is missing: build it first (make test does)",
        binary.display()
    );
    let mut command = if Path::new("/usr/bin/setpriv").exists() {
        let mut guarded = Command::new("/usr/bin/setpriv");
        guarded.args(["--pdeathsig", "KILL", "--"]).arg(binary);
        guarded
    } else {
        Command::new(binary)
    };
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("HOOKLINE_") {
            command.env_remove(name);
        }
    }
    command.kill_on_drop(true);
    command
}

/// A client of the shared broker through the engine.
///
/// # Panics
/// When it cannot be made.
#[must_use]
pub fn kafka_journal(name: &str) -> Arc<dyn Journal> {
    kafka_journal_at(Broker::shared().address(), name)
}

/// A client of these brokers through the engine.
///
/// # Panics
/// When it cannot be made.
#[must_use]
pub fn kafka_journal_at(servers: &str, name: &str) -> Arc<dyn Journal> {
    let config = KafkaConfig {
        properties: BTreeMap::from([("bootstrap.servers".to_owned(), servers.to_owned())]),
        worker: name.to_owned(),
    };
    KafkaJournal::connect(config).expect("the broker answers")
}

async fn embedded_journal(dir: &Path) -> Arc<dyn Journal> {
    let config = EmbeddedConfig::new(dir, Arc::new(SystemClock));
    open_or_connect(config)
        .await
        .expect("the running program answers on its control socket")
}

/// The system's clock, for engines that are opened by the tests themselves.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the tests' clock")]
    fn now(&self) -> Millis {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let millis = since.map_or(0, |span| span.as_millis());
        Millis(i64::try_from(millis).unwrap_or(i64::MAX))
    }

    fn boot(&self) -> Duration {
        nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
            .map_or(Duration::ZERO, Duration::from)
    }
}

/// A running `hookline serve`.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Child,
    log: PathBuf,
    http: String,
}

impl Program {
    /// Its address over HTTP, as `host:port`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.http
    }

    /// Its process id.
    ///
    /// # Panics
    /// When it has ended.
    #[must_use]
    pub fn pid(&self) -> Pid {
        let id = self.child.id().expect("the program runs");
        Pid::from_raw(i32::try_from(id).expect("process ids are small"))
    }

    /// What it was named.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that its standard output and error go to.
    #[must_use]
    pub fn log_file(&self) -> &Path {
        &self.log
    }

    /// Waits until it ends by itself.
    ///
    /// # Panics
    /// When it does not.
    pub async fn ended(&mut self, within: Duration) -> ExitStatus {
        timeout(within, self.child.wait())
            .await
            .unwrap_or_else(|_| panic!("it did not end within {within:?}"))
            .expect("the program can be waited for")
    }

    /// Asks it to stop, and waits.
    ///
    /// # Panics
    /// When it does not stop in time.
    pub async fn stop(mut self) -> ExitStatus {
        self.ask_to_stop();
        self.ended(STOP_WITHIN).await
    }

    /// Asks it to stop.
    ///
    /// # Panics
    /// When it cannot be signalled.
    pub fn ask_to_stop(&self) {
        kill(self.pid(), Signal::SIGTERM).expect("the program can be signalled");
    }

    /// Whether it has ended.
    ///
    /// # Panics
    /// When it cannot be waited for.
    pub fn has_ended(&mut self) -> bool {
        let ended = self.child.try_wait();
        ended.expect("the program can be waited for").is_some()
    }

    /// Kills it as a crash would.
    ///
    /// # Panics
    /// When it cannot be signalled.
    pub async fn kill(mut self) {
        kill(self.pid(), Signal::SIGKILL).expect("the program can be signalled");
        self.child
            .wait()
            .await
            .expect("the program can be waited for");
    }

    /// Fetches a path of its HTTP listener.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn get(&self, path: &str) -> Result<(u16, String), String> {
        let client: Client<HttpConnector, Empty<Bytes>> =
            Client::builder(TokioExecutor::new()).build_http();
        let uri = format!("http://{}{path}", self.http);
        let uri = uri.parse().map_err(|e| format!("{uri}: {e}"))?;
        let response = client.get(uri).await.map_err(|e| e.to_string())?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await;
        let body = body.map_err(|e| e.to_string())?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }

    /// The sum of a metric over all its labels that contain `labels`; 0 when it is not there.
    ///
    /// # Panics
    /// When `/metrics` does not answer.
    pub async fn metric(&self, name: &str, labels: &str) -> f64 {
        let (status, text) = self.get("/metrics").await.expect("/metrics answers");
        assert_eq!(status, 200, "{text}");
        sum_of(&text, name, labels)
    }

    /// What it wrote to its standard output and error, of all starts on this site.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until it says that it is ready.
    ///
    /// # Panics
    /// When it ends, or does not say so in time.
    pub async fn wait_until_ready(&mut self) {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("serve ended with {status}:\n{}", self.log());
            }
            let seen = self.get("/readyz").await;
            if matches!(seen, Ok((200, _))) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "not ready within {READY_WITHIN:?}: {seen:?}\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            let tail = lines.split_at(lines.len().saturating_sub(60)).1.join("\n");
            crate::say(&format!("--- the end of the program's log\n{tail}\n---"));
        }
    }
}

/// A running `hookline tail --output json`.
#[derive(Debug)]
pub struct Tail {
    _child: Child,
    lines: Arc<Mutex<Vec<Value>>>,
    _reading: JoinSet<()>,
}

impl Tail {
    /// The attempts seen so far.
    #[must_use]
    pub fn attempts(&self) -> Vec<Value> {
        self.lines.lock().clone()
    }

    /// Those of one webhook.
    #[must_use]
    pub fn of(&self, webhook: &str) -> Vec<Value> {
        let all = self.attempts();
        all.into_iter()
            .filter(|a| a["webhook"] == webhook)
            .collect()
    }

    /// The outcomes of one webhook's attempts, in order.
    #[must_use]
    pub fn outcomes(&self, webhook: &str) -> Vec<String> {
        let of = self.of(webhook);
        of.iter()
            .map(|a| a["outcome"].as_str().unwrap_or_default().to_owned())
            .collect()
    }
}

async fn collect(stdout: tokio::process::ChildStdout, lines: Arc<Mutex<Vec<Value>>>) {
    let mut reader = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = reader.next_line().await {
        let attempt = serde_json::from_str(&line)
            .unwrap_or_else(|e| panic!("tail printed what is not JSON: {e}: {line}"));
        lines.lock().push(attempt);
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the set is owned by what is returned, which ends its tasks when it is dropped"
)]
fn start(set: &mut JoinSet<()>, future: impl Future<Output = ()> + Send + 'static) {
    set.spawn(future);
}

/// A key to seal secrets with, in base64.
#[must_use]
pub fn new_key() -> String {
    let bytes: [u8; 32] = std::array::from_fn(|_| fastrand::u8(..));
    BASE64_STANDARD.encode(bytes)
}

/// A port that nobody uses at the moment.
#[must_use]
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|l| l.local_addr())
        .map_or(0, |a| a.port())
}

fn sum_of(text: &str, name: &str, labels: &str) -> f64 {
    let lines = text.lines().filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let (metric, rest) = series.split_once('{').unwrap_or((series, ""));
        (metric == name && rest.contains(labels)).then(|| value.parse::<f64>().ok())?
    });
    lines.sum()
}

fn settings(
    (engine, servers): (Engine, &str),
    (partitions, replication): (u32, u16),
    prefix: &str,
    http: &str,
    more: &str,
) -> String {
    let journal = match engine {
        Engine::Embedded => "engine = \"embedded\"",
        Engine::Kafka => "engine = \"kafka\"",
    };
    let below = match engine {
        Engine::Embedded => "[journal.embedded]\ndir = \"data\"".to_owned(),
        Engine::Kafka => {
            format!("[journal.kafka]\n\"bootstrap.servers\" = \"{servers}\"")
        }
    };
    format!(
        "[journal]
{journal}
prefix = \"{prefix}\"
partitions = {partitions}
replication = {replication}
{below}
[http]
listen = \"{http}\"
[outgoing]
allow_http = true
allow_addresses = [\"127.0.0.0/8\"]
[secrets]
key_file = \"hookline.key\"
{more}
"
    )
}
