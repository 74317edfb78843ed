//! Which attempts are meant, said in words: by the parameters of the API, and by the flags of the command line.

use hookline_history::{AttemptFilter, OUTCOMES, StatusFilter};
use hookline_model::resource::FieldError;
use hookline_model::time::Millis;

/// The words that choose attempts.
pub(crate) const NAMES: [&str; 13] = [
    "webhook",
    "outcome",
    "status",
    "error_class",
    "attempt",
    "endpoint",
    "delivery",
    "event_id",
    "event_type",
    "key",
    "contact",
    "from",
    "to",
];

/// What the words choose; an empty text chooses nothing.
///
/// # Errors
/// Which of them is wrong, and what would be right.
pub(crate) fn read<'a>(
    given: impl Fn(&str) -> Option<&'a str>,
) -> Result<AttemptFilter, FieldError> {
    let text = |name: &str| {
        let text = given(name).filter(|text| !text.is_empty());
        text.map(str::to_owned)
    };
    let moment = |name: &'static str| match given(name) {
        None => Ok(None),
        Some(text) => match text.parse::<jiff::Timestamp>() {
            Ok(moment) => Ok(Some(Millis(moment.as_millisecond()))),
            Err(_) => Err(FieldError::new(
                name,
                "must be a moment as in RFC 3339: 2026-01-31T12:00:00Z",
            )),
        },
    };
    let outcome = text("outcome");
    if let Some(word) = &outcome
        && !OUTCOMES.contains(&word.as_str())
    {
        let message = format!("must be one of: {}", OUTCOMES.join(", "));
        return Err(FieldError::new("outcome", message));
    }
    let status = match text("status") {
        None => None,
        Some(text) => Some(status(&text).ok_or_else(|| {
            FieldError::new(
                "status",
                "must be a status such as 503, or a class such as 5xx",
            )
        })?),
    };
    let attempt = match text("attempt") {
        None => None,
        Some(text) => Some(
            text.parse()
                .map_err(|_| FieldError::new("attempt", "must be a number"))?,
        ),
    };
    Ok(AttemptFilter {
        webhook: text("webhook"),
        outcome,
        status,
        error_class: text("error_class"),
        attempt,
        endpoint: text("endpoint"),
        delivery: text("delivery"),
        event_id: text("event_id"),
        event_type: text("event_type"),
        key: text("key"),
        contact: text("contact"),
        from: moment("from")?,
        to: moment("to")?,
    })
}

/// `503` or `5xx`.
fn status(text: &str) -> Option<StatusFilter> {
    let digits = |text: &&str| text.bytes().all(|b| b.is_ascii_digit());
    if let Some(class) = text.strip_suffix("xx") {
        let class = Some(class).filter(digits)?.parse().ok()?;
        return (1..=9)
            .contains(&class)
            .then_some(StatusFilter::Class(class));
    }
    let status = Some(text).filter(digits)?.parse().ok()?;
    (100..=999)
        .contains(&status)
        .then_some(StatusFilter::Exactly(status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_a_number_or_a_class() {
        assert_eq!(status("503"), Some(StatusFilter::Exactly(503)));
        assert_eq!(status("5xx"), Some(StatusFilter::Class(5)));
        for wrong in ["", "xx", "0xx", "55xx", "50", "1000", "+200", "-1xx", "abc"] {
            assert_eq!(status(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_and_every_word_is_known() {
        for (name, text) in [
            ("outcome", "odd"),
            ("status", "6"),
            ("attempt", "x"),
            ("from", "yesterday"),
            ("to", ""),
        ] {
            let given = |asked: &str| (asked == name).then_some(text);
            assert_eq!(read(given).expect_err(name).field, name);
        }
        let all = |name: &str| {
            assert!(NAMES.contains(&name), "{name}");
            match name {
                "outcome" => Some("failed"),
                "from" | "to" => Some("2026-01-31T12:00:00Z"),
                "status" | "attempt" => Some("500"),
                _ => Some("text"),
            }
        };
        let said = read(all).expect("all are well").said();
        assert_eq!(said.len() + 2, NAMES.len());
    }
}
