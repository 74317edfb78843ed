//! Reports are read back by another library than the one that writes them.

use proptest::prelude::*;

use super::*;
use crate::store::StatusFilter;
use crate::testing::{attempt, pdf_text};

const MADE: Millis = Millis(1_700_000_100_000);

fn about(filter: &AttemptFilter, summary: &AttemptSummary) -> Report {
    Report::new(&About {
        project: "shop",
        filter,
        summary,
        made: MADE,
    })
}

fn summary(count: u64) -> AttemptSummary {
    AttemptSummary {
        count,
        outcomes: [count, 0, 0, 0, 0, 0],
        interval: Some((Millis(1_700_000_000_000), Millis(1_700_000_060_000))),
        step_ms: 60_000,
        series: vec![(Millis(1_699_999_980_000), [count, 0, 0, 0, 0, 0])],
    }
}

/// The whole file of so many attempts, and the largest of its parts.
fn whole(mut report: Report, lines: &[AttemptLine], times: usize) -> (Vec<u8>, usize) {
    let (mut file, mut largest) = (Vec::new(), 0);
    let mut take = |report: &mut Report| {
        let part = report.take();
        largest = largest.max(part.len());
        file.extend_from_slice(&part);
    };
    for _ in 0..times {
        report.rows(lines);
        take(&mut report);
    }
    report.end();
    take(&mut report);
    while report.table() {
        take(&mut report);
    }
    (file, largest)
}

#[test]
fn a_report_says_what_it_is_about_and_lists_everything() {
    let filter = AttemptFilter {
        webhook: Some("crm (new)".into()),
        status: Some(StatusFilter::Class(5)),
        endpoint: Some("https://user:pass@a.example.com/x@y?token=abc".into()),
        contact: Some("ann@example.com".into()),
        from: Some(Millis(1_700_000_000_000)),
        ..AttemptFilter::default()
    };
    let mut line = attempt(0, 0, "crm (new)");
    line.event_type = "order.paid".into();
    line.status = Some(503);
    line.error_class = Some("timeout".into());
    line.outcome = "failed";
    line.duration_ms = 1234;
    let (file, _) = whole(about(&filter, &summary(321)), &vec![line; 107], 3);
    let pages = pdf_text(&file);
    for part in [
        "Delivery log",
        "Project: shop",
        "Period: 2023-11-14 22:13:20 to 2023-11-14 22:15:00 (UTC)",
        "Made: 2023-11-14 22:15:00 UTC",
        "Filter: webhook = crm (new)",
        "Filter: status = 5xx",
        "Filter: endpoint = https://a.example.com/x@y",
        "Filter: contact = ann@example.com",
        "321",
        "exhausted",
    ] {
        assert!(pages[0].contains(part), "{part} in {}", pages[0]);
    }
    let mut rows = 0;
    for (number, text) in (1..).zip(&pages) {
        assert!(text.contains(&format!("Page {number}")), "{text}");
        assert!(text.contains("Event type"), "{text}");
        rows += text.matches("2023-11-14 22:13:20.000").count();
        for part in ["order.paid", "503", "timeout", "1234", "failed"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains("token") && !text.contains("pass"));
    }
    assert_eq!(rows, 321);
    let all = file.windows(5).filter(|w| w == b"/Page").count();
    assert!(all >= pages.len());
}

#[test]
fn a_report_of_nothing_is_a_page() {
    let (file, _) = whole(
        about(&AttemptFilter::default(), &AttemptSummary::default()),
        &[],
        1,
    );
    let pages = pdf_text(&file);
    assert_eq!(pages.len(), 1);
    assert!(pages[0].contains("No attempts.") && pages[0].contains("Filters: none"));
}

/// The table of a file says where its objects are, to the byte.
#[test]
fn the_table_of_offsets_leads_to_the_objects() {
    let lines = vec![attempt(0, 0, "a"); 1000];
    let (file, _) = whole(about(&AttemptFilter::default(), &summary(9000)), &lines, 9);
    let text = String::from_utf8_lossy(&file[file.len() - 40..]).into_owned();
    let start = text.split("startxref\n").nth(1).unwrap();
    let start: usize = start.lines().next().unwrap().parse().unwrap();
    let table = String::from_utf8(file[start..].to_vec()).unwrap();
    let mut entries = table.lines();
    assert_eq!(entries.next(), Some("xref"));
    let count: usize = entries
        .next()
        .and_then(|line| line.strip_prefix("0 ")?.parse().ok())
        .unwrap();
    assert_eq!(entries.next(), Some("0000000000 65535 f"));
    for id in 1..count {
        let entry = entries.next().unwrap();
        let at: usize = entry.split(' ').next().unwrap().parse().unwrap();
        let object = format!("{id} 0 obj");
        assert!(file[at..].starts_with(object.as_bytes()), "{id}: {entry}");
    }
    assert!(entries.next().unwrap().starts_with("trailer"));
}

/// Ten times as much makes a file ten times as long, and no larger parts.
#[test]
fn what_is_held_does_not_grow_with_the_file() {
    let lines: Vec<_> = (0..500)
        .map(|n| {
            let mut line = attempt(n, 0, "a");
            line.event_id = format!("{:x}", u128::from(n) * 0x9e37_79b9_7f4a_7c15_f39c_c060);
            line.event_type = "ж".repeat(10_000);
            line
        })
        .collect();
    let of = |times| whole(about(&AttemptFilter::default(), &summary(1)), &lines, times);
    let (short, largest_short) = of(3);
    let (long, largest_long) = of(100);
    assert!(long.len() > 20 * short.len(), "{}", long.len());
    assert!(largest_long <= 64 * 1024, "{largest_long} bytes at once");
    assert!(largest_short <= 64 * 1024, "{largest_short} bytes at once");
    assert_eq!(
        lopdf::Document::load_mem(&long).unwrap().get_pages().len(),
        pdf_text(&long).len()
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_text_breaks_the_file(
        texts in prop::collection::vec(any::<String>(), 5),
        odd in "[()\\\\<>\\[\\]\u{0}-\u{ff}]{0,300}",
        number in any::<u32>(),
    ) {
        let mut line = attempt(0, 0, &texts[0]);
        line.event_id = odd.clone();
        line.event_type = texts[1].clone();
        line.error_class = Some(texts[2].clone());
        line.attempt = number;
        line.duration_ms = number;
        line.status = Some(number);
        let mut marked = attempt(0, 0, "marked (by us)");
        marked.event_id = "the end".into();
        let filter = AttemptFilter {
            webhook: Some(odd),
            event_id: Some(texts[3].clone()),
            endpoint: Some(texts[4].clone()),
            ..AttemptFilter::default()
        };
        let (file, _) = whole(about(&filter, &summary(3)), &[line.clone(), line, marked], 1);
        let pages = pdf_text(&file);
        prop_assert_eq!(pages.len(), 1);
        prop_assert!(pages[0].contains("marked (by us)"), "{}", pages[0]);
        prop_assert!(pages[0].contains("the end"), "{}", pages[0]);
        prop_assert_eq!(pages[0].matches("2023-11-14 22:13:20.000").count(), 3);
    }
}
