//! Regular files.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::super::archive::{Entry, Reader, Region};
use super::super::{LayerError, Usage};
use super::Writer;
use super::attributes::Attributes;
use super::name::Name;
use super::place::{Dir, failed};

const CREATE: OFlags = OFlags::WRONLY
    .union(OFlags::CREATE)
    .union(OFlags::EXCL)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

impl Writer<'_> {
    pub(super) fn file<F: FnMut(Vec<u8>) -> Option<Vec<u8>>>(
        &mut self,
        name: &Name,
        entry: &Entry,
        reader: &mut Reader<'_, F>,
    ) -> Result<(), LayerError> {
        let parent = self.parent_of(name, entry.mtime)?;
        let fd = self.create(&parent, name.base(), &entry.path, entry.mode)?;
        let stored = match &entry.regions {
            None => write_whole(fd.as_fd(), entry, reader)?,
            Some(regions) => write_sparse(fd.as_fd(), regions, entry, reader)?,
        };
        self.written.usage.add(usage(FileType::RegularFile, stored));
        self.written.skipped_xattrs += Attributes::of(entry).apply_to_file(fd.as_fd())?;
        Ok(())
    }

    /// Makes a new file, instead of what may be there already.
    pub(super) fn create(
        &mut self,
        parent: &Dir,
        base: &[u8],
        path: &[u8],
        mode: u32,
    ) -> Result<OwnedFd, LayerError> {
        let mode = Mode::from_raw_mode(mode & 0o777);
        let made = match rustix::fs::openat(&parent.fd, base, CREATE, mode) {
            Err(Errno::EXIST) => {
                self.remove(parent, base)?;
                rustix::fs::openat(&parent.fd, base, CREATE, mode)
            }
            other => other,
        };
        made.map_err(|e| failed("create", path, e))
    }

    /// Copies all data from one file to another, without moving it through here where the kernel can do that.
    pub(super) fn copy(from: OwnedFd, to: &OwnedFd, path: &[u8]) -> Result<u64, LayerError> {
        let to = to
            .try_clone()
            .map_err(|e| LayerError::io("duplicate a file descriptor", e))?;
        std::io::copy(&mut File::from(from), &mut File::from(to))
            .map_err(|e| LayerError::io(format!("copy {:?} from a lower layer", super::display(path)), e))
    }
}

fn write_whole<F: FnMut(Vec<u8>) -> Option<Vec<u8>>>(
    fd: BorrowedFd<'_>,
    entry: &Entry,
    reader: &mut Reader<'_, F>,
) -> Result<u64, LayerError> {
    let mut written = 0;
    loop {
        let data = reader.data()?;
        if data.is_empty() {
            return Ok(written);
        }
        written += data.len() as u64;
        let mut rest = data;
        while !rest.is_empty() {
            let n = retry(|| rustix::io::write(fd, rest)).map_err(|e| failed("write", &entry.path, e))?;
            rest = &rest[n..];
        }
    }
}

fn write_sparse<F: FnMut(Vec<u8>) -> Option<Vec<u8>>>(
    fd: BorrowedFd<'_>,
    regions: &[Region],
    entry: &Entry,
    reader: &mut Reader<'_, F>,
) -> Result<u64, LayerError> {
    rustix::fs::ftruncate(fd, entry.size).map_err(|e| failed("set the size of", &entry.path, e))?;
    let mut written = 0;
    let mut data: &[u8] = &[];
    for region in regions {
        let (mut offset, end) = (region.offset, region.offset + region.length);
        while offset < end {
            if data.is_empty() {
                data = reader.data()?;
            }
            let n = data
                .len()
                .min(usize::try_from(end - offset).unwrap_or(usize::MAX));
            let n = retry(|| rustix::io::pwrite(fd, &data[..n], offset))
                .map_err(|e| failed("write", &entry.path, e))?;
            if n == 0 {
                return Err(LayerError::archive("sparse file has less data than its map says"));
            }
            data = &data[n..];
            offset += n as u64;
            written += n as u64;
        }
    }
    Ok(written)
}

fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

/// What an inode of this kind and size occupies.
pub(super) fn usage(kind: FileType, size: u64) -> Usage {
    match kind {
        FileType::RegularFile => Usage::of(size),
        // Short targets live in the inode.
        FileType::Symlink if size >= 60 => Usage::of(size),
        _ => Usage::of(0),
    }
}
