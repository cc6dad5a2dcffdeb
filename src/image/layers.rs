//! Unpacked layers on disk: `layers/<name>/fs`, made in `staging/`, counted while used, deleted when nobody needs them.
//!
//! ```text
//! staging/<n>/fs ── unpack ──> rename ──> layers/<name>/fs ──> rename ──> staging/<n> ──> gone
//!                                         record written         record deleted
//! ```
//!
//! A directory in `layers/` without a record is garbage, and so is everything in `staging/` when the store is opened. A
//! layer is freed when the last [`Hold`] on it goes; one that no image ever had (its pull was broken off) stays for a
//! grace time, so that trying again is cheap. Deleting happens on a thread of its own.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::janitor::Janitor;
use super::layer::Usage;
use super::record::{self, LayerRecord};
use crate::state::{Db, Op, Table};
use crate::types::error::Context as _;
use crate::types::{Error, Result};

/// Written into a layer's directory when it is whole; holds a copy of its record.
const MARKER: &str = "layer.json";

/// All layers of a store.
pub(super) struct Layers {
    root: PathBuf,
    db: Db,
    boot_id: String,
    known: Mutex<HashMap<String, Entry>>,
    janitor: Janitor,
    /// Nothing is freed before all users had the chance to say what they use.
    collecting: AtomicBool,
    used: Counters,
    staged: AtomicU64,
    this: Weak<Layers>,
}

struct Entry {
    record: Arc<LayerRecord>,
    holds: usize,
    /// No image has had it yet.
    orphan: bool,
    idle_since: Instant,
}

/// Disk use, kept as running sums.
#[derive(Debug, Default)]
pub(super) struct Counters {
    bytes: AtomicU64,
    inodes: AtomicU64,
}

impl Counters {
    fn add(&self, usage: Usage) {
        self.bytes.fetch_add(usage.bytes, Ordering::Relaxed);
        self.inodes.fetch_add(usage.inodes, Ordering::Relaxed);
    }

    fn take(&self, usage: Usage) {
        let sub = |value: u64| move |now: u64| Some(now.saturating_sub(value));
        let _ = self
            .bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, sub(usage.bytes));
        let _ = self
            .inodes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, sub(usage.inodes));
    }
}

impl Layers {
    /// Opens the layers below `root`: forgets records whose layer is gone or may be damaged, deletes what has no record.
    /// Takes time by the number of layers, not of files.
    pub(super) fn open(root: &Path, db: &Db, boot_id: String) -> Result<Arc<Self>> {
        for dir in ["layers", "staging"] {
            make_dir(&root.join(dir), 0o700)?;
        }
        let janitor = Janitor::start()?;
        let layers = Arc::new_cyclic(|this| Self {
            root: root.to_owned(),
            db: db.clone(),
            boot_id,
            known: Mutex::default(),
            janitor,
            collecting: AtomicBool::new(false),
            used: Counters::default(),
            staged: AtomicU64::new(0),
            this: this.clone(),
        });
        layers.load()?;
        layers.sweep()?;
        Ok(layers)
    }

    fn load(&self) -> Result<()> {
        let mut known = self.known();
        let mut lost = Vec::new();
        for (name, value) in self.db.all(Table::Layers)? {
            let record: Option<LayerRecord> = record::read(Table::Layers, &name, &value);
            match record.filter(|r| self.is_whole(&name, r)) {
                Some(record) => {
                    self.used.add(usage(&record));
                    known.insert(name, Entry::new(record, true));
                }
                None => lost.push(Op::Delete(Table::Layers, name)),
            }
        }
        self.db.apply(&lost)
    }

    fn is_whole(&self, name: &str, record: &LayerRecord) -> bool {
        let since_boot = record.unsynced.as_ref().is_none_or(|boot| *boot == self.boot_id);
        let whole = since_boot && self.dir(name).join("fs").is_dir() && self.dir(name).join(MARKER).is_file();
        if !whole {
            tracing::warn!(
                layer = name,
                since_boot,
                "a layer was lost or may be damaged; it will be pulled again"
            );
        }
        whole
    }

    /// Deletes what no record speaks of, in the background.
    fn sweep(&self) -> Result<()> {
        let known = self.known();
        for (dir, keep) in [("staging", false), ("layers", true)] {
            let path = self.root.join(dir);
            let entries = std::fs::read_dir(&path).with_context(|| format!("list {}", path.display()))?;
            for entry in entries {
                let entry = entry.with_context(|| format!("list {}", path.display()))?;
                let name = entry.file_name();
                if keep && name.to_str().is_some_and(|n| known.contains_key(n)) {
                    continue;
                }
                self.discard(entry.path(), None);
            }
        }
        Ok(())
    }

    /// Keeps the layer `name`, if it is there, for as long as the [`Hold`] lives.
    pub(super) fn hold(&self, name: &str) -> Option<Hold> {
        let layers = self.this.upgrade()?;
        let mut known = self.known();
        let entry = known.get_mut(name)?;
        entry.holds += 1;
        let record = Arc::clone(&entry.record);
        drop(known);
        Some(Hold {
            layers,
            name: name.into(),
            record,
        })
    }

    /// An empty directory to unpack a layer into; deleted unless [`Layers::admit`] takes it over.
    pub(super) fn stage(&self) -> Result<Staged> {
        let layers = self
            .this
            .upgrade()
            .ok_or_else(|| Error::internal("the image store is closed"))?;
        loop {
            // Leftovers of a former process may still be on their way out: pass over their names.
            let n = self.staged.fetch_add(1, Ordering::Relaxed);
            let dir = self.root.join("staging").join(n.to_string());
            if !dir.exists() {
                make_dir(&dir, 0o700)?;
                make_dir(&dir.join("fs"), 0o755)?;
                return Ok(Staged {
                    layers,
                    dir: Some(dir),
                });
            }
        }
    }

    /// Makes a finished layer known under `name`. If another got there first, that one is used. Blocks shortly.
    pub(super) fn admit(&self, name: &str, mut staged: Staged, mut record: LayerRecord) -> Result<Hold> {
        record.unsynced = Some(self.boot_id.clone());
        if let Some(dir) = &staged.dir {
            let text = serde_json::to_vec(&record).context("encode a layer's record")?;
            std::fs::write(dir.join(MARKER), text)
                .with_context(|| format!("write into {}", dir.display()))?;
        }
        let mut known = self.known();
        if !known.contains_key(name)
            && let Some(dir) = staged.dir.take()
        {
            let to = self.dir(name);
            std::fs::rename(&dir, &to)
                .with_context(|| format!("move a finished layer to {}", to.display()))?;
            if let Err(error) = self.db.apply(&[record::put(Table::Layers, name, &record)?]) {
                self.discard(to, None);
                return Err(error);
            }
            self.used.add(usage(&record));
            known.insert(name.to_owned(), Entry::new(record, true));
        }
        drop(known);
        self.hold(name)
            .ok_or_else(|| Error::internal(format!("layer {name} vanished while it was stored")))
    }

    /// Waits until the layers are on disk: one `syncfs` for all that are not known to be. Returns the changes that record
    /// it, to be applied with the image that needs them. Blocks for as long as the disk takes.
    pub(super) fn sync(&self, holds: &[Hold]) -> Result<Vec<Op>> {
        let fresh: Vec<&Hold> = {
            let known = self.known();
            let is_fresh = |h: &&Hold| known.get(&*h.name).is_some_and(|e| e.record.unsynced.is_some());
            holds.iter().filter(is_fresh).collect()
        };
        if fresh.is_empty() {
            return Ok(Vec::new());
        }
        let root = std::fs::File::open(&self.root)
            .with_context(|| format!("open the image store {}", self.root.display()))?;
        rustix::fs::syncfs(&root)
            .with_context(|| format!("sync the file system of {}", self.root.display()))?;
        let on_disk = |hold: &Hold| LayerRecord {
            unsynced: None,
            ..hold.record().clone()
        };
        fresh
            .into_iter()
            .map(|h| record::put(Table::Layers, &h.name, &on_disk(h)))
            .collect()
    }

    /// The changes that [`Layers::sync`] returned were applied.
    pub(super) fn synced(&self, holds: &[Hold]) {
        let mut known = self.known();
        for hold in holds {
            if let Some(entry) = known.get_mut(&*hold.name) {
                Arc::make_mut(&mut entry.record).unsynced = None;
            }
        }
    }

    /// The layers belong to an image from now on: they go with it, without grace.
    pub(super) fn adopt(&self, holds: &[Hold]) {
        let mut known = self.known();
        for hold in holds {
            if let Some(entry) = known.get_mut(&*hold.name) {
                entry.orphan = false;
            }
        }
    }

    /// Frees layers that nobody holds; those no image ever had only after `grace`. From the first call on, layers are
    /// also freed as soon as their last hold goes.
    pub(super) fn collect(&self, grace: Duration) {
        self.collecting.store(true, Ordering::Release);
        let idle: Vec<String> = {
            let known = self.known();
            let due = |e: &Entry| e.holds == 0 && (!e.orphan || e.idle_since.elapsed() >= grace);
            known
                .iter()
                .filter(|(_, e)| due(e))
                .map(|(name, _)| name.clone())
                .collect()
        };
        for name in idle {
            self.free(&name);
        }
    }

    /// From now on a hold that goes frees nothing: the store is being closed, its images stay.
    pub(super) fn close(&self) {
        self.collecting.store(false, Ordering::Release);
    }

    /// As [`Layers::collect`], once that has been called.
    pub(super) fn collect_again(&self, grace: Duration) {
        if self.collecting.load(Ordering::Acquire) {
            self.collect(grace);
        }
    }

    /// Forgets a layer unless somebody holds it again, and has it deleted.
    fn free(&self, name: &str) {
        let mut known = self.known();
        if known.get(name).is_none_or(|e| e.holds > 0) {
            return;
        }
        let n = self.staged.fetch_add(1, Ordering::Relaxed);
        let grave = self.root.join("staging").join(format!("freed-{n}-{name}"));
        // One step, so that the same layer can be pulled anew while the old one is being deleted.
        if let Err(error) = std::fs::rename(self.dir(name), &grave) {
            tracing::warn!(layer = name, %error, "a layer could not be freed; it will be tried again later");
            return;
        }
        if let Err(error) = self.db.delete(Table::Layers, name) {
            // The record without a layer is dropped at the next start.
            tracing::warn!(layer = name, %error, "the record of a freed layer could not be deleted");
        }
        let freed = known.remove(name).map(|e| usage(&e.record));
        drop(known);
        self.discard(grave, freed);
    }

    fn discard(&self, path: PathBuf, freed: Option<Usage>) {
        let this = self.this.clone();
        self.janitor.delete(path, move || {
            if let (Some(layers), Some(freed)) = (this.upgrade(), freed) {
                layers.used.take(freed);
            }
        });
    }

    /// Bytes and inodes that the layers take up.
    pub(super) fn used(&self) -> Usage {
        Usage {
            bytes: self.used.bytes.load(Ordering::Relaxed),
            inodes: self.used.inodes.load(Ordering::Relaxed),
        }
    }

    /// Returns when everything discarded so far is deleted.
    pub(super) fn settle(&self) {
        self.janitor.settle();
    }

    fn dir(&self, name: &str) -> PathBuf {
        self.root.join("layers").join(name)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn new(record: LayerRecord, orphan: bool) -> Self {
        Self {
            record: Arc::new(record),
            holds: 0,
            orphan,
            idle_since: Instant::now(),
        }
    }
}

fn usage(record: &LayerRecord) -> Usage {
    Usage {
        bytes: record.size,
        inodes: record.inodes,
    }
}

pub(super) fn make_dir(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
    let fail = || format!("create the directory {}", path.display());
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .with_context(fail)?;
    // Whatever the umask is.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).with_context(fail)
}

/// Keeps one layer from being freed.
pub(super) struct Hold {
    layers: Arc<Layers>,
    name: Box<str>,
    record: Arc<LayerRecord>,
}

impl Hold {
    /// Name of its directory.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// As it was when held.
    pub(super) fn record(&self) -> &LayerRecord {
        &self.record
    }

    /// The unpacked files.
    pub(super) fn path(&self) -> PathBuf {
        self.layers.dir(&self.name).join("fs")
    }
}

impl Clone for Hold {
    fn clone(&self) -> Self {
        if let Some(entry) = self.layers.known().get_mut(&*self.name) {
            entry.holds += 1;
        }
        Self {
            layers: Arc::clone(&self.layers),
            name: self.name.clone(),
            record: Arc::clone(&self.record),
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut known = self.layers.known();
        let Some(entry) = known.get_mut(&*self.name) else {
            return;
        };
        entry.holds = entry.holds.saturating_sub(1);
        entry.idle_since = Instant::now();
        let free = entry.holds == 0 && !entry.orphan && self.layers.collecting.load(Ordering::Acquire);
        drop(known);
        if free {
            self.layers.free(&self.name);
        }
    }
}

/// A directory being filled.
pub(super) struct Staged {
    layers: Arc<Layers>,
    /// `None` once it has become a layer.
    dir: Option<PathBuf>,
}

impl Staged {
    /// Where the files go.
    pub(super) fn fs(&self) -> PathBuf {
        self.dir.as_ref().map(|d| d.join("fs")).unwrap_or_default()
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some(dir) = self.dir.take() {
            self.layers.discard(dir, None);
        }
    }
}
