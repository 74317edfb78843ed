//! Answers that are too much, or no answers at all.

use hookline_model::outcome::ErrorClass::*;
use hookline_tests::chaos::Step;

use super::*;

/// A whole gzip file, which holds 64 KiB of zeros. Many of them in a row are a gzip file, too.
const GZIP: &str = "1f8b0800000000000203edc101010000008090feafee080a0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000006aeb8e97d700000100";

fn bomb() -> Vec<u8> {
    let digits = GZIP.as_bytes().chunks(2);
    let one: Vec<u8> = digits
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect();
    one.repeat(200)
}

pub(super) fn floods() -> Vec<Case> {
    use Expect::{Delivered, Failed, Status};
    let much = vec![b'x'; 64 * 1024];
    let chunk = [b"1000\r\n".as_slice(), &[b'x'; 4096], b"\r\n"].concat();
    let flood = |head: &str, bytes: &[u8]| steps(vec![say(head), Step::Flood(bytes.to_vec())]);
    let extension = format!("1;{}\r\nx\r\n", "e".repeat(195));
    let trailers = "X-Trailer: y\r\n".repeat(1000);
    let gzip = |encoding: &str| {
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Encoding: {encoding}\r\nContent-Length: {}\r\n\r\n",
            bomb().len()
        );
        answers([head.into_bytes(), bomb()].concat())
    };
    let first_of_bomb = bomb()[..16 * 1024].to_vec();
    vec![
        case(
            "E06",
            "endless-body",
            flood("HTTP/1.1 200 OK\r\n\r\n", &much),
            Delivered(200),
        )
        .cut()
        .kept(&much[..16 * 1024]),
        case(
            "E06",
            "endless-chunks",
            flood(CHUNKED, &chunk),
            Delivered(200),
        )
        .cut()
        .kept(&much[..16 * 1024]),
        case(
            "E06",
            "endless-error",
            flood("HTTP/1.1 500 x\r\n\r\n", &much),
            Status(500),
        )
        .cut(),
        case(
            "E07",
            "a-terabyte",
            flood(
                "HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n",
                &much,
            ),
            Delivered(200),
        )
        .cut()
        .kept(&much[..16 * 1024]),
        case(
            "E07",
            "a-terabyte-never-sent",
            steps(vec![
                say("HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n"),
                Step::Close,
            ]),
            Delivered(200),
        )
        .cut(),
        case(
            "E07",
            "length-beyond-64-bits",
            answers_once("HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n"),
            Failed(&[HttpProtocol]),
        ),
        case(
            "E06",
            "endless-chunk-framing",
            flood(CHUNKED, extension.as_bytes()),
            Delivered(200),
        )
        .cut(),
        case(
            "E06",
            "endless-trailers",
            flood(&format!("{CHUNKED}0\r\n"), trailers.as_bytes()),
            Delivered(200),
        )
        .cut(),
        case("E10", "gzip-bomb", gzip("gzip"), Delivered(200))
            .cut()
            .kept(&first_of_bomb),
        case("E10", "not-really-br", gzip("br"), Delivered(200))
            .cut()
            .kept(&first_of_bomb),
        case("E10", "not-really-zstd", gzip("zstd"), Delivered(200))
            .cut()
            .kept(&first_of_bomb),
    ]
}

pub(super) fn interim() -> Vec<Case> {
    use Expect::{Delivered, Failed, Status};
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n";
    let large = format!("HTTP/1.1 103 x\r\nX: {}\r\n\r\n", "a".repeat(50_000));
    vec![
        case(
            "E08",
            "10000-continues",
            steps(vec![
                say("HTTP/1.1 100 Continue\r\n\r\n".repeat(10_000)),
                Step::Hang,
            ]),
            Failed(&[TooMany1xx]),
        ),
        case(
            "E08",
            "endless-processing",
            steps(vec![Step::Flood(
                b"HTTP/1.1 102 Processing\r\n\r\n".to_vec(),
            )]),
            Failed(&[TooMany1xx]),
        ),
        case(
            "E08",
            "nine-hints",
            steps(vec![say(hints.repeat(9)), say(OK)]),
            Failed(&[TooMany1xx]),
        ),
        case(
            "E08",
            "eight-hints",
            steps(vec![say(hints.repeat(8)), say(OK)]),
            Delivered(200),
        )
        .whole(b"ok")
        .fresh(),
        case(
            "E08",
            "hints-drip",
            steps(vec![Step::Drip("HTTP/1.1 103 x\r\n\r\n".into(), ms(1))]),
            Failed(&[TooMany1xx]),
        ),
        case(
            "E08",
            "large-hints",
            steps(vec![say(large.repeat(8)), say(OK)]),
            Failed(&[HttpProtocol]),
        ),
        case(
            "E08",
            "only-a-continue",
            answers_once("HTTP/1.1 100 Continue\r\n\r\n"),
            Failed(&[ConnClosed]),
        ),
        case(
            "E08",
            "switches-protocols",
            steps(vec![
                say("HTTP/1.1 101 x\r\nKeep-Alive: timeout=60\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n\x01\x02"),
                Step::Hang,
            ]),
            Status(101),
        )
        .fresh(),
    ]
}

pub(super) fn heads() -> Vec<Case> {
    use Expect::{Delivered, Failed};
    let headers = |count: usize| {
        format!(
            "{OK_HEAD}Content-Length: 0\r\n{}\r\n",
            "X: y\r\n".repeat(count - 1)
        )
    };
    let value = |bytes: &[u8]| {
        [
            b"HTTP/1.1 200 OK\r\nX-Odd: ".as_slice(),
            bytes,
            b"\r\nContent-Length: 2\r\n\r\nok",
        ]
        .concat()
    };
    vec![
        case(
            "E09",
            "a-megabyte-of-headers",
            steps(vec![
                say(OK_HEAD),
                say(format!("X: {}\r\n", "a".repeat(10_000)).repeat(100)),
                say("\r\n"),
            ]),
            Failed(&[ResponseHeadTooLarge]),
        ),
        case(
            "E09",
            "one-large-header",
            answers(format!("{OK_HEAD}X: {}\r\n\r\n", "a".repeat(400_000))),
            Failed(&[ResponseHeadTooLarge]),
        ),
        case(
            "E09",
            "an-endless-header",
            steps(vec![
                say(OK_HEAD),
                say("X: "),
                Step::Flood(vec![b'a'; 4096]),
            ]),
            Failed(&[ResponseHeadTooLarge]),
        ),
        case(
            "E09",
            "an-endless-reason",
            steps(vec![say("HTTP/1.1 200 "), Step::Flood(vec![b'a'; 4096])]),
            Failed(&[ResponseHeadTooLarge]),
        ),
        case(
            "E09",
            "5000-headers",
            answers(headers(5000)),
            Failed(&[ResponseHeadTooLarge]),
        ),
        case(
            "E09",
            "101-headers",
            answers(headers(101)),
            Failed(&[ResponseHeadTooLarge]),
        ),
        case("E09", "100-headers", answers(headers(100)), Delivered(200)).whole(b""),
        case(
            "E17",
            "no-utf-8",
            answers(value(b"\xe9\xff\xfe")),
            Delivered(200),
        )
        .whole(b"ok"),
        case(
            "E17",
            "nul-in-a-header",
            answers(value(b"a\0b")),
            Failed(&[HttpProtocol]),
        ),
        case(
            "E17",
            "cr-in-a-header",
            answers(value(b"a\rb")),
            Failed(&[HttpProtocol]),
        ),
        case(
            "E17",
            "folded-header",
            answers(value(b"a\r\n b")),
            Delivered(200),
        )
        .whole(b"ok"),
        case(
            "E17",
            "header-without-colon",
            answers(value(b"a\r\nnonsense")),
            Delivered(200),
        )
        .whole(b"ok"),
        case(
            "E17",
            "terminal-commands",
            answers(value(b"\x1b[2J")),
            Delivered(200),
        )
        .whole(b"ok"),
    ]
}

pub(super) fn framing() -> Vec<Case> {
    use Expect::{Delivered, Failed, Status};
    let bad = |name, text: &str| case("E14", name, answers_once(text), Failed(&[HttpProtocol]));
    let ok = |name, text: &str| case("E14", name, answers(text), Delivered(200));
    vec![
        ok("length-and-chunked", "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=60\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n").whole(b"ok").fresh(),
        ok("chunked-and-length", "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=60\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n2\r\nok\r\n0\r\n\r\n").whole(b"ok").fresh(),
        ok("the-same-length-twice", "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=60\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok").whole(b"ok").fresh(),
        bad("two-lengths", "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=60\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
        bad("two-lengths-in-one", "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=60\r\nContent-Length: 1, 2\r\n\r\nab"),
        bad("negative-length", "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=60\r\nContent-Length: -1\r\n\r\n"),
        bad("plus-length", "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=60\r\nContent-Length: +2\r\n\r\nok"),
        bad("hexadecimal-length", "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=60\r\nContent-Length: 0x2\r\n\r\nok"),
        case("E14", "chunked-identity", answers_once("HTTP/1.1 200 OK\r\nKeep-Alive: timeout=60\r\nTransfer-Encoding: chunked, identity\r\n\r\nok"), Delivered(200)).whole(b"ok").fresh(),
        case("E14", "unknown-coding", answers_once("HTTP/1.1 200 OK\r\nKeep-Alive: timeout=60\r\nTransfer-Encoding: zstd\r\n\r\nok"), Delivered(200)).whole(b"ok").fresh(),
        bad("chunked-in-1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ok("bad-chunk", "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=60\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\nzzz\r\n").cut().fresh(),
        ok("huge-chunk", "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=60\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nok").cut().fresh(),
        ok("bare-line-feeds", "HTTP/1.1 200 OK\nContent-Length: 2\n\nok").whole(b"ok"),
        case("E14", "http-0.9", answers_once("ok"), Failed(&[HttpProtocol, ConnClosed])),
        bad("noise", "\0\x01\x02\x03\r\n\r\n"),
        bad("ssh", "SSH-2.0-OpenSSH_9.6\r\n\r\n"),
        bad("http-2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        bad("http-3", "HTTP/3.0 200 OK\r\nContent-Length: 0\r\n\r\n"),
        bad("lower-case-http", "http/1.1 200 ok\r\nContent-Length: 0\r\n\r\n"),
        case("E14", "http-1.0", answers_once("HTTP/1.0 200 OK\r\n\r\nuntil the end"), Delivered(200)).whole(b"until the end").fresh(),
        ok("http-1.0-keeps-alive", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nKeep-Alive: timeout=60\r\nContent-Length: 2\r\n\r\nok").whole(b"ok").fresh(),
        ok("lower-case-reason", "HTTP/1.1 200 ok\r\ncontent-length: 2\r\n\r\nok").whole(b"ok"),
        ok("no-reason", "HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok").whole(b"ok"),
        bad("status-of-four-digits", "HTTP/1.1 1000 x\r\nContent-Length: 0\r\n\r\n"),
        bad("status-of-two-digits", "HTTP/1.1 99 x\r\nContent-Length: 0\r\n\r\n"),
        bad("status-of-letters", "HTTP/1.1 abc x\r\nContent-Length: 0\r\n\r\n"),
        case("E16", "204-with-body", answers("HTTP/1.1 204 x\r\nKeep-Alive: timeout=60\r\nContent-Length: 4\r\n\r\nbody"), Delivered(204)).whole(b"").fresh(),
        case("E16", "205-with-body", answers("HTTP/1.1 205 x\r\nKeep-Alive: timeout=60\r\nContent-Length: 4\r\n\r\nbody"), Delivered(205)).whole(b"body"),
        case("E16", "304-with-body", answers("HTTP/1.1 304 x\r\nKeep-Alive: timeout=60\r\nContent-Length: 4\r\n\r\nbody"), Status(304)).whole(b"").fresh(),
    ]
}
