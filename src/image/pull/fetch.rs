//! The fetch of one layer: from a registry through the unpacker into the store, once for all pulls that want it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Wanted, blocking};
use crate::image::layer::{self, Expected, LayerError, Limits, Unpacked};
use crate::image::layers::{Hold, Staged};
use crate::image::pipe::{self, Reader};
use crate::image::progress::{LayerMeter, LayerState};
use crate::image::record::LayerRecord;
use crate::image::registry::Session;
use crate::image::store::ImageStore;
use crate::types::{Error, Result};

/// How fetching a layer ended.
#[derive(Clone)]
pub(in crate::image) enum Fetched {
    /// It is there.
    Here(Hold),
    /// It is unpacked, but takes directories for granted whose attributes come from the layers below.
    Loose(Loose),
    /// It has hard links into the layers below, and must be unpacked on top of them.
    NeedsLowers,
}

/// An unpacked layer that is not one of the store's yet. Whoever takes it first has it.
#[derive(Clone)]
pub(in crate::image) struct Loose(Arc<Mutex<Option<(Unpacked, Staged)>>>);

impl Loose {
    /// Fits the layer to those below it, topmost first, and stores it. `None` if that is not possible, or somebody else
    /// did the like for another image: then it has to be fetched again, with `lowers`.
    pub(super) async fn settle(
        &self,
        store: &Arc<ImageStore>,
        wanted: &Wanted,
        lowers: Vec<PathBuf>,
    ) -> Result<Option<Hold>> {
        let taken = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((unpacked, staged)) = taken else {
            return Ok(None);
        };
        let (store, wanted) = (Arc::clone(store), wanted.clone());
        blocking(move || {
            let fits = layer::inherit(&staged.fs(), &unpacked.implied, &lowers)
                .map_err(|e| describe(e).context(format!("unpack layer {}", wanted.descriptor.digest)))?;
            if !fits {
                return Ok(None);
            }
            admit(&store, &wanted, unpacked, staged, true).map(Some)
        })
        .await
    }
}

/// A layer that is here already: one made for exactly this place in a stack, or one that fits anywhere.
pub(super) fn find(store: &ImageStore, layer: &Wanted) -> Option<Hold> {
    find_exact(store, layer).or_else(|| find_anywhere(store, layer))
}

fn find_exact(store: &ImageStore, layer: &Wanted) -> Option<Hold> {
    store.layers.hold(layer.chain_id.hex())
}

fn find_anywhere(store: &ImageStore, layer: &Wanted) -> Option<Hold> {
    store
        .layers
        .hold(layer.diff_id.hex())
        .filter(|hold| hold.record().chain_id.is_none())
}

/// The fetch of one layer, on behalf of all pulls that want it.
pub(super) struct Fetch {
    pub store: Arc<ImageStore>,
    pub session: Arc<Session>,
    pub layer: Wanted,
    pub meter: Arc<LayerMeter>,
    /// The layers below, topmost first. `None` is the usual case, where they need not be there yet.
    pub lowers: Option<Vec<PathBuf>>,
}

impl Fetch {
    pub(super) async fn run(self) -> Result<Fetched> {
        let permit = self.store.downloads.acquire().await;
        let _permit = permit.map_err(|_| Error::internal("the image store is closing"))?;
        // It may have come while this waited for its turn. Without `lowers` others share the result, whose stacks differ.
        let here = match self.lowers {
            Some(_) => find_exact(&self.store, &self.layer),
            None => find_anywhere(&self.store, &self.layer),
        };
        if let Some(hold) = here {
            self.meter.set(LayerState::Done);
            return Ok(Fetched::Here(hold));
        }
        self.meter.set(LayerState::Fetching);
        loop {
            let (outcome, source) = self.once().await?;
            match outcome {
                Ok((unpacked, staged)) => {
                    self.meter.set(LayerState::Done);
                    if self.lowers.is_none() && !unpacked.implied.is_empty() {
                        return Ok(Fetched::Loose(Loose(Arc::new(Mutex::new(Some((
                            unpacked, staged,
                        )))))));
                    }
                    return self.store(unpacked, staged).await.map(Fetched::Here);
                }
                Err(LayerError::MissingLinkTarget { .. }) if self.lowers.is_none() => {
                    return Ok(Fetched::NeedsLowers);
                }
                // A mirror may hold wrong content while the registry has the right one.
                Err(LayerError::Digest { .. }) if self.session.shun_source(source.as_deref()) => {}
                Err(error) => {
                    let what = format!("unpack layer {}", self.layer.descriptor.digest);
                    return Err(describe(error).context(what));
                }
            }
        }
    }

    /// Streams the layer into the unpacker. The outer error is the transfer's, the inner one the unpacker's.
    async fn once(&self) -> Result<(Result<(Unpacked, Staged), LayerError>, Option<String>)> {
        let (store, layer) = (Arc::clone(&self.store), self.layer.clone());
        let lowers = self.lowers.clone().unwrap_or_default();
        let (mut writer, reader) = pipe::pipe(Arc::clone(&self.meter.done));
        let unpacker = tokio::task::spawn_blocking(move || {
            let staged = store.layers.stage()?;
            Ok::<_, Error>(unpack(reader, &layer, &staged, &lowers).map(|unpacked| (unpacked, staged)))
        });
        let transfer = self.session.stream(&self.layer.descriptor, &mut writer).await;
        let source = writer.source().map(str::to_owned);
        drop(writer);
        let unpacked = unpacker
            .await
            .map_err(|e| Error::internal(format!("the unpacker ended: {e}")))??;
        match (transfer, unpacked) {
            (_, Ok(done)) => Ok((Ok(done), source)),
            (Err(error), Err(LayerError::Cancelled | LayerError::Source(_))) => Err(error),
            (_, Err(error)) => Ok((Err(error), source)),
        }
    }

    async fn store(&self, unpacked: Unpacked, staged: Staged) -> Result<Hold> {
        let (store, layer) = (Arc::clone(&self.store), self.layer.clone());
        let on_top = self.lowers.is_some();
        blocking(move || admit(&store, &layer, unpacked, staged, on_top)).await
    }
}

/// Makes a finished directory a layer of the store. `on_top`: it fits on the layers below it only.
fn admit(
    store: &ImageStore,
    layer: &Wanted,
    unpacked: Unpacked,
    staged: Staged,
    on_top: bool,
) -> Result<Hold> {
    let record = LayerRecord {
        diff_id: unpacked.diff_id,
        chain_id: on_top.then(|| layer.chain_id.clone()),
        blob: unpacked.blob_digest,
        blob_size: unpacked.blob_size,
        media_type: layer.descriptor.media_type.clone(),
        size: unpacked.size,
        inodes: unpacked.inodes,
        opaque_root: unpacked.opaque_root,
        created_at: crate::types::time::now_nanos(),
        unsynced: None,
    };
    let name = if on_top { &layer.chain_id } else { &layer.diff_id };
    store.layers.admit(name.hex(), staged, record)
}

fn unpack(
    reader: Reader,
    layer: &Wanted,
    staged: &Staged,
    lowers: &[PathBuf],
) -> Result<Unpacked, LayerError> {
    let expected = Expected {
        blob: Some(&layer.descriptor.digest),
        blob_size: Some(layer.descriptor.size),
        diff_id: &layer.diff_id,
    };
    layer::unpack(reader, &expected, &staged.fs(), lowers, &Limits::default())
}

/// What the unpacker says of content is the image's fault, not the node's.
fn describe(error: LayerError) -> Error {
    match error {
        LayerError::Digest { .. } | LayerError::Archive { .. } | LayerError::MissingLinkTarget { .. } => {
            Error::precondition(error.to_string())
        }
        other => other.into(),
    }
}
