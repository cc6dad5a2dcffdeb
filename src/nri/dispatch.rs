//! Events of pods and containers, to each plugin in turn.
//!
//! Where a plugin can say no, the first that does ends the event, and those that had been asked are told that nothing
//! came of it. Where it cannot, all are told and the first complaint is passed on.

use std::sync::Arc;

use oci_spec::runtime::{LinuxResources, Spec};

use crate::pod::container::{Container, ContainerFacts};
use crate::pod::plugins::{ContainerEvent, PodEvent};
use crate::pod::sandbox::Pod;
use crate::types::error::{Error, Kind, Result};
use crate::types::{ContainerId, Realm, Resources};

use super::adjust::owners::Owners;
use super::known::{KnownContainer, KnownPod};
use super::plugin::Plugin;
use super::proto::{self as p, Event};
use super::updates::Pending;
use super::{Nri, adjust, resources, view};

/// Every request that tells of a pod has this shape on the wire.
type PodRequest = p::RunPodSandboxRequest;
/// Every request that tells of a container has this shape on the wire.
type ContainerRequest = p::StartContainerRequest;

impl Nri {
    pub(super) async fn pod_event(&self, event: PodEvent, pod: &Arc<Pod>) -> Result<()> {
        let plugins = self.plugins.lock().await;
        let message = self.pod_message(pod);
        match event {
            PodEvent::Run if pod.realm != Realm::K8s => {}
            PodEvent::Run => {
                for (at, plugin) in plugins.iter().enumerate() {
                    if let Err(refusal) = tell_pod(plugin, Event::RunPodSandbox, &message).await {
                        let asked = &plugins[..=at];
                        let _ = tell_all(asked, Event::StopPodSandbox, &message).await;
                        let _ = tell_all(asked, Event::RemovePodSandbox, &message).await;
                        return Err(refusal);
                    }
                }
                let pod = Arc::clone(pod);
                let known = KnownPod { pod, stopped: false };
                self.known().pods.insert(known.pod.id.clone(), known);
            }
            PodEvent::PostUpdate => {
                if self.known().pods.contains_key(&pod.id) {
                    return tell_all(&plugins, Event::PostUpdatePodSandbox, &message).await;
                }
            }
            PodEvent::Stop => return self.stop_pod(&plugins, pod, &message).await,
            PodEvent::Remove => {
                let stopped = self.stop_pod(&plugins, pod, &message).await;
                let containers = self.known().of_pod(&pod.id);
                for id in containers {
                    let _ = self.remove(&plugins, &message, &id).await;
                }
                // Forgotten first: a plugin that complains has been told all the same.
                if self.known().pods.remove(&pod.id).is_some() {
                    tell_all(&plugins, Event::RemovePodSandbox, &message).await?;
                }
                return stopped;
            }
        }
        Ok(())
    }

    /// Tells of the stop of a pod once, after the ends of all its containers.
    async fn stop_pod(&self, plugins: &[Arc<Plugin>], pod: &Pod, message: &p::PodSandbox) -> Result<()> {
        let containers = self.known().of_pod(&pod.id);
        for id in containers {
            let _ = self.stop(plugins, message, &id).await;
        }
        if self.known().begin_pod_stop(&pod.id) {
            tell_all(plugins, Event::StopPodSandbox, message).await?;
        }
        Ok(())
    }

    pub(super) async fn update_pod(
        &self,
        pod: &Arc<Pod>,
        overhead: Option<&Resources>,
        limits: Option<&Resources>,
    ) -> Result<()> {
        let plugins = self.plugins.lock().await;
        if !self.known().pods.contains_key(&pod.id) {
            return Ok(());
        }
        let request = p::UpdatePodSandboxRequest {
            pod: Some(self.pod_message(pod)),
            overhead_linux_resources: overhead.map(view::limits),
            linux_resources: limits.map(view::limits),
        };
        for plugin in plugins.iter() {
            plugin
                .ask::<_, p::Empty>(Event::UpdatePodSandbox, "UpdatePodSandbox", &request)
                .await?;
        }
        Ok(())
    }

    pub(super) async fn container_event(
        &self,
        event: ContainerEvent,
        pod: &Arc<Pod>,
        container: &Arc<Container>,
    ) -> Result<()> {
        let plugins = self.plugins.lock().await;
        let message = self.pod_message(pod);
        let id = container.id();
        let told = match event {
            ContainerEvent::Stop => return self.stop(&plugins, &message, id).await,
            ContainerEvent::Remove => return self.remove(&plugins, &message, id).await,
            ContainerEvent::PostCreate => Event::PostCreateContainer,
            ContainerEvent::Start => Event::StartContainer,
            ContainerEvent::PostStart => Event::PostStartContainer,
            ContainerEvent::PostUpdate => Event::PostUpdateContainer,
        };
        let Some(request) = self.container_request(&message, id) else {
            return Ok(());
        };
        if event != ContainerEvent::Start {
            return tell_all_of(&plugins, told, &request).await;
        }
        for plugin in plugins.iter() {
            tell_container(plugin, told, &request).await?;
        }
        Ok(())
    }

    fn container_request(&self, pod: &p::PodSandbox, id: &ContainerId) -> Option<ContainerRequest> {
        let container = self.container_message(&self.known(), id)?;
        Some(ContainerRequest {
            pod: Some(pod.clone()),
            container: Some(container),
        })
    }

    /// Tells of the end of a container once, and does what plugins want of others then.
    async fn stop(&self, plugins: &[Arc<Plugin>], pod: &p::PodSandbox, id: &ContainerId) -> Result<()> {
        if !self.known().begin_stop(id) {
            return Ok(());
        }
        let Some(mut request) = self.container_request(pod, id) else {
            return Ok(());
        };
        if let Some(container) = &mut request.container {
            container.state = p::ContainerState::ContainerStopped.into();
        }
        let mut complaint = Ok(());
        let mut pending = Pending::default();
        let mut owners = Owners::default();
        for plugin in plugins {
            let answer: Result<Option<p::StopContainerResponse>> =
                plugin.ask(Event::StopContainer, "StopContainer", &request).await;
            let taken = answer.and_then(|answer| {
                let updates = answer.unwrap_or_default().update;
                pending.add(&mut owners, &plugin.name, updates, &[])
            });
            complaint = complaint.and(taken);
        }
        self.carry_out(pending).await;
        complaint
    }

    /// Tells that a container is no more, after its end.
    async fn remove(&self, plugins: &[Arc<Plugin>], pod: &p::PodSandbox, id: &ContainerId) -> Result<()> {
        let stopped = self.stop(plugins, pod, id).await;
        let Some(mut request) = self.container_request(pod, id) else {
            return Ok(());
        };
        if let Some(container) = &mut request.container {
            container.state = p::ContainerState::ContainerStopped.into();
        }
        self.known().containers.remove(id);
        tell_all_of(plugins, Event::RemoveContainer, &request).await?;
        stopped
    }

    pub(super) async fn create(&self, pod: &Arc<Pod>, facts: &ContainerFacts, spec: &mut Spec) -> Result<()> {
        let plugins = self.plugins.lock().await;
        if !self.known().pods.contains_key(&pod.id) {
            return Ok(());
        }
        let id = facts.id.as_str();
        let pristine = view::fixed(facts, spec);
        let mut request = p::CreateContainerRequest {
            pod: Some(self.pod_message(pod)),
            container: Some(pristine.clone()),
        };
        let mut creation = Creation {
            id,
            owners: Owners::default(),
            pending: Pending::default(),
            combined: p::ContainerAdjustment::default(),
            spec: spec.clone(),
        };
        let mut asked = 0;
        let mut outcome = Ok(());
        for plugin in plugins.iter() {
            asked += 1;
            outcome = creation.ask(plugin, &request).await;
            if outcome.is_err() {
                break;
            }
            if let Some(container) = &mut request.container {
                creation.show(container, facts);
            }
        }
        if outcome.is_ok() {
            let pod = request.pod.clone();
            outcome = creation.validate(&plugins, pod, pristine).await;
        }
        if outcome.is_ok() {
            outcome = creation.add_cdi_devices(self, facts).await;
            if let Some(container) = &mut request.container {
                creation.show(container, facts);
            }
        }
        if outcome.is_ok() {
            outcome = self.check_cgroup(facts, &creation.spec).await;
        }
        let fixed = request.container.clone().unwrap_or_default();
        if let Err(refusal) = outcome {
            let request = ContainerRequest {
                pod: request.pod,
                container: request.container,
            };
            let _ = tell_all_of(&plugins[..asked], Event::StopContainer, &request).await;
            let _ = tell_all_of(&plugins[..asked], Event::RemoveContainer, &request).await;
            return Err(refusal);
        }
        *spec = creation.spec;
        let known = KnownContainer {
            pod: pod.id.clone(),
            fixed,
            stopped: false,
        };
        self.known().containers.insert(facts.id.clone(), known);
        self.carry_out(creation.pending).await;
        Ok(())
    }

    /// Checks the cgroup that plugins chose, if they did. While events are held, so that no two containers get one.
    async fn check_cgroup(&self, facts: &ContainerFacts, spec: &Spec) -> Result<()> {
        let path = spec.linux().as_ref().and_then(|l| l.cgroups_path().as_ref());
        let path = path.and_then(|p| p.to_str()).unwrap_or_default();
        if path == facts.cgroup_path {
            return Ok(());
        }
        let runtime = self.runtime()?;
        let (containers, parents) = {
            let known = self.known();
            let linux = known.containers.values().filter_map(|c| c.fixed.linux.as_ref());
            let containers: Vec<String> = linux.map(|l| l.cgroups_path.clone()).collect();
            let pods = known.pods.values();
            (containers, pods.map(|k| runtime.cgroup_parent(&k.pod)).collect())
        };
        let checked = runtime.check_cgroup(path, containers, parents).await;
        checked.map_err(|e| e.context("the cgroup that an NRI plugin set"))
    }

    pub(super) async fn update(
        &self,
        pod: &Arc<Pod>,
        container: &Arc<Container>,
        wanted: LinuxResources,
    ) -> Result<LinuxResources> {
        let plugins = self.plugins.lock().await;
        let id = container.id();
        let Some(request) = self.container_request(&self.pod_message(pod), id) else {
            return Ok(wanted);
        };
        let mut request = p::UpdateContainerRequest {
            pod: request.pod,
            container: request.container,
            linux_resources: None,
        };
        let mut owners = Owners::default();
        let mut pending = Pending::default();
        let mut limits = wanted;
        for plugin in plugins.iter() {
            request.linux_resources = Some(resources::from_oci(&limits));
            let answer: Option<p::UpdateContainerResponse> = plugin
                .ask(Event::UpdateContainer, "UpdateContainer", &request)
                .await?;
            let Some(answer) = answer else { continue };
            let (own, others): (Vec<_>, Vec<_>) = answer
                .update
                .into_iter()
                .partition(|u| u.container_id == id.as_str());
            for update in own {
                let set = update.linux.and_then(|l| l.resources).unwrap_or_default();
                adjust::owners::claim_resources(&mut owners, id.as_str(), &plugin.name, &set)
                    .and_then(|()| resources::merge(&mut limits, &set))
                    .map_err(|e| e.context(format!("NRI plugin {}", plugin.name)))?;
            }
            pending.add(&mut owners, &plugin.name, others, &answer.evict)?;
        }
        self.carry_out(pending).await;
        Ok(limits)
    }
}

/// A container on its way through the plugins.
struct Creation<'a> {
    id: &'a str,
    owners: Owners,
    pending: Pending,
    /// What all of them want, for those that judge.
    combined: p::ContainerAdjustment,
    spec: Spec,
}

impl Creation<'_> {
    /// Shows the container as it has become.
    fn show(&self, container: &mut p::Container, facts: &ContainerFacts) {
        let gone = |key: &str| self.combined.annotations.contains_key(&adjust::removal(key));
        view::refresh(container, facts, &self.spec, gone);
    }

    async fn ask(&mut self, plugin: &Plugin, request: &p::CreateContainerRequest) -> Result<()> {
        use prost::Message as _;

        let answer: Option<p::CreateContainerResponse> = plugin
            .ask(Event::CreateContainer, "CreateContainer", request)
            .await?;
        let Some(answer) = answer else { return Ok(()) };
        if answer.update.iter().any(|u| u.container_id == self.id) {
            return Err(Error::invalid(format!(
                "NRI plugin {} updates the container that is being created: it must adjust it",
                plugin.name
            )));
        }
        if let Some(adjust) = answer.adjust {
            adjust::apply(&mut self.spec, &mut self.owners, self.id, &plugin.name, &adjust)?;
            // Later values of a field replace earlier ones and lists grow: protobuf's own merge.
            self.combined
                .merge(adjust.encode_to_vec().as_slice())
                .map_err(|e| Error::internal(format!("merge adjustments: {e}")))?;
        }
        self.pending
            .add(&mut self.owners, &plugin.name, answer.update, &answer.evict)
    }

    /// Edits in the CDI devices that plugins want, all together: what a vendor's file says of all its devices comes once.
    async fn add_cdi_devices(&mut self, nri: &Nri, facts: &ContainerFacts) -> Result<()> {
        let wanted = &self.combined.cdi_devices;
        if wanted.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = wanted.iter().map(|d| d.name.clone()).collect();
        let edited = nri
            .runtime()?
            .add_cdi_devices(facts, &names, self.spec.clone())
            .await;
        self.spec = edited.map_err(|e| e.context("devices that NRI plugins add"))?;
        Ok(())
    }

    /// Has those plugins judge that want to. One of them that cannot answer is a no.
    async fn validate(
        &self,
        plugins: &[Arc<Plugin>],
        pod: Option<p::PodSandbox>,
        pristine: p::Container,
    ) -> Result<()> {
        const JUDGE: Event = Event::ValidateContainerAdjustment;
        let judges = plugins.iter().filter(|p| p.wants(JUDGE) && !p.is_gone());
        let judges: Vec<_> = judges.collect();
        if judges.is_empty() {
            return Ok(());
        }
        let request = p::ValidateContainerAdjustmentRequest {
            pod,
            container: Some(pristine),
            adjust: Some(self.combined.clone()),
            update: self.pending.messages(),
            owners: Some(self.owners.message()),
            plugins: plugins
                .iter()
                .map(|p| p::PluginInstance {
                    name: p.base.clone(),
                    index: p.index.clone(),
                })
                .collect(),
        };
        for judge in judges {
            let answer: Option<p::ValidateContainerAdjustmentResponse> =
                judge.ask(JUDGE, "ValidateContainerAdjustment", &request).await?;
            match answer {
                Some(answer) if !answer.reject => {}
                Some(answer) => {
                    return Err(Error::new(
                        Kind::PermissionDenied,
                        format!(
                            "NRI plugin {} rejects what plugins want changed: {}",
                            judge.name, answer.reason
                        ),
                    ));
                }
                None => {
                    return Err(Error::new(
                        Kind::Unavailable,
                        format!(
                            "NRI plugin {} was to judge the changes of plugins and is gone",
                            judge.name
                        ),
                    ));
                }
            }
        }
        Ok(())
    }
}

async fn tell_pod(plugin: &Plugin, event: Event, pod: &p::PodSandbox) -> Result<()> {
    let request = PodRequest {
        pod: Some(pod.clone()),
    };
    let change = || p::StateChangeEvent {
        event: event.into(),
        pod: Some(pod.clone()),
        container: None,
    };
    plugin.tell(event, method(event), &request, change).await
}

async fn tell_container(plugin: &Plugin, event: Event, request: &ContainerRequest) -> Result<()> {
    let change = || p::StateChangeEvent {
        event: event.into(),
        pod: request.pod.clone(),
        container: request.container.clone(),
    };
    plugin.tell(event, method(event), request, change).await
}

async fn tell_all(plugins: &[Arc<Plugin>], event: Event, pod: &p::PodSandbox) -> Result<()> {
    let mut outcome = Ok(());
    for plugin in plugins {
        outcome = outcome.and(tell_pod(plugin, event, pod).await);
    }
    outcome
}

async fn tell_all_of(plugins: &[Arc<Plugin>], event: Event, request: &ContainerRequest) -> Result<()> {
    let mut outcome = Ok(());
    for plugin in plugins {
        outcome = outcome.and(tell_container(plugin, event, request).await);
    }
    outcome
}

/// The method that tells of an event.
fn method(event: Event) -> &'static str {
    match event {
        Event::RunPodSandbox => "RunPodSandbox",
        Event::PostUpdatePodSandbox => "PostUpdatePodSandbox",
        Event::StopPodSandbox => "StopPodSandbox",
        Event::RemovePodSandbox => "RemovePodSandbox",
        Event::PostCreateContainer => "PostCreateContainer",
        Event::StartContainer => "StartContainer",
        Event::PostStartContainer => "PostStartContainer",
        Event::PostUpdateContainer => "PostUpdateContainer",
        Event::StopContainer => "StopContainer",
        Event::RemoveContainer => "RemoveContainer",
        _ => "StateChange",
    }
}
