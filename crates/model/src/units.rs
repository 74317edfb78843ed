//! Durations, sizes and rates as people write them: `250ms`, `1h30m`, `64KiB`, `50/s`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A duration, size or rate that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is no {what}; write it like {like}")]
pub struct UnitError {
    /// What it should have been.
    pub what: &'static str,
    /// What was given, cut to 64 characters.
    pub value: String,
    /// Examples.
    pub like: &'static str,
}

const DURATION_UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
    ("ms", 1),
];
const SIZE_UNITS: [(&str, u64); 4] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

fn error(what: &'static str, value: &str, like: &'static str) -> UnitError {
    UnitError {
        what,
        value: value.chars().take(64).collect(),
        like,
    }
}

/// Splits off a leading run of digits.
fn number(text: &str) -> Option<(u64, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, rest) = text.split_at_checked(end)?;
    Some((digits.parse().ok()?, rest))
}

/// Reads `250ms`, `5s`, `30m`, `1h`, `1d`, or a sum of them from large to small: `1h30m`.
///
/// # Errors
/// When it is something else; a bare number too, for nobody can tell its unit.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    duration_ms(text)
        .map(Duration::from_millis)
        .ok_or_else(|| error("duration", text, "250ms, 5s, 1h30m or 2d"))
}

fn duration_ms(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut below = u64::MAX;
    let mut total = 0u64;
    loop {
        let (count, after) = number(rest)?;
        let end = after
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(after.len());
        let (unit, next) = after.split_at_checked(end)?;
        let (_, ms) = DURATION_UNITS.iter().find(|(name, _)| *name == unit)?;
        if *ms >= below {
            return None;
        }
        below = *ms;
        total = total.checked_add(count.checked_mul(*ms)?)?;
        if next.is_empty() {
            return Some(total);
        }
        rest = next;
    }
}

/// Writes a duration in the largest unit that says it exactly (days from two on); read back it is the same. Below a millisecond is cut.
#[must_use]
pub fn format_duration(span: Duration) -> String {
    let ms = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    if ms == 0 {
        return "0s".into();
    }
    let fits =
        |(name, unit): &&(&str, u64)| ms.is_multiple_of(*unit) && (*name != "d" || ms >= 2 * unit);
    let (name, unit) = DURATION_UNITS.iter().find(fits).unwrap_or(&("ms", 1));
    format!("{}{name}", ms / unit)
}

/// Reads `512B`, `64KiB`, `1MiB`, `2GiB`.
///
/// # Errors
/// When it is something else.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let read = || {
        let (count, unit) = number(text)?;
        let (_, bytes) = SIZE_UNITS.iter().find(|(name, _)| *name == unit)?;
        count.checked_mul(*bytes)
    };
    read().ok_or_else(|| error("size", text, "512B, 64KiB or 1MiB"))
}

/// Writes a size in the largest unit that says it exactly.
#[must_use]
pub fn format_size(bytes: u64) -> String {
    let fits = |(_, unit): &&(&str, u64)| bytes.is_multiple_of(*unit) && bytes >= *unit;
    let (name, unit) = SIZE_UNITS.iter().find(fits).unwrap_or(&("B", 1));
    format!("{}{name}", bytes / unit)
}

/// So many in a span: `50/s`, `600/m`, `1000/h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    count: u32,
    per_ms: u32,
}

const RATE_UNITS: [(&str, u32); 3] = [("s", 1000), ("m", 60_000), ("h", 3_600_000)];

impl Rate {
    /// How many.
    #[must_use]
    pub fn count(self) -> u32 {
        self.count
    }

    /// In how long.
    #[must_use]
    pub fn per(self) -> Duration {
        Duration::from_millis(self.per_ms.into())
    }

    /// How many in a second.
    #[must_use]
    pub fn per_second(self) -> f64 {
        f64::from(self.count) * 1000.0 / f64::from(self.per_ms)
    }

    /// The time between two when they are evenly spread.
    #[must_use]
    pub fn interval(self) -> Duration {
        self.per() / self.count
    }
}

impl FromStr for Rate {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let read = || {
            let (count, unit) = text.split_once('/')?;
            let (count, rest) = number(count)?;
            let (_, per_ms) = RATE_UNITS.iter().find(|(name, _)| *name == unit)?;
            let count = u32::try_from(count).ok().filter(|c| *c > 0)?;
            rest.is_empty().then_some(Self {
                count,
                per_ms: *per_ms,
            })
        };
        read().ok_or_else(|| error("rate", text, "50/s, 600/m or 1000/h (at least 1)"))
    }
}

impl serde::Serialize for Rate {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Rate {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = <String as serde::Deserialize>::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = RATE_UNITS.iter().find(|(_, ms)| *ms == self.per_ms);
        write!(f, "{}/{}", self.count, unit.map_or("s", |u| u.0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations() {
        for (text, ms) in [
            ("250ms", 250),
            ("0s", 0),
            ("5s", 5000),
            ("1h30m", 5_400_000),
            ("1d", 86_400_000),
            ("1d1ms", 86_400_001),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(ms)),
                "{text}"
            );
        }
        for bad in [
            "",
            "5",
            "s",
            "-5s",
            "1.5h",
            "5 s",
            "5S",
            "30m1h",
            "1s1s",
            "99999999999999999999s",
            "18446744073709551615d",
            "5sé",
            "é",
        ] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        let shown = |s: &str| format_duration(parse_duration(s).expect("duration"));
        for (text, want) in [
            ("24h", "24h"),
            ("48h", "2d"),
            ("100s", "100s"),
            ("90m", "90m"),
            ("60s", "1m"),
            ("1500ms", "1500ms"),
        ] {
            assert_eq!(shown(text), want);
        }
    }

    #[test]
    fn sizes_and_rates() {
        assert_eq!(parse_size("64KiB"), Ok(65536));
        assert_eq!(format_size(65536), "64KiB");
        assert_eq!(format_size(0), "0B");
        assert_eq!(format_size(1000), "1000B");
        for bad in ["", "64", "64kb", "64KB", "1.5MiB", "99999999999GiB", "-1B"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
        let rate: Rate = "50/s".parse().expect("rate");
        assert_eq!(
            (rate.interval(), rate.to_string()),
            (Duration::from_millis(20), "50/s".into())
        );
        assert_eq!("30/m".parse::<Rate>().map(Rate::per_second), Ok(0.5));
        for bad in [
            "",
            "0/s",
            "/s",
            "5/d",
            "5",
            "5/s ",
            "-5/s",
            "5000000000/s",
            "5x/s",
        ] {
            assert!(bad.parse::<Rate>().is_err(), "{bad}");
        }
    }

    /// What matters is that the call came back.
    fn survives<T>(_: T) {}

    proptest! {
        #[test]
        fn written_and_read_back_is_the_same(ms in any::<u64>(), bytes in any::<u64>(), text in ".{0,12}") {
            let span = Duration::from_millis(ms);
            prop_assert_eq!(parse_duration(&format_duration(span)), Ok(span));
            prop_assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
            survives((parse_duration(&text), parse_size(&text), text.parse::<Rate>()));
        }
    }
}
