//! A container as the daemon holds it: what was asked for, which never changes, and where it stands, which does.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::spec::plan::RuntimePlan;
use crate::types::{ContainerConfig, ContainerId, ContainerState, Digest, PodId, Resources};

use super::encoded::Encoded;

/// A container.
pub struct Container {
    /// What never changes.
    pub facts: ContainerFacts,
    /// Its list item.
    pub encoded: Encoded<ContainerState>,
    /// Held while limits are changed.
    pub(super) limits: tokio::sync::Mutex<()>,
    state: Mutex<ContainerStatus>,
    exited: watch::Sender<bool>,
}

/// What is fixed when a container is made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContainerFacts {
    /// Identifier.
    pub id: ContainerId,
    /// Its pod.
    pub pod: PodId,
    /// What was asked for.
    pub config: ContainerConfig,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    /// Image by id.
    pub image_id: Digest,
    /// Image by digest reference, or by id where it has none.
    pub image_ref: String,
    /// Images mounted besides its own.
    #[serde(default)]
    pub image_mounts: Vec<ImageMount>,
    /// Absolute path of the log; a path in husk's run directory where none was asked for, never empty.
    pub log_path: PathBuf,
    /// Signal that stops it, by number.
    pub stop_signal: i32,
    /// The image under a container that goes on from a checkpoint; `None` for one that starts.
    #[serde(default)]
    pub restored_on: Option<Digest>,
    /// Its spec has OCI hooks that run after its start or its end.
    #[serde(default)]
    pub late_hooks: bool,
    /// cgroup, as `cgroup` named it.
    pub cgroup_path: String,
    /// User id of its process.
    pub uid: u32,
    /// Group id of its process.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
    /// The OCI runtime that made it; `None` for husk's own executor.
    #[serde(default)]
    pub runtime: Option<RuntimePlan>,
}

/// An image mounted in a container. It stays on the node for as long as the container does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageMount {
    /// The mount's path as the client gave it.
    pub container_path: String,
    /// The image.
    pub image: Digest,
}

/// Where a container stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerStatus {
    /// Lifecycle state.
    pub state: ContainerState,
    /// Process id on the node, while there is a process.
    pub pid: i32,
    /// Nanoseconds since the epoch; 0 until then.
    pub started_at: i64,
    /// Nanoseconds since the epoch; 0 until then.
    pub finished_at: i64,
    /// Exit code; 128 plus the signal for a process that was killed.
    pub exit_code: i32,
    /// One word for programs.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
    /// Limits as they are now.
    pub resources: Resources,
    /// Being removed: no new operation may start.
    pub removing: bool,
}

impl Default for ContainerStatus {
    fn default() -> Self {
        Self {
            state: ContainerState::Creating,
            pid: 0,
            started_at: 0,
            finished_at: 0,
            exit_code: 0,
            reason: String::new(),
            message: String::new(),
            resources: Resources::default(),
            removing: false,
        }
    }
}

/// A container as the database keeps it.
#[derive(Serialize, Deserialize)]
pub struct ContainerRecord {
    /// What never changes.
    pub facts: ContainerFacts,
    /// Where it stood.
    pub status: ContainerStatus,
}

impl Container {
    /// A container with a status, new or known from earlier.
    pub fn new(facts: ContainerFacts, status: ContainerStatus) -> Arc<Self> {
        let exited = watch::Sender::new(status.state == ContainerState::Exited);
        Arc::new(Self {
            facts,
            encoded: Encoded::default(),
            limits: tokio::sync::Mutex::default(),
            state: Mutex::new(status),
            exited,
        })
    }

    /// Identifier.
    pub fn id(&self) -> &ContainerId {
        &self.facts.id
    }

    /// A copy of the status.
    pub fn status(&self) -> ContainerStatus {
        self.lock().clone()
    }

    /// Lifecycle state.
    pub fn state(&self) -> ContainerState {
        self.lock().state
    }

    /// Changes the status; who waits for the end of the container is told when it came. A change of the state goes
    /// through [`super::Runtime::change_container`].
    pub(super) fn update<T>(&self, change: impl FnOnce(&mut ContainerStatus) -> T) -> T {
        let mut status = self.lock();
        let out = change(&mut status);
        let ended = status.state == ContainerState::Exited;
        drop(status);
        self.exited
            .send_if_modified(|e| std::mem::replace(e, ended) != ended);
        out
    }

    /// Waits until the container has exited.
    pub async fn wait(&self) {
        // The sender lives in self, so the channel cannot close while we wait.
        let _ = self.exited.subscribe().wait_for(|e| *e).await;
    }

    /// For the database.
    pub fn record(&self) -> ContainerRecord {
        ContainerRecord {
            facts: self.facts.clone(),
            status: self.status(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, ContainerStatus> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
