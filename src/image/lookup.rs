//! Reading a file of an image without mounting it: a walk over its layers with the rules of overlay.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use crate::types::error::{Context, Error, Result};

/// As many symbolic links as the kernel follows.
const MAX_LINKS: usize = 40;

/// Finds what `path` is in the image made of `layers` (top first), following symbolic links within the image.
/// Returns the place of the file or directory in the topmost layer that has it.
///
/// # Errors
/// A link loop; a layer that cannot be read.
pub fn find(layers: &[PathBuf], path: &Path) -> Result<Option<PathBuf>> {
    let mut todo: VecDeque<OsString> = components(path);
    let mut done: Vec<OsString> = Vec::new();
    let mut links = 0;
    while let Some(name) = todo.pop_front() {
        if name == ".." {
            done.pop();
            continue;
        }
        done.push(name);
        let Some(place) = entry(layers, &done)? else {
            return Ok(None);
        };
        let kind = fs::symlink_metadata(&place)
            .with_context(|| format!("read {}", place.display()))?
            .file_type();
        if kind.is_symlink() {
            links += 1;
            if links > MAX_LINKS {
                return Err(Error::invalid(format!(
                    "image path {}: too many symbolic links",
                    path.display()
                )));
            }
            let target = fs::read_link(&place).with_context(|| format!("read link {}", place.display()))?;
            if target.is_absolute() {
                done.clear();
            } else {
                done.pop();
            }
            for part in components(&target).into_iter().rev() {
                todo.push_front(part);
            }
            continue;
        }
        if !kind.is_dir() && !todo.is_empty() {
            return Ok(None);
        }
    }
    // A trailing `..` leaves `found` below the directory that is meant.
    if done.is_empty() {
        Ok(layers.first().cloned())
    } else {
        entry(layers, &done)
    }
}

/// Reads a regular file of the image, `limit` bytes at most; empty if there is none.
///
/// # Errors
/// The file is larger than `limit` or cannot be read.
pub fn read(layers: &[PathBuf], path: &Path, limit: u64) -> Result<Vec<u8>> {
    let Some(place) = find(layers, path)? else {
        return Ok(Vec::new());
    };
    let meta = fs::symlink_metadata(&place).with_context(|| format!("read {}", place.display()))?;
    if !meta.is_file() {
        return Ok(Vec::new());
    }
    if meta.len() > limit {
        return Err(Error::invalid(format!(
            "image file {}: {} bytes are more than the {limit} that husk reads",
            path.display(),
            meta.len()
        )));
    }
    fs::read(&place).with_context(|| format!("read {}", place.display()))
}

/// Copies the directory `path` of the image, as a container would see it, into the existing directory `dest`, with
/// owners, modes and links. Nothing happens if the image has no such directory.
///
/// # Errors
/// Anything that cannot be read or written.
pub fn copy_tree(layers: &[PathBuf], path: &Path, dest: &Path) -> Result<()> {
    let Some(place) = find(layers, path)? else {
        return Ok(());
    };
    if !place.is_dir() {
        return Ok(());
    }
    // Where the path really is once its links are followed: the place's own path below its layer.
    let Some(names) = layers.iter().find_map(|l| place.strip_prefix(l).ok()) else {
        return Ok(());
    };
    let mut names: Vec<OsString> = components(names).into();
    copy_dir(layers, &mut names, &place, dest)
}

fn copy_dir(layers: &[PathBuf], names: &mut Vec<OsString>, place: &Path, dest: &Path) -> Result<()> {
    for name in merged_names(layers, names)? {
        names.push(name.clone());
        if let Some(from) = entry(layers, names)? {
            let to = dest.join(&name);
            let what = || format!("copy {} to {}", from.display(), to.display());
            let meta = fs::symlink_metadata(&from).with_context(what)?;
            if meta.is_dir() {
                fs::create_dir(&to).with_context(what)?;
                copy_dir(layers, names, &from, &to)?;
            } else {
                copy_leaf(&from, &to, &meta)?;
            }
        }
        names.pop();
    }
    let meta = fs::symlink_metadata(place).with_context(|| format!("read {}", place.display()))?;
    copy_owner(dest, &meta)
}

fn merged_names(layers: &[PathBuf], dir: &[OsString]) -> Result<std::collections::BTreeSet<OsString>> {
    let mut all = std::collections::BTreeSet::new();
    for layer in layers {
        let place = dir.iter().fold(layer.clone(), |p, n| p.join(n));
        // Whether a name is really visible is for `entry` to say.
        let Ok(list) = fs::read_dir(&place) else { continue };
        for item in list {
            all.insert(
                item.with_context(|| format!("read directory {}", place.display()))?
                    .file_name(),
            );
        }
    }
    Ok(all)
}

fn copy_leaf(from: &Path, to: &Path, meta: &fs::Metadata) -> Result<()> {
    use nix::sys::stat::{Mode, SFlag, mknod};
    let what = || format!("copy {} to {}", from.display(), to.display());
    let kind = meta.file_type();
    if kind.is_symlink() {
        let target = fs::read_link(from).with_context(what)?;
        std::os::unix::fs::symlink(target, to).with_context(what)?;
    } else if kind.is_file() {
        fs::copy(from, to).with_context(what)?;
    } else {
        let node = SFlag::from_bits_truncate(meta.mode());
        mknod(
            to,
            node & SFlag::S_IFMT,
            Mode::from_bits_truncate(meta.mode() & 0o7777),
            meta.rdev(),
        )
        .with_context(what)?;
    }
    copy_owner(to, meta)
}

fn copy_owner(to: &Path, meta: &fs::Metadata) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let what = || format!("set owner and mode of {}", to.display());
    std::os::unix::fs::lchown(to, Some(meta.uid()), Some(meta.gid())).with_context(what)?;
    if meta.file_type().is_symlink() {
        return Ok(());
    }
    fs::set_permissions(to, fs::Permissions::from_mode(meta.mode() & 0o7777)).with_context(what)
}

fn components(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|c| match c {
            Component::Normal(name) => Some(OsString::from_vec(name.as_bytes().to_vec())),
            Component::ParentDir => Some("..".into()),
            _ => None,
        })
        .collect()
}

/// The entry at `names` (no links among its parents) in the topmost layer that has it and is not hidden by a
/// whiteout, an opaque directory or a non-directory above.
fn entry(layers: &[PathBuf], names: &[OsString]) -> Result<Option<PathBuf>> {
    'layers: for layer in layers {
        let mut place = layer.clone();
        let mut opaque = false;
        for (i, name) in names.iter().enumerate() {
            opaque |= i > 0 && is_opaque(&place);
            place.push(name);
            let meta = match fs::symlink_metadata(&place) {
                Ok(meta) => meta,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                    if opaque {
                        return Ok(None);
                    }
                    continue 'layers;
                }
                Err(e) => return Err(Error::internal(format!("read {}: {e}", place.display()))),
            };
            if meta.file_type().is_char_device() && meta.rdev() == 0 {
                return Ok(None);
            }
            if i + 1 < names.len() && !meta.is_dir() {
                // In the merged view this parent would be a link or a file; the caller walked it as a directory, so
                // a directory of a layer above already decided.
                return Ok(None);
            }
        }
        return Ok(Some(place));
    }
    Ok(None)
}

fn is_opaque(dir: &Path) -> bool {
    let mut value = [0u8; 1];
    matches!(rustix::fs::lgetxattr(dir, "trusted.overlay.opaque", &mut value), Ok(1) if value[0] == b'y')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn layers_hide_and_links_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        let (top, low) = (dir.path().join("top"), dir.path().join("low"));
        fs::create_dir_all(top.join("etc")).unwrap();
        fs::create_dir_all(low.join("etc")).unwrap();
        fs::create_dir_all(low.join("usr/etc")).unwrap();
        fs::write(low.join("etc/passwd"), "low").unwrap();
        fs::write(low.join("usr/etc/group"), "group").unwrap();
        symlink("/usr/etc/group", top.join("etc/group")).unwrap();
        symlink("../../../../../../etc/passwd", top.join("etc/out")).unwrap();
        symlink("loop", top.join("loop")).unwrap();
        nix::sys::stat::mknod(
            &low.join("gone"),
            nix::sys::stat::SFlag::S_IFREG,
            nix::sys::stat::Mode::empty(),
            0,
        )
        .unwrap();
        nix::sys::stat::mknod(
            &top.join("gone"),
            nix::sys::stat::SFlag::S_IFCHR,
            nix::sys::stat::Mode::empty(),
            0,
        )
        .unwrap();
        let layers = [top, low];
        let text = |p: &str| read(&layers, Path::new(p), 100).map(|b| String::from_utf8(b).unwrap());
        assert_eq!(text("/etc/passwd").unwrap(), "low");
        assert_eq!(text("/etc/group").unwrap(), "group");
        assert_eq!(text("/etc/out").unwrap(), "low");
        assert_eq!(text("/gone").unwrap(), "");
        assert_eq!(text("/missing/x").unwrap(), "");
        assert!(text("/loop").is_err());
        assert!(read(&layers, Path::new("/etc/passwd"), 2).is_err());
    }
}
