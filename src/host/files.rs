//! What files in `/proc` and `/sys` say.

use std::fs;

/// The first line of a file, trimmed; empty if there is none.
pub(super) fn line(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().next().unwrap_or_default().trim().to_owned()
}

/// The words of a file's first line.
pub(super) fn words(path: &str) -> Vec<String> {
    line(path).split_whitespace().map(str::to_owned).collect()
}

/// Major and minor of a release such as `6.12.3-rc1+deb`; (0, 0) if it says neither.
pub(super) fn version(release: &str) -> (u32, u32) {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Whether the kernel has a file system, built in or as a module that is loaded.
pub(super) fn file_system(name: &str) -> bool {
    let table = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    table.lines().any(|l| l.split_whitespace().last() == Some(name))
}

/// A value of `/proc/meminfo` in bytes.
pub(super) fn meminfo(key: &str) -> u64 {
    value(&fs::read_to_string("/proc/meminfo").unwrap_or_default(), key)
        .and_then(|v| v.trim_end_matches(" kB").parse::<u64>().ok())
        .map_or(0, |kib| kib.saturating_mul(1024))
}

/// Capability sets of this process.
#[derive(Debug, Default)]
pub(super) struct Status {
    pub(super) bounding: u64,
    pub(super) effective: u64,
}

pub(super) fn status() -> Status {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let set = |key| {
        value(&text, key)
            .and_then(|v| u64::from_str_radix(v, 16).ok())
            .unwrap_or(0)
    };
    Status {
        bounding: set("CapBnd"),
        effective: set("CapEff"),
    }
}

/// The value of a `Key:  value` line.
pub(super) fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|l| l.strip_prefix(key)?.strip_prefix(':').map(str::trim))
}

/// The huge page sizes of this node as cgroup files name them, smallest first.
pub fn hugepage_sizes() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/sys/kernel/mm/hugepages") else {
        return Vec::new();
    };
    let kib = |e: fs::DirEntry| {
        e.file_name()
            .to_str()?
            .strip_prefix("hugepages-")?
            .strip_suffix("kB")?
            .parse()
            .ok()
    };
    let mut sizes: Vec<u64> = entries.flatten().filter_map(kib).collect();
    sizes.sort_unstable();
    sizes.into_iter().map(size_name).collect()
}

/// `2048` as `2MB`: the largest unit of which the size is a multiple.
pub(super) fn size_name(kib: u64) -> String {
    match kib {
        n if n >= 1 << 20 && n % (1 << 20) == 0 => format!("{}GB", n >> 20),
        n if n >= 1 << 10 && n % (1 << 10) == 0 => format!("{}MB", n >> 10),
        n => format!("{n}KB"),
    }
}
