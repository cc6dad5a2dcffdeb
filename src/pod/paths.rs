//! Where everything of a pod or container is: every name derives from an id, so that recovery needs no guesswork.

use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::types::error::{Context, Result};
use crate::types::{ContainerId, PodId};

/// The directories.
#[derive(Debug, Clone)]
pub struct Paths {
    root: PathBuf,
    run: PathBuf,
}

impl Paths {
    /// As configured.
    pub fn new(config: &Config) -> Self {
        Self {
            root: config.root.clone(),
            run: config.run.clone(),
        }
    }

    /// Makes the directories that everything else is in.
    pub(super) fn create(&self) -> Result<()> {
        for dir in [self.containers(), self.trash(), self.pods(), self.mount_point()] {
            std::fs::create_dir_all(&dir).with_context(|| format!("create directory {}", dir.display()))?;
        }
        Ok(())
    }

    /// Run directories of all pods.
    pub fn pods(&self) -> PathBuf {
        self.run.join("pods")
    }

    /// Run directory of a pod: socket, files, exit records.
    pub fn pod(&self, pod: &PodId) -> PathBuf {
        self.pods().join(pod.as_str())
    }

    /// Run directory of a container, in its pod's.
    pub fn container_run(&self, pod: &PodId, container: &ContainerId) -> PathBuf {
        self.pod(pod).join(container.as_str())
    }

    /// The container's OCI spec.
    pub fn spec(&self, pod: &PodId, container: &ContainerId) -> PathBuf {
        self.container_run(pod, container).join("config.json")
    }

    /// The container's exit record, written by the supervisor.
    pub fn exit_record(&self, pod: &PodId, container: &ContainerId) -> PathBuf {
        self.container_run(pod, container).join("exit.json")
    }

    /// Where a container's log goes when the client names no place.
    pub fn default_log(&self, pod: &PodId, container: &ContainerId) -> PathBuf {
        self.container_run(pod, container).join("log")
    }

    /// Writable layers of all containers.
    pub fn containers(&self) -> PathBuf {
        self.root.join("containers")
    }

    /// Directory of a container's writable layer and volumes.
    pub fn container(&self, container: &ContainerId) -> PathBuf {
        self.containers().join(container.as_str())
    }

    /// What waits to be deleted in the background.
    pub fn trash(&self) -> PathBuf {
        self.root.join("trash")
    }

    /// The empty directory on which every container mounts its root, each in a mount namespace of its own.
    pub fn mount_point(&self) -> PathBuf {
        self.run.join("rootfs")
    }

    /// A pod's `/dev/shm`.
    pub fn shm(&self, pod: &PodId) -> PathBuf {
        self.pod(pod).join("shm")
    }
}

/// A client's log path in the pod's log directory; `None` where there is to be no log.
pub fn log_path(log_directory: &str, log_path: &str) -> Option<PathBuf> {
    (!log_directory.is_empty() && !log_path.is_empty()).then(|| Path::new(log_directory).join(log_path))
}

impl super::Runtime {
    /// The parent of a pod's container cgroups: what the client named, or one of husk's own.
    pub fn cgroup_parent(&self, pod: &super::sandbox::Pod) -> String {
        if pod.config.cgroup_parent.is_empty() {
            self.parts
                .cgroups
                .pod_path(&self.parts.config.cgroup.parent, &pod.id)
        } else {
            pod.config.cgroup_parent.clone()
        }
    }

    /// A container's cgroup.
    pub(super) fn cgroup_path(&self, pod: &super::sandbox::Pod, container: &ContainerId) -> String {
        self.parts
            .cgroups
            .container_path(&self.cgroup_parent(pod), container)
    }
}
