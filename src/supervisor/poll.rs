//! The epoll set: what the supervisor waits for.
//!
//! Owns registration and its end. A descriptor that others hold too (a terminal handed to the daemon, anything during a
//! clone) stays in an epoll set after close(2), so [`Watched`] takes it out explicitly when dropped. A [`Token`] says by
//! itself what became ready; a token whose owner is gone is simply not found.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};

/// What became ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token {
    /// A daemon connects.
    Listener,
    /// A child changed state.
    Signals,
    /// A connection, by serial number.
    Connection(u32),
    /// A container's launch moves on.
    Launch(u32),
    /// An exec's launch moves on: serial numbers of container and exec.
    ExecLaunch(u32, u32),
    /// Output of a container: serial number and stream.
    Output(u32, u8),
    /// An attached client's pipe: serial numbers of container and sink.
    Sink(u32, u32),
    /// A container's OOM counter moved.
    Oom(u32),
    /// An order to an OCI runtime moves on, by serial number.
    Order(u32),
}

/// Serial numbers of containers must stay below this to fit a token.
pub const SERIAL_LIMIT: u32 = 1 << 28;

impl Token {
    fn pack(self) -> u64 {
        let (kind, owner, sub) = match self {
            Self::Listener => (0, 0, 0),
            Self::Signals => (1, 0, 0),
            Self::Connection(c) => (2, c, 0),
            Self::Launch(c) => (3, c, 0),
            Self::ExecLaunch(c, e) => (4, c, e),
            Self::Output(c, s) => (5, c, u32::from(s)),
            Self::Sink(c, s) => (6, c, s),
            Self::Oom(c) => (7, c, 0),
            Self::Order(o) => (8, o, 0),
        };
        (kind << 60) | (u64::from(owner) << 32) | u64::from(sub)
    }

    fn unpack(data: u64) -> Option<Self> {
        let owner = u32::try_from((data >> 32) & u64::from(SERIAL_LIMIT - 1)).ok()?;
        let sub = u32::try_from(data & u64::from(u32::MAX)).ok()?;
        Some(match data >> 60 {
            0 => Self::Listener,
            1 => Self::Signals,
            2 => Self::Connection(owner),
            3 => Self::Launch(owner),
            4 => Self::ExecLaunch(owner, sub),
            5 => Self::Output(owner, u8::try_from(sub).ok()?),
            6 => Self::Sink(owner, sub),
            7 => Self::Oom(owner),
            8 => Self::Order(owner),
            _ => return None,
        })
    }
}

/// What to wait for. An error or a hang-up is always reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Data to read.
    Read,
    /// Data to read or room to write.
    ReadWrite,
    /// Room to write.
    Write,
    /// Only that the other side is gone.
    Hangup,
}

impl Interest {
    fn flags(self) -> EventFlags {
        match self {
            Self::Read => EventFlags::IN,
            Self::ReadWrite => EventFlags::IN | EventFlags::OUT,
            Self::Write => EventFlags::OUT,
            Self::Hangup => EventFlags::empty(),
        }
    }
}

/// One thing that became ready.
#[derive(Debug, Clone, Copy)]
pub struct Ready {
    /// What.
    pub token: Token,
    /// There is room to write.
    pub writable: bool,
    /// The other side is gone, or the descriptor is broken.
    pub gone: bool,
}

/// The set.
#[derive(Debug, Clone)]
pub struct Poller {
    epoll: Rc<OwnedFd>,
}

/// Events taken from the kernel at once. What does not fit comes with the next call.
const BATCH: usize = 16;

impl Poller {
    /// An empty set.
    ///
    /// # Errors
    /// As epoll_create1(2).
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: Rc::new(epoll::create(epoll::CreateFlags::CLOEXEC)?),
        })
    }

    /// Takes over `fd` and waits for it.
    ///
    /// # Errors
    /// As epoll_ctl(2); `PermissionDenied` for what cannot be waited for, such as a regular file.
    pub fn watch(&self, fd: OwnedFd, token: Token, interest: Interest) -> io::Result<Watched> {
        epoll::add(
            &*self.epoll,
            &fd,
            EventData::new_u64(token.pack()),
            interest.flags(),
        )?;
        Ok(Watched {
            fd,
            token,
            epoll: Rc::clone(&self.epoll),
        })
    }

    /// Waits until something is ready, without limit of time if there is no `limit`.
    ///
    /// # Errors
    /// As epoll_wait(2); an interruption is an empty list.
    pub fn wait(&self, limit: Option<Duration>) -> io::Result<Vec<Ready>> {
        let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
        let mut events = Vec::with_capacity(BATCH);
        match epoll::wait(
            &*self.epoll,
            rustix::buffer::spare_capacity(&mut events),
            limit.as_ref(),
        ) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        Ok(events.iter().filter_map(ready).collect())
    }
}

fn ready(event: &epoll::Event) -> Option<Ready> {
    // The kernel's structure is packed: copy the fields out.
    let (flags, data) = (event.flags, event.data);
    Some(Ready {
        token: Token::unpack(data.u64())?,
        writable: flags.contains(EventFlags::OUT),
        gone: flags.intersects(EventFlags::HUP | EventFlags::ERR),
    })
}

/// A descriptor in the set, for as long as this lives.
#[derive(Debug)]
pub struct Watched {
    fd: OwnedFd,
    token: Token,
    epoll: Rc<OwnedFd>,
}

impl Watched {
    /// Changes what is waited for.
    ///
    /// # Errors
    /// As epoll_ctl(2).
    pub fn set_interest(&self, interest: Interest) -> io::Result<()> {
        Ok(epoll::modify(
            &*self.epoll,
            &self.fd,
            EventData::new_u64(self.token.pack()),
            interest.flags(),
        )?)
    }
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let _ = epoll::delete(&*self.epoll, &self.fd);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn tokens_survive_packing() {
        for token in [
            Token::Listener,
            Token::Signals,
            Token::Connection(SERIAL_LIMIT - 1),
            Token::Launch(7),
            Token::ExecLaunch(SERIAL_LIMIT - 1, u32::MAX),
            Token::Output(3, 1),
            Token::Sink(1, u32::MAX),
            Token::Oom(9),
            Token::Order(10),
        ] {
            assert_eq!(Token::unpack(token.pack()), Some(token));
        }
        assert_eq!(Token::unpack(15 << 60), None);
    }

    #[test]
    fn a_dropped_descriptor_is_out_of_the_set_even_if_others_hold_it() {
        let poller = Poller::new().unwrap();
        let (read, write) = rustix::pipe::pipe().unwrap();
        let held_elsewhere = read.try_clone().unwrap();
        let (other_read, other_write) = rustix::pipe::pipe().unwrap();
        let _other = poller.watch(other_read, Token::Listener, Interest::Read).unwrap();
        drop(poller.watch(read, Token::Signals, Interest::Read).unwrap());
        rustix::io::write(&write, b"x").unwrap();
        rustix::io::write(&other_write, b"x").unwrap();
        let ready: Vec<Token> = poller.wait(None).unwrap().iter().map(|r| r.token).collect();
        assert_eq!(ready, [Token::Listener]);
        drop(held_elsewhere);
    }
}
