//! CreateContainer: everything up to the gate.

mod apparmor;
pub(super) mod cdi;
mod image_volumes;
mod inputs;
mod process;
mod propagation;
mod volumes;

pub(super) use inputs::{check, stop_signal};
pub(super) use process::compiled_seccomp;

use std::path::PathBuf;
use std::sync::Arc;

use oci_spec::runtime::Spec;
use tracing::{info, warn};

use crate::image::Rootfs;
use crate::image::layer::remove_tree;
use crate::spec::plan;
use crate::state::Table;
use crate::types::error::{Context, Error, Kind, Result};
use crate::types::time::now_nanos;
use crate::types::{ContainerConfig, ContainerId, ContainerState, PodId, PodState, Resources};

use super::adopt::Begin;
use super::checkpoint::Checkpoint;
use super::container::{Container, ContainerFacts, ContainerStatus};
use super::paths::log_path;
use super::plugins::ContainerEvent;
use super::sandbox::{Pod, Supervisor};
use super::{Runtime, blocking, difference};

/// What is known of a container before anything of it is made.
pub(super) struct Prepared {
    pub(super) facts: ContainerFacts,
    pub(super) spec: Spec,
    rootfs: Rootfs,
    image_volumes: Vec<plan::ImageVolume>,
    log: Option<PathBuf>,
    /// It goes on from there instead of starting.
    checkpoint: Option<Checkpoint>,
}

impl Prepared {
    /// The limits as they are going to be: those asked for, with what plugins made of them.
    fn resources(&self) -> Resources {
        let mut resources = self.facts.config.resources.clone();
        let linux = self.spec.linux().as_ref();
        if let Some(limits) = linux.and_then(|l| l.resources().as_ref()) {
            resources.merge(crate::cgroup::stated(limits));
        }
        resources
    }
}

impl Runtime {
    /// Makes a container, whose process then waits at the gate. A repeat joins the first call or gets its container.
    ///
    /// # Errors
    /// `NotFound` for an unknown pod or image; `FailedPrecondition` for a pod that is not ready; `InvalidArgument`
    /// for a config that cannot work; `AlreadyExists` if the pod has a container of that name with another config.
    /// After an error nothing of the container is left.
    pub async fn create_container(
        self: &Arc<Self>,
        pod: &str,
        config: ContainerConfig,
    ) -> Result<ContainerId> {
        let pod = self.find_pod(pod)?;
        inputs::check(&config, &pod.config)?;
        // To wait for it would let plugins that still look at the pod see a container in it.
        if pod.state() == PodState::Creating {
            return Err(not_ready(&pod).context(format!("create container {:?}", config.metadata.name)));
        }
        let key = (pod.id.clone(), config.metadata.clone());
        let begin = self.container_operations.begin(
            key,
            essence(&config),
            || self.existing_container(&pod.id, &config),
            || Arc::clone(self).make_container(Arc::clone(&pod), config.clone()),
        );
        match begin {
            Begin::Wait(wait) => wait.outcome().await,
            Begin::Differs(first) => Err(exists("is being made", &first, &config)),
        }
    }

    fn existing_container(&self, pod: &PodId, config: &ContainerConfig) -> Option<Result<ContainerId>> {
        let found = self.index.container_named(pod, &config.metadata)?;
        Some(if essence(&found.facts.config) == essence(config) {
            Ok(found.id().clone())
        } else {
            Err(exists("exists", &found.facts.config, config))
        })
    }

    async fn make_container(self: Arc<Self>, pod: Arc<Pod>, config: ContainerConfig) -> Result<ContainerId> {
        let name = config.metadata.name.clone();
        let what = |e: Error| e.context(format!("create container {name:?}"));
        let id = ContainerId::random();
        // Unpacks an archive, perhaps pulls an image: that must not keep the pod from being stopped.
        let checkpoint = match ready_supervisor(&pod) {
            Ok(supervisor) => self.checkpoint_named(&config, &pod, &supervisor, &id).await,
            Err(e) => Err(e),
        };
        // The pod must stay as it is until the container is known to belong to it.
        let _stays = pod.lifecycle.read().await;
        let sources: Vec<_> = config
            .mounts
            .iter()
            .map(|m| m.host_path.as_str())
            .take(8)
            .collect();
        let _operation = pod.under_way.start(format!(
            "create container {name:?} with mounts of [{}]",
            sources.join(", ")
        ));
        // Clients see nothing of it yet.
        let prepared = match (checkpoint, ready_supervisor(&pod)) {
            (Ok(checkpoint), Ok(supervisor)) => {
                let prepared = self.prepared(&pod, &supervisor, &id, config, checkpoint).await;
                prepared.map(|prepared| (Arc::new(prepared), supervisor))
            }
            (Err(e), _) | (_, Err(e)) => Err(e),
        };
        let (prepared, supervisor) = match prepared {
            Ok(prepared) => prepared,
            Err(e) => {
                self.abandon(&id).await;
                return Err(what(e));
            }
        };
        let container = Container::new(
            prepared.facts.clone(),
            ContainerStatus {
                resources: prepared.resources(),
                ..Default::default()
            },
        );
        if let Err(e) = self.save_container(&container) {
            self.note_container(ContainerEvent::Remove, &container).await;
            self.abandon(&id).await;
            return Err(what(e));
        }
        self.index.add_container(&container);
        match self.make_process(&pod, &supervisor, &prepared).await {
            Ok(pid) => {
                self.change_container(&container, |s| {
                    s.pid = pid;
                    // It may have been killed between the reply and now.
                    if s.state == ContainerState::Creating {
                        s.state = ContainerState::Created;
                    }
                });
                if let Err(error) = self.save_container(&container) {
                    // It is there all the same. A daemon that starts anew would take it for unfinished and remove it.
                    warn!(container = ?id, %error, "container record could not be written");
                }
                self.note_container(ContainerEvent::PostCreate, &container).await;
                info!(container = ?id, pod = ?pod.id, name = %container.facts.config.metadata.name, "container created");
                Ok(id)
            }
            Err(error) => {
                self.note_container(ContainerEvent::Remove, &container).await;
                self.discard_container(&container).await;
                Err(what(error))
            }
        }
    }

    /// Everything that has to be known, with what plugins make of it.
    async fn prepared(
        self: &Arc<Self>,
        pod: &Arc<Pod>,
        supervisor: &Supervisor,
        id: &ContainerId,
        config: ContainerConfig,
        checkpoint: Option<Checkpoint>,
    ) -> Result<Prepared> {
        let (this, of, id, facts) = (Arc::clone(self), Arc::clone(pod), id.clone(), supervisor.clone());
        let mut prepared = blocking(move || this.prepare(&of, &facts, id, config, checkpoint)).await?;
        self.adjust(pod, &mut prepared).await?;
        Ok(prepared)
    }

    /// Gives back what a container had that did not come to be before it was known to anybody: the leases of images, and
    /// an unpacked checkpoint.
    async fn abandon(&self, id: &ContainerId) {
        self.parts.images.release(id.as_str());
        let dir = self.paths.container(id);
        let removed = blocking(move || remove_tree(&dir).map(drop).context("delete what was unpacked"));
        if let Err(error) = removed.await {
            warn!(container = ?id, %error, "remains of a container that failed could not be removed");
        }
    }

    /// Looks everything up and works out spec and facts. Changes nothing but taking the images' leases.
    fn prepare(
        &self,
        pod: &Pod,
        supervisor: &Supervisor,
        id: ContainerId,
        config: ContainerConfig,
        checkpoint: Option<Checkpoint>,
    ) -> Result<Prepared> {
        let image = match &checkpoint {
            Some(checkpoint) => Arc::clone(&checkpoint.base),
            None => self.parts.images.resolve(&config.image.image).ok_or_else(|| {
                Error::not_found(format!(
                    "image {:?} is not on this node; pull it first",
                    config.image.image
                ))
            })?,
        };
        // What clients see as its image is what they asked for.
        let shown = checkpoint
            .as_ref()
            .and_then(|c| c.image.clone())
            .unwrap_or_else(|| Arc::clone(&image));
        let rootfs = self.parts.images.lease(&image.id, id.as_str())?;
        let made = inputs::gather(self, pod, supervisor, &id, &config, &image, &rootfs.layers)?;
        if let Some(checkpoint) = &checkpoint {
            checkpoint.check_mounts(&made.spec)?;
        }
        let log = log_path(&pod.config.log_directory, &config.log_path);
        let facts = ContainerFacts {
            late_hooks: false,
            pod: pod.id.clone(),
            created_at: now_nanos(),
            image_id: shown.id.clone(),
            image_ref: shown
                .repo_digests
                .first()
                .cloned()
                .unwrap_or_else(|| shown.id.to_string()),
            restored_on: checkpoint.as_ref().map(|c| c.base.id.clone()),
            log_path: log
                .clone()
                .unwrap_or_else(|| self.paths.default_log(&pod.id, &id)),
            image_mounts: made.image_mounts,
            stop_signal: inputs::stop_signal(config.stop_signal, &made.image)?,
            cgroup_path: made.cgroup_path,
            uid: made.user.uid,
            gid: made.user.gid,
            groups: groups(&made.spec),
            runtime: self.parts.handlers.find(&supervisor.facts.handler)?.plan(
                self.paths.container_run(&pod.id, &id),
                self.overlay(&id, &rootfs),
                &made.image_volumes,
                made.users,
            ),
            config,
            id,
        };
        Ok(Prepared {
            facts,
            spec: made.spec,
            rootfs,
            image_volumes: made.image_volumes,
            log,
            checkpoint,
        })
    }

    /// Undoes whatever was made of a container that did not come to be.
    async fn discard_container(&self, container: &Container) {
        if let Err(error) = self.delete_container_remains(container).await {
            warn!(container = ?container.id(), %error, "remains of a container that failed could not be removed");
        }
        self.forget_container(container);
        if let Err(error) = self.parts.db.delete(Table::Containers, container.id().as_str()) {
            warn!(container = ?container.id(), %error, "container record could not be deleted");
        }
    }
}

fn ready_supervisor(pod: &Pod) -> Result<Supervisor> {
    match (pod.state(), pod.supervisor()) {
        (PodState::Ready, Some(supervisor)) => Ok(supervisor),
        _ => Err(not_ready(pod)),
    }
}

fn not_ready(pod: &Pod) -> Error {
    Error::precondition(format!("pod sandbox {} is not ready", pod.id))
}

/// The further groups of a container's process, with those that vendors' files of devices add.
pub(super) fn groups(spec: &Spec) -> Vec<u32> {
    let process = spec.process().as_ref();
    process
        .and_then(|p| p.user().additional_gids().clone())
        .unwrap_or_default()
}

/// What a repeated request has to agree in. kubelet makes the file for the termination message anew at each try, under a
/// random name: a container that was made with the file of an earlier try is still the one asked for, and kubelet finds
/// the message through its status.
fn essence(config: &ContainerConfig) -> ContainerConfig {
    let mut config = config.clone();
    let message = config
        .annotations
        .get("io.kubernetes.container.terminationMessagePath");
    let mounts = config.mounts.iter_mut();
    for mount in mounts.filter(|m| Some(&m.container_path) == message) {
        if let Some((dir, _)) = mount.host_path.rsplit_once('/') {
            mount.host_path = format!("{dir}/*");
        }
    }
    config
}

fn exists(how: &str, old: &ContainerConfig, new: &ContainerConfig) -> Error {
    Error::new(
        Kind::AlreadyExists,
        format!(
            "container {:?} (attempt {}) {how} in this pod with another config: {}. Remove it first, or ask for another \
             attempt",
            new.metadata.name,
            new.metadata.attempt,
            difference::between(&essence(old), &essence(new))
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::container::Mount;

    #[test]
    fn kubelets_next_try_is_the_same_request() {
        let request = |file: &str, path: &str| {
            let mut config = ContainerConfig::default();
            config.annotations.insert(
                "io.kubernetes.container.terminationMessagePath".into(),
                "/dev/termination-log".into(),
            );
            config.mounts.push(Mount {
                container_path: path.into(),
                host_path: file.into(),
                ..Default::default()
            });
            essence(&config)
        };
        let first = request("/pods/a/containers/web/1f", "/dev/termination-log");
        assert!(first == request("/pods/a/containers/web/2e", "/dev/termination-log"));
        assert!(first != request("/pods/b/containers/web/1f", "/dev/termination-log"));
        assert!(request("/data/1f", "/data") != request("/data/2e", "/data"));
    }
}
