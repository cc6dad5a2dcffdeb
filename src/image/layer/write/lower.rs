//! The layers below, where an archive takes something for granted that only they have.
//!
//! They are looked at one by one, topmost first, as overlayfs merges them: whiteouts and opaque directories hide what
//! lies deeper. A path that leads through a symbolic link of a lower layer is followed within that layer only.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::super::LayerError;
use super::super::archive::{Entry, EntryKind, Time, Xattrs};
use super::name;
use super::place::failed;

const OPEN: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

pub(super) struct Lowers<'a> {
    paths: &'a [PathBuf],
    /// Opened when first needed, which is hardly ever.
    roots: Option<Vec<OwnedFd>>,
}

/// What a walk does with something that a lower layer has in the way.
pub(super) enum Found {
    /// To be made here too, with the same attributes.
    Directory(Entry),
    /// To be followed; the target.
    Symlink(Vec<u8>),
    Other,
}

/// Something in a lower layer.
pub(super) struct Located {
    /// The directory it is in.
    pub(super) dir: OwnedFd,
    pub(super) stat: Stat,
    /// Its attributes, without link and extended attributes.
    pub(super) entry: Entry,
}

enum Look {
    Here(Box<Located>),
    /// Not in this layer, but layers below may have it.
    Absent,
    /// Neither here nor, to the eyes of a container, anywhere below.
    Hidden,
}

impl<'a> Lowers<'a> {
    pub(super) fn new(paths: &'a [PathBuf]) -> Self {
        Self { paths, roots: None }
    }

    /// What the merged lower layers have at `path`.
    pub(super) fn find(&mut self, path: &[u8]) -> Result<Option<Found>, LayerError> {
        let Some(Located { dir, stat, mut entry }) = self.locate(path)? else {
            return Ok(None);
        };
        let base = name::split(path).1;
        Ok(Some(match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let fd = rustix::fs::openat(&dir, base, OPEN, Mode::empty())
                    .map_err(|e| failed("open directory", path, e))?;
                entry.kind = EntryKind::Directory;
                entry.xattrs = xattrs(&fd, path)?;
                Found::Directory(entry)
            }
            FileType::Symlink => Found::Symlink(
                rustix::fs::readlinkat(&dir, base, Vec::new())
                    .map_err(|e| failed("read link", path, e))?
                    .into_bytes(),
            ),
            _ => Found::Other,
        }))
    }

    pub(super) fn locate(&mut self, path: &[u8]) -> Result<Option<Located>, LayerError> {
        for root in self.roots()? {
            match look(root, path).map_err(|e| failed("look in a lower layer for", path, e))? {
                Look::Here(located) => return Ok(Some(*located)),
                Look::Absent => {}
                Look::Hidden => return Ok(None),
            }
        }
        Ok(None)
    }

    fn roots(&mut self) -> Result<&[OwnedFd], LayerError> {
        if self.roots.is_none() {
            let open = |path: &PathBuf| {
                rustix::fs::open(path, OPEN, Mode::empty())
                    .map_err(|e| LayerError::io(format!("open lower layer {}", path.display()), e))
            };
            self.roots = Some(self.paths.iter().map(open).collect::<Result<_, _>>()?);
        }
        Ok(self.roots.as_deref().unwrap_or_default())
    }
}

fn look(root: &OwnedFd, path: &[u8]) -> Result<Look, Errno> {
    let (parent, base) = name::split(path);
    let mut dir = rustix::fs::openat(root, ".", OPEN, Mode::empty())?;
    let mut opaque = false;
    for component in parent.split(|&b| b == b'/').filter(|c| !c.is_empty()) {
        match rustix::fs::openat(&dir, component, OPEN, Mode::empty()) {
            Ok(next) => dir = next,
            Err(Errno::NOENT) => return Ok(absent(opaque)),
            Err(Errno::NOTDIR | Errno::LOOP) => match through_link(root, parent, &dir, component)? {
                Some(next) => {
                    dir = next;
                    break;
                }
                None => return Ok(Look::Hidden),
            },
            Err(error) => return Err(error),
        }
        opaque |= is_opaque(&dir)?;
    }
    let stat = match rustix::fs::statat(&dir, base, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(absent(opaque)),
        Err(error) => return Err(error),
    };
    if FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0 {
        return Ok(Look::Hidden);
    }
    Ok(Look::Here(Box::new(Located {
        dir,
        stat,
        entry: entry(path, &stat),
    })))
}

fn absent(opaque: bool) -> Look {
    if opaque { Look::Hidden } else { Look::Absent }
}

/// The directory `parent`, where its `component` in `dir` turned out to be no directory.
fn through_link(
    root: &OwnedFd,
    parent: &[u8],
    dir: &OwnedFd,
    component: &[u8],
) -> Result<Option<OwnedFd>, Errno> {
    let stat = rustix::fs::statat(dir, component, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        return Ok(None);
    }
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::openat2(root, parent, flags, Mode::empty(), resolve) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Does overlayfs stop at this directory when it merges?
pub(super) fn is_opaque(dir: &OwnedFd) -> Result<bool, Errno> {
    let mut value = [0; 1];
    match rustix::fs::fgetxattr(dir, "trusted.overlay.opaque", &mut value) {
        Ok(n) => Ok(n == 1 && value == *b"y"),
        Err(Errno::NODATA | Errno::NOTSUP | Errno::RANGE) => Ok(false),
        Err(error) => Err(error),
    }
}

fn entry(path: &[u8], stat: &Stat) -> Entry {
    Entry {
        path: path.to_vec(),
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: Time {
            seconds: stat.st_mtime,
            nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
        },
        ..Entry::default()
    }
}

/// The extended attributes of something in a lower layer, as the archive it came from had them.
pub(super) fn xattrs(fd: &OwnedFd, path: &[u8]) -> Result<Xattrs, LayerError> {
    super::super::pack::read_xattrs(fd).map_err(|e| failed("read the extended attributes of", path, e))
}
