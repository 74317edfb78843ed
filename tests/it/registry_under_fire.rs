//! The registry's write protocol, among real processes that are stopped and killed, while compaction runs.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use hookline_journal::{Cleanup, Journal, ReadBudget, TopicSpec};
use hookline_model::limits;
use hookline_tests::broker::Broker;
use hookline_tests::program::{Engine, Program, Site};
use hookline_tests::say;
use hookline_tests::wait::eventually;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

both_engines!(
    of_two_processes_with_the_same_version_exactly_one_wins,
    a_writer_stopped_in_mid_write_wins_nothing_on_waking,
    a_killed_writer_loses_no_acknowledged_update,
);

/// How long a writer may take to answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(60);
/// How long a writer stays stopped: a minute, in which superseded records are tombstoned and compacted away.
const STOPPED: Duration = Duration::from_secs(60);

/// How long a writer's write may take, and how often it tidies.
#[derive(Debug, Clone, Copy)]
struct Pace {
    write_timeout: Duration,
    tidy_every: Duration,
}

const QUICK: Pace = Pace {
    write_timeout: Duration::from_secs(3),
    tidy_every: Duration::from_secs(3),
};

/// `registry_writer` at work on a site.
struct Writer {
    child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Writer {
    fn start(site: &Site, pace: Pace) -> Self {
        let (engine, place) = match site.engine() {
            Engine::Kafka => ("kafka", site.servers().to_owned()),
            Engine::Embedded => ("embedded", site.dir().join("data").display().to_string()),
        };
        let millis = |span: Duration| span.as_millis().to_string();
        let mut child = Command::new(env!("CARGO_BIN_EXE_registry_writer"))
            .args([engine, &place, &site.topic("")])
            .arg(site.dir().join("hookline.key"))
            .args([millis(pace.write_timeout), millis(pace.tidy_every)])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("cargo built it");
        let stdout = child.stdout.take().expect("it was piped");
        Self {
            stdin: child.stdin.take().expect("it was piped"),
            lines: BufReader::new(stdout).lines(),
            child,
        }
    }

    fn pid(&self) -> Pid {
        let id = self.child.id().expect("it runs");
        Pid::from_raw(i32::try_from(id).unwrap())
    }

    async fn tell(&mut self, line: &str) {
        let line = format!("{line}\n");
        self.stdin.write_all(line.as_bytes()).await.unwrap();
    }

    /// The next line it prints; none when it has ended.
    async fn hear(&mut self) -> Option<String> {
        let line = timeout(ANSWERS_WITHIN, self.lines.next_line()).await;
        line.expect("it answers in time").unwrap()
    }

    async fn ask(&mut self, line: &str) -> String {
        self.tell(line).await;
        self.hear().await.expect("it answers")
    }

    /// Version and lines of the content.
    async fn show(&mut self) -> (u64, Vec<String>) {
        let shown = self.ask("show").await;
        let (version, lines) = shown.split_once(' ').unwrap();
        let lines = lines.split(',').filter(|line| !line.is_empty());
        (version.parse().unwrap(), lines.map(str::to_owned).collect())
    }
}

/// A site whose registry can be written to; on Kafka its topic is compacted all the time.
async fn site(engine: Engine) -> (Site, Option<Program>) {
    match engine {
        Engine::Kafka => {
            let site = Site::without_topics().await;
            make_registry(&site).await;
            (site, None)
        }
        Engine::Embedded => {
            let site = Site::new(engine).await;
            let program = site.start().await;
            (site, Some(program))
        }
    }
}

async fn make_registry(site: &Site) {
    let settings = [
        ("segment.ms", "200"),
        ("min.cleanable.dirty.ratio", "0.01"),
        ("delete.retention.ms", "100"),
    ];
    let spec = TopicSpec {
        name: site.topic("registry"),
        partitions: 1,
        replication: 1,
        cleanup: Cleanup::Compact,
        append_time: false,
        max_record_bytes: limits::RECORD_BYTES_MAX,
        settings: settings
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
    };
    site.journal().await.create_topics(&[spec]).await.unwrap();
    site.succeed(&["topics", "create"], "").await;
}

/// Offsets of the registry's log at which a record was, and is no more.
async fn compacted_away(journal: &Arc<dyn Journal>, topic: &str) -> u64 {
    let end = journal.end(topic, 0).await.unwrap();
    let budget = ReadBudget::of(1 << 20);
    let mut reader = journal.reader(topic, 0, 0, budget).await.unwrap();
    let mut there = 0;
    while reader.position() < end {
        there += reader.next(1000).await.unwrap().records.len() as u64;
    }
    end - there
}

async fn of_two_processes_with_the_same_version_exactly_one_wins(engine: Engine) {
    const ROUNDS: u64 = 20;
    let (site, program) = site(engine).await;
    let mut writers = [Writer::start(&site, QUICK), Writer::start(&site, QUICK)];
    let mut winners = BTreeSet::new();
    for version in 0..ROUNDS {
        let url = |who: usize| format!("https://example.com/{who}/{version}");
        let [a, b] = &mut writers;
        let commands = [0, 1].map(|who| format!("webhook {version} {}", url(who)));
        let (a, b) = tokio::join!(a.ask(&commands[0]), b.ask(&commands[1]));
        let (won, lost) = (
            format!("won {}", version + 1),
            format!("conflict {}", version + 1),
        );
        let winner = match (a == won, b == won) {
            (true, false) => 0,
            (false, true) => 1,
            _ => panic!("version {version}: {a}, {b}"),
        };
        assert_eq!([&b, &a][winner], &lost, "version {version}");
        winners.insert(winner);
        // What a third process sees.
        let arguments = ["get", "webhooks", "crm", "--output", "json"];
        let shown = site.succeed(&arguments, "").await;
        let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(shown["url"], url(winner), "version {version}");
        assert_eq!(shown["version"], version + 1);
    }
    say(&format!("winners: {winners:?}"));
    stop(program).await;
}

async fn stop(program: Option<Program>) {
    if let Some(program) = program {
        assert!(program.stop().await.success());
    }
}

async fn a_writer_stopped_in_mid_write_wins_nothing_on_waking(engine: Engine) {
    let (site, program) = site(engine).await;
    let mut other = Writer::start(&site, QUICK);
    for n in 1..=3 {
        assert_eq!(other.ask(&format!("write - {n}")).await, format!("won {n}"));
    }
    // These wait longer than they will be stopped, so that the protocol decides and not the time; the last one has the usual time.
    let patient = Pace {
        write_timeout: 3 * STOPPED,
        ..QUICK
    };
    let mut before_appending = Writer::start(&site, patient);
    let mut before_seeing = Writer::start(&site, patient);
    let mut hasty = Writer::start(&site, QUICK);
    for writer in [&mut before_seeing, &mut hasty] {
        writer.tell("hold seen").await;
    }
    for writer in [&mut before_appending, &mut before_seeing, &mut hasty] {
        writer.tell("hold read").await;
        assert_eq!(writer.ask("write 3 late").await, "read 3");
    }
    assert_eq!(other.ask("write 3 4").await, "won 4");
    for writer in [&mut before_seeing, &mut hasty] {
        // Behind the other's record, with the same version.
        assert_eq!(writer.ask("go").await, "appended");
    }
    let stopped = [&before_appending, &before_seeing, &hasty].map(Writer::pid);
    for pid in stopped {
        kill(pid, Signal::SIGSTOP).unwrap();
    }
    let begun = tokio::time::Instant::now();
    let mut n = 4;
    while begun.elapsed() < STOPPED {
        n += 1;
        assert_eq!(other.ask(&format!("write - {n}")).await, format!("won {n}"));
        sleep(Duration::from_millis(500)).await;
    }
    if engine == Engine::Kafka {
        let gone = compacted_away(&site.journal().await, &site.topic("registry")).await;
        assert!(gone > 6, "compaction ran: {gone} records are gone");
    }
    for pid in stopped {
        kill(pid, Signal::SIGCONT).unwrap();
    }
    for (writer, what) in [
        (&mut before_appending, "before appending"),
        (&mut before_seeing, "before seeing"),
        (&mut hasty, "before seeing, in a hurry"),
    ] {
        let told = writer.ask("go").await;
        say(&format!("{engine:?}: stopped {what}: {told}"));
        let lost = told.starts_with("conflict ") || told == "unknown";
        assert!(lost, "stopped {what}: {told}");
    }
    let expected: Vec<String> = (1..=n).map(|n| n.to_string()).collect();
    for writer in [&mut other, &mut before_appending, &mut hasty] {
        assert_eq!(writer.show().await, (n, expected.clone()));
    }
    // They go on as if nothing had been.
    let told = before_seeing.ask(&format!("write {n} next")).await;
    assert_eq!(told, format!("won {}", n + 1));
    stop(program).await;
}

/// What was told to be won, by version.
#[derive(Debug, Default)]
struct Won(BTreeMap<u64, String>);

impl Won {
    fn take(&mut self, told: &str) {
        let words: Vec<_> = told.split(' ').collect();
        let ["won", version, line] = words.as_slice() else {
            panic!("a writer said: {told}");
        };
        let before = self.0.insert(version.parse().unwrap(), (*line).to_owned());
        assert_eq!(before, None, "version {version} was won twice");
    }

    /// Every update that was told to be won is there, in its place, once; and each version added one line.
    fn assert_all_there(&self, (version, lines): &(u64, Vec<String>)) {
        assert_eq!(*version, lines.len() as u64);
        let different: BTreeSet<_> = lines.iter().collect();
        assert_eq!(different.len(), lines.len(), "a line is there twice");
        for (version, line) in &self.0 {
            let at = usize::try_from(version - 1).unwrap();
            assert_eq!(lines.get(at), Some(line), "version {version}");
        }
    }
}

/// Writes as fast as it can, is killed again and again at any moment, and started again. What it was told to have won.
async fn writes_and_dies(site: &Site, kills: usize, label: &str) -> Won {
    let mut won = Won::default();
    for round in 0..kills {
        let mut writer = Writer::start(site, QUICK);
        writer.tell(&format!("storm 1000000 {label}{round}")).await;
        let mut heard = writer.hear().await;
        let life = Duration::from_millis(fastrand::u64(50..1500));
        let deadline = tokio::time::Instant::now() + life;
        while let Some(told) = heard {
            won.take(&told);
            let next = tokio::time::timeout_at(deadline, writer.hear()).await;
            heard = next.unwrap_or_else(|_| {
                // What it had said before is still in the pipe.
                kill(writer.pid(), Signal::SIGKILL).ok();
                None
            });
        }
        kill(writer.pid(), Signal::SIGKILL).ok();
        while let Some(told) = writer.hear().await {
            won.take(&told);
        }
    }
    won
}

async fn a_killed_writer_loses_no_acknowledged_update(engine: Engine) {
    let (site, mut program) = site(engine).await;
    // One that lives on: it tombstones what was superseded, so that there is something to compact.
    let tidying = Writer::start(&site, QUICK);
    let (a, b, ()) = tokio::join!(
        writes_and_dies(&site, 12, "a"),
        writes_and_dies(&site, 12, "b"),
        async {
            if let Some(running) = program.take() {
                // Their journal dies under them, too.
                sleep(Duration::from_secs(6)).await;
                running.kill().await;
                program = Some(site.start().await);
            }
        }
    );
    judge(&site, a, b).await;
    drop(tidying);
    stop(program).await;
}

async fn judge(site: &Site, mut all: Won, b: Won) {
    for (version, line) in b.0 {
        all.take(&format!("won {version} {line}"));
    }
    let shown = Writer::start(site, QUICK).show().await;
    say(&format!(
        "{} updates acknowledged, {} there",
        all.0.len(),
        shown.1.len()
    ));
    assert!(all.0.len() > 100, "{} updates say little", all.0.len());
    all.assert_all_there(&shown);
    if site.engine() == Engine::Kafka {
        let (journal, topic) = (site.journal().await, site.topic("registry"));
        eventually("compaction runs", Duration::from_secs(60), || async {
            match compacted_away(&journal, &topic).await {
                gone if gone > 100 => Ok(()),
                gone => Err(gone),
            }
        })
        .await;
    }
    all.assert_all_there(&Writer::start(site, QUICK).show().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_dies_loses_no_acknowledged_update() {
    let room = Site::room_for_brokers().await;
    let broker = Arc::new(spawn_blocking(Broker::private).await.unwrap());
    let site = Site::on_brokers(broker.address(), 1, "", room).await;
    make_registry(&site).await;
    let _tidying = Writer::start(&site, QUICK);
    let (a, b, ()) = tokio::join!(
        writes_and_dies(&site, 8, "a"),
        writes_and_dies(&site, 8, "b"),
        async {
            sleep(Duration::from_secs(4)).await;
            broker.kill();
            let again = Arc::clone(&broker);
            spawn_blocking(move || again.restart()).await.unwrap();
        }
    );
    judge(&site, a, b).await;
}
