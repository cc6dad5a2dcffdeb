//! Processes of a cgroup and everything below it: listing, freezing, killing.
//!
//! A number in `cgroup.procs` may belong to another process by the time it is signalled, so a signal goes to a pidfd that
//! was opened before the number was seen (again) in the cgroup.

use std::collections::HashSet;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::types::error::Context;
use crate::types::{Error, Kind, Result};

use super::file;

/// Longest wait for a cgroup to freeze. Processes in uninterruptible sleep can make it take for ever.
const FREEZE_PATIENCE: Duration = Duration::from_secs(2);

/// The same while killing, where freezing only keeps forks from winning.
const KILL_FREEZE_PATIENCE: Duration = Duration::from_millis(200);

/// Longest that killing waits for the last process to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(2);

/// Most processes listed and most cgroups looked into for a list. A cgroup with more has no pids limit and the node other
/// problems. Killing knows no such bound: nobody may be safe by being many.
const MAX_PROCESSES: usize = 1 << 17;
const MAX_DIRS: usize = 1 << 14;

/// pidfds held at once.
const CHUNK: usize = 256;

/// How a hierarchy freezes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Freezer {
    /// Version 1's freezer hierarchy.
    V1,
    /// `cgroup.freeze`.
    V2,
    /// A version 1 node without one.
    None,
}

/// All processes in `dir` and below. Empty if the cgroup is gone.
pub(super) fn processes(dir: &Path) -> io::Result<Vec<i32>> {
    let mut pids = Vec::new();
    let mut seen = 0;
    walk(dir, |_, members| {
        seen += 1;
        pids.extend(members?);
        if seen > MAX_DIRS || pids.len() > MAX_PROCESSES {
            return Err(io::Error::other(format!(
                "more than {MAX_DIRS} cgroups or {MAX_PROCESSES} processes"
            )));
        }
        Ok(())
    })?;
    Ok(pids)
}

/// Goes through `dir` and all cgroups below it, with the processes of each, until `visit` fails. Those that are gone are
/// left out.
fn walk<E>(
    dir: &Path,
    mut visit: impl FnMut(&Path, io::Result<Vec<i32>>) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        match members(&dir) {
            Err(e) if gone(&e) => continue,
            members => visit(&dir, members)?,
        }
        dirs.extend(children(&dir));
    }
    Ok(())
}

/// The processes right in `dir`.
fn members(dir: &Path) -> io::Result<Vec<i32>> {
    match file::read(dir, "cgroup.procs") {
        // 0 is a process of a pid namespace that cannot be seen from here.
        Ok(text) => Ok(text
            .lines()
            .filter_map(|l| l.parse().ok())
            .filter(|&pid: &i32| pid > 0)
            .collect()),
        // A threaded cgroup lists its processes in the domain above it.
        Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

/// The cgroups right below `dir`.
pub(super) fn children(dir: &Path) -> Vec<PathBuf> {
    // Each has a link to it. Most have none, and lists of statistics ask for thousands.
    if std::fs::metadata(dir).is_ok_and(|meta| meta.nlink() == 2) {
        return Vec::new();
    }
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .map(|e| e.path())
        .collect()
}

/// The cgroup was removed, before or while it was read.
fn gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

/// Stops every process where it is and waits until they stand; if they do not, lets them go again.
///
/// # Errors
/// `DeadlineExceeded`; `Unimplemented` without a freezer.
pub(super) fn freeze(dir: &Path, freezer: Freezer) -> Result<()> {
    if freezer == Freezer::None {
        return Err(Error::new(
            Kind::Unimplemented,
            format!(
                "freeze {}: no freezer hierarchy is mounted on this node",
                dir.display()
            ),
        ));
    }
    if frozen_within(dir, freezer, FREEZE_PATIENCE)? {
        return Ok(());
    }
    let _ = thaw(dir, freezer);
    Err(Error::new(
        Kind::DeadlineExceeded,
        format!(
            "freeze {}: not all of {} stood still in time",
            dir.display(),
            describe(dir)
        ),
    ))
}

/// Lets the processes run on.
///
/// # Errors
/// The kernel refuses.
pub(super) fn thaw(dir: &Path, freezer: Freezer) -> Result<()> {
    let written = match freezer {
        // Writing is a walk over all processes below; reading is not.
        Freezer::V1 => match file::read(dir, "freezer.state") {
            Ok(state) if state.trim() == "THAWED" => Ok(()),
            _ => file::write(dir, "freezer.state", "THAWED"),
        },
        Freezer::V2 => file::write(dir, "cgroup.freeze", "0"),
        Freezer::None => Ok(()),
    };
    match written {
        Err(e) if !gone(&e) => Err(Error::internal(format!("thaw {}: {e}", dir.display()))),
        _ => Ok(()),
    }
}

/// The topmost of `dir` and the cgroups above it that was told to freeze.
pub(super) fn frozen_by(dir: &Path, freezer: Freezer) -> Option<PathBuf> {
    let file = match freezer {
        Freezer::V1 => "freezer.self_freezing",
        Freezer::V2 => "cgroup.freeze",
        Freezer::None => return None,
    };
    // The root of a hierarchy has no such file.
    let told = dir.ancestors().map_while(|dir| {
        let value = file::read(dir, file).ok()?;
        Some((dir, value.trim() == "1"))
    });
    told.filter(|(_, told)| *told)
        .last()
        .map(|(dir, _)| dir.to_owned())
}

fn frozen_within(dir: &Path, freezer: Freezer, patience: Duration) -> Result<bool> {
    let what = || format!("freeze {}", dir.display());
    if freezer == Freezer::V2 {
        file::write(dir, "cgroup.freeze", "1").with_context(what)?;
        return Ok(wait_until(patience, || {
            file::value_of(dir, "cgroup.events", "frozen") == Some(1)
        }));
    }
    let end = Instant::now() + patience;
    // Version 1 can hang between the states if processes fork meanwhile: asking again, and now and then letting them run
    // for a moment, gets it on.
    for round in 1u32.. {
        file::write(dir, "freezer.state", "FROZEN").with_context(what)?;
        if round > 1 {
            std::thread::sleep(Duration::from_micros(20 * u64::from(round.min(100))));
        }
        if file::read(dir, "freezer.state").with_context(what)?.trim() == "FROZEN" {
            return Ok(true);
        }
        if Instant::now() > end {
            break;
        }
        if round % 50 == 0 {
            file::write(dir, "freezer.state", "THAWED").with_context(what)?;
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(false)
}

/// Kills every process and waits until they are gone. One that is frozen is thawed for it.
///
/// # Errors
/// `DeadlineExceeded` naming what does not die: a process in uninterruptible sleep, or one in a frozen parent.
pub(super) fn kill(dir: &Path, freezer: Freezer) -> Result<()> {
    if is_empty(dir) {
        return Ok(());
    }
    if freezer == Freezer::V2 && file::write(dir, "cgroup.kill", "1").is_ok() {
        if wait_until(KILL_PATIENCE, || is_empty(dir)) {
            return Ok(());
        }
        return Err(survivors(dir));
    }
    kill_by_signal(dir, freezer)
}

/// Without the kernel's own kill for cgroups: version 1, and version 2 before 5.14.
pub(super) fn kill_by_signal(dir: &Path, freezer: Freezer) -> Result<()> {
    let end = Instant::now() + KILL_PATIENCE;
    // Most die of this at once. What forks may get away.
    let mut trouble = signal_all(dir, Signal::KILL).err();
    let _ = thaw(dir, freezer);
    let mut patience = Duration::from_millis(20);
    while !wait_until(patience, || is_empty(dir)) {
        if Instant::now() > end {
            // What could not be looked into is the better reason.
            return match trouble {
                Some(e) => Err(e).with_context(|| format!("kill processes of {}", dir.display())),
                None => Err(survivors(dir)),
            };
        }
        trouble = kill_frozen(dir, freezer).err();
        patience = Duration::from_millis(100);
    }
    Ok(())
}

/// Sends SIGKILL to all there are. Frozen, they cannot fork away from it; thawed, they die of it.
fn kill_frozen(dir: &Path, freezer: Freezer) -> io::Result<()> {
    if freezer != Freezer::None {
        // Without it this is still a kill, only not an atomic one.
        let _ = frozen_within(dir, freezer, KILL_FREEZE_PATIENCE);
    }
    let sent = signal_all(dir, Signal::KILL);
    let _ = thaw(dir, freezer);
    sent
}

/// Signals all processes there are, and none that only has the number of one.
///
/// # Errors
/// The first cgroup that could not be looked into; the processes of the others are signalled all the same.
fn signal_all(dir: &Path, signal: Signal) -> io::Result<()> {
    let mut outcome = Ok(());
    let Ok(()) = walk(dir, |dir, found| {
        let signalled = found.and_then(|pids| signal_members(dir, &pids, signal));
        if outcome.is_ok() {
            outcome = signalled;
        }
        Ok::<_, std::convert::Infallible>(())
    });
    outcome
}

fn signal_members(dir: &Path, pids: &[i32], signal: Signal) -> io::Result<()> {
    for pids in pids.chunks(CHUNK) {
        let open = |pid: &i32| Some((*pid, pidfd_open(Pid::from_raw(*pid)?, PidfdFlags::empty()).ok()?));
        let pidfds: Vec<_> = pids.iter().filter_map(open).collect();
        let still: HashSet<i32> = match members(dir) {
            Err(e) if gone(&e) => return Ok(()),
            members => members?.into_iter().collect(),
        };
        for (_, pidfd) in pidfds.iter().filter(|(pid, _)| still.contains(pid)) {
            // One that is gone by now needs no signal.
            let _ = pidfd_send_signal(pidfd, signal);
        }
    }
    Ok(())
}

/// Whether no process is left in `dir` or below. No, if that cannot be said.
pub(super) fn is_empty(dir: &Path) -> bool {
    // Version 2 says it in one line, however many cgroups there are.
    if let Some(populated) = file::value_of(dir, "cgroup.events", "populated") {
        return populated == 0;
    }
    walk(dir, |_, members| match members {
        Ok(pids) if pids.is_empty() => Ok(()),
        _ => Err(()),
    })
    .is_ok()
}

/// Whether there are processes or other cgroups in `dir`.
pub(super) fn in_use(dir: &Path) -> bool {
    !children(dir).is_empty() || !is_empty(dir)
}

/// Asks until the answer is yes or the time is up: every millisecond at first, then ever more rarely.
pub(super) fn wait_until(patience: Duration, mut done: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    let end = start + patience;
    let mut pause = Duration::from_micros(50);
    loop {
        if done() {
            return true;
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        std::thread::sleep(pause.min(left));
        let longest = if start.elapsed() < Duration::from_millis(30) {
            1
        } else {
            10
        };
        pause = (pause * 2).min(Duration::from_millis(longest));
    }
}

fn survivors(dir: &Path) -> Error {
    Error::new(
        Kind::DeadlineExceeded,
        format!(
            "kill processes of {}: {} survived SIGKILL so far",
            dir.display(),
            describe(dir)
        ),
    )
}

/// `3 processes, among them 812 (dd, state D)`.
pub(super) fn describe(dir: &Path) -> String {
    let mut pids = Vec::new();
    let whole = walk(dir, |_, members| {
        pids.extend(members.unwrap_or_default());
        if pids.len() > MAX_PROCESSES {
            Err(())
        } else {
            Ok(())
        }
    });
    let Some(first) = pids.first() else {
        return "0 processes".to_owned();
    };
    let stat = file::read(Path::new(&format!("/proc/{first}")), "stat").unwrap_or_default();
    // `pid (name) state ...`; the name may contain anything.
    let name = stat
        .split_once('(')
        .and_then(|(_, rest)| rest.rsplit_once(')'))
        .map_or("?", |(name, _)| name);
    let state = stat
        .rsplit_once(") ")
        .and_then(|(_, rest)| rest.chars().next())
        .unwrap_or('?');
    format!(
        "{}{} processes, among them {first} ({name}, state {state})",
        if whole.is_ok() { "" } else { "more than " },
        pids.len()
    )
}
