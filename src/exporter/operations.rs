//! husk's own operations: every gRPC call by method, and the work of the pod network.

use std::time::Instant;

use crate::stats::metrics::Kind;
use crate::stats::metrics::text::{self, head_of};
use crate::telemetry::operations::{self, BUCKETS, Counts, Histogram};

/// What the families of one kind of operation are called.
struct Names {
    total: &'static str,
    duration: &'static str,
    running: &'static str,
    oldest: &'static str,
    label: &'static str,
}

const CALLS: Names = Names {
    total: "husk_calls_total",
    duration: "husk_call_duration_seconds",
    running: "husk_calls_in_flight",
    oldest: "husk_call_oldest_seconds",
    label: "method",
};

const NETWORK: Names = Names {
    total: "husk_network_operations_total",
    duration: "husk_network_operation_duration_seconds",
    running: "husk_network_operations_in_flight",
    oldest: "husk_network_operation_oldest_seconds",
    label: "operation",
};

pub(super) fn write(out: &mut String) {
    family(out, &CALLS, &operations::all(operations::Kind::Call));
    family(out, &NETWORK, &operations::all(operations::Kind::Network));
    text::head(
        out,
        "husk_containers_out_of_memory_total",
        "Containers that ended because the kernel killed them for want of memory",
        Kind::Counter,
    );
    #[expect(clippy::cast_precision_loss, reason = "Prometheus has no other numbers")]
    let count = operations::containers_out_of_memory() as f64;
    text::line(out, "husk_containers_out_of_memory_total", "", "", count);
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus has no other numbers")]
fn family(out: &mut String, names: &Names, all: &[(String, Counts)]) {
    let label = |name: &str| text::labels([(names.label, short(name))]);
    text::head(out, names.total, "How many ended, by outcome", Kind::Counter);
    for (name, counts) in all {
        for (outcome, count) in &counts.outcomes {
            let outcome = text::labels([("code", outcome)]);
            text::line(out, names.total, &label(name), &outcome, *count as f64);
        }
    }
    head_of(
        out,
        names.duration,
        "How long they took, whatever the outcome",
        "histogram",
    );
    for (name, counts) in all {
        let mut both = counts.fine.clone();
        let failed = &counts.failed;
        both.buckets
            .iter_mut()
            .zip(failed.buckets)
            .for_each(|(a, b)| *a += b);
        both.sum += failed.sum;
        histogram(out, names.duration, &label(name), &both);
    }
    text::head(out, names.running, "How many are under way", Kind::Gauge);
    for (name, counts) in all {
        text::line(out, names.running, &label(name), "", counts.running.len() as f64);
    }
    let help = "For how long the oldest of those under way has been so; 0 if there is none";
    text::head(out, names.oldest, help, Kind::Gauge);
    for (name, counts) in all {
        let oldest = counts.running.first().map_or(0.0, |began| {
            Instant::now().saturating_duration_since(*began).as_secs_f64()
        });
        text::line(out, names.oldest, &label(name), "", oldest);
    }
}

/// `runtime.v1.RuntimeService/ListContainers` as `ListContainers`; husk's own service keeps its name in front.
pub(super) fn short(name: &str) -> &str {
    name.strip_prefix("runtime.v1.RuntimeService/")
        .or_else(|| name.strip_prefix("runtime.v1.ImageService/"))
        .unwrap_or(name)
}

/// The series of a histogram.
#[expect(clippy::cast_precision_loss, reason = "Prometheus has no other numbers")]
pub(super) fn histogram(out: &mut String, name: &str, labels: &str, histogram: &Histogram) {
    let bucket = format!("{name}_bucket");
    let mut so_far = 0;
    let bounds = BUCKETS.iter().copied().chain([f64::INFINITY]);
    for (bound, count) in bounds.zip(histogram.buckets) {
        so_far += count;
        let le = if bound.is_finite() {
            format!("le=\"{bound}\"")
        } else {
            "le=\"+Inf\"".to_owned()
        };
        text::line(out, &bucket, labels, &le, so_far as f64);
    }
    text::line(out, &format!("{name}_sum"), labels, "", histogram.sum);
    text::line(out, &format!("{name}_count"), labels, "", so_far as f64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_is_cumulative_and_complete() {
        let mut seen = Histogram::default();
        seen.buckets[1] = 2;
        seen.buckets[BUCKETS.len()] = 1;
        seen.sum = 300.5;
        let mut out = String::new();
        histogram(&mut out, "x_seconds", "method=\"A\"", &seen);
        let lines: Vec<_> = out.lines().collect();
        assert_eq!(lines.len(), BUCKETS.len() + 3);
        assert_eq!(lines[0], "x_seconds_bucket{method=\"A\",le=\"0.0005\"} 0");
        assert_eq!(lines[1], "x_seconds_bucket{method=\"A\",le=\"0.001\"} 2");
        assert_eq!(
            lines[BUCKETS.len()],
            "x_seconds_bucket{method=\"A\",le=\"+Inf\"} 3"
        );
        assert_eq!(lines[BUCKETS.len() + 1], "x_seconds_sum{method=\"A\"} 300.5");
        assert_eq!(lines[BUCKETS.len() + 2], "x_seconds_count{method=\"A\"} 3");
    }

    #[test]
    fn methods_go_by_their_last_name() {
        assert_eq!(short("runtime.v1.ImageService/PullImage"), "PullImage");
        assert_eq!(short("husk.v1.Husk/Pull"), "husk.v1.Husk/Pull");
    }
}
