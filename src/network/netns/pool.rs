//! Namespaces made ahead of need: making one costs half a millisecond and its tail ten, handing one out a few
//! microseconds.
//!
//! Pooled namespaces are held by descriptor only, so the node's mount table does not grow with the pool.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

use super::{create, unshare_here};
use crate::types::Result;

/// A taker goes on to attach its pod; making the next namespace at once would compete with that for the processor and
/// for the kernel's network locks. One delay serves a whole burst.
const REST: Duration = Duration::from_millis(10);

/// A stock of ready network namespaces, refilled by a thread of its own.
pub struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    ready: Vec<OwnedFd>,
    wanted: usize,
}

impl Pool {
    /// Starts filling a pool of `wanted` namespaces; 0 makes each one on demand.
    pub fn start(wanted: usize) -> Self {
        let state = State {
            ready: Vec::with_capacity(wanted),
            wanted,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        if wanted > 0 {
            let for_thread = Arc::clone(&shared);
            let started = thread::Builder::new()
                .name("husk-netns-pool".into())
                .spawn(move || refill(&for_thread));
            if let Err(error) = started {
                tracing::warn!(%error, "no thread for the network namespace pool; namespaces are made on demand");
            }
        }
        Self { shared }
    }

    /// A namespace with its loopback device up: from the pool if it has one, else made now.
    ///
    /// # Errors
    /// As [`create`].
    pub fn take(&self) -> Result<OwnedFd> {
        let pooled = self.shared.lock().ready.pop();
        self.shared.changed.notify_one();
        pooled.map_or_else(create, Ok)
    }

    /// Drops what is pooled and ends the thread. [`Pool::take`] still works, on demand.
    pub fn close(&self) {
        let mut state = self.shared.lock();
        state.wanted = 0;
        state.ready.clear();
        self.shared.changed.notify_all();
    }

    /// How many namespaces are ready.
    #[cfg(test)]
    pub fn ready(&self) -> usize {
        self.shared.lock().ready.len()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a namespace is missing. `false` once the pool is closed.
    fn wait_for_need(&self) -> bool {
        let mut state = self.lock();
        while state.wanted > 0 && state.ready.len() >= state.wanted {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.wanted > 0
    }

    /// Adds a namespace, unless the pool was closed meanwhile. `true` if the pool is full now.
    fn put(&self, netns: OwnedFd) -> bool {
        let mut state = self.lock();
        if state.ready.len() < state.wanted {
            state.ready.push(netns);
        }
        state.ready.len() >= state.wanted
    }

    /// Waits `for_` or until something changes, so that a kernel at its limit is not asked in a tight loop.
    fn pause(&self, for_: Duration) {
        let state = self.lock();
        if state.wanted > 0 {
            let _ = self.changed.wait_timeout(state, for_);
        }
    }
}

/// The thread's life. It goes home after each namespace: one that it stayed in would outlive its pod.
fn refill(shared: &Shared) {
    let Ok(home) = File::open("/proc/thread-self/ns/net") else {
        tracing::warn!("cannot open /proc/thread-self/ns/net; network namespaces are made on demand");
        return;
    };
    let mut full = false;
    while shared.wait_for_need() {
        if full {
            thread::sleep(REST);
        }
        let made = unshare_here();
        if let Err(error) = setns(home.as_fd(), CloneFlags::CLONE_NEWNET) {
            tracing::warn!(%error, "the pool's thread cannot leave a namespace; network namespaces are made on demand");
            return;
        }
        match made {
            Ok(netns) => full = shared.put(netns),
            Err(error) => {
                tracing::warn!(%error, "cannot make a network namespace ahead of need");
                shared.pause(Duration::from_secs(1));
            }
        }
    }
}
