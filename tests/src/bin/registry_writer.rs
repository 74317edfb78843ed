//! A writer of the registry in a process of its own, which tests stop and kill.
//!
//! `registry_writer (kafka ADDRESS | embedded DIRECTORY) PREFIX KEY-FILE WRITE-TIMEOUT-MS TIDY-MS` reads commands from its standard input,
//! one a line, and answers each with a line:
//!
//! | command | answer |
//! |---|---|
//! | `write IF-MATCH TEXT` | `won VERSION`, `conflict VERSION`, `unknown`, or `failed WHY`. The content is what was there and a line more |
//! | `webhook IF-MATCH URL` | the same, for the URL of webhook `shop/crm` |
//! | `hold read` | nothing: the next write says `read VERSION` when it has read, and appends only after a line `go` |
//! | `hold seen` | nothing: the next write says `appended` when its record is acknowledged, and reads on only after a line `go` |
//! | `show` | `VERSION LINE,LINE,…` |
//! | `storm COUNT LABEL` | `won VERSION LINE` for each write that was acknowledged, in the end `done` |
//!
//! `IF-MATCH` is a version, or `-` for none.
#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "what it prints is its interface, and its threads and tasks end with the process"
)]

use std::collections::BTreeMap;
use std::io::{BufRead as _, Write as _};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use hookline_journal::embedded::RemoteJournal;
use hookline_journal::*;
use hookline_model::ids::Slug;
use hookline_model::resource::{Resource, parse_documents};
use hookline_registry::{
    Change, Kek, PutWebhook, Registry, RegistryConfig, Sealer, WriteError, Written,
};
use hookline_tests::program::{SystemClock, kafka_journal_at};
use parking_lot::Mutex;
use tokio::sync::watch;

/// How long the program may take to start again.
const CONNECTS_WITHIN: Duration = Duration::from_secs(30);
/// What the writes are about.
const THING: (&str, &str, &str) = ("thing", "shop", "list");

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [engine, place, prefix, key_file, timeout, tidy] = arguments.as_slice() else {
        panic!("ENGINE PLACE PREFIX KEY-FILE WRITE-TIMEOUT-MS TIDY-MS");
    };
    let journal = match engine.as_str() {
        "kafka" => kafka_journal_at(place, "writer"),
        "embedded" => {
            // Only by way of the program, which may be starting again at the moment: to open the directory would keep it from that.
            let begun = tokio::time::Instant::now();
            loop {
                match RemoteJournal::connect(place).await {
                    Ok(journal) => break Arc::new(journal) as Arc<dyn Journal>,
                    Err(error) => assert!(begun.elapsed() < CONNECTS_WITHIN, "{error}"),
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        other => panic!("no engine {other}"),
    };
    let gate = Gate::new();
    let journal = Arc::new(Held {
        inner: journal,
        gate: gate.clone(),
    });
    let key = std::fs::read_to_string(key_file).expect("the key file");
    let sealer = Sealer::new(&Kek::from_base64(key.trim()).expect("a key"));
    let millis = |text: &str| Duration::from_millis(text.parse().expect("milliseconds"));
    let config = RegistryConfig {
        write_timeout: millis(timeout),
        tidy_every: millis(tidy),
        ..RegistryConfig::new(prefix)
    };
    let opened = Registry::open(journal, config, Arc::new(SystemClock), sealer).await;
    let registry = match opened {
        Ok(registry) => registry,
        Err(error) => {
            // As when its broker is dead at the moment: it ends without having written anything.
            hookline_tests::say(&format!("registry_writer: {error:?}"));
            return;
        }
    };
    let (_stop, stopped) = watch::channel(false);
    let following = registry.clone();
    tokio::spawn(async move { following.run(stopped).await });
    let writer = Writer {
        registry,
        lines: Mutex::new(lines(gate.clone())),
        gate,
    };
    writer.run().await;
}

fn say(line: impl std::fmt::Display) {
    println!("{line}");
    std::io::stdout().flush().expect("somebody reads");
}

/// Lines of the standard input. `go` opens the gate if it is closed.
fn lines(gate: Gate) -> Receiver<String> {
    let (hand_over, lines) = sync_channel(64);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let line = line.expect("the standard input can be read");
            if !(line == "go" && gate.open()) && hand_over.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

struct Writer {
    registry: Registry,
    lines: Mutex<Receiver<String>>,
    gate: Gate,
}

impl Writer {
    async fn run(&self) {
        let mut hold_read = false;
        while let Some(line) = self.next_line() {
            let words: Vec<&str> = line.split(' ').collect();
            match words.as_slice() {
                ["hold", "read"] => hold_read = true,
                ["hold", "seen"] => self.gate.arm(),
                ["write", if_match, text] => {
                    let hold = std::mem::take(&mut hold_read);
                    say(told(self.write(version(if_match), text, hold).await));
                }
                ["webhook", if_match, url] => say(told(self.webhook(version(if_match), url).await)),
                ["show"] => self.show().await,
                ["storm", count, label] => self.storm(count, label).await,
                other => panic!("no command {other:?}"),
            }
        }
    }

    /// None when nobody will say anything more.
    fn next_line(&self) -> Option<String> {
        self.lines.lock().recv().ok()
    }

    /// Adds a line to the content.
    async fn write(
        &self,
        if_match: Option<u64>,
        text: &str,
        hold: bool,
    ) -> Result<Written, WriteError> {
        let (kind, project, name) = THING;
        let edit = |current: Option<&hookline_registry::Current>| {
            if hold {
                say(format_args!("read {}", current.map_or(0, |c| c.version)));
                assert_eq!(self.next_line().as_deref(), Some("go"));
            }
            let mut content = current.map_or_else(Vec::new, |c| c.body.to_vec());
            content.extend_from_slice(text.as_bytes());
            content.push(b'\n');
            Ok(Change::Put(content.into()))
        };
        self.registry
            .write(kind, project, name, if_match, edit)
            .await
    }

    async fn webhook(&self, if_match: Option<u64>, url: &str) -> Result<Written, WriteError> {
        let document =
            format!("kind: Webhook\nproject: shop\nname: crm\nurl: {url}\nevents: [\"*\"]\n");
        let Some(Resource::Webhook(spec)) = parse_documents(&document).expect("valid").pop() else {
            unreachable!("a webhook was written");
        };
        let put = PutWebhook {
            project: Slug::new("shop").expect("a slug"),
            name: Slug::new("crm").expect("a slug"),
            settings: spec.settings,
            keep_state: false,
            verified: None,
            make_project: true,
            if_match,
        };
        self.registry.put_webhook(&put).await.map(|w| w.written)
    }

    async fn show(&self) {
        let (kind, project, name) = THING;
        let mut shown = String::new();
        let look = |current: Option<&hookline_registry::Current>| {
            let body = current.map_or_else(Bytes::new, |c| c.body.clone());
            let lines = String::from_utf8_lossy(&body);
            shown = format!(
                "{} {}",
                current.map_or(0, |c| c.version),
                lines.lines().collect::<Vec<_>>().join(",")
            );
            Ok(Change::Nothing)
        };
        let looked = self.registry.write(kind, project, name, None, look).await;
        looked.expect("the registry can be read");
        say(shown);
    }

    async fn storm(&self, count: &str, label: &str) {
        for n in 0..count.parse::<usize>().expect("a number") {
            let line = format!("{label}-{n}");
            // What is not known to have been written may have been: it is not written again.
            if let Ok(written) = self.write(None, &line, false).await {
                say(format_args!("won {} {line}", written.version));
            }
        }
        say("done");
    }
}

fn version(text: &str) -> Option<u64> {
    (text != "-").then(|| text.parse().expect("a version"))
}

fn told(result: Result<Written, WriteError>) -> String {
    match result {
        Ok(written) => format!("won {}", written.version),
        Err(WriteError::Conflict { version, .. }) => format!("conflict {version}"),
        Err(WriteError::OutcomeUnknown { .. }) => "unknown".to_owned(),
        Err(other) => format!("failed {other}"),
    }
}

/// Readers wait at it while it is closed.
#[derive(Clone)]
struct Gate {
    open: watch::Sender<bool>,
    armed: Arc<Mutex<bool>>,
}

impl Gate {
    fn new() -> Self {
        Self {
            open: watch::Sender::new(true),
            armed: Arc::default(),
        }
    }

    /// Closes with the next append.
    fn arm(&self) {
        *self.armed.lock() = true;
    }

    fn close_if_armed(&self) -> bool {
        let armed = std::mem::take(&mut *self.armed.lock());
        if armed {
            self.open.send_replace(false);
        }
        armed
    }

    /// Whether it was closed.
    fn open(&self) -> bool {
        !self.open.send_replace(true)
    }

    async fn passed(&self) {
        let mut opened = self.open.subscribe();
        drop(opened.wait_for(|open| *open).await);
    }
}

/// A journal whose readers can be held back.
struct Held {
    inner: Arc<dyn Journal>,
    gate: Gate,
}

struct HeldAppender {
    inner: Arc<dyn Appender>,
    gate: Gate,
}

/// What comes while the gate is closed is thrown away, and read again once it is open: as the log is then.
struct HeldReader {
    journal: Arc<dyn Journal>,
    place: (String, u32),
    budget: ReadBudget,
    position: u64,
    inner: Option<Box<dyn Reader>>,
    gate: Gate,
}

#[async_trait]
impl Appender for HeldAppender {
    fn append(
        &self,
        topic: &str,
        partition: u32,
        record: Record,
        done: OnAppended,
    ) -> Result<(), AppendRefused> {
        let done: OnAppended = if self.gate.close_if_armed() {
            Box::new(move |result| {
                say(if result.is_ok() {
                    "appended"
                } else {
                    "not appended"
                });
                done(result);
            })
        } else {
            done
        };
        self.inner.append(topic, partition, record, done)
    }

    async fn room(&self) {
        self.inner.room().await;
    }
}

#[async_trait]
impl Reader for HeldReader {
    async fn next(&mut self, max: usize) -> Result<Batch, ReadError> {
        loop {
            self.gate.passed().await;
            let reader = match &mut self.inner {
                Some(reader) => reader,
                none => {
                    let (topic, partition) = &self.place;
                    let made = self
                        .journal
                        .reader(topic, *partition, self.position, self.budget);
                    match made.await {
                        Ok(reader) => none.insert(reader),
                        Err(error) => {
                            return Err(ReadError::Failed {
                                topic: topic.clone(),
                                partition: *partition,
                                reason: error.to_string(),
                            });
                        }
                    }
                }
            };
            let batch = reader.next(max).await?;
            if *self.gate.open.borrow() {
                self.position = batch.next;
                return Ok(batch);
            }
            self.inner = None;
        }
    }

    fn position(&self) -> u64 {
        self.position
    }
}

#[async_trait]
impl Journal for Held {
    async fn appender(&self, name: &str) -> Result<Arc<dyn Appender>, JournalError> {
        Ok(Arc::new(HeldAppender {
            inner: self.inner.appender(name).await?,
            gate: self.gate.clone(),
        }))
    }

    async fn reader(
        &self,
        topic: &str,
        partition: u32,
        from: u64,
        budget: ReadBudget,
    ) -> Result<Box<dyn Reader>, JournalError> {
        let inner = self.inner.reader(topic, partition, from, budget).await?;
        Ok(Box::new(HeldReader {
            journal: Arc::clone(&self.inner),
            place: (topic.to_owned(), partition),
            budget,
            position: from,
            inner: Some(inner),
            gate: self.gate.clone(),
        }))
    }

    async fn start(&self, topic: &str, partition: u32) -> Result<u64, JournalError> {
        self.inner.start(topic, partition).await
    }

    async fn end(&self, topic: &str, partition: u32) -> Result<u64, JournalError> {
        self.inner.end(topic, partition).await
    }

    async fn delete_records(&self, _: &str, _: u32, _: u64) -> Result<(), JournalError> {
        unimplemented!("nothing of the registry is deleted")
    }

    async fn join(&self, _: GroupSpec) -> Result<Box<dyn Member>, JournalError> {
        unimplemented!("the registry has no group")
    }

    async fn committed(
        &self,
        _: &str,
        _: &[TopicPartition],
    ) -> Result<Vec<Option<Committed>>, JournalError> {
        unimplemented!("the registry has no group")
    }

    async fn create_topics(&self, _: &[TopicSpec]) -> Result<(), JournalError> {
        unimplemented!("the topics are there")
    }

    async fn topics(&self) -> Result<BTreeMap<String, TopicInfo>, JournalError> {
        self.inner.topics().await
    }

    async fn healthy(&self) -> bool {
        self.inner.healthy().await
    }
}
