//! Names of block devices, and the file system that holds the writable layers.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// A file system.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileSystem {
    /// What it is on: a device, or whatever the mount table calls its source.
    pub device: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Inodes in all.
    pub inodes: u64,
    /// Inodes free.
    pub inodes_free: u64,
}

impl FileSystem {
    /// The one that `dir` is on. Empty if it cannot be asked.
    pub(super) fn of(dir: &Path) -> Self {
        let (Ok(meta), Ok(stat)) = (fs::metadata(dir), rustix::fs::statvfs(dir)) else {
            return Self::default();
        };
        let number = (rustix::fs::major(meta.dev()), rustix::fs::minor(meta.dev()));
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        Self {
            device: source_of(&table, number).unwrap_or_else(|| device_name(number.0, number.1)),
            bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
            inodes: stat.f_files,
            inodes_free: stat.f_ffree,
        }
    }
}

/// The source of a mounted file system by its device number.
fn source_of(mountinfo: &str, (major, minor): (u32, u32)) -> Option<String> {
    let number = format!("{major}:{minor}");
    let line = mountinfo.lines().find(|l| l.split(' ').nth(2) == Some(&number))?;
    let (_, right) = line.split_once(" - ")?;
    right.split(' ').nth(1).map(str::to_owned)
}

/// The path of a block device by its number, such as `/dev/vda`; the number itself for one the kernel does not know.
/// Looked up once for each.
pub fn device_name(major: u32, minor: u32) -> String {
    static NAMES: Mutex<Option<HashMap<(u32, u32), String>>> = Mutex::new(None);
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    let names = names.get_or_insert_default();
    // Numbers are few, but a node that adds and removes devices for years must not fill the table.
    if names.len() > 4096 {
        names.clear();
    }
    let name = names.entry((major, minor)).or_insert_with(|| {
        let event = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/uevent")).unwrap_or_default();
        match event.lines().find_map(|l| l.strip_prefix("DEVNAME=")) {
            Some(name) => format!("/dev/{name}"),
            None => format!("{major}:{minor}"),
        }
    });
    name.clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_is_found_by_number() {
        let table = "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n23 22 0:5 / /dev rw - devtmpfs devtmpfs rw\n";
        assert_eq!(source_of(table, (254, 0)).as_deref(), Some("/dev/vda"));
        assert_eq!(source_of(table, (0, 5)).as_deref(), Some("devtmpfs"));
        assert_eq!(source_of(table, (7, 7)), None);
    }

    #[test]
    fn a_directory_is_on_a_file_system_with_a_size() {
        let found = FileSystem::of(Path::new("/"));
        assert!(found.bytes > 0 && !found.device.is_empty(), "{found:?}");
        assert_eq!(FileSystem::of(Path::new("/no/such/place")), FileSystem::default());
        assert_eq!(device_name(4095, 1), "4095:1");
    }
}
