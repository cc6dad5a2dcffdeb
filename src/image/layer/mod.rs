//! One layer: from the compressed bytes a registry sent to a directory that overlayfs can stack, and back.
//!
//! [`unpack`] is a single streaming pass. Three threads share it, joined by a short ring of reused buffers:
//!
//! ```text
//! decode: source ─> hash of the blob ─> inflate ─┐
//!                        ┌─ chunks of tar ───────┘
//! caller: hash of the tar (diff id) ─────────────┐
//!                        ┌─ the same chunks ─────┘
//! write:  parse ─> files, by file descriptor, inside the layer's directory
//! ```
//!
//! Layers are hostile input. What is bounded is in [`Limits`], where an entry may go is decided in `write/place.rs`,
//! what a byte of the archive means is decided in `archive/`. Nothing here knows registries, images or the database,
//! and nothing here makes the result durable: the caller syncs, renames, or on an error deletes the directory.

use std::io::Read;
use std::path::{Path, PathBuf};

use crate::types::Digest;

pub mod archive;
mod decode;
mod error;
#[doc(hidden)]
pub mod fuzz;
mod hash;
mod limits;
pub mod pack;
mod pipeline;
mod remove;
mod write;

pub use error::{Cancelled, LayerError};
pub use limits::Limits;
pub use remove::{Usage, remove_tree};
pub use write::inherit;

/// What the manifest and the image configuration say of a layer.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// Digest of the bytes as transferred; `None` where nobody promised one.
    pub blob: Option<&'a Digest>,
    /// Length of the bytes as transferred.
    pub blob_size: Option<u64>,
    /// Digest of the tar archive inside.
    pub diff_id: &'a Digest,
}

/// A layer that was unpacked and whose digests held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// Digest of the tar archive.
    pub diff_id: Digest,
    /// Digest of the bytes as transferred.
    pub blob_digest: Digest,
    /// Length in bytes of what was transferred.
    pub blob_size: u64,
    /// Disk space of the layer in bytes, files rounded up to blocks.
    pub size: u64,
    /// Inodes of the layer, its root included.
    pub inodes: u64,
    /// The layer hides everything below it. Overlayfs ignores such a mark on a layer's root: leave the lower layers out.
    pub opaque_root: bool,
    /// Directories that the archive needs but does not contain and `lowers` do not have, made `0755 root:root`. A layer
    /// unpacked before those below it were there should get their attributes by [`inherit`].
    pub implied: Vec<PathBuf>,
    /// Extended attributes the file system of the store would not take.
    pub skipped_xattrs: u64,
}

/// Unpacks a layer into `dest`, an empty directory on the file system of the store. Blocks.
///
/// The compression (gzip, zstd, none) is told by the first bytes. `lowers` are the unpacked layers below, topmost first,
/// or empty when they are not there yet; they are looked at only for what the archive takes for granted: the target
/// of a hard link, the attributes of a directory it has no entry for.
///
/// Must run as root. The source is read from another thread, which this call waits for: a source must end or fail in
/// finite time. It may fail with [`Cancelled`] inside its error to make the call return [`LayerError::Cancelled`].
///
/// # Errors
/// [`LayerError`]; the contents of `dest` are then worthless and the caller's to delete.
pub fn unpack<R: Read + Send>(
    source: R,
    expected: &Expected<'_>,
    dest: &Path,
    lowers: &[PathBuf],
    limits: &Limits,
) -> Result<Unpacked, LayerError> {
    let (decoded, diff_id, written) = pipeline::run(source, expected, limits, |chunks| {
        write::write_layer(chunks, dest, lowers, limits)
    })?;
    hash::check("digest of the layer's blob", expected.blob, &decoded.digest)?;
    hash::check("diff id of the layer", Some(expected.diff_id), &diff_id)?;
    Ok(Unpacked {
        diff_id,
        blob_digest: decoded.digest,
        blob_size: decoded.size,
        size: written.usage.bytes,
        inodes: written.usage.inodes,
        opaque_root: written.opaque_root,
        implied: written.implied,
        skipped_xattrs: written.skipped_xattrs,
    })
}

/// Unpacks an archive that nobody has promised a digest of, over `lowers` if there are any. Else as [`unpack`].
///
/// # Errors
/// As [`unpack`].
pub fn unpack_unverified<R: Read + Send>(
    source: R,
    dest: &Path,
    lowers: &[PathBuf],
    limits: &Limits,
) -> Result<(), LayerError> {
    let nothing = Expected {
        blob: None,
        blob_size: None,
        diff_id: &Digest::sha256(&[]),
    };
    pipeline::run(source, &nothing, limits, |chunks| {
        write::write_layer(chunks, dest, lowers, limits)
    })
    .map(drop)
}

#[cfg(test)]
mod tests;
