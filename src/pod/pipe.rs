//! A pipe or a terminal of a container's process, in the daemon's hands.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::termios::{LocalModes, SpecialCodeIndex, tcgetattr};
use tokio::io::Interest;
use tokio::net::UnixStream;

use crate::types::error::{Context, Result};

/// One end, which never blocks.
///
/// The runtime's own pipe types take no terminals. As only readiness is asked of this type and no byte goes through it,
/// its stream type serves.
#[derive(Debug)]
pub struct Pipe(UnixStream);

impl Pipe {
    /// Takes over `fd` and makes it non-blocking.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn new(fd: OwnedFd) -> Result<Self> {
        let what = "watch a pipe";
        rustix::io::ioctl_fionbio(&fd, true).context(what)?;
        Ok(Self(UnixStream::from_std(fd.into()).context(what)?))
    }

    /// A pipe whose read end the daemon keeps, and its write end.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn output() -> Result<(Self, OwnedFd)> {
        let (read, write) = new_pipe()?;
        Ok((Self::new(read)?, write))
    }

    /// A pipe whose write end the daemon keeps, and its read end.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn input() -> Result<(Self, OwnedFd)> {
        let (read, write) = new_pipe()?;
        Ok((Self::new(write)?, read))
    }

    /// Another handle of the same thing.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn try_clone(&self) -> Result<Self> {
        let fd = self.0.as_fd().try_clone_to_owned().context("duplicate a pipe")?;
        Self::new(fd)
    }

    /// Reads what comes next; 0 at the end. Cancel safe.
    ///
    /// # Errors
    /// The read fails.
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0
            .async_io(Interest::READABLE, || read(self.0.as_fd(), buffer))
            .await
    }

    /// Reads what is there already; `None` if nothing is. Asks the kernel, whatever was heard of it before.
    ///
    /// # Errors
    /// The read fails.
    pub fn read_now(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match read(self.0.as_fd(), buffer) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            done => done.map(Some),
        }
    }

    /// Writes all of `data`.
    ///
    /// # Errors
    /// Nobody reads any more.
    pub async fn write_all(&self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let written = self
                .0
                .async_io(Interest::WRITABLE, || {
                    retry(|| rustix::io::write(self.0.as_fd(), data))
                })
                .await?;
            data = data.get(written..).unwrap_or_default();
        }
        Ok(())
    }

    /// What a person would type at this terminal to end the input, if it takes lines: a program that reads a terminal to
    /// its end would otherwise wait for ever once the client has nothing more to send.
    pub fn end_of_input(&self) -> Option<u8> {
        let settings = tcgetattr(self.0.as_fd()).ok()?;
        let lines = settings.local_modes.contains(LocalModes::ICANON);
        lines.then(|| settings.special_codes[SpecialCodeIndex::VEOF])
    }
}

fn new_pipe() -> Result<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).context("make a pipe")
}

fn read(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    match retry(|| rustix::io::read(fd, &mut *buffer)) {
        // A terminal says so when its last user is gone.
        Err(e) if e.raw_os_error() == Some(Errno::IO.raw_os_error()) => Ok(0),
        done => done,
    }
}

fn retry(mut call: impl FnMut() -> rustix::io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            done => return done.map_err(io::Error::from),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn what_is_written_is_read_and_then_the_end() {
        let (read, theirs) = Pipe::output().unwrap();
        let write = Pipe::new(theirs).unwrap();
        let mut buffer = [0; 16];
        assert_eq!(read.read_now(&mut buffer).unwrap(), None);
        write.write_all(b"some").await.unwrap();
        assert_eq!(read.read(&mut buffer).await.unwrap(), 4);
        write.write_all(b"more").await.unwrap();
        assert_eq!(read.read_now(&mut buffer).unwrap(), Some(4));
        assert_eq!(write.end_of_input(), None, "it is no terminal");
        drop(write);
        assert_eq!(read.read(&mut buffer).await.unwrap(), 0);
        let (write, theirs) = Pipe::input().unwrap();
        drop(theirs);
        assert!(write.write_all(b"nobody").await.is_err());
    }

    #[tokio::test]
    async fn a_full_pipe_makes_the_writer_wait_for_the_reader() {
        let (read, theirs) = Pipe::output().unwrap();
        let write = Pipe::new(theirs).unwrap();
        let data = vec![7; 1 << 20];
        let (written, total) = tokio::join!(write.write_all(&data), async {
            let (mut total, mut buffer) = (0, vec![0; 4096]);
            while total < data.len() {
                total += read.read(&mut buffer).await.unwrap();
            }
            total
        });
        written.unwrap();
        assert_eq!(total, data.len());
    }
}
