//! Where the endpoint listens: an address and port, or a unix socket.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::socket;
use crate::types::error::{Context as _, Error, Result};

/// A place to listen at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// Address and port.
    Tcp(SocketAddr),
    /// Path of a unix socket.
    Unix(PathBuf),
}

impl Address {
    /// `127.0.0.1:9100`, `[::1]:9100` or `unix:///run/husk/metrics.sock`.
    ///
    /// # Errors
    /// It is neither.
    pub fn parse(text: &str) -> Result<Self> {
        if let Some(path) = text.strip_prefix("unix://") {
            return match path.starts_with('/') {
                true => Ok(Self::Unix(path.into())),
                false => Err(Error::invalid(format!(
                    "metrics.address {text:?}: the path must be absolute"
                ))),
            };
        }
        text.parse().map(Self::Tcp).map_err(|_| {
            Error::invalid(format!(
                "metrics.address {text:?}: give an IP address and port such as 127.0.0.1:9640, or unix:///path"
            ))
        })
    }

    /// Takes a unix socket's file away.
    pub(super) fn remove(&self) {
        if let Self::Unix(path) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    pub(super) async fn bind(address: &Address) -> Result<Self> {
        match address {
            Address::Tcp(at) => {
                let bound = TcpListener::bind(at).await;
                Ok(Self::Tcp(
                    bound.with_context(|| format!("metrics: listen on {at}"))?,
                ))
            }
            Address::Unix(path) => {
                let bound = socket::listen(path, 0o660).await;
                Ok(Self::Unix(bound.map_err(|e| e.context("metrics"))?))
            }
        }
    }

    pub(super) async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => Ok(Stream::Tcp(listener.accept().await?.0)),
            Self::Unix(listener) => Ok(Stream::Unix(listener.accept().await?.0)),
        }
    }
}

/// A connection of either kind.
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn addresses_are_an_ip_or_a_path() {
        assert!(matches!(Address::parse("127.0.0.1:9640"), Ok(Address::Tcp(a)) if a.port() == 9640));
        assert!(matches!(Address::parse("[::1]:9640"), Ok(Address::Tcp(_))));
        assert_eq!(
            Address::parse("unix:///run/m").unwrap(),
            Address::Unix("/run/m".into())
        );
        for wrong in ["", "9640", ":9640", "localhost:9640", "unix://m", "/run/m"] {
            let error = Address::parse(wrong).unwrap_err();
            assert!(error.message().contains("metrics.address"), "{error}");
        }
    }
}
