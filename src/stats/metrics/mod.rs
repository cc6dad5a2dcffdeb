//! Container metrics under the names and labels that cAdvisor made common, so that dashboards and alerts go on working.
//!
//! One table for CRI's metric calls and for the Prometheus endpoint: what one has, the other has. A family that this node
//! cannot feed is not declared: pressure where cgroups have none, huge pages on a node without any. A value that does not
//! exist for a container, such as a quota that was never set, is left out rather than made up.

mod families;
pub mod text;
mod values;

use crate::host::Host;
use crate::network::InterfaceCounters;
use crate::pod::Runtime;
use crate::pod::container::Container;
use crate::pod::sandbox::Pod;
use crate::types::cgroup::CgroupVersion;

use super::{ContainerSample, FileSystem, LayerUsage, PodSample, Reading};

pub use families::FAMILIES;

/// The labels that every series has, in order.
pub const BASE_LABELS: [&str; 6] = ["namespace", "pod", "container", "id", "image", "name"];

/// How a value behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// All series of one name.
pub struct Family {
    /// Name, with its unit.
    pub name: &'static str,
    /// One line for people.
    pub help: &'static str,
    /// How its values behave.
    pub kind: Kind,
    /// Labels after [`BASE_LABELS`].
    pub labels: &'static [&'static str],
    needs: Needs,
    values: Values,
}

/// What a node must have for a family to have values.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    Nothing,
    HugePages,
    Pressure,
}

/// Receives the labels after the common ones and the value.
type Emit<'a> = &'a mut dyn FnMut(&[&str], f64);

/// Where a family's values come from.
enum Values {
    One(fn(&View<'_>) -> f64),
    Many(fn(&View<'_>, Emit<'_>)),
    /// Of the pod, one for each interface.
    Interface(fn(&InterfaceCounters) -> u64),
}

/// What a container's values are made from.
struct View<'a> {
    reading: &'a Reading,
    layer: Option<LayerUsage>,
    file_system: &'a FileSystem,
    started_at: i64,
}

impl Family {
    /// Calls `each` with the further labels and the value of every series of a container.
    pub fn of_container(&self, sample: &ContainerSample, file_system: &FileSystem, each: Emit<'_>) {
        let Some(reading) = sample.reading.as_deref() else {
            return;
        };
        let view = View {
            reading,
            layer: sample.layer,
            file_system,
            started_at: sample.container.status().started_at,
        };
        match self.values {
            Values::One(value) => each(&[], value(&view)),
            Values::Many(values) => values(&view, each),
            Values::Interface(_) => {}
        }
    }

    /// As [`Family::of_container`], for a pod.
    pub fn of_pod(&self, sample: &PodSample, each: Emit<'_>) {
        if let (Values::Interface(value), Some(interfaces)) = (&self.values, sample.interfaces.as_deref()) {
            for counters in &interfaces.counters {
                #[expect(clippy::cast_precision_loss, reason = "Prometheus has no other numbers")]
                each(&[&counters.name], value(counters) as f64);
            }
        }
    }
}

/// The families that this node can feed.
pub fn available(host: &Host) -> impl Iterator<Item = &'static Family> {
    let has = [
        (Needs::Nothing, true),
        (Needs::HugePages, !host.hugepage_sizes.is_empty()),
        (Needs::Pressure, host.psi && host.cgroup == CgroupVersion::V2),
    ];
    FAMILIES
        .iter()
        .filter(move |family| has.contains(&(family.needs, true)))
}

/// The common labels of a pod's own series, in the order of [`BASE_LABELS`].
pub fn pod_labels(runtime: &Runtime, pod: &Pod) -> [String; 6] {
    let metadata = &pod.config.metadata;
    [
        metadata.namespace.clone(),
        metadata.name.clone(),
        String::new(),
        runtime.cgroup_parent(pod),
        String::new(),
        pod.id.to_string(),
    ]
}

/// The common labels of a container's series, in the order of [`BASE_LABELS`].
pub fn container_labels(pod: &Pod, container: &Container) -> [String; 6] {
    let facts = &container.facts;
    let image = &facts.config.image;
    // What CreateContainer names is an id; the user's word for it is on the side.
    let image = if image.user_specified_image.is_empty() {
        &image.image
    } else {
        &image.user_specified_image
    };
    [
        pod.config.metadata.namespace.clone(),
        pod.config.metadata.name.clone(),
        facts.config.metadata.name.clone(),
        facts.cgroup_path.clone(),
        image.clone(),
        facts.id.to_string(),
    ]
}

#[cfg(test)]
mod tests;
