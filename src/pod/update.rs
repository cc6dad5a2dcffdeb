//! UpdateContainerResources and UpdatePodSandboxResources.

use std::path::Path;
use std::sync::Arc;

use oci_spec::runtime::{LinuxResources, Spec};
use tracing::warn;

use crate::cgroup::{limits, stated};
use crate::types::error::{Context, Error, Result};
use crate::types::{ContainerState, Resources};

use super::container::Container;
use super::plugins::{ContainerEvent, PodEvent};
use super::{Runtime, blocking, detached};

impl Runtime {
    /// Changes limits; what is zero or empty stays. They hold when this returns, and status shows them.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` for a container that has ended, or a memory limit below what is in use; a limit
    /// that cannot be applied, and then those that were set before hold.
    pub async fn update_container(self: &Arc<Self>, id: &str, wanted: Resources) -> Result<()> {
        super::bounds::resources(&wanted)?;
        let container = self.find_container(id)?;
        has_process(&container)?;
        let this = Arc::clone(self);
        detached(async move { this.change_limits(&container, &wanted).await }).await
    }

    async fn change_limits(&self, container: &Arc<Container>, wanted: &Resources) -> Result<()> {
        let mut limits = limits(wanted);
        if let Some(plugins) = self.plugins.get() {
            let pod = self.find_pod(container.facts.pod.as_str())?;
            limits = plugins.update(&pod, container, limits).await?;
        }
        self.apply_limits(container, limits).await?;
        self.note_container(ContainerEvent::PostUpdate, container).await;
        Ok(())
    }

    /// Writes limits of a container and remembers them; what is not set stays. Nobody is asked.
    ///
    /// # Errors
    /// As [`Runtime::update_container`].
    pub async fn apply_limits(&self, container: &Arc<Container>, new: LinuxResources) -> Result<()> {
        // One change at a time, or the status could end up with what the kernel does not have.
        let _alone = container.limits.lock().await;
        has_process(container)?;
        let cgroup = self.parts.cgroups.open(&container.facts.cgroup_path);
        let (stated, old) = (stated(&new), limits(&container.status().resources));
        let applied = blocking(move || {
            cgroup.apply(&new).inspect_err(|_| {
                // Some of it may be in force.
                if let Err(error) = cgroup.apply(&old) {
                    warn!(%error, "limits from before a failed change could not be put back");
                }
            })
        });
        applied
            .await
            .map_err(|e| e.context(format!("update container {}", container.id())))?;
        let merged = container.update(|s| {
            s.resources.merge(stated);
            s.resources.clone()
        });
        self.save_container(container)?;
        let path = self.paths.spec(&container.facts.pod, container.id());
        if let Err(error) = blocking(move || rewrite_spec(&path, &merged)).await {
            // The limits hold and the status shows them; only the verbose view is behind.
            warn!(container = ?container.id(), %error, "new limits could not be written into the container's spec");
        }
        Ok(())
    }

    /// Remembers what a pod as a whole may use. Its cgroup is the client's: kubelet calls this before it writes it, and
    /// an error would veto the change.
    ///
    /// # Errors
    /// `NotFound`; the record cannot be written.
    pub async fn update_pod(
        self: &Arc<Self>,
        id: &str,
        overhead: Option<Resources>,
        resources: Option<Resources>,
    ) -> Result<()> {
        let pod = self.find_pod(id)?;
        let (this, id) = (Arc::clone(self), id.to_owned());
        detached(async move {
            let _stays = pod.lifecycle.read().await;
            // It may have been removed meanwhile, and its record must not come back.
            this.find_pod(&id)?;
            if let Some(plugins) = this.plugins.get() {
                plugins
                    .update_pod(&pod, overhead.as_ref(), resources.as_ref())
                    .await?;
            }
            {
                let mut status = pod.status_mut();
                status.overhead = overhead.or(status.overhead.take());
                status.resources = resources.or(status.resources.take());
            }
            this.save_pod(&pod)?;
            this.note_pod(PodEvent::PostUpdate, &pod).await;
            Ok(())
        })
        .await
    }
}

fn has_process(container: &Container) -> Result<()> {
    match container.state() {
        ContainerState::Created | ContainerState::Running => Ok(()),
        _ => Err(Error::precondition(format!(
            "container {} has ended; it has no limits to change",
            container.id()
        ))),
    }
}

/// Makes the spec that people look at agree with the limits in force.
fn rewrite_spec(path: &Path, resources: &Resources) -> Result<()> {
    let text = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    let mut spec: Spec =
        serde_json::from_slice(&text).with_context(|| format!("understand {}", path.display()))?;
    let mut linux = spec.linux().clone().unwrap_or_default();
    let mut all = linux.resources().clone().unwrap_or_default();
    let new = limits(resources);
    // What CRI has no word for, such as device rules, stays.
    all.set_cpu(new.cpu().clone().or(all.cpu().clone()));
    all.set_memory(new.memory().or(*all.memory()));
    all.set_pids(new.pids().or(*all.pids()));
    all.set_hugepage_limits(new.hugepage_limits().clone().or(all.hugepage_limits().clone()));
    all.set_unified(new.unified().clone().or(all.unified().clone()));
    linux.set_resources(Some(all));
    spec.set_linux(Some(linux));
    let fresh = path.with_extension("json.new");
    let json = serde_json::to_vec(&spec).context("encode spec")?;
    std::fs::write(&fresh, json).with_context(|| format!("write {}", fresh.display()))?;
    std::fs::rename(&fresh, path).with_context(|| format!("replace {}", path.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_spec_that_people_look_at_follows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        let before = serde_json::json!({"ociVersion": "1.2.0", "linux": {"resources": {
            "devices": [{"allow": false, "access": "rwm"}],
            "blockIO": {"weight": 100},
            "memory": {"limit": 10},
        }}});
        std::fs::write(&path, before.to_string()).unwrap();
        let resources = Resources {
            memory_limit: 20,
            cpu_shares: 512,
            ..Default::default()
        };
        rewrite_spec(&path, &resources).unwrap();
        let after: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let linux = &after["linux"]["resources"];
        assert_eq!(
            (&linux["memory"]["limit"], &linux["cpu"]["shares"]),
            (&20.into(), &512.into())
        );
        assert_eq!(
            (&linux["blockIO"]["weight"], &linux["devices"][0]["allow"]),
            (&100.into(), &false.into())
        );
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
