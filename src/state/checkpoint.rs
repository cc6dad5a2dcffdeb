//! Moves the write-ahead log into the database, away from those who wait for a commit.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use rusqlite::Connection;

use super::{Result, schema};
use crate::types::error::Context as _;

/// After about so many bytes of log a checkpoint is due.
const DUE: usize = 4 << 20;
/// What a commit adds to the log beside the value itself: a page of the tree and one of the index.
const OVERHEAD: usize = 8 << 10;
/// Pages of 4 KiB from which on the log must be started anew even if a writer has to wait for it.
const TOO_LONG: i64 = (32 << 20) / 4096;

/// The thread that checkpoints. Ends when dropped.
pub(super) struct Checkpointer {
    pending: AtomicUsize,
    wake: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpointer {
    pub(super) fn start(path: &Path) -> Result<Self> {
        let connection = schema::connect(path).map_err(|e| schema::explain(path, "open", &e))?;
        let (wake, woken) = sync_channel(1);
        let path = path.to_owned();
        let thread = std::thread::Builder::new()
            .name("state-checkpoint".into())
            .stack_size(256 << 10)
            .spawn(move || run(&path, &connection, &woken))
            .context("start the thread that checkpoints the state database")?;
        Ok(Self {
            pending: AtomicUsize::new(0),
            wake: Some(wake),
            thread: Some(thread),
        })
    }

    /// Notes a commit of values of `size` bytes, and wakes the thread when enough has come together.
    pub(super) fn written(&self, size: usize) {
        if self.pending.fetch_add(size + OVERHEAD, Ordering::Relaxed) > DUE {
            self.pending.store(0, Ordering::Relaxed);
            if let Some(wake) = &self.wake {
                // Full means a wake-up is on its way already.
                let _ = wake.try_send(());
            }
        }
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.wake = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(path: &Path, connection: &Connection, woken: &Receiver<()>) {
    while woken.recv().is_ok() {
        let outcome = checkpoint(connection, "PASSIVE").and_then(|pages| {
            // Passive takes what it can without holding up the writer, who starts the log anew only once nothing was
            // left over. A writer without a pause never lets that happen: then, and only then, make it wait.
            if pages > TOO_LONG {
                checkpoint(connection, "RESTART")
            } else {
                Ok(pages)
            }
        });
        if let Err(error) = outcome {
            tracing::warn!(path = %path.display(), %error, "checkpoint of the state database failed; its log grows until one succeeds");
        }
    }
}

/// Returns the length of the log in pages.
fn checkpoint(connection: &Connection, mode: &str) -> rusqlite::Result<i64> {
    connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| row.get(1))
}
