//! Writes limits to a version 1 cgroup.

use std::path::Path;

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxHugepageLimit, LinuxNetwork, LinuxResources, LinuxThrottleDevice,
};

use crate::types::{Error, Result};

use super::super::controller::Controller;
use super::super::file::{set, write};
use super::super::limit::{self, Notes, page_size};
use super::{Nodes, memory};

/// Writes what is set in `resources`, but for the devices. `live`: processes may be in the cgroup already.
///
/// # Errors
/// The kernel refuses a value, or a limit needs a controller that the node lacks.
pub(in crate::cgroup) fn apply(
    nodes: &Nodes,
    resources: &LinuxResources,
    live: bool,
    notes: &mut Notes,
) -> Result<()> {
    if resources.unified().as_ref().is_some_and(|u| !u.is_empty()) {
        return Err(Error::invalid(
            "unified resources: this node has cgroup version 1",
        ));
    }
    // Before anything is written: what is refused must change nothing.
    if let Some(memory) = resources.memory().as_ref().filter(|_| live) {
        memory::check_usage(nodes, memory)?;
    }
    if let Some(cpu) = resources.cpu() {
        cpu_time(nodes, cpu)?;
        cpu_set(nodes, cpu)?;
    }
    if let Some(memory) = resources.memory() {
        memory::apply(nodes, memory, notes)?;
    }
    if let Some(max) = resources.pids().and_then(|p| limit::pids(p.limit())) {
        set(nodes.need(Controller::Pids)?, "pids.max", max)?;
    }
    for hugepages in resources.hugepage_limits().iter().flatten() {
        hugetlb(nodes, hugepages, notes)?;
    }
    if let Some(io) = resources.block_io() {
        block_io(nodes, io, notes)?;
    }
    if let Some(net) = resources.network() {
        network(nodes, net, notes)?;
    }
    for (device, rdma) in resources.rdma().iter().flatten() {
        set(
            nodes.need(Controller::Rdma)?,
            "rdma.max",
            limit::rdma(device, rdma)?,
        )?;
    }
    Ok(())
}

fn cpu_time(nodes: &Nodes, cpu: &LinuxCpu) -> Result<()> {
    let shares = cpu.shares().filter(|s| *s > 0);
    let timed = cpu.quota().is_some() || cpu.period().is_some() || cpu.burst().is_some();
    let realtime = cpu.realtime_period().is_some() || cpu.realtime_runtime().is_some();
    if shares.is_none() && !timed && !realtime && cpu.idle().is_none() {
        return Ok(());
    }
    let dir = nodes.need(Controller::Cpu)?;
    limit::idle_then(dir, cpu.idle(), || match shares {
        Some(shares) => set(dir, "cpu.shares", shares),
        None => Ok(()),
    })?;
    if let Some(period) = cpu.realtime_period().filter(|p| *p > 0) {
        set(dir, "cpu.rt_period_us", period)?;
    }
    if let Some(runtime) = cpu.realtime_runtime() {
        set(dir, "cpu.rt_runtime_us", runtime)?;
    }
    limit::with_burst(dir, "cpu.cfs_burst_us", cpu.burst(), || quota(dir, cpu))
}

/// A quota may only be valid with the new period, and the new period only with the new quota.
fn quota(dir: &Path, cpu: &LinuxCpu) -> Result<()> {
    let period = cpu.period().filter(|p| *p > 0);
    let early = period.map(|p| write(dir, "cpu.cfs_period_us", &p.to_string()));
    if let Some(quota) = cpu.quota().filter(|q| *q != 0) {
        set(dir, "cpu.cfs_quota_us", quota.max(-1))?;
    }
    match (period, early) {
        (Some(period), Some(Err(_))) => set(dir, "cpu.cfs_period_us", period),
        _ => Ok(()),
    }
}

fn cpu_set(nodes: &Nodes, cpu: &LinuxCpu) -> Result<()> {
    for (file, value) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
        if let Some(value) = value.as_deref().filter(|v| !v.is_empty()) {
            limit::cpuset(nodes.need(Controller::Cpuset)?, file, value, file)?;
        }
    }
    Ok(())
}

fn hugetlb(nodes: &Nodes, hugepages: &LinuxHugepageLimit, notes: &mut Notes) -> Result<()> {
    let size = page_size(hugepages)?;
    let Some(dir) = nodes.dir(Controller::Hugetlb) else {
        return limit::no_hugetlb(hugepages, notes);
    };
    let limit = limit::bytes(hugepages.limit());
    if !dir.join(format!("hugetlb.{size}.limit_in_bytes")).exists() {
        return limit::no_hugetlb(hugepages, notes);
    }
    set(dir, &format!("hugetlb.{size}.limit_in_bytes"), limit)?;
    // Reservations too, where the kernel counts them: 5.7.
    let reserved = format!("hugetlb.{size}.rsvd.limit_in_bytes");
    if dir.join(&reserved).exists() {
        set(dir, &reserved, limit)
    } else {
        Ok(())
    }
}

fn block_io(nodes: &Nodes, io: &LinuxBlockIo, notes: &mut Notes) -> Result<()> {
    if *io == LinuxBlockIo::default() {
        return Ok(());
    }
    let dir = nodes.need(Controller::Blkio)?;
    if io.leaf_weight().is_some() {
        notes.push("leafWeight: only the CFQ scheduler had it; left out".into());
    }
    // CFQ's name, then BFQ's; with neither scheduler a weight has no meaning.
    let file = |name: &str| {
        ["blkio", "blkio.bfq"]
            .map(|p| format!("{p}.{name}"))
            .into_iter()
            .find(|f| dir.join(f).exists())
    };
    if let Some(weight) = io.weight().filter(|w| *w > 0) {
        match file("weight") {
            Some(file) => set(dir, &file, weight)?,
            None => notes.push(format!(
                "block I/O weight {weight}: no I/O scheduler of this node has weights"
            )),
        }
    }
    for device in io.weight_device().iter().flatten() {
        let (Some(weight), number) = (device.weight(), (device.major(), device.minor())) else {
            continue;
        };
        match file("weight_device") {
            Some(file) => set(dir, &file, format!("{}:{} {weight}", number.0, number.1))?,
            None => notes.push(format!(
                "block I/O weight {weight} of a device: no I/O scheduler of this node has weights"
            )),
        }
    }
    let throttles: [(&str, &Option<Vec<LinuxThrottleDevice>>); 4] = [
        ("blkio.throttle.read_bps_device", io.throttle_read_bps_device()),
        ("blkio.throttle.write_bps_device", io.throttle_write_bps_device()),
        ("blkio.throttle.read_iops_device", io.throttle_read_iops_device()),
        (
            "blkio.throttle.write_iops_device",
            io.throttle_write_iops_device(),
        ),
    ];
    for (file, devices) in throttles {
        for d in devices.iter().flatten() {
            set(dir, file, format!("{}:{} {}", d.major(), d.minor(), d.rate()))?;
        }
    }
    Ok(())
}

fn network(nodes: &Nodes, net: &LinuxNetwork, notes: &mut Notes) -> Result<()> {
    if let Some(id) = net.class_id() {
        match nodes.dir(Controller::NetCls) {
            Some(dir) => set(dir, "net_cls.classid", id)?,
            None => notes.push("network class id: controller net_cls is not mounted".into()),
        }
    }
    for priority in net.priorities().iter().flatten() {
        match nodes.dir(Controller::NetPrio) {
            Some(dir) => set(
                dir,
                "net_prio.ifpriomap",
                format!("{} {}", priority.name(), priority.priority()),
            )?,
            None => notes.push("network priority: controller net_prio is not mounted".into()),
        }
    }
    Ok(())
}
