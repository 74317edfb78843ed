//! What went wrong, in the words of the closed list. Walks the chain of causes, since each library wraps those below it.

use std::borrow::Cow;
use std::error::Error;
use std::io;

use hookline_model::outcome::ErrorClass;
use rustls::{AlertDescription, CertificateError, PeerIncompatible};

use super::io::TooMuchRead;

/// Why there is no status, and a sentence for people.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) class: ErrorClass,
    pub(crate) detail: Cow<'static, str>,
}

impl Failure {
    pub(crate) fn new(class: ErrorClass, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            class,
            detail: detail.into(),
        }
    }
}

/// A failure of the TCP connection to come about.
pub(crate) fn of_connect(error: &io::Error) -> Failure {
    use io::ErrorKind as Kind;
    match error.kind() {
        Kind::ConnectionRefused => {
            Failure::new(ErrorClass::ConnRefused, "the connection was refused")
        }
        Kind::ConnectionReset | Kind::ConnectionAborted => Failure::new(
            ErrorClass::ConnReset,
            "the connection was reset while it was made",
        ),
        Kind::TimedOut => Failure::new(ErrorClass::ConnTimeout, "the connection was not accepted"),
        Kind::HostUnreachable | Kind::NetworkUnreachable => Failure::new(
            ErrorClass::ConnFailed,
            "there is no way to the endpoint's network",
        ),
        // No more files, ports or memory, or a local packet filter: ours, not theirs.
        _ => Failure::new(
            ErrorClass::Internal,
            format!("the connection could not be made here: {}", error.kind()),
        ),
    }
}

/// A failure of an open connection.
pub(crate) fn of_io(error: &io::Error, when: &str) -> Failure {
    use io::ErrorKind as Kind;
    if let Some(inner) = error.get_ref() {
        if let Some(tls) = find::<rustls::Error>(inner) {
            return of_tls(tls);
        }
        if let Some(too_much) = find::<TooMuchRead>(inner) {
            return Failure::new(ErrorClass::HttpProtocol, too_much.to_string());
        }
    }
    let (class, what) = match error.kind() {
        Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe => {
            (ErrorClass::ConnReset, "was reset")
        }
        Kind::TimedOut => (ErrorClass::ConnTimeout, "was lost"),
        _ => (ErrorClass::ConnClosed, "was closed"),
    };
    Failure::new(class, format!("the connection {what} {when}"))
}

/// A failure that the HTTP library reports.
pub(crate) fn of_hyper(error: &hyper::Error) -> Failure {
    const WHEN: &str = "before the answer was complete";
    if error.is_parse_too_large() {
        return Failure::new(
            ErrorClass::ResponseHeadTooLarge,
            "the head of the answer is too large: at most 64 KiB and 100 headers are read",
        );
    }
    if error.is_parse() {
        return Failure::new(
            ErrorClass::HttpProtocol,
            format!("the answer is not valid HTTP: {error}"),
        );
    }
    if let Some(cause) = error.source() {
        if let Some(io) = find::<io::Error>(cause) {
            return of_io(io, WHEN);
        }
        if let Some(tls) = find::<rustls::Error>(cause) {
            return of_tls(tls);
        }
    }
    if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        return Failure::new(
            ErrorClass::ConnClosed,
            format!("the connection was closed {WHEN}"),
        );
    }
    if error.is_user() {
        return Failure::new(
            ErrorClass::RequestInvalid,
            format!("the request could not be sent: {error}"),
        );
    }
    Failure::new(
        ErrorClass::HttpProtocol,
        format!("the exchange broke the rules of HTTP: {error}"),
    )
}

/// The first error of that type in a chain of causes, into the insides of I/O errors, too.
fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        next = match error.downcast_ref::<io::Error>() {
            // An I/O error's `source` skips the error that it wraps.
            Some(io) => io.get_ref().map(|e| e as &(dyn Error + 'static)),
            None => error.source(),
        };
    }
    None
}

fn of_tls(error: &rustls::Error) -> Failure {
    let class = match error {
        rustls::Error::InvalidCertificate(certificate) => of_certificate(certificate),
        rustls::Error::AlertReceived(
            AlertDescription::CertificateRequired | AlertDescription::NoCertificate,
        ) => ErrorClass::TlsClientCertRequired,
        rustls::Error::AlertReceived(
            AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity,
        )
        | rustls::Error::PeerIncompatible(
            PeerIncompatible::NoCipherSuitesInCommon
            | PeerIncompatible::NoKxGroupsInCommon
            | PeerIncompatible::NoSignatureSchemesInCommon,
        ) => ErrorClass::TlsNoCommonCipher,
        _ => ErrorClass::TlsProtocol,
    };
    Failure::new(class, format!("TLS failed: {}", tls_words(class, error)))
}

fn of_certificate(error: &CertificateError) -> ErrorClass {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            ErrorClass::TlsExpired
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            ErrorClass::TlsNotYetValid
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            ErrorClass::TlsNameMismatch
        }
        CertificateError::UnknownIssuer => ErrorClass::TlsUnknownCa,
        // A self-signed certificate that calls itself an authority. The library gives it no variant of its own.
        CertificateError::Other(other) if format!("{other:?}").contains("CaUsedAsEndEntity") => {
            ErrorClass::TlsUnknownCa
        }
        _ => ErrorClass::TlsProtocol,
    }
}

/// For the usual cases a plain sentence, else the library's words.
fn tls_words(class: ErrorClass, error: &rustls::Error) -> Cow<'static, str> {
    Cow::Borrowed(match class {
        ErrorClass::TlsExpired => "the certificate has expired",
        ErrorClass::TlsNotYetValid => "the certificate is not valid yet",
        ErrorClass::TlsNameMismatch => "the certificate is not valid for this host name",
        ErrorClass::TlsUnknownCa => {
            "the certificate was not issued by a trusted authority (or the chain is incomplete)"
        }
        ErrorClass::TlsClientCertRequired => "the server asks for a client certificate",
        ErrorClass::TlsNoCommonCipher => "there is no method of encryption that both sides accept",
        _ => return Cow::Owned(error.to_string()),
    })
}
