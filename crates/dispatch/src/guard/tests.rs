use std::net::IpAddr;

use proptest::prelude::*;

use super::*;

fn policy(config: UrlPolicyConfig) -> UrlPolicy {
    UrlPolicy::new(config).expect("settings")
}

fn strict() -> UrlPolicy {
    policy(UrlPolicyConfig::default())
}

fn local() -> UrlPolicy {
    policy(UrlPolicyConfig {
        allow_http: true,
        allow_addresses: vec!["127.0.0.0/8".parse().expect("network")],
        ..UrlPolicyConfig::default()
    })
}

fn code(policy: &UrlPolicy, url: &str) -> &'static str {
    policy.check(url).map_or_else(|e| e.code, |_| "OK")
}

/// Takes the JSON escapes of the case file back.
fn unescape(text: &str) -> String {
    text.replace("\\t", "\t")
        .replace("\\r", "\r")
        .replace("\\n", "\n")
        .replace("\\\\", "\\")
}

#[test]
fn every_known_case_gets_its_verdict() {
    let policy = strict();
    let mut seen = 0;
    for line in include_str!("cases.tsv").lines().skip(1) {
        let [id, url, verdict, reason] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("four columns: {line}");
        };
        seen += 1;
        let answer = policy.check(&unescape(url));
        match verdict {
            "ALLOW" => assert!(answer.is_ok(), "{id} {url}: {answer:?}"),
            "ALLOW?" => {}
            "DENY@resolve" => {
                assert!(answer.is_ok(), "{id} {url}: {answer:?}");
                let address = "169.254.169.254".parse().expect("address");
                assert_eq!(
                    policy.address_verdict(address).map_err(|e| e.code),
                    Err("IP_LINK_LOCAL")
                );
            }
            "DENY" => {
                let refused = answer.expect_err(&format!("{id} {url} must be refused"));
                let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
                let expected = reason
                    .split('|')
                    .map(|r| r.split(word).next().unwrap_or_default());
                assert!(
                    expected.clone().any(|r| r == refused.code),
                    "{id} {url}: {} instead of {reason}",
                    refused.code
                );
                assert!(!refused.text.is_empty());
            }
            other => panic!("{id}: verdict {other}"),
        }
    }
    assert_eq!(seen, 88);
}

#[test]
fn neighbours_of_the_url_rules() {
    let policy = strict();
    for (url, expected) in [
        ("https://example.com", "OK"),
        ("HTTPS://EXAMPLE.COM/Hook?a=1&b={c}", "OK"),
        ("https://example.com:443/", "OK"),
        ("https://example.com:8443/", "OK"),
        ("https://example.com:80/", "PORT"),
        ("https://example.com:1023/", "PORT"),
        ("https://example.com:1024/", "OK"),
        ("https://example.com:10250/", "PORT"),
        ("https://example.com:65535/", "OK"),
        ("https://example.com:65536/", "URL_PARSE"),
        ("http://example.com/", "SCHEME"),
        ("ftp://example.com/", "SCHEME"),
        ("example.com", "URL_PARSE"),
        ("", "URL_PARSE"),
        ("https:example.com/", "URL_CHARS"),
        ("https://", "URL_CHARS"),
        ("https://?x", "URL_CHARS"),
        ("https://a:b@example.com/", "USERINFO"),
        ("https://@example.com/", "USERINFO"),
        ("https://example.com/#top", "FRAGMENT"),
        ("https://example.com/#", "FRAGMENT"),
        ("https://example.com/a b", "URL_CHARS"),
        ("https://example.com/\u{7f}", "URL_CHARS"),
        ("https://example.com/\u{e9}", "OK"),
        ("https://ex%61mple.com/", "HOST_SYNTAX"),
        ("https://example/", "HOST_SINGLE_LABEL"),
        ("https://a.b.localhost./", "HOST_LOCALHOST"),
        ("https://notlocalhost.com/", "OK"),
        ("https://mylocal/", "HOST_SINGLE_LABEL"),
        ("https://x.mylocal.com/", "OK"),
        ("https://a.home.arpa/", "HOST_SUFFIX"),
        ("https://1.0.0.10.in-addr.arpa/", "HOST_SUFFIX"),
        ("https://x.svc.cluster.local./", "HOST_SUFFIX"),
        ("https://under_score.example.com/", "OK"),
        ("https://ex!ample.com/", "HOST_SYNTAX"),
        ("https://example.com../", "HOST_SYNTAX"),
        ("https://.example.com/", "HOST_SYNTAX"),
        ("https://168.63.129.16/", "IP_CLOUD_HOST"),
        ("https://168.63.129.17/", "IP_LITERAL"),
        ("https://127.0.0.1./", "IP_LOOPBACK"),
        ("https://[2606:4700::1]/", "IP_LITERAL"),
    ] {
        assert_eq!(code(&policy, url), expected, "{url}");
    }
    let long = format!("https://example.com/{}", "a".repeat(2048 - 20));
    assert_eq!(code(&policy, &long), "OK");
    assert_eq!(code(&policy, &format!("{long}a")), "URL_LENGTH");
    let grows = format!("https://example.com/{}", "<".repeat(1000));
    assert_eq!(code(&policy, &grows), "URL_LENGTH");
    let host = format!("https://{}.com/", "a.".repeat(125));
    assert_eq!(code(&policy, &host), "HOST_SYNTAX");
}

#[test]
fn a_target_is_in_normal_form() {
    let target = strict()
        .check("https://B\u{fc}cher.Example.:8443/a/../b?q=<x>")
        .expect("allowed");
    assert_eq!(
        target.url(),
        "https://xn--bcher-kva.example:8443/b?q=%3Cx%3E"
    );
    assert_eq!(&**target.origin(), "https://xn--bcher-kva.example:8443");
    assert_eq!(target.host_header(), "xn--bcher-kva.example:8443");
    assert_eq!(target.path().to_string(), "/b?q=%3Cx%3E");
    assert!(target.is_https() && !target.is_exempt());
    let plain = strict().check("https://example.com").expect("allowed");
    assert_eq!(plain.host_header(), "example.com");
    assert_eq!(plain.path().to_string(), "/");
    assert_eq!(plain.port(), 443);
}

#[test]
fn what_the_operator_exempts_passes_and_nothing_else() {
    let policy = local();
    for (url, expected) in [
        ("http://127.0.0.1:8080/", "OK"),
        ("http://127.1:22/", "OK"),
        ("https://127.3.2.1:6379/", "OK"),
        ("http://localhost:25/x", "OK"),
        ("http://LOCALHOST./x", "OK"),
        ("http://a.localhost/", "HOST_LOCALHOST"),
        ("http://example.com/", "OK"),
        ("http://example.com:8080/", "OK"),
        ("http://example.com:25/", "PORT"),
        ("http://10.0.0.1/", "IP_PRIVATE"),
        ("http://[::1]/", "IP_LOOPBACK"),
        ("http://[::ffff:127.0.0.1]/", "IP_V4_MAPPED"),
        ("http://user@127.0.0.1/", "USERINFO"),
        ("ftp://127.0.0.1/", "SCHEME"),
    ] {
        assert_eq!(code(&policy, url), expected, "{url}");
    }
    let target = policy.check("http://localhost:25/x").expect("allowed");
    assert_eq!(target.host(), &Host::Localhost);
    assert!(target.is_exempt());
    assert_eq!(target.host_header(), "localhost:25");
}

#[test]
fn denied_networks_names_and_exact_ports() {
    let policy = policy(UrlPolicyConfig {
        allow_addresses: vec!["10.0.0.0/8".parse().expect("network")],
        deny_addresses: vec![
            "10.1.0.0/16".parse().expect("network"),
            "8.8.8.0/24".parse().expect("network"),
        ],
        ports: Some([443, 9200].into()),
        own_names: vec!["Hooks.Example.com".into()],
        ..UrlPolicyConfig::default()
    });
    let verdict = |a: &str| {
        policy
            .address_verdict(a.parse::<IpAddr>().expect("address"))
            .map_err(|e| e.code)
    };
    assert_eq!(verdict("10.0.0.1"), Ok(()));
    assert_eq!(verdict("10.1.0.1"), Err("IP_DENIED"));
    assert_eq!(verdict("8.8.8.8"), Err("IP_DENIED"));
    assert_eq!(verdict("8.8.9.8"), Ok(()));
    assert_eq!(code(&policy, "https://example.com:9200/"), "OK");
    assert_eq!(code(&policy, "https://example.com:8443/"), "PORT");
    assert_eq!(code(&policy, "https://10.0.0.1:8443/"), "OK");
    assert_eq!(code(&policy, "https://hooks.example.com/"), "HOST_OWN");
    assert_eq!(code(&policy, "https://a.hooks.example.com/"), "HOST_OWN");
    assert_eq!(code(&policy, "https://ahooks.example.com/"), "OK");
}

#[test]
fn exempting_everything_is_refused() {
    for network in ["0.0.0.0/0", "::/0"] {
        let config = UrlPolicyConfig {
            allow_addresses: vec![network.parse().expect("network")],
            ..UrlPolicyConfig::default()
        };
        assert!(matches!(
            UrlPolicy::new(config),
            Err(UrlPolicyError::AllowsEverything { .. })
        ));
    }
    let config = UrlPolicyConfig {
        ports: Some(BTreeSet::new()),
        ..UrlPolicyConfig::default()
    };
    assert_eq!(UrlPolicy::new(config).err(), Some(UrlPolicyError::NoPorts));
}

#[test]
fn edges_of_the_address_rules() {
    let policy = strict();
    for (address, expected) in [
        ("0.255.255.255", "IP_THIS_NETWORK"),
        ("1.0.0.0", "OK"),
        ("9.255.255.255", "OK"),
        ("11.0.0.0", "OK"),
        ("100.63.255.255", "OK"),
        ("100.127.255.255", "IP_CGN"),
        ("100.128.0.0", "OK"),
        ("126.255.255.255", "OK"),
        ("128.0.0.0", "OK"),
        ("168.63.129.15", "OK"),
        ("169.253.255.255", "OK"),
        ("172.15.255.255", "OK"),
        ("172.32.0.0", "OK"),
        ("192.0.1.0", "OK"),
        ("192.0.3.0", "OK"),
        ("192.88.99.1", "IP_6TO4_RELAY"),
        ("198.17.255.255", "OK"),
        ("198.19.255.255", "IP_BENCH"),
        ("198.20.0.0", "OK"),
        ("223.255.255.255", "OK"),
        ("240.0.0.0", "IP_RESERVED"),
        ("255.255.255.255", "IP_BROADCAST"),
        ("::", "IP_UNSPECIFIED"),
        ("1fff:ffff::1", "NOT_GLOBAL_UNICAST"),
        ("2000::", "OK"),
        ("2001:1ff::1", "IP_IETF"),
        ("2001:200::1", "OK"),
        ("2001:db9::1", "OK"),
        ("2003::1", "OK"),
        ("3fff:fff::1", "IP_DOC"),
        ("3fff:1000::1", "OK"),
        ("4000::1", "NOT_GLOBAL_UNICAST"),
        ("ff02::1", "IP_MULTICAST"),
        ("64:ff9b::808:808", "IP_NAT64"),
    ] {
        let verdict = policy.address_verdict(address.parse().expect("address"));
        assert_eq!(
            verdict.map_or_else(|e| e.code, |()| "OK"),
            expected,
            "{address}"
        );
    }
}

#[test]
fn a_translator_is_judged_by_the_embedded_address() {
    let policy = policy(UrlPolicyConfig {
        nat64: true,
        ..UrlPolicyConfig::default()
    });
    let verdict = |a: &str| policy.address_verdict(a.parse().expect("address")).is_ok();
    assert!(verdict("64:ff9b::808:808"));
    assert!(!verdict("64:ff9b::7f00:1"));
    assert!(!verdict("64:ff9b:1::808:808"));
}

/// A slow second opinion, by what the standard library knows.
fn surely_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => {
            a.is_private()
                || a.is_loopback()
                || a.is_link_local()
                || a.is_unspecified()
                || a.is_broadcast()
                || a.is_multicast()
                || a.is_documentation()
        }
        IpAddr::V6(a) => {
            a.is_loopback()
                || a.is_unspecified()
                || a.is_multicast()
                || a.is_unique_local()
                || a.is_unicast_link_local()
                || a.to_ipv4().is_some()
        }
    }
}

/// What holds of every text, whatever it is.
fn hold(text: &str) {
    if let Ok(target) = strict().check(text) {
        assert!(matches!(target.host(), Host::Name(_)), "{text:?}: {target}");
        // What was accepted is accepted again, and means the same; and the parts that are used are those that others would read.
        assert_eq!(strict().check(target.url()), Ok(target.clone()), "{text:?}");
        let parsed = url::Url::parse(target.url()).expect("normal form");
        let port = parsed.port_or_known_default();
        assert!(
            matches!(parsed.host(), Some(url::Host::Domain(_))),
            "{text:?}"
        );
        assert_eq!(port, Some(target.port()), "{text:?}");
        let uri: http::Uri = target.url().parse().expect("normal form");
        assert_eq!(uri.host(), parsed.host_str(), "{text:?}");
    }
    if let Ok(target) = local().check(text)
        && let Host::Address(address) = target.host()
    {
        assert!(address.is_loopback(), "{text:?}");
    }
}

/// Known cases and good URLs, cut, joined and changed at random. `HOOKLINE_FUZZ_SECONDS` goes on for longer, each time with other texts; a text
/// for which something does not hold is shown.
#[test]
fn mutated_cases_never_slip_through() {
    const PIECES: [&str; 24] = [
        "@",
        ":",
        "/",
        "//",
        "\\",
        "#",
        "?",
        "%",
        "%2e",
        "%00",
        "[",
        "]",
        "::",
        ".",
        "。",
        "\t",
        "\n",
        "127.0.0.1",
        "0x7f",
        "localhost",
        "https://",
        "http:",
        "xn--",
        "ⓔ",
    ];
    let mut corpus: Vec<String> = include_str!("cases.tsv")
        .lines()
        .skip(1)
        .filter_map(|line| Some(unescape(line.split('\t').nth(1)?)))
        .collect();
    corpus.push("https://hooks.example.com:8443/a/b?c=d".into());
    let longer = std::env::var("HOOKLINE_FUZZ_SECONDS");
    let longer = longer.ok().and_then(|text| text.parse().ok());
    let (seed, times) = match longer {
        Some(_) => (fastrand::u64(..), u64::MAX),
        None => (1, 100_000),
    };
    let until = tokio::time::Instant::now() + std::time::Duration::from_secs(longer.unwrap_or(600));
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..times {
        let mut text: Vec<char> = random.choice(&corpus).expect("some").chars().collect();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..=text.len());
            match random.u8(..4) {
                0 => {
                    let piece: Vec<char> = random.choice(PIECES).expect("some").chars().collect();
                    text.splice(at..at, piece);
                }
                1 => {
                    let end = random.usize(at..=text.len());
                    text.drain(at..end);
                }
                2 => text.splice(at..at, [random.char(..)]).for_each(drop),
                _ => {
                    let other: Vec<char> = random.choice(&corpus).expect("some").chars().collect();
                    let from = random.usize(..=other.len());
                    text.truncate(at);
                    text.extend(&other[from..]);
                }
            }
        }
        let text: String = text.into_iter().collect();
        hold(&text);
        if strict().check(&text).is_ok() && corpus.len() < 10_000 {
            corpus.push(text);
        }
        if tokio::time::Instant::now() > until {
            break;
        }
    }
}

proptest! {
    #[test]
    fn no_text_panics_and_no_address_slips_through(
        text in prop_oneof![
            ".{0,80}",
            "https?://[0-9a-fx.:\\[\\]@%\\\\/#?]{0,40}",
            "https://[a-zA-Z0-9.\u{3002}_%-]{1,30}(:[0-9]{1,6})?/.{0,20}",
        ]
    ) {
        hold(&text);
    }

    #[test]
    fn private_addresses_are_refused(bits4: u32, bits6: u128) {
        for address in [IpAddr::V4(bits4.into()), IpAddr::V6(bits6.into())] {
            if surely_private(address) {
                prop_assert!(strict().address_verdict(address).is_err(), "{}", address);
            }
        }
    }

    #[test]
    fn every_spelling_of_a_private_address_is_refused(bits: u32, which in 0..4_u8) {
        let address = std::net::Ipv4Addr::from(bits);
        let [a, b, c, d] = address.octets();
        let url = match which {
            0 => format!("https://{bits}/"),
            1 => format!("https://{bits:#x}/"),
            2 => format!("https://0{a:o}.{b}.{c:#x}.{d}/"),
            _ => format!("https://[::ffff:{address}]/"),
        };
        prop_assert!(strict().check(&url).is_err());
    }
}
