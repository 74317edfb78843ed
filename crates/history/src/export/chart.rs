//! Outcomes over time, as bars.

use hookline_model::time::Millis;

use super::page::{Canvas, Colour, Look};
use crate::OUTCOMES;
use crate::store::{AttemptSummary, OutcomeCounts};

/// The colours of [`OUTCOMES`].
pub(super) const COLOURS: [Colour; OUTCOMES.len()] = [
    [0.18, 0.55, 0.34],
    [0.95, 0.69, 0.20],
    [0.78, 0.19, 0.19],
    [0.48, 0.25, 0.60],
    [0.45, 0.45, 0.45],
    [0.25, 0.50, 0.75],
];

/// Room on the left for numbers, and below for times.
const LEFT: f32 = 44.0;
const BELOW: f32 = 14.0;
/// Lines across, without the lowest one.
const LINES: u64 = 4;
/// Times that are written, at most.
const TIMES: i64 = 8;
const SMALL: Look = Look::grey(7.0);
const DAY_MS: i64 = 24 * 3_600_000;

/// Draws the series of a summary into an area.
pub(super) fn draw(
    canvas: &mut Canvas,
    (x, y): (f32, f32),
    (width, height): (f32, f32),
    summary: &AttemptSummary,
) {
    let Some((first, last)) = summary.interval else {
        return;
    };
    let step = summary.step_ms.max(1);
    let (first, last) = (first.0.div_euclid(step), last.0.div_euclid(step));
    let spans = (last - first + 1).max(1);
    let (left, bottom) = (x + LEFT, y + BELOW);
    let (breadth, top) = (width - LEFT, height - BELOW);

    let highest = summary.series.iter().map(|(_, counts)| sum(counts)).max();
    let scale = scale(highest.unwrap_or(0));
    for line in 0..=LINES {
        let at = bottom + top * part(line, LINES);
        canvas.line((left, at), breadth);
        let number = (scale / LINES * line).to_string();
        canvas.text_before((left - 4.0, at - 2.0), SMALL, &number, LEFT - 4.0);
    }

    let place = |span: i64| left + breadth * ratio(span, spans);
    let bar = (breadth * ratio(1, spans) * 0.8).min(40.0);
    for (moment, counts) in &summary.series {
        let span = moment.0.div_euclid(step) - first;
        let mut at = bottom;
        for (count, colour) in counts.iter().zip(COLOURS) {
            if *count > 0 {
                let height = top * part(*count, scale);
                canvas.area((place(span), at), (bar, height), colour);
                at += height;
            }
        }
    }

    let every = (spans + TIMES - 1) / TIMES;
    for span in (0..spans).filter(|span| span % every == 0) {
        let text = Millis((first + span) * step).to_rfc3339();
        // Of `2026-01-31T12:00:00.000Z` the day, or the day in the year and the minute.
        let shown = if step >= DAY_MS {
            text.get(..10).unwrap_or(&text).to_owned()
        } else {
            text.get(5..16).unwrap_or(&text).replace('T', " ")
        };
        canvas.text((place(span), y + 3.0), SMALL, &shown, 80.0);
    }
}

fn sum(counts: &OutcomeCounts) -> u64 {
    counts.iter().sum()
}

/// What the highest line stands for: a number that is easily divided by the lines, not much above the highest bar.
fn scale(highest: u64) -> u64 {
    let mut power: u64 = 1;
    loop {
        for digit in [1, 2, 5] {
            let scale = power.saturating_mul(digit * LINES);
            if scale >= highest || scale == u64::MAX {
                return scale;
            }
        }
        power = power.saturating_mul(10);
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a place on a page: nobody sees a millionth"
)]
fn part(number: u64, of: u64) -> f32 {
    (number as f64 / of.max(1) as f64) as f32
}

fn ratio(number: i64, of: i64) -> f32 {
    part(
        u64::try_from(number).unwrap_or(0),
        u64::try_from(of).unwrap_or(1),
    )
}

/// What the colours mean, side by side.
pub(super) fn legend(canvas: &mut Canvas, (x, y): (f32, f32)) {
    let mut at = x;
    for (word, colour) in OUTCOMES.into_iter().zip(COLOURS) {
        canvas.area((at, y), (7.0, 7.0), colour);
        canvas.text((at + 10.0, y), Look::regular(8.0), word, 60.0);
        at += 70.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_holds_the_highest_bar_and_not_much_more() {
        for highest in [0, 1, 4, 5, 9, 100, 12_345, u64::MAX] {
            let scale = scale(highest);
            assert!(scale >= highest, "{highest}: {scale}");
            assert!(scale <= 4 || scale / 3 <= highest, "{highest}: {scale}");
        }
        assert_eq!((scale(5), scale(100), scale(101)), (8, 200, 200));
    }
}
