//! Through an egress proxy.

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::server::Server;
use super::*;

/// What a proxy was asked, head by head.
type Heads = Arc<Mutex<Vec<String>>>;

/// A proxy that leads everything to one address, or answers with something else.
async fn proxy(to: std::net::SocketAddr, answer: &'static str) -> (Server, Heads) {
    let heads = Heads::default();
    let seen = Arc::clone(&heads);
    let server = Server::start(move |_, mut stream| {
        let seen = Arc::clone(&seen);
        async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(byte) = stream.read_u8().await else {
                    return;
                };
                head.push(byte);
            }
            seen.lock()
                .push(String::from_utf8_lossy(&head).into_owned());
            drop(stream.write_all(answer.as_bytes()).await);
            if answer.starts_with("HTTP/1.1 200") {
                let mut onwards = TcpStream::connect(to).await.expect("connects");
                drop(tokio::io::copy_bidirectional(&mut stream, &mut onwards).await);
            }
        }
    })
    .await;
    (server, heads)
}

const OPEN: &str = "HTTP/1.1 200 Connection established\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn through(proxy: &str, enforces_policy: bool, address: &'static str) -> HttpClient {
    let mut config = ClientConfig::new(local_policy());
    config.proxy = Some(EgressProxy::parse(proxy, enforces_policy).expect("a proxy"));
    let look_up: LookUp = Arc::new(move |_| Ok(vec![address.parse().expect("address")]));
    HttpClient::with_look_up(config, Arc::new(Still), look_up).expect("client")
}

#[tokio::test]
async fn the_proxy_is_asked_for_the_address_that_was_judged() {
    let endpoint = Server::saying_once(OK).await;
    let (proxy, heads) = proxy(endpoint.address, OPEN).await;
    let url = format!("http://user:p%40ss@{}", proxy.address);
    let client = through(&url, false, "127.0.0.7");
    let answer = client
        .exchange(request("http://hooks.example:8090/x"))
        .await;
    assert_eq!(answer.answer, Answer::Status(200), "{}", answer.detail);
    let heads = heads.lock().clone();
    assert_eq!(heads.len(), 1);
    assert!(
        heads[0].starts_with("CONNECT 127.0.0.7:8090 HTTP/1.1\r\n"),
        "{heads:?}"
    );
    // user:p@ss
    assert!(heads[0].contains("Proxy-Authorization: Basic dXNlcjpwQHNz\r\n"));
}

#[tokio::test]
async fn what_may_not_be_reached_is_not_asked_for() {
    let endpoint = Server::saying_once(OK).await;
    let (proxy, heads) = proxy(endpoint.address, OPEN).await;
    let client = through(&format!("http://{}", proxy.address), false, "10.0.0.1");
    let answer = client
        .exchange(request("http://hooks.example:8090/x"))
        .await;
    assert_eq!(failed(&answer), ErrorClass::Blocked);
    assert_eq!(heads.lock().len(), 0);
}

#[tokio::test]
async fn a_proxy_with_a_policy_is_given_the_name() {
    let endpoint = Server::saying_once(OK).await;
    let (proxy, heads) = proxy(endpoint.address, OPEN).await;
    let client = through(&format!("http://{}", proxy.address), true, "10.0.0.1");
    let answer = client
        .exchange(request("http://hooks.example:8090/x"))
        .await;
    assert_eq!(answer.answer, Answer::Status(200), "{}", answer.detail);
    assert!(heads.lock()[0].starts_with("CONNECT hooks.example:8090 HTTP/1.1\r\n"));
}

#[tokio::test]
async fn a_proxy_that_refuses_is_named() {
    let endpoint = Server::saying_once(OK).await;
    for answer in [
        "HTTP/1.1 403 Forbidden\r\n\r\n",
        "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
        "nonsense\r\n\r\n",
        "",
    ] {
        let (proxy, _) = proxy(endpoint.address, answer).await;
        let client = through(&format!("http://{}", proxy.address), false, "127.0.0.1");
        let answer = client
            .exchange(request("http://hooks.example:8090/x"))
            .await;
        assert_eq!(failed(&answer), ErrorClass::ConnFailed);
        let named = answer
            .detail
            .starts_with("the egress proxy did not open the way");
        assert!(named, "{}", answer.detail);
    }
}

#[test]
fn a_proxy_is_read_and_shows_no_password() {
    for good in [
        "http://proxy.example.com:3128",
        "http://[::1]:3128/",
        "http://proxy",
    ] {
        assert!(EgressProxy::parse(good, false).is_ok(), "{good}");
    }
    for bad in [
        "",
        "proxy:3128",
        "https://proxy:3128",
        "socks5://proxy:1080",
        "http://proxy:3128/path",
        "http://u:hush@",
    ] {
        let why = EgressProxy::parse(bad, false).expect_err(bad);
        assert!(!why.contains("hush"), "{why}");
    }
    let proxy = EgressProxy::parse("http://u:hush@proxy:3128", false).expect("a proxy");
    assert!(!format!("{proxy:?} {}", proxy.address()).contains("hush"));
}
