//! Version 1's memory limits. Memory and memory-plus-swap bound each other, so the order of the writes matters.

use std::path::Path;

use oci_spec::runtime::LinuxMemory;

use crate::types::{Error, Result};

use super::super::controller::Controller;
use super::super::file::{number, set};
use super::super::limit::{self, Notes, UNLIMITED};
use super::Nodes;

const LIMIT: &str = "memory.limit_in_bytes";
const WITH_SWAP: &str = "memory.memsw.limit_in_bytes";

/// Refuses a limit below what is in use.
///
/// # Errors
/// `FailedPrecondition` with the numbers.
pub(super) fn check_usage(nodes: &Nodes, memory: &LinuxMemory) -> Result<()> {
    let (Some(dir), Some(wanted)) = (nodes.dir(Controller::Memory), memory.limit().filter(|l| *l != 0))
    else {
        return Ok(());
    };
    let usage = super::stats::memory(dir).0;
    limit::refuse_below_usage(wanted, &usage, memory.check_before_update() == Some(true))
}

/// Writes what is set.
///
/// # Errors
/// The kernel refuses.
pub(super) fn apply(nodes: &Nodes, memory: &LinuxMemory, notes: &mut Notes) -> Result<()> {
    if *memory == LinuxMemory::default() {
        return Ok(());
    }
    let dir = nodes.need(Controller::Memory)?;
    let wanted = memory.limit().filter(|l| *l != 0);
    bounds(dir, wanted, memory.swap().filter(|s| *s != 0), notes)?;
    if let Some(reservation) = memory.reservation().filter(|r| *r != 0) {
        set(dir, "memory.soft_limit_in_bytes", reservation.max(UNLIMITED))?;
    }
    if let Some(swappiness) = memory.swappiness() {
        set(dir, "memory.swappiness", swappiness)?;
    }
    if let Some(disable) = memory.disable_oom_killer() {
        set(dir, "memory.oom_control", u8::from(disable))?;
    }
    limit::note_ignored_memory(memory, notes);
    Ok(())
}

/// Raises memory-plus-swap first and memory second, and lowers them the other way round.
fn bounds(dir: &Path, wanted: Option<i64>, swap: Option<i64>, notes: &mut Notes) -> Result<()> {
    let present = number(dir, WITH_SWAP);
    // Unlimited memory under a bound of both would be no such thing.
    let swap = if wanted == Some(UNLIMITED) {
        swap.or(Some(UNLIMITED))
    } else {
        swap
    };
    let swap = match (swap, present) {
        (Some(swap), None) => {
            if swap != UNLIMITED {
                notes.push(
                    "memory and swap limit: the kernel does not account for swap; memory alone is limited"
                        .into(),
                );
            }
            None
        }
        (swap, _) => swap,
    };
    check(wanted, swap, present)?;
    let size = |limit: i64| u64::try_from(limit).unwrap_or(u64::MAX);
    let raises = swap.zip(present).is_some_and(|(new, old)| size(new) > old);
    let files = if raises {
        [(WITH_SWAP, swap), (LIMIT, wanted)]
    } else {
        [(LIMIT, wanted), (WITH_SWAP, swap)]
    };
    for (file, value) in files {
        if let Some(value) = value {
            set(dir, file, value.max(UNLIMITED))?;
        }
    }
    Ok(())
}

fn check(wanted: Option<i64>, swap: Option<i64>, present: Option<u64>) -> Result<()> {
    match (wanted, swap, present) {
        (Some(limit), Some(both), _) if both > 0 && (limit < 0 || both < limit) => Err(Error::invalid(
            format!("memory and swap limit {both} is below the memory limit {limit}: it counts both"),
        )),
        (Some(limit), None, Some(both)) if u64::try_from(limit).is_ok_and(|l| l > both) => {
            Err(Error::invalid(format!(
                "memory limit {limit} is above the present limit {both} of memory and swap: set both"
            )))
        }
        _ => Ok(()),
    }
}
