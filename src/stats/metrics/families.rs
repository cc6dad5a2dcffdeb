//! The table of names.

#![expect(
    clippy::cast_precision_loss,
    reason = "Prometheus has no other numbers, and bytes fit for some petabytes"
)]

use crate::network::InterfaceCounters;

use super::values::{
    by_device, device_usage, huge_pages, huge_pages_peak, layer_usage, page_faults, some, stalled, waiting,
};
use super::{Emit, Family, Kind, Needs, Values, View};

use Kind::{Counter, Gauge};

const DEVICE: &[&str] = &["device"];
const INTERFACE: &[&str] = &["interface"];
const PAGE_SIZE: &[&str] = &["pagesize"];
const NANOS: f64 = 1e9;

/// Everything husk knows to tell, by name.
pub const FAMILIES: &[Family] = &[
    many(
        "container_blkio_device_usage_total",
        Counter,
        "Bytes moved to and from a block device",
        &["device", "major", "minor", "operation"],
        device_usage,
    ),
    one(
        "container_cpu_cfs_periods_total",
        Counter,
        "Periods of the CPU quota that have passed",
        |v| v.reading.cgroup.cpu.periods as f64,
    ),
    one(
        "container_cpu_cfs_throttled_periods_total",
        Counter,
        "Periods in which the quota held the container back",
        |v| v.reading.cgroup.cpu.throttled_periods as f64,
    ),
    one(
        "container_cpu_cfs_throttled_seconds_total",
        Counter,
        "Time for which the quota held the container back",
        |v| v.reading.cgroup.cpu.throttled_nanos as f64 / NANOS,
    ),
    one(
        "container_cpu_system_seconds_total",
        Counter,
        "CPU time spent in the kernel",
        |v| v.reading.cgroup.cpu.system_nanos as f64 / NANOS,
    ),
    many(
        "container_cpu_usage_seconds_total",
        Counter,
        "CPU time used",
        &["cpu"],
        |v, each| each(&["total"], v.reading.cgroup.cpu.usage_nanos as f64 / NANOS),
    ),
    one(
        "container_cpu_user_seconds_total",
        Counter,
        "CPU time spent outside the kernel",
        |v| v.reading.cgroup.cpu.user_nanos as f64 / NANOS,
    ),
    one(
        "container_file_descriptors",
        Gauge,
        "File descriptors open in all processes of the container",
        |v| v.reading.processes.descriptors as f64,
    ),
    many(
        "container_fs_inodes_free",
        Gauge,
        "Inodes free on the file system of the writable layer",
        DEVICE,
        |v, each| each(&[&v.file_system.device], v.file_system.inodes_free as f64),
    ),
    many(
        "container_fs_inodes_total",
        Gauge,
        "Inodes of the file system of the writable layer",
        DEVICE,
        |v, each| each(&[&v.file_system.device], v.file_system.inodes as f64),
    ),
    many(
        "container_fs_limit_bytes",
        Gauge,
        "Size of the file system of the writable layer",
        DEVICE,
        |v, each| each(&[&v.file_system.device], v.file_system.bytes as f64),
    ),
    many(
        "container_fs_reads_bytes_total",
        Counter,
        "Bytes read from a block device",
        DEVICE,
        |v, each| by_device(v, each, |io| io.read_bytes),
    ),
    many(
        "container_fs_reads_total",
        Counter,
        "Reads from a block device",
        DEVICE,
        |v, each| by_device(v, each, |io| io.reads),
    ),
    many(
        "container_fs_usage_bytes",
        Gauge,
        "Bytes that the container has in its writable layer",
        DEVICE,
        layer_usage,
    ),
    many(
        "container_fs_writes_bytes_total",
        Counter,
        "Bytes written to a block device",
        DEVICE,
        |v, each| by_device(v, each, |io| io.write_bytes),
    ),
    many(
        "container_fs_writes_total",
        Counter,
        "Writes to a block device",
        DEVICE,
        |v, each| by_device(v, each, |io| io.writes),
    ),
    Family {
        needs: Needs::HugePages,
        ..many(
            "container_hugetlb_max_usage_bytes",
            Gauge,
            "Most bytes in huge pages that were seen in use",
            PAGE_SIZE,
            huge_pages_peak,
        )
    },
    Family {
        needs: Needs::HugePages,
        ..many(
            "container_hugetlb_usage_bytes",
            Gauge,
            "Bytes in huge pages",
            PAGE_SIZE,
            huge_pages,
        )
    },
    one(
        "container_last_seen",
        Gauge,
        "When the container was last read, in seconds since the epoch",
        |v| (v.reading.at / 1_000_000_000) as f64,
    ),
    one("container_memory_cache", Gauge, "Bytes of page cache", |v| {
        v.reading.cgroup.memory.cache as f64
    }),
    one(
        "container_memory_failcnt",
        Counter,
        "How often the memory limit was hit",
        |v| v.reading.cgroup.memory.limit_hits as f64,
    ),
    many(
        "container_memory_failures_total",
        Counter,
        "Page faults by kind: every one, or those that read from disk",
        &["failure_type", "scope"],
        page_faults,
    ),
    one(
        "container_memory_kernel_usage",
        Gauge,
        "Bytes that the kernel holds for the container",
        |v| v.reading.cgroup.memory.kernel as f64,
    ),
    one(
        "container_memory_mapped_file",
        Gauge,
        "Bytes of files mapped into memory",
        |v| v.reading.cgroup.memory.mapped_file as f64,
    ),
    one(
        "container_memory_max_usage_bytes",
        Gauge,
        "Most memory that was ever in use",
        |v| {
            v.reading
                .cgroup
                .memory
                .max_usage
                .max(v.reading.cgroup.memory.usage) as f64
        },
    ),
    one("container_memory_rss", Gauge, "Bytes of anonymous memory", |v| {
        v.reading.cgroup.memory.rss as f64
    }),
    one("container_memory_swap", Gauge, "Bytes swapped out", |v| {
        v.reading.cgroup.swap.as_ref().map_or(0, |s| s.usage) as f64
    }),
    one(
        "container_memory_usage_bytes",
        Gauge,
        "Memory in use, page cache included",
        |v| v.reading.cgroup.memory.usage as f64,
    ),
    one(
        "container_memory_working_set_bytes",
        Gauge,
        "Memory in use that the kernel could not drop at once",
        |v| v.reading.cgroup.memory.working_set as f64,
    ),
    interface("container_network_receive_bytes_total", "Bytes received", |c| {
        c.rx_bytes
    }),
    interface(
        "container_network_receive_errors_total",
        "Errors while receiving",
        |c| c.rx_errors,
    ),
    interface(
        "container_network_receive_packets_dropped_total",
        "Packets dropped while receiving",
        |c| c.rx_dropped,
    ),
    interface(
        "container_network_receive_packets_total",
        "Packets received",
        |c| c.rx_packets,
    ),
    interface("container_network_transmit_bytes_total", "Bytes sent", |c| {
        c.tx_bytes
    }),
    interface(
        "container_network_transmit_errors_total",
        "Errors while sending",
        |c| c.tx_errors,
    ),
    interface(
        "container_network_transmit_packets_dropped_total",
        "Packets dropped while sending",
        |c| c.tx_dropped,
    ),
    interface("container_network_transmit_packets_total", "Packets sent", |c| {
        c.tx_packets
    }),
    one(
        "container_oom_events_total",
        Counter,
        "Processes that the kernel killed for want of memory",
        |v| v.reading.cgroup.memory.oom_kills as f64,
    ),
    pressure(
        "container_pressure_cpu_stalled_seconds_total",
        "Time in which every task waited for a CPU",
        |v, each| stalled(v.reading.cgroup.cpu_pressure.as_ref(), each),
    ),
    pressure(
        "container_pressure_cpu_waiting_seconds_total",
        "Time in which some task waited for a CPU",
        |v, each| waiting(v.reading.cgroup.cpu_pressure.as_ref(), each),
    ),
    pressure(
        "container_pressure_io_stalled_seconds_total",
        "Time in which every task waited for a block device",
        |v, each| stalled(v.reading.cgroup.io_pressure.as_ref(), each),
    ),
    pressure(
        "container_pressure_io_waiting_seconds_total",
        "Time in which some task waited for a block device",
        |v, each| waiting(v.reading.cgroup.io_pressure.as_ref(), each),
    ),
    pressure(
        "container_pressure_memory_stalled_seconds_total",
        "Time in which every task waited for memory",
        |v, each| stalled(v.reading.cgroup.memory_pressure.as_ref(), each),
    ),
    pressure(
        "container_pressure_memory_waiting_seconds_total",
        "Time in which some task waited for memory",
        |v, each| waiting(v.reading.cgroup.memory_pressure.as_ref(), each),
    ),
    one("container_processes", Gauge, "Processes in the container", |v| {
        v.reading.processes.count as f64
    }),
    one(
        "container_sockets",
        Gauge,
        "Sockets open in all processes of the container",
        |v| v.reading.processes.sockets as f64,
    ),
    one(
        "container_spec_cpu_period",
        Gauge,
        "Period of the CPU quota in microseconds",
        |v| v.reading.cgroup.limits.cpu_period as f64,
    ),
    many(
        "container_spec_cpu_quota",
        Gauge,
        "CPU quota per period in microseconds; absent without one",
        &[],
        |v, each| some(v.reading.cgroup.limits.cpu_quota, each),
    ),
    one("container_spec_cpu_shares", Gauge, "Relative CPU weight", |v| {
        v.reading.cgroup.limits.cpu_shares as f64
    }),
    one(
        "container_spec_memory_limit_bytes",
        Gauge,
        "Memory limit; 0 is none",
        |v| v.reading.cgroup.limits.memory as f64,
    ),
    one(
        "container_spec_memory_reservation_limit_bytes",
        Gauge,
        "Memory the kernel tries to leave alone; 0 is none",
        |v| v.reading.cgroup.limits.memory_reservation as f64,
    ),
    one(
        "container_spec_memory_swap_limit_bytes",
        Gauge,
        "Limit that counts swap; 0 is none",
        |v| v.reading.cgroup.limits.memory_swap as f64,
    ),
    one(
        "container_start_time_seconds",
        Gauge,
        "When the container was started, in seconds since the epoch",
        |v| (v.started_at / 1_000_000_000) as f64,
    ),
    one("container_threads", Gauge, "Threads in the container", |v| {
        v.reading.cgroup.pids.current as f64
    }),
    one(
        "container_threads_max",
        Gauge,
        "Most threads the container may have; 0 is any number",
        |v| v.reading.cgroup.pids.limit.unwrap_or(0) as f64,
    ),
    many(
        "container_ulimits_soft",
        Gauge,
        "Soft limits of the container's first process; -1 is unlimited",
        &["ulimit"],
        |v, each| {
            v.reading
                .processes
                .soft_limits
                .iter()
                .for_each(|(name, value)| each(&[name], *value as f64))
        },
    ),
];

const fn one(name: &'static str, kind: Kind, help: &'static str, value: fn(&View<'_>) -> f64) -> Family {
    Family {
        name,
        help,
        kind,
        labels: &[],
        needs: Needs::Nothing,
        values: Values::One(value),
    }
}

const fn many(
    name: &'static str,
    kind: Kind,
    help: &'static str,
    labels: &'static [&'static str],
    values: fn(&View<'_>, Emit<'_>),
) -> Family {
    Family {
        name,
        help,
        kind,
        labels,
        needs: Needs::Nothing,
        values: Values::Many(values),
    }
}

const fn pressure(name: &'static str, help: &'static str, values: fn(&View<'_>, Emit<'_>)) -> Family {
    Family {
        needs: Needs::Pressure,
        ..many(name, Counter, help, &[], values)
    }
}

const fn interface(name: &'static str, help: &'static str, value: fn(&InterfaceCounters) -> u64) -> Family {
    Family {
        name,
        help,
        kind: Counter,
        labels: INTERFACE,
        needs: Needs::Nothing,
        values: Values::Interface(value),
    }
}
