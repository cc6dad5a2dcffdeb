//! Whether a mount source of the node can propagate as asked.

use std::path::{Path, PathBuf};

use crate::types::MountLine;
use crate::types::container::Propagation;
use crate::types::error::{Context, Error, Result};

/// Refuses propagation that would silently not happen: towards the container the source's mount has to be shared or a
/// slave, both ways it has to be shared.
pub(super) fn check(source: &Path, wanted: Propagation) -> Result<()> {
    if wanted == Propagation::Private {
        return Ok(());
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    let Some((point, shared, slave)) = mount_of(&mounts, source) else {
        return Ok(());
    };
    let fine = shared || (slave && wanted == Propagation::HostToContainer);
    if fine {
        return Ok(());
    }
    let needs = if wanted == Propagation::Bidirectional {
        "shared"
    } else {
        "shared or slave"
    };
    Err(Error::invalid(format!(
        "{} is on {}, which is not a {needs} mount: nothing would propagate; see mount --make-rshared",
        source.display(),
        point.display()
    )))
}

/// The mount that `path` is on: its mount point, and whether it is shared and a slave.
fn mount_of(mountinfo: &str, path: &Path) -> Option<(PathBuf, bool, bool)> {
    let tagged = |m: &MountLine<'_>, tag: &str| m.tags.split(' ').any(|t| t.starts_with(tag));
    let on = MountLine::all(mountinfo).filter(|m| path.starts_with(&m.point));
    // Of several at one place the last covers the others.
    on.max_by_key(|m| m.point.components().count())
        .map(|m| (m.point.clone(), tagged(&m, "shared:"), tagged(&m, "master:")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_and_last_mount_counts() {
        let info = "1 0 8:1 / / rw shared:1 - ext4 /dev/a rw\n\
                    2 1 8:2 / /a rw - ext4 /dev/b rw\n\
                    3 1 8:3 / /a rw master:4 - ext4 /dev/c rw\n\
                    4 1 8:4 / /b\\040c rw,x shared:7 master:4 - ext4 /dev/c rw\n";
        let of = |path: &str| mount_of(info, Path::new(path)).map(|(_, shared, slave)| (shared, slave));
        assert_eq!(of("/x"), Some((true, false)));
        assert_eq!(of("/a/x"), Some((false, true)));
        assert_eq!(of("/b c/x"), Some((true, true)));
        assert_eq!(of("/ab"), Some((true, false)));
    }
}
