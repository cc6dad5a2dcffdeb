//! What this node can do: read once at start, passed to whoever has to choose, and a plain struct that tests fill in.
//!
//! A probe that fails means "cannot"; nothing here is an error. Nothing here knows what the answers are for.

mod features;
mod files;

use serde::Serialize;

use crate::types::cgroup::CgroupVersion;

pub use files::hugepage_sizes;

/// Capability numbers that decide what husk may do.
const CAP_SYS_RESOURCE: u8 = 24;

/// The node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Host {
    /// Kernel version, major and minor: (6, 12).
    pub kernel: (u32, u32),
    /// Kernel release in full, as `uname -r` has it.
    pub kernel_release: String,
    /// Machine in the names of OCI platforms: `amd64`, `arm64`, `riscv64`.
    pub arch: String,
    /// Which cgroup interface the controllers are on.
    pub cgroup: CgroupVersion,
    /// The kernel has overlayfs.
    pub overlay: bool,
    /// overlayfs takes its lower layers one by one (`lowerdir+`), without a limit on their joint length: 6.5.
    pub overlay_lowerdir_append: bool,
    /// overlayfs takes idmapped mounts as lower layers: 5.19.
    pub overlay_idmapped_lowers: bool,
    /// clone3(2) can start a process inside a version 2 cgroup (`CLONE_INTO_CGROUP`): 5.7.
    pub clone_into_cgroup: bool,
    /// openat2(2), with `RESOLVE_IN_ROOT`: 5.6.
    pub openat2: bool,
    /// mount_setattr(2): recursive read-only and idmapped mounts: 5.12.
    pub mount_setattr: bool,
    /// The new mount calls take detached trees (`fsopen`, `open_tree`, `move_mount`): 5.2.
    pub detached_mounts: bool,
    /// Version 2 cgroups have `cgroup.kill`: 5.14. Version 1 never has it.
    pub cgroup_kill: bool,
    /// Pressure stall information is on.
    pub psi: bool,
    /// AppArmor is on, so that profiles can be named.
    pub apparmor: bool,
    /// SELinux is on, so that labels count.
    pub selinux: bool,
    /// What a seccomp filter may answer, by the kernel's names; empty without seccomp.
    pub seccomp_actions: Vec<String>,
    /// husk's capability bounding set, one bit per number: no container can have more.
    pub capability_bounding: u64,
    /// Highest capability number the kernel knows.
    pub last_capability: u8,
    /// `CAP_SYS_RESOURCE` is effective: `oom_score_adj` may be lowered and hard limits raised.
    pub sys_resource: bool,
    /// User namespaces can be made.
    pub user_namespaces: bool,
    /// Why image layers cannot be shown with the owners of a user namespace; `None` if they can. Found out by trying it
    /// where the layers are, which takes a process of one thread: see `Launcher::try_id_maps`.
    pub id_mapped_layers_problem: Option<String>,
    /// Changes with every boot.
    pub boot_id: String,
    /// Memory cgroups count swap, so that it can be limited.
    pub swap_accounting: bool,
    /// Memory in bytes.
    pub memory_total: u64,
    /// Swap in bytes.
    pub swap_total: u64,
    /// CPUs this process may use.
    pub cpus: usize,
    /// Huge page sizes as cgroup files name them: `2MB`, `1GB`.
    pub hugepage_sizes: Vec<String>,
}

/// What clients may ask for, worked out in one place: what is advertised is what works.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Features {
    /// Pods may have a user namespace of their own.
    pub user_namespaces: bool,
    /// Even with the node's network.
    pub user_namespaces_host_network: bool,
    /// Mounts may be read-only all the way down.
    pub recursive_read_only_mounts: bool,
    /// Groups of the image's `/etc/group` may be left out.
    pub supplemental_groups_policy: bool,
}

impl Host {
    /// Looks at the node this process runs on.
    pub fn probe() -> Self {
        let kernel_release = files::line("/proc/sys/kernel/osrelease");
        let kernel = files::version(&kernel_release);
        let cgroup = features::cgroup_version();
        let status = files::status();
        Self {
            kernel,
            kernel_release,
            arch: arch().to_owned(),
            cgroup,
            overlay: files::file_system("overlay"),
            overlay_lowerdir_append: kernel >= (6, 5),
            overlay_idmapped_lowers: kernel >= (5, 19) && crate::sys::probe::mount_setattr(),
            clone_into_cgroup: kernel >= (5, 7),
            openat2: features::openat2(),
            mount_setattr: crate::sys::probe::mount_setattr(),
            detached_mounts: features::detached_mounts(),
            cgroup_kill: cgroup == CgroupVersion::V2 && kernel >= (5, 14),
            psi: files::line("/proc/pressure/cpu").starts_with("some"),
            apparmor: files::line("/sys/module/apparmor/parameters/enabled") == "Y",
            selinux: features::selinux(),
            seccomp_actions: files::words("/proc/sys/kernel/seccomp/actions_avail"),
            capability_bounding: status.bounding,
            last_capability: files::line("/proc/sys/kernel/cap_last_cap").parse().unwrap_or(0),
            sys_resource: status.effective & (1 << CAP_SYS_RESOURCE) != 0,
            user_namespaces: features::user_namespaces(),
            id_mapped_layers_problem: Some("nobody has tried it yet".to_owned()),
            boot_id: files::line("/proc/sys/kernel/random/boot_id"),
            swap_accounting: features::swap_accounting(cgroup),
            memory_total: files::meminfo("MemTotal"),
            swap_total: files::meminfo("SwapTotal"),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            hugepage_sizes: hugepage_sizes(),
        }
    }

    /// What runtime handlers offer on this node.
    pub fn features(&self) -> Features {
        let user_namespaces = self.user_namespaces && self.id_mapped_layers_problem.is_none();
        Features {
            user_namespaces,
            user_namespaces_host_network: user_namespaces,
            recursive_read_only_mounts: self.mount_setattr,
            supplemental_groups_policy: true,
        }
    }

    /// The node runs the unified cgroup hierarchy.
    pub fn unified_cgroup(&self) -> bool {
        self.cgroup == CgroupVersion::V2
    }
}

/// The machine this program was built for, by the names of OCI platforms.
fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    }
}

#[cfg(test)]
mod tests;
