//! The file behind a log: appends whole records, opens anew, and counts what it could not write.

use std::fs::File;
use std::io::{self, IoSlice, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::types::Result;
use crate::types::error::Context as _;

use super::Trouble;
use super::framing::Record;
use super::stamp::Headers;

/// A log file.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    file: File,
    dropped: u64,
    /// A failed write left part of a record at the end of the file.
    torn: bool,
    failing: Option<String>,
    untold: bool,
}

impl LogFile {
    /// Opens `path` for appending, with mode 0640 if it is new.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            file: open(path).with_context(|| format!("open container log {}", path.display()))?,
            dropped: 0,
            torn: false,
            failing: None,
            untold: false,
        })
    }

    /// Opens the path anew; on failure the old file stays in use.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn reopen(&mut self) -> Result<()> {
        self.file =
            open(&self.path).with_context(|| format!("reopen container log {}", self.path.display()))?;
        self.torn = false;
        Ok(())
    }

    /// Bytes of output lost so far.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// A change since the last call.
    pub fn trouble(&mut self) -> Option<Trouble> {
        if !std::mem::take(&mut self.untold) {
            return None;
        }
        Some(Trouble {
            dropped: self.dropped,
            reason: self.failing.clone().unwrap_or_default(),
        })
    }

    /// Appends records with one system call, as a rule.
    pub fn write(&mut self, headers: &Headers, records: &[Record<'_>]) {
        let mut slices = Vec::with_capacity(records.len() * 4 + 1);
        if self.torn {
            slices.push(IoSlice::new(b"\n"));
        }
        for record in records {
            let header = if record.full {
                &headers.full
            } else {
                &headers.partial
            };
            slices.push(IoSlice::new(header));
            slices.push(IoSlice::new(record.head));
            slices.push(IoSlice::new(record.tail));
            slices.push(IoSlice::new(b"\n"));
        }
        let (written, outcome) = write_all(&mut self.file, &mut slices);
        match outcome {
            Ok(()) => self.works(),
            Err(e) => self.fails(&e, written, headers, records),
        }
    }

    fn works(&mut self) {
        self.torn = false;
        if self.failing.take().is_some() {
            self.untold = true;
        }
    }

    /// Finds out from the number of bytes that made it which records did not.
    fn fails(&mut self, error: &io::Error, written: usize, headers: &Headers, records: &[Record<'_>]) {
        let mut left = written;
        if self.torn && left > 0 {
            self.torn = false;
            left -= 1;
        }
        for record in records {
            let content = record.head.len() + record.tail.len();
            let whole = headers.full.len() + content + 1;
            if left >= whole {
                left -= whole;
                continue;
            }
            let kept = left.saturating_sub(headers.full.len()).min(content);
            self.torn |= left > 0;
            self.dropped += u64::try_from(content - kept).unwrap_or(0);
            left = 0;
        }
        if self.failing.is_none() {
            self.failing = Some(format!("write container log {}: {error}", self.path.display()));
            self.untold = true;
        }
    }
}

/// Non-blocking, so that a named pipe without a reader in the log's place cannot hold the supervisor. Not through a
/// symbolic link: a pod that mounts the node's log directory could make root write to any file of the node.
fn open(path: &Path) -> io::Result<File> {
    std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .custom_flags(
            rustix::fs::OFlags::NONBLOCK.bits().cast_signed()
                | rustix::fs::OFlags::NOCTTY.bits().cast_signed()
                | rustix::fs::OFlags::NOFOLLOW.bits().cast_signed(),
        )
        .open(path)
}

/// Bytes written, and what stopped the rest.
fn write_all(file: &mut File, slices: &mut [IoSlice<'_>]) -> (usize, io::Result<()>) {
    let mut written = 0;
    let mut rest = slices;
    // Skips empty slices at the front, which would look like a write of nothing.
    IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        // The kernel takes 1024 slices at once and std passes no more than that.
        match file.write_vectored(rest) {
            Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
            Ok(n) => {
                written += n;
                IoSlice::advance_slices(&mut rest, n);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return (written, Err(e)),
        }
    }
    (written, Ok(()))
}
