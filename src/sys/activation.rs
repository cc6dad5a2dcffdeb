//! Descriptors that a service manager passes to the program it starts, as sd_listen_fds(3) has it: `LISTEN_FDS` tells how
//! many there are from 3 on, `LISTEN_PID` for which process, `LISTEN_FDNAMES` what they are called.

use std::ffi::OsString;
use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};

/// The first descriptor that is passed.
const FIRST: RawFd = 3;
/// What tells of the descriptors. Newer systemds tell the process by an id that is never used twice, too.
const VARIABLES: [&str; 4] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"];

/// A descriptor from outside.
#[derive(Debug)]
pub struct Passed {
    /// What the service manager calls it, by default the name of its unit; `unknown` if it says nothing.
    pub name: String,
    /// It, to be closed by execve.
    pub fd: OwnedFd,
}

/// Takes over the descriptors that were passed to this process, if any, and takes the variables that tell of them out of
/// the environment, so that no program started later takes them for its own. Finds none when called again.
///
/// To be called first thing, while the process has one thread and has opened nothing.
///
/// # Errors
/// Variables that make no sense, a descriptor that is not open, or a process that has threads already.
pub fn take() -> io::Result<Vec<Passed>> {
    let variables = VARIABLES.map(std::env::var_os);
    if variables.iter().all(Option::is_none) {
        return Ok(Vec::new());
    }
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other(
            "descriptors from a service manager can only be taken before there are threads",
        ));
    }
    for name in VARIABLES {
        // SAFETY: this process has no other thread, as was just seen, which might read the environment meanwhile; and
        // only this thread could start one.
        unsafe { std::env::remove_var(name) };
    }
    let [pid, count, names, _] = variables;
    let names = announced(std::process::id(), pid, count, names).map_err(io::Error::other)?;
    let numbered = names.into_iter().zip(FIRST..);
    numbered.map(|(name, number)| adopt(name, number)).collect()
}

fn adopt(name: String, number: RawFd) -> io::Result<Passed> {
    // SAFETY: takes integers only.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
        let error = io::Error::last_os_error();
        return Err(io::Error::new(
            error.kind(),
            format!("descriptor {number} ({name}) should have been passed by LISTEN_FDS: {error}"),
        ));
    }
    // SAFETY: the descriptor is open, or it could not have been set to close. Whoever set LISTEN_PID to this process gave
    // it away; this process has opened nothing that it could be instead, and the variables are gone, so this is done once.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    Ok(Passed { name, fd })
}

/// The names of the descriptors that are for the process `own`, in order.
fn announced(
    own: u32,
    pid: Option<OsString>,
    count: Option<OsString>,
    names: Option<OsString>,
) -> Result<Vec<String>, String> {
    // Left over from an ancestor that did not take its own, if it is for another process or for none.
    let Some(pid) = pid else { return Ok(Vec::new()) };
    if number(&pid, "LISTEN_PID")? != own {
        return Ok(Vec::new());
    }
    let Some(count) = count else {
        return Ok(Vec::new());
    };
    let count = number(&count, "LISTEN_FDS")?;
    if count == 0 || RawFd::try_from(count).is_err() {
        return Err(format!("LISTEN_FDS={count} is no number of descriptors"));
    }
    let Some(names) = names else {
        // As many as are open: the first that is not is an error.
        return Ok(std::iter::repeat_n("unknown".to_owned(), bounded(count)).collect());
    };
    let names: Vec<_> = names.to_string_lossy().split(':').map(str::to_owned).collect();
    if names.len() != bounded(count) {
        return Err(format!(
            "LISTEN_FDNAMES has {} names for {count} descriptors",
            names.len()
        ));
    }
    Ok(names)
}

/// No process has more descriptors than this; what lies about more is told by the first that is not open.
fn bounded(count: u32) -> usize {
    const MOST: u32 = 1 << 20;
    count.min(MOST) as usize
}

fn number(value: &OsString, variable: &str) -> Result<u32, String> {
    value
        .to_str()
        .and_then(|v| v.parse().ok())
        .ok_or_else(|| format!("{variable}={} is no number", value.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn told(pid: &str, count: &str, names: Option<&str>) -> Result<Vec<String>, String> {
        announced(7, Some(pid.into()), Some(count.into()), names.map(Into::into))
    }

    #[test]
    fn what_is_for_this_process_is_taken() {
        assert_eq!(told("7", "1", Some("husk.socket")).unwrap(), ["husk.socket"]);
        assert_eq!(told("7", "2", Some("a:")).unwrap(), ["a", ""]);
        assert_eq!(told("7", "2", None).unwrap(), ["unknown", "unknown"]);
    }

    #[test]
    fn what_is_for_another_or_for_nobody_is_left() {
        assert!(told("8", "1", None).unwrap().is_empty());
        // Not even looked at.
        assert!(told("8", "many", None).unwrap().is_empty());
        assert!(announced(7, None, Some("1".into()), None).unwrap().is_empty());
        assert!(announced(7, Some("7".into()), None, None).unwrap().is_empty());
    }

    #[test]
    fn what_makes_no_sense_is_an_error_that_names_the_variable() {
        for (pid, count, names, variable) in [
            ("seven", "1", None, "LISTEN_PID"),
            ("-7", "1", None, "LISTEN_PID"),
            ("7", "", None, "LISTEN_FDS"),
            ("7", "0", None, "LISTEN_FDS"),
            ("7", "-1", None, "LISTEN_FDS"),
            ("7", "4294967295", None, "LISTEN_FDS"),
            ("7", "2", Some("one"), "LISTEN_FDNAMES"),
            ("7", "1", Some("one:two"), "LISTEN_FDNAMES"),
        ] {
            let error = told(pid, count, names).unwrap_err();
            assert!(error.contains(variable), "{error}");
        }
    }

    #[test]
    fn a_number_of_descriptors_costs_no_more_than_there_can_be() {
        assert_eq!(told("7", "2000000000", None).unwrap().len(), 1 << 20);
    }
}
