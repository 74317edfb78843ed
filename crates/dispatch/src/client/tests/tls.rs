//! Certificates and handshakes.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::AsyncWriteExt;
use tokio_rustls::TlsAcceptor;

use hookline_model::resource::Secret;

use super::server::{Server, read_request};
use super::*;
use crate::transport::Identity;

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    authority_named("hookline test authority")
}

fn authority_named(name: &str) -> Authority {
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("key")).expect("authority")
}

fn leaf(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params
}

fn builder(
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> rustls::ConfigBuilder<rustls::ServerConfig, rustls::WantsVerifier> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .expect("versions")
}

/// The chain and key of a server, signed by `authority` or by itself.
fn identity(
    params: &CertificateParams,
    authority: Option<&Authority>,
) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let key = KeyPair::generate().expect("key");
    let certificate = match authority {
        Some(authority) => params.signed_by(&key, authority),
        None => params.self_signed(&key),
    }
    .expect("certificate");
    let der = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    (vec![certificate.der().clone()], der)
}

fn server_config(
    params: &CertificateParams,
    authority: Option<&Authority>,
) -> rustls::ServerConfig {
    let (chain, key) = identity(params, authority);
    builder(rustls::DEFAULT_VERSIONS)
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("config")
}

/// As [`server_config`], but clients must show a certificate of the authority.
fn wanting_clients(
    authority: &Authority,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> rustls::ServerConfig {
    let (chain, key) = identity(&leaf("hooks.example"), Some(authority));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.der().clone()).expect("root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    builder(versions)
        .with_client_cert_verifier(verifier.build().expect("verifier"))
        .with_single_cert(chain, key)
        .expect("config")
}

/// Answers with the name that was asked for.
async fn serve(config: rustls::ServerConfig) -> Server {
    serve_telling(config, |_, tls| tls.server_name().unwrap_or("-").to_owned()).await
}

/// Answers with what `tell` says of the connection, being the one of that number.
async fn serve_telling(
    config: rustls::ServerConfig,
    tell: fn(usize, &rustls::ServerConnection) -> String,
) -> Server {
    let acceptor = TlsAcceptor::from(Arc::new(config));
    Server::start(move |number, stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else {
                return;
            };
            while read_request(&mut stream).await.is_some() {
                let body = tell(number, stream.get_ref().1);
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                );
                drop(stream.write_all(answer.as_bytes()).await);
                drop(stream.flush().await);
            }
        }
    })
    .await
}

async fn ask(server: &Server, host: &str, root: &Authority) -> Exchange {
    let mut config = ClientConfig::new(local_policy());
    config.extra_roots = vec![root.der().clone()];
    let client = named_loopback(config);
    let url = format!("https://{host}:{}/", server.address.port());
    let first = client.exchange(request(&url)).await;
    if first.answer == Answer::Status(200) {
        // Reused or resumed, it works again.
        let again = client.exchange(request(&url)).await;
        assert_eq!(again.answer, Answer::Status(200), "{}", again.detail);
    }
    first
}

#[tokio::test]
async fn a_good_certificate_passes_with_the_name_sent() {
    let authority = authority();
    let server = serve(server_config(&leaf("hooks.example"), Some(&authority))).await;
    let answer = ask(&server, "hooks.example", &authority).await;
    assert_eq!(answer.answer, Answer::Status(200), "{}", answer.detail);
    assert_eq!(answer.body, "hooks.example");

    let server = serve(server_config(&leaf("127.0.0.1"), Some(&authority))).await;
    let answer = ask(&server, "127.0.0.1", &authority).await;
    assert_eq!(answer.answer, Answer::Status(200), "{}", answer.detail);
    assert_eq!(answer.body, "-", "no name is sent for an address");
}

#[tokio::test]
async fn bad_certificates_have_their_classes() {
    let authority = authority();
    let mut expired = leaf("hooks.example");
    expired.not_after = date_time_ymd(2020, 1, 1);
    let mut early = leaf("hooks.example");
    early.not_before = date_time_ymd(4000, 1, 1);
    let mut own_authority = leaf("hooks.example");
    own_authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    for (params, signer, class) in [
        (expired, Some(&authority), ErrorClass::TlsExpired),
        (early, Some(&authority), ErrorClass::TlsNotYetValid),
        (
            leaf("other.example"),
            Some(&authority),
            ErrorClass::TlsNameMismatch,
        ),
        (
            leaf("hooks.example"),
            Some(&authority_named("somebody else")),
            ErrorClass::TlsUnknownCa,
        ),
        (leaf("hooks.example"), None, ErrorClass::TlsUnknownCa),
        (own_authority, None, ErrorClass::TlsUnknownCa),
    ] {
        let server = serve(server_config(&params, signer)).await;
        let answer = ask(&server, "hooks.example", &authority).await;
        assert_eq!(failed(&answer), class, "{}", answer.detail);
    }
}

#[tokio::test]
async fn a_server_that_wants_a_client_certificate_is_told_apart() {
    let authority = authority();
    let config = wanting_clients(&authority, &[&rustls::version::TLS13]);
    let server = serve(config).await;
    let answer = ask(&server, "hooks.example", &authority).await;
    assert_eq!(
        failed(&answer),
        ErrorClass::TlsClientCertRequired,
        "{}",
        answer.detail
    );
}

fn client_leaf(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    params
}

/// A client's certificate and key, as text.
fn client_identity(name: &str, authority: &Authority) -> Identity {
    let key = KeyPair::generate().expect("key");
    let certificate = client_leaf(name).signed_by(&key, authority);
    Identity {
        certificate: certificate.expect("certificate").pem().into(),
        private_key: Secret::from(&*key.serialize_pem()),
    }
}

/// A server that wants a client certificate, and answers with which it got and on which connection.
async fn serve_known(authority: &Authority) -> Server {
    let config = wanting_clients(authority, rustls::DEFAULT_VERSIONS);
    serve_telling(config, |number, tls| {
        let peer = tls.peer_certificates().expect("asked for");
        let text = String::from_utf8_lossy(&peer[0]).into_owned();
        let who = ["first", "second"]
            .into_iter()
            .find(|name| text.contains(name));
        format!("{} {number}", who.unwrap_or("nobody"))
    })
    .await
}

fn named_loopback(config: ClientConfig) -> HttpClient {
    let look_up: LookUp = Arc::new(|_| Ok(vec!["127.0.0.1".parse().expect("address")]));
    HttpClient::with_look_up(config, Arc::new(Still), look_up).expect("client")
}

#[tokio::test]
async fn each_identity_has_connections_of_its_own() {
    let authority = authority();
    let server = serve_known(&authority).await;
    let mut config = ClientConfig::new(local_policy());
    config.extra_roots = vec![authority.der().clone()];
    let client = named_loopback(config);
    let url = format!("https://hooks.example:{}/", server.address.port());
    let identities = ["first", "second"].map(|name| client_identity(name, &authority));
    for turn in 0..500 {
        let number = turn % 2;
        let mut request = request(&url);
        request.tls.identity = Some(identities[number].clone());
        let answer = client.exchange(request).await;
        let wanted = format!("{} {number}", ["first", "second"][number]);
        assert_eq!(answer.body, wanted, "{}", answer.detail);
    }
    // Nobody is nobody, although connections of others lie idle.
    let answer = client.exchange(request(&url)).await;
    assert_eq!(failed(&answer), ErrorClass::TlsClientCertRequired);
}

#[tokio::test]
async fn an_authority_of_its_own_is_trusted_by_that_webhook_alone() {
    let authority = authority();
    let server = serve(server_config(&leaf("hooks.example"), Some(&authority))).await;
    let client = client();
    let url = format!("https://hooks.example:{}/", server.address.port());
    let with = |text: String| {
        let mut request = request(&url);
        request.tls.authorities = Some(text.into());
        request
    };
    let answer = client.exchange(with(authority.pem())).await;
    assert_eq!(answer.answer, Answer::Status(200), "{}", answer.detail);
    let answer = client.exchange(request(&url)).await;
    assert_eq!(failed(&answer), ErrorClass::TlsUnknownCa);
    let other = authority_named("somebody else").pem();
    let answer = client.exchange(with(other)).await;
    assert_eq!(failed(&answer), ErrorClass::TlsUnknownCa);
    let answer = client.exchange(with("no certificate".into())).await;
    // Without a certificate in it nothing is trusted beside the public ones.
    assert_eq!(failed(&answer), ErrorClass::TlsUnknownCa);
}

#[test]
fn identities_and_authorities_are_checked_before_they_are_saved() {
    let authority = authority();
    let (first, second) = (
        client_identity("first", &authority),
        client_identity("second", &authority),
    );
    assert_eq!(
        check_identity(&first.certificate, &first.private_key),
        Ok(())
    );
    assert_eq!(
        check_identity(&first.certificate, &second.private_key),
        Err("is not the key of this certificate".into())
    );
    let no_key = Secret::from("-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n");
    let why = check_identity(&first.certificate, &no_key).unwrap_err();
    assert!(why.starts_with("cannot be used"), "{why}");
    assert_eq!(check_authorities(&authority.pem()), Ok(()));
    let broken = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
    let why = check_authorities(broken).unwrap_err();
    assert!(why.starts_with("certificate 1 cannot"), "{why}");
}

/// A server that speaks HTTP/2 alone, so many requests a connection, and answers with what it was asked and the connection's number.
async fn serve_http2(authority: &Authority, requests: usize) -> Server {
    let mut config = server_config(&leaf("hooks.example"), Some(authority));
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    Server::start(move |number, stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            let seen = Arc::new(std::sync::atomic::AtomicUsize::new(0));
            let counted = Arc::clone(&seen);
            let service = hyper::service::service_fn(move |request: http::Request<_>| {
                counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                async move {
                    let body: hyper::body::Incoming = request.into_body();
                    let body = http_body_util::BodyExt::collect(body).await?.to_bytes();
                    let said = format!("{number} {}", String::from_utf8_lossy(&body));
                    Ok::<_, hyper::Error>(http::Response::new(said))
                }
            });
            let executor = hyper_util::rt::TokioExecutor::new();
            let io = hyper_util::rt::TokioIo::new(stream);
            let connection =
                hyper::server::conn::http2::Builder::new(executor).serve_connection(io, service);
            let mut connection = std::pin::pin!(connection);
            let mut told = false;
            std::future::poll_fn(|cx| {
                if !told && seen.load(std::sync::atomic::Ordering::Relaxed) >= requests {
                    told = true;
                    connection.as_mut().graceful_shutdown();
                }
                connection.as_mut().poll(cx).map(drop)
            })
            .await;
        }
    })
    .await
}

#[tokio::test]
async fn http2_is_spoken_where_it_is_allowed_and_offered() {
    let authority = authority();
    let server = serve_http2(&authority, 3).await;
    let url = format!("https://hooks.example:{}/x?y=z", server.address.port());
    let mut config = ClientConfig::new(local_policy());
    config.extra_roots = vec![authority.der().clone()];
    // Else there is no protocol in common, and that is told.
    let plain = named_loopback(config.clone());
    let answer = plain.exchange(request(&url)).await;
    assert_eq!(
        failed(&answer),
        ErrorClass::TlsProtocol,
        "{}",
        answer.detail
    );
    config.http2 = true;
    let client = named_loopback(config.clone());
    let mut connections = std::collections::BTreeSet::new();
    for _ in 0..10 {
        let answer = client.exchange(request(&url)).await;
        assert_eq!(answer.answer, Answer::Status(200), "{}", answer.detail);
        let body = String::from_utf8_lossy(&answer.body).into_owned();
        let (connection, echo) = body.split_once(' ').expect("two words");
        assert_eq!(echo, "hello");
        connections.insert(connection.to_owned());
    }
    let used = connections.len();
    assert!(
        (2..10).contains(&used),
        "again until GOAWAY: {connections:?}"
    );
    // One that knows only HTTP/1.1 is spoken to in that.
    let old = serve(server_config(&leaf("hooks.example"), Some(&authority))).await;
    let url = format!("https://hooks.example:{}/", old.address.port());
    let answer = client.exchange(request(&url)).await;
    assert_eq!(answer.answer, Answer::Status(200), "{}", answer.detail);
    assert_eq!(answer.body, "hooks.example");
}

#[tokio::test]
async fn what_is_not_tls_is_a_protocol_error() {
    let server = Server::start(|_, mut stream| async move {
        drop(stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await);
        std::future::pending::<()>().await;
    })
    .await;
    let answer = ask(&server, "hooks.example", &authority()).await;
    assert_eq!(
        failed(&answer),
        ErrorClass::TlsProtocol,
        "{}",
        answer.detail
    );
    let closing = Server::start(|_, mut stream| async move {
        let mut some = [0; 4096];
        drop(tokio::io::AsyncReadExt::read(&mut stream, &mut some).await);
    })
    .await;
    let answer = ask(&closing, "hooks.example", &authority()).await;
    assert_eq!(failed(&answer), ErrorClass::ConnClosed, "{}", answer.detail);
}

#[tokio::test]
async fn a_handshake_that_hangs_ends() {
    let server = Server::start(|_, stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let mut outgoing = request(&format!("https://hooks.example:{}/", server.address.port()));
    outgoing.deadline = Duration::from_millis(150);
    let answer = client().exchange(outgoing).await;
    assert_eq!(failed(&answer), ErrorClass::Timeout);
    assert!(
        answer.detail.ends_with("negotiating TLS"),
        "{}",
        answer.detail
    );
    let outgoing = OutgoingRequest {
        deadline: Duration::from_secs(20),
        ..request(&format!("https://hooks.example:{}/", server.address.port()))
    };
    let answer = client().exchange(outgoing).await;
    assert_eq!(failed(&answer), ErrorClass::TlsHandshakeTimeout);
}

#[tokio::test]
async fn an_encrypted_connection_that_is_silent_ends_at_the_deadline() {
    let authority = authority();
    let acceptor = TlsAcceptor::from(Arc::new(server_config(
        &leaf("hooks.example"),
        Some(&authority),
    )));
    let server = Server::start(move |_, stream| {
        let acceptor = acceptor.clone();
        async move {
            if let Ok(mut stream) = acceptor.accept(stream).await {
                while read_request(&mut stream).await.is_some() {}
            }
        }
    })
    .await;
    let mut config = ClientConfig::new(local_policy());
    config.extra_roots = vec![authority.der().clone()];
    let look_up: LookUp = Arc::new(|_| Ok(vec!["127.0.0.1".parse().expect("address")]));
    let client = HttpClient::with_look_up(config, Arc::new(Still), look_up).expect("client");
    let mut outgoing = request(&format!("https://hooks.example:{}/", server.address.port()));
    outgoing.deadline = Duration::from_millis(500);
    let answer = client.exchange(outgoing).await;
    assert_eq!(failed(&answer), ErrorClass::Timeout);
    assert!(
        answer.detail.ends_with("waiting for the answer"),
        "{}",
        answer.detail
    );
    assert!(answer.duration < Duration::from_millis(1500));
}

#[tokio::test]
async fn a_chain_of_certificates_without_end_is_a_protocol_error() {
    let authority = authority();
    let (mut chain, key) = identity(&leaf("hooks.example"), Some(&authority));
    // More than the library lets a handshake have, whatever is in it.
    let filler = authority.der().clone();
    let count = 128 * 1024 / filler.len();
    chain.extend(std::iter::repeat_n(filler, count));
    let config = builder(rustls::DEFAULT_VERSIONS)
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("config");
    let server = serve(config).await;
    let answer = ask(&server, "hooks.example", &authority).await;
    assert_eq!(
        failed(&answer),
        ErrorClass::TlsProtocol,
        "{}",
        answer.detail
    );
}

#[tokio::test]
async fn nothing_in_common_has_its_class() {
    let authority = authority();
    let (chain, key) = identity(&leaf("hooks.example"), Some(&authority));
    // A suite that only one side has: the certificate's kind of key does not go with it.
    let mut provider = rustls::crypto::ring::default_provider();
    provider.cipher_suites.retain(|suite| {
        suite.suite() == rustls::CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
    });
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("config");
    let server = serve(config).await;
    let answer = ask(&server, "hooks.example", &authority).await;
    assert_eq!(
        failed(&answer),
        ErrorClass::TlsNoCommonCipher,
        "{}",
        answer.detail
    );
}
