//! Finds the directory an entry belongs into, as a file descriptor.
//!
//! Nearly every directory is reached by one openat2 that no symbolic link may bend. Only where a layer's path leads
//! through a link of its own, or over a directory that is not there yet, the path is walked component by component;
//! links are then followed as in a chroot: an absolute one starts at the layer's root, and `..` stops there.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::super::LayerError;
use super::lower::Found;
use super::name::{self, Name};
use super::{Writer, display};
use crate::image::layer::archive::Time;

/// Links that one path may lead through, as many as the kernel allows.
const MAX_LINKS: usize = 40;
/// Components that may be walked one by one, on average over the entries a layer may have.
const STEPS_PER_ENTRY: u64 = 16;
/// Directories kept open.
const CACHE: usize = 24;

const PATH_ONLY: OFlags = OFlags::PATH
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// A directory of the layer.
#[derive(Clone)]
pub(super) struct Dir {
    /// `O_PATH`.
    pub(super) fd: Rc<OwnedFd>,
    /// Where it really is, links resolved.
    pub(super) path: Rc<[u8]>,
}

/// The layer's root and the directories found last, most recent first.
pub(super) struct Places {
    pub(super) root: Rc<OwnedFd>,
    cache: VecDeque<(Vec<u8>, Dir)>,
    /// Components walked one by one, of all paths together.
    steps: u64,
}

impl Places {
    pub(super) fn new(root: OwnedFd) -> Self {
        Self {
            root: Rc::new(root),
            cache: VecDeque::with_capacity(CACHE),
            steps: 0,
        }
    }

    /// To be called when a directory or a link went away: what was reached through it must be looked up again.
    pub(super) fn forget(&mut self) {
        self.cache.clear();
    }

    fn cached(&mut self, path: &[u8]) -> Option<Dir> {
        let at = self.cache.iter().position(|(known, _)| known == path)?;
        if at > 0 {
            let hit = self.cache.remove(at)?;
            self.cache.push_front(hit);
        }
        self.cache.front().map(|(_, dir)| dir.clone())
    }

    fn remember(&mut self, path: &[u8], dir: &Dir) {
        self.cache.truncate(CACHE - 1);
        self.cache.push_front((path.to_vec(), dir.clone()));
    }

    /// Opens a directory of the layer by a path that has no links in it.
    pub(super) fn open(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        if path.is_empty() {
            return rustix::fs::openat(&self.root, ".", flags, Mode::empty());
        }
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        loop {
            match rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve) {
                Err(Errno::INTR | Errno::AGAIN) => {}
                other => return other,
            }
        }
    }

    fn open_dir(&self, path: &[u8]) -> Result<Dir, Errno> {
        let fd = if path.is_empty() {
            self.root.clone()
        } else {
            Rc::new(self.open(path, PATH_ONLY)?)
        };
        Ok(Dir {
            fd,
            path: path.into(),
        })
    }
}

impl Writer<'_> {
    /// The directory that `name` belongs into. Made, with all above it, where it is missing; `mtime` is then its time.
    pub(super) fn parent_of(&mut self, name: &Name, mtime: Time) -> Result<Dir, LayerError> {
        let parent = name.parent();
        if let Some(dir) = self.places.cached(parent) {
            return Ok(dir);
        }
        let dir = match self.places.open_dir(parent) {
            Ok(dir) => dir,
            Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::NOSYS | Errno::PERM) => self
                .walk(parent, Some(mtime))?
                .ok_or_else(|| LayerError::archive("parent does not exist"))?,
            Err(error) => return Err(failed("open directory", parent, error)),
        };
        self.places.remember(parent, &dir);
        Ok(dir)
    }

    /// As [`Writer::parent_of`], for a name that is only looked up. `None` where a directory on the way is missing.
    pub(super) fn existing_parent_of(&mut self, name: &Name) -> Result<Option<Dir>, LayerError> {
        match self.places.cached(name.parent()) {
            Some(dir) => Ok(Some(dir)),
            None => self.walk(name.parent(), None),
        }
    }

    fn walk(&mut self, path: &[u8], make: Option<Time>) -> Result<Option<Dir>, LayerError> {
        let mut todo: VecDeque<Vec<u8>> = components(path).collect();
        let mut here = self
            .places
            .open_dir(&[])
            .map_err(|e| failed("open directory", b"", e))?;
        let mut links = 0;
        while let Some(component) = todo.pop_front() {
            self.count_step()?;
            if component == b".." {
                here = self
                    .places
                    .open_dir(name::split(&here.path).0)
                    .map_err(|e| failed("open directory", &here.path, e))?;
                continue;
            }
            name::check_component(&component)?;
            let path = name::join(&here.path, &component);
            if path.len() > self.limits.path {
                return Err(LayerError::limit("bytes in a path", self.limits.path));
            }
            match self.step(&here, &component, path, make)? {
                Step::Into(dir) => here = dir,
                Step::Nowhere => return Ok(None),
                Step::Link(target) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(LayerError::archive("path leads through too many symbolic links"));
                    }
                    if target.starts_with(b"/") {
                        here = self
                            .places
                            .open_dir(&[])
                            .map_err(|e| failed("open directory", b"", e))?;
                    }
                    for component in components(&target).rev() {
                        todo.push_front(component);
                    }
                }
            }
        }
        Ok(Some(here))
    }

    /// A few links can make each of millions of entries walk for thousands of components.
    fn count_step(&mut self) -> Result<(), LayerError> {
        self.places.steps += 1;
        let allowed = self.limits.entries.saturating_mul(STEPS_PER_ENTRY);
        if self.places.steps > allowed {
            return Err(LayerError::limit("path components to walk", allowed));
        }
        Ok(())
    }

    fn step(
        &mut self,
        here: &Dir,
        base: &[u8],
        path: Vec<u8>,
        make: Option<Time>,
    ) -> Result<Step, LayerError> {
        match rustix::fs::openat(&here.fd, base, PATH_ONLY, Mode::empty()) {
            Ok(fd) => {
                return Ok(Step::Into(Dir {
                    fd: Rc::new(fd),
                    path: path.into(),
                }));
            }
            Err(Errno::NOENT) => return self.step_over_gap(here, base, path, make, false),
            // With O_PATH, what is no directory answers ENOTDIR, a link too.
            Err(Errno::NOTDIR | Errno::LOOP) => {}
            Err(error) => return Err(failed("open directory", &path, error)),
        }
        let stat = rustix::fs::statat(&here.fd, base, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| failed("look at", &path, e))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => Ok(Step::Link(
                rustix::fs::readlinkat(&here.fd, base, Vec::new())
                    .map_err(|e| failed("read link", &path, e))?
                    .into_bytes(),
            )),
            FileType::CharacterDevice if stat.st_rdev == 0 => match make {
                None => Ok(Step::Nowhere),
                Some(_) => {
                    self.remove(here, base)?;
                    self.step_over_gap(here, base, path, make, true)
                }
            },
            _ if make.is_none() => Ok(Step::Nowhere),
            _ => Err(LayerError::archive(format!(
                "{:?}, on the way to it, is not a directory",
                display(&path)
            ))),
        }
    }

    /// Nothing is here: takes what lower layers have, or makes a plain directory. One that `hides` replaces a whiteout.
    fn step_over_gap(
        &mut self,
        here: &Dir,
        base: &[u8],
        path: Vec<u8>,
        make: Option<Time>,
        hides: bool,
    ) -> Result<Step, LayerError> {
        let Some(mtime) = make else {
            return Ok(Step::Nowhere);
        };
        let found = if hides { None } else { self.lowers.find(&path)? };
        if let Some(Found::Symlink(target)) = found {
            return Ok(Step::Link(target));
        }
        let fd = self.make_implied(here, base, &path, found, mtime)?;
        if hides {
            self.set_opaque(&path)?;
        }
        Ok(Step::Into(Dir {
            fd: Rc::new(fd),
            path: path.into(),
        }))
    }
}

enum Step {
    Into(Dir),
    Link(Vec<u8>),
    Nowhere,
}

/// The components of a path or of a link's target; `..` is kept, as it depends on where a link led.
fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = Vec<u8>> {
    path.split(|&b| b == b'/')
        .filter(|c| !c.is_empty() && *c != b".")
        .map(<[u8]>::to_vec)
}

/// An I/O error about a path of the layer.
pub(super) fn failed(action: &str, path: &[u8], error: Errno) -> LayerError {
    LayerError::io(format!("{action} {:?} of the layer", display(path)), error)
}
