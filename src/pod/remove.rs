//! RemoveContainer and RemovePodSandbox.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use crate::image::layer::remove_tree;
use crate::state::Table;
use crate::types::error::{Context, Result};

use super::container::Container;
use super::late_hooks::Stage;
use super::plugins::{ContainerEvent, PodEvent};
use super::sandbox::Pod;
use super::{Runtime, blocking, detached};

impl Runtime {
    /// Removes a container, killing it if it runs. Its log stays. Unknown containers are fine.
    ///
    /// # Errors
    /// It cannot be killed, or what it left cannot be removed; the call may be repeated.
    pub async fn remove_container(self: &Arc<Self>, id: &str) -> Result<()> {
        let Some(container) = self.find_container_if_any(id)? else {
            return Ok(());
        };
        let this = Arc::clone(self);
        detached(async move { this.remove_found(&container).await }).await
    }

    pub(super) async fn remove_found(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        container.update(|s| s.removing = true);
        self.stop_process(container, Duration::ZERO).await?;
        // The spec that names them goes with the rest.
        self.run_late_hooks(Stage::Removed, container).await;
        self.delete_container_remains(container).await?;
        self.note_container(ContainerEvent::Remove, container).await;
        self.parts.db.delete(Table::Containers, container.id().as_str())?;
        self.forget_container(container);
        info!(container = ?container.id(), "container removed");
        Ok(())
    }

    /// Deletes what is on disk and in the kernel of a container without a process.
    pub(super) async fn delete_container_remains(&self, container: &Container) -> Result<()> {
        if let Ok(client) = self.client_of(container) {
            // The supervisor may not know it, or may be gone.
            let _ = client.remove(container.id()).await;
        }
        self.remove_cgroup(container).await;
        self.parts.images.release(container.id().as_str());
        let layer = self.paths.container(container.id());
        let run = self.paths.container_run(&container.facts.pod, container.id());
        self.discard(layer, container.id().as_str()).await?;
        if let Some(runtime) = &container.facts.runtime {
            // Left only where no supervisor could have the runtime delete it.
            remove_if_there(&runtime.root.join(container.id().as_str()))?;
        }
        remove_if_there(&run)
    }

    /// Moves a directory out of the way at once and deletes it in the background.
    async fn discard(&self, dir: PathBuf, name: &str) -> Result<()> {
        let trash = self.paths.trash().join(name);
        match std::fs::rename(&dir, &trash) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => {
                return Err(crate::types::Error::internal(format!(
                    "move {} away: {e}",
                    dir.display()
                )));
            }
        }
        tokio::spawn(async move {
            let shown = trash.display().to_string();
            if let Err(error) = blocking(move || remove_if_there(&trash)).await {
                // The next start of husk empties the trash again.
                warn!(dir = %shown, %error, "directory could not be deleted");
            }
        });
        Ok(())
    }

    /// Removes a pod and its containers, stopping them first. Unknown pods are fine.
    ///
    /// # Errors
    /// Something could not be undone; the call may be repeated.
    pub async fn remove_pod(self: &Arc<Self>, id: &str) -> Result<()> {
        let Some(pod) = self.find_pod_if_any(id)? else {
            return Ok(());
        };
        let this = Arc::clone(self);
        detached(async move { this.remove_found_pod(&pod).await }).await
    }

    pub(super) async fn remove_found_pod(self: &Arc<Self>, pod: &Arc<Pod>) -> Result<()> {
        self.give_up_making(pod);
        let _alone = pod.alone().await?;
        if !self.index.has_pod(pod) {
            return Ok(());
        }
        pod.status_mut().removing = true;
        self.stop_locked(pod).await?;
        for container in self.index.containers_of(&pod.id) {
            self.remove_found(&container).await?;
        }
        self.remove_pod_cgroup(pod).await;
        remove_if_there(&self.paths.pod(&pod.id))?;
        self.note_pod(PodEvent::Remove, pod).await;
        self.forget_pod(pod);
        info!(pod = ?pod.id, "pod removed");
        Ok(())
    }

    /// Lets go of the pod's cgroup, and removes it if husk made it, because the client named none. One that other pods are
    /// in, too, as when kubelet makes a pod anew, is left to the last of them.
    async fn remove_pod_cgroup(&self, pod: &Pod) {
        let path = self.cgroup_parent(pod);
        let others = self.index.all_pods();
        let shared = others
            .iter()
            .any(|p| p.id != pod.id && self.cgroup_parent(p) == path);
        if !shared {
            let own = pod.config.cgroup_parent.is_empty();
            let cgroups = Arc::clone(&self.parts.cgroups);
            // It may have to wait for the last process to be gone.
            let removed = blocking(move || {
                cgroups.release(&path)?;
                if own {
                    cgroups.open(&path).remove()?;
                    cgroups.remove_unused(&path)?;
                }
                Ok(())
            });
            if let Err(error) = removed.await {
                warn!(pod = ?pod.id, %error, "cgroup of the pod could not be removed");
            }
        }
    }
}

/// Deletes a directory with all in it, if it is there. A container may have filled it: the depth of the tree is its choice.
pub(super) fn remove_if_there(dir: &std::path::Path) -> Result<()> {
    remove_tree(dir)
        .map(drop)
        .with_context(|| format!("delete directory {}", dir.display()))
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]

    use std::path::Path;

    use rustix::fs::{Mode, OFlags};

    use super::*;

    /// Makes a tree that is deeper than a thread's stack, a table of descriptors and a path may be.
    pub fn make_deep_tree(dir: &Path) {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        std::fs::create_dir(dir).unwrap();
        let mut at = rustix::fs::open(dir, flags, Mode::empty()).unwrap();
        for _ in 0..20_000 {
            rustix::fs::mkdirat(&at, "a", Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, "a", flags, Mode::empty()).unwrap();
        }
    }

    #[test]
    fn what_a_container_wrote_may_be_of_any_depth() {
        let dir = tempfile::tempdir().unwrap();
        let layer = dir.path().join("layer");
        make_deep_tree(&layer);
        remove_if_there(&layer).unwrap();
        assert!(!layer.exists());
        remove_if_there(&layer).unwrap();
    }
}
