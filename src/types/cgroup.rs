//! How a process gets into its control group, in a form that can travel to the process that does it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where a new process has to go. Made by `cgroup`, acted on by `executor`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CgroupJoin {
    /// Version 1: the cgroup's directory in each mounted hierarchy; the child writes itself into `cgroup.procs` of each.
    V1(Vec<PathBuf>),
    /// Version 2: the cgroup's directory; the child is cloned into it.
    V2(PathBuf),
}
