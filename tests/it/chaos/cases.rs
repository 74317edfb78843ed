//! The table: how a receiver misbehaves, and what hookline makes of it. The numbers are stable names of the kinds of misbehaviour.

mod answers;
mod tls;

use std::time::Duration;

use hookline_model::outcome::ErrorClass::{self, *};
use hookline_tests::chaos::{Script, Step};

/// What must come of each event.
#[derive(Debug, Clone)]
pub(super) enum Expect {
    /// Delivered at the first attempt, with this status.
    Delivered(u16),
    /// No attempt succeeds, and each has this status, which is a failure.
    Status(u16),
    /// No attempt gets a status, and each has one of these classes.
    Failed(&'static [ErrorClass]),
    /// The first event is delivered; the second at its second attempt, after one that failed so.
    SecondFailsOnce(&'static [ErrorClass]),
}

/// A receiver that misbehaves.
#[derive(Debug, Clone)]
pub(super) struct Case {
    pub(super) number: &'static str,
    pub(super) name: &'static str,
    pub(super) script: Script,
    pub(super) expect: Expect,
    pub(super) deadline: Duration,
    /// Asked for with TLS although the script speaks none.
    pub(super) secure: bool,
    /// Each request must come on a connection of its own.
    pub(super) fresh: bool,
    /// Whether the stored body counts as cut.
    pub(super) truncated: Option<bool>,
    /// What the stored body is.
    pub(super) body: Option<Vec<u8>>,
    /// What the sentence for people holds.
    pub(super) detail: &'static str,
    /// How long the second attempt is put off after the first, at least.
    pub(super) wait: Duration,
}

impl Case {
    fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    fn secure(mut self) -> Self {
        self.secure = true;
        self
    }

    fn fresh(mut self) -> Self {
        self.fresh = true;
        self
    }

    fn cut(mut self) -> Self {
        self.truncated = Some(true);
        self
    }

    fn whole(mut self, body: &[u8]) -> Self {
        self.truncated = Some(false);
        self.body = Some(body.to_vec());
        self
    }

    fn kept(mut self, body: &[u8]) -> Self {
        self.body = Some(body.to_vec());
        self
    }

    fn says(mut self, detail: &'static str) -> Self {
        self.detail = detail;
        self
    }

    fn waits(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// Whether it takes so long that it gets one event only.
    pub(super) fn is_slow(&self) -> bool {
        self.deadline > DEADLINE * 2
    }
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Of an attempt, unless the case says otherwise.
pub(super) const DEADLINE: Duration = ms(1000);
/// Longer than what connecting and TLS are given.
const LONG: Duration = ms(7000);
/// Before the second attempt.
pub(super) const RETRY: Duration = ms(200);
/// The longest wait that a receiver can ask for here.
pub(super) const CAP: Duration = ms(3000);

fn case(number: &'static str, name: &'static str, script: Script, expect: Expect) -> Case {
    Case {
        number,
        name,
        script,
        expect,
        deadline: DEADLINE,
        secure: false,
        fresh: false,
        truncated: None,
        body: None,
        detail: "",
        wait: RETRY,
    }
}

fn say(text: impl Into<Vec<u8>>) -> Step {
    Step::Say(text.into())
}

/// After each request these steps.
fn steps(steps: Vec<Step>) -> Script {
    Script::Requests(vec![steps])
}

/// Answers each request so and waits for the next.
fn answers(text: impl Into<Vec<u8>>) -> Script {
    steps(vec![say(text)])
}

/// Answers a request so and closes.
fn answers_once(text: impl Into<Vec<u8>>) -> Script {
    steps(vec![say(text), Step::Close])
}

/// A status line and these headers, with no body.
fn with(status_line: &str, headers: &str) -> String {
    format!("HTTP/1.1 {status_line}\r\n{headers}Content-Length: 0\r\n\r\n")
}

const OK: &str = "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=60\r\nContent-Length: 2\r\n\r\nok";
const OK_HEAD: &str = "HTTP/1.1 200 OK\r\n";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
/// Everything.
pub(super) fn all() -> Vec<Case> {
    [
        connecting(),
        silence(),
        answers::floods(),
        answers::interim(),
        answers::heads(),
        breaks(),
        answers::framing(),
        connections(),
        statuses(),
        waits(),
        tls::handshakes(),
        tls::certificates(),
    ]
    .concat()
}

fn connecting() -> Vec<Case> {
    use Expect::Failed;
    vec![
        case("E01", "refuses", Script::Refuse, Failed(&[ConnRefused])),
        case(
            "E02",
            "accepts-nobody",
            Script::Blackhole,
            Failed(&[Timeout]),
        ),
        case(
            "E02",
            "accepts-nobody-long",
            Script::Blackhole,
            Failed(&[ConnTimeout]),
        )
        .deadline(LONG),
        case(
            "E11",
            "resets-at-once",
            Script::AtOnce(vec![Step::Reset]),
            Failed(&[ConnReset, ConnClosed]),
        ),
        case(
            "E11",
            "closes-at-once",
            Script::AtOnce(vec![Step::Close]),
            Failed(&[ConnReset, ConnClosed]),
        ),
    ]
}

fn silence() -> Vec<Case> {
    use Expect::{Delivered, Failed};
    let drip = |text: &str| Step::Drip(text.into(), ms(50));
    vec![
        case(
            "E04",
            "reads-nothing",
            Script::AtOnce(vec![Step::Hang]),
            Failed(&[Timeout]),
        ),
        case(
            "E04",
            "never-answers",
            steps(vec![Step::Hang]),
            Failed(&[Timeout]),
        ),
        case(
            "E05",
            "head-drips",
            steps(vec![drip("HTTP/1.1 200 OK\r\nX: y\r\nX: z")]),
            Failed(&[Timeout]),
        ),
        case(
            "E05",
            "headers-drip",
            steps(vec![say(OK_HEAD), drip("X: y\r\n")]),
            Failed(&[Timeout]),
        ),
        case(
            "E05",
            "body-drips",
            steps(vec![
                say(with("200 OK", "").replace(": 0", ": 999")),
                drip("x"),
            ]),
            Delivered(200),
        )
        .cut(),
        case(
            "E05",
            "chunks-drip",
            steps(vec![say(CHUNKED), drip("1\r\nx\r\n")]),
            Delivered(200),
        )
        .cut(),
        case(
            "E05",
            "body-stalls",
            steps(vec![
                say("HTTP/1.1 503 x\r\nContent-Length: 9\r\n\r\nabc"),
                Step::Hang,
            ]),
            Expect::Status(503),
        )
        .cut(),
        case(
            "E22",
            "just-in-time",
            steps(vec![Step::Pause(ms(700)), say(OK)]),
            Delivered(200),
        )
        .whole(b"ok")
        .deadline(ms(2000)),
    ]
}

fn breaks() -> Vec<Case> {
    use Expect::{Delivered, Failed};
    // A reset may overtake what was written before it.
    let then_reset = |text: &str| steps(vec![say(text), Step::Pause(ms(100)), Step::Reset]);
    vec![
        case(
            "E11",
            "resets-after-request",
            steps(vec![Step::Reset]),
            Failed(&[ConnReset]),
        ),
        case(
            "E11",
            "closes-after-request",
            steps(vec![Step::Close]),
            Failed(&[ConnClosed]),
        ),
        case(
            "E11",
            "resets-in-status-line",
            then_reset("HTTP/1.1 2"),
            Failed(&[ConnReset]),
        ),
        case(
            "E11",
            "closes-in-head",
            answers_once("HTTP/1.1 200 OK\r\nContent-"),
            Failed(&[ConnClosed]),
        ),
        case(
            "E11",
            "closes-before-end-of-head",
            answers_once("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n"),
            Failed(&[ConnClosed]),
        ),
        case(
            "E11",
            "resets-in-body",
            then_reset("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart"),
            Delivered(200),
        )
        .cut(),
        case(
            "E11",
            "closes-in-body",
            answers_once("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart"),
            Delivered(200),
        )
        .cut()
        .kept(b"part"),
        case(
            "E11",
            "resets-in-chunk",
            then_reset("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\npart"),
            Delivered(200),
        )
        .cut(),
        case(
            "E11",
            "closes-before-last-chunk",
            answers_once(format!("{CHUNKED}4\r\npart\r\n")),
            Delivered(200),
        )
        .cut()
        .kept(b"part"),
        case(
            "E13",
            "answers-before-the-body",
            Script::AfterHead(vec![say(OK), Step::Close]),
            Delivered(200),
        )
        .whole(b"ok")
        .fresh(),
        case(
            "E13",
            "refuses-before-the-body",
            Script::AfterHead(vec![say(with("413 x", "")), Step::Close]),
            Expect::Status(413),
        ),
    ]
}

fn connections() -> Vec<Case> {
    use Expect::{Delivered, SecondFailsOnce};
    let evil = format!("{OK}HTTP/1.1 500 Evil\r\nContent-Length: 0\r\n\r\n");
    let second = |steps| Script::Requests(vec![vec![say(OK)], steps]);
    vec![
        case(
            "E12",
            "closes-idle-ones",
            steps(vec![say(OK), Step::Pause(ms(30)), Step::Close]),
            Delivered(200),
        )
        .whole(b"ok")
        .fresh(),
        case(
            "E12",
            "closes-at-the-second",
            second(vec![Step::Close]),
            SecondFailsOnce(&[ConnClosed]),
        ),
        case(
            "E12",
            "resets-at-the-second",
            second(vec![Step::Reset]),
            SecondFailsOnce(&[ConnReset]),
        ),
        case(
            "E12",
            "is-silent-at-the-second",
            second(vec![Step::Hang]),
            SecondFailsOnce(&[Timeout]),
        ),
        case(
            "E12",
            "says-close",
            answers("HTTP/1.1 200 OK\r\nKeep-Alive: timeout=60\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"),
            Delivered(200),
        )
        .whole(b"ok")
        .fresh(),
        case(
            "E15",
            "answers-twice",
            answers(evil),
            Delivered(200),
        )
        .whole(b"ok")
        .fresh(),
        case(
            "E15",
            "answers-twice-later",
            steps(vec![
                say(OK),
                Step::Pause(ms(30)),
                say("HTTP/1.1 500 Evil\r\nContent-Length: 0\r\n\r\n"),
            ]),
            Delivered(200),
        )
        .whole(b"ok")
        .fresh(),
        case(
            "E15",
            "a-stray-byte",
            answers(format!("{OK}\n")),
            Delivered(200),
        )
        .whole(b"ok")
        .fresh(),
    ]
}

fn statuses() -> Vec<Case> {
    use Expect::{Delivered, Status};
    let redirect = |name, line: &'static str, status| {
        // Whoever follows it comes back here, with a request that no attempt stands for.
        case(
            "E18",
            name,
            answers(with(line, "Location: /trap\r\n")),
            Status(status),
        )
    };
    vec![
        redirect("moved", "301 Moved", 301),
        redirect("found", "302 Found", 302),
        redirect("see-other", "303 See Other", 303),
        redirect("temporary", "307 Temporary", 307),
        redirect("permanent", "308 Permanent", 308),
        case(
            "E18",
            "refreshes",
            answers(with(
                "200 OK",
                "Refresh: 0; url=/trap\r\nAlt-Svc: h2=\":1\"\r\nSet-Cookie: a=b\r\n",
            )),
            Delivered(200),
        ),
        case(
            "E18",
            "asks-for-a-password",
            answers(with("401 x", "WWW-Authenticate: Basic realm=x\r\n")),
            Status(401),
        ),
        case(
            "E18",
            "asks-for-later",
            answers(with("425 Too Early", "")),
            Status(425),
        ),
        // No receiver ends a delivery by a header: it is tried again as the policy says.
        case(
            "E28",
            "asks-to-abort",
            answers(with("500 x", "webhook-delivery: abort-message\r\n")),
            Status(500),
        ),
        case(
            "E28",
            "asks-to-abort-what-it-took",
            answers(with("200 OK", "webhook-delivery: abort-message\r\n")),
            Delivered(200),
        ),
    ]
}

fn waits() -> Vec<Case> {
    let asks = |name, status: u16, header: &str, wait| {
        let headers = format!("Retry-After: {header}\r\n");
        case(
            "E19",
            name,
            answers(with(&format!("{status} x"), &headers)),
            Expect::Status(status),
        )
        .waits(wait)
    };
    vec![
        asks("asks-for-0", 429, "0", RETRY),
        asks("asks-for-1", 429, "1", ms(1000)),
        asks("asks-for-2-with-503", 503, "2", ms(2000)),
        asks("asks-for-2-with-500", 500, "2", RETRY),
        asks("asks-for-a-day", 429, "86400", CAP),
        asks("asks-for-ages", 429, "1000000000000000000", CAP),
        asks(
            "asks-for-more-than-there-is",
            429,
            "99999999999999999999",
            RETRY,
        ),
        asks("asks-for-less-than-nothing", 429, "-5", RETRY),
        asks("asks-for-a-fraction", 429, "1.5", RETRY),
        asks("asks-for-no-number", 429, "NaN", RETRY),
        asks("asks-for-some-time", 429, "tomorrow", RETRY),
        asks(
            "asks-for-the-past",
            503,
            "Sun, 06 Nov 1994 08:49:37 GMT",
            RETRY,
        ),
        asks("asks-for-2094", 503, "Sat, 06 Nov 2094 08:49:37 GMT", CAP),
        asks("asks-twice", 429, "1\r\nRetry-After: 86400", ms(1000)),
        asks("asks-for-nothing", 429, "", RETRY),
    ]
}
