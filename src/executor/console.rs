//! A terminal from the container's own devpts.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Gid, OFlags, Uid, fchown, fstat, fstatfs, major, minor};
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::spec::plan::Process;
use crate::sys::{fd, tty};

use super::error::{During, LaunchError, Step};
use super::mounts::attach;
use super::path::{Root, Want};

/// `f_type` of devpts (`DEVPTS_SUPER_MAGIC`).
const DEVPTS_MAGIC: i64 = 0x1cd1;

/// Both ends of a terminal.
#[derive(Debug)]
pub(super) struct Console {
    pub master: OwnedFd,
    pub slave: OwnedFd,
}

/// Opens a terminal in the file system of `root` and gives it to the process's user.
pub(super) fn open(root: &Root, process: &Process) -> Step<Console> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK;
    let master = root
        .open(Path::new("/dev/pts/ptmx"), flags)
        .during("open terminal", || "/dev/pts/ptmx")
        .map_err(|e| e.advise("a terminal needs a devpts mount on /dev/pts with ptmxmode=0666"))?;
    check(&master)?;
    rustix::io::ioctl_fionbio(&master, false).during("open terminal", || "/dev/pts/ptmx")?;
    let slave = tty::open_slave(master.as_fd()).during("open terminal", || "slave side")?;
    if let Some((rows, columns)) = process.console_size {
        tty::set_size(master.as_fd(), rows, columns)
            .during("size terminal", || format!("{columns}x{rows}"))?;
    }
    fchown(&slave, Some(Uid::from_raw(process.uid)), None::<Gid>).during("chown", || "terminal")?;
    Ok(Console { master, slave })
}

/// An image could have put anything there.
fn check(master: &OwnedFd) -> Step {
    let stat = fstat(master).during("look at", || "/dev/pts/ptmx")?;
    let fs = fstatfs(master).during("look at", || "/dev/pts/ptmx")?;
    let is_ptmx = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && (major(stat.st_rdev), minor(stat.st_rdev)) == (5, 2)
        && fs.f_type == DEVPTS_MAGIC;
    if is_ptmx {
        Ok(())
    } else {
        Err(LaunchError::new(
            "open terminal",
            "/dev/pts/ptmx",
            "it is not the ptmx of a devpts",
        ))
    }
}

/// Puts the terminal on `/dev/console` as well.
pub(super) fn bind_to_dev_console(root: &Root, console: &Console) -> Step {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = open_tree(&console.slave, "", flags).during("open", || "terminal for /dev/console")?;
    let target = root
        .find_or_make(Path::new("/dev/console"), Want::File)
        .during("make", || "/dev/console")?;
    attach(&tree, &target).during("bind terminal on", || "/dev/console")
}

/// Makes the terminal the session's, and the process's standard streams.
pub(super) fn take(console: &Console) -> Step {
    tty::take_control(console.slave.as_fd()).during("take control of", || "terminal")?;
    for number in 0..3 {
        fd::dup_to(console.slave.as_fd(), number).during("set", || format!("stream {number}"))?;
    }
    Ok(())
}
