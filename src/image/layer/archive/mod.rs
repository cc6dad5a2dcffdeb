//! What the bytes of a tar archive mean.
//!
//! Layers are written and read by Go's `archive/tar` nearly everywhere, and a scanner that reads a layer differently
//! from the runtime that unpacks it is a hole. So where POSIX, GNU and Go disagree, this reader does what Go's does:
//! links, devices and directories have no body whatever their size field says; a GNU long name wins over a PAX path;
//! empty PAX values leave the header's value; global PAX headers are checked and otherwise ignored; an archive may end
//! without zero blocks. Malformed input is an error, never skipped.
//!
//! Knows no file system: paths come out as they stand in the archive.

mod field;
mod pax;
mod reader;
mod sparse;

pub(super) use reader::Reader;
pub use sparse::Region;

/// Bytes of a tar block.
pub(super) const BLOCK: usize = 512;

/// What an entry makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EntryKind {
    /// A regular file.
    #[default]
    File,
    /// Another name of an earlier file.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A character device.
    Char,
    /// A block device.
    Block,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
}

/// Seconds and nanoseconds since the epoch; the nanoseconds count forwards even before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Time {
    /// Whole seconds, rounded down.
    pub seconds: i64,
    /// 0 to 999,999,999.
    pub nanos: u32,
}

/// Extended attributes: name and value.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// One entry of an archive with everything that PAX, GNU and the plain header say of it put together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Entry {
    /// What it makes.
    pub kind: EntryKind,
    /// Path as it stands in the archive: any bytes but NUL.
    pub path: Vec<u8>,
    /// Target of a link as it stands in the archive.
    pub link: Vec<u8>,
    /// Permission bits with set-id and sticky bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time.
    pub mtime: Time,
    /// Logical size of a file in bytes; 0 for all else.
    pub size: u64,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Extended attributes, each name once.
    pub xattrs: Xattrs,
    /// Where the data of a sparse file goes, in order. `None` for a file that is written whole.
    pub regions: Option<Vec<Region>>,
}

impl Entry {
    fn clear(&mut self) {
        self.path.clear();
        self.link.clear();
        self.xattrs.clear();
        self.regions = None;
        self.size = 0;
        self.device = (0, 0);
    }
}

#[cfg(test)]
mod tests;
