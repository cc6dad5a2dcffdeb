//! Writes limits to a version 2 cgroup.

use std::collections::BTreeMap;
use std::path::Path;

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxResources, LinuxThrottleDevice,
};

use crate::types::{Error, Result};

use super::super::file::{read, set};
use super::super::limit::{self, Notes, page_size};

/// Writes what is set in `resources`, but for the devices. `live`: processes may be in the cgroup already.
///
/// # Errors
/// The kernel refuses a value, or a limit needs a controller that the cgroup lacks.
pub(in crate::cgroup) fn apply(
    dir: &Path,
    resources: &LinuxResources,
    live: bool,
    notes: &mut Notes,
) -> Result<()> {
    // Before anything is written: what is refused must change nothing.
    if let Some(memory) = resources.memory().as_ref().filter(|_| live) {
        check_usage(dir, memory)?;
    }
    if let Some(cpu) = resources.cpu() {
        cpu_time(dir, cpu, notes)?;
        cpu_set(dir, cpu)?;
    }
    if let Some(mem) = resources.memory() {
        memory(dir, mem, notes)?;
    }
    if let Some(max) = resources.pids().and_then(|p| limit::pids(p.limit())) {
        set(dir, "pids.max", max)?;
    }
    for hugepages in resources.hugepage_limits().iter().flatten() {
        hugetlb(dir, hugepages, notes)?;
    }
    if let Some(io) = resources.block_io() {
        block_io(dir, io, notes)?;
    }
    if resources.network().is_some() {
        notes.push("network class and priorities: cgroup version 2 has none; left out".into());
    }
    for (device, rdma) in resources.rdma().iter().flatten() {
        set(dir, "rdma.max", limit::rdma(device, rdma)?)?;
    }
    // Last, because it is the most specific.
    let unified: BTreeMap<_, _> = resources.unified().iter().flatten().collect();
    unified
        .into_iter()
        .try_for_each(|(file, value)| raw(dir, file, value))
}

fn cpu_time(dir: &Path, cpu: &LinuxCpu, notes: &mut Notes) -> Result<()> {
    limit::idle_then(dir, cpu.idle(), || match cpu.shares().filter(|s| *s > 0) {
        Some(shares) => set(dir, "cpu.weight", limit::weight(shares)),
        None => Ok(()),
    })?;
    if cpu.realtime_period().is_some() || cpu.realtime_runtime().is_some() {
        notes.push("realtime CPU limits: cgroup version 2 has none; left out".into());
    }
    limit::with_burst(dir, "cpu.max.burst", cpu.burst(), || quota(dir, cpu))
}

/// `cpu.max` is quota and period; what is not set stays.
fn quota(dir: &Path, cpu: &LinuxCpu) -> Result<()> {
    let quota = cpu.quota().filter(|q| *q != 0).map(limit::bytes_or_max);
    let period = cpu.period().filter(|p| *p > 0);
    let value = match (quota, period) {
        (None, None) => return Ok(()),
        // The kernel keeps the period.
        (Some(quota), None) => quota,
        (Some(quota), Some(period)) => format!("{quota} {period}"),
        (None, Some(period)) => {
            let present = read(dir, "cpu.max").unwrap_or_default();
            format!("{} {period}", present.split_whitespace().next().unwrap_or("max"))
        }
    };
    set(dir, "cpu.max", value)
}

fn cpu_set(dir: &Path, cpu: &LinuxCpu) -> Result<()> {
    for (file, parents, value) in [
        ("cpuset.cpus", "cpuset.cpus.effective", cpu.cpus()),
        ("cpuset.mems", "cpuset.mems.effective", cpu.mems()),
    ] {
        if let Some(value) = value.as_deref().filter(|v| !v.is_empty()) {
            limit::cpuset(dir, file, value, parents)?;
        }
    }
    Ok(())
}

fn check_usage(dir: &Path, memory: &LinuxMemory) -> Result<()> {
    let Some(wanted) = memory.limit().filter(|l| *l != 0).map(limit::bytes) else {
        return Ok(());
    };
    let usage = super::stats::memory(dir);
    limit::refuse_below_usage(wanted, &usage, memory.check_before_update() == Some(true))
}

fn memory(dir: &Path, memory: &LinuxMemory, notes: &mut Notes) -> Result<()> {
    let wanted = memory.limit().filter(|l| *l != 0).map(limit::bytes);
    let swap = limit::swap_alone(wanted, memory.swap().filter(|s| *s != 0), limit::memory_max(dir))?;
    if let Some(swap) = swap {
        if dir.join("memory.swap.max").exists() {
            set(dir, "memory.swap.max", limit::bytes_or_max(swap))?;
        } else if swap >= 0 {
            notes.push("swap limit: the kernel does not account for swap; memory alone is limited".into());
        }
    }
    if let Some(wanted) = wanted {
        set(dir, "memory.max", limit::bytes_or_max(wanted))?;
    }
    if let Some(reservation) = memory.reservation().filter(|r| *r != 0) {
        set(dir, "memory.low", limit::bytes_or_max(reservation))?;
    }
    if memory.swappiness().is_some() {
        notes.push("swappiness: cgroup version 2 has none; left out".into());
    }
    if memory.disable_oom_killer() == Some(true) {
        notes.push("disableOOMKiller: cgroup version 2 cannot; left out".into());
    }
    limit::note_ignored_memory(memory, notes);
    Ok(())
}

fn hugetlb(dir: &Path, hugepages: &LinuxHugepageLimit, notes: &mut Notes) -> Result<()> {
    let size = page_size(hugepages)?;
    let file = format!("hugetlb.{size}.max");
    if !dir.join(&file).exists() {
        return limit::no_hugetlb(hugepages, notes);
    }
    let limit = limit::bytes_or_max(hugepages.limit());
    set(dir, &file, &limit)?;
    // Reservations too, where the kernel counts them: 5.7.
    let reserved = format!("hugetlb.{size}.rsvd.max");
    if dir.join(&reserved).exists() {
        set(dir, &reserved, limit)
    } else {
        Ok(())
    }
}

fn block_io(dir: &Path, io: &LinuxBlockIo, notes: &mut Notes) -> Result<()> {
    if io.leaf_weight().is_some() {
        notes.push("leafWeight: cgroup version 2 has none; left out".into());
    }
    let weights = io.weight().filter(|w| *w > 0).map(|w| ("default".to_owned(), w));
    let devices = io.weight_device().iter().flatten();
    let devices = devices.filter_map(|d| Some((format!("{}:{}", d.major(), d.minor()), d.weight()?)));
    for (device, weight) in weights.into_iter().chain(devices) {
        if dir.join("io.bfq.weight").exists() {
            // BFQ's scale is version 1's.
            set(dir, "io.bfq.weight", format!("{device} {weight}"))?;
        } else if dir.join("io.weight").exists() {
            set(dir, "io.weight", format!("{device} {}", limit::io_weight(weight)))?;
        } else {
            notes.push(format!(
                "block I/O weight {weight}: no I/O scheduler of this node has weights"
            ));
        }
    }
    let throttles: [(&str, &Option<Vec<LinuxThrottleDevice>>); 4] = [
        ("rbps", io.throttle_read_bps_device()),
        ("wbps", io.throttle_write_bps_device()),
        ("riops", io.throttle_read_iops_device()),
        ("wiops", io.throttle_write_iops_device()),
    ];
    for (key, devices) in throttles {
        for d in devices.iter().flatten() {
            // 0 takes a limit away in version 1; here that is a word.
            let rate = if d.rate() == 0 {
                "max".to_owned()
            } else {
                d.rate().to_string()
            };
            set(dir, "io.max", format!("{}:{} {key}={rate}", d.major(), d.minor()))?;
        }
    }
    Ok(())
}

/// Writes a file that the client named. The `cgroup.` files are the structure of the tree, which is not the client's.
fn raw(dir: &Path, file: &str, value: &str) -> Result<()> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let structure = file.starts_with("cgroup.") && !file.starts_with("cgroup.max.");
    if !file.bytes().all(plain) || !file.contains('.') || file.starts_with('.') || structure {
        return Err(Error::invalid(format!(
            "unified resource {file:?}: not the name of a resource file"
        )));
    }
    value.lines().try_for_each(|line| set(dir, file, line))
}
