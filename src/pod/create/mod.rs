//! CreateContainer: everything up to the gate.

mod apparmor;
pub(super) mod cdi;
mod image_volumes;
mod inputs;
mod propagation;
mod volumes;

pub(super) use inputs::{check, stop_signal};

use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::runtime::Spec;
use tracing::{info, warn};

use crate::cgroup::Cgroup;
use crate::image::Rootfs;
use crate::image::layer::remove_tree;
use crate::seccomp;
use crate::spec::plan::{self, SeccompProgram};
use crate::state::Table;
use crate::supervisor::protocol::CreateContainer;
use crate::types::error::{Context, Error, Kind, Result};
use crate::types::security::{IdMapping, NamespaceMode};
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
        let what = move |e: Error| e.context(format!("create container {name:?}"));
        let id = ContainerId::random();
        // Unpacks an archive, perhaps pulls an image: that must not keep the pod from being stopped.
        let checkpoint = match ready_supervisor(&pod) {
            Ok(supervisor) => self.checkpoint_named(&config, &pod, &supervisor, &id).await,
            Err(e) => Err(e),
        };
        // The pod must stay as it is until the container is known to belong to it.
        let _stays = pod.lifecycle.read().await;
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
            groups: made.user.additional_gids,
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

    /// Makes directories, cgroup and process; returns the process's id.
    async fn make_process(
        self: &Arc<Self>,
        pod: &Arc<Pod>,
        supervisor: &Supervisor,
        prepared: &Arc<Prepared>,
    ) -> Result<i32> {
        let facts = &prepared.facts;
        // Filling an image's volumes may copy gigabytes.
        let (this, of, wanted) = (Arc::clone(self), Arc::clone(pod), Arc::clone(prepared));
        blocking(move || this.make_directories(&of, &wanted)).await?;
        let cgroup = self.make_cgroup(prepared).await?;
        let (plan_json, runtime_json) = self.plans(pod, prepared, &cgroup)?;
        let run = self.paths.container_run(&pod.id, &facts.id);
        let restore_json = match &prepared.checkpoint {
            Some(checkpoint) => checkpoint.plan(run.join("restore"))?,
            None => Vec::new(),
        };
        let created = supervisor
            .client
            .create(
                &facts.id,
                CreateContainer {
                    plan_json,
                    runtime_json,
                    restore_json,
                    log_path: prepared.log.clone(),
                    tty: facts.config.tty,
                    stdin: facts.config.stdin,
                    stdin_once: facts.config.stdin_once,
                    max_log_line: self.parts.config.container.max_log_line_bytes,
                    oom_counter_path: cgroup.oom_counter(),
                    cgroup: Some(cgroup.join()),
                    exit_record_path: Some(self.paths.exit_record(&pod.id, &facts.id)),
                    // Without a pid namespace of its own, what it started would outlive it; and criu's half-made
                    // processes would outlive the helper.
                    kill_cgroup_on_exit: facts.config.security.namespaces.pid != NamespaceMode::Container
                        || prepared.checkpoint.is_some(),
                },
            )
            .await?;
        for note in &created.notes {
            warn!(container = ?facts.id, %note, "container is not quite as asked for");
        }
        Ok(created.pid)
    }

    /// The launch plan for husk's own executor, or the plan for an OCI runtime. The other one is empty.
    fn plans(&self, pod: &Pod, prepared: &Prepared, cgroup: &Cgroup) -> Result<(Vec<u8>, Vec<u8>)> {
        let facts = &prepared.facts;
        if let Some(runtime) = &facts.runtime {
            std::fs::create_dir_all(&runtime.root)
                .with_context(|| format!("create directory {}", runtime.root.display()))?;
            // Plugins may have added mounts.
            let runtime = plan::RuntimePlan {
                bidirectional: super::handler::bidirectional(&prepared.spec),
                mount_label: label(&prepared.spec),
                ..runtime.clone()
            };
            let json = serde_json::to_vec(&runtime).context("encode plan for an OCI runtime")?;
            return Ok((Vec::new(), json));
        }
        let mut plan = plan::container(
            &prepared.spec,
            &plan::ContainerOptions {
                rootfs: self.overlay(&facts.id, &prepared.rootfs),
                rootfs_id_map: pod.config.security.namespaces.own_user().is_some(),
                mount_point: self.paths.mount_point(),
                image_volumes: prepared.image_volumes.clone(),
                cgroup: Some(cgroup.join()),
                seccomp: compiled_seccomp(&prepared.spec)?,
                ..Default::default()
            },
        )?;
        if prepared.checkpoint.is_some() {
            Checkpoint::check_plan(&plan)?;
        }
        let bundle = self.paths.container_run(&pod.id, &facts.id);
        plan.hooks.state = Some(hook_state(&prepared.spec, &facts.id, &bundle));
        let json = serde_json::to_vec(&plan).context("encode launch plan")?;
        Ok((json, Vec::new()))
    }

    fn overlay(&self, id: &ContainerId, rootfs: &Rootfs) -> plan::Rootfs {
        let layer = self.paths.container(id);
        plan::Rootfs::Overlay {
            lower: rootfs.layers.clone(),
            upper: layer.join("upper"),
            work: layer.join("work"),
            volatile: true,
        }
    }

    fn make_directories(&self, pod: &Pod, prepared: &Prepared) -> Result<()> {
        let facts = &prepared.facts;
        let layer = self.paths.container(&facts.id);
        for dir in [
            layer.join("upper"),
            layer.join("work"),
            self.paths.container_run(&pod.id, &facts.id),
        ] {
            std::fs::create_dir_all(&dir).with_context(|| format!("create directory {}", dir.display()))?;
        }
        // The root directory of the container is the upper one's, whatever husk's umask.
        copy_root_mode(&prepared.rootfs.layers, &layer.join("upper"), pod)?;
        let mapped = facts.runtime.as_ref().map_or(&[][..], |r| &r.mapped);
        volumes::fill(&layer, &prepared.rootfs.layers, &prepared.spec, mapped)?;
        if let Some(checkpoint) = &prepared.checkpoint {
            checkpoint.put_changes(&facts.id, &layer.join("upper"), &prepared.rootfs.layers)?;
        }
        if let Some(dir) = prepared.log.as_deref().and_then(Path::parent) {
            std::fs::create_dir_all(dir)
                .with_context(|| format!("create log directory {}", dir.display()))?;
        }
        let path = self.paths.spec(&pod.id, &facts.id);
        let json = serde_json::to_vec(&prepared.spec).context("encode spec")?;
        std::fs::write(&path, json).with_context(|| format!("write {}", path.display()))
    }

    async fn make_cgroup(&self, prepared: &Prepared) -> Result<Cgroup> {
        let resources = prepared
            .spec
            .linux()
            .as_ref()
            .and_then(|l| l.resources().clone())
            .unwrap_or_default();
        let (cgroups, path) = (
            Arc::clone(&self.parts.cgroups),
            prepared.facts.cgroup_path.clone(),
        );
        blocking(move || cgroups.create(&path, &resources)).await
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

/// The program for a spec's seccomp profile, compiled once for each profile.
pub(super) fn compiled_seccomp(spec: &Spec) -> Result<Option<SeccompProgram>> {
    let Some(profile) = spec.linux().as_ref().and_then(|l| l.seccomp().as_ref()) else {
        return Ok(None);
    };
    let program = seccomp::compiled(profile)?;
    Ok(Some(SeccompProgram {
        filter: program.filter.clone(),
        flags: program.flags,
    }))
}

/// What hooks are told of the container, without what only the executor knows.
fn hook_state(spec: &Spec, id: &ContainerId, bundle: &Path) -> serde_json::Value {
    serde_json::json!({
        "ociVersion": spec.version(),
        "id": id.as_str(),
        "bundle": bundle,
        "annotations": spec.annotations(),
    })
}

fn label(spec: &Spec) -> String {
    let linux = spec.linux().as_ref();
    linux.and_then(|l| l.mount_label().clone()).unwrap_or_default()
}

fn copy_root_mode(layers: &[PathBuf], upper: &Path, pod: &Pod) -> Result<()> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
    let (mode, uid, gid) = match layers.first().map(std::fs::metadata) {
        Some(Ok(meta)) => (meta.mode() & 0o7777, meta.uid(), meta.gid()),
        _ => (0o755, 0, 0),
    };
    // The layers below are shown with mapped owners; the upper directory has them in truth.
    let (uid, gid) = match pod.config.security.namespaces.own_user() {
        Some(user) => (
            IdMapping::to_host(&user.uids, uid).unwrap_or(uid),
            IdMapping::to_host(&user.gids, gid).unwrap_or(gid),
        ),
        None => (uid, gid),
    };
    chown(upper, Some(uid), Some(gid)).with_context(|| format!("set owner of {}", upper.display()))?;
    std::fs::set_permissions(upper, std::fs::Permissions::from_mode(mode))
        .with_context(|| format!("set mode of {}", upper.display()))
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
