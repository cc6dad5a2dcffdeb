//! Mount options by name, as in fstab and the OCI spec.

use crate::sys::mount::attr;
use crate::types::{Error, Result};

/// What one option name means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Sets or clears both an `MS_*` flag (for new file systems) and a `MOUNT_ATTR_*` bit (for binds).
    Flag { ms: u64, attr: u64, on: bool },
    /// As `Flag`, for the mount and all below it.
    Recursive { attr: u64, on: bool },
    /// `MS_*` propagation, perhaps with `MS_REC`.
    Propagation(u64),
    /// Bind instead of mounting a file system; whether with everything below.
    Bind { recursive: bool },
    /// Change the flags of what is mounted there.
    Remount,
    /// Fill the new tmpfs with what it covers.
    CopyUp,
    /// Map ids as the container's user namespace does; whether below, too.
    IdMap { recursive: bool },
    /// Means nothing here.
    Nothing,
}

const NONE: u64 = 0;

/// Looks an option up; `None` is for the file system itself to understand.
pub(super) fn meaning(option: &str) -> Option<Meaning> {
    plain(option)
        .or_else(|| recursive(option))
        .or_else(|| other(option))
}

fn plain(option: &str) -> Option<Meaning> {
    let (ms, attr, on) = match option {
        "ro" => (libc::MS_RDONLY, attr::RDONLY, true),
        "rw" => (libc::MS_RDONLY, attr::RDONLY, false),
        "nosuid" => (libc::MS_NOSUID, attr::NOSUID, true),
        "suid" => (libc::MS_NOSUID, attr::NOSUID, false),
        "nodev" => (libc::MS_NODEV, attr::NODEV, true),
        "dev" => (libc::MS_NODEV, attr::NODEV, false),
        "noexec" => (libc::MS_NOEXEC, attr::NOEXEC, true),
        "exec" => (libc::MS_NOEXEC, attr::NOEXEC, false),
        "nodiratime" => (libc::MS_NODIRATIME, attr::NODIRATIME, true),
        "diratime" => (libc::MS_NODIRATIME, attr::NODIRATIME, false),
        "noatime" => (libc::MS_NOATIME, attr::NOATIME, true),
        "atime" => (libc::MS_NOATIME, attr::NOATIME, false),
        "strictatime" => (libc::MS_STRICTATIME, attr::STRICTATIME, true),
        "nostrictatime" => (libc::MS_STRICTATIME, attr::STRICTATIME, false),
        "relatime" => (libc::MS_RELATIME, attr::RELATIME, true),
        "norelatime" => (libc::MS_RELATIME, attr::RELATIME, false),
        "nosymfollow" => (libc::MS_NOSYMFOLLOW, attr::NOSYMFOLLOW, true),
        "symfollow" => (libc::MS_NOSYMFOLLOW, attr::NOSYMFOLLOW, false),
        "sync" => (libc::MS_SYNCHRONOUS, NONE, true),
        "async" => (libc::MS_SYNCHRONOUS, NONE, false),
        "dirsync" => (libc::MS_DIRSYNC, NONE, true),
        "mand" => (libc::MS_MANDLOCK, NONE, true),
        "nomand" => (libc::MS_MANDLOCK, NONE, false),
        "iversion" => (libc::MS_I_VERSION, NONE, true),
        "noiversion" => (libc::MS_I_VERSION, NONE, false),
        "acl" => (libc::MS_POSIXACL, NONE, true),
        "noacl" => (libc::MS_POSIXACL, NONE, false),
        "lazytime" => (libc::MS_LAZYTIME, NONE, true),
        "nolazytime" => (libc::MS_LAZYTIME, NONE, false),
        "silent" => (libc::MS_SILENT, NONE, true),
        "loud" => (libc::MS_SILENT, NONE, false),
        _ => return None,
    };
    Some(Meaning::Flag { ms, attr, on })
}

/// `rro`, `rnosuid` and so on: the `r` form of an option that a mount attribute exists for.
fn recursive(option: &str) -> Option<Meaning> {
    match plain(option.strip_prefix('r')?)? {
        Meaning::Flag { attr, on, .. } if attr != NONE || option.ends_with("relatime") => {
            Some(Meaning::Recursive { attr, on })
        }
        _ => None,
    }
}

fn other(option: &str) -> Option<Meaning> {
    Some(match option {
        "bind" => Meaning::Bind { recursive: false },
        "rbind" => Meaning::Bind { recursive: true },
        "remount" => Meaning::Remount,
        "tmpcopyup" => Meaning::CopyUp,
        "idmap" => Meaning::IdMap { recursive: false },
        "ridmap" => Meaning::IdMap { recursive: true },
        "defaults" => Meaning::Nothing,
        _ => return propagation(option).map(Meaning::Propagation),
    })
}

fn propagation(option: &str) -> Option<u64> {
    Some(match option {
        "private" => libc::MS_PRIVATE,
        "shared" => libc::MS_SHARED,
        "slave" => libc::MS_SLAVE,
        "unbindable" => libc::MS_UNBINDABLE,
        "rprivate" => libc::MS_PRIVATE | libc::MS_REC,
        "rshared" => libc::MS_SHARED | libc::MS_REC,
        "rslave" => libc::MS_SLAVE | libc::MS_REC,
        "runbindable" => libc::MS_UNBINDABLE | libc::MS_REC,
        _ => return None,
    })
}

/// The propagation of the container's root; 0 if the spec leaves it open.
pub(super) fn root_propagation(name: Option<&str>) -> Result<u64> {
    match name {
        None | Some("") => Ok(0),
        Some(name) => propagation(name).ok_or_else(|| {
            Error::invalid(format!(
                "spec: linux.rootfsPropagation: {name:?} is none of private, slave, shared, unbindable or their r forms"
            ))
        }),
    }
}
