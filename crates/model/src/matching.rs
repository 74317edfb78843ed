//! Which events a webhook gets: patterns over event types.

use std::fmt;
use std::str::FromStr;

/// The longest event type, in bytes.
pub const EVENT_TYPE_BYTES_MAX: usize = 256;

/// What a webhook subscribes to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TypePattern {
    /// This event type.
    Exact(Box<str>),
    /// `<category>.*`: every type below the category, at any depth; not the category itself.
    Below(Box<str>),
    /// `*`: every type.
    All,
}

/// A pattern that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} {problem}")]
pub struct PatternError {
    /// What was given, cut to 64 characters.
    pub value: String,
    /// What is wrong with it and what would be right.
    pub problem: &'static str,
}

impl TypePattern {
    /// Whether events of this type are meant.
    #[must_use]
    pub fn matches(&self, event_type: &str) -> bool {
        match self {
            Self::All => true,
            Self::Exact(wanted) => **wanted == *event_type,
            Self::Below(category) => event_type
                .strip_prefix(&**category)
                .and_then(|rest| rest.strip_prefix('.'))
                .is_some_and(|rest| !rest.is_empty()),
        }
    }

    /// The categories whose [`TypePattern::Below`] matches this type, shortest first: for `a.b.c` these are `a` and `a.b`.
    pub fn categories(event_type: &str) -> impl Iterator<Item = &str> {
        event_type
            .match_indices('.')
            .filter(move |(at, _)| at + 1 < event_type.len())
            .filter_map(move |(at, _)| event_type.get(..at))
            .filter(|category| !category.is_empty())
    }
}

impl FromStr for TypePattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let bad = |problem| {
            Err(PatternError {
                value: text.chars().take(64).collect(),
                problem,
            })
        };
        if text == "*" {
            return Ok(Self::All);
        }
        if text.is_empty() || text.len() > EVENT_TYPE_BYTES_MAX {
            return bad("must have 1 to 256 bytes: an event type, \"<category>.*\" or \"*\"");
        }
        if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return bad("must not contain blanks or control characters");
        }
        let (name, below) = match text.strip_suffix(".*") {
            Some(category) => (category, true),
            None => (text, false),
        };
        if name.contains('*') {
            return bad("may have '*' only alone or at the end after a dot: \"<category>.*\"");
        }
        if name.is_empty() || name.starts_with('.') || name.ends_with('.') || name.contains("..") {
            return bad("must be words joined by single dots");
        }
        Ok(if below {
            Self::Below(name.into())
        } else {
            Self::Exact(name.into())
        })
    }
}

impl fmt::Display for TypePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Below(category) => write!(f, "{category}.*"),
            Self::All => f.write_str("*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> TypePattern {
        text.parse().expect("pattern")
    }

    #[test]
    fn a_category_has_everything_below_it_at_any_depth() {
        let email = pattern("email.*");
        for yes in ["email.opened", "email.message.clicked"] {
            assert!(email.matches(yes), "{yes}");
        }
        for no in ["email", "email.", "emails.opened", "sms.email.opened", ""] {
            assert!(!email.matches(no), "{no}");
        }
        assert!(pattern("a.b.*").matches("a.b.c.d") && !pattern("a.b.*").matches("a.c"));
        assert!(pattern("*").matches("x") && pattern("a.b").matches("a.b"));
        assert!(!pattern("a.b").matches("a.b.c"));
    }

    #[test]
    fn what_is_no_pattern() {
        for bad in [
            "",
            ".*",
            "*.a",
            "a.*.b",
            "a*",
            "a..b",
            ".a",
            "a.",
            "a b",
            "a\n",
            "**",
            "a.**",
            &"a".repeat(257),
        ] {
            assert!(bad.parse::<TypePattern>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn categories_are_exactly_the_patterns_that_match(name in "[ab.]{0,9}", category in "[ab]{1,2}(\\.[ab]{1,2}){0,2}") {
            let below = TypePattern::Below(category.as_str().into());
            let listed = TypePattern::categories(&name).any(|c| c == category);
            prop_assert_eq!(below.matches(&name), listed);
            prop_assert_eq!(pattern(&below.to_string()), below);
        }
    }
}
