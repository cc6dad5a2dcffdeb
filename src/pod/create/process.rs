//! Making a container's directories, cgroup and first process of what was prepared.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::runtime::Spec;
use tracing::warn;

use crate::cgroup::Cgroup;
use crate::image::Rootfs;
use crate::seccomp;
use crate::spec::plan::{self, SeccompProgram};
use crate::supervisor::protocol::CreateContainer;
use crate::types::ContainerId;
use crate::types::error::{Context, Result};
use crate::types::security::{IdMapping, NamespaceMode};

use super::super::checkpoint::Checkpoint;
use super::super::sandbox::{Pod, Supervisor};
use super::super::{Runtime, blocking, selinux};
use super::{Prepared, volumes};

impl Runtime {
    /// Makes directories, cgroup and process; returns the process's id.
    pub(super) async fn make_process(
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
                bidirectional: super::super::handler::bidirectional(&prepared.spec),
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

    pub(super) fn overlay(&self, id: &ContainerId, rootfs: &Rootfs) -> plan::Rootfs {
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
        // What the container writes inherits it; the kernel checks mapped files here too, not only where they are mounted.
        selinux::relabel(&layer.join("upper"), &label(&prepared.spec))?;
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
}

/// The program for a spec's seccomp profile, compiled once for each profile.
pub(in super::super) fn compiled_seccomp(spec: &Spec) -> Result<Option<SeccompProgram>> {
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
