//! The entrance for the fuzz target of layer archives; see `image::fuzz`.

use super::archive::{Entry, Reader};
use super::{LayerError, Limits};

/// Reads the archive in `bytes`, which arrives in chunks of `chunk` bytes (whole blocks), and tells `seen` of each entry
/// and of the bytes of data it had.
///
/// # Errors
/// What the client of a pull is told.
pub fn archive(
    mut bytes: &[u8],
    chunk: usize,
    limits: &Limits,
    mut seen: impl FnMut(&Entry, u64),
) -> Result<(), LayerError> {
    let exchange = |_spent| {
        let (next, rest) = bytes.split_at(chunk.min(bytes.len()));
        bytes = rest;
        (!next.is_empty()).then(|| next.to_vec())
    };
    let mut reader = Reader::new(exchange, limits);
    let mut entry = Entry::default();
    while reader.next(&mut entry)? {
        let mut read = 0;
        loop {
            match reader.data()?.len() as u64 {
                0 => break,
                n => read += n,
            }
        }
        seen(&entry, read);
    }
    reader.finish();
    Ok(())
}
