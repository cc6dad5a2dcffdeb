//! What a layer may ask for at most.

/// Bounds on one layer. Reaching one is an error, never a truncation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Archive entries, those that only carry metadata for another one included.
    pub entries: u64,
    /// Bytes of the inflated archive, and of the logical size of any one file in it.
    pub bytes: u64,
    /// Bytes of a path within the layer and of a link's target.
    pub path: usize,
    /// Bytes of long names, PAX records and sparse maps of one entry together.
    pub metadata: usize,
    /// Bytes of the value of one extended attribute.
    pub xattr: usize,
    /// Data regions of one sparse file.
    pub sparse_regions: usize,
    /// Bytes of memory for directory attributes, which can be set only once all files are there.
    pub directory_memory: usize,
    /// Inflated bytes allowed for each compressed byte, beyond [`Limits::inflate_allowance`].
    pub inflate_ratio: u64,
    /// Inflated bytes that every layer may have, however well it compresses.
    pub inflate_allowance: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 4_000_000,
            bytes: 256 << 30,
            path: 4095,
            metadata: 1 << 20,
            xattr: 64 << 10,
            sparse_regions: 100_000,
            directory_memory: 256 << 20,
            inflate_ratio: 100,
            inflate_allowance: 4 << 30,
        }
    }
}
