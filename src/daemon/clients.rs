//! The connections of clients: how many there may be, and when one is taken for dead.
//!
//! A client costs a descriptor and some memory for as long as it pleases, and the socket is the node's lifeline. So the
//! number is bounded, a connection on which nothing comes for long is closed (a live HTTP/2 client answers the server's
//! pings), and running out of descriptors is waited out instead of spun on. Knows nothing of what is said on them.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream::{self, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};
use tonic::transport::server::Connected;
use tracing::warn;

/// Most clients at a time. kubelet is one or two.
const MAX_CLIENTS: usize = 1000;
/// How often a client is asked for a sign of life. Rarely: one that is stopped for a while, by a debugger or a full disk,
/// should find its connection as it was.
pub(super) const PING_INTERVAL: Duration = Duration::from_secs(300);
/// How long it may take to give one.
pub(super) const PING_TIMEOUT: Duration = Duration::from_secs(300);
/// How long nothing may come before the connection is closed: more than a ping and its answer take. It ends those that
/// never began to speak HTTP/2, who are not pinged.
const SILENCE: Duration = Duration::from_secs(900);
/// How long to wait when the node is out of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);

/// Takes connections as they come.
pub(super) fn incoming(listener: UnixListener) -> impl Stream<Item = io::Result<Client>> {
    let slots = Arc::new(Semaphore::new(MAX_CLIENTS));
    stream::unfold((listener, slots), |(listener, slots)| async {
        let client = next(&listener, &slots).await;
        Some((Ok(client), (listener, slots)))
    })
}

async fn next(listener: &UnixListener, slots: &Arc<Semaphore>) -> Client {
    // Said once for each time that it begins.
    let (mut failing, mut full) = (false, false);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => match Arc::clone(slots).try_acquire_owned() {
                Ok(slot) => return Client::new(stream, slot, SILENCE),
                Err(_) => {
                    if !std::mem::replace(&mut full, true) {
                        warn!(
                            MAX_CLIENTS,
                            "too many clients are connected; closing new connections"
                        );
                    }
                }
            },
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    warn!(%error, "cannot accept a connection; trying again");
                }
                sleep(PAUSE).await;
            }
        }
    }
}

/// A connection.
pub(super) struct Client {
    stream: UnixStream,
    patience: Duration,
    silence: Pin<Box<Sleep>>,
    _slot: OwnedSemaphorePermit,
}

impl Client {
    fn new(stream: UnixStream, slot: OwnedSemaphorePermit, patience: Duration) -> Self {
        Self {
            stream,
            patience,
            silence: Box::pin(sleep(patience)),
            _slot: slot,
        }
    }
}

impl Connected for Client {
    type ConnectInfo = ();

    fn connect_info(&self) -> Self::ConnectInfo {}
}

impl AsyncRead for Client {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_read(cx, buffer) {
            Poll::Ready(read) => {
                let until = Instant::now() + self.patience;
                self.silence.as_mut().reset(until);
                Poll::Ready(read)
            }
            Poll::Pending => match self.silence.as_mut().poll(cx) {
                Poll::Ready(()) => Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("nothing came from this client for {:?}", self.patience),
                ))),
                Poll::Pending => Poll::Pending,
            },
        }
    }
}

impl AsyncWrite for Client {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use futures_util::StreamExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn listener() -> (tempfile::TempDir, std::path::PathBuf, UnixListener) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        (dir, path, listener)
    }

    #[tokio::test]
    async fn one_client_too_many_is_hung_up_on_and_a_place_that_is_left_is_given_again() {
        let (_dir, path, listener) = listener();
        let slots = Arc::new(Semaphore::new(1));
        let _far = UnixStream::connect(&path).await.unwrap();
        let near = next(&listener, &slots).await;
        let mut refused = UnixStream::connect(&path).await.unwrap();
        let waiting = tokio::spawn(async move { next(&listener, &slots).await });
        // Read to its end: it was closed.
        assert_eq!(refused.read(&mut [0; 1]).await.unwrap(), 0);
        drop(near);
        let mut last = UnixStream::connect(&path).await.unwrap();
        let mut near = waiting.await.unwrap();
        near.write_all(b"x").await.unwrap();
        assert_eq!(last.read(&mut [0; 1]).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn silence_ends_a_connection() {
        let (mut far, near) = UnixStream::pair().unwrap();
        let slot = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let mut client = Client::new(near, slot, Duration::from_millis(20));
        far.write_all(b"x").await.unwrap();
        assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 1);
        let error = client.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn clients_come_one_after_the_other() {
        let (_dir, path, listener) = listener();
        let clients = incoming(listener);
        tokio::pin!(clients);
        for _ in 0..3 {
            let _far = UnixStream::connect(&path).await.unwrap();
            assert!(clients.next().await.unwrap().is_ok());
        }
    }
}
