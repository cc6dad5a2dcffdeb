//! What pods and containers use: one sampling shared by CRI's statistics, its metrics and the Prometheus endpoint.
//!
//! Nothing here runs by itself. A reading is taken when somebody asks and the last one is older than [`sampler::FRESH`];
//! whoever asks meanwhile gets the same one. So an idle node costs nothing, and ten scrapers cost what one costs. The
//! reading before it is kept for rates. All reading of files happens on blocking threads.
//!
//! Knows pods and containers through [`Runtime`], which knows nothing of this. What has gone is forgotten when the next
//! list is made.

mod device;
mod interfaces;
mod layer;
pub mod metrics;

mod processes;
mod sampler;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::cgroup::{Cgroup, Cgroups, Detail, Stats as CgroupStats};
use crate::network::{InterfaceCounters, Network};
use crate::pod::Runtime;
use crate::pod::container::Container;
use crate::pod::paths::Paths;
use crate::pod::sandbox::Pod;
use crate::types::error::{Error, Result};
use crate::types::{ContainerState, PodState};

pub use device::{FileSystem, device_name};
pub use layer::LayerUsage;
pub use processes::Processes;
pub use sampler::Reading;

use interfaces::Interfaces;
use layer::Layers;
use sampler::Sampler;

/// Lists that are worked on at once; further ones wait, and then mostly find what the others have read.
const PASSES: usize = 4;
/// A list of fewer objects is not worth a second thread.
const PER_THREAD: usize = 64;

/// The sampler. One for the daemon.
pub struct Stats {
    runtime: Arc<Runtime>,
    cgroups: Arc<Cgroups>,
    network: Arc<Network>,
    paths: Paths,
    sampler: Sampler,
    layers: Arc<Layers>,
    interfaces: Interfaces,
    passes: Semaphore,
}

/// What a container uses.
pub struct ContainerSample {
    /// The container.
    pub container: Arc<Container>,
    /// Its cgroup; `None` for one that is not running.
    pub reading: Option<Arc<Reading>>,
    /// Its writable layer; `None` until it was measured for the first time.
    pub layer: Option<LayerUsage>,
}

/// What a pod uses.
pub struct PodSample {
    /// The pod.
    pub pod: Arc<Pod>,
    /// All of it together; `None` for one that is not running.
    pub reading: Option<Arc<Reading>>,
    /// Traffic, loopback left out; `None` with the node's network and for a pod that is not running.
    pub interfaces: Option<Arc<InterfaceReading>>,
    /// Its containers that are running.
    pub containers: Vec<ContainerSample>,
}

/// Traffic counters of a pod.
pub struct InterfaceReading {
    /// Nanoseconds since the epoch.
    pub at: i64,
    /// All interfaces but loopback.
    pub counters: Vec<InterfaceCounters>,
}

impl Stats {
    /// Samples the pods and containers of `runtime`.
    pub fn new(runtime: Arc<Runtime>, cgroups: Arc<Cgroups>, network: Arc<Network>) -> Arc<Self> {
        Arc::new(Self {
            paths: Paths::new(runtime.config()),
            runtime,
            cgroups,
            network,
            sampler: Sampler::default(),
            layers: Layers::new(),
            interfaces: Interfaces::default(),
            passes: Semaphore::new(PASSES),
        })
    }

    /// The pods and containers.
    pub fn runtime(&self) -> &Arc<Runtime> {
        &self.runtime
    }

    /// Where writable layers are: the name of their file system towards clients.
    pub fn layers_dir(&self) -> PathBuf {
        self.paths.containers()
    }

    /// The file system with the writable layers.
    pub fn file_system(&self) -> FileSystem {
        FileSystem::of(&self.paths.containers())
    }

    /// One sample for each container, in order.
    ///
    /// # Errors
    /// None that comes from a container: what cannot be read is not in its sample.
    pub async fn containers(
        self: &Arc<Self>,
        list: Vec<Arc<Container>>,
        detail: Detail,
    ) -> Result<Vec<ContainerSample>> {
        self.pass(move |this| Ok(spread(&list, |c| this.container(c, detail))))
            .await
    }

    /// One sample for each pod, in order, with those of its running containers.
    ///
    /// # Errors
    /// As [`Stats::containers`].
    pub async fn pods(self: &Arc<Self>, list: Vec<Arc<Pod>>, detail: Detail) -> Result<Vec<PodSample>> {
        self.pass(move |this| Ok(this.pods_blocking(&list, detail))).await
    }

    /// As [`Stats::pods`], for who is on a blocking thread already.
    pub fn pods_blocking(&self, list: &[Arc<Pod>], detail: Detail) -> Vec<PodSample> {
        std::thread::scope(|scope| {
            let traffic = scope.spawn(|| {
                let with_network: Vec<_> = list.iter().filter(|p| own_network(p)).map(|p| &p.id).collect();
                self.interfaces.read(&self.network, &with_network)
            });
            let mut samples = spread(list, |p| self.pod(p, detail));
            let mut traffic = traffic.join().unwrap_or_default();
            for sample in &mut samples {
                sample.interfaces = traffic.remove(&sample.pod.id);
            }
            samples
        })
    }

    async fn pass<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let _turn = self.passes.acquire().await;
        let this = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || {
            let result = work(&this);
            this.forget_gone();
            result
        });
        done.await
            .unwrap_or_else(|e| Err(Error::internal(format!("read statistics: husk failed: {e}"))))
    }

    fn container(&self, container: &Arc<Container>, detail: Detail) -> ContainerSample {
        let id = container.id().as_str();
        let status = container.status();
        let reading = (status.state == ContainerState::Running)
            .then(|| {
                self.sampler.read(id, detail, || {
                    let cgroup = self.cgroups.open(&container.facts.cgroup_path);
                    let processes = match detail {
                        Detail::Full => Processes::of(&cgroup, status.pid),
                        Detail::Usage => Processes::default(),
                    };
                    Ok((cgroup.read(detail)?, processes))
                })
            })
            // One that ends meanwhile has no statistics any more.
            .and_then(Result::ok);
        let upper = self.paths.container(container.id()).join("upper");
        // Without a process nothing changes a layer.
        let activity = reading.as_ref().map_or(0, |r| r.cgroup.cpu.usage_nanos);
        ContainerSample {
            layer: self.layers.usage(id, &upper, activity),
            container: Arc::clone(container),
            reading,
        }
    }

    fn pod(&self, pod: &Arc<Pod>, detail: Detail) -> PodSample {
        let running: Vec<_> = self
            .runtime
            .index()
            .containers_of(&pod.id)
            .into_iter()
            .filter(|c| c.state() == ContainerState::Running)
            .collect();
        let containers: Vec<_> = running.iter().map(|c| self.container(c, detail)).collect();
        let reading = (pod.state() == PodState::Ready)
            .then(|| {
                self.sampler.read(pod.id.as_str(), detail, || {
                    self.whole_pod(pod, &containers, detail)
                })
            })
            .and_then(Result::ok);
        PodSample {
            pod: Arc::clone(pod),
            reading,
            interfaces: None,
            containers: containers.into_iter().filter(|c| c.reading.is_some()).collect(),
        }
    }

    /// The pod's own cgroup, if it has one that nobody shares; else the sum of its containers.
    fn whole_pod(
        &self,
        pod: &Pod,
        containers: &[ContainerSample],
        detail: Detail,
    ) -> Result<(CgroupStats, Processes)> {
        let readings = || containers.iter().filter_map(|c| c.reading.as_deref());
        let processes = match detail {
            Detail::Usage => Processes::counted(containers.iter().map(|c| self.cgroup_of(&c.container))),
            Detail::Full => Processes::sum(readings().map(|r| &r.processes)),
        };
        let path = self.runtime.cgroup_parent(pod);
        let stats = if is_the_pods_own(&path, &pod.config.cgroup_parent, &pod.config.metadata.uid) {
            self.cgroups.open(&path).read(detail).ok()
        } else {
            None
        };
        Ok((
            stats.unwrap_or_else(|| sum(readings().map(|r| &r.cgroup))),
            processes,
        ))
    }

    fn cgroup_of(&self, container: &Container) -> Cgroup {
        self.cgroups.open(&container.facts.cgroup_path)
    }

    /// Forgets what was kept of pods and containers that are gone, once that is worth the look.
    fn forget_gone(&self) {
        let kept = self.sampler.len().max(self.layers.len());
        let index = self.runtime.index();
        if kept <= 64 || kept <= 2 * index.size() {
            return;
        }
        let containers = index.all_containers();
        let pods = index.all_pods();
        let ids = containers.iter().map(|c| c.id().as_str());
        let ids: HashSet<_> = ids.chain(pods.iter().map(|p| p.id.as_str())).collect();
        self.sampler.retain(|id| ids.contains(id));
        self.layers.retain(|id| ids.contains(id));
        self.interfaces.retain(|id| ids.contains(id));
    }
}

fn own_network(pod: &Pod) -> bool {
    pod.state() == PodState::Ready && pod.supervisor().is_some_and(|s| s.facts.netns.is_some())
}

/// kubelet names a pod's cgroup after its uid; other clients may put any number of pods into one.
fn is_the_pods_own(path: &str, asked: &str, uid: &str) -> bool {
    let last = path.rsplit('/').next().unwrap_or_default();
    asked.is_empty() || (!uid.is_empty() && (last.contains(uid) || last.contains(&uid.replace('-', "_"))))
}

/// What several cgroups use together, as far as it adds up.
fn sum<'a>(all: impl Iterator<Item = &'a CgroupStats>) -> CgroupStats {
    let mut out = CgroupStats::default();
    for one in all {
        out.cpu.usage_nanos += one.cpu.usage_nanos;
        out.memory.usage += one.memory.usage;
        out.memory.working_set += one.memory.working_set;
        out.memory.rss += one.memory.rss;
        out.memory.page_faults += one.memory.page_faults;
        out.memory.major_page_faults += one.memory.major_page_faults;
    }
    out
}

/// Runs `work` for each item, on as many threads as are worth it, and keeps the order.
fn spread<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = items.len().div_ceil(PER_THREAD).min(cpus).max(1);
    if threads == 1 {
        return items.iter().map(work).collect();
    }
    std::thread::scope(|scope| {
        let work = &work;
        let parts: Vec<_> = items
            .chunks(items.len().div_ceil(threads))
            .map(|part| scope.spawn(move || part.iter().map(work).collect::<Vec<_>>()))
            .collect();
        parts
            .into_iter()
            .flat_map(|p| p.join().unwrap_or_default())
            .collect()
    })
}

#[cfg(test)]
mod tests;
