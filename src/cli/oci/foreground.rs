//! Staying with a process until it ends: its exit code, signals passed on, the caller's terminal joined to its own.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, WaitOptions, set_child_subreaper, wait, waitpid};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::spec::plan::Process;
use crate::sys::process::send_signal;
use crate::sys::tty;
use crate::types::error::Context;
use crate::types::{Error, Result};

/// Signals of the caller from before the process is made, so that none is lost.
pub(super) struct Watch {
    signals: SignalFd,
}

impl Watch {
    /// Begins to collect signals. With `subreaper`, processes that the container leaves behind are reaped, too.
    pub fn begin(subreaper: bool) -> Result<Self> {
        let mut set = SigSet::all();
        // These say that the program itself is broken.
        for signal in [
            Signal::SIGSEGV,
            Signal::SIGBUS,
            Signal::SIGILL,
            Signal::SIGFPE,
            Signal::SIGTRAP,
        ] {
            set.remove(signal);
        }
        set.thread_block().context("block signals")?;
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .context("open signalfd")?;
        if subreaper {
            set_child_subreaper(Some(rustix::process::getpid())).context("become subreaper")?;
        }
        Ok(Self { signals })
    }

    /// Waits for the end of process `pid` and returns its exit code, or 128 and the signal that ended it.
    pub fn until_end(mut self, pid: i32, pidfd: &OwnedFd, console: Option<OwnedFd>) -> Result<i32> {
        let mut terminal = console.map(Terminal::join).transpose()?;
        loop {
            self.pass_signals(pidfd, terminal.as_ref())?;
            if let Some(code) = reap(pid)? {
                if let Some(terminal) = &mut terminal {
                    terminal.drain();
                }
                return Ok(code);
            }
            match &mut terminal {
                Some(terminal) => terminal.wait(&self.signals, pidfd)?,
                None => wait_any(&mut [
                    PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN),
                    PollFd::new(pidfd, PollFlags::IN),
                ])?,
            }
        }
    }

    fn pass_signals(&mut self, pidfd: &OwnedFd, terminal: Option<&Terminal>) -> Result<()> {
        while let Some(info) = self.signals.read_signal().context("read signalfd")? {
            let signal = i32::try_from(info.ssi_signo).unwrap_or(0);
            match signal {
                libc::SIGCHLD | libc::SIGURG | libc::SIGPIPE => {}
                libc::SIGWINCH => {
                    if let Some(terminal) = terminal {
                        terminal.resize();
                    }
                }
                // It may have ended meanwhile.
                signal => drop(send_signal(pidfd, signal)),
            }
        }
        Ok(())
    }
}

/// Gives the process's terminal the size of the caller's from the start.
pub(super) fn take_size(process: &mut Process) {
    if process.terminal
        && let Ok(size) = tty::size(std::io::stdin().as_fd())
    {
        process.console_size = Some(size);
    }
}

/// Reaps whatever has ended; the exit code of `pid` if it is among it.
fn reap(pid: i32) -> Result<Option<i32>> {
    let own = Pid::from_raw(pid);
    match waitpid(own, WaitOptions::NOHANG) {
        Ok(Some((_, status))) => {
            return Ok(status
                .exit_status()
                .or_else(|| status.terminating_signal().map(|s| 128 + s)));
        }
        Ok(None) => {}
        Err(e) => return Err(Error::internal(format!("wait for process {pid}: {e}"))),
    }
    // Others that ended up here; `pid` may end in between, which the next round would find gone.
    while let Ok(Some((ended, status))) = wait(WaitOptions::NOHANG) {
        if Some(ended) == own {
            return Ok(status
                .exit_status()
                .or_else(|| status.terminating_signal().map(|s| 128 + s)));
        }
    }
    Ok(None)
}

fn wait_any(fds: &mut [PollFd<'_>]) -> Result<()> {
    match poll(fds, None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(e) => Err(Error::internal(format!("wait for the process: {e}"))),
    }
}

/// The caller's terminal joined to the process's; restored at the end.
struct Terminal {
    master: std::fs::File,
    before: Option<Termios>,
    input_open: bool,
}

impl Terminal {
    fn join(master: OwnedFd) -> Result<Self> {
        let stdin = std::io::stdin();
        let before = tcgetattr(&stdin).ok();
        if let Some(before) = &before {
            let mut raw = before.clone();
            raw.make_raw();
            tcsetattr(&stdin, OptionalActions::Now, &raw).context("set the terminal to raw mode")?;
        }
        Ok(Self {
            master: master.into(),
            before,
            input_open: true,
        })
    }

    fn resize(&self) {
        if let Ok((rows, columns)) = tty::size(std::io::stdin().as_fd()) {
            let _ = tty::set_size(self.master.as_fd(), rows, columns);
        }
    }

    /// Waits for something to happen and moves what there is to move.
    fn wait(&mut self, signals: &SignalFd, pidfd: &OwnedFd) -> Result<()> {
        let stdin = std::io::stdin();
        let (input, output) = {
            let mut fds = vec![
                PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN),
                PollFd::new(pidfd, PollFlags::IN),
                PollFd::new(&self.master, PollFlags::IN),
            ];
            if self.input_open {
                fds.push(PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN));
            }
            wait_any(&mut fds)?;
            let ready = |n: usize| fds.get(n).is_some_and(|f| !f.revents().is_empty());
            (ready(3), ready(2))
        };
        if output {
            self.move_output();
        }
        if input {
            self.move_input();
        }
        Ok(())
    }

    fn move_output(&mut self) -> bool {
        let mut buffer = [0u8; 8192];
        match self.master.read(&mut buffer) {
            Ok(n) if n > 0 => {
                let mut stdout = std::io::stdout().lock();
                stdout
                    .write_all(&buffer[..n])
                    .and_then(|()| stdout.flush())
                    .is_ok()
            }
            _ => false,
        }
    }

    fn move_input(&mut self) {
        const END_OF_INPUT: &[u8] = &[4];
        let mut buffer = [0u8; 8192];
        // Not through std's buffer, which poll does not see.
        match rustix::io::read(std::io::stdin(), &mut buffer) {
            Ok(n) if n > 0 => drop(self.master.write_all(&buffer[..n])),
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            _ => {
                self.input_open = false;
                drop(self.master.write_all(END_OF_INPUT));
            }
        }
    }

    /// Moves what the process left in its terminal.
    fn drain(&mut self) {
        loop {
            let mut fds = [PollFd::new(&self.master, PollFlags::IN)];
            let nothing = rustix::event::Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            let ready = matches!(poll(&mut fds, Some(&nothing)), Ok(n) if n > 0);
            let readable = fds[0].revents().contains(PollFlags::IN);
            if !ready || !readable || !self.move_output() {
                return;
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, before);
        }
    }
}
