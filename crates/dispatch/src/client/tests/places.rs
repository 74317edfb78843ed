//! Where connections go, and how long they are kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::server::{Server, read_request};
use super::*;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A server that counts connections and says `answer` to each request, closing after `per_connection` of them.
async fn counting(answer: &'static str, per_connection: usize) -> (Server, Arc<AtomicUsize>) {
    let connections = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&connections);
    let server = Server::start(move |_, mut stream| {
        seen.fetch_add(1, Ordering::SeqCst);
        async move {
            for _ in 0..per_connection {
                if read_request(&mut stream).await.is_none() {
                    return;
                }
                drop(stream.write_all(answer.as_bytes()).await);
            }
        }
    })
    .await;
    (server, connections)
}

#[tokio::test]
async fn connections_are_used_again() {
    let (server, connections) = counting(OK, usize::MAX).await;
    let client = client();
    for _ in 0..20 {
        let answer = client.exchange(request(&server.url())).await;
        assert_eq!(answer.answer, Answer::Status(200));
        assert_eq!(answer.body, "ok");
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn connections_are_not_used_again_when_they_must_not_be() {
    for answer in [
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=1\r\nContent-Length: 2\r\n\r\nok",
        // A second answer that nobody asked for.
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 500 Evil\r\nContent-Length: 0\r\n\r\n",
    ] {
        let (server, connections) = counting(answer, usize::MAX).await;
        let client = client();
        for _ in 0..3 {
            let answer = client.exchange(request(&server.url())).await;
            assert_eq!(answer.answer, Answer::Status(200));
        }
        assert_eq!(connections.load(Ordering::SeqCst), 3, "{answer}");
    }
}

#[tokio::test]
async fn a_connection_that_was_closed_while_idle_costs_no_attempt() {
    // Each connection takes one request and is closed without a word.
    let (server, connections) = counting(OK, 1).await;
    let client = client();
    for _ in 0..5 {
        let answer = client.exchange(request(&server.url())).await;
        assert_eq!(answer.answer, Answer::Status(200));
        // The end of the connection has to arrive.
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    assert_eq!(connections.load(Ordering::SeqCst), 5);
}

#[tokio::test]
async fn idle_connections_are_closed_after_a_while() {
    let (server, connections) = counting(OK, usize::MAX).await;
    let client = client();
    client.exchange(request(&server.url())).await;
    let origin = request(&server.url()).target.origin().to_string();
    assert_eq!(client.pool.idle(), 1);
    tokio::time::pause();
    tokio::time::advance(pool::IDLE_DEFAULT + Duration::from_millis(1)).await;
    assert!(client.pool.take(&origin).is_none());
    assert_eq!(client.pool.idle(), 0);
    tokio::time::resume();
    client.exchange(request(&server.url())).await;
    assert_eq!(client.pool.idle(), 1);
    tokio::time::pause();
    // The sweep comes by itself.
    tokio::time::sleep(pool::IDLE_DEFAULT + Duration::from_secs(2)).await;
    assert_eq!(client.pool.idle(), 0);
    assert_eq!(connections.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_name_with_one_refused_address_is_blocked_and_not_connected_to() {
    let (server, connections) = counting(OK, usize::MAX).await;
    let url = format!("http://hooks.example:{}/", server.address.port());
    let answer = client_with(&["127.0.0.1", "169.254.169.254"])
        .exchange(request(&url))
        .await;
    assert_eq!(failed(&answer), ErrorClass::Blocked);
    assert!(!answer.detail.contains("169"), "{}", answer.detail);
    let answer = client_with(&["::ffff:127.0.0.1"])
        .exchange(request(&url))
        .await;
    assert_eq!(failed(&answer), ErrorClass::Blocked);
    assert_eq!(connections.load(Ordering::SeqCst), 0);
    let answer = client().exchange(request(&url)).await;
    assert_eq!(answer.answer, Answer::Status(200));
}

#[tokio::test]
async fn no_known_case_gets_through_by_way_of_a_name() {
    let (server, connections) = counting(OK, usize::MAX).await;
    let url = format!("http://hooks.example:{}/", server.address.port());
    let mut seen = 0;
    for line in include_str!("../../guard/cases.tsv").lines().skip(1) {
        let columns: Vec<_> = line.split('\t').collect();
        let (id, verdict) = (columns[0], columns[2]);
        // What the usual reading of the URL makes of it, spellings and all.
        let parsed = url::Url::parse(columns[1]).ok();
        let address: IpAddr = match parsed.as_ref().and_then(url::Url::host) {
            Some(url::Host::Ipv4(address)) => address.into(),
            Some(url::Host::Ipv6(address)) => address.into(),
            _ => continue,
        };
        // Those of this machine are allowed here, so that the others are not refused for want of a server.
        if verdict != "DENY" || matches!(address, IpAddr::V4(a) if a.is_loopback()) {
            continue;
        }
        seen += 1;
        for found in [vec![address], vec![server.address.ip(), address]] {
            let look_up: LookUp = Arc::new(move |_| Ok(found.clone()));
            let config = ClientConfig::new(local_policy());
            let client = HttpClient::with_look_up(config, Arc::new(Still), look_up);
            let answer = client.expect("client").exchange(request(&url)).await;
            assert_eq!(failed(&answer), ErrorClass::Blocked, "{id} {address}");
        }
    }
    assert!(seen >= 30, "{seen}");
    assert_eq!(connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_name_that_moves_inside_is_not_followed_there() {
    let (server, connections) = counting(OK, usize::MAX).await;
    let url = format!("http://hooks.example:{}/", server.address.port());
    let looked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&looked);
    let look_up: LookUp = Arc::new(move |_| {
        let inside = counted.fetch_add(1, Ordering::SeqCst) > 0;
        let address = if inside { "10.0.0.1" } else { "127.0.0.1" };
        Ok(vec![address.parse().expect("address")])
    });
    let config = ClientConfig::new(local_policy());
    let client = HttpClient::with_look_up(config, Arc::new(Still), look_up).expect("client");
    let answer = client.exchange(request(&url)).await;
    assert_eq!(answer.answer, Answer::Status(200), "{}", answer.detail);
    // When the answer of the resolver has grown old, and the connection with it.
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(31)).await;
    tokio::time::resume();
    let answer = client.exchange(request(&url)).await;
    assert_eq!(failed(&answer), ErrorClass::Blocked);
    assert_eq!(looked.load(Ordering::SeqCst), 2);
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn localhost_is_loopback_and_needs_no_resolver() {
    let (server, _) = counting(OK, usize::MAX).await;
    let url = format!("http://localhost:{}/", server.address.port());
    let answer = client_with(&["10.0.0.1"]).exchange(request(&url)).await;
    assert_eq!(answer.answer, Answer::Status(200));
}

#[tokio::test]
async fn the_next_address_is_tried() {
    let (server, _) = counting(OK, usize::MAX).await;
    let url = format!("http://hooks.example:{}/", server.address.port());
    // Nobody listens on the first.
    let answer = client_with(&["127.0.0.2", "127.0.0.3", "127.0.0.1"])
        .exchange(request(&url))
        .await;
    assert_eq!(answer.answer, Answer::Status(200));
}

#[tokio::test]
async fn nobody_listening_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    drop(listener);
    let answer = client()
        .exchange(request(&format!("http://{address}/")))
        .await;
    assert_eq!(failed(&answer), ErrorClass::ConnRefused);
    assert!(!answer.detail.contains("127"));
}

/// E24, with the ones below.
#[tokio::test]
async fn failures_of_the_resolver_have_their_classes() {
    for (text, class) in [
        (
            "failed to lookup address information: Name or service not known",
            ErrorClass::DnsNotFound,
        ),
        (
            "failed to lookup address information: Temporary failure in name resolution",
            ErrorClass::DnsFailed,
        ),
    ] {
        let look_up: LookUp = Arc::new(move |_| Err(std::io::Error::other(text)));
        let client =
            HttpClient::with_look_up(ClientConfig::new(local_policy()), Arc::new(Still), look_up)
                .expect("client");
        let answer = client.exchange(request("http://hooks.example/")).await;
        assert_eq!(failed(&answer), class);
    }
    let answer = client_with(&[])
        .exchange(request("http://hooks.example/"))
        .await;
    assert_eq!(failed(&answer), ErrorClass::DnsNotFound);
}

#[tokio::test]
async fn a_name_is_looked_up_once_for_all_who_ask() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let look_up: LookUp = Arc::new(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        Ok(vec!["127.0.0.1".parse().expect("address")])
    });
    let resolver = Resolver::new(look_up);
    let many = futures::future::join_all((0..50).map(|_| resolver.addresses("a.example"))).await;
    assert!(many.iter().all(Result::is_ok));
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(31)).await;
    tokio::time::resume();
    resolver.addresses("a.example").await.expect("found");
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

/// Some name servers take half a minute: that costs those who asked for these names, up to their budget, and the others nothing, until very many
/// such names take all turns.
#[tokio::test]
async fn a_slow_name_server_delays_only_its_own_names() {
    let gate = Arc::new((parking_lot::Mutex::new(false), parking_lot::Condvar::new()));
    let busy = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
    let (waits, counts) = (Arc::clone(&gate), Arc::clone(&busy));
    let look_up: LookUp = Arc::new(move |name| {
        if name.starts_with("slow") {
            let now = counts.0.fetch_add(1, Ordering::SeqCst) + 1;
            counts.1.fetch_max(now, Ordering::SeqCst);
            let mut open = waits.0.lock();
            while !*open {
                waits.1.wait(&mut open);
            }
            counts.0.fetch_sub(1, Ordering::SeqCst);
        }
        Ok(vec!["127.0.0.1".parse().expect("address")])
    });
    let resolver = Resolver::new(look_up);
    let few = (0..20).map(|n| format!("slow{n}.example"));
    let few: Vec<_> = few.collect();
    let mut slow = futures::future::join_all(few.iter().map(|name| resolver.addresses(name)));
    assert!(futures::poll!(&mut slow).is_pending());
    for n in 0..50 {
        let quick = resolver.addresses(&format!("quick{n}.example")).await;
        assert!(quick.is_ok());
    }
    assert!(futures::poll!(&mut slow).is_pending());
    let many: Vec<_> = (20..120).map(|n| format!("slow{n}.example")).collect();
    let mut more = futures::future::join_all(many.iter().map(|name| resolver.addresses(name)));
    assert!(futures::poll!(&mut more).is_pending());
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(6)).await;
    tokio::time::resume();
    for answer in slow.await.into_iter().chain(more.await) {
        assert_eq!(
            answer.map_err(|failure| failure.class),
            Err(ErrorClass::DnsTimeout)
        );
    }
    *gate.0.lock() = true;
    gate.1.notify_all();
    assert!(resolver.addresses("quick.example").await.is_ok());
    assert!(busy.1.load(Ordering::SeqCst) <= 64, "each holds a thread");
}
