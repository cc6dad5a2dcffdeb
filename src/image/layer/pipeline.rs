//! Three stages on three threads, and the ring of buffers that goes round between them.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use super::decode::{Decoded, Decoder};
use super::hash::Hasher;
use super::{Expected, LayerError, Limits};
use crate::types::Digest;

/// Bytes of a buffer. A multiple of the tar block, so that no header straddles two buffers.
const CHUNK: usize = 256 << 10;
/// Buffers on the way. A layer in work holds at most `RING * CHUNK` bytes of archive.
const RING: usize = 8;

/// The writing stage's end of the ring.
pub(super) struct Chunks {
    ready: Receiver<Vec<u8>>,
    spent: SyncSender<Vec<u8>>,
}

impl Chunks {
    /// Hands back a buffer and waits for the next. Every buffer but the last holds whole tar blocks. `None` means that
    /// nothing more comes, because the archive ended or because an earlier stage failed.
    pub(super) fn exchange(&mut self, spent: Vec<u8>) -> Option<Vec<u8>> {
        if spent.capacity() > 0 {
            // Fails only when the decoder has gone; then the buffer is of no use to anyone.
            let _ = self.spent.send(spent);
        }
        self.ready.recv().ok()
    }
}

/// Runs all stages. The error of an early stage is the cause of those of the later ones and wins.
pub(super) fn run<R: Read + Send, T: Send>(
    source: R,
    expected: &Expected<'_>,
    limits: &Limits,
    write: impl FnOnce(Chunks) -> Result<T, LayerError> + Send,
) -> Result<(Decoded, Digest, T), LayerError> {
    let (spent, empty) = sync_channel(RING);
    let (filled, to_hash) = sync_channel(RING);
    let (hashed, ready) = sync_channel(RING);
    for _ in 0..RING {
        // The channel holds as many.
        let _ = spent.send(Vec::new());
    }
    thread::scope(|scope| {
        let decoder = thread::Builder::new()
            .name("layer-decode".into())
            .spawn_scoped(scope, move || decode(source, expected, limits, &empty, &filled))
            .map_err(|e| LayerError::io("start a thread", e))?;
        let writer = thread::Builder::new()
            .name("layer-write".into())
            .spawn_scoped(scope, move || write(Chunks { ready, spent }))
            .map_err(|e| LayerError::io("start a thread", e));
        let diff_id = hash(expected, &to_hash, hashed);
        drop(to_hash);
        let written = writer.map(thread::ScopedJoinHandle::join);
        let decoded = rethrow(decoder.join())?;
        let written = rethrow(written?)?;
        let stopped = || {
            LayerError::io(
                "unpack the layer",
                io::Error::other("a stage stopped without a reason"),
            )
        };
        Ok((decoded.ok_or_else(stopped)?, diff_id?, written))
    })
}

/// Returns `None` when the later stages went away; they know why.
fn decode<R: Read>(
    source: R,
    expected: &Expected<'_>,
    limits: &Limits,
    empty: &Receiver<Vec<u8>>,
    filled: &SyncSender<Vec<u8>>,
) -> Result<Option<Decoded>, LayerError> {
    let mut decoder = Decoder::new(source, expected, limits)?;
    while let Ok(mut chunk) = empty.recv() {
        chunk.resize(CHUNK, 0);
        let n = decoder.fill(&mut chunk)?;
        chunk.truncate(n);
        if n > 0 && filled.send(chunk).is_err() {
            return Ok(None);
        }
        if n < CHUNK {
            return decoder.finish().map(Some);
        }
    }
    Ok(None)
}

fn hash(
    expected: &Expected<'_>,
    filled: &Receiver<Vec<u8>>,
    hashed: SyncSender<Vec<u8>>,
) -> Result<Digest, LayerError> {
    let mut hasher = Hasher::like(Some(expected.diff_id));
    for chunk in filled {
        hasher.update(&chunk);
        if hashed.send(chunk).is_err() {
            break;
        }
    }
    hasher.finish()
}

fn rethrow<T>(joined: thread::Result<T>) -> T {
    joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
