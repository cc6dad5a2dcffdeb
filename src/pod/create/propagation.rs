//! Whether a mount source of the node can propagate as asked.

use std::path::{Path, PathBuf};

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
    let mounts = mountinfo.lines().filter_map(|line| {
        let (fields, _) = line.split_once(" - ")?;
        let mut fields = fields.split(' ');
        let point = PathBuf::from(unescape(fields.nth(4)?));
        let mut tags = fields.skip(1);
        let (mut shared, mut slave) = (false, false);
        tags.by_ref().for_each(|tag| {
            shared |= tag.starts_with("shared:");
            slave |= tag.starts_with("master:");
        });
        path.starts_with(&point).then_some((point, shared, slave))
    });
    // Of several at one place the last covers the others.
    mounts.max_by_key(|(point, ..)| point.components().count())
}

/// mountinfo writes blanks and the like as three octal digits.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((plain, code)) = rest.split_once('\\') {
        out.push_str(plain);
        match code
            .get(..3)
            .and_then(|digits| u8::from_str_radix(digits, 8).ok())
        {
            Some(byte) => {
                out.push(char::from(byte));
                rest = &code[3..];
            }
            None => {
                out.push('\\');
                rest = code;
            }
        }
    }
    out + rest
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
