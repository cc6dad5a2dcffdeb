//! What plugins know of: every pod and container that was announced and whose end was not. Changed only while events
//! are held (see [`super::Nri`]).

use std::collections::HashMap;
use std::sync::Arc;

use oci_spec::runtime::Spec;

use crate::pod::Runtime;
use crate::pod::sandbox::Pod;
use crate::types::{ContainerId, ContainerState, PodId, PodState, Realm};

use super::{Nri, proto as p, view};

/// Pods and containers that plugins know of.
#[derive(Default)]
pub(super) struct Known {
    pub(super) pods: HashMap<PodId, KnownPod>,
    pub(super) containers: HashMap<ContainerId, KnownContainer>,
}

pub(super) struct KnownPod {
    pub(super) pod: Arc<Pod>,
    /// Its stop was told.
    pub(super) stopped: bool,
}

pub(super) struct KnownContainer {
    pub(super) pod: PodId,
    /// What does not change of it; where it stands is asked of the runtime.
    pub(super) fixed: p::Container,
    /// Its end was told.
    pub(super) stopped: bool,
}

impl Known {
    /// Notes that the stop of a pod is told; false if it was, or the pod is not known.
    pub(super) fn begin_pod_stop(&mut self, id: &PodId) -> bool {
        self.pods
            .get_mut(id)
            .is_some_and(|pod| !std::mem::replace(&mut pod.stopped, true))
    }

    /// Notes that the end of a container is told; false if it was, or the container is not known.
    pub(super) fn begin_stop(&mut self, id: &ContainerId) -> bool {
        self.containers
            .get_mut(id)
            .is_some_and(|container| !std::mem::replace(&mut container.stopped, true))
    }

    /// Containers of a pod.
    pub(super) fn of_pod(&self, id: &PodId) -> Vec<ContainerId> {
        let of_pod = self.containers.iter().filter(|(_, c)| c.pod == *id);
        let mut list: Vec<_> = of_pod.map(|(id, c)| (c.fixed.created_at, id.clone())).collect();
        list.sort();
        list.into_iter().map(|(_, id)| id).collect()
    }
}

impl Nri {
    /// Learns what an earlier daemon left.
    pub(super) async fn learn(&self, runtime: &Runtime) {
        for pod in runtime.index().all_pods() {
            if pod.realm == Realm::K8s {
                let stopped = pod.state() == PodState::NotReady;
                self.known()
                    .pods
                    .insert(pod.id.clone(), KnownPod { pod, stopped });
            }
        }
        for container in runtime.index().all_containers() {
            if !self.known().pods.contains_key(&container.facts.pod) {
                continue;
            }
            let spec = runtime.container_spec(&container).await;
            let spec = spec.unwrap_or_else(|_| nothing());
            let known = KnownContainer {
                pod: container.facts.pod.clone(),
                fixed: view::fixed(&container.facts, &spec),
                stopped: container.state() == ContainerState::Exited,
            };
            self.known().containers.insert(container.id().clone(), known);
        }
    }

    /// Everything that plugins know of, the oldest first.
    pub(super) fn snapshot(&self) -> (Vec<p::PodSandbox>, Vec<p::Container>) {
        let known = self.known();
        let mut pods: Vec<_> = known.pods.values().map(|k| Arc::clone(&k.pod)).collect();
        pods.sort_by_key(|pod| pod.created_at);
        let pods = pods.iter().map(|pod| self.pod_message(pod)).collect();
        let ids = known.containers.keys();
        let mut containers: Vec<_> = ids.filter_map(|id| self.container_message(&known, id)).collect();
        containers.sort_by_key(|c| c.created_at);
        (pods, containers)
    }

    pub(super) fn pod_message(&self, pod: &Pod) -> p::PodSandbox {
        let cgroup = self.runtime().map(|r| r.cgroup_parent(pod)).unwrap_or_default();
        view::pod(pod, &cgroup)
    }

    /// A container as it stands now, if plugins know of it.
    pub(super) fn container_message(&self, known: &Known, id: &ContainerId) -> Option<p::Container> {
        let fixed = &known.containers.get(id)?.fixed;
        let found = self.runtime().and_then(|r| r.find_container(id.as_str()));
        Some(match found {
            Ok(container) => view::stand(fixed, &container),
            // Its record is still to be written, or is gone already.
            Err(_) => fixed.clone(),
        })
    }
}

/// For a container whose spec is gone: what is not known is not made up.
fn nothing() -> Spec {
    let mut spec = Spec::default();
    spec.set_process(None)
        .set_mounts(None)
        .set_linux(None)
        .set_hooks(None)
        .set_annotations(None);
    spec
}
