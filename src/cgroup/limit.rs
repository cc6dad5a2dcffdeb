//! What limits have in common between the versions: conversions, checks and the notes about what was left out.

use std::path::Path;

use oci_spec::runtime::{LinuxHugepageLimit, LinuxMemory, LinuxRdma};

use crate::types::{Error, Kind, Result};

use super::file::{self, number, read, set};
use super::stats::Memory;

/// What was asked for and could not be had, where that is no reason to fail.
pub(super) type Notes = Vec<String>;

/// "No limit" in OCI and in version 1's files.
pub(super) const UNLIMITED: i64 = -1;

/// Version 1's shares (2 to 262144, default 1024) as version 2's weight (1 to 10000, default 100).
///
/// The curve is runc's since opencontainers/cgroups 0.0.4, and kubelet's: a quadratic in the logarithm through the
/// minima, the defaults and the maxima of the two scales. The older straight line made 1024 a weight of 39.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]
pub(super) fn weight(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            10f64.powf(exponent).ceil() as u64
        }
    }
}

/// The other way round: the largest number of shares whose [`weight`] this is.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "between 2 and 262144"
)]
pub(super) fn shares_of(weight: u64) -> u64 {
    let exponent = (weight.clamp(1, 10_000) as f64).log10() + 7.0 / 34.0;
    let log = (-125.0 + (125.0f64 * 125.0 + 4.0 * 612.0 * exponent).sqrt()) / 2.0;
    ((log.exp2() + 1e-6) as u64).clamp(2, 262_144)
}

/// Version 1's block I/O weight (10 to 1000) as version 2's (1 to 10000), as runc does.
pub(super) fn io_weight(weight: u16) -> u64 {
    1 + u64::from(weight.clamp(10, 1000) - 10) * 9999 / 990
}

/// The text of a pids limit; `None` leaves it alone.
pub(super) fn pids(limit: i64) -> Option<String> {
    match limit {
        0 => None,
        i64::MIN..=-1 => Some("max".to_owned()),
        n => Some(n.to_string()),
    }
}

/// A byte count; negative is no limit.
pub(super) fn bytes(limit: i64) -> i64 {
    limit.max(UNLIMITED)
}

/// The text of a byte count in version 2.
pub(super) fn bytes_or_max(limit: i64) -> String {
    if limit < 0 {
        "max".to_owned()
    } else {
        limit.to_string()
    }
}

/// A page size as it stands in file names (`2MB`). It becomes part of one, so nothing else will do.
///
/// # Errors
/// `InvalidArgument`.
pub(super) fn page_size(limit: &LinuxHugepageLimit) -> Result<&str> {
    let size = limit.page_size();
    let digits = size
        .strip_suffix("KB")
        .or(size.strip_suffix("MB"))
        .or(size.strip_suffix("GB"))
        .unwrap_or_default();
    if digits.is_empty() || digits.len() > 4 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Error::invalid(format!(
            "huge page limit: {size:?} is no page size such as 2MB or 1GB"
        )));
    }
    Ok(size)
}

/// The node cannot limit huge pages of this size. That is only worth a word if there was a limit: without support there
/// are none to be had, and kubelet sends 0 for every size it knows.
///
/// # Errors
/// None; the type is the callers'.
pub(super) fn no_hugetlb(limit: &LinuxHugepageLimit, notes: &mut Notes) -> Result<()> {
    if limit.limit() != 0 {
        notes.push(format!(
            "limit {} on huge pages of {}: this node cannot limit them",
            limit.limit(),
            limit.page_size()
        ));
    }
    Ok(())
}

/// The line for `rdma.max`.
///
/// # Errors
/// `InvalidArgument` for a device name that is none.
pub(super) fn rdma(device: &str, limit: &LinuxRdma) -> Result<String> {
    if device.is_empty() || device.contains(char::is_whitespace) {
        return Err(Error::invalid(format!(
            "rdma limit: {device:?} is no device name"
        )));
    }
    let text = |n: Option<u32>| n.map_or_else(|| "max".to_owned(), |n| n.to_string());
    Ok(format!(
        "{device} hca_handle={} hca_object={}",
        text(limit.hca_handles()),
        text(limit.hca_objects())
    ))
}

/// Refuses to shrink memory below what is in use. By default cache that the kernel can drop at once does not count as in
/// use: the kernel drops it when the limit is written. `strictly` counts it (OCI's `checkBeforeUpdate`).
///
/// # Errors
/// `FailedPrecondition` with the numbers.
pub(super) fn refuse_below_usage(wanted: i64, memory: &Memory, strictly: bool) -> Result<()> {
    let used = if strictly {
        memory.usage
    } else {
        memory.working_set
    };
    if u64::try_from(wanted).is_ok_and(|wanted| wanted < used) {
        return Err(Error::new(
            Kind::FailedPrecondition,
            format!(
                "memory limit {wanted} is below the {used} bytes in use: free memory or choose a higher limit"
            ),
        ));
    }
    Ok(())
}

/// Writes `cpu.idle` around a change of the weight: an idle cgroup has none.
///
/// # Errors
/// The kernel refuses.
pub(super) fn idle_then(dir: &Path, idle: Option<i64>, weight: impl FnOnce() -> Result<()>) -> Result<()> {
    match idle {
        Some(0) => {
            set(dir, "cpu.idle", 0)?;
            weight()
        }
        Some(idle) => {
            weight()?;
            set(dir, "cpu.idle", idle)
        }
        None => weight(),
    }
}

/// Writes a burst before or after the quota, which must not be below it.
///
/// # Errors
/// The kernel refuses.
pub(super) fn with_burst(
    dir: &Path,
    file: &str,
    burst: Option<u64>,
    quota: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let Some(burst) = burst else { return quota() };
    let early = file::write(dir, file, &burst.to_string());
    quota()?;
    if early.is_err() {
        set(dir, file, burst)
    } else {
        Ok(())
    }
}

/// Writes a list of CPUs or memory nodes. The kernel's refusal does not say that the parent's bound it.
///
/// # Errors
/// The kernel refuses.
pub(super) fn cpuset(dir: &Path, file: &str, value: &str, parents: &str) -> Result<()> {
    set(dir, file, value).map_err(|e| {
        let parent = dir
            .parent()
            .and_then(|p| read(p, parents).ok())
            .unwrap_or_default();
        Error::new(
            Kind::InvalidArgument,
            format!("{e}: the parent cgroup has {:?}", parent.trim()),
        )
    })
}

/// Kernel memory limits went out of the kernel, and `useHierarchy` is always on.
pub(super) fn note_ignored_memory(memory: &LinuxMemory, notes: &mut Notes) {
    #[allow(deprecated)]
    let kernel = memory.kernel();
    for (name, set) in [
        ("kernel memory", kernel.is_some()),
        ("kernel TCP memory", memory.kernel_tcp().is_some()),
    ] {
        if set {
            notes.push(format!("{name} limit: the kernel no longer has one; left out"));
        }
    }
}

/// Version 2's swap limit for OCI's limit of memory and swap together. `present` is the memory limit in force, for when
/// only swap is to change. `None` leaves it alone.
///
/// # Errors
/// `InvalidArgument`: swap without a memory limit, or below it.
pub(super) fn swap_alone(
    memory: Option<i64>,
    both: Option<i64>,
    present: Option<u64>,
) -> Result<Option<i64>> {
    let memory = memory.or_else(|| present.map(|n| i64::try_from(n).unwrap_or(UNLIMITED)));
    match (memory, both) {
        (Some(UNLIMITED), None) => Ok(Some(UNLIMITED)),
        (_, None) => Ok(None),
        (_, Some(i64::MIN..=-1)) => Ok(Some(UNLIMITED)),
        (Some(memory), Some(both)) if memory > 0 && both >= memory => Ok(Some(both - memory)),
        (memory, Some(both)) => {
            let memory = memory
                .filter(|m| *m > 0)
                .map_or_else(|| "none".to_owned(), |m| m.to_string());
            Err(Error::invalid(format!(
                "memory and swap limit {both}: the memory limit is {memory}; the former counts both"
            )))
        }
    }
}

/// The memory limit of a version 2 cgroup.
pub(super) fn memory_max(dir: &Path) -> Option<u64> {
    number(dir, "memory.max")
}
