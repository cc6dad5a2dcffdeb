//! Whiteouts: how a layer says that something of the layers below is gone.
//!
//! They are made whether or not anything below is known, as layers are unpacked side by side. A whiteout speaks of
//! lower layers only: it never removes what its own layer has, in whichever order the two come.

use rustix::fs::{AtFlags, FileType, Mode};
use rustix::io::Errno;

use super::super::archive::Entry;
use super::super::{LayerError, Usage};
use super::Writer;
use super::name::{self, Mark, Name};
use super::place::{Dir, failed};

impl Writer<'_> {
    pub(super) fn whiteout(&mut self, name: &Name, mark: Mark<'_>, entry: &Entry) -> Result<(), LayerError> {
        match mark {
            Mark::Ignored => Ok(()),
            Mark::Opaque => {
                let dir = self.parent_of(name, entry.mtime)?;
                self.set_opaque(&dir.path)
            }
            Mark::Hide(base) => {
                let dir = self.parent_of(name, entry.mtime)?;
                self.hide(&dir, base)
            }
        }
    }

    fn hide(&mut self, dir: &Dir, base: &[u8]) -> Result<(), LayerError> {
        let path = name::join(&dir.path, base);
        match rustix::fs::mknodat(&dir.fd, base, FileType::CharacterDevice, Mode::empty(), 0) {
            Ok(()) => {
                self.written.usage.add(Usage::of(0));
                Ok(())
            }
            Err(Errno::EXIST) => self.hide_below(dir, base, &path),
            Err(error) => Err(failed("make a whiteout for", &path, error)),
        }
    }

    /// The layer has something of that name. A file hides what is below it anyway; a directory has to be told to.
    fn hide_below(&mut self, dir: &Dir, base: &[u8], path: &[u8]) -> Result<(), LayerError> {
        let stat = rustix::fs::statat(&dir.fd, base, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| failed("look at", path, e))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => self.set_opaque(path),
            _ => Ok(()),
        }
    }
}
