//! Readings of a version 2 cgroup.

use super::super::file::{Dir, Place, number, pairs, read, value_of};
use super::super::limit::shares_of;
use super::super::stats::{
    Cpu, Detail, Hugetlb, Io, Limits, Memory, Pids, Stats, Swap, device, limit, page_sizes, pressure,
};

/// Reads what there is, up to `detail`.
pub(in crate::cgroup) fn read_all(dir: &Dir, detail: Detail) -> Stats {
    let mut stats = Stats {
        cpu: cpu(dir),
        memory: memory(dir),
        swap: number(dir, "memory.swap.current").map(|usage| Swap {
            usage,
            limit: number(dir, "memory.swap.max").and_then(limit),
        }),
        cpu_pressure: pressure(dir, "cpu.pressure"),
        memory_pressure: pressure(dir, "memory.pressure"),
        io_pressure: pressure(dir, "io.pressure"),
        ..Stats::default()
    };
    if detail == Detail::Full {
        memory_events(dir, &mut stats.memory);
        stats.pids = Pids {
            current: number(dir, "pids.current").unwrap_or(0),
            limit: number(dir, "pids.max").and_then(limit),
        };
        stats.io = io(dir);
        stats.hugetlb = hugetlb(dir);
        stats.limits = limits(dir, &stats);
    }
    stats
}

fn cpu(dir: &Dir) -> Cpu {
    let mut cpu = Cpu::default();
    pairs(dir, "cpu.stat", |key, value| match key {
        "usage_usec" => cpu.usage_nanos = value.saturating_mul(1000),
        "user_usec" => cpu.user_nanos = value.saturating_mul(1000),
        "system_usec" => cpu.system_nanos = value.saturating_mul(1000),
        "nr_periods" => cpu.periods = value,
        "nr_throttled" => cpu.throttled_periods = value,
        "throttled_usec" => cpu.throttled_nanos = value.saturating_mul(1000),
        _ => {}
    });
    cpu
}

pub(super) fn memory(dir: &(impl Place + ?Sized)) -> Memory {
    let usage = number(dir, "memory.current").unwrap_or(0);
    let mut memory = Memory {
        usage,
        limit: number(dir, "memory.max").and_then(limit),
        ..Memory::default()
    };
    let mut inactive_file = 0;
    pairs(dir, "memory.stat", |key, value| match key {
        "anon" => memory.rss = value,
        "file" => memory.cache = value,
        "file_mapped" => memory.mapped_file = value,
        "kernel" => memory.kernel = value,
        "inactive_file" => inactive_file = value,
        "pgfault" => memory.page_faults = value,
        "pgmajfault" => memory.major_page_faults = value,
        _ => {}
    });
    memory.working_set = usage.saturating_sub(inactive_file);
    memory.own_page_faults = memory.page_faults;
    memory.own_major_page_faults = memory.major_page_faults;
    memory
}

fn memory_events(dir: &Dir, memory: &mut Memory) {
    memory.max_usage = number(dir, "memory.peak").unwrap_or(0);
    pairs(dir, "memory.events", |key, value| match key {
        "max" => memory.limit_hits = value,
        "oom_kill" => memory.oom_kills = value,
        _ => {}
    });
}

fn limits(dir: &Dir, stats: &Stats) -> Limits {
    let bytes = |file| number(dir, file).and_then(limit).unwrap_or(0);
    let (quota, period) = read(dir, "cpu.max").map_or((0, 0), |text| {
        let mut words = text.split_whitespace().map(|w| w.parse().unwrap_or(0));
        (words.next().unwrap_or(0), words.next().unwrap_or(0))
    });
    Limits {
        cpu_period: period,
        cpu_quota: quota,
        cpu_shares: number(dir, "cpu.weight").map_or(0, shares_of),
        memory: stats.memory.limit.unwrap_or(0),
        memory_reservation: bytes("memory.low"),
        memory_swap: stats.swap.as_ref().and_then(|s| s.limit).unwrap_or(0),
    }
}

fn io(dir: &Dir) -> Vec<Io> {
    let mut out = Vec::new();
    for line in read(dir, "io.stat").unwrap_or_default().lines() {
        let mut words = line.split(' ');
        let Some(io) = words.next().and_then(|number| device(&mut out, number)) else {
            continue;
        };
        for (key, value) in words.filter_map(|w| w.split_once('=')) {
            let Ok(value) = value.parse() else { continue };
            match key {
                "rbytes" => io.read_bytes = value,
                "wbytes" => io.write_bytes = value,
                "rios" => io.reads = value,
                "wios" => io.writes = value,
                _ => {}
            }
        }
    }
    out
}

fn hugetlb(dir: &Dir) -> Vec<Hugetlb> {
    page_sizes()
        .iter()
        .map(|size| Hugetlb {
            usage: number(dir, &format!("hugetlb.{size}.current")).unwrap_or(0),
            max_usage: 0,
            limit_hits: value_of(dir, &format!("hugetlb.{size}.events"), "max").unwrap_or(0),
            page_size: size.clone(),
        })
        .collect()
}
