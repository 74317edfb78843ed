//! From a target to an open connection: resolve, judge every address, connect only to judged ones, check the peer, then TLS with the original
//! name. There is no other way to a socket in this crate.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use hookline_model::outcome::ErrorClass;
use rustls_pki_types::ServerName;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

use super::classify::{self, Failure};
use super::exchange::{Connection, Phase, Phases};
use super::io::Stream;
use super::proxy::EgressProxy;
use super::resolve::Resolver;
use crate::guard::{Host, Target, UrlPolicy};

/// How long connecting to one address may take.
const CONNECT_BUDGET: Duration = Duration::from_secs(5);
/// How long an address has before the next one is tried beside it.
const HEAD_START: Duration = Duration::from_millis(300);
/// How long TLS may take.
const HANDSHAKE_BUDGET: Duration = Duration::from_secs(5);
/// Addresses of one name that are tried. All are judged.
const ADDRESSES_MAX: usize = 16;

/// See the module's documentation.
pub(crate) struct Connector {
    policy: UrlPolicy,
    resolver: Resolver,
    proxy: Option<EgressProxy>,
}

impl Connector {
    pub(crate) fn new(policy: UrlPolicy, resolver: Resolver, proxy: Option<EgressProxy>) -> Self {
        Self {
            policy,
            resolver,
            proxy,
        }
    }

    /// A new connection to the target. `phases` follow what is being done.
    pub(crate) async fn connect(
        &self,
        target: &Target,
        tls: &Arc<rustls::ClientConfig>,
        phases: &mut Phases,
    ) -> Result<Box<Connection>, Failure> {
        let tcp = self.tcp(target, phases).await?;
        let stream = if target.is_https() {
            phases.enter(Phase::Handshake);
            encrypt(tcp, target.host(), tls).await?
        } else {
            Stream::Plain(tcp)
        };
        Connection::open(stream).await
    }

    async fn tcp(&self, target: &Target, phases: &mut Phases) -> Result<TcpStream, Failure> {
        if let (Some(proxy), Host::Name(name)) = (&self.proxy, target.host())
            && proxy.enforces_policy()
        {
            phases.enter(Phase::Connecting);
            return proxy.open(&format!("{name}:{}", target.port())).await;
        }
        phases.enter(Phase::Resolving);
        let addresses = self.vetted(target.host()).await?;
        phases.enter(Phase::Connecting);
        match &self.proxy {
            None => first_connected(&addresses, target.port()).await,
            Some(proxy) => {
                let all = addresses.iter();
                let all: Vec<_> = all.map(|a| SocketAddr::new(*a, target.port())).collect();
                proxy.first_opened(&all).await
            }
        }
    }

    /// The addresses behind a host, all of them allowed; else the whole host is blocked.
    async fn vetted(&self, host: &Host) -> Result<Vec<IpAddr>, Failure> {
        let found: Vec<IpAddr> = match host {
            Host::Address(address) => vec![*address],
            // Loopback by definition; asking a resolver could only make it something else.
            Host::Localhost => self.policy.loopback().collect(),
            Host::Name(name) => self.resolver.addresses(name).await?.to_vec(),
        };
        // The address itself is not told: it would describe the operator's network to whoever owns the name.
        if found.is_empty()
            || found
                .iter()
                .any(|a| self.policy.address_verdict(*a).is_err())
        {
            return Err(Failure::new(
                ErrorClass::Blocked,
                "the host name leads to an address that may not be reached",
            ));
        }
        Ok(found.into_iter().take(ADDRESSES_MAX).collect())
    }
}

async fn encrypt(
    tcp: TcpStream,
    host: &Host,
    tls: &Arc<rustls::ClientConfig>,
) -> Result<Stream, Failure> {
    let name = match host {
        // No name is sent for an address; the certificate must hold the address.
        Host::Address(address) => Ok(ServerName::IpAddress((*address).into())),
        Host::Localhost => ServerName::try_from("localhost"),
        Host::Name(name) => ServerName::try_from(name.clone()),
    };
    let name = name.map_err(|_| {
        Failure::new(
            ErrorClass::TlsNameMismatch,
            "no certificate can be valid for this host name",
        )
    })?;
    match tokio::time::timeout(
        HANDSHAKE_BUDGET,
        TlsConnector::from(Arc::clone(tls)).connect(name, tcp),
    )
    .await
    {
        Err(_) => Err(Failure::new(
            ErrorClass::TlsHandshakeTimeout,
            "TLS was not negotiated within 5 s",
        )),
        Ok(Err(error)) => Err(classify::of_io(&error, "while TLS was negotiated")),
        Ok(Ok(stream)) => Ok(Stream::Tls(Box::new(stream))),
    }
}

/// Tries the addresses in order, each a little after the one before or as soon as that failed; the first that connects wins.
async fn first_connected(addresses: &[IpAddr], port: u16) -> Result<TcpStream, Failure> {
    let mut rest = addresses.iter();
    let mut running = FuturesUnordered::new();
    let mut last = None;
    loop {
        if let Some(address) = rest.next() {
            running.push(connect_one(SocketAddr::new(*address, port)));
        }
        loop {
            let next = if rest.len() == 0 {
                running.next().await
            } else {
                match tokio::time::timeout(HEAD_START, running.next()).await {
                    Ok(next) => next,
                    Err(_) => break,
                }
            };
            match next {
                Some(Ok(stream)) => return Ok(stream),
                Some(Err(failure)) => last = Some(failure),
                None => {}
            }
            if rest.len() > 0 {
                break;
            }
            if running.is_empty() {
                return Err(last.unwrap_or_else(|| {
                    Failure::new(ErrorClass::Internal, "there was no address to connect to")
                }));
            }
        }
    }
}

async fn connect_one(address: SocketAddr) -> Result<TcpStream, Failure> {
    let connected = async {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }?;
        let stream = socket.connect(address).await?;
        stream.set_nodelay(true)?;
        let peer = stream.peer_addr()?;
        Ok::<_, std::io::Error>((stream, peer))
    };
    match tokio::time::timeout(CONNECT_BUDGET, connected).await {
        Err(_) => Err(Failure::new(
            ErrorClass::ConnTimeout,
            "the connection was not accepted within 5 s",
        )),
        Ok(Err(error)) => Err(classify::of_connect(&error)),
        Ok(Ok((stream, peer))) if peer == address => Ok(stream),
        Ok(Ok(_)) => Err(Failure::new(
            ErrorClass::Blocked,
            "the connection led elsewhere than to the address that was judged",
        )),
    }
}
