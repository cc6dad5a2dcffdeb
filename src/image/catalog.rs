//! Which images there are and by which names: pure bookkeeping, no disk.
//!
//! An image is *listed* from its pull to its removal. One that is removed while containers use it is *hidden*: nobody
//! finds it any more except those who held a lease, until the last lease goes.

use std::collections::HashMap;
use std::sync::Arc;

use super::layers::Hold;
use super::record::ImageRecord;
use super::reference::ImageRef;
use super::view::Image;
use crate::types::Digest;

/// Fewest digits of an id that may stand for the whole.
const MIN_PREFIX: usize = 4;

/// One image with what keeps its layers.
#[derive(Clone)]
pub(super) struct Stored {
    pub record: Arc<ImageRecord>,
    pub image: Arc<Image>,
    /// Bottom first.
    pub layers: Arc<[Hold]>,
}

impl Stored {
    /// Whether it has the names that a pull of `reference`, which stands for `target`, gives it.
    pub(super) fn leads_to(&self, reference: &ImageRef, target: &Digest) -> bool {
        self.record.digests.contains(&reference.repo_digest(target))
            && reference
                .repo_tag()
                .is_none_or(|tag| self.record.tags.get(&tag) == Some(target))
    }
}

/// All images, names and leases.
#[derive(Default)]
pub(super) struct Catalog {
    listed: HashMap<Digest, Stored>,
    hidden: HashMap<Digest, Stored>,
    /// `name:tag` and `name@digest` to image id; listed ones only.
    names: HashMap<String, Digest>,
    /// What each holder leases.
    leases: HashMap<String, Vec<Digest>>,
}

impl Catalog {
    pub(super) fn list(&self) -> Vec<Arc<Image>> {
        self.listed.values().map(|s| Arc::clone(&s.image)).collect()
    }

    /// Finds a listed image by id, reference, or unique beginning of an id.
    pub(super) fn find(&self, text: &str) -> Option<&Stored> {
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        let by_id = || {
            let id = text
                .parse()
                .or_else(|_| format!("sha256:{text}").parse::<Digest>())
                .ok()?;
            self.listed.get(&id)
        };
        let by_name = || {
            let reference = ImageRef::parse(text).ok()?;
            self.named(&reference)
        };
        let by_prefix = || {
            if hex.len() < MIN_PREFIX || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
                return None;
            }
            let mut fitting = self
                .listed
                .values()
                .filter(|s| s.record.id.hex().starts_with(hex));
            let first = fitting.next()?;
            fitting.next().is_none().then_some(first)
        };
        by_id().or_else(by_name).or_else(by_prefix)
    }

    /// The listed image that a reference stands for.
    pub(super) fn named(&self, reference: &ImageRef) -> Option<&Stored> {
        let name = match reference.digest() {
            Some(digest) => reference.repo_digest(digest),
            None => reference.repo_tag()?,
        };
        self.listed.get(self.names.get(&name)?)
    }

    /// A listed or hidden image by its full id.
    pub(super) fn by_id(&self, id: &Digest) -> Option<&Stored> {
        self.listed.get(id).or_else(|| self.hidden.get(id))
    }

    /// An image that a manifest or index of this digest led to before.
    pub(super) fn by_target(&self, target: &Digest) -> Option<&Stored> {
        let suffix = format!("@{target}");
        let leads_to = |s: &&Stored| {
            s.record.manifest == *target || s.record.digests.iter().any(|d| d.ends_with(&suffix))
        };
        self.listed.values().chain(self.hidden.values()).find(leads_to)
    }

    /// The listed image that has `name` now.
    pub(super) fn owner(&self, name: &str) -> Option<&Stored> {
        self.listed.get(self.names.get(name)?)
    }

    /// Lists an image, in place of an earlier state of it. Names it has are no other image's any more: those must have
    /// been replaced before.
    pub(super) fn insert(&mut self, stored: Stored) {
        let id = stored.record.id.clone();
        self.hidden.remove(&id);
        self.names.retain(|_, owner| *owner != id);
        for name in stored.record.tags.keys().chain(&stored.record.digests) {
            self.names.insert(name.clone(), id.clone());
        }
        self.listed.insert(id, stored);
    }

    /// Takes an image off the list. With `hide` it stays for its leases.
    pub(super) fn remove(&mut self, id: &Digest, hide: bool) -> Option<Stored> {
        let stored = self.listed.remove(id)?;
        self.names.retain(|_, owner| owner != id);
        if hide {
            self.hidden.insert(id.clone(), stored.clone());
        }
        Some(stored)
    }

    /// Adds an image that was removed in an earlier life of the daemon.
    pub(super) fn insert_hidden(&mut self, stored: Stored) {
        self.hidden.insert(stored.record.id.clone(), stored);
    }

    pub(super) fn lease(&mut self, id: &Digest, holder: &str) -> Option<&Stored> {
        let held = self.leases.entry(holder.to_owned()).or_default();
        if !held.contains(id) {
            held.push(id.clone());
        }
        self.by_id(id)
    }

    pub(super) fn is_leased(&self, id: &Digest) -> bool {
        self.leases.values().flatten().any(|held| held == id)
    }

    /// Ends all leases of `holder`.
    pub(super) fn release(&mut self, holder: &str) {
        self.leases.remove(holder);
    }

    /// Hidden images without a lease, taken out.
    pub(super) fn take_unused(&mut self) -> Vec<Stored> {
        let unused: Vec<Digest> = self
            .hidden
            .keys()
            .filter(|id| !self.is_leased(id))
            .cloned()
            .collect();
        unused.iter().filter_map(|id| self.hidden.remove(id)).collect()
    }
}
