//! SPDY within the messages of a WebSocket: a byte stream whose cuts into messages mean nothing.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use futures_util::{Sink as _, Stream as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{self, Message};

use super::socket::Socket;
use super::websocket;

/// Longest message sent.
const MAX_DATA: usize = 32 * 1024;

/// The byte stream.
pub struct Tunnel {
    socket: WebSocketStream<Socket>,
    rest: Bytes,
}

/// Makes a byte stream of `socket`, on which a WebSocket begins.
pub async fn open(socket: Socket) -> Tunnel {
    Tunnel {
        socket: websocket::accept(socket).await,
        rest: Bytes::new(),
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
                Some(Ok(Message::Binary(data))) => self.rest = data,
                Some(Ok(Message::Text(_))) => {
                    return Poll::Ready(Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "a text message in a tunnel of bytes",
                    )));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(foreign(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let n = self.rest.len().min(buf.remaining());
        buf.put_slice(&self.rest[..n]);
        self.rest.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let mut socket = Pin::new(&mut self.socket);
        ready!(socket.as_mut().poll_ready(cx)).map_err(foreign)?;
        let data = &data[..data.len().min(MAX_DATA)];
        let message = Message::binary(Bytes::copy_from_slice(data));
        socket.as_mut().start_send(message).map_err(foreign)?;
        // What does not go out now goes with the next write or flush.
        let _ = socket.poll_flush(cx).map_err(foreign)?;
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx).map_err(foreign)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_close(cx).map_err(foreign)
    }
}

fn foreign(error: tungstenite::Error) -> io::Error {
    match error {
        tungstenite::Error::Io(error) => error,
        other => io::Error::other(other),
    }
}
