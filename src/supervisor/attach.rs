//! Attached clients: pipes of the daemon that get a copy of a container's output.
//!
//! A client that reads slowly is given a bounded backlog and then let go: the container and its log never wait for it.

use std::collections::VecDeque;
use std::io;

use super::poll::{Interest, Watched};

/// Most bytes kept for a client that does not read.
const MAX_BACKLOG: usize = 1024 * 1024;

/// One attached pipe.
#[derive(Debug)]
pub struct Sink {
    pipe: Watched,
    /// 0 for stdout, 1 for stderr.
    pub stream: u8,
    backlog: VecDeque<u8>,
    /// The stream has ended; what is in the backlog is still owed.
    ending: bool,
}

impl Sink {
    /// Over a non-blocking pipe that is watched for hang-up.
    pub fn new(pipe: Watched, stream: u8) -> Self {
        Self {
            pipe,
            stream,
            backlog: VecDeque::new(),
            ending: false,
        }
    }

    /// Copies `data` to the client. `false`: the sink is done with and has to be dropped.
    #[must_use]
    pub fn push(&mut self, data: &[u8]) -> bool {
        let mut rest = data;
        if self.backlog.is_empty() {
            match write_some(&self.pipe, rest) {
                Ok(n) => rest = &rest[n..],
                Err(_) => return false,
            }
        }
        if rest.is_empty() {
            return true;
        }
        if self.backlog.len() + rest.len() > MAX_BACKLOG {
            eprintln!("an attached client is {MAX_BACKLOG} bytes behind: letting it go");
            return false;
        }
        let was_empty = self.backlog.is_empty();
        self.backlog.extend(rest);
        !was_empty || self.pipe.set_interest(Interest::Write).is_ok()
    }

    /// The stream has ended. `false`: nothing is owed, drop the sink.
    #[must_use]
    pub fn end(&mut self) -> bool {
        self.ending = true;
        !self.backlog.is_empty()
    }

    /// There is room again. `false`: the sink is done with and has to be dropped.
    #[must_use]
    pub fn flush(&mut self) -> bool {
        while !self.backlog.is_empty() {
            match write_some(&self.pipe, self.backlog.as_slices().0) {
                Ok(0) => return true,
                Ok(n) => drop(self.backlog.drain(..n)),
                Err(_) => return false,
            }
        }
        self.backlog = VecDeque::new();
        !self.ending && self.pipe.set_interest(Interest::Hangup).is_ok()
    }
}

/// Writes what the pipe takes; 0 if it is full.
fn write_some(pipe: &Watched, data: &[u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < data.len() {
        match rustix::io::write(pipe, &data[done..]) {
            Ok(n) => done += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => break,
            Err(e) => return Err(e.into()),
        }
    }
    Ok(done)
}
