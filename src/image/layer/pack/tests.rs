//! Archives are the same bytes each time.

#![allow(clippy::unwrap_used)]

use super::super::archive::{Entry, EntryKind, Time};
use super::*;

#[test]
fn a_known_header() {
    let mut archive = Archive::new(Vec::new());
    let entry = Entry {
        path: b"etc/passwd".to_vec(),
        mode: 0o644,
        gid: 8,
        mtime: Time { seconds: 1, nanos: 0 },
        ..Entry::default()
    };
    archive.append(&entry, b"root").unwrap();
    let bytes = archive.finish().unwrap();
    assert_eq!(bytes.len(), 512 + 512 + 1024);
    assert_eq!(
        &bytes[100..136],
        b"0000644\x000000000\x000000010\x0000000000004\0"
    );
    assert_eq!(&bytes[136..148], b"00000000001\0");
    assert_eq!(&bytes[148..156], b"011200\0 ".as_slice());
    assert_eq!(&bytes[512..516], b"root");
}

#[test]
fn data_that_ends_early_is_an_error() {
    let mut archive = Archive::new(Vec::new());
    let entry = Entry {
        path: b"f".to_vec(),
        ..Entry::default()
    };
    assert!(archive.append_from(&entry, 10, b"short".as_slice()).is_err());
}

#[test]
fn what_is_no_file_has_no_data() {
    let mut archive = Archive::new(Vec::new());
    let entry = Entry {
        path: b"d/".to_vec(),
        kind: EntryKind::Directory,
        ..Entry::default()
    };
    archive.append(&entry, b"ignored").unwrap();
    assert_eq!(archive.finish().unwrap().len(), 512 + 1024);
}

#[test]
fn order_on_disk_does_not_matter() {
    let pack = |names: &[&str]| {
        let dir = tempfile::tempdir().unwrap();
        for name in names {
            let file = std::fs::File::create(dir.path().join(name)).unwrap();
            file.set_modified(std::time::UNIX_EPOCH).unwrap();
        }
        std::fs::File::open(dir.path())
            .unwrap()
            .set_modified(std::time::UNIX_EPOCH)
            .unwrap();
        pack_tree(dir.path(), Vec::new()).unwrap()
    };
    assert_eq!(pack(&["a", "b", "a.b", "A"]), pack(&["A", "a.b", "b", "a"]));
}

#[test]
fn nothing_that_is_in_the_way_holds_packing_up() {
    let dir = tempfile::tempdir().unwrap();
    nix::unistd::mkfifo(&dir.path().join("pipe"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    std::os::unix::fs::symlink("/etc", dir.path().join("link")).unwrap();
    let bytes = pack_tree(dir.path(), Vec::new()).unwrap();
    // The directory itself, a pipe and a link, none of which has data, and the end.
    assert_eq!(bytes.len(), 3 * 512 + 1024 + mtime_records(&bytes));
    // What was a directory when it was listed may be a link when it is opened.
    assert!(pack_tree(&dir.path().join("link"), Vec::new()).is_err());
}

/// Bytes of the records that say when each entry was changed.
fn mtime_records(archive: &[u8]) -> usize {
    archive
        .chunks(512)
        .filter(|block| block.starts_with(b"PaxHeader"))
        .count()
        * 1024
}

#[test]
fn a_tree_without_end_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let mut deep = dir.path().to_owned();
    for _ in 0..513 {
        deep.push("d");
        std::fs::create_dir(&deep).unwrap();
    }
    let error = pack_tree(dir.path(), Vec::new()).unwrap_err();
    assert!(error.to_string().contains("deeper than 512"), "{error}");
    std::fs::remove_dir(&deep).unwrap();
    pack_tree(dir.path(), Vec::new()).unwrap();
}
