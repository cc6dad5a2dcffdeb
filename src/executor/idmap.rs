//! Id-mapped mounts: files show the owners that a user namespace gives them, and nothing on disk changes.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::fstatfs;

use crate::spec::plan::Mount;
use crate::sys::mount::{MountAttr, attr, set_attributes};
use crate::types::security::IdMapping;

use super::error::{Cause, LaunchError, Step};
use super::path::shown;
use super::user_namespace::with_maps;

/// The user namespaces that mounts of one container are mapped through.
#[derive(Debug, Default)]
pub(super) struct IdMaps<'a> {
    /// The container's own, with its maps.
    container: Option<(BorrowedFd<'a>, &'a [IdMapping], &'a [IdMapping])>,
    made: Vec<Made>,
}

#[derive(Debug)]
struct Made {
    uids: Vec<IdMapping>,
    gids: Vec<IdMapping>,
    namespace: OwnedFd,
}

impl<'a> IdMaps<'a> {
    /// For a container in the user namespace `namespace`.
    pub fn of_container(namespace: BorrowedFd<'a>, uids: &'a [IdMapping], gids: &'a [IdMapping]) -> Self {
        Self {
            container: Some((namespace, uids, gids)),
            made: Vec::new(),
        }
    }

    /// Maps the tree that `m` mounts, if it is to be mapped. Nobody may have seen the tree yet.
    pub fn apply(&mut self, m: &Mount, tree: BorrowedFd<'_>) -> Step {
        let named = !m.uid_mappings.is_empty() || !m.gid_mappings.is_empty();
        if !named && m.id_map.is_none() {
            return Ok(());
        }
        let recursive = m.id_map.unwrap_or(false);
        let namespace = match named {
            true => self.with(&m.uid_mappings, &m.gid_mappings)?,
            false => self.containers(m)?,
        };
        map(tree, namespace, recursive, || shown(&m.destination))
    }

    fn containers(&self, m: &Mount) -> Step<BorrowedFd<'_>> {
        self.container.map(|(namespace, ..)| namespace).ok_or_else(|| {
            LaunchError::new(
                "map ids of",
                shown(&m.destination),
                "it is to be mapped like the container, which has no user namespace",
            )
        })
    }

    fn with(&mut self, uids: &[IdMapping], gids: &[IdMapping]) -> Step<BorrowedFd<'_>> {
        if let Some((namespace, u, g)) = self.container
            && (u, g) == (uids, gids)
        {
            return Ok(namespace);
        }
        let found = self.made.iter().position(|m| m.uids == uids && m.gids == gids);
        let at = match found {
            Some(at) => at,
            None => {
                self.made.push(Made {
                    uids: uids.to_vec(),
                    gids: gids.to_vec(),
                    namespace: with_maps(uids, gids)?,
                });
                self.made.len() - 1
            }
        };
        Ok(self.made[at].namespace.as_fd())
    }
}

/// Maps a tree that nobody has seen yet through `namespace`.
pub(super) fn map(
    tree: BorrowedFd<'_>,
    namespace: BorrowedFd<'_>,
    recursive: bool,
    object: impl Fn() -> String,
) -> Step {
    use std::os::fd::AsRawFd;
    let attributes = MountAttr {
        set: attr::IDMAP,
        userns_fd: u64::from(namespace.as_raw_fd().unsigned_abs()),
        ..MountAttr::default()
    };
    set_attributes(tree, recursive, &attributes).map_err(|e| {
        let error = LaunchError::errno("map ids of", object(), e.number());
        match error.errno {
            Some(libc::EINVAL) => error.advise(format!(
                "{} cannot be mounted with mapped ids by this kernel",
                file_system(tree)
            )),
            Some(libc::EPERM) => {
                error.advise("it is mapped already, or its file system belongs to a user namespace")
            }
            Some(libc::ENOSYS) => error.advise("id-mapped mounts need Linux 5.12"),
            _ => error,
        }
    })
}

/// The name of the file system that `fd` is on, as far as it is known here.
fn file_system(fd: BorrowedFd<'_>) -> String {
    const KNOWN: [(i64, &str); 12] = [
        (0x6969, "nfs"),
        (0xff53_4d42, "cifs"),
        (0xfe53_4d42, "smb"),
        (0x794c_7630, "overlay"),
        (0x0102_1994, "tmpfs"),
        (0x0102_1997, "9p"),
        (0x6573_5546, "fuse"),
        (0x00c3_6400, "ceph"),
        (0x4750_4653, "gpfs"),
        (0x2fc1_2fc1, "zfs"),
        (0x8584_58f6, "ramfs"),
        (0x9fa0, "proc"),
    ];
    match fstatfs(fd) {
        Ok(fs) => match KNOWN.iter().find(|(magic, _)| *magic == fs.f_type) {
            Some((_, name)) => format!("its file system ({name})"),
            None => format!("its file system (type {:#x})", fs.f_type),
        },
        Err(_) => "its file system".to_owned(),
    }
}
