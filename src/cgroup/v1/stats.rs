//! Readings of a version 1 cgroup, from as many hierarchies as there are.

use std::path::Path;

use super::super::controller::Controller;
use super::super::file::{number, pairs, read};
use super::super::stats::{Cpu, Hugetlb, Memory, Pids, Stats, Swap, device, limit, page_sizes};
use super::Nodes;

/// Reads what there is.
pub(in crate::cgroup) fn read_all(nodes: &Nodes) -> Stats {
    let mut stats = Stats::default();
    if let Some(dir) = nodes.dir(Controller::Cpuacct) {
        usage(dir, &mut stats.cpu);
    }
    if let Some(dir) = nodes.dir(Controller::Cpu) {
        throttling(dir, &mut stats.cpu);
    }
    if let Some(dir) = nodes.dir(Controller::Memory) {
        (stats.memory, stats.swap) = memory(dir);
    }
    if let Some(dir) = nodes.dir(Controller::Pids) {
        let limit = number(dir, "pids.max").and_then(limit);
        stats.pids = Pids {
            current: number(dir, "pids.current").unwrap_or(0),
            limit,
        };
    }
    if let Some(dir) = nodes.dir(Controller::Blkio) {
        io(dir, &mut stats);
    }
    if let Some(dir) = nodes.dir(Controller::Hugetlb) {
        stats.hugetlb = hugetlb(dir);
    }
    stats
}

fn usage(dir: &Path, cpu: &mut Cpu) {
    cpu.usage_nanos = number(dir, "cpuacct.usage").unwrap_or(0);
    cpu.user_nanos = number(dir, "cpuacct.usage_user").unwrap_or(0);
    cpu.system_nanos = number(dir, "cpuacct.usage_sys").unwrap_or(0);
}

fn throttling(dir: &Path, cpu: &mut Cpu) {
    pairs(dir, "cpu.stat", |key, value| match key {
        "nr_periods" => cpu.periods = value,
        "nr_throttled" => cpu.throttled_periods = value,
        "throttled_time" => cpu.throttled_nanos = value,
        _ => {}
    });
}

pub(super) fn memory(dir: &Path) -> (Memory, Option<Swap>) {
    let usage = number(dir, "memory.usage_in_bytes").unwrap_or(0);
    let own_limit = number(dir, "memory.limit_in_bytes").and_then(limit);
    let failures = |file| number(dir, file).unwrap_or(0);
    let mut memory = Memory {
        usage,
        max_usage: number(dir, "memory.max_usage_in_bytes").unwrap_or(0),
        limit: own_limit,
        limit_hits: failures("memory.failcnt") + failures("memory.memsw.failcnt"),
        ..Memory::default()
    };
    let (mut inactive_file, mut swapped) = (0, None);
    // The totals include cgroups that the container made for itself.
    pairs(dir, "memory.stat", |key, value| match key {
        "total_rss" => memory.rss = value,
        "total_cache" => memory.cache = value,
        "total_mapped_file" => memory.mapped_file = value,
        "total_inactive_file" => inactive_file = value,
        "total_pgfault" => memory.page_faults = value,
        "total_pgmajfault" => memory.major_page_faults = value,
        "total_swap" => swapped = Some(value),
        _ => {}
    });
    memory.working_set = usage.saturating_sub(inactive_file);
    let both = number(dir, "memory.memsw.limit_in_bytes").and_then(limit);
    let swap_limit = both.zip(own_limit).map(|(both, own)| both.saturating_sub(own));
    (
        memory,
        swapped.map(|usage| Swap {
            usage,
            limit: swap_limit,
        }),
    )
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

fn hugetlb(dir: &Path) -> Vec<Hugetlb> {
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
