//! Symbolic links, devices and pipes.

use rustix::fs::{FileType, Mode};
use rustix::io::Errno;

use super::super::LayerError;
use super::super::archive::{Entry, EntryKind};
use super::attributes::Attributes;
use super::name::Name;
use super::place::{Dir, failed};
use super::{Writer, file};

impl Writer<'_> {
    /// The target may be any text: it is looked at only when somebody follows it, in the container.
    pub(super) fn symlink(&mut self, name: &Name, entry: &Entry) -> Result<(), LayerError> {
        if entry.link.is_empty() {
            return Err(LayerError::archive("symbolic link without a target"));
        }
        let parent = self.parent_of(name, entry.mtime)?;
        let target = entry.link.as_slice();
        self.replacing(&parent, name.base(), &entry.path, |dir, base| {
            rustix::fs::symlinkat(target, &dir.fd, base)
        })?;
        self.written
            .usage
            .add(file::usage(FileType::Symlink, target.len() as u64));
        self.written.skipped_xattrs += Attributes::of(entry).apply_to_node(&parent, name.base(), true)?;
        Ok(())
    }

    pub(super) fn node(&mut self, name: &Name, entry: &Entry) -> Result<(), LayerError> {
        let (kind, device) = match entry.kind {
            EntryKind::Char => (FileType::CharacterDevice, device(entry.device)?),
            EntryKind::Block => (FileType::BlockDevice, device(entry.device)?),
            _ => (FileType::Fifo, 0),
        };
        if kind == FileType::CharacterDevice && device == 0 {
            // Overlayfs would take it for a whiteout.
            return Err(LayerError::archive(
                "character device 0:0 is overlayfs's mark of a deleted file, not a device; \
                 layers mark deleted files by names that start with .wh.",
            ));
        }
        let parent = self.parent_of(name, entry.mtime)?;
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        self.replacing(&parent, name.base(), &entry.path, |dir, base| {
            rustix::fs::mknodat(&dir.fd, base, kind, mode, device)
        })?;
        self.written.usage.add(file::usage(kind, 0));
        self.written.skipped_xattrs += Attributes::of(entry).apply_to_node(&parent, name.base(), false)?;
        Ok(())
    }

    /// Makes something new, instead of what may be there already.
    pub(super) fn replacing(
        &mut self,
        parent: &Dir,
        base: &[u8],
        path: &[u8],
        make: impl Fn(&Dir, &[u8]) -> Result<(), Errno>,
    ) -> Result<(), LayerError> {
        let made = match make(parent, base) {
            Err(Errno::EXIST) => {
                self.remove(parent, base)?;
                make(parent, base)
            }
            other => other,
        };
        made.map_err(|e| failed("make", path, e))
    }
}

/// The kernel has 12 bits for the major and 20 for the minor number.
fn device((major, minor): (u32, u32)) -> Result<u64, LayerError> {
    if major > 0xfff || minor > 0xf_ffff {
        return Err(LayerError::archive(format!(
            "device number {major}:{minor} is out of range"
        )));
    }
    Ok(rustix::fs::makedev(major, minor))
}
