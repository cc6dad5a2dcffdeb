//! A bounded queue of bytes from one reader of a connection to one consumer.
//!
//! Whoever fills it asks for room first; whoever empties it makes room. What nobody wants any more is thrown away, so that
//! a reader never waits for a consumer that is gone.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

/// Most bytes that wait on one channel. More than this may be there by one chunk.
pub const CAPACITY: usize = 128 * 1024;

/// What `chunk` weighs against [`CAPACITY`]: many small ones cost more than their bytes.
pub fn weight(chunk: &Bytes) -> usize {
    chunk.len() + 64
}

/// What was thrown away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Discarded {
    /// How many bytes of the client.
    pub bytes: usize,
    /// What they weighed, see [`weight`].
    pub weight: usize,
}

/// Why nothing more comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The client has said that it is done.
    Finished,
    /// The client has taken the channel back.
    Reset,
    /// The client is gone.
    Lost,
}

#[derive(Debug, Default)]
struct State {
    chunks: VecDeque<Bytes>,
    weight: usize,
    end: Option<End>,
    unwanted: bool,
}

/// The queue.
#[derive(Debug, Default)]
pub struct Queue {
    state: Mutex<State>,
    filled: Notify,
    emptied: Notify,
}

impl Queue {
    /// Adds `chunk`, whether or not there is room. `false`: it was thrown away, for nobody wants it.
    pub fn push(&self, chunk: Bytes) -> bool {
        let mut state = self.lock();
        if state.unwanted || state.end.is_some() {
            return false;
        }
        if chunk.is_empty() {
            return true;
        }
        state.weight += weight(&chunk);
        state.chunks.push_back(chunk);
        drop(state);
        self.filled.notify_one();
        true
    }

    /// Waits until there is room for another chunk, or nobody wants one.
    pub async fn room(&self) {
        self.lighter_than(CAPACITY).await;
    }

    /// Waits until nothing is there, or nobody wants it.
    pub async fn empty(&self) {
        self.lighter_than(1).await;
    }

    async fn lighter_than(&self, weight: usize) {
        loop {
            {
                let state = self.lock();
                if state.weight < weight || state.unwanted {
                    return;
                }
            }
            self.emptied.notified().await;
        }
    }

    /// Nothing more comes. The first reason stands, but for a client that is gone.
    pub fn end(&self, end: End) {
        let mut state = self.lock();
        if state.end.is_none() || end == End::Lost {
            state.end = Some(end);
        }
        drop(state);
        self.filled.notify_one();
    }

    /// The next chunk, or why there is none. Cancel safe; for one consumer at a time.
    ///
    /// # Errors
    /// The end, again and again.
    pub async fn pop(&self) -> Result<Bytes, End> {
        loop {
            {
                let mut state = self.lock();
                if let Some(chunk) = state.chunks.pop_front() {
                    state.weight -= weight(&chunk);
                    drop(state);
                    self.emptied.notify_one();
                    return Ok(chunk);
                }
                if let Some(end) = state.end {
                    return Err(end);
                }
            }
            self.filled.notified().await;
        }
    }

    /// Nobody wants what is there, nor what still comes. Tells what was there.
    pub fn discard(&self) -> Discarded {
        let mut state = self.lock();
        state.unwanted = true;
        let chunks = std::mem::take(&mut state.chunks);
        let weight = std::mem::take(&mut state.weight);
        drop(state);
        self.emptied.notify_one();
        let bytes = chunks.iter().map(Bytes::len).sum();
        Discarded { bytes, weight }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn what_is_pushed_comes_out_in_order_and_then_the_end() {
        let queue = Queue::default();
        for chunk in ["one", "", "two"] {
            assert!(queue.push(Bytes::from_static(chunk.as_bytes())));
        }
        queue.end(End::Finished);
        queue.end(End::Reset);
        assert!(!queue.push(Bytes::from_static(b"late")));
        assert_eq!(queue.pop().await.unwrap(), "one");
        assert_eq!(queue.pop().await.unwrap(), "two");
        assert_eq!(queue.pop().await, Err(End::Finished));
        queue.end(End::Lost);
        assert_eq!(queue.pop().await, Err(End::Lost));
    }

    #[tokio::test]
    async fn a_full_queue_has_no_room_until_somebody_takes_or_gives_up() {
        let queue = Queue::default();
        queue.room().await;
        queue.push(Bytes::from(vec![0; CAPACITY]));
        let waits = |queue: &Queue| {
            let mut room = Box::pin(queue.room());
            futures_util::FutureExt::now_or_never(&mut room).is_none()
        };
        assert!(waits(&queue));
        let (_, chunk) = tokio::join!(queue.room(), queue.pop());
        assert_eq!(chunk.unwrap().len(), CAPACITY);
        queue.push(Bytes::from(vec![0; CAPACITY]));
        assert!(waits(&queue));
        let (_, thrown) = tokio::join!(queue.room(), async { queue.discard() });
        assert_eq!(
            thrown,
            Discarded {
                bytes: CAPACITY,
                weight: CAPACITY + 64
            }
        );
        assert!(!queue.push(Bytes::from_static(b"unwanted")));
    }
}
