//! A client's TCP connection after HTTP has let go of it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use super::activity::HungUp;
use crate::types::error::{Error, Result};

/// A connection and what was read from it already. Others may look whether the peer has hung up.
#[derive(Debug)]
pub struct Socket {
    read_ahead: Bytes,
    tcp: Arc<TcpStream>,
}

impl Socket {
    /// Takes the connection out of `upgraded`.
    ///
    /// # Errors
    /// It is not a TCP connection of our listener.
    pub fn from_upgraded(upgraded: Upgraded) -> Result<Self> {
        let parts = upgraded
            .downcast::<TokioIo<TcpStream>>()
            .map_err(|_| Error::internal("the upgraded connection is not a TCP connection"))?;
        Ok(Self::new(parts.io.into_inner(), parts.read_buf))
    }

    /// `read_ahead` was read from `tcp` already.
    pub fn new(tcp: TcpStream, read_ahead: Bytes) -> Self {
        Self {
            read_ahead,
            tcp: Arc::new(tcp),
        }
    }

    /// Tells whether the peer has closed its end, even while nobody reads what it sent before.
    pub fn hung_up(&self) -> HungUp {
        let tcp = Arc::clone(&self.tcp);
        Arc::new(move || {
            use futures_util::FutureExt as _;
            let ready = tcp.ready(Interest::READABLE).now_or_never();
            matches!(ready, Some(Ok(ready)) if ready.is_read_closed())
        })
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.read_ahead.is_empty() {
            let n = self.read_ahead.len().min(buf.remaining());
            buf.put_slice(&self.read_ahead[..n]);
            self.read_ahead.advance(n);
            return Poll::Ready(Ok(()));
        }
        loop {
            ready!(self.tcp.poll_read_ready(cx))?;
            match self.tcp.try_read(buf.initialize_unfilled()) {
                Ok(n) => {
                    buf.advance(n);
                    return Poll::Ready(Ok(()));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.tcp.poll_write_ready(cx))?;
            match self.tcp.try_write(data) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match rustix::net::shutdown(&*self.tcp, rustix::net::Shutdown::Write) {
            Ok(()) | Err(rustix::io::Errno::NOTCONN) => Poll::Ready(Ok(())),
            Err(e) => Poll::Ready(Err(e.into())),
        }
    }
}
