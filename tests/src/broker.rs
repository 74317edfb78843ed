//! A real Apache Kafka for the tests: one broker for the whole test process, on free ports, in a directory of its own; and brokers of a
//! test's own, which it may kill, start again, freeze, and reach through a [`Proxy`](crate::proxy::Proxy).
//!
//! A broker runs under a small shell that holds the reading end of a pipe whose other end is ours. When this process ends, in whatever
//! way, the pipe closes, and the shell kills its own child and removes the directory. So not even a killed test run leaves anything.
//! A line on the pipe starts the broker again after it was killed.

use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parking_lot::Mutex;

/// How long the broker may take to answer.
const READY_WITHIN: Duration = Duration::from_secs(90);
/// Whether all partitions of the topics in kcat's listing have a leader.
fn leads_all(listing: &serde_json::Value) -> bool {
    let topics = listing["topics"].as_array().into_iter().flatten();
    let mut partitions = topics
        .filter_map(|topic| topic["partitions"].as_array())
        .flatten()
        .peekable();
    partitions.peek().is_some()
        && partitions.all(|p| p["leader"].as_i64().is_some_and(|leader| leader >= 0))
}

/// A port may be taken by somebody else between our look and the broker's bind.
const TRIES: usize = 3;

/// Runs the broker, and again for each line on the pipe; when the pipe closes, ends the broker. Arguments: directory, then the broker's
/// command line. The process id is put into its place at once and whole, so that nobody reads half of it.
const SUPERVISOR: &str = r#"
dir=$1; shift
run() {
    "$@" >>"$dir/broker.log" 2>&1 </dev/null &
    child=$!
    echo "$child" >"$dir/broker.pid.new" && mv "$dir/broker.pid.new" "$dir/broker.pid"
}
run "$@"
while read -r _; do
    wait "$child" 2>/dev/null
    run "$@"
done
kill -KILL "$child" 2>/dev/null
wait "$child" 2>/dev/null
rm -rf "$dir"
"#;

/// What a broker is made of.
#[derive(Debug, Clone)]
struct Plan {
    node: usize,
    port: u16,
    controller_port: u16,
    /// The port that the broker names to clients which came in by its second door, and that door.
    behind: Option<(u16, u16)>,
    /// All nodes of a cluster, as `node@host:port` of their controllers; empty for a broker that is alone.
    voters: String,
    nodes: usize,
    heap_mib: usize,
}

/// A running broker.
#[derive(Debug)]
pub struct Broker {
    address: String,
    plan: Plan,
    dir: PathBuf,
    /// Its standard input is the pipe; it is never waited for, because it outlives us by a moment.
    supervisor: Mutex<Child>,
}

impl Broker {
    /// The one broker of this process, started at the first call.
    ///
    /// # Panics
    /// When it could not be started; the message says what is missing.
    pub fn shared() -> &'static Self {
        static BROKER: OnceLock<Result<Broker, String>> = OnceLock::new();
        match BROKER.get_or_init(|| Self::start(512, None)) {
            Ok(broker) => broker,
            Err(reason) => panic!("no Kafka for the tests: {reason}"),
        }
    }

    /// A broker of one's own. Dropping it ends it.
    ///
    /// # Panics
    /// When it could not be started; the message says what is missing.
    #[must_use]
    pub fn private() -> Self {
        Self::start(384, None).unwrap_or_else(|e| panic!("no Kafka of one's own: {e}"))
    }

    /// A broker of one's own with a second door: who comes in there is told that the broker's port is `outside`.
    ///
    /// # Panics
    /// As [`Broker::private`].
    #[must_use]
    pub fn private_behind(outside: u16) -> Self {
        Self::start(384, Some(outside)).unwrap_or_else(|e| panic!("no Kafka of one's own: {e}"))
    }

    /// Brokers that form one cluster, each with a copy of everything, of which one may be missing.
    ///
    /// # Panics
    /// As [`Broker::private`].
    #[must_use]
    pub fn cluster(nodes: usize) -> Vec<Self> {
        Self::start_cluster(nodes).unwrap_or_else(|e| panic!("no Kafka of several brokers: {e}"))
    }

    /// `host:port` for clients.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// `host:port` of the second door.
    ///
    /// # Panics
    /// When it has none.
    #[must_use]
    pub fn second_door(&self) -> String {
        let (_, door) = self.plan.behind.expect("the broker was made with one");
        format!("127.0.0.1:{door}")
    }

    /// The number by which the cluster knows it.
    #[must_use]
    pub fn node(&self) -> usize {
        self.plan.node
    }

    /// The broker's process id.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        fs::read_to_string(self.dir.join("broker.pid"))
            .ok()?
            .trim()
            .parse()
            .ok()
    }

    /// Bytes of all records of a topic that take room on its disk, those included that are to be removed in a moment.
    ///
    /// # Panics
    /// When its directory cannot be read.
    #[must_use]
    pub fn disk(&self, topic: &str) -> u64 {
        let data = fs::read_dir(self.dir.join("data")).expect("the broker has a directory");
        let partitions = data.flatten().filter(|entry| {
            let name = entry.file_name().into_string().unwrap_or_default();
            let of = name.rsplit_once('-').map(|(of, _partition)| of);
            of == Some(topic)
        });
        let files = partitions.flat_map(|partition| fs::read_dir(partition.path()));
        let logs = files
            .flatten()
            .flatten()
            .filter(|file| file.file_name().to_string_lossy().contains(".log"));
        logs.map(|file| file.metadata().map_or(0, |meta| meta.len()))
            .sum()
    }

    /// Cuts topics into files of so many bytes from now on, so that little has to flow until some are free. Blocks while Kafka's own tool runs.
    pub fn cut(&self, topics: &[String], bytes: u64) {
        let smaller = format!("segment.bytes={bytes}");
        for topic in topics {
            let which = ["--bootstrap-server", &self.address, "--topic", topic];
            let what = ["--alter", "--add-config", &smaller];
            let all = [&which[..], &what].concat();
            drop(run_tool("kafka.admin.ConfigCommand", &all));
        }
    }

    /// Kills it as a crash would, and waits until it is gone.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill(&self) {
        let pid = self.running();
        kill(pid, Signal::SIGKILL).expect("the broker can be signalled");
        // The supervisor reaps it only when it is to run again; until then it is a zombie without sockets and locks.
        while state_of(pid).is_some_and(|state| state != 'Z') {
            pause(Duration::from_millis(5));
        }
    }

    /// Starts it again after it was killed, on the same directory and ports, and waits until it answers.
    ///
    /// # Panics
    /// When it does not.
    pub fn restart(&self) {
        let before = self.pid();
        self.begin_restart();
        while self.pid() == before {
            pause(Duration::from_millis(5));
        }
        if let Err(reason) = self.wait_until_it_answers() {
            panic!(
                "the broker did not come back: {reason}{}",
                self.last_words()
            );
        }
    }

    /// Waits until it leads all partitions of this topic: a broker that was away answers before it does so.
    ///
    /// # Panics
    /// When it does not.
    pub fn wait_until_it_leads(&self, topic: &str) {
        let deadline = tokio::time::Instant::now() + READY_WITHIN;
        loop {
            let seen = self.listing(topic);
            if leads_all(&seen) {
                return;
            }
            let late = tokio::time::Instant::now() > deadline;
            assert!(!late, "no leader for {topic}: {seen}{}", self.last_words());
            pause(Duration::from_millis(50));
        }
    }

    /// Who of the cluster leads the partitions of this topic, by number; as this broker knows it.
    ///
    /// # Panics
    /// When it does not answer with a listing.
    #[must_use]
    pub fn leaders(&self, topic: &str) -> Vec<usize> {
        let listing = self.listing(topic);
        let partitions = listing["topics"][0]["partitions"].as_array();
        let leaders = partitions.into_iter().flatten();
        leaders
            .filter_map(|p| usize::try_from(p["leader"].as_i64()?).ok())
            .collect()
    }

    /// Waits until all partitions of all topics have so many copies that are up to date.
    ///
    /// # Panics
    /// When they do not get them.
    pub fn wait_until_in_sync(&self, copies: usize) {
        let deadline = tokio::time::Instant::now() + READY_WITHIN;
        loop {
            let seen: serde_json::Value = self.listing("");
            let topics = seen["topics"].as_array().into_iter().flatten();
            let partitions = topics.filter_map(|topic| topic["partitions"].as_array());
            let lagging = partitions
                .flatten()
                .filter(|p| p["isrs"].as_array().map_or(0, Vec::len) < copies)
                .count();
            if lagging == 0 {
                return;
            }
            let late = tokio::time::Instant::now() > deadline;
            assert!(
                !late,
                "{lagging} partitions lack copies{}",
                self.last_words()
            );
            pause(Duration::from_millis(100));
        }
    }

    /// What kcat says of a topic, or (empty) of all; null when the broker does not answer.
    fn listing(&self, topic: &str) -> serde_json::Value {
        let mut kcat = Command::new(kcat());
        kcat.args(["-L", "-J", "-m", "2", "-b", &self.address]);
        if !topic.is_empty() {
            kcat.args(["-t", topic]);
        }
        let output = kcat
            .stdin(Stdio::null())
            .output()
            .expect("kcat is installed (make setup)");
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    fn begin_restart(&self) {
        let mut supervisor = self.supervisor.lock();
        let pipe = supervisor.stdin.as_mut().expect("stdin was piped");
        writeln!(pipe, "again").expect("the supervisor reads its pipe");
    }

    /// Stops it in the middle of whatever it does, without ending it.
    ///
    /// # Panics
    /// When it does not run.
    pub fn freeze(&self) {
        let pid = self.running();
        kill(pid, Signal::SIGSTOP).expect("the broker can be signalled");
        // On a busy machine some of its threads go on until one has been told.
        while !stands_still(pid) {
            pause(Duration::from_millis(1));
        }
    }

    /// Lets it go on.
    ///
    /// # Panics
    /// When it does not run.
    pub fn thaw(&self) {
        kill(self.running(), Signal::SIGCONT).expect("the broker can be signalled");
    }

    fn running(&self) -> Pid {
        Pid::from_raw(self.pid().expect("the broker runs"))
    }

    fn start(heap_mib: usize, behind: Option<u16>) -> Result<Self, String> {
        tries(|| {
            let ports = free_ports(3)?;
            let plan = Plan {
                node: 1,
                port: ports[0],
                controller_port: ports[1],
                behind: behind.map(|outside| (outside, ports[2])),
                voters: String::new(),
                nodes: 1,
                heap_mib,
            };
            let broker = Self::begin(plan)?;
            broker.wait_until_it_answers_or_end()?;
            Ok(broker)
        })
    }

    fn start_cluster(nodes: usize) -> Result<Vec<Self>, String> {
        tries(|| {
            let ports = free_ports(2 * nodes)?;
            let (doors, controllers) = ports.split_at(nodes);
            let voters = controllers.iter().enumerate();
            let voters: Vec<_> = voters
                .map(|(i, port)| format!("{}@127.0.0.1:{port}", i + 1))
                .collect();
            let plans = (0..nodes).map(|i| Plan {
                node: i + 1,
                port: doors[i],
                controller_port: controllers[i],
                behind: None,
                voters: voters.join(","),
                nodes,
                heap_mib: 320,
            });
            let brokers = plans.map(Self::begin).collect::<Result<Vec<_>, _>>()?;
            for broker in &brokers {
                broker.wait_until_it_answers_or_end()?;
            }
            Ok(brokers)
        })
    }

    /// Starts it, without waiting until it answers.
    fn begin(plan: Plan) -> Result<Self, String> {
        let libs = target_dir().join("kafka/libs");
        if fs::read_dir(&libs).is_err() {
            return Err(format!(
                "its jars are not in {}: run `make kafka`",
                libs.display()
            ));
        }
        let dir = tempfile::Builder::new()
            .prefix("hookline-kafka-")
            .tempdir()
            .map_err(|e| format!("no temporary directory: {e}"))?
            .keep();
        let properties = dir.join("server.properties");
        fs::write(&properties, settings(&dir, &plan))
            .map_err(|e| format!("{}: {e}", properties.display()))?;
        let class_path = class_path();
        format_storage(&class_path, &properties, plan.voters.is_empty())?;

        let supervisor = Command::new("sh")
            .args(["-c", SUPERVISOR, "kafka-supervisor"])
            .arg(&dir)
            .args(["java", "-Xms256m", "-XX:+UseG1GC"])
            .arg(format!("-Xmx{}m", plan.heap_mib))
            .args(["-XX:MaxGCPauseMillis=20", "-Djava.awt.headless=true"])
            .args(["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"])
            .args(["-cp", &class_path, "kafka.Kafka"])
            .arg(&properties)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A Ctrl-C at the terminal is for the tests; the supervisor sees them end.
            .process_group(0)
            .spawn()
            .map_err(|e| format!("sh: {e}"))?;
        Ok(Self {
            address: format!("127.0.0.1:{}", plan.port),
            plan,
            dir,
            supervisor: Mutex::new(supervisor),
        })
    }

    fn wait_until_it_answers_or_end(&self) -> Result<(), String> {
        self.wait_until_it_answers().map_err(|reason| {
            let reason = format!("{reason}{}", self.last_words());
            self.end();
            reason
        })
    }

    /// Closing the pipe ends the broker.
    fn end(&self) {
        drop(self.supervisor.lock().stdin.take());
    }

    /// The end of its log.
    fn last_words(&self) -> String {
        let log = fs::read_to_string(self.dir.join("broker.log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let tail = lines.split_at(lines.len().saturating_sub(15)).1.join("\n");
        format!("; the end of its log:\n{tail}")
    }

    fn wait_until_it_answers(&self) -> Result<(), String> {
        let deadline = tokio::time::Instant::now() + READY_WITHIN;
        loop {
            // Metadata by a client that shares nothing with the engine under test.
            let answered = Command::new(kcat())
                .args(["-L", "-m", "2", "-b", &self.address])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .map_err(|e| format!("kcat: {e}"))?;
            if answered.success() {
                return Ok(());
            }
            if tokio::time::Instant::now() > deadline {
                return Err(format!("it did not answer within {READY_WITHIN:?}"));
            }
            if let Some(pid) = self.pid()
                && state_of(Pid::from_raw(pid)).is_none_or(|state| state == 'Z')
            {
                return Err("it ended while starting".into());
            }
            pause(Duration::from_millis(200));
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.end();
    }
}

/// A port may be taken by somebody else between our look and the broker's bind, so starting is tried more than once.
fn tries<T>(mut start: impl FnMut() -> Result<T, String>) -> Result<T, String> {
    let mut last = String::new();
    for _ in 0..TRIES {
        match start() {
            Ok(started) => return Ok(started),
            Err(reason) => last = reason,
        }
    }
    Err(last)
}

/// The state of a process as the system shows it (`R`, `S`, `T`, `Z`, …); none when there is no such process.
fn state_of(pid: Pid) -> Option<char> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let state = status.lines().find_map(|l| l.strip_prefix("State:"))?;
    state.trim_start().chars().next()
}

/// Where the broker's classes are.
fn class_path() -> String {
    format!("{}/*", target_dir().join("kafka/libs").display())
}

/// Runs one of Kafka's own tools and returns its standard output.
///
/// # Panics
/// When it fails.
#[must_use]
pub fn run_tool(class: &str, arguments: &[&str]) -> String {
    let output = Command::new("java")
        .args(["-Xshare:auto", "-XX:TieredStopAtLevel=1", "-Xmx128m"])
        .args(["-Dorg.slf4j.simpleLogger.defaultLogLevel=error"])
        .args(["-cp", &class_path(), class])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("java is installed (make setup)");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{class} {arguments:?}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// The name under which the distribution installed kcat.
#[must_use]
pub fn kcat() -> &'static str {
    static NAME: OnceLock<&str> = OnceLock::new();
    NAME.get_or_init(|| {
        let found = Command::new("kcat")
            .arg("-V")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if found.is_ok() { "kcat" } else { "kafkacat" }
    })
}

/// Runs kcat with these arguments and this standard input, and returns its standard output.
///
/// # Panics
/// When it fails.
#[must_use]
pub fn run_kcat(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new(kcat())
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("kcat is installed (make setup)");
    let mut stdin = child.stdin.take().expect("stdin was piped");
    stdin.write_all(input).expect("kcat reads its input");
    drop(stdin);
    let output = child.wait_with_output().expect("kcat ends");
    assert!(
        output.status.success(),
        "kcat {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

/// Where `tests/tools/setup.sh` has put a tool, of whatever version.
///
/// # Panics
/// When it has not.
#[must_use]
pub fn installed(tool: &str) -> PathBuf {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools");
    let mut found = std::fs::read_dir(&tools).into_iter().flatten().flatten();
    let of_tool = |entry: &std::fs::DirEntry| {
        let name = entry.file_name();
        name.to_string_lossy().starts_with(&format!("{tool}-"))
    };
    let found = found.find(of_tool);
    found.expect("it is there: run `make setup`").path()
}

/// The directory into which cargo builds: that of the running test or benchmark.
#[must_use]
pub fn target_dir() -> PathBuf {
    // target/<profile>/deps/it-… or target/<profile>/bench
    let exe = std::env::current_exe().unwrap_or_default();
    exe.ancestors()
        .find(|dir| dir.join("CACHEDIR.TAG").exists())
        .map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"),
            Path::to_path_buf,
        )
}

/// Ports that nobody uses at the moment.
fn free_ports(count: usize) -> Result<Vec<u16>, String> {
    let bind = |_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|e| e.to_string());
    // All are held until the last one is found, so that no two are the same.
    let held = (0..count).map(bind).collect::<Result<Vec<_>, _>>()?;
    let port = |l: &TcpListener| l.local_addr().map(|a| a.port()).map_err(|e| e.to_string());
    held.iter().map(port).collect()
}

fn format_storage(class_path: &str, properties: &Path, alone: bool) -> Result<(), String> {
    // Any 16 bytes will do for a cluster that lives for one test run.
    let output = Command::new("java")
        .args(["-Xshare:auto", "-XX:TieredStopAtLevel=1", "-cp", class_path])
        .args(["kafka.tools.StorageTool", "format"])
        .args(alone.then_some("--standalone"))
        .args(["-t", "aG9va2xpbmUtdGVzdHMhIQ", "-c"])
        .arg(properties)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("java: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "formatting its storage failed: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    ))
}

fn settings(dir: &Path, plan: &Plan) -> String {
    let Plan {
        node,
        port,
        controller_port,
        ..
    } = plan;
    let (doors, outside) = match plan.behind {
        Some((outside, door)) => (
            format!(",BEHIND://127.0.0.1:{door}"),
            format!(",BEHIND://127.0.0.1:{outside}"),
        ),
        None => (String::new(), String::new()),
    };
    let quorum = if plan.voters.is_empty() {
        format!("controller.quorum.bootstrap.servers=127.0.0.1:{controller_port}")
    } else {
        format!("controller.quorum.voters={}", plan.voters)
    };
    let in_sync = if plan.nodes > 2 { 2 } else { 1 };
    format!(
        "process.roles=broker,controller
node.id={node}
{quorum}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}{doors}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}{outside}
inter.broker.listener.name=PLAINTEXT
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,BEHIND:PLAINTEXT
log.dirs={data}
offsets.topic.replication.factor={nodes}
offsets.topic.num.partitions=4
transaction.state.log.replication.factor={nodes}
transaction.state.log.min.isr={in_sync}
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor={nodes}
share.coordinator.state.topic.min.isr={in_sync}
share.coordinator.state.topic.num.partitions=4
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
log.cleaner.dedupe.buffer.size=2097152
log.cleaner.backoff.ms=500
num.network.threads=2
num.io.threads=4
log.retention.check.interval.ms=1000
log.segment.delete.delay.ms=1000
log.initial.task.delay.ms=1000
",
        data = dir.join("data").display(),
        nodes = plan.nodes,
    )
}

#[expect(
    clippy::disallowed_methods,
    reason = "brokers are started and stopped outside of any runtime, or by a thread that may block"
)]
fn pause(span: Duration) {
    std::thread::sleep(span);
}

/// Whether all threads of a process are stopped, or gone.
fn stands_still(pid: Pid) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten();
    tasks.flatten().all(|task| {
        let state = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        // The name before the state may hold anything.
        let state = state.rsplit_once(')').map(|(_, rest)| rest.trim_start());
        state.is_none_or(|state| state.starts_with(['T', 't', 'Z', 'X']))
    })
}
