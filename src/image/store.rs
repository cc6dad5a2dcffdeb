//! The image store: what there is, who uses it, and how it changes. Reads come from memory; changes go to the database
//! first and are seen afterwards.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};

use super::catalog::{Catalog, Stored};
use super::flight::Flights;
use super::layers::{Hold, Layers, make_dir};
use super::progress::{LayerMeter, Meter, Progress};
use super::pull;
use super::record::{self, ImageRecord};
use super::reference::ImageRef;
use super::registry::{Auth, Registries};
use super::verifier::Verifier;
use super::view::{FsUsage, Image, Pins, Rootfs};
use crate::state::{Db, Op, Table};
use crate::types::error::Context as _;
use crate::types::{Digest, Error, Result};

/// Settings of an image store.
#[derive(Debug, Clone)]
pub struct ImageConfig {
    /// Where layers are kept; the directory is the store's alone.
    pub root: PathBuf,
    /// Directories in containerd's `certs.d` layout, in order.
    pub hosts_dirs: Vec<PathBuf>,
    /// Layers fetched at once for one pull.
    pub max_concurrent_downloads: usize,
    /// Layers fetched at once for all pulls together.
    pub max_downloads_total: usize,
    /// How long a registry may be silent during a transfer before it is given up on.
    pub stall_timeout: Duration,
    /// First pause before a registry that failed is asked again; it doubles with each round.
    pub retry_backoff: Duration,
    /// How long layers of a pull that was broken off are kept for the next try.
    pub orphan_grace: Duration,
    /// Images kubelet must not garbage-collect: names in which `*` stands for any characters.
    pub pinned: Vec<String>,
    /// Directory of programs that all have to allow an image before it is fetched; empty for none.
    pub verifier_dir: PathBuf,
    /// How long each of them may take.
    pub verifier_limit: Duration,
}

impl ImageConfig {
    /// The defaults, for a store in `root`.
    pub fn new(root: PathBuf) -> Self {
        Self {
            root,
            hosts_dirs: vec!["/etc/containerd/certs.d".into(), "/etc/docker/certs.d".into()],
            max_concurrent_downloads: 3,
            max_downloads_total: 8,
            stall_timeout: Duration::from_secs(60),
            retry_backoff: Duration::from_millis(500),
            orphan_grace: Duration::from_secs(3600),
            pinned: Vec::new(),
            verifier_dir: PathBuf::new(),
            verifier_limit: Duration::from_secs(10),
        }
    }
}

/// The images of this node.
pub struct ImageStore {
    pub(super) config: ImageConfig,
    pub(super) registries: Registries,
    pub(super) layers: Arc<Layers>,
    pub(super) pulls: Flights<PullKey, Arc<Image>, Arc<Meter>>,
    pub(super) fetches: Flights<String, pull::Fetched, Arc<LayerMeter>>,
    pub(super) downloads: Arc<Semaphore>,
    pub(super) verifier: Verifier,
    db: Db,
    pins: Pins,
    catalog: RwLock<Catalog>,
    /// Removed images stay, even if nobody is known to lease them.
    keeps_removed: AtomicBool,
    /// Orders changes, so that database and memory see them in the same order. Never held while waiting for the disk.
    changes: Mutex<()>,
}

/// Pulls with equal keys are one pull.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct PullKey {
    pub reference: ImageRef,
    pub auth: Option<Auth>,
}

impl ImageStore {
    /// Opens the store below `config.root`, with its records in `db`. Removes what a former process left half-made. Nothing
    /// else is freed before [`ImageStore::collect`] is called: take the leases of running containers before that.
    ///
    /// # Errors
    /// When directories cannot be made or the database cannot be read.
    pub fn open(config: ImageConfig, db: Db) -> Result<Arc<Self>> {
        make_dir(&config.root, 0o711)?;
        make_dir(&config.root.join("empty"), 0o755)?;
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .context("read the id of this boot from /proc/sys/kernel/random/boot_id")?;
        let layers = Layers::open(&config.root, &db, boot_id.trim().to_owned())?;
        let registries = Registries::new(
            config.hosts_dirs.clone(),
            config.stall_timeout,
            config.retry_backoff,
        );
        let store = Arc::new(Self {
            registries,
            layers,
            pulls: Flights::default(),
            fetches: Flights::default(),
            downloads: Arc::new(Semaphore::new(config.max_downloads_total.max(1))),
            verifier: Verifier {
                dir: config.verifier_dir.clone(),
                limit: config.verifier_limit,
            },
            db,
            pins: Pins::new(config.pinned.clone()),
            catalog: RwLock::default(),
            keeps_removed: AtomicBool::new(false),
            changes: Mutex::default(),
            config,
        });
        store.load()?;
        Ok(store)
    }

    fn load(&self) -> Result<()> {
        let mut catalog = self.write();
        let mut lost = Vec::new();
        for (key, value) in self.db.all(Table::Images)? {
            let stored = record::read(Table::Images, &key, &value).and_then(|r| self.assemble(r));
            match stored {
                Some(stored) if stored.record.removed => catalog.insert_hidden(stored),
                Some(stored) => catalog.insert(stored),
                None => {
                    tracing::warn!(
                        image = key,
                        "an image is not whole any more; it is forgotten and can be pulled again"
                    );
                    lost.push(Op::Delete(Table::Images, key));
                }
            }
        }
        drop(catalog);
        self.db.apply(&lost)
    }

    /// Puts a record together with its layers; `None` if any is missing.
    fn assemble(&self, record: ImageRecord) -> Option<Stored> {
        let image = Image::from_record(&record, &self.pins).ok()?;
        let holds: Option<Vec<Hold>> = record.layers.iter().map(|name| self.layers.hold(name)).collect();
        let holds = holds?;
        self.layers.adopt(&holds);
        Some(Stored {
            record: Arc::new(record),
            image: Arc::new(image),
            layers: holds.into(),
        })
    }

    /// All images, in no particular order.
    pub fn list(&self) -> Vec<Arc<Image>> {
        self.read().list()
    }

    /// Finds an image by id (with or without `sha256:`), by reference as a user would write it, or by a unique beginning
    /// of its id of at least four digits.
    pub fn resolve(&self, text: &str) -> Option<Arc<Image>> {
        self.read().find(text).map(|s| Arc::clone(&s.image))
    }

    /// Pulls an image. Callers that ask for the same image with the same credentials share one pull; dropping the future
    /// leaves it, and the last to leave stops it. A tag is always looked up anew. `progress` is kept up to date.
    ///
    /// # Errors
    /// `InvalidArgument` for a bad reference or credentials, `NotFound`, `PermissionDenied`, `Unknown` with the prefix
    /// `RegistryUnavailable:` or `SignatureValidationFailed:`, `ResourceExhausted` (rate limit, disk), `FailedPrecondition` for content that is not what
    /// was promised or cannot be run.
    pub async fn pull(
        self: &Arc<Self>,
        reference: &str,
        auth: Option<Auth>,
        progress: Option<watch::Sender<Progress>>,
    ) -> Result<Arc<Image>> {
        let reference = ImageRef::parse(reference)?;
        let key = PullKey {
            reference,
            auth: auth.filter(|a| *a != Auth::default()),
        };
        let meter = Arc::new(Meter::default());
        let (store, work, watched) = (Arc::clone(self), key.clone(), Arc::clone(&meter));
        let ticket = self.pulls.join(key, meter, || pull::run(store, work, watched));
        let meter = Arc::clone(ticket.meter());
        match progress {
            None => ticket.outcome().await,
            Some(sender) => meter.report(&sender, ticket.outcome()).await,
        }
    }

    /// Removes an image by any of its names or its id: all its tags and digests go, and lists do not show it from now on.
    /// Its files go when no container uses them. Returns what was removed; an image that is not there is fine.
    ///
    /// # Errors
    /// When the database cannot be written; nothing has changed then.
    pub fn remove(&self, text: &str) -> Result<Option<Arc<Image>>> {
        let _order = self.order();
        let Some(stored) = self.read().find(text).cloned() else {
            return Ok(None);
        };
        self.drop_image(&stored)?;
        Ok(Some(stored.image))
    }

    /// Takes one tag from its image, as `docker rmi name:tag` does; the image goes with its last tag. Returns the image as
    /// it was before.
    ///
    /// # Errors
    /// `InvalidArgument` for a bad reference, `NotFound` when no image has this tag.
    pub fn untag(&self, reference: &str) -> Result<Arc<Image>> {
        let reference = ImageRef::parse(reference)?;
        let _order = self.order();
        let stored = self.read().named(&reference).cloned();
        let stored = stored.ok_or_else(|| Error::not_found(format!("image {reference} is not here")))?;
        let tag = reference.repo_tag();
        let mut record = (*stored.record).clone();
        if tag.as_ref().and_then(|tag| record.tags.remove(tag)).is_none() || record.tags.is_empty() {
            self.drop_image(&stored)?;
        } else {
            self.replace(vec![record], Vec::new())?;
        }
        Ok(stored.image)
    }

    /// Disk use, from running counters.
    pub fn fs_usage(&self) -> FsUsage {
        let used = self.layers.used();
        FsUsage {
            mountpoint: self.config.root.clone(),
            used_bytes: used.bytes,
            inodes_used: used.inodes,
        }
    }

    /// Keeps the layers of image `id` for `holder` until [`ImageStore::release`]. Works for an image that was removed as
    /// long as others still hold it, so that containers survive a restart of the daemon. Leases are not stored: take those
    /// of all containers again after [`ImageStore::open`] and before [`ImageStore::collect`].
    ///
    /// # Errors
    /// `NotFound` when there is no such image.
    pub fn lease(&self, id: &Digest, holder: &str) -> Result<Rootfs> {
        let mut catalog = self.write();
        if catalog.by_id(id).is_none() {
            return Err(Error::not_found(format!("image {id} is not here; pull it first")));
        }
        let stored = catalog.lease(id, holder).cloned();
        drop(catalog);
        let stored =
            stored.ok_or_else(|| Error::internal(format!("image {id} vanished while it was leased")))?;
        Ok(self.rootfs(&stored))
    }

    /// As [`ImageStore::lease`], for an image that is mounted without a writable layer: at least two directories, which
    /// overlayfs wants then, or the one empty directory of an image without layers.
    ///
    /// # Errors
    /// As [`ImageStore::lease`].
    pub fn lease_volume(&self, id: &Digest, holder: &str) -> Result<Rootfs> {
        let mut rootfs = self.lease(id, holder)?;
        let empty = self.config.root.join("empty");
        if rootfs.layers.len() == 1 && rootfs.layers[0] != empty {
            rootfs.layers.push(empty);
        }
        Ok(rootfs)
    }

    /// Ends all leases of `holder`. One that has none is fine.
    pub fn release(&self, holder: &str) {
        let _order = self.order();
        self.write().release(holder);
        self.purge();
    }

    /// Frees what nobody uses: images removed earlier whose users are gone, and layers of pulls that were broken off longer
    /// than the grace time ago. Call it once all leases are taken after a start, and from time to time.
    pub fn collect(&self) {
        let _order = self.order();
        self.purge();
        self.layers.collect(self.config.orphan_grace);
    }

    /// Frees no removed image any more in the life of this store: somebody uses images, and it is not known which.
    pub fn keep_removed(&self) {
        let _order = self.order();
        self.keeps_removed.store(true, Ordering::Relaxed);
    }

    /// Returns when the files of everything removed so far are deleted. Blocks.
    pub fn settle(&self) {
        self.layers.settle();
    }

    fn rootfs(&self, stored: &Stored) -> Rootfs {
        let mut layers: Vec<PathBuf> = Vec::with_capacity(stored.layers.len());
        for hold in stored.layers.iter().rev() {
            let path = hold.path();
            // overlayfs refuses the same directory twice. All that a lower one would show, the upper one shows as well.
            if !layers.contains(&path) {
                layers.push(path);
            }
            if hold.record().opaque_root {
                break;
            }
        }
        if layers.is_empty() {
            layers.push(self.config.root.join("empty"));
        }
        Rootfs {
            image: Arc::clone(&stored.image),
            layers,
        }
    }

    /// Gives an image the names it was pulled under, and takes the tag from whichever image had it.
    pub(super) fn commit(&self, draft: Draft<'_>) -> Result<Arc<Image>> {
        let _order = self.order();
        let (tag, digest) = (
            draft.reference.repo_tag(),
            draft.reference.repo_digest(draft.target),
        );
        let mut record = draft.record.clone();
        record.removed = false;
        // Names come from what is listed now, whatever the draft was made from.
        let listed = self
            .read()
            .by_id(&record.id)
            .map(|s| Arc::clone(&s.record))
            .filter(|r| !r.removed);
        (record.tags, record.digests) = listed
            .map(|r| (r.tags.clone(), r.digests.clone()))
            .unwrap_or_default();
        record.digests.insert(digest);
        let mut changed = Vec::new();
        if let Some(tag) = tag {
            if let Some(former) = self.read().owner(&tag).filter(|s| s.record.id != record.id) {
                let mut former = (*former.record).clone();
                former.tags.remove(&tag);
                changed.push(former);
            }
            record.tags.insert(tag, draft.target.clone());
        }
        let id = record.id.clone();
        changed.push(record);
        self.replace(changed, draft.ops)?;
        self.layers.synced(draft.layers);
        let image = self.read().by_id(&id).map(|s| Arc::clone(&s.image));
        image.ok_or_else(|| Error::internal(format!("image {id} vanished while it was stored")))
    }

    /// Waits until all that was committed is on disk. Blocks.
    pub(super) fn sync(&self) -> Result<()> {
        self.db.sync()
    }

    /// Stores new states of images, in one transaction with `ops`, and lists them.
    fn replace(&self, records: Vec<ImageRecord>, mut ops: Vec<Op>) -> Result<()> {
        let mut ready = Vec::with_capacity(records.len());
        for record in records {
            ops.push(record::put(Table::Images, record.id.as_str(), &record)?);
            let id = record.id.clone();
            let stored = self.assemble(record);
            ready.push(stored.ok_or_else(|| Error::internal(format!("a layer of image {id} is gone")))?);
        }
        self.db.apply(&ops)?;
        let mut catalog = self.write();
        let mut former = Vec::new();
        for stored in ready {
            former.extend(catalog.by_id(&stored.record.id).cloned());
            catalog.insert(stored);
        }
        // Dropped after the lock: the last hold on a layer frees it.
        drop(catalog);
        drop(former);
        Ok(())
    }

    fn drop_image(&self, stored: &Stored) -> Result<()> {
        let id = &stored.record.id;
        let hide = self.read().is_leased(id) || self.keeps_removed.load(Ordering::Relaxed);
        if hide {
            let record = ImageRecord {
                removed: true,
                ..(*stored.record).clone()
            };
            self.db
                .apply(&[record::put(Table::Images, id.as_str(), &record)?])?;
        } else {
            self.db.delete(Table::Images, id.as_str())?;
        }
        let mut catalog = self.write();
        let removed = catalog.remove(id, hide);
        drop(catalog);
        drop(removed);
        Ok(())
    }

    fn purge(&self) {
        if self.keeps_removed.load(Ordering::Relaxed) {
            return;
        }
        let unused = self.write().take_unused();
        for stored in unused {
            let id = stored.record.id.as_str();
            if let Err(error) = self.db.delete(Table::Images, id) {
                tracing::warn!(image = id, %error, "the record of a removed image stays until the next start");
            }
        }
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, Catalog> {
        self.catalog.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Catalog> {
        self.catalog.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn order(&self) -> MutexGuard<'_, ()> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ImageStore {
    fn drop(&mut self) {
        // Before the catalog goes, and with it the holds on all layers.
        self.layers.close();
    }
}

/// An image that is ready to be listed.
pub(super) struct Draft<'a> {
    pub record: &'a ImageRecord,
    pub layers: &'a [Hold],
    /// What was asked for.
    pub reference: &'a ImageRef,
    /// The digest of what the reference stood for: a manifest or an index.
    pub target: &'a Digest,
    /// Changes that belong to it.
    pub ops: Vec<Op>,
}
