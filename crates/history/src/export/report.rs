//! Attempts as pages to read and to print: what they come to, then all of them in a table. Pages leave as they are finished.

use bytes::Bytes;
use hookline_model::time::Millis;

use super::chart;
use super::page::{Canvas, Look, MARGIN};
use super::pdf::{OF_PAGES, PAGE, PdfFile};
use crate::store::{AttemptFilter, AttemptSummary};
use crate::{AttemptLine, OUTCOMES};

/// Columns of the table, and how broad they are.
const COLUMNS: [(&str, f32); 9] = [
    ("Time (UTC)", 96.0),
    ("Webhook", 108.0),
    ("Event type", 122.0),
    ("Event id", 168.0),
    ("Attempt", 38.0),
    ("Outcome", 54.0),
    ("Status", 36.0),
    ("Error class", 88.0),
    ("Duration (ms)", 60.0),
];
/// From one column to the next, without text.
const GAP: f32 = 5.0;
const ROW: f32 = 11.0;
const CELL: Look = Look::regular(7.5);
const HEAD: Look = Look::bold(7.5);
const SMALL: Look = Look::grey(7.0);
const LINE: Look = Look::regular(9.0);
const WIDTH: f32 = PAGE.0 - 2.0 * MARGIN;
/// Rows stay above this; the foot of the page is below.
const BOTTOM: f32 = MARGIN + 14.0;
const CHART_HEIGHT: f32 = 150.0;

/// What a report is about.
pub(super) struct About<'a> {
    pub(super) project: &'a str,
    pub(super) filter: &'a AttemptFilter,
    pub(super) summary: &'a AttemptSummary,
    /// When it is made.
    pub(super) made: Millis,
}

/// A report under way.
pub(super) struct Report {
    file: PdfFile,
    canvas: Canvas,
    /// The foot of every page.
    foot: String,
    /// Where the next line goes.
    y: f32,
}

impl Report {
    /// A report with its first page, as far as what is said above the table.
    pub(super) fn new(about: &About<'_>) -> Self {
        let title = format!("Delivery log of {}", about.project);
        let made = moment(&about.made.to_rfc3339(), 19);
        let mut report = Self {
            file: PdfFile::new(&title, about.made),
            canvas: Canvas::new(),
            foot: format!("{title}, made {made} UTC"),
            y: PAGE.1 - MARGIN,
        };
        report.title(about);
        report.totals(about.summary);
        report.chart(about.summary);
        if report.y < BOTTOM + 5.0 * ROW {
            report.turn();
        }
        report.head();
        if about.summary.count == 0 {
            report.line("No attempts.", CELL, ROW);
        }
        report
    }

    fn title(&mut self, about: &About<'_>) {
        self.line("Delivery log", Look::bold(18.0), 26.0);
        let named = |name: &str, value: &str| format!("{name}: {value}");
        self.line(&named("Project", about.project), LINE, 12.0);
        let shown = |then: Millis| moment(&then.to_rfc3339(), 19);
        // Who did not ask for a beginning gets what there is.
        let first = about.summary.interval.map(|(first, _)| first);
        let from = about.filter.from.or(first).map_or("-".to_owned(), shown);
        let to = shown(about.filter.to.unwrap_or(about.made));
        self.line(
            &named("Period", &format!("{from} to {to} (UTC)")),
            LINE,
            12.0,
        );
        let made = shown(about.made);
        self.line(&named("Made", &format!("{made} UTC")), LINE, 12.0);
        let said = about.filter.said();
        if said.is_empty() {
            self.line("Filters: none", LINE, 12.0);
        }
        for (word, value) in said {
            self.line(&named("Filter", &format!("{word} = {value}")), LINE, 12.0);
        }
        self.y -= 8.0;
    }

    fn totals(&mut self, summary: &AttemptSummary) {
        let counts = summary.outcomes.iter().copied();
        let all = OUTCOMES.into_iter().zip(counts);
        let all = std::iter::once(("attempts", summary.count)).chain(all);
        let room = 110.0;
        let mut x = MARGIN;
        for (word, count) in all {
            let number = count.to_string();
            self.canvas
                .text((x, self.y - 12.0), Look::bold(14.0), &number, room - GAP);
            self.canvas
                .text((x, self.y - 23.0), Look::grey(8.0), word, room - GAP);
            x += room;
        }
        self.y -= 34.0;
    }

    fn chart(&mut self, summary: &AttemptSummary) {
        if summary.interval.is_none() {
            return;
        }
        self.y -= CHART_HEIGHT;
        let size = (WIDTH, CHART_HEIGHT - 6.0);
        chart::draw(&mut self.canvas, (MARGIN, self.y), size, summary);
        self.y -= 12.0;
        chart::legend(&mut self.canvas, (MARGIN, self.y));
        self.y -= 14.0;
    }

    /// Adds attempts to the table.
    pub(super) fn rows(&mut self, lines: &[AttemptLine]) {
        for line in lines {
            if self.y < BOTTOM + ROW {
                self.turn();
                self.head();
            }
            self.row(line);
        }
    }

    fn row(&mut self, line: &AttemptLine) {
        let time = moment(&line.started_at, 23);
        let [attempt, duration] = [line.attempt, line.duration_ms].map(|n| n.to_string());
        let status = line.status.map(|s| s.to_string()).unwrap_or_default();
        let cells = [
            &time,
            &line.webhook,
            &line.event_type,
            &line.event_id,
            &attempt,
            line.outcome,
            &status,
            line.error_class.as_deref().unwrap_or_default(),
            &duration,
        ];
        self.cells(CELL, cells);
    }

    fn head(&mut self) {
        self.cells(HEAD, COLUMNS.map(|(name, _)| name));
        self.canvas.line((MARGIN, self.y + 8.5), WIDTH);
    }

    fn cells(&mut self, look: Look, cells: [&str; COLUMNS.len()]) {
        self.y -= ROW;
        let rooms = COLUMNS.iter().map(|(_, room)| *room);
        let cells = cells.into_iter().zip(rooms);
        self.canvas.row((MARGIN, self.y), look, GAP, cells);
    }

    fn line(&mut self, text: &str, look: Look, height: f32) {
        self.y -= height;
        self.canvas.text((MARGIN, self.y), look, text, WIDTH);
    }

    /// Finishes the page and begins another.
    fn turn(&mut self) {
        let mut canvas = std::mem::replace(&mut self.canvas, Canvas::new());
        let y = MARGIN - 6.0;
        let edge = PAGE.0 - MARGIN - 45.0;
        canvas.text((MARGIN, y), SMALL, &self.foot, WIDTH - 150.0);
        let number = format!("Page {}", self.file.pages() + 1);
        canvas.text_before((edge, y), SMALL, &number, 80.0);
        canvas.form((edge + 3.0, y), OF_PAGES);
        self.file.page(canvas.finish());
        self.y = PAGE.1 - MARGIN;
    }

    /// All attempts are there.
    pub(super) fn end(&mut self) {
        self.turn();
        self.file.end();
    }

    /// Behind the end: writes the next part of what every file has there; whether there was any.
    pub(super) fn table(&mut self) -> bool {
        self.file.table()
    }

    /// What is finished.
    pub(super) fn take(&mut self) -> Bytes {
        self.file.take()
    }
}

/// `2026-01-31T12:00:00.000Z` for people, as far as so many characters.
fn moment(text: &str, characters: usize) -> String {
    let shown = text.get(..characters).unwrap_or(text);
    shown.replacen('T', " ", 1)
}

#[cfg(test)]
mod tests;
