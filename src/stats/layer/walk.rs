//! Adding up a directory tree in slices, on descriptors only: a container that moves directories about meanwhile, or
//! puts symlinks in their place, leads nowhere else.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, statat};

/// Deepest directory that is looked into; below, a directory counts as itself. Each level holds a descriptor open.
const MAX_DEPTH: usize = 512;
/// Most files with several names that are remembered, so that each counts once.
const MAX_LINKED: usize = 1 << 16;

/// A walk that can be interrupted.
pub(super) struct Walk {
    /// Where to begin; nothing is open before that.
    root: Option<PathBuf>,
    /// The directories on the way to where the walk is.
    stack: Vec<Dir>,
    device: u64,
    bytes: u64,
    inodes: u64,
    linked: HashSet<u64>,
    found: bool,
}

impl Walk {
    /// A walk of the tree below `root`, itself included, that does not leave its file system.
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: Some(root.to_owned()),
            stack: Vec::new(),
            device: 0,
            bytes: 0,
            inodes: 0,
            linked: HashSet::new(),
            found: false,
        }
    }

    fn begin(&mut self, root: &Path) -> rustix::io::Result<()> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(root, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&fd)?;
        self.stack.push(Dir::new(fd)?);
        self.device = stat.st_dev;
        self.count(&stat);
        self.found = true;
        Ok(())
    }

    /// Looks at up to `entries` more. True when the walk is through.
    pub(super) fn step(&mut self, entries: usize) -> bool {
        if let Some(root) = self.root.take()
            && self.begin(&root).is_err()
        {
            return true;
        }
        for _ in 0..entries {
            let Some(dir) = self.stack.last_mut() else {
                return true;
            };
            match dir.read() {
                Some(Ok(entry)) => {
                    let name = entry.file_name();
                    if name != c"." && name != c".." {
                        self.visit(name);
                    }
                }
                // A directory that cannot be read any further was removed.
                Some(Err(_)) | None => drop(self.stack.pop()),
            }
        }
        self.stack.is_empty()
    }

    /// Bytes and inodes so far; `None` if there was no such directory.
    pub(super) fn found(&self) -> Option<(u64, u64)> {
        self.found.then_some((self.bytes, self.inodes))
    }

    fn visit(&mut self, name: &std::ffi::CStr) {
        let Some(Ok(parent)) = self.stack.last().map(Dir::fd) else {
            return;
        };
        let Ok(stat) = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) else {
            return;
        };
        let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let child = (is_dir && stat.st_dev == self.device && self.stack.len() < MAX_DEPTH)
            .then(|| {
                let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
                Dir::new(openat(parent, name, flags, Mode::empty())?)
            })
            .and_then(Result::ok);
        if is_dir || stat.st_nlink < 2 || self.is_new(stat.st_ino) {
            self.count(&stat);
        }
        self.stack.extend(child);
    }

    fn is_new(&mut self, inode: u64) -> bool {
        self.linked.len() >= MAX_LINKED || self.linked.insert(inode)
    }

    fn count(&mut self, stat: &rustix::fs::Stat) {
        let blocks = u64::try_from(stat.st_blocks).unwrap_or(0);
        self.bytes = self.bytes.saturating_add(blocks.saturating_mul(512));
        self.inodes += 1;
    }
}
