//! Connections from the daemon into a pod's network namespace.
//!
//! A socket belongs to the namespace of the thread that made it, for good. So a thread of its own visits the namespace to
//! make the sockets, and the runtime connects them from outside.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use tokio::net::{TcpSocket, TcpStream};

use super::{blocking, netns};
use crate::types::error::Context;
use crate::types::{Error, Kind, Result};

/// How long a listener on a loopback device may take to answer; only a full backlog makes it take any time.
const LIMIT: Duration = Duration::from_secs(10);

/// Connects to `port` of 127.0.0.1, or of ::1 if nobody listens there, within the namespace at `netns`; `None` is the
/// node's own.
///
/// # Errors
/// [`Kind::Unavailable`] if nobody listens on either.
pub async fn connect_to_loopback(netns: Option<&Path>, port: u16) -> Result<TcpStream> {
    let (four, six) = match netns {
        None => sockets()?,
        Some(path) => {
            let path: PathBuf = path.to_owned();
            blocking(move || netns::inside(&path, sockets)?).await?
        }
    };
    let four = connect(four, IpAddr::V4(Ipv4Addr::LOCALHOST), port).await;
    let refused = match four {
        Ok(stream) => return Ok(stream),
        Err(refused) => refused,
    };
    match connect(six, IpAddr::V6(Ipv6Addr::LOCALHOST), port).await {
        Ok(stream) => Ok(stream),
        Err(refused6) => Err(Error::new(
            Kind::Unavailable,
            format!("connect to port {port} in the pod: 127.0.0.1: {refused}; ::1: {refused6}"),
        )),
    }
}

/// One socket for each address family. The second is missing where the node has no IPv6.
fn sockets() -> Result<(io::Result<OwnedFd>, io::Result<OwnedFd>)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let make = |family| socket_with(family, SocketType::STREAM, flags, None).map_err(io::Error::from);
    Ok((make(AddressFamily::INET), make(AddressFamily::INET6)))
}

async fn connect(socket: io::Result<OwnedFd>, address: IpAddr, port: u16) -> Result<TcpStream> {
    let socket = socket.context("make a socket")?;
    // As an unconnected socket: the runtime connects it without ever blocking.
    let socket = TcpSocket::from_std_stream(socket.into());
    let connecting = socket.connect(SocketAddr::new(address, port));
    match tokio::time::timeout(LIMIT, connecting).await {
        Ok(connected) => connected.map_err(|e| Error::new(Kind::Unavailable, e.to_string())),
        Err(_) => Err(Error::new(
            Kind::Unavailable,
            format!("no answer within {LIMIT:?}"),
        )),
    }
}
