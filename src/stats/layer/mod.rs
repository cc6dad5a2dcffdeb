//! How much a container has written into its writable layer, without walking it when asked.
//!
//! There is no counter for this that every file system has. So a layer is measured once, the rest is knowing when it may
//! have changed: not while no process of the container has used any CPU time since the last measurement, and never
//! without a process. A layer that may have changed is measured again in the background, at most every [`REST`] and by one
//! thread that sleeps nine tenths of its time, a slice of each layer in turn so that a huge one does not hold up the
//! others. Callers get the last result with its time. The thread ends when there is nothing left to measure.

mod walk;

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::types::time::now_nanos;

use walk::Walk;

/// How long a measurement stands at least, whatever the container does.
const REST: Duration = Duration::from_secs(5);
/// And at least this many times what it took, so that no layer takes more than a hundredth of a core.
const REST_PER_COST: u32 = 100;
/// Entries looked at before the caller's very first answer; all of most layers.
const FIRST: usize = 256;
/// Entries looked at in a row in the background.
const SLICE: usize = 1024;
/// The thread sleeps this many times as long as it works.
const IDLE_PER_WORK: u32 = 9;
/// Longest sleep, after a slice that was slow because the disk was.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// Size of a writable layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerUsage {
    /// When that was so, in nanoseconds since the epoch.
    pub at: i64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Files, directories and everything else.
    pub inodes: u64,
}

#[derive(Default)]
pub(super) struct Layers(Mutex<State>);

#[derive(Default)]
struct State {
    known: HashMap<String, Layer>,
    queue: VecDeque<Job>,
    working: bool,
}

/// What is known of one layer.
struct Layer {
    usage: Option<LayerUsage>,
    /// When the measurement began, and what the container's activity was then.
    begun: Instant,
    activity: u64,
    cost: Duration,
    measuring: bool,
}

/// A measurement under way.
struct Job {
    id: String,
    walk: Walk,
    cost: Duration,
}

impl Layers {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// The size of a container's layer in `dir`, as far as it is known. `activity` is any number that changes when a
    /// process of the container runs.
    pub(super) fn usage(self: &Arc<Self>, id: &str, dir: &Path, activity: u64) -> Option<LayerUsage> {
        let mut state = self.lock();
        if let Some(layer) = state.known.get(id) {
            if !layer.may_differ(activity) {
                return layer.usage.map(|u| LayerUsage { at: now_nanos(), ..u });
            }
            if layer.measuring || !layer.is_due(Instant::now()) {
                return layer.usage;
            }
        }
        let known = state.known.entry(id.to_owned()).or_insert_with(Layer::unknown);
        let first = known.usage.is_none();
        known.measuring = true;
        known.activity = activity;
        known.begun = Instant::now();
        drop(state);

        let mut job = Job {
            id: id.to_owned(),
            walk: Walk::new(dir),
            cost: Duration::ZERO,
        };
        // The first time somebody waits for it, and most layers hold next to nothing.
        if first && job.step(FIRST) {
            self.done(job);
        } else {
            self.enqueue(job);
        }
        self.lock().known.get(id).and_then(|layer| layer.usage)
    }

    pub(super) fn len(&self) -> usize {
        self.lock().known.len()
    }

    /// Forgets what `keep` does not want.
    pub(super) fn retain(&self, keep: impl Fn(&str) -> bool) {
        let mut state = self.lock();
        state.known.retain(|id, _| keep(id));
        state.queue.retain(|job| keep(&job.id));
    }

    fn enqueue(self: &Arc<Self>, job: Job) {
        let mut state = self.lock();
        state.queue.push_back(job);
        if state.working {
            return;
        }
        let this = Arc::clone(self);
        let started = std::thread::Builder::new()
            .name("husk-layers".into())
            .stack_size(256 << 10)
            .spawn(move || this.work());
        match started {
            Ok(_) => state.working = true,
            // Without a thread nothing is measured now; the next call tries again.
            Err(error) => {
                tracing::warn!(%error, "writable layers cannot be measured");
                while let Some(job) = state.queue.pop_front() {
                    state.known.remove(&job.id);
                }
            }
        }
    }

    /// Measures what is queued, a slice of each in turn.
    fn work(&self) {
        loop {
            let mut job = {
                let mut state = self.lock();
                match state.queue.pop_front() {
                    Some(job) => job,
                    None => {
                        state.working = false;
                        return;
                    }
                }
            };
            let before = job.cost;
            if job.step(SLICE) {
                let spent = job.cost - before;
                self.done(job);
                rest_after(spent);
            } else {
                rest_after(job.cost - before);
                self.lock().queue.push_back(job);
            }
        }
    }

    fn done(&self, job: Job) {
        if let Some(layer) = self.lock().known.get_mut(&job.id) {
            layer.measuring = false;
            layer.cost = job.cost;
            // A layer that is gone leaves no figure behind.
            layer.usage = job.walk.found().map(|(bytes, inodes)| LayerUsage {
                at: now_nanos(),
                bytes,
                inodes,
            });
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Layer {
    fn unknown() -> Self {
        Self {
            usage: None,
            begun: Instant::now(),
            activity: 0,
            cost: Duration::ZERO,
            measuring: false,
        }
    }

    /// Whether the layer may be different from what was measured.
    fn may_differ(&self, activity: u64) -> bool {
        self.usage.is_none() || self.activity != activity
    }

    fn is_due(&self, now: Instant) -> bool {
        let rest = self.cost.saturating_mul(REST_PER_COST).max(REST);
        self.usage.is_none() || now.saturating_duration_since(self.begun) >= rest
    }
}

impl Job {
    /// Goes on for at most `entries`. True when done.
    fn step(&mut self, entries: usize) -> bool {
        let started = Instant::now();
        let done = self.walk.step(entries);
        self.cost += started.elapsed();
        done
    }
}

fn rest_after(work: Duration) {
    std::thread::sleep(work.saturating_mul(IDLE_PER_WORK).min(LONGEST_SLEEP));
}

#[cfg(test)]
mod tests;
