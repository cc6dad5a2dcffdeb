//! Standard streams and all other descriptors of a new process.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use rustix::fs::{FileType, Gid, Mode, OFlags, Uid, fchown, fstat, major, minor, open};

use crate::sys::fd;

use super::error::{During, Step};
use super::message::Channel;
use super::path::Root;

/// Standard streams of a new process: the child's ends. What is `None` becomes `/dev/null`; with a terminal all three
/// are the terminal.
#[derive(Debug, Default)]
pub struct Stdio {
    /// Standard input.
    pub stdin: Option<OwnedFd>,
    /// Standard output.
    pub stdout: Option<OwnedFd>,
    /// Standard error.
    pub stderr: Option<OwnedFd>,
}

impl Stdio {
    /// By number.
    fn streams(&self) -> [Option<BorrowedFd<'_>>; 3] {
        [&self.stdin, &self.stdout, &self.stderr].map(|s| s.as_ref().map(AsFd::as_fd))
    }

    /// Which are given.
    pub(super) fn given(&self) -> [bool; 3] {
        self.streams().map(|s| s.is_some())
    }
}

/// What a child keeps besides its standard streams.
#[derive(Debug)]
pub(super) struct Kept {
    pub sync: Channel,
    /// A container's first process may be let go by whoever connects here; an exec needs the pidfd of its target.
    pub extra: Option<OwnedFd>,
    /// A process in a user namespace is given what it may not open itself.
    pub supplies: Option<Channel>,
}

/// Puts the streams at 0 to 2 and what is kept behind those that the program is to inherit, and closes all else: the
/// parent's descriptors must neither leak into the container nor be held open by a process at its gate.
pub(super) fn arrange(stdio: &Stdio, kept: Kept, inherited: u16) -> Step<Kept> {
    let first_kept = 3 + i32::from(inherited);
    let free = first_kept + 3;
    let object = || "descriptors";

    // Out of the way first, so that none is overwritten before it is used.
    let sync = fd::dup_above(kept.sync.as_fd(), free).during("arrange", object)?;
    let extra = match &kept.extra {
        Some(e) => Some(fd::dup_above(e.as_fd(), free).during("arrange", object)?),
        None => None,
    };
    let supplies = match &kept.supplies {
        Some(s) => Some(fd::dup_above(s.as_fd(), free).during("arrange", object)?),
        None => None,
    };
    let mut sources = Vec::with_capacity(3);
    for stream in stdio.streams() {
        sources.push(match stream {
            Some(s) => fd::dup_above(s, free).during("arrange", object)?,
            None => open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
                .and_then(|null| rustix::io::fcntl_dupfd_cloexec(&null, free))
                .during("open", || "/dev/null")?,
        });
    }

    for (number, source) in (0..).zip(&sources) {
        fd::dup_to(source.as_fd(), number).during("arrange", object)?;
    }
    let sync = fd::move_to(sync, first_kept).during("arrange", object)?;
    let extra = extra
        .map(|e| fd::move_to(e, first_kept + 1))
        .transpose()
        .during("arrange", object)?;
    let next = first_kept + 1 + i32::from(extra.is_some());
    let supplies = supplies
        .map(|s| fd::move_to(s, next))
        .transpose()
        .during("arrange", object)?;
    // Their owners never run again: this process executes a program or exits.
    std::mem::forget((sources, kept));
    let arranged = Kept {
        sync: sync.into(),
        extra,
        supplies: supplies.map(Channel::from),
    };
    close_others(&arranged)?;
    Ok(arranged)
}

/// Closes everything behind what is kept.
pub(super) fn close_others(kept: &Kept) -> Step {
    let last = match (&kept.supplies, &kept.extra) {
        (Some(s), _) => s.as_fd().as_raw_fd(),
        (None, Some(e)) => e.as_raw_fd(),
        (None, None) => kept.sync.as_fd().as_raw_fd(),
    };
    close_behind(last)
}

/// Keeps `fd` and the standard streams, and closes all else.
pub(super) fn keep_only(fd: BorrowedFd<'_>) -> Step<OwnedFd> {
    const KEPT: RawFd = 3;
    let object = || "descriptors";
    let kept = fd::dup_above(fd, KEPT + 1).during("arrange", object)?;
    let kept = fd::move_to(kept, KEPT).during("arrange", object)?;
    close_behind(KEPT)?;
    Ok(kept)
}

/// Closes everything behind descriptor `last`.
pub(super) fn close_behind(last: RawFd) -> Step {
    fd::close_from(last + 1)
        .during("close", || "other descriptors")
        .map_err(|e| e.advise("close_range(2) needs Linux 5.9"))
}

/// Whether `fd` is the null device.
fn is_null(fd: BorrowedFd<'_>) -> bool {
    fstat(fd).is_ok_and(|s| {
        FileType::from_raw_mode(s.st_mode) == FileType::CharacterDevice
            && (major(s.st_rdev), minor(s.st_rdev)) == (1, 3)
    })
}

/// Exchanges the node's `/dev/null` for the container's own where no stream was given.
pub(super) fn use_own_null(root: &Root, given: [bool; 3]) -> Step {
    if given == [true; 3] {
        return Ok(());
    }
    let Ok(null) = root.open(
        Path::new("/dev/null"),
        OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY,
    ) else {
        return Ok(());
    };
    if !is_null(null.as_fd()) {
        return Ok(());
    }
    for (number, given) in (0..).zip(given) {
        if !given {
            fd::dup_to(null.as_fd(), number).during("arrange", || "standard streams")?;
        }
    }
    Ok(())
}

/// Gives pipes to the process's user, who may want to open `/dev/stdout` again. What cannot be given stays as it is.
pub(super) fn give_to(uid: u32, given: [bool; 3]) {
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let streams = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
    give(
        streams.into_iter().zip(given).filter(|(_, g)| *g).map(|(s, _)| s),
        uid,
    );
}

/// As [`give_to`], before the streams are where they belong. In a user namespace it would be too late.
pub(super) fn give_early(stdio: &Stdio, uid: u32) {
    give(stdio.streams().into_iter().flatten(), uid);
}

fn give<'a>(streams: impl Iterator<Item = BorrowedFd<'a>>, uid: u32) {
    for stream in streams {
        if fstat(stream).is_ok_and(|s| s.st_uid != uid) && !is_null(stream) {
            let _ = fchown(stream, Some(Uid::from_raw(uid)), None::<Gid>);
        }
    }
}
