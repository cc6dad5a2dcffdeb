//! Pod networking: network namespaces, CNI plugins, the built-in bridge, host ports.
//!
//! Owns everything of a pod's network that lives outside of a process: pinned namespaces, plugin leases, addresses,
//! interfaces, packet filter rules. Each is recorded before it comes into being and forgotten after it is gone, so a
//! daemon that died at any moment can be followed by one that cleans up.
//!
//! Must not know: CRI, supervisors, containers. One call at a time per pod is the caller's business.

mod attach;
mod builtin;
mod cidr;
mod cni;
mod counters;
mod detach;
mod dial;
#[doc(hidden)]
pub mod fuzz;
mod netlink;
mod netns;
pub mod pod_cidr;
mod ports;
mod record;
mod request;
mod status;
mod sysctl;

use std::collections::HashMap;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

pub use cidr::Cidr;
pub use dial::connect_to_loopback;
pub use request::{
    Attachment, BuiltinConfig, Condition, Interface, InterfaceCounters, NetworkConfig, PodNetwork,
};

use crate::telemetry::operations;
use crate::types::error::Context;
use crate::types::{Error, PodId, Result};
use builtin::Builtin;
use cni::watch::Watch;
use ports::Mapper;
use record::{Record, Store, Via};

const REPAIR_INTERVAL: Duration = Duration::from_secs(5);

/// For [`NetworkConfig::missing_plugin_patience`]: installers replace plugins within seconds or minutes.
pub const MISSING_PLUGIN_PATIENCE: Duration = Duration::from_secs(300);

/// The node's pod network.
pub struct Network {
    inner: Arc<Inner>,
}

/// What work on blocking threads shares with the calls that started it.
struct Inner {
    config: NetworkConfig,
    store: Store,
    pool: netns::Pool,
    conf: Watch,
    builtin: Option<Builtin>,
    ports: Mapper,
    /// Why pods of the built-in network cannot reach out, if so.
    masquerade: Mutex<Option<String>>,
    /// Pods that could not be detached because a plugin is not installed any more, and since when.
    bereft: Mutex<HashMap<PodId, Instant>>,
}

impl Network {
    /// Reads configuration and records, puts back what a reboot or another program took away, and starts to watch the
    /// configuration and to fill the namespace pool.
    ///
    /// # Errors
    /// A directory cannot be used, or the configuration of the built-in network is wrong. That pods cannot be given a
    /// network yet is no error but a [`Network::condition`].
    pub async fn start(config: NetworkConfig) -> Result<Arc<Self>> {
        let conf = Watch::start(config.cni_conf_dir.clone(), config.cni_bin_dirs.clone()).await;
        let inner = Arc::new(blocking(move || Inner::load(config, conf)).await?);
        tokio::spawn(repair(Arc::downgrade(&inner)));
        Ok(Arc::new(Self { inner }))
    }

    /// A fresh network namespace for `pod`, loopback up, pinned under its id. Repeating the call returns the same one.
    /// Blocks for microseconds, or half a millisecond if the pool is empty.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn create_netns(&self, pod: &PodId) -> Result<PathBuf> {
        let path = self.netns_path(pod);
        if netns::is_netns(&path) {
            return Ok(path);
        }
        let netns = self.inner.pool.take()?;
        netns::pin(netns.as_fd(), &path)?;
        Ok(path)
    }

    /// As [`Network::create_netns`], for a namespace that someone else made: that of a pod with a user namespace must be
    /// made within it, by a process that is in it.
    ///
    /// # Errors
    /// As [`Network::create_netns`].
    pub fn adopt_netns(&self, pod: &PodId, netns: BorrowedFd<'_>) -> Result<PathBuf> {
        let path = self.netns_path(pod);
        netns::inside_fd(netns, netns::bring_up_loopback)??;
        netns::pin(netns, &path)?;
        Ok(path)
    }

    /// Unpins and forgets the namespace of `pod`. Idempotent.
    ///
    /// # Errors
    /// The mount or the file stays.
    pub fn remove_netns(&self, pod: &PodId) -> Result<()> {
        netns::unpin(&self.netns_path(pod))
    }

    /// Where the namespace of `pod` is pinned, if it has one.
    pub fn netns_path(&self, pod: &PodId) -> PathBuf {
        self.inner.netns_path(pod)
    }

    /// What `pod` was given. From memory; survives a restart.
    pub fn attachment(&self, pod: &PodId) -> Option<Attachment> {
        self.inner.store.get(pod)?.attachment.clone()
    }
}

impl Inner {
    fn load(config: NetworkConfig, conf: Watch) -> Result<Self> {
        for dir in [&config.state_dir, &config.netns_dir] {
            fs::create_dir_all(dir).with_context(|| format!("create directory {}", dir.display()))?;
        }
        let tag = tag(&config.state_dir)?;
        let builtin = config
            .builtin
            .clone()
            .map(|b| Builtin::new(b, &config.state_dir, &tag))
            .transpose()?;
        let inner = Self {
            store: Store::load(config.state_dir.join("pods"))?,
            pool: netns::Pool::start(config.netns_pool),
            conf,
            builtin,
            ports: Mapper::new(format!("husk-{tag}")),
            masquerade: Mutex::default(),
            bereft: Mutex::default(),
            config,
        };
        inner.probe_masquerade();
        inner.restore();
        Ok(inner)
    }

    /// Takes over from the records what is in use, and makes the kernel agree.
    fn restore(&self) {
        let mut builtin_alive = false;
        for record in self.store.all() {
            let alive = netns::is_netns(&record.netns);
            if let (Via::Builtin(given), Some(builtin)) = (&record.via, &self.builtin) {
                builtin.adopt(given);
                builtin_alive |= alive;
            }
            // After a reboot nobody is behind a dead pod's ports, and its successor wants them.
            if alive && let Err(error) = self.ports.adopt(&record.pod, &record.ports, &record.addresses) {
                tracing::error!(pod = record.pod.short(), %error, "cannot restore host ports");
            }
        }
        if builtin_alive && let Err(error) = self.prepare_builtin() {
            tracing::error!(%error, "cannot restore the built-in network");
        }
        if let Err(error) = self.ports.sync() {
            tracing::error!(%error, "cannot restore host ports");
        }
    }

    /// Makes what the node needs for the built-in network. That pods cannot reach out is noted, no error: they reach
    /// each other and the node.
    fn prepare_builtin(&self) -> Result<()> {
        let Some(builtin) = &self.builtin else {
            return Err(Error::internal("the built-in network is not configured any more"));
        };
        let subnets = builtin.ensure()?;
        let problem = self.ports.hide(&subnets).err().map(|e| e.to_string());
        let mut known = lock(&self.masquerade);
        if let Some(problem) = problem.as_ref().filter(|_| known.is_none()) {
            tracing::warn!(%problem, "pods of the built-in network cannot reach beyond this node");
        }
        *known = problem;
        Ok(())
    }

    fn netns_path(&self, pod: &PodId) -> PathBuf {
        self.config.netns_dir.join(pod.as_str())
    }

    fn write(&self, record: Record, durable: bool) -> Result<Arc<Record>> {
        self.store.put(record, durable)
    }
}

/// Tries again what made the built-in network unusable: while it is, kubelet sends no pod that would try. Ends with the
/// network.
async fn repair(inner: Weak<Inner>) {
    loop {
        tokio::time::sleep(REPAIR_INTERVAL).await;
        let Some(inner) = inner.upgrade() else {
            return;
        };
        if inner.builtin.as_ref().is_some_and(|b| b.problem().is_some()) {
            let _ = blocking(move || inner.prepare_builtin()).await;
        }
    }
}

/// What sets the names of this daemon apart from those of others on the node.
fn tag(state_dir: &Path) -> Result<String> {
    let path = fs::canonicalize(state_dir).with_context(|| format!("resolve {}", state_dir.display()))?;
    let digest = Sha256::digest(path.as_os_str().as_encoded_bytes());
    Ok(crate::types::id::hex(&digest[..4]))
}

/// How an operation went, for the counts.
fn outcome<T>(result: &Result<T>) -> &'static str {
    match result {
        Ok(_) => operations::OK,
        Err(_) => "FAILED",
    }
}

/// Runs what blocks for milliseconds where that is allowed.
async fn blocking<T: Send + 'static>(task: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(task).await;
    done.unwrap_or_else(|e| Err(Error::internal(format!("network task ended early: {e}"))))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
