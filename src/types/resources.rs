//! Resource limits as CRI states them. Zero and empty mean "not set", as on the wire.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// CPU, memory and other limits of a container or a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// CFS period in microseconds.
    pub cpu_period: i64,
    /// CFS quota in microseconds per period; negative means unlimited.
    pub cpu_quota: i64,
    /// Relative CPU weight on the cgroup v1 scale (2 to 262144).
    pub cpu_shares: i64,
    /// Memory limit in bytes; negative means unlimited.
    pub memory_limit: i64,
    /// Memory plus swap limit in bytes; negative means unlimited.
    pub memory_swap_limit: i64,
    /// OOM score adjustment, -1000 to 1000.
    pub oom_score_adj: i64,
    /// Cores the container may run on, such as `0-3,7`.
    pub cpuset_cpus: String,
    /// Memory nodes the container may use.
    pub cpuset_mems: String,
    /// Limit in bytes by huge page size (`2MB`, `1GB`).
    pub hugepage_limits: Vec<(String, u64)>,
    /// cgroup v2 files and values, written as they are.
    pub unified: BTreeMap<String, String>,
    /// Most processes and threads; 0 means not set. CRI has no field for it; the command line does.
    pub pids_limit: i64,
}

impl Resources {
    /// Takes over what is set in `new`; the rest stays.
    pub fn merge(&mut self, new: Self) {
        let number = |have: &mut i64, new: i64| {
            if new != 0 {
                *have = new;
            }
        };
        number(&mut self.cpu_period, new.cpu_period);
        number(&mut self.cpu_quota, new.cpu_quota);
        number(&mut self.cpu_shares, new.cpu_shares);
        number(&mut self.memory_limit, new.memory_limit);
        number(&mut self.memory_swap_limit, new.memory_swap_limit);
        number(&mut self.pids_limit, new.pids_limit);
        for (have, new) in [
            (&mut self.cpuset_cpus, new.cpuset_cpus),
            (&mut self.cpuset_mems, new.cpuset_mems),
        ] {
            if !new.is_empty() {
                *have = new;
            }
        }
        for (size, limit) in new.hugepage_limits {
            match self.hugepage_limits.iter_mut().find(|(s, _)| *s == size) {
                Some(known) => known.1 = limit,
                None => self.hugepage_limits.push((size, limit)),
            }
        }
        self.unified.extend(new.unified);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_and_empty_leave_what_was() {
        let before = Resources {
            cpu_quota: 5,
            memory_limit: 7,
            cpuset_cpus: "0-1".into(),
            hugepage_limits: vec![("2MB".into(), 1), ("1GB".into(), 2)],
            unified: [("memory.high".to_owned(), "9".to_owned())].into(),
            ..Default::default()
        };
        let mut have = before.clone();
        have.merge(Resources::default());
        assert_eq!(have, before);
        have.merge(Resources {
            memory_limit: -1,
            memory_swap_limit: 20,
            cpuset_mems: "0".into(),
            hugepage_limits: vec![("1GB".into(), 0), ("64KB".into(), 3)],
            unified: [("memory.low".to_owned(), "1".to_owned())].into(),
            ..Default::default()
        });
        assert_eq!(
            (
                have.cpu_quota,
                have.memory_limit,
                have.memory_swap_limit,
                have.cpuset_cpus.as_str(),
                have.cpuset_mems.as_str()
            ),
            (5, -1, 20, "0-1", "0")
        );
        let pages: Vec<_> = have
            .hugepage_limits
            .iter()
            .map(|(s, l)| (s.as_str(), *l))
            .collect();
        assert_eq!(pages, [("2MB", 1), ("1GB", 0), ("64KB", 3)]);
        assert_eq!(have.unified.len(), 2);
    }
}
