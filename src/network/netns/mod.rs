//! Network namespaces: making, pinning by name, entering.
//!
//! A thread that made or entered a namespace is never given back: unsharing and entering act on the thread, and a
//! runtime's worker that stayed in a pod's namespace would be a disaster to find. Everything here runs on threads of
//! its own.

mod pool;

pub use pool::Pool;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use super::netlink::{Socket, route};
use crate::types::error::Context;
use crate::types::{Error, Result};

/// Index of the loopback device, which is the first in every namespace.
const LOOPBACK: u32 = 1;
/// What a short-lived thread of ours needs; the default of 2 MiB is mapped and unmapped each time.
const STACK: usize = 256 << 10;

/// Makes a network namespace with its loopback device up. It lives as long as the descriptor or a pin.
///
/// # Errors
/// The kernel refuses (namespace limit, missing privilege, memory).
pub fn create() -> Result<OwnedFd> {
    thread::scope(|scope| {
        let maker = thread::Builder::new()
            .name("husk-netns".into())
            .stack_size(STACK)
            .spawn_scoped(scope, unshare_here)
            .context("start a thread to make a network namespace")?;
        maker
            .join()
            .unwrap_or_else(|_| Err(Error::internal("the thread that makes a network namespace died")))
    })
}

/// Moves the calling thread into a new namespace and returns a descriptor of it.
fn unshare_here() -> Result<OwnedFd> {
    unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace")?;
    bring_up_loopback()?;
    current()
}

/// The namespace of the calling thread.
fn current() -> Result<OwnedFd> {
    let file = File::open("/proc/thread-self/ns/net").context("open /proc/thread-self/ns/net")?;
    Ok(file.into())
}

/// Brings up the loopback device of the calling thread's namespace.
///
/// # Errors
/// The kernel refuses.
pub fn bring_up_loopback() -> Result<()> {
    let mut socket = Socket::route().context("open a netlink socket in a new network namespace")?;
    socket
        .run(vec![route::set_up(LOOPBACK)])
        .context("bring up the loopback device")
}

/// Runs `task` within the namespace at `path`, on a thread made for it.
///
/// # Errors
/// The namespace is gone or cannot be entered. What `task` returns is passed through.
pub fn inside<T: Send>(path: &Path, task: impl FnOnce() -> T + Send) -> Result<T> {
    let netns = File::open(path).with_context(|| format!("open network namespace {}", path.display()))?;
    inside_fd(netns.as_fd(), task).map_err(|e| e.context(path.display()))
}

/// As [`inside`], for an open descriptor.
///
/// # Errors
/// As [`inside`].
pub fn inside_fd<T: Send>(netns: BorrowedFd<'_>, task: impl FnOnce() -> T + Send) -> Result<T> {
    thread::scope(|scope| {
        let visitor = thread::Builder::new()
            .name("husk-netns".into())
            .stack_size(STACK)
            .spawn_scoped(scope, || {
                setns(netns, CloneFlags::CLONE_NEWNET).context("enter network namespace")?;
                Ok(task())
            })
            .context("start a thread to enter a network namespace")?;
        visitor
            .join()
            .unwrap_or_else(|_| Err(Error::internal("the thread within a network namespace died")))
    })
}

/// Runs `task` within one namespace after the other, on a single thread made for it: entering costs microseconds, a
/// thread costs a tenth of a millisecond. One result for each path.
///
/// # Errors
/// The thread cannot be started. That a namespace is gone is the result for its path.
pub fn visit<T: Send>(paths: &[PathBuf], task: impl Fn() -> T + Send + Sync) -> Result<Vec<Result<T>>> {
    let visit_one = |path: &PathBuf| {
        let netns = File::open(path).with_context(|| format!("open network namespace {}", path.display()))?;
        setns(netns.as_fd(), CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("enter network namespace {}", path.display()))?;
        Ok(task())
    };
    thread::scope(|scope| {
        let visitor = thread::Builder::new()
            .name("husk-netns".into())
            .stack_size(STACK)
            .spawn_scoped(scope, || paths.iter().map(visit_one).collect())
            .context("start a thread to visit network namespaces")?;
        visitor
            .join()
            .map_err(|_| Error::internal("the thread that visits network namespaces died"))
    })
}

/// Gives the namespace the name `path` by a bind mount, so that it lives on without a process.
///
/// # Errors
/// `path` already names a namespace ([`crate::types::Kind::AlreadyExists`]), or cannot be made.
pub fn pin(netns: BorrowedFd<'_>, path: &Path) -> Result<()> {
    let what = || format!("pin network namespace at {}", path.display());
    match OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o444)
        .open(path)
    {
        Ok(_) => {}
        // A file without a mount is what a reboot, or a crash between the two steps, leaves.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && !is_netns(path) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            return Err(Error::new(
                crate::types::Kind::AlreadyExists,
                format!("{}: {e}", what()),
            ));
        }
        Err(e) => return Err(Error::internal(format!("{}: {e}", what()))),
    }
    let source = format!("/proc/self/fd/{}", netns.as_raw_fd());
    let none = None::<&str>;
    mount(Some(source.as_str()), path, none, MsFlags::MS_BIND, none).with_context(|| {
        let _ = fs::remove_file(path);
        what()
    })
}

/// Takes the name away. The namespace goes once nobody else holds it. Idempotent.
///
/// Unlinking the file also detaches copies of the mount in other mount namespaces, so a process that unshared its
/// mounts while the pod ran cannot keep the namespace alive.
///
/// # Errors
/// The mount or the file stays.
pub fn unpin(path: &Path) -> Result<()> {
    let what = || format!("remove network namespace {}", path.display());
    loop {
        match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(nix::Error::EINVAL | nix::Error::ENOENT) => break,
            Err(e) => return Err(Error::internal(format!("{}: {e}", what()))),
        }
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::internal(format!("{}: {e}", what()))),
        _ => Ok(()),
    }
}

/// Whether `path` names a living namespace, as opposed to nothing or a left-over file.
pub fn is_netns(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|fs| fs.f_type == libc::NSFS_MAGIC)
}

#[cfg(test)]
mod tests;
