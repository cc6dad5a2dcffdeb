//! Pods and containers: lifecycle, index, supervisors, recovery.
//!
//! [`Runtime`] is what the services in front (`cri`, `api`) call. Each operation is a file of its own. The rules:
//! a record is written before its effect and removed after it; an operation that a client started goes on when the
//! client goes away; list and status calls read memory only.
//!
//! ```text
//! pod:        Creating ──> Ready ──> NotReady ──> (removed)
//! container:  Creating ──> Created ──> Running ──> Exited ──> (removed)
//! ```

pub mod adopt;
pub mod bounds;
pub mod checkpoint;
pub mod client;
pub mod container;
pub mod create;
pub mod criu;
pub mod devices;
mod difference;
pub mod encoded;
pub mod events;
pub mod exec;
pub mod exits;
pub mod files;
pub mod follow;
#[doc(hidden)]
pub mod fuzz;
pub mod handler;
pub mod index;
pub mod interactive;
mod late_hooks;
pub mod launcher;
pub mod node;
pub mod paths;
pub mod pipe;
pub mod plugins;
pub mod port;
pub mod recover;
pub mod remove;
pub mod run;
pub mod sandbox;
pub mod selinux;
pub mod shm;
pub mod start;
pub mod stop;
mod stuck;
mod under_way;
pub mod update;

use std::sync::{Arc, OnceLock};

use crate::cgroup::Cgroups;
use crate::config::Config;
use crate::host::Host;
use crate::image::ImageStore;
use crate::network::{Condition, Network};
use crate::state::{Db, Table};
use crate::types::error::{Context, Error, Result};
use crate::types::{ContainerConfig, ContainerId, ContainerMetadata, PodConfig, PodId, PodMetadata, Realm};

use tracing::Instrument;

use adopt::Operations;
use container::Container;
use handler::Handlers;
use index::{Found, Index};
use launcher::Launcher;
use paths::Paths;
use sandbox::Pod;

/// What the runtime is made of; put together by `daemon`.
pub struct Parts {
    /// Configuration.
    pub config: Config,
    /// The node.
    pub host: Host,
    /// Control groups.
    pub cgroups: Arc<Cgroups>,
    /// Images.
    pub images: Arc<ImageStore>,
    /// Network.
    pub network: Arc<Network>,
    /// Database.
    pub db: Db,
    /// Starter of supervisors.
    pub launcher: Launcher,
    /// Runtime handlers.
    pub handlers: Handlers,
}

/// Pods and containers of this node.
pub struct Runtime {
    parts: Parts,
    paths: Paths,
    index: Index,
    pod_operations: Operations<(Realm, PodMetadata), PodConfig, PodId>,
    container_operations: Operations<(PodId, ContainerMetadata), ContainerConfig, ContainerId>,
    execs: exec::Execs,
    events: events::Events,
    checkpoints: checkpoint::Checkpoints,
    levels: selinux::Levels,
    plugins: OnceLock<Arc<dyn plugins::Plugins>>,
    /// The node's pod ranges as kubelet told them.
    pod_cidr: std::sync::Mutex<String>,
}

impl Runtime {
    /// A runtime that knows no pod yet; see [`Runtime::recover`].
    ///
    /// # Errors
    /// The state directories cannot be made.
    pub fn new(parts: Parts) -> Result<Arc<Self>> {
        let paths = Paths::new(&parts.config);
        paths.create()?;
        Ok(Arc::new(Self {
            parts,
            paths,
            index: Index::default(),
            pod_operations: Operations::default(),
            container_operations: Operations::default(),
            execs: exec::Execs::default(),
            events: events::Events::default(),
            checkpoints: checkpoint::Checkpoints::default(),
            levels: selinux::Levels::default(),
            plugins: OnceLock::new(),
            pod_cidr: std::sync::Mutex::default(),
        }))
    }

    /// All pods and containers.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.parts.config
    }

    /// The runtime handlers.
    pub fn handlers(&self) -> &Handlers {
        &self.parts.handlers
    }

    /// The node.
    pub fn host(&self) -> &Host {
        &self.parts.host
    }

    /// Is the pod network ready.
    pub fn network_condition(&self) -> Condition {
        self.parts.network.condition()
    }

    /// How the last load of the CNI configuration went, and what it is.
    pub fn cni_status(&self) -> (String, serde_json::Value) {
        self.parts.network.cni_status()
    }

    /// The result of the network plugins for a pod, as JSON.
    pub fn network_result(&self, pod: &PodId) -> Option<String> {
        self.parts.network.attachment(pod).map(|a| a.result_json)
    }

    /// The pod with that id or unique prefix.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for an ambiguous prefix.
    pub fn find_pod(&self, id: &str) -> Result<Arc<Pod>> {
        match self.index.pod(id) {
            Found::One(pod) => Ok(pod),
            Found::None => Err(Error::not_found(format!("pod sandbox {id:?} does not exist"))),
            Found::Ambiguous => Err(Error::invalid(format!(
                "pod sandbox {id:?} is ambiguous: give more digits"
            ))),
        }
    }

    /// The container with that id or unique prefix.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for an ambiguous prefix.
    pub fn find_container(&self, id: &str) -> Result<Arc<Container>> {
        match self.index.container(id) {
            Found::One(container) => Ok(container),
            Found::None => Err(Error::not_found(format!("container {id:?} does not exist"))),
            Found::Ambiguous => Err(Error::invalid(format!(
                "container {id:?} is ambiguous: give more digits"
            ))),
        }
    }

    /// As [`Runtime::find_pod`] for calls that must succeed on what is already gone.
    fn find_pod_if_any(&self, id: &str) -> Result<Option<Arc<Pod>>> {
        match self.find_pod(id) {
            Err(e) if e.kind() == crate::types::Kind::NotFound => Ok(None),
            other => other.map(Some),
        }
    }

    /// As [`Runtime::find_container`] for calls that must succeed on what is already gone.
    fn find_container_if_any(&self, id: &str) -> Result<Option<Arc<Container>>> {
        match self.find_container(id) {
            Err(e) if e.kind() == crate::types::Kind::NotFound => Ok(None),
            other => other.map(Some),
        }
    }

    fn save_pod(&self, pod: &Pod) -> Result<()> {
        let value = serde_json::to_vec(&pod.record()).context("encode pod record")?;
        self.parts.db.put(Table::Pods, pod.id.as_str(), &value)
    }

    fn save_container(&self, container: &Container) -> Result<()> {
        let value = serde_json::to_vec(&container.record()).context("encode container record")?;
        self.parts
            .db
            .put(Table::Containers, container.id().as_str(), &value)
    }
}

/// Runs `work` to its end even if the caller goes away.
async fn detached<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    // It is still part of the call that is traced.
    match tokio::spawn(work.in_current_span()).await {
        Ok(result) => result,
        Err(e) => Err(Error::internal(format!(
            "husk failed while working on this call: {e}"
        ))),
    }
}

/// Runs blocking `work` off the async threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(Error::internal(format!(
            "husk failed while working on this call: {e}"
        ))),
    }
}
