//! How far a pull is.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::types::Digest;

/// How often a watcher is told.
const INTERVAL: Duration = Duration::from_millis(100);

/// What is happening to a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerState {
    /// Its turn has not come.
    Waiting,
    /// Being fetched and unpacked in one go.
    Fetching,
    /// Here; `done` bytes of it had to be fetched.
    Done,
}

/// One layer of a pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerProgress {
    /// Digest of the compressed layer.
    pub digest: Digest,
    /// Its bytes.
    pub total: u64,
    /// Bytes that arrived.
    pub done: u64,
    /// What is happening to it.
    pub state: LayerState,
}

/// A whole pull. No layers are known before the manifest is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bottom first.
    pub layers: Vec<LayerProgress>,
}

/// Where a layer's progress is counted.
#[derive(Debug)]
pub(super) struct LayerMeter {
    digest: Digest,
    total: u64,
    pub(super) done: Arc<AtomicU64>,
    state: AtomicU8,
}

impl LayerMeter {
    pub(super) fn new(digest: Digest, total: u64) -> Arc<Self> {
        Arc::new(Self {
            digest,
            total,
            done: Arc::default(),
            state: AtomicU8::new(0),
        })
    }

    pub(super) fn set(&self, state: LayerState) {
        self.state.store(state as u8, Ordering::Relaxed);
    }

    fn read(&self) -> LayerProgress {
        let state = match self.state.load(Ordering::Relaxed) {
            0 => LayerState::Waiting,
            1 => LayerState::Fetching,
            _ => LayerState::Done,
        };
        let done = self.done.load(Ordering::Relaxed);
        LayerProgress {
            digest: self.digest.clone(),
            total: self.total,
            done,
            state,
        }
    }
}

/// Where a pull's progress is counted.
#[derive(Debug, Default)]
pub(super) struct Meter(Mutex<Vec<Arc<LayerMeter>>>);

impl Meter {
    /// Sets the layers, bottom first.
    pub(super) fn set(&self, layers: Vec<Arc<LayerMeter>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = layers;
    }

    /// Has layer `i` counted elsewhere: by the pull that fetches it already.
    pub(super) fn replace(&self, i: usize, meter: Arc<LayerMeter>) {
        if let Some(slot) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get_mut(i) {
            *slot = meter;
        }
    }

    fn read(&self) -> Progress {
        let layers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Progress {
            layers: layers.iter().map(|l| l.read()).collect(),
        }
    }

    /// Waits for `work`, telling `sender` how it goes, and once more at the end.
    pub(super) async fn report<T>(
        &self,
        sender: &watch::Sender<Progress>,
        work: impl Future<Output = T>,
    ) -> T {
        let mut work = std::pin::pin!(work);
        let mut ticks = tokio::time::interval(INTERVAL);
        let result = loop {
            tokio::select! {
                result = &mut work => break result,
                _ = ticks.tick() => self.tell(sender),
            }
        };
        self.tell(sender);
        result
    }

    fn tell(&self, sender: &watch::Sender<Progress>) {
        let now = self.read();
        sender.send_if_modified(|before| {
            let changed = *before != now;
            *before = now;
            changed
        });
    }
}
