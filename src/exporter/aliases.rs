//! The names under which containerd and CRI-O tell the same things, so that dashboards and alerts written for them go on
//! working. Only what husk really measures: nothing is made up to fill a name.
//!
//! Left out, because husk has no such thing or does not measure it the same way: containerd's `sandbox_runtime_create`,
//! `sandbox_runtime_stop`, `stream_*_list` and pull throughput, and its label `runtime`; CRI-O's sizes of layers and
//! bytes of pulls, layer reuse, out-of-memory counts by name, seccomp notifications, stopped monitors (there are none),
//! `processes_defunct`, `resources_stalled_at_stage` (husk's own `husk_call_oldest_seconds` tells it without a
//! threshold) and `default_runtime`.

use std::collections::BTreeMap;

use crate::stats::metrics::Kind;
use crate::stats::metrics::text::{self, head_of};
use crate::telemetry::operations::{self, Counts, OK};

use super::operations::{histogram, short};

/// containerd's timers of calls that went well, and the CRI call that each is about.
const TIMERS: [(&str, &str); 8] = [
    ("containerd_cri_sandbox_list_seconds", "ListPodSandbox"),
    ("containerd_cri_sandbox_remove_seconds", "RemovePodSandbox"),
    ("containerd_cri_container_list_seconds", "ListContainers"),
    ("containerd_cri_container_create_seconds", "CreateContainer"),
    ("containerd_cri_container_start_seconds", "StartContainer"),
    ("containerd_cri_container_stop_seconds", "StopContainer"),
    ("containerd_cri_container_remove_seconds", "RemoveContainer"),
    (
        "containerd_cri_container_checkpoint_seconds",
        "CheckpointContainer",
    ),
];

/// containerd's timers of the pod network.
const NETWORK_TIMERS: [(&str, &str); 2] = [
    ("containerd_cri_sandbox_create_network_seconds", "set_up_pod"),
    ("containerd_cri_sandbox_delete_network_seconds", "tear_down_pod"),
];

type All = BTreeMap<String, Counts>;

pub(super) fn write(out: &mut String) {
    let of = |kind| -> All {
        let all = operations::all(kind);
        all.into_iter()
            .map(|(name, c)| (short(&name).to_owned(), c))
            .collect()
    };
    let (calls, network) = (of(operations::Kind::Call), of(operations::Kind::Network));
    containerd(out, &calls, &network);
    crio(out, &calls);
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus has no other numbers")]
fn containerd(out: &mut String, calls: &All, network: &All) {
    for (timers, all) in [(&TIMERS[..], calls), (&NETWORK_TIMERS[..], network)] {
        for (name, operation) in timers {
            if let Some(counts) = all.get(*operation) {
                head_of(
                    out,
                    name,
                    &format!("Latency of {operation} that went well"),
                    "histogram",
                );
                histogram(out, name, "", &counts.fine);
            }
        }
    }
    // containerd's library appends the unit to names that have it already.
    let label = |name: &str| text::labels([("operation_type", name)]);
    let total = "containerd_cri_network_plugin_operations_total_total";
    text::head(out, total, "Network operations by type", Kind::Counter);
    for (name, counts) in network {
        text::line(out, total, &label(name), "", ended(counts) as f64);
    }
    let errors = "containerd_cri_network_plugin_operations_errors_total_total";
    text::head(
        out,
        errors,
        "Network operations that failed, by type",
        Kind::Counter,
    );
    for (name, counts) in network {
        text::line(out, errors, &label(name), "", failed(counts) as f64);
    }
    let duration = "containerd_cri_network_plugin_operations_duration_seconds_seconds";
    head_of(
        out,
        duration,
        "Latency of network operations by type",
        "histogram",
    );
    for (name, counts) in network {
        let mut both = counts.fine.clone();
        both.buckets
            .iter_mut()
            .zip(counts.failed.buckets)
            .for_each(|(a, b)| *a += b);
        both.sum += counts.failed.sum;
        histogram(out, duration, &label(name), &both);
    }
    if let Some(pulls) = calls.get("PullImage") {
        let total = "containerd_cri_sandboxed_image_pulls_total";
        text::head(out, total, "Image pulls by outcome", Kind::Counter);
        for (status, count) in [("success", fine(pulls)), ("failure", failed(pulls))] {
            text::line(out, total, &text::labels([("status", status)]), "", count as f64);
        }
        let running = "containerd_cri_sandboxed_in_progress_image_pulls_total";
        text::head(out, running, "Image pulls under way", Kind::Gauge);
        text::line(out, running, "", "", pulls.running.len() as f64);
    }
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus has no other numbers")]
fn crio(out: &mut String, calls: &All) {
    let label = |name: &str| text::labels([("operation", name)]);
    let mut counter = |name: &str, help: &str, kind: Kind, value: &dyn Fn(&Counts) -> f64| {
        text::head(out, name, help, kind);
        for (operation, counts) in calls {
            text::line(out, name, &label(operation), "", value(counts));
        }
    };
    let total = "container_runtime_crio_operations_total";
    counter(total, "Calls by method", Kind::Counter, &|c| ended(c) as f64);
    let errors = "container_runtime_crio_operations_errors_total";
    counter(errors, "Calls that failed, by method", Kind::Counter, &|c| {
        failed(c) as f64
    });
    let last = "container_runtime_crio_operations_latency_seconds";
    counter(last, "Latency of the last call of a method", Kind::Gauge, &|c| {
        c.last
    });

    let summary = "container_runtime_crio_operations_latency_seconds_total";
    head_of(out, summary, "Latency of calls by method", "summary");
    for (operation, counts) in calls {
        let sum = counts.fine.sum + counts.failed.sum;
        text::line(out, &format!("{summary}_sum"), &label(operation), "", sum);
        text::line(
            out,
            &format!("{summary}_count"),
            &label(operation),
            "",
            ended(counts) as f64,
        );
    }
    if let Some(pulls) = calls.get("PullImage") {
        let good = "container_runtime_crio_image_pulls_success_total";
        text::head(out, good, "Image pulls that went well", Kind::Counter);
        text::line(out, good, "", "", fine(pulls) as f64);
        let bad = "container_runtime_crio_image_pulls_failure_total";
        text::head(out, bad, "Image pulls that failed, by error", Kind::Counter);
        for (error, count) in pulls.outcomes.iter().filter(|(outcome, _)| **outcome != OK) {
            text::line(out, bad, &text::labels([("error", error)]), "", *count as f64);
        }
    }
    let oom = "container_runtime_crio_containers_oom_total";
    text::head(out, oom, "Containers killed for want of memory", Kind::Counter);
    text::line(out, oom, "", "", operations::containers_out_of_memory() as f64);
}

fn fine(counts: &Counts) -> u64 {
    counts.outcomes.get(OK).copied().unwrap_or(0)
}

fn ended(counts: &Counts) -> u64 {
    counts.outcomes.values().sum()
}

fn failed(counts: &Counts) -> u64 {
    ended(counts) - fine(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_measured_has_both_names() {
        let mut counts = Counts::default();
        counts.outcomes.extend([(OK, 3), ("NOT_FOUND", 2)]);
        counts.fine.buckets[3] = 3;
        let calls: All = [("PullImage", counts.clone()), ("ListContainers", counts.clone())]
            .map(|(name, c)| (name.to_owned(), c))
            .into();
        let network: All = [("set_up_pod".to_owned(), counts)].into();
        let mut out = String::new();
        containerd(&mut out, &calls, &network);
        crio(&mut out, &calls);
        for line in [
            "containerd_cri_container_list_seconds_count 3",
            "containerd_cri_sandbox_create_network_seconds_count 3",
            "containerd_cri_network_plugin_operations_errors_total_total{operation_type=\"set_up_pod\"} 2",
            "containerd_cri_sandboxed_image_pulls_total{status=\"failure\"} 2",
            "container_runtime_crio_operations_total{operation=\"PullImage\"} 5",
            "container_runtime_crio_operations_latency_seconds_total_count{operation=\"ListContainers\"} 5",
            "container_runtime_crio_image_pulls_failure_total{error=\"NOT_FOUND\"} 2",
        ] {
            assert!(out.lines().any(|l| l == line), "{line}\n{out}");
        }
        // What never happened is not claimed to have happened no times.
        assert!(!out.contains("containerd_cri_sandbox_list_seconds"));
    }
}
