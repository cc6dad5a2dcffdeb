//! Deletes directory trees on a thread of its own: a layer may hold a hundred thousand files, and nobody should wait.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};

use super::layer;
use crate::types::Result;
use crate::types::error::Context as _;

enum Job {
    Delete(PathBuf, Box<dyn FnOnce() + Send>),
    Settle(Sender<()>),
}

/// The thread's mailbox. The thread ends once this is dropped and its work is done.
pub(super) struct Janitor(Sender<Job>);

impl Janitor {
    pub(super) fn start() -> Result<Self> {
        let (sender, receiver) = channel();
        std::thread::Builder::new()
            .name("image-janitor".into())
            .spawn(move || run(&receiver))
            .context("start the thread that deletes layers")?;
        Ok(Self(sender))
    }

    /// Has `path` deleted, then `done` called. A path that cannot be deleted is reported in the log and left for the next
    /// start; `done` is not called then.
    pub(super) fn delete(&self, path: PathBuf, done: impl FnOnce() + Send + 'static) {
        // The thread lives as long as the sender; if it died in a panic, the next start deletes the rest.
        let _ = self.0.send(Job::Delete(path, Box::new(done)));
    }

    /// Returns when everything asked for before is deleted.
    pub(super) fn settle(&self) {
        let (sender, receiver) = channel();
        if self.0.send(Job::Settle(sender)).is_ok() {
            let _ = receiver.recv();
        }
    }
}

fn run(jobs: &Receiver<Job>) {
    for job in jobs {
        match job {
            Job::Settle(sender) => {
                let _ = sender.send(());
            }
            Job::Delete(path, done) => {
                // Not every leftover is a directory.
                let outcome = match path.symlink_metadata() {
                    Ok(meta) if !meta.is_dir() => std::fs::remove_file(&path),
                    _ => layer::remove_tree(&path).map(drop),
                };
                match outcome {
                    Ok(()) => done(),
                    Err(error) => {
                        tracing::warn!(path = %path.display(), %error, "cannot delete; will be tried again at the next start")
                    }
                }
            }
        }
    }
}
