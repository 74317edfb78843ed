//! `make bench ARGS=history`: what the SQL view takes in and how fast it answers, with SQLite and with PostgreSQL.
//!
//! The topic of attempts is filled first, as dispatch fills it; then a process with the roles `history` and `api` reads it into an empty store,
//! and is asked for first pages of the log, as people ask for them; then the log is written as a PDF file. `--rows N` puts in another number
//! of attempts: 10000000 is what the aim of the answers is about, and takes an hour or so. `--store sqlite` or `--store postgres` measures only
//! that one.

mod made;

use std::time::Duration;

use hookline_model::time::{Clock as _, Millis};
use hookline_tests::api::Api;
use hookline_tests::postgres::Postgres;
use hookline_tests::program::{Engine, Program, Site, Start, SystemClock};
use tokio::time::Instant;

use self::made::{Made, PARTITIONS, PROJECT, has_contact, rare_webhook, said};
use crate::load::publish_all;
use crate::process::{Spread, cpu_seconds, peak_rss_mib, written_kib};
use crate::{Figure, Scale, print, say, settle};

const ROWS_FULL: usize = 1_000_000;
const ROWS_QUICK: usize = 100_000;
/// Rows of the report.
const REPORTED: usize = 300_000;
/// Longer than this without anything new means that nothing comes any more.
const SILENCE: Duration = Duration::from_secs(120);
/// What the connections to SQLite come to hold in their caches, the more of it the more is read.
const CACHES_MIB: f64 = 16.0;
/// The store's place in the configuration.
const SQLITE: &str = "sqlite://history.db";

/// First pages that are asked for, and how often each.
const QUESTIONS: [Question; 21] = [
    ("page, all", |_, _| String::new()),
    ("page, by webhook", |n, _| {
        format!("webhook={}", said(n).webhook)
    }),
    ("page, by a webhook with few attempts", |n, _| {
        format!("webhook={}", rare_webhook(n))
    }),
    ("page, by outcome delivered", |_, _| {
        "outcome=delivered".into()
    }),
    ("page, by outcome exhausted", |_, _| {
        "outcome=exhausted".into()
    }),
    ("page, by status 200", |_, _| "status=200".into()),
    ("page, by status 410", |_, _| "status=410".into()),
    ("page, by a status that none has", |_, _| {
        "status=418".into()
    }),
    ("page, by status 5xx", |_, _| "status=5xx".into()),
    ("page, by error class", |_, _| "error_class=timeout".into()),
    ("page, by number of attempt", |_, _| "attempt=2".into()),
    ("page, by event id", |n, _| {
        format!("event_id={}", said(n).event_id)
    }),
    ("page, by event key", |n, _| format!("key={}", said(n).key)),
    ("page, by contact's e-mail", |n, _| {
        let about = (n..).find(|n| has_contact(*n)).unwrap_or(n);
        let email = said(about).email.to_lowercase();
        format!("contact={}", encoded(&email))
    }),
    ("page, by time", |n, made| times(n, made)),
    ("page, by endpoint", |n, _| {
        format!("endpoint={}", encoded(&said(n).url))
    }),
    ("page, by webhook and time", |n, made| {
        format!("webhook={}&{}", said(n).webhook, times(n, made))
    }),
    ("page, by webhook and outcome failed", |n, _| {
        format!("webhook={}&outcome=failed", said(n).webhook)
    }),
    ("page, by rare webhook and outcome exhausted", |n, _| {
        format!("webhook={}&outcome=exhausted", rare_webhook(n))
    }),
    ("page, by event type and status 5xx", |n, _| {
        format!("event_type={}&status=5xx", said(n).event_type)
    }),
    ("page, by webhook, event type and outcome", |n, _| {
        let of = said(n);
        format!(
            "webhook={}&event_type={}&outcome=delivered",
            of.webhook, of.event_type
        )
    }),
];

/// A name for it, and what is asked for when an attempt is looked for.
type Question = (&'static str, fn(usize, Made) -> String);

/// What became of the intake.
struct Intake {
    rate: f64,
    cpu_us: f64,
    written_kib: f64,
    memory: f64,
}

/// What became of a report.
struct Reported {
    rows: usize,
    rate: f64,
    memory: f64,
}

pub(crate) async fn measure(scale: Scale, arguments: &[String]) {
    let full = scale.deliveries >= Scale::FULL.deliveries;
    let rows = rows(arguments).unwrap_or(if full { ROWS_FULL } else { ROWS_QUICK });
    let asked = if full { 40 } else { 20 };
    let made = Made::new(rows, SystemClock.now().0);
    say(&format!(
        "hookline bench, history: embedded engine, {} attempts; the machine's load is {}",
        made.count,
        load()
    ));
    let store = format!("[history]\nurl = \"{SQLITE}\"\n");
    let site = Site::sized(Engine::Embedded, PARTITIONS, &store).await;
    fill(&site, made).await;
    let only = said_after("--store", arguments);
    if only.is_none_or(|only| only == "sqlite") {
        say("SQLite …");
        with_store(&site, made, asked).await;
    }
    if only.is_some_and(|only| only != "postgres") {
        return;
    }
    let Some(postgres) = Postgres::shared() else {
        return say("PostgreSQL is not installed");
    };
    say("PostgreSQL …");
    // The commands are to find the same store, so it is the file that says it.
    let config = std::fs::read_to_string(site.config()).expect("the site has one");
    let config = config.replace(SQLITE, &postgres.database());
    std::fs::write(site.config(), config).expect("the directory is ours");
    with_store(&site, made, asked).await;
}

/// Fills the topic, as dispatch does while there is a backlog.
async fn fill(site: &Site, made: Made) {
    site.apply(&format!("kind: Project\nid: {PROJECT}\n")).await;
    // It makes the topics.
    let program = site.start_roles(Some("api")).await;
    assert!(program.stop().await.success(), "it stops gracefully");
    let begun = Instant::now();
    let journal = site.journal().await;
    let appender = journal.appender("load").await.expect("an appender");
    let topic = site.topic("attempts");
    publish_all(&*appender, &topic, PARTITIONS, made.records()).await;
    let rate = made.count as f64 / begun.elapsed().as_secs_f64();
    say(&format!("the topic is filled, {rate:.0} attempts/s"));
}

/// Takes everything in, asks, and reports.
async fn with_store(site: &Site, made: Made, asked: usize) {
    let program = site.start_with(&Start::roles("history,api")).await;
    let intake = intake(&program, made.count).await;
    settle().await;
    let api = Api::with_role(site, &program, "viewer", None).await;
    let mut pages = Vec::new();
    for question in QUESTIONS {
        pages.push((question.0, answers(&api, made, question, asked).await));
    }
    let big = REPORTED.min(made.count);
    let small = report(site, made, big / 10).await;
    let big = report(site, made, big).await;
    assert!(program.stop().await.success(), "it stops gracefully");
    let mut figures = vec![
        Figure {
            name: "attempts taken in, each second",
            value: format!("{:.0}", intake.rate),
            aim: "≥ 10000",
            met: Some(intake.rate >= 10_000.0),
        },
        Figure::plain("CPU µs an attempt", format!("{:.1}", intake.cpu_us)),
        Figure::plain(
            "written to files and sockets, KiB an attempt",
            format!("{:.1}", intake.written_kib),
        ),
        Figure::plain("peak RSS, MiB", format!("{:.0}", intake.memory)),
    ];
    let ms = |us: u64| us as f64 / 1000.0;
    figures.extend(pages.into_iter().map(|(name, took)| Figure {
        name,
        value: format!(
            "p50 {:.1}, p99 {:.1}, max {:.1} ms",
            ms(took.p50),
            ms(took.p99),
            ms(took.max)
        ),
        aim: "≤ 200",
        met: Some(took.p99 <= 200_000),
    }));
    figures.extend([
        Figure::plain("PDF, rows/s", format!("{:.0} of {}", big.rate, big.rows)),
        Figure {
            name: "PDF, peak RSS with a tenth of the rows; with all, MiB",
            value: format!("{:.1}; {:.1}", small.memory, big.memory),
            aim: "the same",
            met: Some(big.memory <= small.memory + CACHES_MIB),
        },
        Figure::plain("load of the machine", load()),
    ]);
    print(figures);
}

/// From the first attempt in the store to the last.
async fn intake(program: &Program, count: usize) -> Intake {
    let pid = program.pid().as_raw();
    let stored = async || {
        let stored = program.metric("hookline_history_attempts_total", "").await;
        stored as usize
    };
    let begun = (Instant::now(), stored().await, cpu_seconds(pid));
    let written = written_kib(pid);
    let (mut seen, mut since) = (begun.1, Instant::now());
    while seen < count {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = stored().await;
        if now > seen {
            (seen, since) = (now, Instant::now());
        }
        assert!(
            since.elapsed() < SILENCE,
            "{seen} of {count} came, then nothing"
        );
    }
    let done = (count - begun.1) as f64;
    Intake {
        rate: done / begun.0.elapsed().as_secs_f64(),
        cpu_us: (cpu_seconds(pid) - begun.2) * 1e6 / done,
        written_kib: (written_kib(pid) - written) / done,
        memory: peak_rss_mib(pid),
    }
}

/// Asks for the first page, of attempts by chance.
async fn answers(api: &Api, made: Made, (name, query): Question, times: usize) -> Spread {
    let mut took = Vec::with_capacity(times);
    for _ in 0..times {
        let query = query(fastrand::usize(..made.count), made);
        let path = format!("/v1/projects/{PROJECT}/attempts?{query}");
        let begun = Instant::now();
        let answer = api.ask("GET", path.trim_end_matches('?')).await;
        took.push(u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX));
        assert_eq!(answer.status, 200, "{name}: {query}: {}", answer.body);
    }
    Spread::of(took)
}

/// Ten minutes, or a quarter of all, around an attempt.
fn times(n: usize, made: Made) -> String {
    let all = made.started_ms(made.count) - made.started_ms(0);
    let half = (all / 8).min(300_000);
    let at = made.started_ms(n);
    let text = |ms: i64| Millis(ms).to_rfc3339();
    format!("from={}&to={}", text(at - half), text(at + half))
}

/// Writes the latest attempts as a PDF file, from the command line.
async fn report(site: &Site, made: Made, rows: usize) -> Reported {
    // Several begin in the same millisecond.
    let from = Millis(made.started_ms(made.count - rows)).to_rfc3339();
    let arguments = [
        "export",
        "--project",
        PROJECT,
        "--format",
        "pdf",
        "--from",
        &from,
        "--output-file",
        "report.pdf",
        "--output",
        "json",
    ];
    let begun = Instant::now();
    let mut child = site.piped(&arguments);
    let pid = i32::try_from(child.id().expect("it runs")).expect("process ids are small");
    drop(child.stdin.take());
    let mut memory = 0.0_f64;
    loop {
        // Of a process that has ended the kernel says nothing more.
        memory = memory.max(peak_rss_mib(pid));
        if child.try_wait().expect("it can be waited for").is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let took = begun.elapsed().as_secs_f64();
    let output = child.wait_with_output().await.expect("its output is read");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{complained}");
    let written: serde_json::Value = serde_json::from_str(&said).expect("it is JSON");
    let rows = written["attempts"].as_u64().expect("it says how many");
    Reported {
        rows: usize::try_from(rows).expect("not many"),
        rate: rows as f64 / took,
        memory,
    }
}

/// What `--rows` says.
fn rows(arguments: &[String]) -> Option<usize> {
    let said = said_after("--rows", arguments)?;
    Some(said.parse().expect("--rows needs a number"))
}

/// What stands behind a word of the command line.
fn said_after<'a>(word: &str, arguments: &'a [String]) -> Option<&'a str> {
    let at = arguments.iter().position(|argument| argument == word)?;
    Some(arguments.get(at + 1).map_or("", String::as_str))
}

/// The machine's load over the last minute.
fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// As it stands in a query.
fn encoded(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
    let one = |c: char| match plain(c) {
        true => c.to_string(),
        false => format!("%{:02X}", u32::from(c)),
    };
    text.chars().map(one).collect()
}
