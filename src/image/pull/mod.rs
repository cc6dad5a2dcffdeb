//! A pull, from a reference to a listed image.
//!
//! ```text
//! what does the reference stand for now? may it be used? ── known image ──────────────┐
//!   └─ manifest (through an index) ─> configuration ─> missing layers, all at once     │
//!        each: registry ─> pipe ─> unpacker on a thread ─> layers/                     │
//!          one syncfs ─> image record ─> listed <──────────────────────────────────────┘
//! ```
//!
//! Nothing is listed before all of it is on disk and checked. What was finished before a pull broke off stays for the next.

mod fetch;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use super::catalog::Stored;
use super::config;
use super::layers::Hold;
use super::manifest::{self, Descriptor, Document, Manifest};
use super::platform;
use super::progress::{LayerMeter, LayerState, Meter};
use super::record::ImageRecord;
use super::reference::ImageRef;
use super::registry::{Content, Session};
use super::store::{Draft, ImageStore, PullKey};
use super::view::Image;
use crate::types::{Digest, Error, Kind, Result};
use fetch::Fetch;
pub(super) use fetch::Fetched;

/// How many indexes may lead to one another.
const MAX_NESTING: usize = 3;
/// How often the fetch of a layer that another pull began is begun anew when that other one failed.
const MAX_REJOINS: usize = 2;

/// One layer of the image.
#[derive(Clone)]
struct Wanted {
    index: usize,
    descriptor: Descriptor,
    diff_id: Digest,
    chain_id: Digest,
}

/// A pull in progress.
struct Pull {
    store: Arc<ImageStore>,
    session: Arc<Session>,
    reference: ImageRef,
    meter: Arc<Meter>,
}

/// Pulls an image and lists it.
pub(super) async fn run(store: Arc<ImageStore>, key: PullKey, meter: Arc<Meter>) -> Result<Arc<Image>> {
    let session = Arc::new(store.registries.session(&key.reference, key.auth.as_ref())?);
    let pull = Pull {
        store,
        session,
        reference: key.reference,
        meter,
    };
    let verifiers = pull.store.verifier.programs().await?;
    // Verifiers are asked at every pull, and want to know more than a HEAD tells.
    if verifiers.is_empty()
        && let Some(image) = pull.unchanged().await
    {
        return Ok(image);
    }
    let fetched = pull.session.manifest(pull.reference.target()).await?;
    pull.store
        .verifier
        .verify(&verifiers, &pull.reference, &fetched)
        .await?;
    let target = fetched.digest.clone();
    if let Some(known) = pull.known(&target) {
        return pull
            .commit((*known.record).clone(), known.layers.to_vec(), target)
            .await;
    }
    let (manifest_digest, manifest) = pull.follow(fetched).await?;
    let (config, wanted) = pull.configuration(&manifest).await?;
    let layers = pull.layers(wanted).await.map_err(|e| pull.named(e))?;
    let record = ImageRecord {
        id: manifest.config.digest,
        manifest: manifest_digest,
        size: config.len() as u64 + layers.iter().map(|l| l.record().size).sum::<u64>(),
        config,
        layers: layers.iter().map(|l| l.name().to_owned()).collect(),
        tags: BTreeMap::new(),
        digests: BTreeSet::new(),
        pulled_at: crate::types::time::now_nanos(),
        removed: false,
    };
    pull.commit(record, layers, target).await
}

impl Pull {
    /// The image, if there is one under this name and the registry says that the name still stands for it. The registry is
    /// asked in any case: the tag may have moved, and whether these credentials may have the image is not husk's to say.
    async fn unchanged(&self) -> Option<Arc<Image>> {
        self.store.read().named(&self.reference)?;
        let target = self.session.head(self.reference.target()).await?;
        let catalog = self.store.read();
        let known = catalog.named(&self.reference)?;
        known
            .leads_to(&self.reference, &target)
            .then(|| Arc::clone(&known.image))
    }

    /// An image that `target` led to before, perhaps under another name.
    fn known(&self, target: &Digest) -> Option<Stored> {
        self.store.read().by_target(target).cloned()
    }

    /// Follows indexes to the manifest for this machine. Returns it with its digest.
    async fn follow(&self, mut fetched: Content) -> Result<(Digest, Manifest)> {
        for _ in 0..MAX_NESTING {
            let document = manifest::parse(&fetched.bytes, fetched.media_type.as_deref());
            match document.map_err(|e| self.unusable(&e))? {
                Document::Image(manifest) => return Ok((fetched.digest, manifest)),
                Document::Index(entry) => fetched = self.session.manifest(entry.digest.as_str()).await?,
            }
        }
        Err(self.unusable("its index leads to an index that leads to an index"))
    }

    /// Fetches the configuration and pairs its layers with those of the manifest.
    async fn configuration(&self, manifest: &Manifest) -> Result<(String, Vec<Wanted>)> {
        let known = self
            .store
            .read()
            .by_id(&manifest.config.digest)
            .map(|s| s.record.config.clone());
        let text = match known {
            Some(text) => text,
            None => {
                let bytes = self.session.blob(&manifest.config, "image configuration").await?;
                String::from_utf8(bytes.into())
                    .map_err(|_| self.unusable("the image configuration is not UTF-8"))?
            }
        };
        let parsed = config::parse(text.as_bytes()).map_err(|e| self.unusable(&e))?;
        if parsed.diff_ids.len() != manifest.layers.len() {
            return Err(self.unusable(&format!(
                "the manifest has {} layers, the configuration {}",
                manifest.layers.len(),
                parsed.diff_ids.len()
            )));
        }
        let host = platform::host();
        if parsed.os != host.os || parsed.architecture != host.architecture {
            tracing::warn!(image = %self.reference, os = parsed.os, architecture = parsed.architecture, "pulling an image for another platform");
        }
        let chain = config::chain_ids(&parsed.diff_ids);
        let layers = manifest
            .layers
            .iter()
            .cloned()
            .zip(parsed.diff_ids)
            .zip(chain)
            .enumerate();
        let wanted = layers.map(|(index, ((descriptor, diff_id), chain_id))| Wanted {
            index,
            descriptor,
            diff_id,
            chain_id,
        });
        Ok((text, wanted.collect()))
    }

    /// Brings all layers here. Returns them bottom first.
    async fn layers(&self, wanted: Vec<Wanted>) -> Result<Vec<Hold>> {
        let meters: Vec<_> = wanted
            .iter()
            .map(|w| LayerMeter::new(w.descriptor.digest.clone(), w.descriptor.size))
            .collect();
        self.meter.set(meters.clone());
        let mut found: Vec<Option<Fetched>> = vec![None; wanted.len()];
        let mut missing = Vec::new();
        for layer in &wanted {
            match fetch::find(&self.store, layer) {
                Some(hold) => {
                    meters[layer.index].set(LayerState::Done);
                    found[layer.index] = Some(Fetched::Here(hold));
                }
                None => missing.push(layer.clone()),
            }
        }
        self.check_space(&missing)?;
        // The largest first: it decides how long the pull takes.
        missing.sort_by_key(|layer| std::cmp::Reverse(layer.descriptor.size));
        let at_once = self.store.config.max_concurrent_downloads.max(1);
        let meters = &meters;
        let mut fetches = stream::iter(missing)
            .map(|layer| async move {
                let fetched = self.fetch(&layer, &meters[layer.index], None).await?;
                Ok::<_, Error>((layer.index, fetched))
            })
            .buffer_unordered(at_once);
        while let Some((index, fetched)) = fetches.try_next().await? {
            found[index] = Some(fetched);
        }
        drop(fetches);
        let mut layers: Vec<Hold> = Vec::with_capacity(wanted.len());
        for (layer, fetched) in wanted.iter().zip(found) {
            let lowers = layers.iter().rev().map(Hold::path).collect();
            let fetched = fetched.ok_or_else(|| Error::internal("a layer was not fetched"))?;
            layers.push(self.settle(layer, &meters[layer.index], fetched, lowers).await?);
        }
        Ok(layers)
    }

    /// Turns what fetching a layer led to into a layer of the store, now that the layers below it are there.
    async fn settle(
        &self,
        layer: &Wanted,
        meter: &Arc<LayerMeter>,
        fetched: Fetched,
        lowers: Vec<PathBuf>,
    ) -> Result<Hold> {
        let settled = match fetched {
            Fetched::Here(hold) => Some(hold),
            Fetched::Loose(loose) => loose.settle(&self.store, layer, lowers.clone()).await?,
            Fetched::NeedsLowers => None,
        };
        if let Some(hold) = settled {
            return Ok(hold);
        }
        match self.fetch(layer, meter, Some(lowers)).await? {
            Fetched::Here(hold) => Ok(hold),
            _ => Err(Error::internal(
                "a layer was unpacked on top of others and still does not fit there",
            )),
        }
    }

    /// Fetches one layer, together with whoever else wants it. With `lowers` it is made to fit on top of exactly those.
    async fn fetch(
        &self,
        layer: &Wanted,
        meter: &Arc<LayerMeter>,
        lowers: Option<Vec<PathBuf>>,
    ) -> Result<Fetched> {
        let key = match &lowers {
            Some(_) => format!("on top: {}", layer.chain_id),
            None => layer.diff_id.to_string(),
        };
        for attempt in 0.. {
            let ticket = self.store.fetches.join(key.clone(), Arc::clone(meter), || {
                let fetch = Fetch {
                    store: Arc::clone(&self.store),
                    session: Arc::clone(&self.session),
                    layer: layer.clone(),
                    meter: Arc::clone(meter),
                    lowers: lowers.clone(),
                };
                fetch.run()
            });
            self.meter.replace(layer.index, Arc::clone(ticket.meter()));
            match ticket.outcome().await {
                // The other pull's credentials or mirrors may be worse than ours.
                Err(error) if !ticket.started && attempt < MAX_REJOINS => {
                    tracing::debug!(%error, layer = %layer.descriptor.digest, "a shared fetch failed; starting another");
                }
                outcome => return outcome,
            }
        }
        Err(Error::internal("no fetch was tried"))
    }

    /// Refuses early what cannot fit: unpacked, layers are larger than compressed.
    fn check_space(&self, missing: &[Wanted]) -> Result<()> {
        let needed: u64 = missing
            .iter()
            .map(|l| l.descriptor.size)
            .fold(0, u64::saturating_add);
        let root = &self.store.config.root;
        let Ok(fs) = rustix::fs::statvfs(root) else {
            return Ok(());
        };
        let free = fs.f_bavail.saturating_mul(fs.f_frsize);
        if needed > free {
            return Err(Error::new(
                Kind::ResourceExhausted,
                format!(
                    "pull of {}: the disk is too full: its {} missing layers need more than {needed} bytes, and {} has \
                     {free} free; remove images with husk rmi, or make room there",
                    self.reference,
                    missing.len(),
                    root.display()
                ),
            ));
        }
        Ok(())
    }

    /// Makes sure that all is on disk, then lists the image.
    async fn commit(&self, record: ImageRecord, layers: Vec<Hold>, target: Digest) -> Result<Arc<Image>> {
        let (store, reference) = (Arc::clone(&self.store), self.reference.clone());
        blocking(move || {
            let ops = store.layers.sync(&layers)?;
            let draft = Draft {
                record: &record,
                layers: &layers,
                reference: &reference,
                target: &target,
                ops,
            };
            let image = store.commit(draft)?;
            store.sync()?;
            store.layers.collect_again(store.config.orphan_grace);
            Ok(image)
        })
        .await
    }

    /// An error that says which image it is about: one of a layer that is shared with another pull may name that one's.
    fn named(&self, error: Error) -> Error {
        match error.message().contains(&self.reference.to_string()) {
            true => error,
            false => error.context(format!("pull of {}", self.reference)),
        }
    }

    fn unusable(&self, reason: &str) -> Error {
        Error::precondition(format!("pull of {}: {reason}", self.reference))
    }
}

/// Runs `work` where waiting for the disk holds up nobody.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let outcome = tokio::task::spawn_blocking(work).await;
    outcome.map_err(|e| Error::internal(format!("a task of the image store ended: {e}")))?
}
