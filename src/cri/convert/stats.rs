//! Statistics.

use crate::cgroup::{Psi, Stats as CgroupStats};
use crate::cri::proto as p;
use crate::network::InterfaceCounters;
use crate::pod::Runtime;
use crate::pod::sandbox::Pod;
use crate::stats::metrics::{self, BASE_LABELS, Family, Kind};
use crate::stats::{ContainerSample, FileSystem, InterfaceReading, PodSample, Reading};

use super::{container, pod, to_map};

/// Statistics of a container; those of its cgroup are left out if it is not running. `layers` is the file system of the
/// writable layers.
pub fn container(sample: &ContainerSample, layers: &str) -> p::ContainerStats {
    let facts = &sample.container.facts;
    let reading = sample.reading.as_deref();
    p::ContainerStats {
        attributes: Some(p::ContainerAttributes {
            id: facts.id.to_string(),
            metadata: Some(container::metadata(&facts.config.metadata)),
            labels: to_map(&facts.config.labels),
            annotations: to_map(&facts.config.annotations),
        }),
        cpu: reading.map(cpu),
        memory: reading.map(memory),
        writable_layer: sample.layer.map(|layer| p::FilesystemUsage {
            timestamp: layer.at,
            fs_id: Some(p::FilesystemIdentifier {
                mountpoint: layers.to_owned(),
            }),
            used_bytes: value(layer.bytes),
            inodes_used: value(layer.inodes),
        }),
        swap: reading.and_then(swap),
        io: reading.and_then(io),
    }
}

/// Statistics of a pod with its running containers.
pub fn pod(sample: &PodSample, layers: &str) -> p::PodSandboxStats {
    let reading = sample.reading.as_deref();
    let pod = &sample.pod;
    p::PodSandboxStats {
        attributes: Some(p::PodSandboxAttributes {
            id: pod.id.to_string(),
            metadata: Some(pod::metadata(&pod.config.metadata)),
            labels: to_map(&pod.config.labels),
            annotations: to_map(&pod.config.annotations),
        }),
        linux: Some(p::LinuxPodSandboxStats {
            cpu: reading.map(cpu),
            memory: reading.map(memory),
            network: sample.interfaces.as_deref().map(network),
            process: reading.map(|r| p::ProcessUsage {
                timestamp: r.at,
                process_count: value(r.processes.count),
            }),
            containers: sample.containers.iter().map(|c| container(c, layers)).collect(),
            io: reading.and_then(io),
        }),
        windows: None,
    }
}

fn value(value: u64) -> Option<p::UInt64Value> {
    Some(p::UInt64Value { value })
}

fn cpu(reading: &Reading) -> p::CpuUsage {
    p::CpuUsage {
        timestamp: reading.at,
        usage_core_nano_seconds: value(reading.cgroup.cpu.usage_nanos),
        usage_nano_cores: reading.cpu_nano_cores.and_then(value),
        psi: reading.cgroup.cpu_pressure.as_ref().map(psi),
    }
}

fn memory(reading: &Reading) -> p::MemoryUsage {
    let CgroupStats {
        memory,
        memory_pressure,
        ..
    } = &reading.cgroup;
    p::MemoryUsage {
        timestamp: reading.at,
        working_set_bytes: value(memory.working_set),
        available_bytes: memory
            .limit
            .and_then(|l| value(l.saturating_sub(memory.working_set))),
        usage_bytes: value(memory.usage),
        rss_bytes: value(memory.rss),
        page_faults: value(memory.page_faults),
        major_page_faults: value(memory.major_page_faults),
        psi: memory_pressure.as_ref().map(psi),
    }
}

fn swap(reading: &Reading) -> Option<p::SwapUsage> {
    let swap = reading.cgroup.swap.as_ref()?;
    Some(p::SwapUsage {
        timestamp: reading.at,
        swap_available_bytes: swap.limit.and_then(|l| value(l.saturating_sub(swap.usage))),
        swap_usage_bytes: value(swap.usage),
    })
}

/// CRI has pressure here and nothing else.
fn io(reading: &Reading) -> Option<p::IoUsage> {
    let pressure = reading.cgroup.io_pressure.as_ref()?;
    Some(p::IoUsage {
        timestamp: reading.at,
        psi: Some(psi(pressure)),
    })
}

/// The kernel counts microseconds, CRI nanoseconds.
fn psi(psi: &Psi) -> p::PsiStats {
    let data = |p: &crate::cgroup::Pressure| {
        Some(p::PsiData {
            total: p.total.saturating_mul(1000),
            avg10: p.avg10,
            avg60: p.avg60,
            avg300: p.avg300,
        })
    };
    p::PsiStats {
        full: data(&psi.full),
        some: data(&psi.some),
    }
}

/// kubelet shows the default interface as the pod's; the plugins name it `eth0` because husk asks them to.
fn network(reading: &InterfaceReading) -> p::NetworkUsage {
    let is_default = |c: &InterfaceCounters| c.name == "eth0";
    p::NetworkUsage {
        timestamp: reading.at,
        default_interface: reading.counters.iter().find(|c| is_default(c)).map(interface),
        interfaces: reading.counters.iter().map(interface).collect(),
    }
}

fn interface(c: &InterfaceCounters) -> p::NetworkInterfaceUsage {
    p::NetworkInterfaceUsage {
        name: c.name.clone(),
        rx_bytes: value(c.rx_bytes),
        rx_errors: value(c.rx_errors),
        tx_bytes: value(c.tx_bytes),
        tx_errors: value(c.tx_errors),
    }
}

/// What a family of metrics is called and labelled.
pub fn descriptor(family: &Family) -> p::MetricDescriptor {
    let labels = BASE_LABELS.iter().chain(family.labels);
    p::MetricDescriptor {
        name: family.name.into(),
        help: family.help.into(),
        label_keys: labels.map(|l| (*l).to_owned()).collect(),
    }
}

/// All metrics of a pod and its running containers.
pub fn metrics(runtime: &Runtime, sample: &PodSample, file_system: &FileSystem) -> p::PodSandboxMetrics {
    let base = metrics::pod_labels(runtime, &sample.pod);
    let at = sample.interfaces.as_ref().map_or(0, |i| i.at);
    let mut own = Vec::new();
    for family in metrics::available(runtime.host()) {
        family.of_pod(sample, &mut |labels, value| {
            own.push(metric(family, &base, labels, at, value))
        });
    }
    let of_container = |sample: &ContainerSample, pod: &Pod| {
        let base = metrics::container_labels(pod, &sample.container);
        let at = sample.reading.as_ref().map_or(0, |r| r.at);
        let mut found = Vec::new();
        for family in metrics::available(runtime.host()) {
            family.of_container(sample, file_system, &mut |labels, value| {
                found.push(metric(family, &base, labels, at, value));
            });
        }
        p::ContainerMetrics {
            container_id: sample.container.id().to_string(),
            metrics: found,
        }
    };
    p::PodSandboxMetrics {
        pod_sandbox_id: sample.pod.id.to_string(),
        metrics: own,
        container_metrics: sample
            .containers
            .iter()
            .map(|c| of_container(c, &sample.pod))
            .collect(),
    }
}

fn metric(family: &Family, base: &[String; 6], labels: &[&str], timestamp: i64, value: f64) -> p::Metric {
    let labels = labels.iter().map(|l| (*l).to_owned());
    p::Metric {
        name: family.name.into(),
        timestamp,
        metric_type: match family.kind {
            Kind::Counter => p::MetricType::Counter.into(),
            Kind::Gauge => p::MetricType::Gauge.into(),
        },
        label_values: base.iter().cloned().chain(labels).collect(),
        value: self::value(whole(value)),
    }
}

/// CRI carries whole numbers only: seconds lose their fraction, and -1 for "unlimited" is the largest number.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "that is what the field can hold"
)]
fn whole(value: f64) -> u64 {
    if value < 0.0 { u64::MAX } else { value as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_and_swap_are_told_in_the_units_of_cri() {
        let pressure = |total| crate::cgroup::Pressure {
            avg10: 1.5,
            avg60: 2.5,
            avg300: 3.5,
            total,
        };
        let stall = Psi {
            some: pressure(7),
            full: pressure(3),
        };
        let mut reading = Reading {
            at: 11,
            cgroup: crate::cgroup::Stats {
                io_pressure: Some(stall),
                swap: Some(crate::cgroup::Swap {
                    usage: 30,
                    limit: Some(100),
                }),
                ..Default::default()
            },
            processes: crate::stats::Processes::default(),
            cpu_nano_cores: None,
        };
        let told = io(&reading).and_then(|io| io.psi).unwrap_or_default();
        let (some, full) = (told.some.unwrap_or_default(), told.full.unwrap_or_default());
        assert_eq!((some.total, full.total), (7_000, 3_000));
        assert_eq!((some.avg10, some.avg60, some.avg300), (1.5, 2.5, 3.5));
        let told = swap(&reading).unwrap_or_default();
        let of = |v: Option<p::UInt64Value>| v.map(|v| v.value);
        assert_eq!(
            (
                told.timestamp,
                of(told.swap_usage_bytes),
                of(told.swap_available_bytes)
            ),
            (11, Some(30), Some(70))
        );
        reading.cgroup = crate::cgroup::Stats::default();
        assert!(io(&reading).is_none() && swap(&reading).is_none());
    }

    #[test]
    fn fractions_are_cut_and_unlimited_is_the_largest() {
        assert_eq!((whole(1.9), whole(0.0), whole(-1.0)), (1, 0, u64::MAX));
    }
}
