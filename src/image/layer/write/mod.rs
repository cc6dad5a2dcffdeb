//! The last stage: makes the entries of an archive inside a layer's directory.
//!
//! Every name is resolved to a directory's file descriptor plus one last component, which no call here follows. So
//! whatever links an archive plants, nothing outside the layer's directory is touched. The archive's order counts:
//! what comes later replaces what came earlier, and only directories stay what they were.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::archive::{Entry, EntryKind, Reader};
use super::pipeline::Chunks;
use super::{LayerError, Limits, Usage};

mod attributes;
mod directory;
mod file;
mod link;
mod lower;
mod name;
mod node;
mod place;
mod whiteout;

use directory::Unfinished;
use lower::Lowers;
use name::Name;
use place::Places;

/// What was made.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) usage: Usage,
    pub(super) opaque_root: bool,
    pub(super) implied: Vec<PathBuf>,
    pub(super) skipped_xattrs: u64,
}

/// Writes all of an archive into `dest`. To be called on a thread of its own, whose file mode mask it changes.
pub(super) fn write_layer(
    mut chunks: Chunks,
    dest: &Path,
    lowers: &[PathBuf],
    limits: &Limits,
) -> Result<Written, LayerError> {
    private_umask()?;
    let mut writer = Writer::open(dest, lowers, limits)?;
    writer.start_root()?;
    let mut reader = Reader::new(|spent| chunks.exchange(spent), limits);
    let mut entry = Entry::default();
    while reader.next(&mut entry)? {
        writer
            .write(&entry, &mut reader)
            .map_err(|error| error.at(display(&entry.path)))?;
    }
    reader.finish();
    writer.finish()
}

/// Gives directories that a layer had to make up, [`super::Unpacked::implied`], the attributes that the layers below have
/// for them, so that a container sees those. For a layer that was unpacked before they were there; `dest` must not be in
/// use yet. Returns `false`, with the work half done, if one of them is a symbolic link below: then the layer's files went
/// to the wrong place, and it has to be unpacked again with `lowers`.
///
/// # Errors
/// [`LayerError::Io`].
pub fn inherit(dest: &Path, implied: &[PathBuf], lowers: &[PathBuf]) -> Result<bool, LayerError> {
    let limits = Limits::default();
    let mut writer = Writer::open(dest, lowers, &limits)?;
    for path in implied {
        if !writer.inherit(path.as_os_str().as_bytes())? {
            return Ok(false);
        }
    }
    writer.finish_directories().map(|()| true)
}

/// With a mask of zero, files get their mode when they are made, without another system call for each. The mask belongs
/// to the process unless a thread asks for its own.
fn private_umask() -> Result<(), LayerError> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS)
        .map_err(|e| LayerError::io("give the unpacking thread a file mode mask of its own", e))?;
    rustix::process::umask(Mode::empty());
    Ok(())
}

struct Writer<'a> {
    places: Places,
    lowers: Lowers<'a>,
    limits: &'a Limits,
    unfinished: Unfinished,
    written: Written,
}

impl<'a> Writer<'a> {
    fn open(dest: &Path, lowers: &'a [PathBuf], limits: &'a Limits) -> Result<Self, LayerError> {
        let root = rustix::fs::open(
            dest,
            OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|e| LayerError::io(format!("open the layer's directory {}", dest.display()), e))?;
        Ok(Self {
            places: Places::new(root),
            lowers: Lowers::new(lowers),
            limits,
            unfinished: Unfinished::default(),
            written: Written::default(),
        })
    }

    fn write<F: FnMut(Vec<u8>) -> Option<Vec<u8>>>(
        &mut self,
        entry: &Entry,
        reader: &mut Reader<'_, F>,
    ) -> Result<(), LayerError> {
        let name = Name::parse(&entry.path)?;
        if name.is_root() {
            return self.root_entry(entry);
        }
        if let Some(mark) = name.whiteout() {
            return self.whiteout(&name, mark?, entry);
        }
        match entry.kind {
            EntryKind::Directory => self.directory(&name, entry),
            EntryKind::File => self.file(&name, entry, reader),
            EntryKind::HardLink => self.hard_link(&name, entry),
            EntryKind::Symlink => self.symlink(&name, entry),
            EntryKind::Char | EntryKind::Block | EntryKind::Fifo => self.node(&name, entry),
        }
    }

    fn finish(mut self) -> Result<Written, LayerError> {
        self.finish_directories()?;
        Ok(self.written)
    }
}

/// A path of the archive as messages show it.
fn display(path: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(path))
}
