//! The page: container metrics family by family, then husk's own.

use std::sync::Arc;

use crate::cgroup::Detail;
use crate::pod::index::PodFilter;
use crate::stats::metrics::{self, BASE_LABELS, Family, text};
use crate::stats::{FileSystem, PodSample, Stats};
use crate::types::{PodState, Realm};

use super::{Pieces, aliases, operations, process};

/// Pieces are sent when they have grown beyond this.
const PIECE: usize = 64 << 10;

/// Makes the page and hands it over. Ends early if the client goes away.
pub(super) async fn write(stats: Arc<Stats>, pieces: Pieces) {
    let index = stats.runtime().index();
    let filter = PodFilter {
        state: Some(PodState::Ready),
        ..PodFilter::default()
    };
    let mut pods = index.pods(Realm::K8s, &filter);
    pods.extend(index.pods(Realm::Husk, &filter));
    let samples = match stats.pods(pods, Detail::Full).await {
        Ok(samples) => samples,
        Err(error) => {
            tracing::warn!(%error, "metrics: containers could not be read");
            Vec::new()
        }
    };
    let subjects: Vec<_> = samples.iter().map(|s| Subject::new(&stats, s)).collect();
    let file_system = stats.file_system();
    let mut out = String::with_capacity(PIECE + PIECE / 4);
    for family in metrics::available(stats.runtime().host()) {
        text::head(&mut out, family.name, family.help, family.kind);
        for subject in &subjects {
            subject.write(family, &file_system, &mut out);
            if out.len() > PIECE && !pieces.send(&mut out).await {
                return;
            }
        }
    }
    drop(subjects);
    operations::write(&mut out);
    aliases::write(&mut out);
    process::write(&stats, &mut out);
    pieces.send(&mut out).await;
}

/// A pod with the labels of its series, worked out once for all families.
struct Subject<'a> {
    sample: &'a PodSample,
    pod: String,
    containers: Vec<String>,
}

impl<'a> Subject<'a> {
    fn new(stats: &Stats, sample: &'a PodSample) -> Self {
        let base = |values: [String; 6]| text::labels(BASE_LABELS.iter().zip(values));
        Self {
            pod: base(metrics::pod_labels(stats.runtime(), &sample.pod)),
            containers: sample
                .containers
                .iter()
                .map(|c| base(metrics::container_labels(&sample.pod, &c.container)))
                .collect(),
            sample,
        }
    }

    fn write(&self, family: &Family, file_system: &FileSystem, out: &mut String) {
        let mut line = |labels: &str, more: &[&str], value: f64| {
            let more = text::labels(family.labels.iter().zip(more));
            text::line(out, family.name, labels, &more, value);
        };
        family.of_pod(self.sample, &mut |more, value| line(&self.pod, more, value));
        for (sample, labels) in self.sample.containers.iter().zip(&self.containers) {
            family.of_container(sample, file_system, &mut |more, value| line(labels, more, value));
        }
    }
}
