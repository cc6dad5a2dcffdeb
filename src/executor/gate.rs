//! A gate that a process other than the launcher opens: a socket in the file system that the container's first process
//! listens on until it is let go. `husk oci create` makes it, `husk oci start` uses it.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};

use super::error::{During, LaunchError, Step};
use super::message::{Channel, Message, Received};
use super::path::shown;

/// Makes the socket; for [`super::Extras::gate`].
///
/// # Errors
/// If `path` exists, is too long for a socket address, or cannot be made.
pub fn create(path: &Path) -> Result<OwnedFd, LaunchError> {
    let object = || format!("gate {}", shown(path));
    let socket = new_socket().during("create", object)?;
    let address = SocketAddrUnix::new(path).during("create", object)?;
    bind(&socket, &address).during("create", object)?;
    listen(&socket, 1).during("create", object)?;
    Ok(socket)
}

/// Opens the gate at `path` and waits until the program runs.
///
/// # Errors
/// The failure of the process, or that nobody waits there.
pub fn open(path: &Path) -> Result<(), LaunchError> {
    let object = || format!("gate {}", shown(path));
    let socket = new_socket().during("open", object)?;
    let address = SocketAddrUnix::new(path).during("open", object)?;
    connect(&socket, &address)
        .during("open", object)
        .map_err(|e| match e.errno {
            Some(libc::ECONNREFUSED | libc::ENOENT) => e.advise("the container is not waiting to be started"),
            _ => e,
        })?;
    let channel = Channel::from(socket);
    channel.send_go_on().during("open", object)?;
    wait_until_running(&channel)
}

fn wait_until_running(channel: &Channel) -> Step {
    let mut executing = false;
    loop {
        match channel.receive()? {
            Received::Nothing => wait_readable(channel)?,
            Received::Message(Message::Executing, _) => executing = true,
            Received::Message(Message::Failed(error), _) => return Err(*error),
            Received::Message(..) => {}
            Received::Closed if executing => return Ok(()),
            Received::Closed => {
                return Err(LaunchError::new(
                    "start",
                    "container",
                    "its process ended before it ran its program",
                ));
            }
        }
    }
}

fn wait_readable(channel: &Channel) -> Step {
    match poll(&mut [PollFd::new(channel, PollFlags::IN)], None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(e) => Err(LaunchError::errno(
            "wait",
            "for the container to start",
            e.raw_os_error(),
        )),
    }
}

fn new_socket() -> rustix::io::Result<OwnedFd> {
    socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
}
