//! The input being read right now, in a file: whatever way the process dies, its parent knows of what.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;

const HEADER: usize = 16;

/// The writing end.
pub struct Writer {
    file: File,
    buffer: Vec<u8>,
    count: u64,
}

impl Writer {
    /// Over the file that the parent made: standard input.
    pub fn inherited() -> io::Result<Self> {
        Ok(Self {
            file: File::from(io::stdin().as_fd().try_clone_to_owned()?),
            buffer: Vec::new(),
            count: 0,
        })
    }

    /// Says that `input` is next.
    pub fn put(&mut self, input: &[u8]) -> io::Result<()> {
        self.count += 1;
        self.buffer.clear();
        self.buffer.extend(self.count.to_le_bytes());
        self.buffer.extend((input.len() as u64).to_le_bytes());
        self.buffer.extend(input);
        self.file.write_all_at(&self.buffer, 0)
    }
}

/// How many inputs were begun, as the file says; 0 before the first.
pub fn count(file: &File) -> u64 {
    let mut number = [0; 8];
    match file.read_exact_at(&mut number, 0) {
        Ok(()) => u64::from_le_bytes(number),
        Err(_) => 0,
    }
}

/// The input that was begun last.
pub fn input(file: &File) -> Option<Vec<u8>> {
    let mut header = [0; HEADER];
    file.read_exact_at(&mut header, 0).ok()?;
    let length = u64::from_le_bytes(header[8..].try_into().ok()?);
    let mut input = vec![0; usize::try_from(length).ok()?.min(64 << 20)];
    file.read_exact_at(&mut input, HEADER as u64).ok()?;
    Some(input)
}
