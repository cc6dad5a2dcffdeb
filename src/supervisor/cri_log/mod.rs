//! A container's log file in CRI's format: `<RFC3339Nano> <stdout|stderr> <P|F> <bytes>\n`.
//!
//! Owns framing, the file and what could not be written. A log that cannot be written loses output, counts it and says
//! so; it never holds the container up. Every write is whole records, so that opening anew after rotation neither splits
//! nor doubles one.

mod file;
mod framing;
mod stamp;

#[cfg(test)]
mod tests;

use std::path::Path;

use crate::types::Result;

use file::LogFile;
use framing::Framer;
use stamp::Stamp;

/// Where output came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, or all that a terminal shows.
    Stdout = 0,
    /// Standard error.
    Stderr = 1,
}

/// A change for better or worse that somebody should hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// Bytes of output lost so far.
    pub dropped: u64,
    /// Why; empty if writing works again.
    pub reason: String,
}

/// The log of one container.
#[derive(Debug)]
pub struct Log {
    file: LogFile,
    framers: [Framer; 2],
    stamp: Stamp,
}

impl Log {
    /// Opens `path` for appending; `max_line` bounds the content of a record in bytes.
    ///
    /// # Errors
    /// If the file cannot be opened. Directories are not made: they are the client's.
    pub fn open(path: &Path, max_line: u32) -> Result<Self> {
        let max = usize::try_from(max_line)
            .unwrap_or(usize::MAX)
            .clamp(1, 1024 * 1024);
        Ok(Self {
            file: LogFile::open(path)?,
            framers: [Framer::new(max), Framer::new(max)],
            stamp: Stamp::default(),
        })
    }

    /// Logs what was read at `now` (nanoseconds since the epoch). An unfinished line waits for its end.
    pub fn write(&mut self, stream: Stream, chunk: &[u8], now: i64) -> Option<Trouble> {
        let headers = self.stamp.headers(now, stream);
        let file = &mut self.file;
        self.framers[stream as usize].push(chunk, |records| file.write(&headers, records));
        self.file.trouble()
    }

    /// Logs unfinished lines as they are, because nothing is expected to finish them.
    pub fn flush(&mut self, stream: Stream, now: i64) -> Option<Trouble> {
        let headers = self.stamp.headers(now, stream);
        let file = &mut self.file;
        self.framers[stream as usize].flush(|records| file.write(&headers, records));
        self.file.trouble()
    }

    /// Opens the path anew; on failure the old file stays in use.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn reopen(&mut self) -> Result<()> {
        self.file.reopen()
    }

    /// Bytes of output lost so far.
    pub fn dropped(&self) -> u64 {
        self.file.dropped()
    }
}
