//! Hard links.

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::super::LayerError;
use super::super::archive::Entry;
use super::attributes::Attributes;
use super::lower::Located;
use super::name::Name;
use super::place::{Dir, failed};
use super::{Writer, display, file};

impl Writer<'_> {
    /// Gives an earlier file of this layer another name. A file of a lower layer is copied into this one first, as
    /// overlayfs would. The inode keeps what its own entry said: attributes in a link's header are not applied.
    pub(super) fn hard_link(&mut self, name: &Name, entry: &Entry) -> Result<(), LayerError> {
        let target = Name::parse(&entry.link)?;
        if target.is_root() {
            return Err(LayerError::archive("hard link to a directory"));
        }
        let missing = || LayerError::MissingLinkTarget {
            link: display(&entry.path).to_owned(),
            target: display(&entry.link).to_owned(),
        };
        if target.whiteout().is_some() {
            return Err(missing());
        }
        let source = match self.source(&target)? {
            Source::Here(dir) => dir,
            Source::Hidden => return Err(missing()),
            Source::NotHere => self.copy_up(&target, entry)?.ok_or_else(missing)?,
        };
        let parent = self.parent_of(name, entry.mtime)?;
        if (&source.path, target.base()) == (&parent.path, name.base()) {
            return Ok(());
        }
        self.replacing(&parent, name.base(), &entry.path, |dir, base| {
            // Without AT_SYMLINK_FOLLOW, a link to a symbolic link is just that.
            rustix::fs::linkat(&source.fd, target.base(), &dir.fd, base, AtFlags::empty())
        })
    }

    fn source(&mut self, target: &Name) -> Result<Source, LayerError> {
        let Some(dir) = self.existing_parent_of(target)? else {
            return Ok(Source::NotHere);
        };
        match rustix::fs::statat(&dir.fd, target.base(), AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(Source::NotHere),
            Err(error) => Err(failed("look at", target.bytes(), error)),
            Ok(stat) => match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => Err(LayerError::archive("hard link to a directory")),
                // A whiteout must not appear under another name, where it would hide something else.
                FileType::CharacterDevice if stat.st_rdev == 0 => Ok(Source::Hidden),
                _ => Ok(Source::Here(dir)),
            },
        }
    }

    /// Copies the topmost lower layer's idea of `target` into this layer. `None` if no layer has it.
    fn copy_up(&mut self, target: &Name, entry: &Entry) -> Result<Option<Dir>, LayerError> {
        let Some(located) = self.lowers.locate(target.bytes())? else {
            return Ok(None);
        };
        let parent = self.parent_of(target, entry.mtime)?;
        if self.is_hidden(&parent.path)? {
            return Ok(None);
        }
        let Located {
            dir,
            stat,
            entry: mut copy,
        } = located;
        let kind = FileType::from_raw_mode(stat.st_mode);
        match kind {
            FileType::Directory => return Err(LayerError::archive("hard link to a directory")),
            FileType::Symlink => {
                copy.link = rustix::fs::readlinkat(&dir, target.base(), Vec::new())
                    .map_err(|e| failed("read link", target.bytes(), e))?
                    .into_bytes();
                self.symlink(target, &copy)?;
            }
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let from = rustix::fs::openat(&dir, target.base(), flags, Mode::empty())
                    .map_err(|e| failed("open", target.bytes(), e))?;
                copy.xattrs = super::lower::xattrs(&from, target.bytes())?;
                let to = self.create(&parent, target.base(), target.bytes(), copy.mode)?;
                let size = Self::copy(from, &to, target.bytes())?;
                self.written.usage.add(file::usage(kind, size));
                self.written.skipped_xattrs += Attributes::of(&copy).apply_to_file(to.as_fd())?;
            }
            _ => {
                rustix::fs::mknodat(
                    &parent.fd,
                    target.base(),
                    kind,
                    Mode::from_raw_mode(copy.mode & 0o777),
                    stat.st_rdev,
                )
                .map_err(|e| failed("make", target.bytes(), e))?;
                self.written.usage.add(file::usage(kind, 0));
                Attributes::of(&copy).apply_to_node(&parent, target.base(), false)?;
            }
        }
        Ok(Some(parent))
    }
}

enum Source {
    Here(Dir),
    NotHere,
    Hidden,
}
