//! The daemon itself, and how many pods, containers and images it looks after.

use std::fs;

use crate::stats::Stats;
use crate::stats::metrics::Kind;
use crate::stats::metrics::text;
use crate::types::{ContainerState, PodState};

#[expect(clippy::cast_precision_loss, reason = "Prometheus has no other numbers")]
pub(super) fn write(stats: &Stats, out: &mut String) {
    let mut gauge = |name: &str, help: &str, series: &[(String, f64)]| {
        text::head(out, name, help, Kind::Gauge);
        for (labels, value) in series {
            text::line(out, name, labels, "", *value);
        }
    };
    let version = text::labels([("version", env!("CARGO_PKG_VERSION"))]);
    gauge(
        "husk_build_info",
        "Always 1; the version is in the label",
        &[(version, 1.0)],
    );

    let index = stats.runtime().index();
    let pods = index.all_pods();
    let of_pods = [PodState::Ready, PodState::NotReady].map(|state| {
        let count = pods.iter().filter(|p| p.state() == state).count();
        (text::labels([("state", format!("{state:?}"))]), count as f64)
    });
    gauge("husk_pods", "Pods by state", &of_pods);
    let containers = index.all_containers();
    let of_containers = [
        ContainerState::Created,
        ContainerState::Running,
        ContainerState::Exited,
    ]
    .map(|state| {
        let count = containers.iter().filter(|c| c.state() == state).count();
        (text::labels([("state", format!("{state:?}"))]), count as f64)
    });
    gauge("husk_containers", "Containers by state", &of_containers);

    let own = Own::read();
    gauge(
        "process_resident_memory_bytes",
        "Memory of the daemon",
        &[(String::new(), own.resident)],
    );
    gauge(
        "process_open_fds",
        "File descriptors of the daemon",
        &[(String::new(), own.descriptors)],
    );
    gauge(
        "process_threads",
        "Threads of the daemon",
        &[(String::new(), own.threads)],
    );
    let name = "process_cpu_seconds_total";
    text::head(out, name, "CPU time of the daemon", Kind::Counter);
    text::line(out, name, "", "", own.cpu);
}

/// What the kernel says of this process.
#[derive(Debug, Default, PartialEq)]
struct Own {
    resident: f64,
    descriptors: f64,
    threads: f64,
    cpu: f64,
}

impl Own {
    #[expect(clippy::cast_precision_loss, reason = "Prometheus has no other numbers")]
    fn read() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |key: &str| {
            let line = status.lines().find_map(|l| l.strip_prefix(key));
            let number = line.and_then(|l| l.split_ascii_whitespace().next());
            number.and_then(|n| n.parse().ok()).unwrap_or(0.0)
        };
        let ran = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF);
        let cpu = ran.map_or(0.0, |usage| {
            let seconds = |t: nix::sys::time::TimeVal| t.tv_sec() as f64 + t.tv_usec() as f64 / 1e6;
            seconds(usage.user_time()) + seconds(usage.system_time())
        });
        Self {
            resident: field("VmRSS:") * 1024.0,
            descriptors: fs::read_dir("/proc/self/fd").map_or(0, Iterator::count) as f64,
            threads: field("Threads:"),
            cpu,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_threads_and_descriptors() {
        let own = Own::read();
        assert!(
            own.resident > 1e6 && own.threads >= 1.0 && own.descriptors >= 3.0,
            "{own:?}"
        );
        assert!(own.cpu > 0.0, "{own:?}");
    }
}
