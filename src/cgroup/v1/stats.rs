//! Readings of a version 1 cgroup, from as many hierarchies as there are.

use std::path::Path;

use super::super::controller::Controller;
use super::super::file::{Dir, Place, number, pairs, read, value_of};
use super::super::stats::{Cpu, Detail, Hugetlb, Limits, Memory, Stats, Swap, device, limit, page_sizes};
use super::Nodes;

/// Reads what there is, up to `detail`. `None` if the cgroup, whose processes are in `tree`, is gone.
pub(in crate::cgroup) fn read_all(nodes: &Nodes, tree: &Path, detail: Detail) -> Option<Stats> {
    let mut stats = Stats::default();
    let full = detail == Detail::Full;
    let memory_dir = nodes.dir(Controller::Memory).and_then(|d| Dir::open(d).ok());
    // A directory that could be opened needs no second look.
    if memory_dir.is_none() && !tree.exists() {
        return None;
    }
    if let Some(dir) = nodes.dir(Controller::Cpuacct) {
        stats.cpu.usage_nanos = number(dir, "cpuacct.usage").unwrap_or(0);
        if full {
            stats.cpu.user_nanos = number(dir, "cpuacct.usage_user").unwrap_or(0);
            stats.cpu.system_nanos = number(dir, "cpuacct.usage_sys").unwrap_or(0);
        }
    }
    if let Some(dir) = memory_dir {
        (stats.memory, stats.swap) = memory(&dir);
        if full {
            memory_events(&dir, &mut stats.memory);
            memory_limits(&dir, &mut stats.limits);
        }
    }
    if !full {
        return Some(stats);
    }
    if let Some(dir) = nodes.dir(Controller::Pids) {
        stats.pids.current = number(dir, "pids.current").unwrap_or(0);
        stats.pids.limit = number(dir, "pids.max").and_then(limit);
    }
    if let Some(dir) = nodes.dir(Controller::Cpu).and_then(|d| Dir::open(d).ok()) {
        throttling(&dir, &mut stats.cpu);
        stats.limits.cpu_period = number(&dir, "cpu.cfs_period_us").unwrap_or(0);
        stats.limits.cpu_quota = number(&dir, "cpu.cfs_quota_us").unwrap_or(0);
        stats.limits.cpu_shares = number(&dir, "cpu.shares").unwrap_or(0);
    }
    if let Some(dir) = nodes.dir(Controller::Blkio) {
        io(dir, &mut stats);
    }
    if let Some(dir) = nodes.dir(Controller::Hugetlb).and_then(|d| Dir::open(d).ok()) {
        stats.hugetlb = hugetlb(&dir);
    }
    Some(stats)
}

fn throttling(dir: &Dir, cpu: &mut Cpu) {
    pairs(dir, "cpu.stat", |key, value| match key {
        "nr_periods" => cpu.periods = value,
        "nr_throttled" => cpu.throttled_periods = value,
        "throttled_time" => cpu.throttled_nanos = value,
        _ => {}
    });
}

/// Memory and swap from as few files as it takes: the limits are in `memory.stat`, too, those of parents counted in.
pub(super) fn memory(dir: &(impl Place + ?Sized)) -> (Memory, Option<Swap>) {
    let mut memory = Memory {
        usage: number(dir, "memory.usage_in_bytes").unwrap_or(0),
        ..Memory::default()
    };
    let (mut inactive_file, mut swapped, mut both) = (0, None, None);
    // The totals include cgroups that the container made for itself.
    pairs(dir, "memory.stat", |key, value| match key {
        "total_rss" => memory.rss = value,
        "total_cache" => memory.cache = value,
        "total_mapped_file" => memory.mapped_file = value,
        "total_inactive_file" => inactive_file = value,
        "total_pgfault" => memory.page_faults = value,
        "total_pgmajfault" => memory.major_page_faults = value,
        "pgfault" => memory.own_page_faults = value,
        "pgmajfault" => memory.own_major_page_faults = value,
        "total_swap" => swapped = Some(value),
        "hierarchical_memory_limit" => memory.limit = limit(value),
        "hierarchical_memsw_limit" => both = limit(value),
        _ => {}
    });
    memory.working_set = memory.usage.saturating_sub(inactive_file);
    let swap_limit = both.zip(memory.limit).map(|(both, own)| both.saturating_sub(own));
    let swap = swapped.map(|usage| Swap {
        usage,
        limit: swap_limit,
    });
    (memory, swap)
}

fn memory_events(dir: &Dir, memory: &mut Memory) {
    let count = |file| number(dir, file).unwrap_or(0);
    memory.max_usage = count("memory.max_usage_in_bytes");
    memory.limit_hits = count("memory.failcnt") + count("memory.memsw.failcnt");
    memory.kernel = count("memory.kmem.usage_in_bytes");
    memory.oom_kills = value_of(dir, "memory.oom_control", "oom_kill").unwrap_or(0);
}

fn memory_limits(dir: &Dir, limits: &mut Limits) {
    let bytes = |file| number(dir, file).and_then(limit).unwrap_or(0);
    limits.memory = bytes("memory.limit_in_bytes");
    limits.memory_reservation = bytes("memory.soft_limit_in_bytes");
    limits.memory_swap = bytes("memory.memsw.limit_in_bytes");
}

fn io(dir: &Path, stats: &mut Stats) {
    let mut each = |files: [&str; 2], bytes: bool| {
        // The throttling files count all traffic; those of a scheduler only its own.
        let text = files.iter().find_map(|f| read(dir, f).ok()).unwrap_or_default();
        for line in text.lines() {
            let mut words = line.split(' ');
            let (Some(number), Some(what), Some(value)) = (words.next(), words.next(), words.next()) else {
                continue;
            };
            let (Some(io), Ok(value)) = (device(&mut stats.io, number), value.parse()) else {
                continue;
            };
            match (what, bytes) {
                ("Read", true) => io.read_bytes = value,
                ("Write", true) => io.write_bytes = value,
                ("Read", false) => io.reads = value,
                ("Write", false) => io.writes = value,
                _ => {}
            }
        }
    };
    each(
        [
            "blkio.throttle.io_service_bytes_recursive",
            "blkio.throttle.io_service_bytes",
        ],
        true,
    );
    each(
        [
            "blkio.throttle.io_serviced_recursive",
            "blkio.throttle.io_serviced",
        ],
        false,
    );
}

fn hugetlb(dir: &Dir) -> Vec<Hugetlb> {
    page_sizes()
        .iter()
        .map(|size| Hugetlb {
            usage: number(dir, &format!("hugetlb.{size}.usage_in_bytes")).unwrap_or(0),
            max_usage: number(dir, &format!("hugetlb.{size}.max_usage_in_bytes")).unwrap_or(0),
            limit_hits: number(dir, &format!("hugetlb.{size}.failcnt")).unwrap_or(0),
            page_size: size.clone(),
        })
        .collect()
}
