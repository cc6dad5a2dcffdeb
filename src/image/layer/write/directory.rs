//! Directories: made at once, finished at the end, when nothing is made in them any more.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, XattrFlags};
use rustix::io::Errno;

use super::super::{LayerError, Usage, remove};
use super::attributes::{self, Attributes, DEFAULT_ACL};
use super::lower::{self, Found};
use super::name::{self, Name};
use super::place::{Dir, failed};
use super::{Writer, file};
use crate::image::layer::archive::{Entry, Time};

const OPEN: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
/// How overlayfs is told that a directory hides those of the same name below it.
const OPAQUE: &str = "trusted.overlay.opaque";
/// What the map of unfinished directories costs for each, besides its path.
const RECORD: usize = 128;

/// Directories to finish, by path.
#[derive(Default)]
pub(super) struct Unfinished {
    map: BTreeMap<Vec<u8>, Attrs>,
    memory: usize,
}

/// What a directory gets in the end.
pub(super) struct Attrs {
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: Time,
    default_acl: Option<Vec<u8>>,
    implied: bool,
}

impl Unfinished {
    fn insert(&mut self, path: &[u8], attrs: Attrs, limit: usize) -> Result<(), LayerError> {
        self.memory += attrs.memory(path);
        if self.memory > limit {
            return Err(LayerError::limit("bytes of memory for directories", limit));
        }
        if let Some(earlier) = self.map.insert(path.to_vec(), attrs) {
            self.memory -= earlier.memory(path);
        }
        Ok(())
    }

    /// Forgets a directory and all below it.
    fn remove(&mut self, path: &[u8]) {
        let below = name::join(path, b"");
        let range = (Bound::Included(below.clone()), Bound::Unbounded);
        let inside = self
            .map
            .range::<Vec<u8>, _>(range)
            .map(|(known, _)| known)
            .take_while(|k| k.starts_with(&below));
        let gone: Vec<_> = inside.cloned().chain([path.to_vec()]).collect();
        for path in gone {
            if let Some(attrs) = self.map.remove(&path) {
                self.memory -= attrs.memory(&path);
            }
        }
    }
}

impl Attrs {
    fn memory(&self, path: &[u8]) -> usize {
        path.len() + self.default_acl.as_ref().map_or(0, Vec::len) + RECORD
    }
}

impl Writer<'_> {
    /// Gives the root the attributes it has if the archive says nothing of it. A set-group-id bit inherited from the
    /// store would spread to everything in the layer.
    pub(super) fn start_root(&mut self) -> Result<(), LayerError> {
        let root = self.places.root.clone();
        rustix::fs::fchown(&root, Some(Uid::ROOT), Some(Gid::ROOT))
            .map_err(|e| failed("set the owner of", b"", e))?;
        rustix::fs::fchmod(&root, Mode::from_raw_mode(0o755))
            .map_err(|e| failed("set the mode of", b"", e))?;
        self.written.usage.add(Usage::directory());
        Ok(())
    }

    pub(super) fn root_entry(&mut self, entry: &Entry) -> Result<(), LayerError> {
        if entry.kind != super::EntryKind::Directory {
            return Err(LayerError::archive("the layer's root is not a directory in it"));
        }
        let root = self.places.root.clone();
        self.set_directory_xattrs(&root, entry)?;
        self.finish_later(&[], entry)
    }

    pub(super) fn directory(&mut self, name: &Name, entry: &Entry) -> Result<(), LayerError> {
        let parent = self.parent_of(name, entry.mtime)?;
        let base = name.base();
        let path = name::join(&parent.path, base);
        match self.make(&parent, base, entry.mode) {
            Ok(()) => {}
            Err(Errno::EXIST) => self.directory_over(&parent, base, &path, entry.mode)?,
            Err(error) => return Err(failed("make directory", &path, error)),
        }
        if !entry.xattrs.is_empty() {
            let fd = self
                .places
                .open(&path, OPEN)
                .map_err(|e| failed("open directory", &path, e))?;
            self.set_directory_xattrs(&fd, entry)?;
        }
        self.finish_later(&path, entry)
    }

    /// What was a directory stays one. Anything else gives way, and as it hid what lower layers have, so does the
    /// directory in its place.
    fn directory_over(
        &mut self,
        parent: &Dir,
        base: &[u8],
        path: &[u8],
        mode: u32,
    ) -> Result<(), LayerError> {
        let stat = rustix::fs::statat(&parent.fd, base, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| failed("look at", path, e))?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Ok(());
        }
        self.remove(parent, base)?;
        self.make(parent, base, mode)
            .map_err(|e| failed("make directory", path, e))?;
        self.set_opaque(path)
    }

    /// Makes a directory the archive has no entry for.
    pub(super) fn make_implied(
        &mut self,
        parent: &Dir,
        base: &[u8],
        path: &[u8],
        below: Option<Found>,
        mtime: Time,
    ) -> Result<OwnedFd, LayerError> {
        self.make(parent, base, 0o755)
            .map_err(|e| failed("make directory", path, e))?;
        let fd = rustix::fs::openat(&parent.fd, base, OPEN, Mode::empty())
            .map_err(|e| failed("open directory", path, e))?;
        match below {
            Some(Found::Directory(entry)) => {
                self.set_directory_xattrs(&fd, &entry)?;
                self.finish_later(path, &entry)?;
            }
            _ => {
                let attrs = Attrs {
                    mode: 0o755,
                    uid: 0,
                    gid: 0,
                    mtime,
                    default_acl: None,
                    implied: true,
                };
                self.unfinished
                    .insert(path, attrs, self.limits.directory_memory)?;
            }
        }
        Ok(fd)
    }

    /// Takes over the attributes that lower layers have for a directory. `false` if they have a link there.
    pub(super) fn inherit(&mut self, path: &[u8]) -> Result<bool, LayerError> {
        match self.lowers.find(path)? {
            Some(Found::Symlink(_)) => return Ok(false),
            Some(Found::Directory(entry)) => {
                let fd = self
                    .places
                    .open(path, OPEN)
                    .map_err(|e| failed("open directory", path, e))?;
                self.set_directory_xattrs(&fd, &entry)?;
                self.finish_later(path, &entry)?;
            }
            Some(Found::Other) | None => {}
        }
        Ok(true)
    }

    fn make(&mut self, parent: &Dir, base: &[u8], mode: u32) -> Result<(), Errno> {
        rustix::fs::mkdirat(&parent.fd, base, Mode::from_raw_mode(mode & 0o777))?;
        self.written.usage.add(Usage::directory());
        Ok(())
    }

    fn set_directory_xattrs(&mut self, fd: impl AsFd, entry: &Entry) -> Result<(), LayerError> {
        let set = |name: &[u8], value: &[u8]| rustix::fs::fsetxattr(&fd, name, value, XattrFlags::empty());
        self.written.skipped_xattrs += Attributes::of(entry).set_xattrs(set, true)?;
        Ok(())
    }

    fn finish_later(&mut self, path: &[u8], entry: &Entry) -> Result<(), LayerError> {
        let default_acl = entry
            .xattrs
            .iter()
            .find(|(name, _)| name == DEFAULT_ACL)
            .map(|(_, value)| value.clone());
        let attrs = Attrs {
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            default_acl,
            implied: false,
        };
        self.unfinished.insert(path, attrs, self.limits.directory_memory)
    }

    /// Hides what lower layers have in a directory.
    pub(super) fn set_opaque(&mut self, path: &[u8]) -> Result<(), LayerError> {
        let fd = self
            .places
            .open(path, OPEN)
            .map_err(|e| failed("open directory", path, e))?;
        rustix::fs::fsetxattr(&fd, OPAQUE, b"y", XattrFlags::empty())
            .map_err(|e| failed("make opaque", path, e))?;
        self.written.opaque_root |= path.is_empty();
        Ok(())
    }

    /// Is the directory, or one above it, marked to hide what lower layers have?
    pub(super) fn is_hidden(&self, path: &[u8]) -> Result<bool, LayerError> {
        let mut path = path;
        while !path.is_empty() {
            let fd = self
                .places
                .open(path, OPEN)
                .map_err(|e| failed("open directory", path, e))?;
            if lower::is_opaque(&fd).map_err(|e| failed("look at", path, e))? {
                return Ok(true);
            }
            path = name::split(path).0;
        }
        Ok(self.written.opaque_root)
    }

    /// Takes away what an earlier entry of this layer made, a whole directory if need be.
    pub(super) fn remove(&mut self, parent: &Dir, base: &[u8]) -> Result<(), LayerError> {
        let path = name::join(&parent.path, base);
        let stat = rustix::fs::statat(&parent.fd, base, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| failed("look at", &path, e))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let gone = remove::remove_at(parent.fd.as_fd(), base)
                    .map_err(|e| LayerError::io("replace a directory of the layer", e))?;
                self.written.usage.take(gone);
                self.unfinished.remove(&path);
                self.places.forget();
            }
            kind => {
                rustix::fs::unlinkat(&parent.fd, base, AtFlags::empty())
                    .map_err(|e| failed("replace", &path, e))?;
                if stat.st_nlink == 1 {
                    self.written
                        .usage
                        .take(file::usage(kind, stat.st_size.cast_unsigned()));
                }
                if kind == FileType::Symlink {
                    self.places.forget();
                }
            }
        }
        Ok(())
    }

    pub(super) fn finish_directories(&mut self) -> Result<(), LayerError> {
        for (path, attrs) in std::mem::take(&mut self.unfinished.map) {
            self.finish_directory(&path, &attrs)?;
            if attrs.implied {
                self.written
                    .implied
                    .push(PathBuf::from(std::ffi::OsString::from_vec(path)));
            }
        }
        Ok(())
    }

    fn finish_directory(&mut self, path: &[u8], attrs: &Attrs) -> Result<(), LayerError> {
        let fd = self
            .places
            .open(path, OPEN)
            .map_err(|e| failed("open directory", path, e))?;
        let stat = rustix::fs::fstat(&fd).map_err(|e| failed("look at", path, e))?;
        if (stat.st_uid, stat.st_gid) != (attrs.uid, attrs.gid) {
            rustix::fs::fchown(
                &fd,
                Some(Uid::from_raw(attrs.uid)),
                Some(Gid::from_raw(attrs.gid)),
            )
            .map_err(|e| failed("set the owner of", path, e))?;
        }
        if stat.st_mode & 0o7777 != attrs.mode {
            rustix::fs::fchmod(&fd, Mode::from_raw_mode(attrs.mode))
                .map_err(|e| failed("set the mode of", path, e))?;
        }
        if let Some(acl) = &attrs.default_acl {
            match rustix::fs::fsetxattr(&fd, DEFAULT_ACL, acl, XattrFlags::empty()) {
                Err(Errno::NOTSUP) => self.written.skipped_xattrs += 1,
                other => other.map_err(|e| failed("set the default access list of", path, e))?,
            }
        }
        rustix::fs::futimens(&fd, &attributes::timestamps(attrs.mtime))
            .map_err(|e| failed("set the time of", path, e))
    }
}
