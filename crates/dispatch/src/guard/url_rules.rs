//! The policy for URLs. The raw text is judged before it is parsed, because the parser repairs what must not be repaired: it strips tabs and
//! line ends and takes `\` for `/`. What comes out is judged again, and must mean the same to both libraries that will read it.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use hookline_model::limits::URL_BYTES_MAX;
use http::HeaderValue;

use super::{Host, Target, TargetParts, UrlPolicy, UrlRefused};

/// Ports from 1024 on that belong to services other than HTTP, or to the machinery around us.
const PORTS_DENIED: [u16; 51] = [
    1080, 1433, 1434, 1521, 1719, 1720, 1723, 2049, 2181, 2375, 2376, 2379, 2380, 3128, 3306, 3389,
    3659, 4045, 4190, 5038, 5060, 5061, 5432, 5672, 5900, 5984, 6000, 6379, 6443, 6566, 6665, 6666,
    6667, 6668, 6669, 6679, 6697, 8125, 9000, 9042, 9090, 9091, 9092, 9093, 9200, 9300, 10080,
    10250, 10255, 11211, 27017,
];

/// Names below these lead into somebody's own network, or nowhere.
const SUFFIXES_DENIED: [&str; 10] = [
    "local",
    "internal",
    "svc",
    "cluster.local",
    "home.arpa",
    "lan",
    "onion",
    "i2p",
    "arpa",
    "localdomain",
];

const HOST_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;

fn refuse<T>(code: &'static str, text: impl Into<String>) -> Result<T, UrlRefused> {
    Err(UrlRefused {
        code,
        text: text.into(),
    })
}

pub(super) fn check(policy: &UrlPolicy, raw: &str) -> Result<Target, UrlRefused> {
    let authority = check_raw(policy, raw)?;
    let mut url = match url::Url::parse(raw) {
        Ok(url) => url,
        Err(error) => return refuse("URL_PARSE", format!("the URL cannot be read: {error}")),
    };
    let https = url.scheme() == "https";
    let host = check_host(policy, &mut url)?;
    if authority.contains('@') || !url.username().is_empty() || url.password().is_some() {
        return refuse("USERINFO", USERINFO_TEXT);
    }
    if authority.contains('%') {
        return refuse("HOST_SYNTAX", "the host may not be percent-encoded");
    }
    let Some(port) = url.port_or_known_default() else {
        return refuse("PORT", "the URL has no port");
    };
    if matches!(host, Host::Name(_)) {
        check_port(policy, https, port)?;
    }
    assemble(&url, https, host, port)
}

const USERINFO_TEXT: &str =
    "the URL may not hold a user name or password; use a connector for credentials";

/// What must hold before the parser sees it. Answers the part between `//` and the path.
fn check_raw<'a>(policy: &UrlPolicy, raw: &'a str) -> Result<&'a str, UrlRefused> {
    if raw.len() > URL_BYTES_MAX {
        return refuse(
            "URL_LENGTH",
            format!(
                "the URL has {} bytes; at most {URL_BYTES_MAX} are allowed",
                raw.len()
            ),
        );
    }
    if raw.bytes().any(|b| b < 0x21 || b == 0x7f || b == b'\\') {
        return refuse(
            "URL_CHARS",
            "the URL may not hold spaces, control characters or backslashes; percent-encode them",
        );
    }
    let Some((scheme, rest)) = raw.split_once(':') else {
        return refuse("URL_PARSE", "the URL must begin with https://");
    };
    if scheme.is_empty() || scheme.contains(['/', '?', '#']) {
        return refuse("URL_PARSE", "the URL must begin with https://");
    }
    if scheme.eq_ignore_ascii_case("http") && !policy.config.allow_http {
        return refuse(
            "SCHEME",
            "plain http is not allowed; use https (an operator may set outgoing.allow_http)",
        );
    }
    if !scheme.eq_ignore_ascii_case("https") && !scheme.eq_ignore_ascii_case("http") {
        return refuse("SCHEME", "only https URLs can be requested");
    }
    let Some(rest) = rest.strip_prefix("//") else {
        return refuse("URL_CHARS", "the scheme must be followed by exactly //");
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.is_empty() {
        return refuse("URL_CHARS", "the scheme must be followed by // and a host");
    }
    if authority.find('@').is_some_and(|at| at > 0) {
        return refuse("USERINFO", USERINFO_TEXT);
    }
    if raw.contains('#') {
        return refuse("FRAGMENT", "the URL may not have a fragment (#…)");
    }
    Ok(authority)
}

/// Judges the parsed host and puts its normal form into the URL.
fn check_host(policy: &UrlPolicy, url: &mut url::Url) -> Result<Host, UrlRefused> {
    let name = match url.host() {
        None => return refuse("URL_PARSE", "the URL has no host"),
        Some(url::Host::Ipv4(v4)) => return check_literal(policy, IpAddr::V4(v4)),
        Some(url::Host::Ipv6(v6)) => return check_literal(policy, IpAddr::V6(v6)),
        Some(url::Host::Domain(name)) => name.to_owned(),
    };
    let stripped = name.strip_suffix('.').unwrap_or(&name);
    if stripped == "localhost" && policy.loopback().next().is_some() {
        set_host(url, stripped, &name)?;
        return Ok(Host::Localhost);
    }
    check_name(policy, stripped)?;
    set_host(url, stripped, &name)?;
    Ok(Host::Name(stripped.to_owned()))
}

fn set_host(url: &mut url::Url, stripped: &str, name: &str) -> Result<(), UrlRefused> {
    if stripped != name && url.set_host(Some(stripped)).is_err() {
        return refuse("URL_PARSE", "the host cannot be read");
    }
    Ok(())
}

fn check_literal(policy: &UrlPolicy, address: IpAddr) -> Result<Host, UrlRefused> {
    if policy.exempts(address) {
        return Ok(Host::Address(address));
    }
    match policy.address_verdict(address) {
        Err(refused) => refuse(
            refused.code,
            "the URL names an address that may not be reached; use a public host name",
        ),
        Ok(()) => refuse(
            "IP_LITERAL",
            "the URL names an address; use a host name (an operator may exempt networks with outgoing.allow_addresses)",
        ),
    }
}

/// The rules for names. `name` is lower-case, without a trailing dot, international labels in their ASCII form.
fn check_name(policy: &UrlPolicy, name: &str) -> Result<(), UrlRefused> {
    if name.is_empty() || name.len() > HOST_BYTES_MAX {
        return refuse("HOST_SYNTAX", "the host name must have 1 to 253 characters");
    }
    for label in name.split('.') {
        if label.is_empty() || label.len() > LABEL_BYTES_MAX {
            return refuse(
                "HOST_SYNTAX",
                "each part of the host name must have 1 to 63 characters",
            );
        }
        let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
        if !label.bytes().all(ok) {
            return refuse(
                "HOST_SYNTAX",
                "the host name may hold only letters, digits, '-', '_' and '.'",
            );
        }
    }
    if below(name, "localhost") {
        return refuse(
            "HOST_LOCALHOST",
            "localhost is this machine; use a public host name (an operator may exempt 127.0.0.0/8 with outgoing.allow_addresses)",
        );
    }
    if !name.contains('.') {
        return refuse(
            "HOST_SINGLE_LABEL",
            "the host name must be complete, with a domain",
        );
    }
    if let Some(suffix) = SUFFIXES_DENIED.iter().find(|s| below(name, s)) {
        return refuse(
            "HOST_SUFFIX",
            format!("names below .{suffix} are not public; use a public host name"),
        );
    }
    let own = policy.config.own_names.iter();
    if own.map(|n| n.to_ascii_lowercase()).any(|n| below(name, &n)) {
        return refuse("HOST_OWN", "the host name is that of this service itself");
    }
    Ok(())
}

/// Whether `name` is `suffix` or lies below it.
fn below(name: &str, suffix: &str) -> bool {
    name.strip_suffix(suffix)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn check_port(policy: &UrlPolicy, https: bool, port: u16) -> Result<(), UrlRefused> {
    let allowed = match &policy.config.ports {
        Some(ports) => ports.contains(&port),
        None => {
            port == if https { 443 } else { 80 } || (port >= 1024 && !PORTS_DENIED.contains(&port))
        }
    };
    if allowed {
        return Ok(());
    }
    refuse(
        "PORT",
        format!(
            "port {port} may not be requested; use 443 or one from 1024 on that is not known for another service"
        ),
    )
}

/// Makes the target, if both libraries that read URLs agree on what this one means.
fn assemble(url: &url::Url, https: bool, host: Host, port: u16) -> Result<Target, UrlRefused> {
    let text = url.as_str();
    if text.len() > URL_BYTES_MAX {
        return refuse(
            "URL_LENGTH",
            format!("the URL has more than {URL_BYTES_MAX} bytes once it is percent-encoded"),
        );
    }
    let Some(host_text) = url.host_str() else {
        return refuse("URL_PARSE", "the URL has no host");
    };
    let path = &url[url::Position::BeforePath..];
    let ambiguous = || UrlRefused {
        code: "URL_AMBIGUOUS",
        text: "the URL can be understood in more than one way; percent-encode unusual characters"
            .into(),
    };
    let uri: http::Uri = text.parse().map_err(|_| ambiguous())?;
    let default_port = if https { 443 } else { 80 };
    let agree = uri.host() == Some(host_text)
        && uri.port_u16().unwrap_or(default_port) == port
        && uri.scheme_str() == Some(url.scheme())
        && uri.path_and_query().map(http::uri::PathAndQuery::as_str) == Some(path);
    let Some(path) = uri.path_and_query().filter(|_| agree).cloned() else {
        return Err(ambiguous());
    };
    let mut authority = host_text.to_owned();
    if port != default_port {
        write!(authority, ":{port}").expect("writing to a string");
    }
    let host_header = HeaderValue::from_str(&authority).map_err(|_| ambiguous())?;
    let mut path_uri = http::uri::Parts::default();
    path_uri.path_and_query = Some(path);
    Ok(Target(Arc::new(TargetParts {
        url: text.to_owned(),
        https,
        host,
        port,
        origin: Arc::from(format!("{}://{host_text}:{port}", url.scheme())),
        path: http::Uri::from_parts(path_uri).map_err(|_| ambiguous())?,
        host_header,
    })))
}
