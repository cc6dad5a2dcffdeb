//! One stream, as seen from inside.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use super::connection::{Outgoing, Shared};
use super::frame::{self, Control, Reset};
use super::header::Headers;
use crate::stream::queue::{End, Queue, weight};

/// Longest data frame sent, in bytes.
pub const MAX_DATA: usize = 32 * 1024;
/// Bytes consumed before the peer is told; half of the smallest window.
pub(super) const TELL_AFTER: u32 = 32 * 1024;

/// The stream takes nothing more: the client has reset it, or is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed;

/// What the connection knows of a stream.
pub(super) struct Inner {
    pub id: u32,
    headers: Headers,
    pub incoming: Queue,
    /// We send nothing more.
    local_done: AtomicBool,
    /// The peer sends nothing more.
    remote_done: AtomicBool,
    reset: AtomicBool,
}

impl Inner {
    pub fn new(id: u32, headers: Headers, unidirectional: bool) -> Self {
        Self {
            id,
            headers,
            incoming: Queue::default(),
            local_done: AtomicBool::new(unidirectional),
            remote_done: AtomicBool::new(false),
            reset: AtomicBool::new(false),
        }
    }

    pub fn mark_remote_done(&self) {
        self.remote_done.store(true, Ordering::Relaxed);
    }

    pub fn mark_reset(&self) {
        self.reset.store(true, Ordering::Relaxed);
    }
}

/// A stream. Dropped unfinished, it is reset.
pub struct Stream {
    inner: Arc<Inner>,
    shared: Arc<Shared>,
    accepted: AtomicBool,
    untold: std::sync::atomic::AtomicU32,
}

impl Stream {
    pub(super) fn new(inner: Arc<Inner>, shared: Arc<Shared>) -> Self {
        Self {
            inner,
            shared,
            accepted: AtomicBool::new(false),
            untold: std::sync::atomic::AtomicU32::new(0),
        }
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.inner.id
    }

    /// What the client said of it.
    pub fn headers(&self) -> &Headers {
        &self.inner.headers
    }

    /// Answers the client, who waits for it. A stream dropped before that is refused.
    pub fn accept(&self) {
        if !self.accepted.swap(true, Ordering::Relaxed) {
            self.shared.reply(self.inner.id);
        }
    }

    /// What the client sends next. Cancel safe; for one consumer at a time.
    ///
    /// # Errors
    /// Nothing comes any more.
    pub async fn recv(&self) -> Result<Bytes, End> {
        let chunk = self.inner.incoming.pop().await?;
        self.shared.forget(weight(&chunk));
        let length = chunk.len() as u32;
        let untold = self.untold.load(Ordering::Relaxed) + length;
        // A peer that lets what it is told here pile up does not read, and is let go.
        if untold >= TELL_AFTER {
            self.shared.control(&Control::WindowUpdate {
                stream: self.inner.id,
                delta: untold,
            });
            self.untold.store(0, Ordering::Relaxed);
        } else {
            self.untold.store(untold, Ordering::Relaxed);
        }
        self.shared.credit(length);
        Ok(chunk)
    }

    /// Sends `data`, and waits until the connection has taken it.
    ///
    /// # Errors
    /// The client does not want it.
    pub async fn send(&self, mut data: Bytes) -> Result<(), Closed> {
        while !data.is_empty() {
            let allowed = self.window(data.len().min(MAX_DATA)).await?;
            let piece = data.split_to(allowed);
            self.frame(false, &piece).await?;
        }
        Ok(())
    }

    /// Tells the client that nothing more comes, behind all that was sent.
    pub async fn finish(&self) {
        if !self.inner.local_done.swap(true, Ordering::Relaxed) && !self.inner.reset.load(Ordering::Relaxed) {
            let _ = self.frame(true, &[]).await;
        }
    }

    /// Resets the stream, behind all that was sent.
    pub async fn reset(&self) {
        if !self.inner.reset.swap(true, Ordering::Relaxed) {
            let frame = Control::RstStream {
                stream: self.inner.id,
                status: Reset::InternalError as u32,
            };
            let _ = self.shared.out.send(Outgoing::Frame(frame.encode())).await;
        }
    }

    /// Throws away what the client has sent and will send, without telling but that other streams may send instead.
    pub fn discard(&self) {
        let discarded = self.inner.incoming.discard();
        self.shared.forget(discarded.weight);
        // A queue is far smaller than 4 GiB.
        self.shared.credit(discarded.bytes as u32);
    }

    async fn frame(&self, fin: bool, data: &[u8]) -> Result<(), Closed> {
        let mut frame = Vec::with_capacity(frame::HEAD + data.len());
        frame.extend_from_slice(&frame::data_head(self.inner.id, fin, data.len()));
        frame.extend_from_slice(data);
        let sent = self.shared.out.send(Outgoing::Frame(frame)).await;
        if sent.is_err() || self.shared.is_closed() {
            return Err(Closed);
        }
        Ok(())
    }

    /// Takes up to `wanted` bytes from the windows, if the peer keeps any.
    async fn window(&self, wanted: usize) -> Result<usize, Closed> {
        loop {
            let moved = self.shared.flow_moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            if self.shared.is_closed() || self.inner.reset.load(Ordering::Relaxed) {
                return Err(Closed);
            }
            {
                let mut flow = self.shared.lock_flow();
                let own = flow.streams.get(&self.inner.id).copied().unwrap_or(0);
                let left = own.min(flow.connection).min(wanted as i64);
                let allowed = if flow.kept { left.max(0) } else { wanted as i64 };
                if allowed > 0 {
                    // Counted from the start: a peer may show only later that it keeps windows.
                    flow.connection -= allowed;
                    if let Some(own) = flow.streams.get_mut(&self.inner.id) {
                        *own -= allowed;
                    }
                    return Ok(allowed as usize);
                }
            }
            moved.await;
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.discard();
        self.shared.remove(self.inner.id);
        let local_done = self.inner.local_done.load(Ordering::Relaxed);
        let remote_done = self.inner.remote_done.load(Ordering::Relaxed);
        // What is finished must not be reset, though the client's own end may still be open: the reset would overtake
        // what was sent last.
        if self.inner.reset.load(Ordering::Relaxed)
            || (local_done && (remote_done || self.accepted.load(Ordering::Relaxed)))
        {
            return;
        }
        let why = if self.accepted.load(Ordering::Relaxed) {
            Reset::Cancel
        } else {
            Reset::RefusedStream
        };
        self.shared.control(&Control::RstStream {
            stream: self.inner.id,
            status: why as u32,
        });
    }
}
