//! Reading and writing the kernel's control files.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

use crate::types::{Error, Kind, Result};

/// Most that is read of one file. Only a process list can come near; the rest of it is read in a later round.
const MAX_READ: u64 = 4 << 20;

/// The content of `dir`/`file`.
pub(super) fn read(dir: &Path, file: &str) -> io::Result<String> {
    // Holds any control file but a long process list, so that one read gets it and a second finds its end.
    let mut bytes = Vec::with_capacity(4096);
    File::open(dir.join(file))?
        .take(MAX_READ)
        .read_to_end(&mut bytes)?;
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
pub(super) fn number(dir: &Path, file: &str) -> Option<u64> {
    let text = read(dir, file).ok()?;
    match text.trim() {
        "max" => Some(u64::MAX),
        text if text.starts_with('-') => Some(0),
        text => text.parse().ok(),
    }
}

/// Calls `each` for the `key value` lines of `dir`/`file`; does nothing if it is missing.
pub(super) fn pairs(dir: &Path, file: &str, mut each: impl FnMut(&str, u64)) {
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
pub(super) fn value_of(dir: &Path, file: &str, wanted: &str) -> Option<u64> {
    let mut found = None;
    pairs(dir, file, |key, value| {
        if key == wanted {
            found = Some(value);
        }
    });
    found
}
