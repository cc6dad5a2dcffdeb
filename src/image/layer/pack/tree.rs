//! Packs a layer's directory, overlayfs marks translated back into whiteouts.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::types::security::SELINUX_ATTRIBUTE;

use super::super::archive::{Entry, EntryKind, Time, Xattrs};
use super::Archive;

/// Deepest directory that is packed, counted from the top.
const MAX_DEPTH: usize = 512;

/// Packs all of `dir`, its own attributes included. Sockets are left out.
///
/// Something may change in it meanwhile, and nothing that does leads out of it or holds this up; what is packed is then
/// some state of each file.
///
/// # Errors
/// Those of reading the tree and of the writer; a tree deeper than 512 directories; a file that became shorter while it
/// was read.
pub fn pack_tree<W: Write>(dir: &Path, out: W) -> io::Result<W> {
    let mut packer = Packer {
        archive: Archive::new(out),
        links: HashMap::new(),
    };
    packer.tree(open(dir, OFlags::DIRECTORY)?)?;
    packer.archive.finish()
}

/// Opens without following a link or waiting for the other end of a pipe.
fn open(path: &Path, flags: OFlags) -> io::Result<File> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    File::options()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
}

/// The path of an open directory.
fn place(dir: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()))
}

struct Packer<W> {
    archive: Archive<W>,
    /// First name of each file that has several.
    links: HashMap<(u64, u64), Vec<u8>>,
}

/// A directory that is being packed.
struct Level {
    dir: File,
    /// With a slash at the end; empty for the top.
    prefix: Vec<u8>,
    /// What is left to do, in order.
    names: std::vec::IntoIter<OsString>,
}

impl<W: Write> Packer<W> {
    /// Goes down and up without recursion: a tree is as deep as a container makes it.
    fn tree(&mut self, top: File) -> io::Result<()> {
        let mut levels = vec![self.directory(top, b"./")?];
        while let Some(level) = levels.last_mut() {
            let Some(base) = level.names.next() else {
                levels.pop();
                continue;
            };
            // By descriptor: whatever becomes of the names above it, this is the directory that was opened.
            let path = place(&level.dir).join(&base);
            let name = [level.prefix.as_slice(), base.as_bytes()].concat();
            let entered = match fs::symlink_metadata(&path) {
                Ok(metadata) if metadata.is_dir() => {
                    let name = [name.as_slice(), b"/"].concat();
                    open(&path, OFlags::DIRECTORY)
                        .and_then(|dir| self.directory(dir, &name))
                        .map(Some)
                }
                Ok(metadata) => {
                    let mark = [level.prefix.as_slice(), b".wh.", base.as_bytes()].concat();
                    self.child(&path, &name, &metadata, mark).map(|()| None)
                }
                Err(e) => Err(e),
            };
            match entered {
                Ok(Some(_)) if levels.len() > MAX_DEPTH => {
                    return Err(io::Error::other(format!("deeper than {MAX_DEPTH} directories")));
                }
                Ok(entered) => levels.extend(entered),
                // Gone since it was listed.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn directory(&mut self, dir: File, name: &[u8]) -> io::Result<Level> {
        let (xattrs, opaque) = xattrs_of(&dir)?;
        let entry = Entry {
            xattrs,
            ..entry(EntryKind::Directory, name, &dir.metadata()?)
        };
        self.archive.append(&entry, &[])?;
        if opaque {
            let mark = mark([name, b".wh..wh..opq"].concat());
            self.archive.append(&mark, &[])?;
        }
        let names = fs::read_dir(place(&dir))?.map(|child| child.map(|c| c.file_name()));
        let mut names = names.collect::<io::Result<Vec<_>>>()?;
        names.sort();
        Ok(Level {
            dir,
            prefix: name.strip_prefix(b"./").unwrap_or(name).to_vec(),
            names: names.into_iter(),
        })
    }

    /// Packs what is no directory. `whiteout` is its name if it is a mark of overlayfs.
    fn child(&mut self, path: &Path, name: &[u8], metadata: &Metadata, whiteout: Vec<u8>) -> io::Result<()> {
        let kind = metadata.file_type();
        if kind.is_socket() {
            return Ok(());
        }
        if kind.is_char_device() && metadata.rdev() == 0 {
            return self.archive.append(&mark(whiteout), &[]);
        }
        if !kind.is_file() {
            return match self.is_known(name, metadata)? {
                true => Ok(()),
                false => self.leaf(path, name, metadata),
            };
        }
        let file = open(path, OFlags::empty())?;
        let metadata = file.metadata()?;
        match self.is_known(name, &metadata)? {
            true => Ok(()),
            false => self.file(file, name, &metadata),
        }
    }

    /// Packs a further name of what is packed already.
    fn is_known(&mut self, name: &[u8], metadata: &Metadata) -> io::Result<bool> {
        if metadata.nlink() < 2 {
            return Ok(false);
        }
        let inode = (metadata.dev(), metadata.ino());
        let Some(first) = self.links.get(&inode) else {
            self.links.insert(inode, name.to_vec());
            return Ok(false);
        };
        let link = Entry {
            link: first.clone(),
            ..entry(EntryKind::HardLink, name, metadata)
        };
        self.archive.append(&link, &[]).map(|()| true)
    }

    fn file(&mut self, file: File, name: &[u8], metadata: &Metadata) -> io::Result<()> {
        if !metadata.is_file() {
            return Err(io::Error::other(format!(
                "{} became something else while it was opened",
                String::from_utf8_lossy(name)
            )));
        }
        let mut entry = entry(EntryKind::File, name, metadata);
        entry.xattrs = xattrs_of(&file)?.0;
        self.archive.append_from(&entry, metadata.len(), file)
    }

    fn leaf(&mut self, path: &Path, name: &[u8], metadata: &Metadata) -> io::Result<()> {
        let kind = metadata.file_type();
        let mut entry = entry(EntryKind::Fifo, name, metadata);
        entry.xattrs = xattrs_of_link(path)?;
        if kind.is_symlink() {
            entry.kind = EntryKind::Symlink;
            entry.link = fs::read_link(path)?.as_os_str().as_bytes().to_vec();
        } else if kind.is_char_device() || kind.is_block_device() {
            entry.kind = match kind.is_char_device() {
                true => EntryKind::Char,
                false => EntryKind::Block,
            };
            entry.device = (
                rustix::fs::major(metadata.rdev()),
                rustix::fs::minor(metadata.rdev()),
            );
        }
        self.archive.append(&entry, &[])
    }
}

/// The empty file that stands for a whiteout. It has no attributes that mean anything.
fn mark(path: Vec<u8>) -> Entry {
    Entry {
        path,
        mode: 0o644,
        ..Entry::default()
    }
}

fn entry(kind: EntryKind, name: &[u8], metadata: &Metadata) -> Entry {
    Entry {
        kind,
        path: name.to_vec(),
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        mtime: Time {
            seconds: metadata.mtime(),
            nanos: u32::try_from(metadata.mtime_nsec()).unwrap_or(0),
        },
        ..Entry::default()
    }
}

/// Attributes as a container sees them, and whether overlayfs would take the directory for opaque.
fn xattrs_of(fd: impl AsFd) -> Result<(Xattrs, bool), Errno> {
    let names = read(|buffer| rustix::fs::flistxattr(&fd, buffer))?;
    as_seen(&names, |name| {
        read(|buffer| rustix::fs::fgetxattr(&fd, name, buffer))
    })
}

/// The same of what cannot be opened.
fn xattrs_of_link(path: &Path) -> io::Result<Xattrs> {
    let names = read(|buffer| rustix::fs::llistxattr(path, buffer))?;
    let (xattrs, _) = as_seen(&names, |name| {
        read(|buffer| rustix::fs::lgetxattr(path, name, buffer))
    })?;
    Ok(xattrs)
}

/// The extended attributes of an open file as a container sees them, sorted by name: without overlayfs's own, and those
/// that were stored under an escaped name under their real one.
///
/// # Errors
/// Those of the kernel; a file system without extended attributes has none.
pub fn read_xattrs(fd: impl AsFd) -> Result<Xattrs, Errno> {
    xattrs_of(fd).map(|(xattrs, _)| xattrs)
}

fn as_seen(names: &[u8], value: impl Fn(&[u8]) -> Result<Vec<u8>, Errno>) -> Result<(Xattrs, bool), Errno> {
    let mut opaque = false;
    let mut xattrs = Vec::new();
    for name in names.split(|&b| b == 0).filter(|name| !name.is_empty()) {
        opaque |= name == b"trusted.overlay.opaque";
        if let Some(seen) = seen_name(name) {
            xattrs.push((seen, value(name)?));
        }
    }
    xattrs.sort();
    Ok((xattrs, opaque))
}

/// Takes off what unpacking put on. `None` for a name that is overlayfs's own, and for the label of this node's policy.
fn seen_name(name: &[u8]) -> Option<Vec<u8>> {
    if name == SELINUX_ATTRIBUTE.as_bytes() {
        return None;
    }
    for prefix in [b"trusted.overlay.".as_slice(), b"user.overlay."] {
        if let Some(rest) = name.strip_prefix(prefix) {
            return rest.strip_prefix(b"overlay.").map(|rest| [prefix, rest].concat());
        }
    }
    Some(name.to_vec())
}

/// The kernel's bound on a list of names as well as on a value.
const XATTR_MAX: usize = 64 << 10;

fn read(call: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; 1024];
    loop {
        match call(&mut buffer) {
            Ok(n) => {
                buffer.truncate(n);
                return Ok(buffer);
            }
            Err(Errno::RANGE) if buffer.len() < XATTR_MAX => buffer.resize(XATTR_MAX, 0),
            Err(Errno::NOTSUP) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        }
    }
}
