//! What servers answer, well or badly.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::AsyncWriteExt;

use super::server::{Server, read_request, reset};
use super::*;

async fn exchange(answer: impl Into<Vec<u8>>) -> Exchange {
    let server = Server::saying_once(answer).await;
    client().exchange(request(&server.url())).await
}

#[tokio::test]
async fn a_plain_answer_is_captured() {
    let answer = exchange(
        "HTTP/1.1 202 Accepted\r\nContent-Length: 4\r\nX-A: 1\r\nRetry-After: 7\r\n\r\nbody",
    )
    .await;
    assert_eq!(answer.answer, Answer::Status(202));
    assert_eq!(answer.body, "body");
    assert!(!answer.body_truncated);
    assert_eq!(answer.retry_after.as_deref(), Some(&b"7"[..]));
    let names: Vec<_> = answer.headers.iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(names, ["content-length", "x-a", "retry-after"]);
    assert_eq!(answer.started_at, Still.now());
    assert!(answer.detail.is_empty());
}

#[tokio::test]
async fn the_request_on_the_wire_is_exact() {
    let (tell, mut told) = tokio::sync::mpsc::channel(4);
    let server = Server::start(move |_, mut stream| {
        let tell = tell.clone();
        async move {
            while let Some(request) = read_request(&mut stream).await {
                tell.send(request).await.expect("room");
                drop(stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await);
            }
        }
    })
    .await;
    let client = client();
    let mut outgoing = request(&format!("http://{}/a/b?c=%20d", server.address));
    for (name, value) in [
        ("webhook-id", "dlv_1"),
        ("host", "evil.example"),
        ("content-length", "99"),
        ("transfer-encoding", "chunked"),
        ("accept-encoding", "gzip"),
        ("expect", "100-continue"),
        ("connection", "close"),
        ("user-agent", "other"),
    ] {
        outgoing
            .headers
            .insert(name, http::HeaderValue::from_static(value));
    }
    let answer = client.exchange(outgoing.clone()).await;
    assert_eq!(answer.answer, Answer::Status(204));
    assert!(answer.body.is_empty() && !answer.body_truncated);
    let sent = String::from_utf8(told.recv().await.expect("request")).expect("text");
    let (head, body) = sent.split_once("\r\n\r\n").expect("head");
    let mut lines: Vec<_> = head.lines().collect();
    assert_eq!(lines.remove(0), "POST /a/b?c=%20d HTTP/1.1");
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "content-length: 5".to_owned(),
            format!("host: {}", server.address),
            concat!("user-agent: hookline/", env!("CARGO_PKG_VERSION")).to_owned(),
            "webhook-id: dlv_1".to_owned(),
        ]
    );
    assert_eq!(body, "hello");

    outgoing.body = Bytes::new();
    client.exchange(outgoing.clone()).await;
    let sent = String::from_utf8(told.recv().await.expect("request")).expect("text");
    assert!(sent.contains("content-length: 0\r\n"), "{sent}");

    outgoing.method = http::Method::GET;
    client.exchange(outgoing).await;
    let sent = String::from_utf8(told.recv().await.expect("request")).expect("text");
    assert!(
        sent.starts_with("GET ") && !sent.contains("content-length"),
        "{sent}"
    );
}

#[tokio::test]
async fn every_status_is_an_answer_and_redirects_are_not_followed() {
    for (line, status) in [
        ("200 OK", 200),
        ("200", 200),
        ("301 Moved\r\nLocation: http://127.0.0.1:1/", 301),
        ("302 Found\r\nLocation: http://169.254.169.254/", 302),
        ("404 ", 404),
        ("429 Too Many\r\nRetry-After: soon", 429),
        ("500 x", 500),
        ("600 x", 600),
    ] {
        let answer = exchange(format!("HTTP/1.1 {line}\r\nContent-Length: 0\r\n\r\n")).await;
        assert_eq!(answer.answer, Answer::Status(status), "{line}");
    }
    let old = exchange("HTTP/1.0 200 OK\r\n\r\nuntil the end").await;
    assert_eq!(old.answer, Answer::Status(200));
    assert_eq!(old.body, "until the end");
}

#[tokio::test]
async fn what_is_not_http_is_a_protocol_error() {
    for answer in [
        "hello\r\n\r\n",
        "HTTP/3.0 200 OK\r\n\r\n",
        "HTTP/1.1 99 x\r\n\r\n",
        "HTTP/1.1 1000 x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1e3\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        let exchange = exchange(answer).await;
        assert_eq!(failed(&exchange), ErrorClass::HttpProtocol, "{answer}");
    }
}

#[tokio::test]
async fn a_complete_head_counts_whatever_becomes_of_the_body() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\nzzz\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\nshort",
    ] {
        let exchange = exchange(answer).await;
        assert_eq!(exchange.answer, Answer::Status(200), "{answer}");
        assert_eq!(exchange.body, "short", "{answer}");
        assert!(exchange.body_truncated, "{answer}");
    }
}

#[tokio::test]
async fn sloppy_headers_are_skipped_and_odd_bytes_kept() {
    let answer = exchange(
        b"HTTP/1.1 200 OK\r\nbad header\r\nX-Latin: \xe9\xff\r\nContent-Length: 0\r\n\r\n"
            .as_slice(),
    )
    .await;
    assert_eq!(answer.answer, Answer::Status(200));
    assert_eq!(
        answer.headers[0],
        ("x-latin".to_owned(), Bytes::from_static(b"\xe9\xff"))
    );
}

#[tokio::test]
async fn a_huge_head_is_refused() {
    let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "a".repeat(70_000));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: 1\r\n".repeat(101));
    for answer in [long, many] {
        let exchange = exchange(answer).await;
        assert_eq!(failed(&exchange), ErrorClass::ResponseHeadTooLarge);
    }
    let just = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: {}\r\n\r\n",
        "a".repeat(40_000)
    );
    let exchange = exchange(just).await;
    assert_eq!(exchange.answer, Answer::Status(200));
    // What does not fit the capture is left out, with all behind it.
    assert_eq!(exchange.headers.len(), 1);
}

#[tokio::test]
async fn interim_answers_are_bounded_and_end_the_reuse() {
    let eight = format!(
        "{}HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(8)
    );
    let connections = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&connections);
    let server = Server::start(move |_, mut stream| {
        seen.fetch_add(1, Ordering::SeqCst);
        let eight = eight.clone();
        async move {
            while read_request(&mut stream).await.is_some() {
                drop(stream.write_all(eight.as_bytes()).await);
            }
        }
    })
    .await;
    let client = client();
    for _ in 0..2 {
        let answer = client.exchange(request(&server.url())).await;
        assert_eq!(answer.answer, Answer::Status(200));
    }
    assert_eq!(connections.load(Ordering::SeqCst), 2);

    let nine = exchange("HTTP/1.1 100 Continue\r\n\r\n".repeat(9)).await;
    assert_eq!(failed(&nine), ErrorClass::TooMany1xx);

    let endless = Server::start(|_, mut stream| async move {
        while stream
            .write_all(b"HTTP/1.1 102 Processing\r\n\r\n")
            .await
            .is_ok()
        {}
    })
    .await;
    let flood = client.exchange(request(&endless.url())).await;
    assert_eq!(failed(&flood), ErrorClass::TooMany1xx);
}

#[tokio::test]
async fn an_endless_body_is_read_no_further_than_allowed() {
    let written = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&written);
    let server = Server::start(move |_, mut stream| {
        let count = Arc::clone(&count);
        async move {
            read_request(&mut stream).await;
            drop(
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                    .await,
            );
            let chunk = [b"1000\r\n".as_slice(), &[b'x'; 4096], b"\r\n"].concat();
            while stream.write_all(&chunk).await.is_ok() {
                count.fetch_add(4096, Ordering::SeqCst);
            }
        }
    })
    .await;
    let answer = client().exchange(request(&server.url())).await;
    assert_eq!(answer.answer, Answer::Status(200));
    assert_eq!(answer.body.len(), 16 * 1024);
    assert!(answer.body_truncated);
    // Beyond what was read only the kernel's buffers filled up.
    assert!(written.load(Ordering::SeqCst) < 16 * 1024 * 1024);
}

#[tokio::test]
async fn chunk_framing_cannot_be_used_to_send_without_end() {
    let server = Server::start(|_, mut stream| async move {
        read_request(&mut stream).await;
        drop(
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                .await,
        );
        // One byte of body in 200 bytes of framing.
        let chunk = format!("1;{}\r\nx\r\n", "e".repeat(195));
        while stream.write_all(chunk.as_bytes()).await.is_ok() {}
    })
    .await;
    let answer = client().exchange(request(&server.url())).await;
    assert_eq!(answer.answer, Answer::Status(200));
    assert!(answer.body_truncated && answer.body.len() < 4096);
}

#[tokio::test]
async fn an_early_answer_counts() {
    let server = Server::start(|_, mut stream| async move {
        let mut some = [0; 64];
        drop(tokio::io::AsyncReadExt::read(&mut stream, &mut some).await);
        drop(
            stream
                .write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
                .await,
        );
        // Never reads the rest.
        std::future::pending::<()>().await;
    })
    .await;
    let mut outgoing = request(&server.url());
    outgoing.body = Bytes::from(vec![b'x'; 8 * 1024 * 1024]);
    let answer = client().exchange(outgoing).await;
    assert_eq!(answer.answer, Answer::Status(413));
    assert_eq!(answer.body, "no");
}

#[tokio::test]
async fn closing_at_each_stage_has_its_class() {
    let after_accept = Server::start(|_, stream| async move { drop(stream) }).await;
    let after_request = Server::saying_once("").await;
    let in_head = Server::saying_once("HTTP/1.1 200 OK\r\nContent-").await;
    for server in [after_accept, after_request, in_head] {
        let answer = client().exchange(request(&server.url())).await;
        // Closing with the request unread makes the kernel send a reset.
        let class = failed(&answer);
        assert!(
            [ErrorClass::ConnClosed, ErrorClass::ConnReset].contains(&class),
            "{class:?}"
        );
    }
    let reset_after_request = Server::start(|_, mut stream| async move {
        read_request(&mut stream).await;
        reset(stream);
    })
    .await;
    let answer = client().exchange(request(&reset_after_request.url())).await;
    assert_eq!(failed(&answer), ErrorClass::ConnReset);

    let reset_in_body = Server::start(|_, mut stream| async move {
        read_request(&mut stream).await;
        drop(
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart")
                .await,
        );
        // The reset may overtake what the other side has not read yet.
        tokio::time::sleep(Duration::from_millis(50)).await;
        reset(stream);
    })
    .await;
    let answer = client().exchange(request(&reset_in_body.url())).await;
    assert_eq!(answer.answer, Answer::Status(200));
    assert!(answer.body_truncated);
}

#[tokio::test]
async fn one_deadline_covers_everything() {
    let drip = Server::start(|_, mut stream| async move {
        for byte in b"HTTP/1.1 200 OK\r\n".iter().cycle() {
            if stream.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let silent =
        Server::start(
            |_, mut stream| async move { while read_request(&mut stream).await.is_some() {} },
        )
        .await;
    for server in [drip, silent] {
        let mut outgoing = request(&server.url());
        outgoing.deadline = Duration::from_millis(150);
        let answer = client().exchange(outgoing).await;
        assert_eq!(failed(&answer), ErrorClass::Timeout);
        assert_eq!(
            answer.detail,
            "no answer within 150 ms: the time ran out while waiting for the answer"
        );
        assert!(answer.duration >= Duration::from_millis(150));
        assert!(answer.duration < Duration::from_millis(1500));
    }
    let body_drip = Server::start(|_, mut stream| async move {
        read_request(&mut stream).await;
        drop(
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nabc")
                .await,
        );
        std::future::pending::<()>().await;
    })
    .await;
    let mut outgoing = request(&body_drip.url());
    outgoing.deadline = Duration::from_millis(150);
    let answer = client().exchange(outgoing).await;
    assert_eq!(answer.answer, Answer::Status(200));
    assert_eq!(answer.body, "abc");
    assert!(answer.body_truncated);
}
