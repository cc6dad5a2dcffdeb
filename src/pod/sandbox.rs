//! A pod as the daemon holds it: what was asked for, which never changes, and where it stands, which does.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::types::{PodConfig, PodId, PodState, Realm, Resources};

use super::client::Client;
use super::encoded::Encoded;
use super::under_way::UnderWay;

/// A pod.
pub struct Pod {
    /// Identifier.
    pub id: PodId,
    /// Owner.
    pub realm: Realm,
    /// What was asked for.
    pub config: PodConfig,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    /// Held for writing by run, stop and remove, for reading by what needs the pod to stay: create. Never by status calls.
    pub(super) lifecycle: tokio::sync::RwLock<()>,
    /// What holds it for reading.
    pub(super) under_way: UnderWay,
    /// Set when it is to be stopped while it is being made: whatever may take long is then given up.
    pub(super) unwanted: CancellationToken,
    /// Its list item.
    pub encoded: Encoded<PodState>,
    state: Mutex<PodStatus>,
}

/// Where a pod stands.
#[derive(Clone)]
pub struct PodStatus {
    /// Lifecycle state.
    pub state: PodState,
    /// Addresses, the primary one first; empty with host network.
    pub ips: Vec<IpAddr>,
    /// The supervisor, while it lives.
    pub supervisor: Option<Supervisor>,
    /// It never was ready and could not be cleaned up: the next request with its name replaces it.
    pub failed: bool,
    /// Being removed.
    pub removing: bool,
    /// Overhead as last told; `None`: as in the config.
    pub overhead: Option<Resources>,
    /// Resources as last told; `None`: as in the config.
    pub resources: Option<Resources>,
}

impl PodStatus {
    /// A pod in `state` of which nothing else is known.
    pub fn new(state: PodState) -> Self {
        Self {
            state,
            ips: Vec::new(),
            supervisor: None,
            failed: false,
            removing: false,
            overhead: None,
            resources: None,
        }
    }
}

/// A pod's supervisor.
#[derive(Clone)]
pub struct Supervisor {
    /// Connection.
    pub client: Client,
    /// What has to be known to use it, also by the next daemon.
    pub facts: SupervisorFacts,
}

/// What is known about a pod's supervisor.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SupervisorFacts {
    /// Process id.
    pub pid: i32,
    /// Process id of the init of the pod's shared pid namespace, if it has one.
    pub pidns_init: Option<i32>,
    /// Pinned network namespace; `None` with host network.
    pub netns: Option<PathBuf>,
    /// The pod's user namespace, if it has one of its own.
    pub userns: Option<PathBuf>,
    /// SELinux level of the pod; empty without SELinux.
    pub selinux_level: String,
    /// Source of `/dev/shm` for the pod's containers.
    pub shm: PathBuf,
    /// Runtime handler of its containers, by its own name; empty if the pod was made before there were others.
    pub handler: String,
}

/// A pod as the database keeps it.
#[derive(Serialize, Deserialize)]
pub struct PodRecord {
    /// Identifier.
    pub id: PodId,
    /// Owner.
    #[serde(default)]
    pub realm: Realm,
    /// What was asked for.
    pub config: PodConfig,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    /// State.
    pub state: PodState,
    /// Addresses.
    #[serde(default)]
    pub ips: Vec<IpAddr>,
    /// Supervisor.
    #[serde(default)]
    pub supervisor: SupervisorFacts,
    /// It never was ready and could not be cleaned up.
    #[serde(default)]
    pub failed: bool,
    /// Overhead as last told.
    #[serde(default)]
    pub overhead: Option<Resources>,
    /// Resources as last told.
    #[serde(default)]
    pub resources: Option<Resources>,
}

impl Pod {
    /// A pod that is being made.
    pub fn new(id: PodId, realm: Realm, config: PodConfig, created_at: i64) -> Arc<Self> {
        Self::with_status(id, realm, config, created_at, PodStatus::new(PodState::Creating))
    }

    /// A pod known from earlier.
    pub fn with_status(
        id: PodId,
        realm: Realm,
        config: PodConfig,
        created_at: i64,
        status: PodStatus,
    ) -> Arc<Self> {
        Arc::new(Self {
            id,
            realm,
            config,
            created_at,
            lifecycle: tokio::sync::RwLock::new(()),
            under_way: UnderWay::default(),
            unwanted: CancellationToken::new(),
            encoded: Encoded::default(),
            state: Mutex::new(status),
        })
    }

    /// The status, to read or change; not to be held across I/O. A change of the state goes through
    /// [`super::Runtime::change_pod`].
    pub(super) fn status_mut(&self) -> MutexGuard<'_, PodStatus> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lifecycle state.
    pub fn state(&self) -> PodState {
        self.status_mut().state
    }

    /// Addresses, the primary one first.
    pub fn ips(&self) -> Vec<IpAddr> {
        self.status_mut().ips.clone()
    }

    /// What the pod as a whole has on top of its containers, and what they may use together, as last told.
    pub fn limits(&self) -> (Option<Resources>, Option<Resources>) {
        let status = self.status_mut();
        (
            status.overhead.clone().or(self.config.overhead.clone()),
            status.resources.clone().or(self.config.resources.clone()),
        )
    }

    /// The supervisor, while it lives.
    pub fn supervisor(&self) -> Option<Supervisor> {
        self.status_mut().supervisor.clone()
    }

    /// For the database.
    pub fn record(&self) -> PodRecord {
        let status = self.status_mut();
        PodRecord {
            id: self.id.clone(),
            realm: self.realm,
            config: self.config.clone(),
            created_at: self.created_at,
            state: status.state,
            ips: status.ips.clone(),
            supervisor: status
                .supervisor
                .as_ref()
                .map(|s| s.facts.clone())
                .unwrap_or_default(),
            failed: status.failed,
            overhead: status.overhead.clone(),
            resources: status.resources.clone(),
        }
    }
}
