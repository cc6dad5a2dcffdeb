//! Keeps the current CNI configuration: reads it, notices changes, and asks its plugins whether they are ready.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustix::fs::inotify;
use tokio::net::unix::pipe::Receiver;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::chain::Chain;
use super::conf::{self, NetworkList};

/// Installers write a configuration in several steps.
const SETTLE: Duration = Duration::from_millis(50);
/// Plugins come and go without a change of the configuration, so both are looked at now and then.
const INTERVAL: Duration = Duration::from_secs(10);
/// While the directory is missing there is nothing to be told by.
const INTERVAL_BLIND: Duration = Duration::from_secs(2);
/// A readiness question is a quick one.
const STATUS_LIMIT: Duration = Duration::from_secs(5);

/// A configuration as it was found.
#[derive(Debug, Clone, Default)]
pub struct Loaded {
    /// The network; `None` if there is no configuration or a broken one.
    pub list: Option<Arc<NetworkList>>,
    /// Why it cannot be used: unreadable, or a binary is missing.
    pub problem: Option<String>,
    /// What a plugin answered when asked whether it is ready.
    pub not_ready: Option<String>,
    fingerprint: u64,
}

/// The current configuration and the task that keeps it current.
pub struct Watch {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    dir: PathBuf,
    bin_dirs: Vec<PathBuf>,
    loaded: RwLock<Arc<Loaded>>,
    /// Fingerprint of the last configuration whose plugins all know its version.
    versions_fit: AtomicU64,
}

impl Watch {
    /// Reads the configuration under `dir` and starts watching it.
    pub async fn start(dir: PathBuf, bin_dirs: Vec<PathBuf>) -> Self {
        let loaded = RwLock::default();
        let shared = Arc::new(Shared {
            dir,
            bin_dirs,
            loaded,
            versions_fit: AtomicU64::new(0),
        });
        blocking_reload(&shared).await;
        shared.probe().await;
        let task = tokio::spawn(watch(Arc::clone(&shared)));
        Self { shared, task }
    }

    /// The configuration as last seen. No I/O.
    pub fn current(&self) -> Arc<Loaded> {
        self.shared.current()
    }

    /// The configuration as it is now: reads it again if a file has changed. Blocks for some ten microseconds.
    pub fn refreshed(&self) -> Arc<Loaded> {
        if self.current().fingerprint != fingerprint(&self.shared.dir) {
            self.shared.reload();
        }
        self.current()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn current(&self) -> Arc<Loaded> {
        Arc::clone(&self.loaded.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the configuration and says in the log if its state is another than before.
    fn reload(&self) {
        let before = self.current();
        let fingerprint = fingerprint(&self.dir);
        let (list, problem) = match conf::load(&self.dir) {
            Ok(None) => (None, None),
            Ok(Some(list)) => {
                let problem = list.check_binaries(&self.bin_dirs).err();
                (Some(Arc::new(list)), problem)
            }
            Err(problem) => (None, Some(problem)),
        };
        let name = |list: &Option<Arc<NetworkList>>| list.as_ref().map(|l| (l.name.clone(), l.file.clone()));
        if problem != before.problem || name(&list) != name(&before.list) {
            match (&problem, &list) {
                (Some(problem), _) => tracing::warn!(%problem, "CNI configuration cannot be used"),
                (None, Some(list)) => {
                    tracing::info!(network = list.name, file = %list.file.display(), "CNI configuration loaded");
                }
                (None, None) => tracing::info!(dir = %self.dir.display(), "no CNI configuration"),
            }
        }
        self.store(Loaded {
            list,
            problem,
            not_ready: before.not_ready.clone(),
            fingerprint,
        });
    }

    fn store(&self, loaded: Loaded) {
        *self.loaded.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(loaded);
    }

    /// Asks the plugins whether they could do their work.
    async fn probe(&self) {
        let before = self.current();
        let not_ready = match &before.list {
            Some(list) if before.problem.is_none() => self.ask(list, before.fingerprint).await,
            _ => None,
        };
        let now = self.current();
        if now.fingerprint == before.fingerprint && now.not_ready != not_ready {
            if let Some(reason) = &not_ready {
                tracing::warn!(%reason, "CNI plugin is not ready");
            }
            self.store(Loaded {
                not_ready,
                ..Loaded::clone(&now)
            });
        }
    }

    /// Versions are asked for once per configuration, and again as long as the answer is not the wanted one.
    async fn ask(&self, list: &NetworkList, fingerprint: u64) -> Option<String> {
        let chain = Chain {
            list,
            bin_dirs: &self.bin_dirs,
        };
        if self.versions_fit.load(Ordering::Relaxed) != fingerprint {
            if let Err(error) = chain.check_versions(STATUS_LIMIT).await {
                return Some(error.to_string());
            }
            self.versions_fit.store(fingerprint, Ordering::Relaxed);
        }
        chain.status(STATUS_LIMIT).await.err().map(|e| e.to_string())
    }
}

/// The task: looks again whenever the directory changes, and at intervals.
async fn watch(shared: Arc<Shared>) {
    let mut eyes = None;
    loop {
        if eyes.is_none() {
            eyes = open_eyes(&shared.dir);
        }
        blocking_reload(&shared).await;
        shared.probe().await;
        let interval = if eyes.is_some() { INTERVAL } else { INTERVAL_BLIND };
        tokio::select! {
            () = changed(eyes.as_ref()) => {
                sleep(SETTLE).await;
                // The directory itself may have been replaced: watch anew what now has its name.
                eyes = None;
            }
            () = sleep(interval) => {}
        }
    }
}

async fn blocking_reload(shared: &Arc<Shared>) {
    let shared = Arc::clone(shared);
    let _ = tokio::task::spawn_blocking(move || shared.reload()).await;
}

/// Watches the directory, if it is there.
fn open_eyes(dir: &Path) -> Option<Receiver> {
    use inotify::{CreateFlags, WatchFlags};
    let events = WatchFlags::CLOSE_WRITE
        | WatchFlags::MOVE
        | WatchFlags::CREATE
        | WatchFlags::DELETE
        | WatchFlags::DELETE_SELF
        | WatchFlags::MOVE_SELF;
    let eyes = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok()?;
    inotify::add_watch(&eyes, dir, events | WatchFlags::ONLYDIR).ok()?;
    // Not a pipe, but to the runtime a descriptor that becomes readable is a descriptor that becomes readable.
    Receiver::from_owned_fd_unchecked(eyes).ok()
}

/// Ends at the first change. The events themselves do not matter.
async fn changed(eyes: Option<&Receiver>) {
    match eyes {
        Some(eyes) => drop(eyes.readable().await),
        None => std::future::pending().await,
    }
}

/// A number that differs when a file of the directory, or of a directory in it, differs in name, time or size.
fn fingerprint(dir: &Path) -> u64 {
    let mut seen = Vec::new();
    note_files(dir, true, &mut seen);
    seen.sort_unstable();
    let mut hasher = DefaultHasher::new();
    seen.hash(&mut hasher);
    hasher.finish()
}

type Trait = (PathBuf, i64, i64, u64, u64);

fn note_files(dir: &Path, descend: bool, seen: &mut Vec<Trait>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(found) = fs::metadata(&path) else {
            continue;
        };
        if found.is_dir() && descend {
            note_files(&path, false, seen);
        }
        seen.push((path, found.mtime(), found.mtime_nsec(), found.ino(), found.size()));
    }
}
