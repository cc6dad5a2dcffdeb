//! Packs a layer's directory, overlayfs marks translated back into whiteouts.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, DirEntry, File, Metadata};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::super::archive::{Entry, EntryKind, Time, Xattrs};
use super::Archive;

/// Packs all of `dir`, its own attributes included. Nothing may change in it meanwhile. Sockets are left out.
///
/// # Errors
/// Those of reading the tree and of the writer.
pub fn pack_tree<W: Write>(dir: &Path, out: W) -> io::Result<W> {
    let mut packer = Packer {
        archive: Archive::new(out),
        links: HashMap::new(),
    };
    packer.directory(dir, b"./")?;
    packer.archive.finish()
}

struct Packer<W> {
    archive: Archive<W>,
    /// First name of each file that has several.
    links: HashMap<(u64, u64), Vec<u8>>,
}

impl<W: Write> Packer<W> {
    fn directory(&mut self, dir: &Path, name: &[u8]) -> io::Result<()> {
        let metadata = fs::symlink_metadata(dir)?;
        let (xattrs, opaque) = xattrs_of(dir)?;
        let entry = Entry {
            xattrs,
            ..entry(EntryKind::Directory, name, &metadata)
        };
        self.archive.append(&entry, &[])?;
        if opaque {
            let mark = mark([name, b".wh..wh..opq"].concat());
            self.archive.append(&mark, &[])?;
        }
        let mut children = fs::read_dir(dir)?.collect::<io::Result<Vec<_>>>()?;
        children.sort_by_key(DirEntry::file_name);
        for child in children {
            self.child(&child.path(), child.file_name().as_os_str(), name)?;
        }
        Ok(())
    }

    fn child(&mut self, path: &Path, base: &OsStr, dir: &[u8]) -> io::Result<()> {
        let metadata = fs::symlink_metadata(path)?;
        let kind = metadata.file_type();
        let mut name = [dir.strip_prefix(b"./").unwrap_or(dir), base.as_bytes()].concat();
        if kind.is_dir() {
            name.push(b'/');
            return self.directory(path, &name);
        }
        if kind.is_socket() {
            return Ok(());
        }
        if kind.is_char_device() && metadata.rdev() == 0 {
            let name = [dir.strip_prefix(b"./").unwrap_or(dir), b".wh.", base.as_bytes()].concat();
            return self.archive.append(&mark(name), &[]);
        }
        if metadata.nlink() > 1 {
            if let Some(first) = self.links.get(&(metadata.dev(), metadata.ino())) {
                let link = Entry {
                    link: first.clone(),
                    ..entry(EntryKind::HardLink, &name, &metadata)
                };
                return self.archive.append(&link, &[]);
            }
            self.links.insert((metadata.dev(), metadata.ino()), name.clone());
        }
        self.leaf(path, &name, &metadata)
    }

    fn leaf(&mut self, path: &Path, name: &[u8], metadata: &Metadata) -> io::Result<()> {
        let kind = metadata.file_type();
        let mut entry = entry(EntryKind::File, name, metadata);
        entry.xattrs = xattrs_of(path)?.0;
        if kind.is_file() {
            let flags = OFlags::NOFOLLOW.bits().cast_signed();
            let file = File::options().read(true).custom_flags(flags).open(path)?;
            return self.archive.append_from(&entry, metadata.len(), file);
        }
        if kind.is_symlink() {
            entry.kind = EntryKind::Symlink;
            entry.link = fs::read_link(path)?.as_os_str().as_bytes().to_vec();
        } else if kind.is_fifo() {
            entry.kind = EntryKind::Fifo;
        } else {
            entry.kind = if kind.is_char_device() {
                EntryKind::Char
            } else {
                EntryKind::Block
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
fn xattrs_of(path: &Path) -> io::Result<(Xattrs, bool)> {
    let names = read(|buffer| rustix::fs::llistxattr(path, buffer))?;
    Ok(as_seen(&names, |name| {
        read(|buffer| rustix::fs::lgetxattr(path, name, buffer))
    })?)
}

/// The extended attributes of an open file as a container sees them, sorted by name: without overlayfs's own, and those
/// that were stored under an escaped name under their real one.
///
/// # Errors
/// Those of the kernel; a file system without extended attributes has none.
pub fn read_xattrs(fd: impl AsFd) -> Result<Xattrs, Errno> {
    let names = read(|buffer| rustix::fs::flistxattr(&fd, buffer))?;
    let (xattrs, _) = as_seen(&names, |name| {
        read(|buffer| rustix::fs::fgetxattr(&fd, name, buffer))
    })?;
    Ok(xattrs)
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

/// Takes off what unpacking put on. `None` for a name that is overlayfs's own.
fn seen_name(name: &[u8]) -> Option<Vec<u8>> {
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
