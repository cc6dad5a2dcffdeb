//! From the async world to a thread: a bounded stream of bytes, written by a task and read with [`std::io::Read`].
//!
//! The reader sees the end only when the writer said so. A writer that just goes away is a cancellation, and the reader
//! gets an error: half a layer must never look like a whole one.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::layer::Cancelled;

/// Pieces under way at most. A piece is what one read of the socket gave: some 8 to 400 KiB.
const DEPTH: usize = 8;

/// A pipe whose progress is counted in `done`.
pub(crate) fn pipe(done: Arc<AtomicU64>) -> (Writer, Reader) {
    let (sender, receiver) = mpsc::channel(DEPTH);
    done.store(0, Ordering::Relaxed);
    (
        Writer {
            sender,
            position: 0,
            done,
            source: None,
        },
        Reader {
            receiver,
            current: Bytes::new(),
            ended: false,
        },
    )
}

enum Piece {
    Data(Bytes),
    End,
}

/// The task's end.
pub(crate) struct Writer {
    sender: mpsc::Sender<Piece>,
    position: u64,
    done: Arc<AtomicU64>,
    source: Option<String>,
}

impl Writer {
    /// How many bytes were sent.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Sends one piece, waiting for room. False when the reader is gone.
    pub(crate) async fn send(&mut self, data: Bytes) -> bool {
        let length = data.len() as u64;
        if self.sender.send(Piece::Data(data)).await.is_err() {
            return false;
        }
        self.position += length;
        self.done.store(self.position, Ordering::Relaxed);
        true
    }

    /// Says that this was all.
    pub(crate) async fn finish(&mut self) {
        // A reader that is gone already does not care.
        let _ = self.sender.send(Piece::End).await;
    }

    /// Notes where the bytes come from; the first source is kept.
    pub(crate) fn note_source(&mut self, host: &str) {
        self.source.get_or_insert_with(|| host.to_owned());
    }

    /// Where the (first of the) bytes came from.
    pub(crate) fn source(&self) -> Option<&str> {
        self.source.as_deref()
    }
}

/// The thread's end. Reading blocks; not for use on a runtime's own threads.
pub(crate) struct Reader {
    receiver: mpsc::Receiver<Piece>,
    current: Bytes,
    ended: bool,
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() && !self.ended {
            match self.receiver.blocking_recv() {
                Some(Piece::Data(data)) => self.current = data,
                Some(Piece::End) => self.ended = true,
                None => return Err(io::Error::other(Cancelled)),
            }
        }
        let n = buffer.len().min(self.current.len());
        buffer[..n].copy_from_slice(&self.current.split_to(n));
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn what_was_sent_is_read_and_ends() {
        let done = Arc::new(AtomicU64::new(9));
        let (mut writer, mut reader) = pipe(Arc::clone(&done));
        let thread = std::thread::spawn(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).map(|_| all)
        });
        for _ in 0..20 {
            assert!(writer.send(Bytes::from_static(b"abc")).await);
        }
        writer.finish().await;
        assert_eq!(thread.join().unwrap().unwrap(), b"abc".repeat(20));
        assert_eq!((writer.position(), done.load(Ordering::Relaxed)), (60, 60));
    }

    #[tokio::test]
    async fn a_lost_writer_is_not_an_end() {
        let (mut writer, mut reader) = pipe(Arc::default());
        assert!(writer.send(Bytes::from_static(b"abc")).await);
        drop(writer);
        let thread = std::thread::spawn(move || reader.read_to_end(&mut Vec::new()));
        let error = thread.join().unwrap().unwrap_err();
        assert!(error.get_ref().unwrap().is::<Cancelled>());
    }

    #[tokio::test]
    async fn a_lost_reader_is_noticed() {
        let (mut writer, reader) = pipe(Arc::default());
        drop(reader);
        assert!(!writer.send(Bytes::from_static(b"abc")).await);
        assert_eq!(writer.position(), 0);
    }
}
