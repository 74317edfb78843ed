//! The operator's egress proxy. Where to connections lead is still judged here, and the proxy is asked for the address that was judged, never
//! for the name: otherwise it would resolve the name again, and what it finds could be another address. Only a proxy that is declared to
//! enforce a policy of its own is given names.

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hookline_model::outcome::ErrorClass;
use http::{HeaderValue, Uri};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower::Service as _;
use url::Url;

use super::classify::Failure;

/// How long the proxy may take to open the way to one address.
const TUNNEL_BUDGET: Duration = Duration::from_secs(5);

/// A proxy that opens ways by HTTP `CONNECT`.
#[derive(Clone)]
pub struct EgressProxy {
    /// Where it is.
    uri: Uri,
    authorization: Option<HeaderValue>,
    enforces_policy: bool,
}

impl EgressProxy {
    /// From `http://proxy.example.com:3128`, with `user:password@` where it asks for that. With `enforces_policy` it resolves names and judges
    /// their addresses itself.
    ///
    /// # Errors
    /// What is wrong, without repeating the URL: it may hold a password.
    pub fn parse(text: &str, enforces_policy: bool) -> Result<Self, String> {
        const FORM: &str = "must be http://HOST:PORT or http://USER:PASSWORD@HOST:PORT";
        let url = Url::parse(text).map_err(|error| format!("{FORM}: {error}"))?;
        let plain = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        let (Some(host), Some(port), "http", true) = (
            url.host_str(),
            url.port_or_known_default(),
            url.scheme(),
            plain,
        ) else {
            return Err(FORM.into());
        };
        let uri = format!("http://{host}:{port}/");
        let authorization = (!url.username().is_empty()).then(|| {
            let decoded = |text: &str| {
                let bytes = percent_encoding::percent_decode_str(text);
                bytes.decode_utf8_lossy().into_owned()
            };
            let password = url.password().unwrap_or_default();
            let pair = format!("{}:{}", decoded(url.username()), decoded(password));
            let value = format!("Basic {}", BASE64_STANDARD.encode(pair));
            // Base64 fits into every header.
            HeaderValue::try_from(value).unwrap_or_else(|_| HeaderValue::from_static(""))
        });
        Ok(Self {
            uri: uri.parse().map_err(|_| FORM.to_owned())?,
            authorization,
            enforces_policy,
        })
    }

    /// Where it is, without credentials.
    #[must_use]
    pub fn address(&self) -> String {
        self.uri
            .authority()
            .map_or_else(String::new, ToString::to_string)
    }

    /// Whether names are the proxy's to judge.
    #[must_use]
    pub fn enforces_policy(&self) -> bool {
        self.enforces_policy
    }

    /// A way to the first of these addresses that the proxy opens one to.
    pub(crate) async fn first_opened(
        &self,
        addresses: &[SocketAddr],
    ) -> Result<TcpStream, Failure> {
        let mut last = Failure::new(ErrorClass::Internal, "there was no address to connect to");
        for address in addresses {
            match self.open(&address.to_string()).await {
                Ok(stream) => return Ok(stream),
                Err(failure) => last = failure,
            }
        }
        Err(last)
    }

    /// A way to an authority, `host:port`.
    pub(crate) async fn open(&self, authority: &str) -> Result<TcpStream, Failure> {
        let failed = |why: String| {
            let why = format!("the egress proxy did not open the way: {why}");
            Failure::new(ErrorClass::ConnFailed, why)
        };
        let to: Uri = format!("http://{authority}/")
            .parse()
            .map_err(|_| failed("the host cannot be asked for".into()))?;
        // The URL of the proxy always has both, and an IPv6 address in brackets, as this wants it.
        let dial = tower::service_fn(|proxy: Uri| async move {
            let address = proxy.authority().map_or("", |a| a.as_str());
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok::<_, std::io::Error>(TokioIo::new(stream))
        });
        let mut tunnel = Tunnel::new(self.uri.clone(), dial);
        if let Some(authorization) = &self.authorization {
            tunnel = tunnel.with_auth(authorization.clone());
        }
        match tokio::time::timeout(TUNNEL_BUDGET, tunnel.call(to)).await {
            Err(_) => Err(Failure::new(
                ErrorClass::ConnTimeout,
                "the egress proxy did not open the way within 5 s",
            )),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Ok(Ok(stream)) => Ok(stream.into_inner()),
        }
    }
}

impl std::fmt::Debug for EgressProxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EgressProxy")
            .field("uri", &self.uri)
            .field("enforces_policy", &self.enforces_policy)
            .finish_non_exhaustive()
    }
}
