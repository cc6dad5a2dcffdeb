//! The last reading of each cgroup, shared by all who ask within a second, and the rates between readings.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::cgroup::{Detail, Stats as CgroupStats};
use crate::types::error::Result;
use crate::types::time::now_nanos;

use super::Processes;

/// How old a reading may be that is given out again. A rate is taken over at least this long.
pub(super) const FRESH: Duration = Duration::from_secs(1);

/// One reading of a cgroup.
#[derive(Debug)]
pub struct Reading {
    /// When, in nanoseconds since the epoch.
    pub at: i64,
    /// What the kernel said.
    pub cgroup: CgroupStats,
    /// What `/proc` said.
    pub processes: Processes,
    /// CPU time in nanoseconds per second since the reading before; `None` for the first.
    pub cpu_nano_cores: Option<u64>,
}

#[derive(Default)]
pub(super) struct Sampler(Mutex<HashMap<String, Arc<Mutex<Slot>>>>);

/// What is known of one cgroup. Its lock is held while it is read: who comes second waits and takes the result.
#[derive(Default)]
struct Slot {
    last: Option<(Instant, Detail, Arc<Reading>)>,
    /// Where the next rate starts.
    base: Option<(Instant, u64)>,
}

impl Sampler {
    /// The last reading if it is fresh and has enough detail, or a new one made by `take`.
    pub(super) fn read(
        &self,
        id: &str,
        detail: Detail,
        take: impl FnOnce() -> Result<(CgroupStats, Processes)>,
    ) -> Result<Arc<Reading>> {
        let slot = {
            let mut slots = lock(&self.0);
            match slots.get(id) {
                Some(slot) => Arc::clone(slot),
                None => Arc::clone(slots.entry(id.to_owned()).or_default()),
            }
        };
        lock(&slot).read(Instant::now(), detail, take)
    }

    pub(super) fn len(&self) -> usize {
        lock(&self.0).len()
    }

    /// Forgets what `keep` does not want.
    pub(super) fn retain(&self, keep: impl Fn(&str) -> bool) {
        lock(&self.0).retain(|id, _| keep(id));
    }
}

impl Slot {
    fn read(
        &mut self,
        now: Instant,
        detail: Detail,
        take: impl FnOnce() -> Result<(CgroupStats, Processes)>,
    ) -> Result<Arc<Reading>> {
        if let Some((taken, had, reading)) = &self.last
            && now.saturating_duration_since(*taken) < FRESH
            && *had >= detail
        {
            return Ok(Arc::clone(reading));
        }
        let (cgroup, processes) = take()?;
        let usage = cgroup.cpu.usage_nanos;
        let cpu_nano_cores = match self.base {
            Some((then, before)) if now.saturating_duration_since(then) >= FRESH => {
                self.base = Some((now, usage));
                rate(now.saturating_duration_since(then), usage.saturating_sub(before))
            }
            // Read again for more detail: too soon for a rate of its own.
            Some(_) => self.last.as_ref().and_then(|(_, _, r)| r.cpu_nano_cores),
            None => {
                self.base = Some((now, usage));
                None
            }
        };
        let reading = Arc::new(Reading {
            at: now_nanos(),
            cgroup,
            processes,
            cpu_nano_cores,
        });
        self.last = Some((now, detail, Arc::clone(&reading)));
        Ok(reading)
    }
}

fn rate(elapsed: Duration, nanos: u64) -> Option<u64> {
    let per_second = u128::from(nanos) * 1_000_000_000 / elapsed.as_nanos().max(1);
    u64::try_from(per_second).ok()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn used(nanos: u64) -> Result<(CgroupStats, Processes)> {
        let mut stats = CgroupStats::default();
        stats.cpu.usage_nanos = nanos;
        Ok((stats, Processes::default()))
    }

    fn never() -> Result<(CgroupStats, Processes)> {
        panic!("the reading at hand would have done")
    }

    #[test]
    fn a_reading_is_shared_for_a_second_and_then_taken_anew_with_a_rate() {
        let (mut slot, start) = (Slot::default(), Instant::now());
        let first = slot.read(start, Detail::Usage, || used(1000)).unwrap();
        assert_eq!(first.cpu_nano_cores, None);
        let again = slot.read(start + FRESH / 2, Detail::Usage, never).unwrap();
        assert!(Arc::ptr_eq(&first, &again));
        let later = slot
            .read(start + 2 * FRESH, Detail::Usage, || used(1_001_000))
            .unwrap();
        assert_eq!(later.cpu_nano_cores, Some(500_000));
    }

    #[test]
    fn more_detail_means_another_reading_but_keeps_the_rate() {
        let (mut slot, start) = (Slot::default(), Instant::now());
        slot.read(start, Detail::Usage, || used(0)).unwrap();
        slot.read(start + FRESH, Detail::Usage, || used(7)).unwrap();
        let full = slot
            .read(start + FRESH + Duration::from_millis(1), Detail::Full, || used(9))
            .unwrap();
        assert_eq!((full.cgroup.cpu.usage_nanos, full.cpu_nano_cores), (9, Some(7)));
        slot.read(start + FRESH + Duration::from_millis(2), Detail::Usage, never)
            .unwrap();
        // The next rate still starts at the reading of a second ago.
        let next = slot.read(start + 2 * FRESH, Detail::Full, || used(27)).unwrap();
        assert_eq!(
            next.cpu_nano_cores,
            Some(7),
            "not taken: the full reading is fresh"
        );
        let next = slot.read(start + 3 * FRESH, Detail::Full, || used(27)).unwrap();
        assert_eq!(next.cpu_nano_cores, Some(10));
    }

    #[test]
    fn a_counter_that_goes_back_is_no_trouble_and_an_error_keeps_nothing() {
        let (mut slot, start) = (Slot::default(), Instant::now());
        slot.read(start, Detail::Usage, || used(50)).unwrap();
        let gone = slot.read(start + FRESH, Detail::Usage, || {
            Err(crate::types::Error::not_found("gone"))
        });
        assert!(gone.is_err());
        let back = slot.read(start + 2 * FRESH, Detail::Usage, || used(10)).unwrap();
        assert_eq!(back.cpu_nano_cores, Some(0));
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let sampler = Sampler::default();
        sampler.read("a", Detail::Usage, || used(1)).unwrap();
        sampler.read("b", Detail::Usage, || used(1)).unwrap();
        sampler.retain(|id| id == "b");
        assert_eq!(sampler.len(), 1);
    }
}
