//! What becomes of an attempt, in the closed lists that records, filters and metrics use.

use std::fmt;
use std::str::FromStr;

use crate::wire;

/// A word that is not in a closed list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is no {what}; it must be one of: {known}")]
pub struct UnknownWord {
    /// Which list.
    pub what: &'static str,
    /// What was given, cut to 64 characters.
    pub value: String,
    /// The list.
    pub known: String,
}

impl UnknownWord {
    pub(crate) fn new(what: &'static str, value: &str, known: &[&str]) -> Self {
        Self {
            what,
            value: value.chars().take(64).collect(),
            known: known.join(", "),
        }
    }
}

/// Makes an enum whose variants are words: `ALL`, `as_str`, `FromStr`, `Display`.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident, $what:literal { $($(#[$doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$doc])* $variant,)+ }

        impl $name {
            /// Every one, in the order of the reference.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The word that is stored and shown.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = $crate::outcome::UnknownWord;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    other => Err($crate::outcome::UnknownWord::new($what, other, &[$($word,)+])),
                }
            }
        }
    };
}
pub(crate) use words;

words! {
    /// What became of a delivery with one attempt.
    Outcome, "outcome" {
        /// The receiver took it.
        Delivered = "delivered",
        /// It did not, and the delivery will be tried again.
        Failed = "failed",
        /// Final: the schedule ran out.
        Exhausted = "exhausted",
        /// Final: policy or the address guard forbids another try.
        Refused = "refused",
        /// Final: older than the policy's `max_age`.
        Expired = "expired",
        /// Final: the webhook was deleted or deactivated, or a person ended it.
        Cancelled = "cancelled",
    }
}

impl Outcome {
    /// Whether nothing follows in this run.
    #[must_use]
    pub fn is_final(self) -> bool {
        self != Self::Failed
    }

    /// Whether the whole delivery goes to `dead`.
    #[must_use]
    pub fn is_dead(self) -> bool {
        matches!(self, Self::Exhausted | Self::Refused | Self::Expired)
    }

    /// The stored outcome; `None` for one that this build does not know.
    #[must_use]
    pub fn from_wire(outcome: wire::Outcome) -> Option<Self> {
        match outcome {
            wire::Outcome::Unspecified => None,
            wire::Outcome::Delivered => Some(Self::Delivered),
            wire::Outcome::Failed => Some(Self::Failed),
            wire::Outcome::Exhausted => Some(Self::Exhausted),
            wire::Outcome::Refused => Some(Self::Refused),
            wire::Outcome::Expired => Some(Self::Expired),
            wire::Outcome::Cancelled => Some(Self::Cancelled),
        }
    }
}

impl From<Outcome> for wire::Outcome {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Delivered => Self::Delivered,
            Outcome::Failed => Self::Failed,
            Outcome::Exhausted => Self::Exhausted,
            Outcome::Refused => Self::Refused,
            Outcome::Expired => Self::Expired,
            Outcome::Cancelled => Self::Cancelled,
        }
    }
}

words! {
    /// Why an attempt failed. Stored in records and used as metric label, so words are only ever added.
    ErrorClass, "error class" {
        /// The connection was refused.
        ConnRefused = "conn_refused",
        /// The connection was reset.
        ConnReset = "conn_reset",
        /// No connection in time.
        ConnTimeout = "conn_timeout",
        /// The connection was closed before a complete head.
        ConnClosed = "conn_closed",
        /// No route, or another failure to connect.
        ConnFailed = "conn_failed",
        /// The deadline of the whole attempt passed.
        Timeout = "timeout",
        /// The name does not exist.
        DnsNotFound = "dns_not_found",
        /// The name could not be looked up.
        DnsFailed = "dns_failed",
        /// The lookup took too long.
        DnsTimeout = "dns_timeout",
        /// The name leads to an address that may not be reached.
        Blocked = "blocked",
        /// The URL as such may not be requested.
        UrlRefused = "url_refused",
        /// The certificate has expired.
        TlsExpired = "tls_expired",
        /// The certificate is not valid yet.
        TlsNotYetValid = "tls_not_yet_valid",
        /// The certificate is from nobody we trust.
        TlsUnknownCa = "tls_unknown_ca",
        /// The certificate is for another name.
        TlsNameMismatch = "tls_name_mismatch",
        /// The TLS exchange broke the protocol.
        TlsProtocol = "tls_protocol",
        /// No protocol version or cipher in common.
        TlsNoCommonCipher = "tls_no_common_cipher",
        /// The receiver wants a client certificate.
        TlsClientCertRequired = "tls_client_cert_required",
        /// The TLS handshake took too long.
        TlsHandshakeTimeout = "tls_handshake_timeout",
        /// The answer was not HTTP.
        HttpProtocol = "http_protocol",
        /// The head of the answer was too large.
        ResponseHeadTooLarge = "response_head_too_large",
        /// Too many interim (1xx) answers.
        TooMany1xx = "too_many_1xx",
        /// An answer with a status that is no success.
        Status = "status",
        /// A redirect, which is never followed.
        Redirect = "redirect",
        /// The credentials that the request needs are not to be had.
        AuthFailed = "auth_failed",
        /// The request could not be built: header, template, body.
        RequestInvalid = "request_invalid",
        /// A fault of ours.
        Internal = "internal",
    }
}

/// What came back from an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Answer {
    /// The status of a complete head.
    Status(u16),
    /// None came.
    Failed(ErrorClass),
}

impl Answer {
    /// The status, if there is one.
    #[must_use]
    pub fn status(self) -> Option<u16> {
        match self {
            Self::Status(status) => Some(status),
            Self::Failed(_) => None,
        }
    }

    /// The class to record when this answer is no success.
    #[must_use]
    pub fn error_class(self) -> ErrorClass {
        match self {
            Self::Status(300..=399) => ErrorClass::Redirect,
            Self::Status(_) => ErrorClass::Status,
            Self::Failed(class) => class,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_round_trip_and_are_distinct() {
        let words: std::collections::BTreeSet<_> =
            ErrorClass::ALL.iter().map(|c| c.as_str()).collect();
        assert_eq!(words.len(), ErrorClass::ALL.len());
        for class in ErrorClass::ALL {
            assert_eq!(class.as_str().parse(), Ok(*class));
        }
        for outcome in Outcome::ALL {
            assert_eq!(outcome.as_str().parse(), Ok(*outcome));
            assert_eq!(Outcome::from_wire((*outcome).into()), Some(*outcome));
        }
        let error = "gone".parse::<Outcome>().expect_err("not a word");
        assert!(error.to_string().contains("cancelled"), "{error}");
    }

    #[test]
    fn only_failed_goes_on() {
        let open: Vec<_> = Outcome::ALL.iter().filter(|o| !o.is_final()).collect();
        assert_eq!(open, [&Outcome::Failed]);
        assert_eq!(Answer::Status(302).error_class(), ErrorClass::Redirect);
        assert_eq!(Answer::Status(500).error_class(), ErrorClass::Status);
    }
}
