//! The streaming server: what Exec, Attach and PortForward of the CRI lead to.
//!
//! The CRI call answers with a one-time address on an HTTP server of husk's own ([`tokens`]); whoever comes there
//! ([`http`]) has the connection turned into SPDY/3.1 ([`spdy`]) or a WebSocket ([`websocket`]), whose channels ([`remote`])
//! are then joined to a process ([`session`]) or a port ([`port_forward`]).
//!
//! Owns connections of clients and what they may cost: addresses, connections, streams, buffers, header sizes and times
//! are all bounded. Must not know protobuf, nor how a process is started.

pub mod activity;
mod http;
mod listen;
mod negotiate;
mod port_forward;
pub mod queue;
mod remote;
pub mod resize;
mod session;
mod socket;
pub mod spdy;
mod status;
mod tls;
mod tokens;
mod tunnel;
pub mod websocket;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;

use crate::config;
use crate::pod::Runtime;
use crate::pod::interactive::Streams;
use crate::types::error::{Context as _, Result};
use crate::types::{ContainerId, PodId};

use tokens::Tokens;

/// Most sessions at once.
const MAX_SESSIONS: usize = 1024;

/// What an address allows.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Request {
    /// To run a command.
    Exec {
        container: ContainerId,
        cmd: Vec<String>,
        want: Streams,
    },
    /// To take part in a container's streams.
    Attach { container: ContainerId, want: Streams },
    /// To reach ports.
    PortForward { pod: PodId, ports: Vec<u16> },
}

impl Request {
    /// First part of the path.
    fn path(&self) -> &'static str {
        match self {
            Self::Exec { .. } => "exec",
            Self::Attach { .. } => "attach",
            Self::PortForward { .. } => "portforward",
        }
    }

    /// About how many bytes it holds.
    fn bytes(&self) -> usize {
        match self {
            Self::Exec { cmd, .. } => cmd.iter().map(|a| a.len() + size_of::<String>()).sum(),
            Self::Attach { .. } => 0,
            Self::PortForward { ports, .. } => ports.len() * size_of::<u16>(),
        }
    }
}

/// The server.
pub struct Server {
    shared: Arc<Shared>,
    address: SocketAddr,
    accepting: AbortHandle,
}

/// What all connections share.
struct Shared {
    runtime: Arc<Runtime>,
    tokens: Tokens<Request>,
    sessions: Arc<Semaphore>,
    /// 0: never.
    idle_timeout: Duration,
    creation_timeout: Duration,
    /// For connections that are encrypted.
    tls: Option<TlsAcceptor>,
}

impl Server {
    /// Listens, and serves until it is dropped. Sessions end with the daemon.
    ///
    /// # Errors
    /// The address cannot be used, or the certificate or its key.
    pub async fn start(config: &config::Stream, runtime: Arc<Runtime>) -> Result<Arc<Self>> {
        let tls = tls::acceptor(config)?;
        let wanted = SocketAddr::new(config.address, config.port);
        let listener = TcpListener::bind(wanted)
            .await
            .with_context(|| format!("listen on {wanted} (stream.address and stream.port)"))?;
        let address = listener.local_addr().context("ask for the streaming address")?;
        let shared = Arc::new(Shared {
            runtime,
            tokens: Tokens::default(),
            sessions: Arc::new(Semaphore::new(MAX_SESSIONS)),
            idle_timeout: Duration::from_secs(config.idle_timeout_secs),
            creation_timeout: Duration::from_secs(config.creation_timeout_secs),
            tls,
        });
        let accepting = tokio::spawn(listen::accept(listener, Arc::clone(&shared))).abort_handle();
        Ok(Arc::new(Self {
            shared,
            address,
            accepting,
        }))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// An address to run `cmd` at.
    ///
    /// # Errors
    /// `ResourceExhausted` if too many addresses wait to be used.
    pub fn exec(&self, container: ContainerId, cmd: Vec<String>, want: Streams) -> Result<String> {
        self.url(Request::Exec { container, cmd, want })
    }

    /// An address to attach at.
    ///
    /// # Errors
    /// As [`Server::exec`].
    pub fn attach(&self, container: ContainerId, want: Streams) -> Result<String> {
        self.url(Request::Attach { container, want })
    }

    /// An address to reach ports at; the client names them if `ports` is empty.
    ///
    /// # Errors
    /// As [`Server::exec`].
    pub fn port_forward(&self, pod: PodId, ports: Vec<u16>) -> Result<String> {
        self.url(Request::PortForward { pod, ports })
    }

    fn url(&self, request: Request) -> Result<String> {
        let path = request.path();
        let bytes = request.bytes();
        let token = self.shared.tokens.issue(request, bytes)?;
        let scheme = if self.shared.tls.is_some() {
            "https"
        } else {
            "http"
        };
        Ok(format!("{scheme}://{}/{path}/{token}", reachable(self.address)))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// kubelet comes from the node itself, so an address that stands for all is reached at the loopback address.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn addresses_can_be_reached_from_the_node() {
        for (listening, reached) in [
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("0.0.0.0:80", "127.0.0.1:80"),
            ("[::]:80", "[::1]:80"),
            ("[fe80::1]:80", "[fe80::1]:80"),
            ("10.1.2.3:80", "10.1.2.3:80"),
        ] {
            assert_eq!(reachable(listening.parse().unwrap()).to_string(), reached);
        }
    }
}
