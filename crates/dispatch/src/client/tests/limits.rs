//! What an answer may cost at most, and what happens at the very edge of the deadline.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::AsyncWriteExt;

use super::server::{Server, read_request};
use super::*;

/// A server that counts its requests and connections and says this to each request.
async fn saying(answer: impl Into<Vec<u8>>) -> (Server, Arc<[AtomicUsize; 2]>) {
    let counts = Arc::new([const { AtomicUsize::new(0) }; 2]);
    let (answer, seen) = (answer.into(), Arc::clone(&counts));
    let server = Server::start(move |_, mut stream| {
        let (answer, seen) = (answer.clone(), Arc::clone(&seen));
        async move {
            seen[0].fetch_add(1, Ordering::SeqCst);
            while read_request(&mut stream).await.is_some() {
                seen[1].fetch_add(1, Ordering::SeqCst);
                drop(stream.write_all(&answer).await);
            }
        }
    })
    .await;
    (server, counts)
}

/// How many connections so many requests in a row use. Each must be answered with 200.
async fn connections_for(requests: usize, answer: &str) -> usize {
    let (server, counts) = saying(answer).await;
    let client = client();
    for _ in 0..requests {
        let answered = client.exchange(request(&server.url())).await;
        assert_eq!(answered.answer, Answer::Status(200), "{answer}");
        assert_eq!(answered.body, "ok", "{answer}");
    }
    assert_eq!(counts[1].load(Ordering::SeqCst), requests, "{answer}");
    counts[0].load(Ordering::SeqCst)
}

#[tokio::test]
async fn an_answer_whose_length_is_said_twice_ends_the_connection() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 9\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ] {
        assert_eq!(connections_for(3, answer).await, 3, "{answer}");
    }
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ] {
        assert_eq!(connections_for(3, answer).await, 1, "{answer}");
    }
}

#[tokio::test]
async fn large_interim_answers_use_up_the_bytes_of_the_attempt() {
    let large = format!("HTTP/1.1 103 x\r\nX: {}\r\n\r\n", "a".repeat(50_000));
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let (server, _) = saying(large.repeat(4) + ok).await;
    let answer = client().exchange(request(&server.url())).await;
    assert_eq!(answer.answer, Answer::Status(200), "{}", answer.detail);
    let (server, counts) = saying(large.repeat(8) + ok).await;
    let answer = client().exchange(request(&server.url())).await;
    assert_eq!(failed(&answer), ErrorClass::HttpProtocol);
    assert!(answer.detail.contains("bytes"), "{}", answer.detail);
    assert_eq!(counts[1].load(Ordering::SeqCst), 1, "it is not asked again");
}

#[tokio::test]
async fn each_attempt_on_a_connection_has_its_own_bytes_and_interim_answers() {
    // Eight times 60 KiB would be too much for one attempt.
    let body = "x".repeat(60 * 1024);
    let (server, counts) = saying(format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ))
    .await;
    let client = client();
    for _ in 0..8 {
        let answer = client.exchange(request(&server.url())).await;
        assert_eq!(answer.answer, Answer::Status(200));
        assert_eq!(answer.body.len(), 16 * 1024);
        assert!(answer.body_truncated);
    }
    assert_eq!(counts[0].load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn trailers_without_end_end() {
    let server = Server::start(|_, mut stream| async move {
        read_request(&mut stream).await;
        let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n";
        drop(stream.write_all(head).await);
        let trailers = "X-Trailer: y\r\n".repeat(100);
        while stream.write_all(trailers.as_bytes()).await.is_ok() {}
    })
    .await;
    let answer = client().exchange(request(&server.url())).await;
    assert_eq!(answer.answer, Answer::Status(200));
    assert_eq!(answer.body, "ok");
    assert!(answer.duration < Duration::from_secs(4));
}

/// E26.
#[tokio::test]
async fn an_answer_at_the_deadline_has_one_verdict_and_costs_one_request() {
    const EACH: usize = 8;
    const DEADLINE: u64 = 60;
    let requests = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&requests);
    let server = Server::start(move |number, mut stream| {
        let seen = Arc::clone(&seen);
        async move {
            // From a little before to a little after.
            let after = DEADLINE - 8 + (number % 16) as u64;
            while read_request(&mut stream).await.is_some() {
                seen.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(after)).await;
                let ok = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                drop(stream.write_all(ok).await);
            }
        }
    })
    .await;
    let client = client();
    let exchanges = (0..16 * EACH).map(|_| {
        let outgoing = OutgoingRequest {
            deadline: Duration::from_millis(DEADLINE),
            ..request(&server.url())
        };
        client.exchange(outgoing)
    });
    let all = futures::future::join_all(exchanges).await;
    for exchange in &all {
        match exchange.answer {
            Answer::Status(200) => {
                // The head came in time, all of the body perhaps not.
                assert!(exchange.detail.is_empty(), "{}", exchange.detail);
                assert!(exchange.body == "ok" || exchange.body_truncated);
            }
            Answer::Failed(ErrorClass::Timeout) => {
                assert!(exchange.headers.is_empty() && exchange.body.is_empty());
                assert!(exchange.duration >= Duration::from_millis(DEADLINE));
            }
            other => panic!("{other:?}: {}", exchange.detail),
        }
    }
    assert!(requests.load(Ordering::SeqCst) <= all.len());
    // What came too late is never taken for the answer to another request.
    let timeouts = all.iter().filter(|e| e.answer.status().is_none()).count();
    assert!(client.pool.idle() <= all.len() - timeouts);
}
