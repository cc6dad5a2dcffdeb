//! A pod's `/dev/shm`, which its containers share.
//!
//! Where the kernel lets a mount be cloned that is attached nowhere (6.15), the supervisor holds it and the node sees
//! nothing. Older kernels need a mount at a path, one for each pod.

use std::path::PathBuf;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::spec::selinux::mount_options;
use crate::types::PodId;
use crate::types::error::{Context, Error, Result};
use crate::types::security::{IdMapping, NamespaceMode};

use super::Runtime;
use super::sandbox::Pod;

impl Runtime {
    /// Where containers take `/dev/shm` from: the descriptor that the supervisor holds, or a mount made here with the
    /// SELinux label `label`, if any.
    pub(super) fn shm_source(
        &self,
        pod: &Pod,
        supervisor: i32,
        held: Option<i32>,
        label: &str,
    ) -> Result<PathBuf> {
        if let Some(fd) = held {
            return Ok(format!("/proc/{supervisor}/fd/{fd}").into());
        }
        if pod.config.security.namespaces.ipc == NamespaceMode::Node {
            return Ok("/dev/shm".into());
        }
        let dir = self.paths.shm(&pod.id);
        std::fs::create_dir_all(&dir).with_context(|| format!("create directory {}", dir.display()))?;
        let root = |ids| IdMapping::to_host(ids, 0).unwrap_or(0);
        let (uid, gid) = match pod.config.security.namespaces.own_user() {
            Some(user) => (root(&user.uids), root(&user.gids)),
            None => (0, 0),
        };
        let bytes = self.parts.config.container.shm_bytes;
        let options = mount_options(&format!("mode=1777,size={bytes},uid={uid},gid={gid}"), label);
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("shm"), &dir, Some("tmpfs"), flags, Some(options.as_str()))
            .with_context(|| format!("mount tmpfs at {}", dir.display()))?;
        Ok(dir)
    }

    /// Undoes the mount, if there is one.
    pub(super) fn remove_shm(&self, pod: &PodId) -> Result<()> {
        let dir = self.paths.shm(pod);
        match umount2(&dir, MntFlags::MNT_DETACH) {
            // No such directory, or no mount there.
            Ok(()) | Err(nix::Error::ENOENT | nix::Error::EINVAL) => Ok(()),
            Err(e) => Err(Error::internal(format!("unmount {}: {e}", dir.display()))),
        }
    }
}
