//! How often what was done, how long it took and how it went: counted where it happens, read when somebody asks.
//!
//! Global as logs are: whoever does something need not be handed a registry. The number of names is bounded.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Upper bounds of the latency buckets, in seconds. They include those that Prometheus' own clients use by default.
pub const BUCKETS: [f64; 18] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0,
    240.0,
];

/// Names beyond this are counted together: a client can make up method names as it likes.
const MAX_NAMES: usize = 256;
const OTHERS: &str = "other";

/// How an operation that went well ends.
pub const OK: &str = "OK";

/// What kind of operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A gRPC call, by `service/method`.
    Call,
    /// Work of the pod network, by what it does.
    Network,
}

/// What is known of one operation.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// How many ended, by outcome: [`OK`] or the name of an error.
    pub outcomes: BTreeMap<&'static str, u64>,
    /// Latency of those that went well.
    pub fine: Histogram,
    /// Latency of the others.
    pub failed: Histogram,
    /// Latency of the last one that ended, in seconds.
    pub last: f64,
    /// When those under way began, oldest first.
    pub running: Vec<Instant>,
}

/// A distribution of latencies.
#[derive(Debug, Clone, Default)]
pub struct Histogram {
    /// How many, by the bucket they fall into; the last one has no upper bound.
    pub buckets: [u64; BUCKETS.len() + 1],
    /// All of them together, in seconds.
    pub sum: f64,
}

impl Histogram {
    fn add(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = BUCKETS.iter().position(|bound| seconds <= *bound);
        self.buckets[bucket.unwrap_or(BUCKETS.len())] += 1;
        self.sum += seconds;
    }

    /// How many in all.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

type Table = BTreeMap<(Kind, String), Arc<Mutex<Counts>>>;

static TABLE: Mutex<Table> = Mutex::new(Table::new());
static OOM_KILLED: AtomicU64 = AtomicU64::new(0);

/// An operation under way. Dropped without an end, it counts as cancelled.
pub struct Running {
    counts: Arc<Mutex<Counts>>,
    began: Instant,
    outcome: &'static str,
}

/// An operation begins.
pub fn begin(kind: Kind, name: &str) -> Running {
    let counts = {
        let mut table = lock(&TABLE);
        let known = table.contains_key(&(kind, name.to_owned()));
        let name = if known || table.len() < MAX_NAMES {
            name
        } else {
            OTHERS
        };
        Arc::clone(table.entry((kind, name.to_owned())).or_default())
    };
    let began = Instant::now();
    lock(&counts).running.push(began);
    Running {
        counts,
        began,
        outcome: "CANCELLED",
    }
}

impl Running {
    /// It ended, as [`OK`] or with the name of an error.
    pub fn end(mut self, outcome: &'static str) {
        self.outcome = outcome;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let took = self.began.elapsed();
        let mut counts = lock(&self.counts);
        if let Some(at) = counts.running.iter().position(|began| *began == self.began) {
            counts.running.remove(at);
        }
        *counts.outcomes.entry(self.outcome).or_default() += 1;
        counts.last = took.as_secs_f64();
        let latency = if self.outcome == OK {
            &mut counts.fine
        } else {
            &mut counts.failed
        };
        latency.add(took);
    }
}

/// All operations of a kind by name.
pub fn all(kind: Kind) -> Vec<(String, Counts)> {
    let found: Vec<_> = lock(&TABLE)
        .iter()
        .filter(|((k, _), _)| *k == kind)
        .map(|((_, name), counts)| (name.clone(), Arc::clone(counts)))
        .collect();
    found
        .into_iter()
        .map(|(name, counts)| (name, lock(&counts).clone()))
        .collect()
}

/// A container ended because the kernel killed it for want of memory.
pub fn container_ran_out_of_memory() {
    OOM_KILLED.fetch_add(1, Ordering::Relaxed);
}

/// How many containers did, since the daemon started.
pub fn containers_out_of_memory() -> u64 {
    OOM_KILLED.load(Ordering::Relaxed)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn counts(name: &str) -> Counts {
        let found = all(Kind::Network).into_iter().find(|(n, _)| n == name);
        found.unwrap().1
    }

    #[test]
    fn what_ends_is_counted_by_outcome_and_what_is_dropped_was_cancelled() {
        begin(Kind::Network, "test-a").end(OK);
        begin(Kind::Network, "test-a").end("NOT_FOUND");
        drop(begin(Kind::Network, "test-a"));
        let running = begin(Kind::Network, "test-a");
        let seen = counts("test-a");
        let outcomes: Vec<_> = seen.outcomes.into_iter().collect();
        assert_eq!(outcomes, [("CANCELLED", 1), ("NOT_FOUND", 1), (OK, 1)]);
        assert_eq!(
            (seen.fine.count(), seen.failed.count(), seen.running.len()),
            (1, 2, 1)
        );
        running.end(OK);
        assert!(counts("test-a").running.is_empty());
    }

    #[test]
    fn a_latency_falls_into_the_first_bucket_that_holds_it() {
        let mut histogram = Histogram::default();
        histogram.add(Duration::from_millis(1));
        histogram.add(Duration::from_micros(1001));
        histogram.add(Duration::from_secs(1000));
        assert_eq!((histogram.buckets[1], histogram.buckets[2]), (1, 1));
        assert_eq!(histogram.buckets[BUCKETS.len()], 1);
        assert_eq!(histogram.count(), 3);
        assert!((histogram.sum - 1000.002).abs() < 0.001);
    }
}
