//! Connections to registries: name, address, TCP, proxy, TLS. The resolver is ours: a static program has no NSS.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::LookupIpStrategy;
use http::Uri;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::hosts::TlsOptions;
use super::tls::{self, SystemRoots};

/// How much later each further address of a host is tried while the ones before it have not answered.
const STAGGER: Duration = Duration::from_millis(250);
/// Most addresses of a host that are tried.
const MAX_ADDRESSES: usize = 8;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("look up {host}: {reason}")]
    Dns { host: String, reason: String },
    #[error("connect to {address}: {source}")]
    Tcp { address: String, source: io::Error },
    #[error("connect to {address}: no answer within {} s", .limit.as_secs_f32())]
    Timeout { address: String, limit: Duration },
    #[error("TLS with {host}: {reason}")]
    Tls { host: String, reason: String },
    #[error("through the proxy {proxy}: {reason}")]
    Proxy { proxy: String, reason: String },
    #[error("{0} is not a URL to connect to")]
    Url(Uri),
}

/// Makes connections for the hosts that share TLS options. Clones share everything.
#[derive(Clone)]
pub(super) struct Connector(Arc<Inner>);

struct Inner {
    options: TlsOptions,
    roots: Arc<SystemRoots>,
    dial_timeout: Duration,
    proxies: Arc<Matcher>,
    tls: OnceCell<Arc<ClientConfig>>,
    resolver: OnceCell<TokioResolver>,
}

impl Connector {
    pub(super) fn new(
        options: TlsOptions,
        roots: Arc<SystemRoots>,
        dial_timeout: Duration,
        proxies: Arc<Matcher>,
    ) -> Self {
        let (tls, resolver) = (OnceCell::new(), OnceCell::new());
        Self(Arc::new(Inner {
            options,
            roots,
            dial_timeout,
            proxies,
            tls,
            resolver,
        }))
    }
}

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<TokioIo<Stream>, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        let inner = Arc::clone(&self.0);
        Box::pin(async move {
            let limit = inner.dial_timeout;
            match tokio::time::timeout(limit, inner.connect(&target)).await {
                Ok(outcome) => outcome.map(TokioIo::new),
                Err(_) => Err(ConnectError::Timeout {
                    address: target.authority().map_or_else(String::new, ToString::to_string),
                    limit,
                }),
            }
        })
    }
}

impl Inner {
    async fn connect(&self, target: &Uri) -> Result<Stream, ConnectError> {
        let is_tls = target.scheme_str() == Some("https");
        let proxy = self
            .proxies
            .intercept(target)
            .filter(|p| p.uri().host().is_some());
        let tcp = match &proxy {
            Some(proxy) if is_tls => {
                self.tunnel(proxy.uri(), proxy.basic_auth().cloned(), target)
                    .await?
            }
            Some(proxy) => self.dial(proxy.uri()).await?,
            None => self.dial(target).await?,
        };
        if is_tls {
            let host = host_of(target)?;
            return Ok(Stream::Tls(Box::new(self.handshake(&host, tcp).await?)));
        }
        Ok(Stream::Plain {
            tcp,
            proxied: proxy.is_some(),
        })
    }

    async fn dial(&self, target: &Uri) -> Result<TcpStream, ConnectError> {
        let host = host_of(target)?;
        let default = if target.scheme_str() == Some("https") {
            443
        } else {
            80
        };
        let port = target.port_u16().unwrap_or(default);
        let addresses = self.resolve(&host).await?;
        first_to_answer(&host, addresses.into_iter().map(|ip| SocketAddr::new(ip, port))).await
    }

    async fn tunnel(
        &self,
        proxy: &Uri,
        auth: Option<http::HeaderValue>,
        target: &Uri,
    ) -> Result<TcpStream, ConnectError> {
        let tcp = self.dial(proxy).await?;
        let mut tunnel = Tunnel::new(proxy.clone(), Dialled(Some(tcp)));
        if let Some(auth) = auth {
            tunnel = tunnel.with_auth(auth);
        }
        match tower_service::Service::call(&mut tunnel, target.clone()).await {
            Ok(stream) => Ok(stream.into_inner()),
            Err(error) => Err(ConnectError::Proxy {
                proxy: proxy.authority().map_or_else(String::new, ToString::to_string),
                reason: error.to_string(),
            }),
        }
    }

    async fn handshake(&self, host: &str, tcp: TcpStream) -> Result<TlsStream<TcpStream>, ConnectError> {
        let failed = |reason: String| ConnectError::Tls {
            host: host.to_owned(),
            reason,
        };
        let config = self
            .tls
            .get_or_try_init(|| async {
                let (options, roots) = (self.options.clone(), Arc::clone(&self.roots));
                tokio::task::spawn_blocking(move || tls::config(&options, &roots))
                    .await
                    .unwrap_or_else(|e| Err(e.to_string()))
            })
            .await
            .map_err(failed)?;
        let name = ServerName::try_from(host.to_owned()).map_err(|e| failed(e.to_string()))?;
        TlsConnector::from(Arc::clone(config))
            .connect(name, tcp)
            .await
            .map_err(|e| failed(e.to_string()))
    }

    /// The addresses of `host`: itself if it is one, this machine for `localhost`, else /etc/hosts and DNS.
    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, ConnectError> {
        if let Ok(address) = host.parse() {
            return Ok(vec![address]);
        }
        if host.eq_ignore_ascii_case("localhost") {
            return Ok(vec![[127, 0, 0, 1].into(), std::net::Ipv6Addr::LOCALHOST.into()]);
        }
        let failed = |reason: String| ConnectError::Dns {
            host: host.to_owned(),
            reason,
        };
        let resolver = self
            .resolver
            .get_or_try_init(|| async {
                let mut builder = TokioResolver::builder_tokio()?;
                builder.options_mut().ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
                builder.build()
            })
            .await
            .map_err(|e| failed(e.to_string()))?;
        let found = resolver
            .lookup_ip(host)
            .await
            .map_err(|e| failed(e.to_string()))?;
        let addresses: Vec<_> = found.iter().take(MAX_ADDRESSES).collect();
        if addresses.is_empty() {
            Err(failed("it has no address".into()))
        } else {
            Ok(addresses)
        }
    }
}

async fn first_to_answer(
    host: &str,
    addresses: impl Iterator<Item = SocketAddr>,
) -> Result<TcpStream, ConnectError> {
    let mut attempts: FuturesUnordered<_> = (0u32..)
        .zip(addresses)
        .map(|(i, address)| async move {
            tokio::time::sleep(STAGGER * i).await;
            TcpStream::connect(address)
                .await
                .map_err(|source| ConnectError::Tcp {
                    address: address.to_string(),
                    source,
                })
        })
        .collect();
    let mut last = ConnectError::Dns {
        host: host.to_owned(),
        reason: "it has no address".into(),
    };
    while let Some(outcome) = attempts.next().await {
        match outcome {
            Ok(tcp) => {
                let _ = tcp.set_nodelay(true);
                return Ok(tcp);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The host without the brackets of an IPv6 address.
fn host_of(target: &Uri) -> Result<String, ConnectError> {
    let host = target.host().ok_or_else(|| ConnectError::Url(target.clone()))?;
    Ok(host
        .strip_prefix('[')
        .and_then(|h| h.strip_suffix(']'))
        .unwrap_or(host)
        .to_owned())
}

/// Hands a connection that is there already to [`Tunnel`], which wants to make one.
struct Dialled(Option<TcpStream>);

impl tower_service::Service<Uri> for Dialled {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = std::future::Ready<io::Result<TokioIo<TcpStream>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        std::future::ready(
            self.0
                .take()
                .map(TokioIo::new)
                .ok_or_else(|| io::ErrorKind::NotConnected.into()),
        )
    }
}

/// An open connection.
pub(super) enum Stream {
    Plain { tcp: TcpStream, proxied: bool },
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        match self {
            // A proxy wants to see whole URLs; within a tunnel it sees nothing.
            Self::Plain { proxied, .. } => Connected::new().proxy(*proxied),
            Self::Tls(_) => Connected::new(),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain { tcp, .. } => Pin::new(tcp).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain { tcp, .. } => Pin::new(tcp).poll_write(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain { tcp, .. } => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain { tcp, .. } => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests;
