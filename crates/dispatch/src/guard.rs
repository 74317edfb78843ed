//! Where requests may go: the policy for URLs and the verdict on addresses.
//!
//! Both are pure. [`UrlPolicy::check`] judges the raw text of a URL, at registration and again before each attempt, and is the only maker
//! of a [`Target`]. [`UrlPolicy::address_verdict`] judges an address; the client asks it at the socket, after resolution, for every address
//! a name resolves to. A URL that passes here says nothing yet about the addresses behind its name.

mod address;
#[cfg(test)]
mod tests;
mod url_rules;

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderValue;
use ipnet::IpNet;

/// What the operator lets pass or forbids beyond the fixed rules.
#[derive(Debug, Clone, Default)]
pub struct UrlPolicyConfig {
    /// Plain `http://` endpoints are allowed.
    pub allow_http: bool,
    /// Networks exempt from the address rules; IP literals and any port inside them pass.
    pub allow_addresses: Vec<IpNet>,
    /// Networks that are never reached, whatever else is allowed: put the operator's own public addresses here.
    pub deny_addresses: Vec<IpNet>,
    /// Exactly these ports; `None` is 443 and everything from 1024 on but well-known services of other kinds.
    pub ports: Option<BTreeSet<u16>>,
    /// The engine's own host names, which are refused together with everything below them.
    pub own_names: Vec<String>,
    /// `64:ff9b::/96` leads to IPv4 by way of a translator here: judge it by the embedded address.
    pub nat64: bool,
}

/// A setting of the policy that would switch the guard off.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlPolicyError {
    /// An exempt network that is everything.
    #[error(
        "allow_addresses: {network} is every address and would switch the guard off; name the networks that are meant, e.g. 127.0.0.0/8"
    )]
    AllowsEverything {
        /// The network as configured.
        network: IpNet,
    },
    /// An empty list of ports.
    #[error(
        "ports: an empty list forbids every endpoint; leave it out for the default, or name at least 443"
    )]
    NoPorts,
}

/// Which URLs and addresses may be requested.
#[derive(Debug, Clone)]
pub struct UrlPolicy {
    config: Arc<UrlPolicyConfig>,
}

/// Why a URL is refused as such. Trying again is useless; the URL must be changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct UrlRefused {
    /// From a closed list, for machines: `SCHEME`, `USERINFO`, `PORT`, `HOST_SUFFIX`, `IP_LOOPBACK` …
    pub code: &'static str,
    /// What is wrong and what would be right, for people.
    pub text: String,
}

/// Why an address is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an address of this kind may not be reached ({code})")]
pub struct AddressRefused {
    /// From a closed list, for machines: `IP_LOOPBACK`, `IP_PRIVATE` …
    pub code: &'static str,
}

/// A URL that passed the policy, in normal form and taken apart for the client. Cheap to clone.
#[derive(Clone)]
pub struct Target(Arc<TargetParts>);

/// The host of a target.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Host {
    /// A name to be resolved.
    Name(String),
    /// An address written in the URL.
    Address(IpAddr),
    /// `localhost`, which is loopback by definition and is never looked up.
    Localhost,
}

struct TargetParts {
    url: String,
    https: bool,
    host: Host,
    port: u16,
    /// Scheme, host and port: what connections are pooled by.
    origin: Arc<str>,
    /// The request line's target.
    path: http::Uri,
    host_header: HeaderValue,
}

impl UrlPolicy {
    /// Checks the settings.
    ///
    /// # Errors
    /// When one of them would switch the guard off or forbid everything.
    pub fn new(config: UrlPolicyConfig) -> Result<Self, UrlPolicyError> {
        if let Some(network) = config.allow_addresses.iter().find(|n| n.prefix_len() == 0) {
            return Err(UrlPolicyError::AllowsEverything { network: *network });
        }
        if config.ports.as_ref().is_some_and(BTreeSet::is_empty) {
            return Err(UrlPolicyError::NoPorts);
        }
        Ok(Self {
            config: Arc::new(config),
        })
    }

    /// Judges the raw text of a URL and takes it apart.
    ///
    /// # Errors
    /// When it may not be requested, with the reason.
    pub fn check(&self, raw: &str) -> Result<Target, UrlRefused> {
        url_rules::check(self, raw)
    }

    /// Judges an address to which a connection is about to be made.
    ///
    /// # Errors
    /// When it may not be reached, with the reason.
    pub fn address_verdict(&self, address: IpAddr) -> Result<(), AddressRefused> {
        address::verdict(&self.config, address)
    }

    /// Whether the address lies in a network that the operator exempted and did not deny.
    #[must_use]
    pub fn exempts(&self, address: IpAddr) -> bool {
        address::exempt(&self.config, address)
    }

    /// The loopback addresses that the operator exempted: what `localhost` means here.
    pub(crate) fn loopback(&self) -> impl Iterator<Item = IpAddr> + '_ {
        [
            IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
            IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
        ]
        .into_iter()
        .filter(|a| self.exempts(*a))
    }
}

impl Target {
    /// The URL in normal form: what is stored and shown.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.0.url
    }

    /// Scheme, host and port as one text: the destination that caps and connections are counted by.
    #[must_use]
    pub fn origin(&self) -> &Arc<str> {
        &self.0.origin
    }

    /// Whether the request is encrypted.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.0.https
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.0.port
    }

    /// Whether the URL itself says that it lies inside `allow_addresses` (an address, or `localhost`).
    #[must_use]
    pub fn is_exempt(&self) -> bool {
        // A literal that is not exempt never becomes a target.
        !matches!(self.0.host, Host::Name(_))
    }

    /// Where this leads to, shown as `other`: what this has beyond that is a secret.
    pub(crate) fn shown_as(&self, other: &Self) -> Self {
        let parts = &*self.0;
        Self(Arc::new(TargetParts {
            url: other.0.url.clone(),
            https: parts.https,
            host: parts.host.clone(),
            port: parts.port,
            origin: Arc::clone(&parts.origin),
            path: parts.path.clone(),
            host_header: parts.host_header.clone(),
        }))
    }

    pub(crate) fn host(&self) -> &Host {
        &self.0.host
    }

    pub(crate) fn path(&self) -> &http::Uri {
        &self.0.path
    }

    pub(crate) fn host_header(&self) -> &HeaderValue {
        &self.0.host_header
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Target").field(&self.0.url).finish()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.url)
    }
}

impl PartialEq for Target {
    fn eq(&self, other: &Self) -> bool {
        self.0.url == other.0.url
    }
}

impl Eq for Target {}
