//! Terminals of containers: handed over to a console socket.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::types::error::Context;
use crate::types::{Error, Result};

/// Whether terminal, detaching and console socket go together, by runc's rules.
pub(super) fn check(terminal: bool, detached: bool, socket: Option<&Path>) -> Result<()> {
    match (terminal, detached, socket) {
        (true, true, None) => Err(Error::invalid(
            "a terminal without a caller that stays needs --console-socket",
        )),
        (false, _, Some(_)) => Err(Error::invalid(
            "--console-socket is given but process.terminal is not set",
        )),
        (true, false, Some(_)) => Err(Error::invalid("--console-socket needs --detach")),
        _ => Ok(()),
    }
}

/// Sends the master of a terminal to whoever listens at `path`.
pub(super) fn send(path: &Path, master: BorrowedFd<'_>) -> Result<()> {
    let what = || format!("send the terminal to {}", path.display());
    let socket = UnixStream::connect(path).with_context(what)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [master];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    // What is sent beside the descriptor is a name for it.
    sendmsg(
        socket.as_fd(),
        &[IoSlice::new(b"/dev/ptmx")],
        &mut control,
        SendFlags::NOSIGNAL,
    )
    .with_context(what)?;
    Ok(())
}
