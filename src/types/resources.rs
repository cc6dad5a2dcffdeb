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
        if !new.hugepage_limits.is_empty() {
            self.hugepage_limits = new.hugepage_limits;
        }
        self.unified.extend(new.unified);
    }
}
