//! Control groups: version 1 and 2, limits, device rules, statistics, freezing and killing.
//!
//! [`Cgroups`] is the node's set-up, probed once by the daemon; [`Cgroup`] is one cgroup, in whatever process holds it.
//! Paths are relative to the mount point of each hierarchy, and nothing outside those is ever written. All of it blocks:
//! the longest waits are bounded by constants in `kill` and `remove`.
//!
//! This module knows nothing of pods, containers or CRI; it takes OCI resources and paths. Only `systemd` speaks D-Bus.

mod cgroups;
mod controller;
mod devices;
mod file;
mod group;
mod kill;
mod limit;
mod mounts;
mod oom;
mod path;
mod remove;
mod resources;
mod stats;
mod systemd;
mod v1;
mod v2;

pub use crate::types::cgroup::CgroupVersion as Version;
pub use cgroups::{Cgroups, Driver};
pub use group::Cgroup;
pub use oom::oom_kills;
pub use resources::{limits, resources, stated};
pub use stats::{Cpu, Detail, Hugetlb, Io, Limits, Memory, Pids, Pressure, Psi, Stats, Swap};

#[cfg(test)]
mod tests;
