//! What a container uses: CPU, memory, writable layer.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::types::error::{Error, Result};
use crate::types::time::now_nanos;
use crate::types::{ContainerId, ContainerState};

use super::container::Container;
use super::{Runtime, blocking};

/// What a container uses now.
#[derive(Debug, Clone)]
pub struct Usage {
    /// CPU time since the start, in nanoseconds.
    pub cpu_nanos: u64,
    /// CPU time per second since the last reading, in nanoseconds; `None` on the first.
    pub cpu_nano_cores: Option<u64>,
    /// Memory.
    pub memory: Memory,
    /// Directory of the writable layer.
    pub fs_mountpoint: PathBuf,
    /// Bytes of the writable layer.
    pub fs_bytes: u64,
    /// Inodes of the writable layer.
    pub fs_inodes: u64,
}

/// Memory in bytes, faults in counts.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// In use, including the page cache.
    pub usage: u64,
    /// In use, but for what the kernel could drop at once.
    pub working_set: u64,
    /// Anonymous memory.
    pub rss: u64,
    /// Limit, if there is one.
    pub limit: Option<u64>,
    /// Page faults.
    pub page_faults: u64,
    /// Page faults that read from disk.
    pub major_page_faults: u64,
}

/// The last CPU reading of each container, for rates.
#[derive(Default)]
pub struct CpuSamples(Mutex<HashMap<ContainerId, (i64, u64)>>);

impl CpuSamples {
    fn rate(&self, id: &ContainerId, nanos: u64) -> Option<u64> {
        let now = now_nanos();
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (then, before) = samples.insert(id.clone(), (now, nanos))?;
        let elapsed = u64::try_from(now - then).ok().filter(|e| *e > 0)?;
        let used = u128::from(nanos.saturating_sub(before)) * 1_000_000_000 / u128::from(elapsed);
        u64::try_from(used).ok()
    }

    /// Forgets a container.
    pub(super) fn forget(&self, id: &ContainerId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }
}

impl Runtime {
    /// What a container uses now; zero for one that has ended, but for its writable layer.
    ///
    /// # Errors
    /// The cgroup cannot be read.
    pub async fn container_usage(self: &Arc<Self>, container: &Arc<Container>) -> Result<Usage> {
        let running = container.state() == ContainerState::Running;
        let cgroup = running.then(|| self.parts.cgroups.open(&container.facts.cgroup_path));
        let upper = self.paths.container(container.id()).join("upper");
        let (stats, (fs_bytes, fs_inodes)) = blocking(move || {
            let stats = cgroup.map(|c| c.stats()).transpose()?;
            Ok((stats, tree_usage(&upper)))
        })
        .await
        .map_err(|e: Error| e.context(format!("statistics of container {}", container.id())))?;
        let stats = stats.unwrap_or_default();
        Ok(Usage {
            cpu_nanos: stats.cpu.usage_nanos,
            cpu_nano_cores: if running {
                self.cpu_samples.rate(container.id(), stats.cpu.usage_nanos)
            } else {
                None
            },
            memory: Memory {
                usage: stats.memory.usage,
                working_set: stats.memory.working_set,
                rss: stats.memory.rss,
                limit: stats.memory.limit,
                page_faults: stats.memory.page_faults,
                major_page_faults: stats.memory.major_page_faults,
            },
            fs_mountpoint: self.paths.containers(),
            fs_bytes,
            fs_inodes,
        })
    }
}

/// Bytes and inodes below a directory, itself included.
fn tree_usage(dir: &Path) -> (u64, u64) {
    let (mut bytes, mut inodes) = (0, 1);
    let Ok(entries) = std::fs::read_dir(dir) else {
        return (0, 0);
    };
    for entry in entries.flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        if meta.is_dir() {
            let (b, i) = tree_usage(&entry.path());
            bytes += b;
            inodes += i;
        } else {
            bytes += meta.blocks() * 512;
            inodes += 1;
        }
    }
    (bytes, inodes)
}
