//! A real Apache Kafka for the tests: one broker for the whole test process, on free ports, in a directory of its own.
//!
//! The broker runs under a small shell that holds the reading end of a pipe whose other end is ours. When this process ends, in whatever
//! way, the pipe closes, and the shell kills its own child and removes the directory. So not even a killed test run leaves anything.

use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

/// How long the broker may take to answer.
const READY_WITHIN: Duration = Duration::from_secs(90);
/// A port may be taken by somebody else between our look and the broker's bind.
const TRIES: usize = 3;

/// Runs the broker, waits for the pipe to close, ends the broker. Arguments: directory, then the broker's command line.
const SUPERVISOR: &str = r#"
dir=$1; shift
"$@" >"$dir/broker.log" 2>&1 </dev/null &
child=$!
echo "$child" >"$dir/broker.pid"
cat >/dev/null
kill -KILL "$child" 2>/dev/null
wait "$child" 2>/dev/null
rm -rf "$dir"
"#;

/// A running broker.
#[derive(Debug)]
pub struct Broker {
    address: String,
    dir: PathBuf,
    /// Its standard input is the pipe; it is never waited for, because it outlives us by a moment.
    _supervisor: Child,
}

impl Broker {
    /// The one broker of this process, started at the first call.
    ///
    /// # Panics
    /// When it could not be started; the message says what is missing.
    pub fn shared() -> &'static Self {
        static BROKER: OnceLock<Result<Broker, String>> = OnceLock::new();
        match BROKER.get_or_init(Self::start) {
            Ok(broker) => broker,
            Err(reason) => panic!("no Kafka for the tests: {reason}"),
        }
    }

    /// `host:port` for clients.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
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

    fn start() -> Result<Self, String> {
        let libs = target_dir().join("kafka/libs");
        if fs::read_dir(&libs).is_err() {
            return Err(format!(
                "its jars are not in {}: run `make kafka`",
                libs.display()
            ));
        }
        let mut last = String::new();
        for _ in 0..TRIES {
            match Self::start_once(&libs) {
                Ok(broker) => return Ok(broker),
                Err(reason) => last = reason,
            }
        }
        Err(last)
    }

    fn start_once(libs: &Path) -> Result<Self, String> {
        let dir = tempfile::Builder::new()
            .prefix("hookline-kafka-")
            .tempdir()
            .map_err(|e| format!("no temporary directory: {e}"))?
            .keep();
        let (port, controller_port) = free_ports()?;
        let properties = dir.join("server.properties");
        fs::write(&properties, settings(&dir, port, controller_port))
            .map_err(|e| format!("{}: {e}", properties.display()))?;
        let class_path = format!("{}/*", libs.display());
        format_storage(&class_path, &properties)?;

        let supervisor = Command::new("sh")
            .args(["-c", SUPERVISOR, "kafka-supervisor"])
            .arg(&dir)
            .args(["java", "-Xms256m", "-Xmx512m", "-XX:+UseG1GC"])
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
        let mut broker = Self {
            address: format!("127.0.0.1:{port}"),
            dir,
            _supervisor: supervisor,
        };
        match broker.wait_until_it_answers() {
            Ok(()) => Ok(broker),
            Err(reason) => {
                let log = fs::read_to_string(broker.dir.join("broker.log")).unwrap_or_default();
                let tail = log.lines().rev().take(15).collect::<Vec<_>>();
                let tail = tail.into_iter().rev().collect::<Vec<_>>().join("\n");
                // Closing the pipe ends the broker.
                drop(broker._supervisor.stdin.take());
                Err(format!("{reason}; the end of its log:\n{tail}"))
            }
        }
    }

    fn wait_until_it_answers(&mut self) -> Result<(), String> {
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
                && nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None).is_err()
            {
                return Err("it ended while starting".into());
            }
            pause(Duration::from_millis(200));
        }
    }
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

/// Two ports that nobody uses at the moment.
fn free_ports() -> Result<(u16, u16), String> {
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|e| e.to_string());
    let (a, b) = (bind()?, bind()?);
    let port = |l: &TcpListener| l.local_addr().map(|a| a.port()).map_err(|e| e.to_string());
    Ok((port(&a)?, port(&b)?))
}

fn format_storage(class_path: &str, properties: &Path) -> Result<(), String> {
    // Any 16 bytes will do for a cluster that lives for one test run.
    let output = Command::new("java")
        .args(["-Xshare:auto", "-XX:TieredStopAtLevel=1", "-cp", class_path])
        .args(["kafka.tools.StorageTool", "format", "--standalone"])
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

fn settings(dir: &Path, port: u16, controller_port: u16) -> String {
    format!(
        "process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller_port}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
inter.broker.listener.name=PLAINTEXT
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={data}
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=4
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
log.cleaner.dedupe.buffer.size=2097152
log.cleaner.backoff.ms=500
num.network.threads=2
num.io.threads=4
log.retention.check.interval.ms=1000
log.initial.task.delay.ms=1000
",
        data = dir.join("data").display()
    )
}

#[expect(
    clippy::disallowed_methods,
    reason = "the broker is started outside of any runtime, once per test process"
)]
fn pause(span: Duration) {
    std::thread::sleep(span);
}
