//! Values that a family has several of, or not always one.

#![expect(
    clippy::cast_precision_loss,
    reason = "Prometheus has no other numbers, and bytes fit for some petabytes"
)]

use crate::cgroup::{Io, Psi};

use super::super::device_name;
use super::{Emit, View};

const MICROS: f64 = 1e6;

pub(super) fn device_usage(v: &View<'_>, each: Emit<'_>) {
    for io in &v.reading.cgroup.io {
        let (name, major, minor) = (
            device_name(io.major, io.minor),
            io.major.to_string(),
            io.minor.to_string(),
        );
        each(&[&name, &major, &minor, "Read"], io.read_bytes as f64);
        each(&[&name, &major, &minor, "Write"], io.write_bytes as f64);
    }
}

pub(super) fn by_device(v: &View<'_>, each: Emit<'_>, value: fn(&Io) -> u64) {
    for io in &v.reading.cgroup.io {
        each(&[&device_name(io.major, io.minor)], value(io) as f64);
    }
}

pub(super) fn layer_usage(v: &View<'_>, each: Emit<'_>) {
    if let Some(layer) = v.layer {
        each(&[&v.file_system.device], layer.bytes as f64);
    }
}

pub(super) fn huge_pages(v: &View<'_>, each: Emit<'_>) {
    for pages in &v.reading.cgroup.hugetlb {
        each(&[&pages.page_size], pages.usage as f64);
    }
}

/// Version 2 keeps no peak; what is in use now is the least it can be.
pub(super) fn huge_pages_peak(v: &View<'_>, each: Emit<'_>) {
    for pages in &v.reading.cgroup.hugetlb {
        each(&[&pages.page_size], pages.max_usage.max(pages.usage) as f64);
    }
}

pub(super) fn page_faults(v: &View<'_>, each: Emit<'_>) {
    let memory = &v.reading.cgroup.memory;
    each(&["pgfault", "container"], memory.own_page_faults as f64);
    each(&["pgfault", "hierarchy"], memory.page_faults as f64);
    each(&["pgmajfault", "container"], memory.own_major_page_faults as f64);
    each(&["pgmajfault", "hierarchy"], memory.major_page_faults as f64);
}

pub(super) fn some(value: u64, each: Emit<'_>) {
    if value > 0 {
        each(&[], value as f64);
    }
}

pub(super) fn stalled(psi: Option<&Psi>, each: Emit<'_>) {
    if let Some(psi) = psi {
        each(&[], psi.full.total as f64 / MICROS);
    }
}

pub(super) fn waiting(psi: Option<&Psi>, each: Emit<'_>) {
    if let Some(psi) = psi {
        each(&[], psi.some.total as f64 / MICROS);
    }
}
