//! Standard streams of a container: the pipes, and reading from them without ever waiting.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::types::Result;
use crate::types::error::Context as _;

use super::runner::Stdio;

/// The supervisor's ends.
#[derive(Debug, Default)]
pub struct Ends {
    /// Write end of stdin, if the container has one.
    pub stdin: Option<OwnedFd>,
    /// Read ends of stdout and stderr.
    pub outputs: [Option<OwnedFd>; 2],
}

/// Makes the pipes of a container that has no terminal.
///
/// # Errors
/// If the supervisor is out of descriptors.
pub fn pipes(stdin: bool) -> Result<(Stdio, Ends)> {
    let what = "make the container's pipes";
    let (mut child, mut ours) = (Stdio::default(), Ends::default());
    if stdin {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).context(what)?;
        // The write end goes to attached clients of the daemon, which must not block on it either.
        rustix::io::ioctl_fionbio(&write, true).context(what)?;
        (child.stdin, ours.stdin) = (Some(read), Some(write));
    }
    for (theirs, place) in [&mut child.stdout, &mut child.stderr]
        .into_iter()
        .zip(&mut ours.outputs)
    {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).context(what)?;
        rustix::io::ioctl_fionbio(&read, true).context(what)?;
        (*theirs, *place) = (Some(write), Some(read));
    }
    Ok((child, ours))
}

/// What a read brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chunk {
    /// So many bytes.
    Data(usize),
    /// Nothing now.
    Empty,
    /// Nothing ever again.
    End,
}

/// Reads what is there.
pub fn read(fd: impl AsFd, buffer: &mut [u8]) -> Chunk {
    loop {
        match rustix::io::read(&fd, &mut *buffer) {
            Ok(0) => return Chunk::End,
            Ok(n) => return Chunk::Data(n),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Chunk::Empty,
            // A terminal says so when its last user is gone.
            Err(_) => return Chunk::End,
        }
    }
}
