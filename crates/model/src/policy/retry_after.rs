//! Reading `Retry-After`.

use std::time::Duration;

use jiff::civil::DateTime;
use jiff::fmt::strtime;

use crate::time::Millis;

/// The three forms of a date in HTTP: the current one and two obsolete ones that must still be understood.
const DATES: [&str; 3] = [
    "%a, %d %b %Y %H:%M:%S GMT",
    "%A, %d-%b-%y %H:%M:%S GMT",
    "%a %b %e %H:%M:%S %Y",
];

/// No sensible value is longer.
const BYTES_MAX: usize = 64;

/// How long a receiver asks to wait, from `now`: whole seconds, or a date. A date that has passed asks for nothing. Anything else (negative,
/// fractions, NaN, more digits than a number can have, garbage) is as if the header were not there.
#[must_use]
pub fn parse_retry_after(header: &[u8], now: Millis) -> Option<Duration> {
    let text = std::str::from_utf8(header).ok()?;
    let text = text.trim_matches([' ', '\t']);
    if text.is_empty() || text.len() > BYTES_MAX {
        return None;
    }
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().ok().map(Duration::from_secs);
    }
    let date = DATES.iter().find_map(|form| date(form, text))?;
    Some(date.since(now))
}

fn date(form: &str, text: &str) -> Option<Millis> {
    let date: DateTime = strtime::parse(form, text).ok()?.to_datetime().ok()?;
    let zoned = date.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    Some(Millis(zoned.timestamp().as_millisecond()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1994-11-06T08:49:37Z
    const THEN: Millis = Millis(784_111_777_000);

    #[test]
    fn seconds() {
        for (text, want) in [
            ("0", 0),
            ("1", 1),
            (" 30\t", 30),
            ("86400", 86_400),
            ("1000000000000000000", 1_000_000_000_000_000_000),
        ] {
            assert_eq!(
                parse_retry_after(text.as_bytes(), THEN),
                Some(Duration::from_secs(want)),
                "{text}"
            );
        }
    }

    #[test]
    fn dates_in_all_three_forms() {
        let before = Millis(THEN.0 - 90_000);
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
        ] {
            assert_eq!(
                parse_retry_after(text.as_bytes(), before),
                Some(Duration::from_secs(90)),
                "{text}"
            );
            let past = parse_retry_after(text.as_bytes(), Millis(THEN.0 + 1));
            assert_eq!(past, Some(Duration::ZERO), "{text} has passed");
        }
    }

    #[test]
    fn anything_else_is_ignored() {
        let long = "1".repeat(100);
        for text in [
            "",
            " ",
            "-5",
            "+5",
            "1.5",
            "NaN",
            "inf",
            "1e3",
            "5s",
            "0x10",
            "99999999999999999999",
            "tomorrow",
            "Sun, 06 Nov 1994 08:49:37 CET",
            "Sun, 32 Nov 1994 08:49:37 GMT",
            "1, 2",
            "\u{0661}",
            &long,
        ] {
            assert_eq!(parse_retry_after(text.as_bytes(), THEN), None, "{text}");
        }
        assert_eq!(parse_retry_after(b"\xff5", THEN), None);
    }
}
