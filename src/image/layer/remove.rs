//! Deletes trees that strangers filled: image layers and what containers wrote.
//!
//! No link is followed, no other file system entered, and neither depth nor width of the tree costs more than a fixed
//! number of file descriptors and a fixed amount of memory.

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir, RenameFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::path::Arg;

/// Directories held open on the way down. What lies deeper is first moved up.
const DEPTH: usize = 32;
/// Names of subdirectories kept in memory for one directory.
const NAMES: usize = 1024;

/// Disk space and inodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Bytes, in whole blocks.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

impl Usage {
    const BLOCK: u64 = 4096;

    /// An inode with so many bytes of data.
    pub(super) fn of(size: u64) -> Self {
        Self {
            bytes: size.checked_next_multiple_of(Self::BLOCK).unwrap_or(u64::MAX),
            inodes: 1,
        }
    }

    pub(super) fn directory() -> Self {
        Self::of(Self::BLOCK)
    }

    pub(super) fn add(&mut self, other: Self) {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.inodes += other.inodes;
    }

    pub(super) fn take(&mut self, other: Self) {
        self.bytes = self.bytes.saturating_sub(other.bytes);
        self.inodes = self.inodes.saturating_sub(other.inodes);
    }
}

/// Deletes the directory `dir` with all in it, and returns what that freed. A directory that is not there is fine.
///
/// # Errors
/// When something cannot be deleted, such as a mount point inside. What came before it is gone then.
pub fn remove_tree(dir: &Path) -> io::Result<Usage> {
    let name = dir.as_os_str().into_c_str().map_err(io::Error::from)?;
    match remove(CWD, &name, ResolveFlags::NO_MAGICLINKS) {
        Err(Errno::NOENT) => Ok(Usage::default()),
        other => other.map_err(|e| {
            io::Error::new(
                io::Error::from(e).kind(),
                format!("delete {}: {e}", dir.display()),
            )
        }),
    }
}

/// As [`remove_tree`], for the directory `base` in `parent`.
pub(super) fn remove_at(parent: BorrowedFd<'_>, base: &[u8]) -> io::Result<Usage> {
    let base = CString::new(base)?;
    Ok(remove(parent, &base, INSIDE)?)
}

const INSIDE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

fn remove(parent: BorrowedFd<'_>, base: &CStr, resolve: ResolveFlags) -> Result<Usage, Errno> {
    let mut removal = Removal {
        stack: vec![Frame::open(parent, base, resolve)?],
        freed: Usage::default(),
        moved: 0,
    };
    removal.run()?;
    rustix::fs::unlinkat(parent, base, AtFlags::REMOVEDIR)?;
    removal.freed.add(Usage::directory());
    Ok(removal.freed)
}

struct Removal {
    /// The top directory and those below it down to the one in work.
    stack: Vec<Frame>,
    freed: Usage,
    /// How many directories were moved up, which makes their names.
    moved: u64,
}

struct Frame {
    fd: OwnedFd,
    name: CString,
    /// Subdirectories found and not yet deleted.
    subdirs: Vec<CString>,
    /// No entry was left out of `subdirs` for lack of room.
    complete: bool,
}

impl Frame {
    fn open(parent: BorrowedFd<'_>, name: &CStr, resolve: ResolveFlags) -> Result<Self, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat2(parent, name, flags, Mode::empty(), resolve)?;
        Ok(Self {
            fd,
            name: name.to_owned(),
            subdirs: Vec::new(),
            complete: false,
        })
    }
}

impl Removal {
    /// Empties the directory at the bottom of the stack.
    fn run(&mut self) -> Result<(), Errno> {
        while let Some(frame) = self.stack.last_mut() {
            if let Some(name) = frame.subdirs.pop() {
                self.enter(name)?;
            } else if !frame.complete {
                frame.complete = sweep(frame, &mut self.freed)?;
            } else if self.stack.len() == 1 {
                return Ok(());
            } else if let Some(done) = self.stack.pop() {
                self.remove_empty(&done.name)?;
            }
        }
        Ok(())
    }

    fn enter(&mut self, name: CString) -> Result<(), Errno> {
        let Some(frame) = self.stack.last() else {
            return Ok(());
        };
        if self.stack.len() >= DEPTH {
            return self.move_up(&name);
        }
        let next = Frame::open(frame.fd.as_fd(), &name, INSIDE)?;
        self.stack.push(next);
        Ok(())
    }

    /// Moves a subdirectory of the deepest directory to the top one, to be deleted from there.
    fn move_up(&mut self, name: &CStr) -> Result<(), Errno> {
        let Some((top, rest)) = self.stack.split_first_mut() else {
            return Ok(());
        };
        let Some(deepest) = rest.last() else { return Ok(()) };
        loop {
            self.moved += 1;
            let moved = CString::new(format!(".husk-removing-{}", self.moved)).map_err(|_| Errno::INVAL)?;
            match rustix::fs::renameat_with(&deepest.fd, name, &top.fd, &moved, RenameFlags::NOREPLACE) {
                Ok(()) => {
                    top.subdirs.push(moved);
                    return Ok(());
                }
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Deletes a directory that was emptied, or looks at it again if something is left after all.
    fn remove_empty(&mut self, name: &CStr) -> Result<(), Errno> {
        let Some(parent) = self.stack.last() else {
            return Ok(());
        };
        rustix::fs::unlinkat(&parent.fd, name, AtFlags::REMOVEDIR)?;
        self.freed.add(Usage::directory());
        Ok(())
    }
}

/// Deletes all entries of a directory but its subdirectories, which it collects. `false` if there was no room for all.
fn sweep(frame: &mut Frame, freed: &mut Usage) -> Result<bool, Errno> {
    rustix::fs::seek(&frame.fd, rustix::fs::SeekFrom::Start(0))?;
    let mut buffer = [MaybeUninit::uninit(); 32 << 10];
    let mut entries = RawDir::new(&frame.fd, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let known = entry.file_type();
        if known != FileType::Directory && unlink(&frame.fd, name, known, freed)? {
            continue;
        }
        if frame.subdirs.len() == NAMES {
            return Ok(false);
        }
        frame.subdirs.push(name.to_owned());
    }
    Ok(true)
}

/// Deletes what is no directory. `false` if it turns out to be one.
fn unlink(dir: &OwnedFd, name: &CStr, kind: FileType, freed: &mut Usage) -> Result<bool, Errno> {
    let usage = usage(dir, name, kind)?;
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) => {
            freed.add(usage);
            Ok(true)
        }
        Err(Errno::ISDIR) => Ok(false),
        Err(Errno::NOENT) => Ok(true),
        Err(error) => Err(error),
    }
}

/// What deleting one name frees: nothing while the file has other names.
fn usage(dir: &OwnedFd, name: &CStr, kind: FileType) -> Result<Usage, Errno> {
    if !matches!(
        kind,
        FileType::RegularFile | FileType::Symlink | FileType::Unknown
    ) {
        return Ok(Usage::of(0));
    }
    let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    match stat.st_nlink {
        1 => Ok(Usage {
            bytes: stat.st_blocks.cast_unsigned().saturating_mul(512),
            inodes: 1,
        }),
        _ => Ok(Usage::default()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_missing_directory_is_fine() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(remove_tree(&dir.path().join("none")).unwrap(), Usage::default());
    }

    #[test]
    fn links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (outside, tree) = (dir.path().join("outside"), dir.path().join("tree"));
        fs::create_dir_all(outside.join("sub")).unwrap();
        fs::write(outside.join("sub/file"), "kept").unwrap();
        fs::create_dir_all(tree.join("a/b")).unwrap();
        symlink(&outside, tree.join("a/link")).unwrap();
        symlink("..", tree.join("a/b/up")).unwrap();
        let freed = remove_tree(&tree).unwrap();
        assert_eq!(freed.inodes, 5);
        assert!(!tree.exists());
        assert_eq!(fs::read(outside.join("sub/file")).unwrap(), b"kept");
        symlink(&outside, &tree).unwrap();
        assert!(
            remove_tree(&tree).is_err(),
            "the directory itself must not be a link"
        );
        assert!(outside.join("sub/file").exists());
    }

    #[test]
    fn deep_and_wide_trees() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir(&tree).unwrap();
        for i in 0..NAMES + 10 {
            fs::create_dir_all(tree.join(format!("wide/{i}"))).unwrap();
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let mut at = rustix::fs::open(&tree, flags, Mode::empty()).unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&at, "deeper", Mode::RWXU).unwrap();
            drop(rustix::fs::openat(&at, "file", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap());
            at = rustix::fs::openat(&at, "deeper", flags, Mode::empty()).unwrap();
        }
        let freed = remove_tree(&tree).unwrap();
        assert_eq!(freed.inodes as usize, 1 + 1 + NAMES + 10 + 3000 * 2);
        assert!(!tree.exists());
    }
}
