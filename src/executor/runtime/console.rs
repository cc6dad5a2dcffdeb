//! The socket to which an OCI runtime sends the master of a container's terminal.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, open};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketAddrUnix, SocketFlags,
    SocketType, accept_with, bind, listen, recvmsg, socket_with,
};

use super::super::error::{During, LaunchError, Step};

/// A listening socket that is removed when dropped.
#[derive(Debug)]
pub(super) struct ConsoleSocket {
    socket: OwnedFd,
    /// Keeps [`ConsoleSocket::path`] short: an address has 107 bytes, and a bundle's path may be longer.
    dir: OwnedFd,
    file: PathBuf,
}

impl ConsoleSocket {
    /// Listens at `name` in `dir`.
    pub fn listen(dir: &Path, name: &str) -> Step<Self> {
        let file = dir.join(name);
        let object = || format!("console socket {}", file.display());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = open(dir, flags, Mode::empty()).during("open", object)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket =
            socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).during("make", object)?;
        let _ = std::fs::remove_file(&file);
        let address = SocketAddrUnix::new(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()))
            .during("name", object)?;
        bind(&socket, &address).during("bind", object)?;
        listen(&socket, 1).during("listen on", object)?;
        Ok(Self { socket, dir, file })
    }

    /// The path for the runtime, which is another process.
    pub fn path(&self) -> PathBuf {
        let own = rustix::process::getpid().as_raw_pid();
        let name = self.file.file_name().unwrap_or_default();
        Path::new(&format!("/proc/{own}/fd/{}", self.dir.as_raw_fd())).join(name)
    }

    /// Takes the terminal that the runtime, which has ended, sent.
    pub fn receive(&self) -> Step<OwnedFd> {
        let object = || "the terminal's master from the OCI runtime";
        let connection = accept_with(&self.socket, SocketFlags::CLOEXEC).during("receive", object)?;
        let mut byte = [0u8; 64];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        recvmsg(
            &connection,
            &mut [IoSliceMut::new(&mut byte)],
            &mut control,
            flags,
        )
        .during("receive", object)?;
        let master = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        master.ok_or_else(|| LaunchError::new("receive", object(), "none came along"))
    }
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}
