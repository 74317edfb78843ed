//! Attempts as a file, written while it is read: what is held is one page.

mod chart;
mod font;
mod page;
mod pdf;
mod report;

use std::sync::Arc;

use bytes::Bytes;
use hookline_model::time::Millis;

use self::report::{About, Report};
use crate::store::{AttemptFilter, Place, Store, StoreError};
use crate::{AttemptLine, HeaderView};

/// Attempts that are read at a time.
const PAGE: usize = 500;

/// How attempts are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportFormat {
    /// Comma-separated, for tables.
    Csv,
    /// One JSON object a line, for programs.
    JsonLines,
    /// Pages, for people: what they come to, and the most important of each.
    Pdf,
}

impl ExportFormat {
    /// The words that choose one.
    pub const WORDS: [&str; 3] = ["csv", "jsonl", "pdf"];

    /// From the word that chooses it.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        match word {
            "csv" => Some(Self::Csv),
            "jsonl" => Some(Self::JsonLines),
            "pdf" => Some(Self::Pdf),
            _ => None,
        }
    }

    /// The media type.
    #[must_use]
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Csv => "text/csv; charset=utf-8; header=present",
            Self::JsonLines => "application/jsonl",
            Self::Pdf => "application/pdf",
        }
    }

    /// What the name of a file ends with.
    #[must_use]
    pub fn extension(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::JsonLines => "jsonl",
            Self::Pdf => "pdf",
        }
    }
}

/// The columns of a table.
const COLUMNS: [&str; 24] = [
    "id",
    "delivery_id",
    "run",
    "attempt",
    "started_at",
    "duration_ms",
    "webhook",
    "webhook_uid",
    "event_id",
    "event_source",
    "event_type",
    "event_key",
    "contact_id",
    "contact_email",
    "contact_phone",
    "outcome",
    "status",
    "error_class",
    "error_detail",
    "next_attempt_at",
    "url",
    "request_headers",
    "response_headers",
    "response_body",
];

/// An export under way.
pub struct Export {
    store: Arc<Store>,
    project: String,
    filter: AttemptFilter,
    format: ExportFormat,
    made: Millis,
    at: At,
    report: Option<Report>,
    written: u64,
}

/// How far an export is.
#[derive(Clone, Copy)]
enum At {
    Start,
    Behind(Place),
    /// All attempts are written; a report has something behind them.
    End,
    Done,
}

impl Export {
    /// All attempts of a project that a filter takes, latest first. `now` stands in a report, which has those that began before.
    #[must_use]
    pub fn new(
        store: Arc<Store>,
        project: &str,
        mut filter: AttemptFilter,
        format: ExportFormat,
        now: Millis,
    ) -> Self {
        if format == ExportFormat::Pdf {
            // What comes in meanwhile is not counted, and so it is not listed either.
            filter.to = Some(filter.to.map_or(now, |to| to.min(now)));
        }
        Self {
            store,
            project: project.to_owned(),
            filter,
            format,
            made: now,
            at: At::Start,
            report: None,
            written: 0,
        }
    }

    /// How many attempts are written.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written
    }

    /// The next part of the file, which may be empty; `None` at its end.
    ///
    /// # Errors
    /// When the store does not answer. What was written so far is not the whole then.
    pub async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        let after = match self.at {
            At::Start => None,
            At::Behind(place) => Some(place),
            At::End => return Ok(self.rest()),
            At::Done => return Ok(None),
        };
        if after.is_none() && self.format == ExportFormat::Pdf {
            self.report = Some(self.begin_report().await?);
        }
        let page = self
            .store
            .attempts(&self.project, &self.filter, after, PAGE)
            .await?;
        self.written += page.items.len() as u64;
        let part = match &mut self.report {
            None => self.text(&page.items, after.is_none()).into(),
            Some(report) => {
                report.rows(&page.items);
                if page.next.is_none() {
                    report.end();
                }
                report.take()
            }
        };
        self.at = page.next.map_or(At::End, At::Behind);
        Ok(Some(part))
    }

    async fn begin_report(&self) -> Result<Report, StoreError> {
        let summary = self
            .store
            .attempt_summary(&self.project, &self.filter)
            .await?;
        Ok(Report::new(&About {
            project: &self.project,
            filter: &self.filter,
            summary: &summary,
            made: self.made,
        }))
    }

    /// What a file has behind its attempts.
    fn rest(&mut self) -> Option<Bytes> {
        let more = self.report.as_mut().and_then(|report| {
            let more = report.table();
            more.then(|| report.take())
        });
        if more.is_none() {
            self.at = At::Done;
        }
        more
    }

    fn text(&self, lines: &[AttemptLine], head: bool) -> String {
        let mut text = String::new();
        if head && self.format == ExportFormat::Csv {
            csv_line(&mut text, COLUMNS.iter().copied());
        }
        for line in lines {
            if self.format == ExportFormat::Csv {
                let cells = cells(line);
                csv_line(&mut text, cells.iter().map(String::as_str));
            } else {
                text.push_str(&line.to_json());
                text.push('\n');
            }
        }
        text
    }
}

fn cells(line: &AttemptLine) -> [String; COLUMNS.len()] {
    let said = |text: &Option<String>| text.clone().unwrap_or_default();
    let contact = line.contact.clone().unwrap_or_default();
    let response = line.response.as_ref();
    let body = response.and_then(|r| r.body.clone().or_else(|| r.body_base64.clone()));
    [
        line.id.clone(),
        line.delivery_id.clone(),
        line.run.to_string(),
        line.attempt.to_string(),
        line.started_at.clone(),
        line.duration_ms.to_string(),
        line.webhook.clone(),
        line.webhook_uid.clone(),
        line.event_id.clone(),
        line.event_source.clone(),
        line.event_type.clone(),
        line.event_key.clone(),
        said(&contact.id),
        said(&contact.email),
        said(&contact.phone),
        line.outcome.to_owned(),
        line.status.map(|s| s.to_string()).unwrap_or_default(),
        said(&line.error_class),
        said(&line.error_detail),
        said(&line.next_attempt_at),
        said(&line.url),
        headers(line.request.as_ref().map_or(&[], |r| &r.headers)),
        headers(response.map_or(&[], |r| &r.headers)),
        body.unwrap_or_default(),
    ]
}

fn headers(headers: &[HeaderView]) -> String {
    let lines = headers.iter().map(|h| format!("{}: {}", h.name, h.value));
    lines.collect::<Vec<_>>().join("\n")
}

/// One line of a table: every cell quoted, and none that a spreadsheet would take for a formula.
fn csv_line<'a>(text: &mut String, cells: impl Iterator<Item = &'a str>) {
    for (at, cell) in cells.enumerate() {
        if at > 0 {
            text.push(',');
        }
        text.push('"');
        if formula(cell) {
            text.push('\'');
        }
        for character in cell.chars() {
            match character {
                '"' => text.push_str("\"\""),
                '\0' => text.push('\u{fffd}'),
                other => text.push(other),
            }
        }
        text.push('"');
    }
    text.push_str("\r\n");
}

/// Whether a spreadsheet may take a cell for a formula. What it passes over at the beginning, blanks and what cannot be seen, does not
/// hide one.
fn formula(cell: &str) -> bool {
    let passed_over =
        |c: char| c.is_whitespace() || c.is_control() || "\u{feff}\u{200b}".contains(c);
    let first = cell.chars().next();
    let telling = cell.trim_start_matches(passed_over).chars().next();
    first.is_some_and(|c| "\t\r\n".contains(c))
        || telling.is_some_and(|c| "=+-@＝＋－＠".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cell_begins_a_formula_and_quotes_do_not_end_one() {
        for bad in [
            "=cmd|' /C calc'!A0",
            "@SUM(1+1)*cmd|' /C calc'!A0",
            "+1",
            "-1",
            "\t=1",
            "\r=1",
            "\n=1",
            "\tx",
            "  =1+1",
            "\0=1",
            "\u{feff}=1",
            "＝1",
            "＠SUM(1)",
        ] {
            let mut line = String::new();
            csv_line(&mut line, [bad].into_iter());
            assert!(line.starts_with("\"'"), "{bad:?}: {line:?}");
        }
        let mut line = String::new();
        csv_line(&mut line, ["a", "b \"c\", d", "", "1.5"].into_iter());
        assert_eq!(line, "\"a\",\"b \"\"c\"\", d\",\"\",\"1.5\"\r\n");
    }
}
