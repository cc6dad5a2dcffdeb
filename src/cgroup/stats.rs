//! What a cgroup uses, in one form for both versions. What the kernel does not tell is zero or `None`.

use std::sync::OnceLock;

use super::file;

/// How much to read of a cgroup: every file costs some microseconds, and a node has thousands of cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Detail {
    /// What CRI's statistics have: CPU time, memory, swap, pressure.
    Usage,
    /// Everything: events, limits, threads, block devices, huge pages.
    Full,
}

/// Readings of one cgroup.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stats {
    /// CPU time and throttling.
    pub cpu: Cpu,
    /// Memory.
    pub memory: Memory,
    /// Swap; `None` without swap accounting.
    pub swap: Option<Swap>,
    /// Processes and threads.
    pub pids: Pids,
    /// Block devices.
    pub io: Vec<Io>,
    /// Huge pages by size.
    pub hugetlb: Vec<Hugetlb>,
    /// Pressure stall information of the CPU; `None` where the kernel has none (as on version 1).
    pub cpu_pressure: Option<Psi>,
    /// Of memory.
    pub memory_pressure: Option<Psi>,
    /// Of block devices.
    pub io_pressure: Option<Psi>,
    /// Limits as the kernel has them.
    pub limits: Limits,
}

/// Limits in force. All are 0 where there is none or the kernel does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// CFS period in microseconds.
    pub cpu_period: u64,
    /// CFS quota in microseconds.
    pub cpu_quota: u64,
    /// Relative CPU weight on the scale of version 1.
    pub cpu_shares: u64,
    /// Memory in bytes.
    pub memory: u64,
    /// Memory in bytes that the kernel tries to leave alone: version 1's soft limit, version 2's `memory.low`.
    pub memory_reservation: u64,
    /// Version 1: memory and swap together, in bytes; version 2: swap alone. What cAdvisor reports, too.
    pub memory_swap: u64,
}

/// CPU time in nanoseconds since the cgroup was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cpu {
    /// In all.
    pub usage_nanos: u64,
    /// Of it outside the kernel.
    pub user_nanos: u64,
    /// Of it in the kernel.
    pub system_nanos: u64,
    /// Periods of the quota that have passed.
    pub periods: u64,
    /// Of them with throttling.
    pub throttled_periods: u64,
    /// Time spent throttled.
    pub throttled_nanos: u64,
}

/// Memory in bytes, events in counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    /// In use, including the page cache.
    pub usage: u64,
    /// In use, but for cache that the kernel could drop at once.
    pub working_set: u64,
    /// Anonymous memory.
    pub rss: u64,
    /// Page cache.
    pub cache: u64,
    /// Files mapped.
    pub mapped_file: u64,
    /// Memory of the kernel on behalf of the cgroup.
    pub kernel: u64,
    /// The most that was ever in use; 0 if the kernel does not say.
    pub max_usage: u64,
    /// Limit, if there is one.
    pub limit: Option<u64>,
    /// How often the limit was hit.
    pub limit_hits: u64,
    /// Page faults.
    pub page_faults: u64,
    /// Page faults that read from disk.
    pub major_page_faults: u64,
    /// Page faults without those of cgroups below; version 2 does not tell them apart.
    pub own_page_faults: u64,
    /// The same of those that read from disk.
    pub own_major_page_faults: u64,
    /// Processes that the kernel killed for want of memory.
    pub oom_kills: u64,
}

/// Swap in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Swap {
    /// In use.
    pub usage: u64,
    /// Limit of swap alone, if there is one.
    pub limit: Option<u64>,
}

/// Processes and threads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pids {
    /// Now.
    pub current: u64,
    /// Limit, if there is one.
    pub limit: Option<u64>,
}

/// Traffic with one block device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Io {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Read operations.
    pub reads: u64,
    /// Write operations.
    pub writes: u64,
}

/// Huge pages of one size, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hugetlb {
    /// Page size as the kernel names it: `2MB`.
    pub page_size: String,
    /// In use.
    pub usage: u64,
    /// The most that was in use.
    pub max_usage: u64,
    /// How often the limit was hit.
    pub limit_hits: u64,
}

/// Pressure stall information of one resource.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Psi {
    /// Some processes waited.
    pub some: Pressure,
    /// All processes waited.
    pub full: Pressure,
}

/// Shares of time in per cent, and the total in microseconds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pressure {
    /// Over the last 10 seconds.
    pub avg10: f64,
    /// Over the last minute.
    pub avg60: f64,
    /// Over the last five minutes.
    pub avg300: f64,
    /// Total since the cgroup was made, in microseconds.
    pub total: u64,
}

/// The huge page sizes of this node. They do not change while it is up.
pub(super) fn page_sizes() -> &'static [String] {
    static SIZES: OnceLock<Vec<String>> = OnceLock::new();
    SIZES.get_or_init(crate::host::hugepage_sizes)
}

/// A limit from a number of the kernel; version 1 says "unlimited" with the largest number of pages.
pub(super) fn limit(value: u64) -> Option<u64> {
    (value < 1 << 62).then_some(value)
}

/// The entry of a device, made if it is new.
pub(super) fn device<'a>(io: &'a mut Vec<Io>, number: &str) -> Option<&'a mut Io> {
    let (major, minor) = number.split_once(':')?;
    let (major, minor) = (major.parse().ok()?, minor.parse().ok()?);
    let at = io
        .iter()
        .position(|d| (d.major, d.minor) == (major, minor))
        .unwrap_or_else(|| {
            io.push(Io {
                major,
                minor,
                ..Io::default()
            });
            io.len() - 1
        });
    io.get_mut(at)
}

/// Reads a pressure file; `None` if there is none or pressure accounting is off.
pub(super) fn pressure(dir: &(impl file::Place + ?Sized), name: &str) -> Option<Psi> {
    let text = file::read(dir, name).ok()?;
    let mut psi = Psi::default();
    for line in text.lines() {
        let mut words = line.split(' ');
        let slot = match words.next() {
            Some("some") => &mut psi.some,
            Some("full") => &mut psi.full,
            _ => continue,
        };
        for (key, value) in words.filter_map(|w| w.split_once('=')) {
            match key {
                "avg10" => slot.avg10 = value.parse().unwrap_or(0.0),
                "avg60" => slot.avg60 = value.parse().unwrap_or(0.0),
                "avg300" => slot.avg300 = value.parse().unwrap_or(0.0),
                "total" => slot.total = value.parse().unwrap_or(0),
                _ => {}
            }
        }
    }
    Some(psi)
}
