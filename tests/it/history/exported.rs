//! The delivery log as a file: pages over HTTP, and every form from the command line, beside a running `serve` and without one.

use std::process::Output;

use hookline_tests::api::Api;
use hookline_tests::postgres::Postgres;
use hookline_tests::program::{Engine, Site};
use hookline_tests::receiver::Receiver;

use super::attempts;
use crate::promises::{event, events, secrets, webhook};

both_engines!(
    a_report_has_all_of_them_and_no_secrets,
    the_command_line_writes_what_the_api_writes,
    the_command_line_says_what_is_wrong,
    the_command_line_reads_postgres,
);

const EXPORT: &str = "/v1/projects/shop/attempts/export";
const TWICE: &str = "retry: {jitter: 0, schedule: {list: [100ms]}}";

/// The texts of the pages, as an independent reader finds them.
fn pages(file: &[u8]) -> Vec<String> {
    let document = lopdf::Document::load_mem(file).expect("it is a PDF file");
    let pages = document.get_pages();
    let text = |number: &u32| document.extract_text(&[*number]).expect("it has text");
    pages.keys().map(text).collect()
}

/// What was complained of; that others may read the key of a test is not about the export.
fn stderr(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    let lines = said
        .lines()
        .filter(|line| !line.contains("hookline::secrets"));
    lines.map(|line| format!("{line}\n")).collect()
}

async fn a_report_has_all_of_them_and_no_secrets(engine: Engine) {
    let receiver = Receiver::start().await;
    let site = Site::new(engine).await;
    let (good, bad) = (
        receiver.url("/ok/good?token=swordfish"),
        receiver.url("/status/500/bad"),
    );
    let bad = webhook("bad", &bad, &format!("events: [wrong]\n{TWICE}"));
    let registered = [webhook("good", &good, "events: [order, \"odd.*\"]"), bad].concat();
    let printed = site.apply(&registered).await;
    let program = site.start().await;
    let api = Api::with_role(&site, &program, "viewer", None).await;
    site.publish(&events("order", 150)).await;
    site.publish(&[
        event("wrong", "wrong-1", r#"{"secret": "in the data"}"#),
        event("odd.type", "(odd) \\\\ ключ ) <<", "{}"),
    ])
    .await;
    attempts(&api, "", 153).await;

    let (headers, file) = api.download_bytes(&format!("{EXPORT}?format=pdf")).await;
    assert_eq!(headers["content-type"], "application/pdf");
    let name = headers["content-disposition"].to_str().unwrap();
    assert_eq!(name, "attachment; filename=\"shop-attempts.pdf\"");
    let texts = pages(&file);
    // The first one has room for a few rows only.
    assert!((4..=6).contains(&texts.len()), "{} pages", texts.len());
    for part in [
        "Delivery log",
        "Project: shop",
        "Filters: none",
        "153",
        "151",
    ] {
        assert!(texts[0].contains(part), "{part} in {}", texts[0]);
    }
    for (number, text) in (1..).zip(&texts) {
        assert!(text.contains(&format!("Page {number}")), "{text}");
    }
    let all = texts.join("\n");
    for n in 0..150 {
        assert!(all.contains(&format!("order-{n}")), "order-{n} in {all}");
    }
    for part in ["exhausted", "failed", "wrong-1", "500", "status"] {
        assert!(all.contains(part), "{part} in {all}");
    }
    assert!(all.contains("(odd) \\ ???? ) <<"), "{all}");

    let some =
        format!("{EXPORT}?format=pdf&webhook=bad&outcome=exhausted&from=2000-01-01T00:00:00Z");
    let (_, filtered) = api.download_bytes(&some).await;
    let texts = pages(&filtered);
    assert_eq!(texts.len(), 1);
    for part in [
        "Filter: webhook = bad",
        "Filter: outcome = exhausted",
        "Period: 2000-01-01 00:00:00 to",
        "wrong-1",
    ] {
        assert!(texts[0].contains(part), "{part} in {}", texts[0]);
    }
    assert!(!texts[0].contains("order-1"));
    let none = format!("{EXPORT}?format=pdf&event_id=nobody");
    let (_, none) = api.download_bytes(&none).await;
    assert!(pages(&none)[0].contains("No attempts."));

    let mut hidden = secrets(&printed);
    assert!(!hidden.is_empty());
    hidden.extend(["swordfish".to_owned(), "in the data".to_owned()]);
    for secret in hidden {
        assert!(!all.contains(&secret));
    }
    assert!(program.stop().await.success());
}

async fn the_command_line_writes_what_the_api_writes(engine: Engine) {
    let site = Site::new(engine).await;
    exports(&site).await;
}

async fn the_command_line_reads_postgres(engine: Engine) {
    let Some(postgres) = Postgres::shared() else {
        return;
    };
    let store = format!("[history]\nurl = \"{}\"\n", postgres.database());
    let site = Site::with(engine, &store).await;
    exports(&site).await;
}

/// Every form, to a file and to standard output, while `serve` runs and after it has stopped.
async fn exports(site: &Site) {
    let receiver = Receiver::start().await;
    let bad = receiver.url("/status/500/bad");
    let bad = webhook("bad", &bad, &format!("events: [wrong]\n{TWICE}"));
    let good = webhook("good", &receiver.url("/ok/good"), "events: [order]");
    let printed = site.apply(&[good, bad].concat()).await;
    let mut program = Some(site.start().await);
    let api = Api::with_role(site, program.as_ref().unwrap(), "viewer", None).await;
    site.publish(&events("order", 620)).await;
    site.publish(&[event("wrong", "wrong-1", "{}")]).await;
    // More than a page of the list: the last ones to come are looked for.
    attempts(&api, "&webhook=bad", 2).await;
    let all = async || match api.download(EXPORT).await.1.lines().count() {
        622 => Ok(()),
        other => Err(other),
    };
    hookline_tests::wait::eventually("all are stored", super::WITHIN, all).await;

    let export = ["export", "--project", "shop"];
    let with = |more: &[&str]| -> Vec<String> {
        let all = export.iter().chain(more);
        all.map(|word| (*word).to_owned()).collect()
    };
    let run = async |more: &[&str]| {
        let arguments = with(more);
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        site.run(&arguments, "").await
    };
    let path = site.dir().join("log.pdf");
    let file = path.to_str().unwrap();
    let mut before = Vec::new();
    for _ in 0..2 {
        for form in ["csv", "jsonl"] {
            let output = run(&["--format", form]).await;
            assert_eq!(output.status.code(), Some(0), "{output:?}");
            assert_eq!(stderr(&output), "");
            before.push(String::from_utf8(output.stdout).unwrap());
        }
        let output = run(&["--format", "pdf", "--output-file", file]).await;
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let told = String::from_utf8(output.stdout).unwrap();
        assert_eq!(told, format!("622 attempts written to {file}\n"));
        let report = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let texts = pages(&report);
        assert!(texts[0].contains("622") && texts[0].contains("Project: shop"));
        let rows = texts.join("\n").matches("delivered").count();
        // And once each above the table and in the legend of the chart.
        assert_eq!(rows, 620 + 2);
        for secret in secrets(&printed) {
            assert!(!texts.iter().any(|text| text.contains(&secret)));
            assert!(!before.iter().any(|text| text.contains(&secret)));
        }
        if let Some(program) = program.take() {
            let (_, table) = api.download(&format!("{EXPORT}?format=csv")).await;
            assert_eq!(before[0], table);
            assert_eq!(before[1], api.download(EXPORT).await.1);
            let filters = ["--webhook", "bad", "--status", "5xx", "--attempt", "2"];
            let to_file = ["--output-file", file, "--output", "json"];
            let output = run(&[&filters[..], &to_file].concat()).await;
            let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(
                (&told["attempts"], &told["format"]),
                (&1.into(), &"jsonl".into())
            );
            let line = std::fs::read_to_string(&path).unwrap();
            assert_eq!(told["bytes"], line.len());
            assert!(line.contains("\"exhausted\"") && line.lines().count() == 1);
            std::fs::remove_file(&path).unwrap();
            assert!(program.stop().await.success());
        }
    }
    assert_eq!(before[..2], before[2..], "nothing has changed it");
}

async fn the_command_line_says_what_is_wrong(engine: Engine) {
    let site = Site::new(engine).await;
    site.apply("kind: Project\nid: shop\n").await;
    let kept = site.dir().join("kept.csv");
    std::fs::write(&kept, "before").unwrap();
    let file = kept.to_str().unwrap();
    for (arguments, code, parts) in [
        (
            &["--project", "shop", "--format", "xml"][..],
            2,
            &["--format", "csv, jsonl, pdf"][..],
        ),
        (&["--project", "Not A Slug"], 2, &["--project"]),
        (
            &["--project", "shop", "--outcome", "odd"],
            2,
            &["--outcome", "exhausted"],
        ),
        (
            &["--project", "shop", "--from", "soon"],
            2,
            &["--from", "RFC 3339"],
        ),
        (
            &["--project", "shop", "--status", "6"],
            2,
            &["--status", "5xx"],
        ),
        (&["--format", "csv"], 2, &["--project"]),
        (&["--project", "nobody"], 1, &["there is no project nobody"]),
        // Nobody has made the store yet, and a command that reads does not either.
        (
            &["--project", "shop"],
            1,
            &["the history store is not there yet", "`history`"],
        ),
        (
            &[
                "--project",
                "shop",
                "--format",
                "pdf",
                "--output-file",
                file,
            ],
            1,
            &["the history store"],
        ),
        (
            &["--project", "shop", "--output-file", "no/such/dir/f"],
            1,
            &["--output-file", "no/such/dir/f"],
        ),
        (
            &["--project", "shop", "--output-file", "."],
            1,
            &["--output-file"],
        ),
    ] {
        let output = site.run(&[&["export"], arguments].concat(), "").await;
        let told = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {told}");
        for part in parts {
            assert!(told.contains(part), "{arguments:?}: {part} in {told}");
        }
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
    assert_eq!(std::fs::read(&kept).unwrap(), b"before");
    let left = std::fs::read_dir(site.dir()).unwrap();
    let names = left.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let more: Vec<_> = names
        .filter(|name| name.contains("partial") || name.contains("history"))
        .collect();
    assert!(more.is_empty(), "{more:?}");
}
