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
