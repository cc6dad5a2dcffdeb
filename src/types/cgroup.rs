//! How a process gets into its control group, in a form that can travel to the process that does it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Which cgroup interface of the kernel the controllers are on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CgroupVersion {
    /// One hierarchy per controller, or a hybrid of that with an unused unified hierarchy.
    #[default]
    V1,
    /// The unified hierarchy.
    V2,
}

/// Where a new process has to go. Made by `cgroup`, acted on by `executor`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CgroupJoin {
    /// Version 1: the cgroup's directory in each mounted hierarchy. The last one is the hierarchy in which the cgroup is
    /// frozen and killed; the others may be shared with a parent.
    ///
    /// A process with one thread joins by writing `0` into `tasks` of each. That is `cgroup.procs` without the lock on all
    /// of the node's processes, for which the kernel waits out a grace period: ten milliseconds on an idle node.
    V1(Vec<PathBuf>),
    /// Version 2: the cgroup's directory; the child is cloned into it.
    V2(PathBuf),
}
