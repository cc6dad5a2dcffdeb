//! What the kernel answers when asked. Calls are tried rather than versions compared: distributions carry features back,
//! and the seccomp filter of an outer container takes them away.

use std::path::Path;

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::mount::OpenTreeFlags;

use crate::types::cgroup::CgroupVersion;

use super::files;

const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// Version 2 if the unified hierarchy is where the controllers are looked for.
pub(super) fn cgroup_version() -> CgroupVersion {
    match statfs(CGROUP_ROOT) {
        Ok(fs) if fs.filesystem_type() == CGROUP2_SUPER_MAGIC => CgroupVersion::V2,
        _ => CgroupVersion::V1,
    }
}

pub(super) fn openat2() -> bool {
    rustix::fs::openat2(
        CWD,
        ".",
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT,
    )
    .is_ok()
}

/// Opening a tree without cloning it changes nothing and needs no privilege.
pub(super) fn detached_mounts() -> bool {
    rustix::mount::open_tree(CWD, "/", OpenTreeFlags::OPEN_TREE_CLOEXEC).is_ok()
}

/// Labels count: a policy is loaded. Until then every process has the label of the kernel.
pub(super) fn selinux() -> bool {
    let own = files::line("/proc/self/attr/current");
    std::path::Path::new("/sys/fs/selinux/enforce").exists() && own.trim_end_matches('\0') != "kernel"
}

/// A limit of zero is how administrators forbid them.
pub(super) fn user_namespaces() -> bool {
    let limit = files::line("/proc/sys/user/max_user_namespaces").parse::<u64>();
    Path::new("/proc/self/ns/user").exists() && limit.map_or(true, |n| n > 0)
}

/// Whether a memory cgroup has a swap limit. The root cgroup of version 2 shows none, so any below it is asked.
pub(super) fn swap_accounting(version: CgroupVersion) -> bool {
    let root = Path::new(CGROUP_ROOT);
    if version == CgroupVersion::V1 {
        return root.join("memory/memory.memsw.limit_in_bytes").exists();
    }
    let own = files::line("/proc/self/cgroup");
    let own = root.join(own.strip_prefix("0::/").unwrap_or_default());
    let below = std::fs::read_dir(root)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path());
    std::iter::once(own)
        .chain(below.take(256))
        .any(|dir| dir.join("memory.swap.max").exists())
}
