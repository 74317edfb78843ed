//! What goes wrong in TLS: handshakes that come to nothing, and certificates that are not good enough.

use hookline_model::outcome::ErrorClass::*;
use hookline_tests::chaos::tls::Certificate;
use hookline_tests::chaos::{Script, Step};

use super::Expect::Failed;
use super::{Case, LONG, case, ms, say, with};

/// What a server says first that settles on this version and these methods, with nothing of what came since.
fn server_hello(version: [u8; 2], suite: [u8; 2]) -> Step {
    let rest = [&[7; 32][..], &[0], &suite[..], &[0]].concat();
    let mut said = vec![0x16, version[0], version[1], 0, 42, 2, 0, 0, 38];
    said.extend(version);
    said.extend(rest);
    Step::Say(said)
}

/// RSA for the keys, AES-128-CBC, SHA-1: what old servers have.
const RSA_KEY_EXCHANGE: [u8; 2] = [0x00, 0x2f];

pub(super) fn handshakes() -> Vec<Case> {
    let alert = |name, description: u8, classes| {
        let bytes = vec![0x15, 0x03, 0x03, 0x00, 0x02, 0x02, description];
        case(
            "E23",
            name,
            Script::AtOnce(vec![Step::Say(bytes), Step::Close]),
            Failed(classes),
        )
        .secure()
    };
    let speaks = |number, name, steps, classes| {
        case(number, name, Script::AtOnce(steps), Failed(classes)).secure()
    };
    vec![
        speaks("E03", "no-tls", vec![Step::Hang], &[Timeout]),
        speaks(
            "E03",
            "no-tls-long",
            vec![Step::Hang],
            &[TlsHandshakeTimeout],
        )
        .deadline(LONG),
        speaks(
            "E03",
            "drips-tls",
            vec![Step::Drip(vec![0x16, 0x03, 0x03, 0x40, 0x00, 0x02], ms(50))],
            &[Timeout, TlsProtocol],
        ),
        speaks(
            "E03",
            "speaks-http",
            vec![say(with("400 Bad Request", "")), Step::Close],
            &[TlsProtocol],
        ),
        speaks("E23", "closes-in-tls", vec![Step::Close], &[ConnClosed]),
        speaks(
            "E23",
            "resets-in-tls",
            vec![Step::Pause(ms(50)), Step::Reset],
            &[ConnReset],
        ),
        speaks(
            "E23",
            "floods-tls",
            vec![Step::Flood(vec![
                0x16, 0x03, 0x03, 0x3f, 0xff, 0x02, 0xff, 0xff, 0xff,
            ])],
            &[TlsProtocol],
        ),
        alert("no-common-cipher", 40, &[TlsNoCommonCipher]),
        alert("old-protocol", 70, &[TlsProtocol]),
        alert("wants-a-certificate", 116, &[TlsClientCertRequired]),
        alert("knows-no-such-name", 112, &[TlsProtocol]),
        // Servers that know nothing newer do not refuse, but answer with what they have.
        speaks(
            "E23",
            "old-version-chosen",
            vec![server_hello([3, 1], RSA_KEY_EXCHANGE), Step::Hang],
            &[TlsProtocol],
        )
        .says("ServerDoesNotSupportTls12Or13"),
        speaks(
            "E23",
            "rsa-key-exchange-chosen",
            vec![server_hello([3, 3], RSA_KEY_EXCHANGE), Step::Hang],
            &[TlsProtocol],
        )
        .says("SelectedUnofferedCipherSuite"),
    ]
}

/// None of them gets a request, not even by a second try in another way.
pub(super) fn certificates() -> Vec<Case> {
    let shows = |number, name, certificate, classes| {
        case(number, name, Script::Tls(certificate), Failed(classes))
    };
    vec![
        shows(
            "E23",
            "self-signed",
            Certificate::self_signed(),
            &[TlsUnknownCa],
        ),
        shows(
            "E23",
            "of-a-stranger",
            Certificate::of_a_stranger(),
            &[TlsUnknownCa],
        ),
        shows("E23", "expired", Certificate::expired(), &[TlsExpired]),
        shows(
            "E23",
            "not-yet-valid",
            Certificate::not_yet_valid(),
            &[TlsNotYetValid],
        ),
        shows(
            "E23",
            "of-another-name",
            Certificate::of_another_name(),
            &[TlsNameMismatch],
        ),
        shows(
            "E23",
            "common-name-only",
            Certificate::with_common_name_only(),
            &[TlsNameMismatch],
        ),
        shows(
            "E23",
            "signed-with-sha1",
            Certificate::signed_with_sha1(),
            &[TlsProtocol],
        )
        .says("UnsupportedSignatureAlgorithm"),
        shows(
            "E25",
            "http2-only",
            Certificate::for_http2_only(),
            &[TlsProtocol],
        )
        .says("NoApplicationProtocol"),
    ]
}
