//! Reading and writing the kernel's control files.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::types::{Error, Kind, Result};

/// Most that is read of one file. Only a process list can come near; the rest of it is read in a later round.
const MAX_READ: u64 = 4 << 20;

/// A directory of control files, by its path or open.
pub(super) trait Place {
    /// Opens `file` in it to be read.
    fn file(&self, file: &str) -> io::Result<File>;
}

impl Place for Path {
    fn file(&self, file: &str) -> io::Result<File> {
        File::open(self.join(file))
    }
}

impl Place for PathBuf {
    fn file(&self, file: &str) -> io::Result<File> {
        self.as_path().file(file)
    }
}

/// A directory that is open. To walk the path is the greater part of what it costs to read a file, so where several are
/// read it is walked once.
#[derive(Debug)]
pub(super) struct Dir(OwnedFd);

impl Dir {
    /// Opens it.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(path, flags, Mode::empty())?))
    }
}

impl Place for Dir {
    fn file(&self, file: &str) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.0, file, flags, Mode::empty())?.into())
    }
}

/// The content of `dir`/`file`.
pub(super) fn read(dir: &(impl Place + ?Sized), file: &str) -> io::Result<String> {
    // Holds any control file but a long process list, so that one read gets it and a second finds its end.
    let mut bytes = Vec::with_capacity(4096);
    dir.file(file)?.take(MAX_READ).read_to_end(&mut bytes)?;
    String::from_utf8(bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

/// Writes `value` in one write(2) to a file that must exist.
pub(super) fn write(dir: &Path, file: &str, value: &str) -> io::Result<()> {
    open(dir, file)?.write_all(value.as_bytes())
}

/// `dir`/`file` for several writes. Never creates: a control file that is missing is a controller that is missing.
pub(super) fn open(dir: &Path, file: &str) -> io::Result<File> {
    OpenOptions::new().write(true).open(dir.join(file))
}

/// As [`write()`], with an error that says what the kernel refused.
pub(super) fn set(dir: &Path, file: &str, value: impl ToString) -> Result<()> {
    let value = value.to_string();
    write(dir, file, &value).map_err(|e| refused(dir, file, &value, &e))
}

/// The error of a write that failed, by the kind of fault.
pub(super) fn refused(dir: &Path, file: &str, value: &str, error: &io::Error) -> Error {
    let kind = match error.raw_os_error() {
        Some(libc::EINVAL | libc::ERANGE | libc::EOVERFLOW | libc::ENODEV | libc::E2BIG) => {
            Kind::InvalidArgument
        }
        Some(libc::EBUSY) => Kind::FailedPrecondition,
        Some(libc::EPERM) => Kind::PermissionDenied,
        _ => Kind::Internal,
    };
    let hint = match error.raw_os_error() {
        Some(libc::ENOENT) if dir.exists() => ": the controller or the file is not available on this node",
        Some(libc::ENOENT) => ": the cgroup is gone",
        _ => "",
    };
    let value = value.trim_end();
    Error::new(
        kind,
        format!("write {value:?} to {}: {error}{hint}", dir.join(file).display()),
    )
}

/// The content as one number: `max` is `u64::MAX`, negative is 0. `None` if the file is missing or says something else.
pub(super) fn number(dir: &(impl Place + ?Sized), file: &str) -> Option<u64> {
    // The kernel gives a number in one piece, so one read gets it; and who reads thousands minds a second.
    let mut bytes = [0; 64];
    let file = dir.file(file).ok()?;
    let n = rustix::io::retry_on_intr(|| rustix::io::read(&file, &mut bytes)).ok()?;
    if n == bytes.len() {
        return None;
    }
    match std::str::from_utf8(&bytes[..n]).ok()?.trim() {
        "max" => Some(u64::MAX),
        text if text.starts_with('-') => Some(0),
        text => text.parse().ok(),
    }
}

/// Calls `each` for the `key value` lines of `dir`/`file`; does nothing if it is missing.
pub(super) fn pairs(dir: &(impl Place + ?Sized), file: &str, mut each: impl FnMut(&str, u64)) {
    let Ok(text) = read(dir, file) else { return };
    for line in text.lines() {
        if let Some((key, value)) = line.split_once(' ')
            && let Ok(value) = value.trim().parse()
        {
            each(key, value);
        }
    }
}

/// The value of one `key value` line.
pub(super) fn value_of(dir: &(impl Place + ?Sized), file: &str, wanted: &str) -> Option<u64> {
    let mut found = None;
    pairs(dir, file, |key, value| {
        if key == wanted {
            found = Some(value);
        }
    });
    found
}
