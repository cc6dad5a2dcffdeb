//! `kill`: signals by name or number.

use std::path::Path;

use nix::sys::signal::Signal;

use crate::sys::process::send_signal;
use crate::types::error::Context;
use crate::types::{Error, Result};

use super::args::Kill;
use super::cgroups;
use super::state::{Home, Status};

/// `kill`.
pub(super) fn kill(root: &Path, args: &Kill) -> Result<()> {
    let signal = parse(&args.signal)?;
    let home = Home::find(root, &args.id)?;
    let state = home.load()?;
    if args.all
        && signal == libc::SIGKILL
        && let Some(cgroup) = &state.cgroup
    {
        return cgroups::kill(cgroup);
    }
    let process = state.process().filter(|_| home.status(&state) != Status::Stopped);
    match process {
        Some(fd) => send_signal(&fd, signal)
            .with_context(|| format!("send signal {signal} to container {:?}", args.id)),
        None if args.all => Ok(()),
        None => Err(Error::precondition(format!(
            "container {:?} is not running",
            args.id
        ))),
    }
}

/// `15`, `TERM`, `SIGTERM`, `SIGRTMIN+3`, in any case.
fn parse(text: &str) -> Result<i32> {
    let bad = || {
        Error::invalid(format!(
            "unknown signal {text:?}: expected a number or a name such as TERM"
        ))
    };
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number).ok_or_else(bad);
    }
    let upper = text.to_ascii_uppercase();
    let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(rest) = bare.strip_prefix("RTMIN") {
        let offset = if rest.is_empty() {
            0
        } else {
            rest.strip_prefix('+')
                .and_then(|n| n.parse().ok())
                .ok_or_else(bad)?
        };
        let number = libc::SIGRTMIN() + offset;
        return (number <= libc::SIGRTMAX() && offset >= 0)
            .then_some(number)
            .ok_or_else(bad);
    }
    format!("SIG{bare}")
        .parse::<Signal>()
        .map(|s| s as i32)
        .map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn signals_in_all_spellings() {
        for text in ["15", "TERM", "SIGTERM", "term", "sigterm"] {
            assert_eq!(parse(text).unwrap(), libc::SIGTERM, "{text}");
        }
        assert_eq!(parse("SIGRTMIN+3").unwrap(), libc::SIGRTMIN() + 3);
        assert_eq!(parse("37").unwrap(), 37);
        for text in ["", "0", "65", "-9", "NOPE", "RTMIN+x", "RTMIN+99", "RTMIN+-1"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
