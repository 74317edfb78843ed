//! Which addresses may be reached. For IPv4 a list of what is denied; for IPv6 a list of what is allowed, so that no way of writing an IPv4
//! address inside an IPv6 one has to be known.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{AddressRefused, UrlPolicyConfig};

pub(super) fn exempt(config: &UrlPolicyConfig, address: IpAddr) -> bool {
    !config.deny_addresses.iter().any(|n| n.contains(&address))
        && config.allow_addresses.iter().any(|n| n.contains(&address))
}

pub(super) fn verdict(config: &UrlPolicyConfig, address: IpAddr) -> Result<(), AddressRefused> {
    if config.deny_addresses.iter().any(|n| n.contains(&address)) {
        return Err(AddressRefused { code: "IP_DENIED" });
    }
    if exempt(config, address) {
        return Ok(());
    }
    let refused = match address {
        IpAddr::V4(v4) => v4_refused(v4),
        IpAddr::V6(v6) => match nat64_embedded(v6) {
            // The translator reaches the embedded address, so that is the one to judge, by all rules.
            Some(v4) if config.nat64 => {
                return verdict(config, IpAddr::V4(v4));
            }
            _ => v6_refused(v6),
        },
    };
    refused.map_or(Ok(()), |code| Err(AddressRefused { code }))
}

/// The code of the first matching network, if it is denied.
fn v4_refused(address: Ipv4Addr) -> Option<&'static str> {
    /// Network, prefix length, code. More special ones first.
    const DENIED: [([u8; 4], u32, &str); 17] = [
        ([255, 255, 255, 255], 32, "IP_BROADCAST"),
        ([0, 0, 0, 0], 8, "IP_THIS_NETWORK"),
        ([10, 0, 0, 0], 8, "IP_PRIVATE"),
        ([100, 64, 0, 0], 10, "IP_CGN"),
        ([127, 0, 0, 0], 8, "IP_LOOPBACK"),
        // Azure's wire server stands in public space.
        ([168, 63, 129, 16], 32, "IP_CLOUD_HOST"),
        // Also the metadata services of most clouds.
        ([169, 254, 0, 0], 16, "IP_LINK_LOCAL"),
        ([172, 16, 0, 0], 12, "IP_PRIVATE"),
        ([192, 0, 0, 0], 24, "IP_IETF"),
        ([192, 0, 2, 0], 24, "IP_DOC"),
        ([192, 88, 99, 0], 24, "IP_6TO4_RELAY"),
        ([192, 168, 0, 0], 16, "IP_PRIVATE"),
        ([198, 18, 0, 0], 15, "IP_BENCH"),
        ([198, 51, 100, 0], 24, "IP_DOC"),
        ([203, 0, 113, 0], 24, "IP_DOC"),
        ([224, 0, 0, 0], 4, "IP_MULTICAST"),
        ([240, 0, 0, 0], 4, "IP_RESERVED"),
    ];
    let bits = u32::from(address);
    DENIED
        .iter()
        .find(|(network, length, _)| {
            let mask = u32::MAX << (32 - length);
            bits & mask == u32::from(Ipv4Addr::from(*network)) & mask
        })
        .map(|(_, _, code)| *code)
}

fn within(address: Ipv6Addr, network: Ipv6Addr, length: u32) -> bool {
    let mask = u128::MAX << (128 - length);
    u128::from(address) & mask == u128::from(network) & mask
}

const fn net(a: u16, b: u16, c: u16) -> Ipv6Addr {
    Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0)
}

fn nat64_embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    within(address, net(0x64, 0xff9b, 0), 96).then(|| embedded_v4(address))
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the low 32 bits are what is meant"
)]
fn embedded_v4(address: Ipv6Addr) -> Ipv4Addr {
    Ipv4Addr::from(u128::from(address) as u32)
}

/// The code when it is outside of what is allowed: `2000::/3` less the ranges in it that lead elsewhere.
fn v6_refused(address: Ipv6Addr) -> Option<&'static str> {
    const EXCEPT: [(Ipv6Addr, u32, &str); 4] = [
        (net(0x2001, 0, 0), 23, "IP_IETF"),
        (net(0x2001, 0xdb8, 0), 32, "IP_DOC"),
        (net(0x2002, 0, 0), 16, "IP_6TO4"),
        (net(0x3fff, 0, 0), 20, "IP_DOC"),
    ];
    if within(address, net(0x2000, 0, 0), 3) {
        return EXCEPT
            .iter()
            .find(|(network, length, _)| within(address, *network, *length))
            .map(|(_, _, code)| *code);
    }
    Some(v6_kind(address))
}

/// The kind of an address that is refused anyway: only the word for it.
fn v6_kind(address: Ipv6Addr) -> &'static str {
    const KINDS: [(Ipv6Addr, u32, &str); 10] = [
        (
            Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0),
            96,
            "IP_V4_MAPPED",
        ),
        (Ipv6Addr::new(0, 0, 0, 0, 0, 0x5efe, 0, 0), 96, "IP_ISATAP"),
        (Ipv6Addr::UNSPECIFIED, 96, "IP_V4_COMPAT"),
        (net(0x64, 0xff9b, 0), 96, "IP_NAT64"),
        (net(0x64, 0xff9b, 1), 48, "IP_NAT64_LOCAL"),
        (net(0xfc00, 0, 0), 7, "IP_ULA"),
        (net(0xfe80, 0, 0), 10, "IP_LINK_LOCAL"),
        (net(0xfec0, 0, 0), 10, "IP_SITE_LOCAL"),
        (net(0xff00, 0, 0), 8, "IP_MULTICAST"),
        (net(0x5f00, 0, 0), 16, "IP_SRV6"),
    ];
    if address.is_unspecified() {
        return "IP_UNSPECIFIED";
    }
    if address.is_loopback() {
        return "IP_LOOPBACK";
    }
    KINDS
        .iter()
        .find(|(network, length, _)| within(address, *network, *length))
        .map_or("NOT_GLOBAL_UNICAST", |(_, _, code)| *code)
}
