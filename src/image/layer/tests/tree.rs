//! What ordinary layers have: every kind of entry and every attribute.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

use super::*;

#[test]
fn every_kind_of_entry() {
    let layer = Tar::default()
        .dir("etc/")
        .file("etc/passwd", "root")
        .symlink("etc/mtab", "../proc/self/mounts")
        .hard_link("etc/passwd-", "etc/passwd")
        .add(EntryKind::Fifo, "run/pipe", |e| e.mode = 0o600)
        .add(EntryKind::Char, "dev/null", |e| e.device = (1, 3))
        .add(EntryKind::Block, "dev/loop0", |e| e.device = (7, 0))
        .unpack()
        .ok();
    assert_eq!(layer.read("etc/passwd"), "root");
    assert_eq!(
        layer.metadata("etc/passwd").ino(),
        layer.metadata("etc/passwd-").ino()
    );
    assert_eq!(
        fs::read_link(layer.path("etc/mtab"))
            .unwrap()
            .as_os_str()
            .as_bytes(),
        b"../proc/self/mounts"
    );
    assert!(layer.metadata("run/pipe").file_type().is_fifo());
    assert_eq!(layer.metadata("run/pipe").permissions().mode() & 0o7777, 0o600);
    assert!(layer.metadata("dev/null").file_type().is_char_device());
    assert_eq!(layer.metadata("dev/null").rdev(), rustix::fs::makedev(1, 3));
    assert!(layer.metadata("dev/loop0").file_type().is_block_device());
    let unpacked = layer.result.as_ref().unwrap();
    assert_eq!(unpacked.inodes, 1 + 3 + 5);
    assert_eq!(unpacked.size, 4096 * (1 + 3 + 1));
    assert_eq!(unpacked.implied, [PathBuf::from("dev"), PathBuf::from("run")]);
}

#[test]
fn owners_modes_and_times() {
    let layer = Tar::default()
        .add(EntryKind::Directory, "./", |e| {
            (e.mode, e.uid, e.mtime.seconds) = (0o1777, 5, 1_000_000_000)
        })
        .add(EntryKind::Directory, "group/", |e| (e.mode, e.gid) = (0o2775, 50))
        .add(EntryKind::File, "group/suid", |e| {
            (e.mode, e.uid, e.gid) = (0o6755, 1000, 3_000_000_000)
        })
        .add(EntryKind::File, "group/plain", |e| {
            e.mtime = Time {
                seconds: 1_234_567_890,
                nanos: 123_456_789,
            }
        })
        .add(EntryKind::File, "old", |e| {
            e.mtime = Time {
                seconds: -2,
                nanos: 500_000_000,
            }
        })
        .add(EntryKind::Symlink, "link", |e| {
            (e.uid, e.mtime.seconds, e.link) = (7, 1_111_111_111, b"nowhere".to_vec());
        })
        .add(EntryKind::Fifo, "pipe", |e| (e.mode, e.uid) = (0o7622, 9))
        .unpack()
        .ok();
    let root = layer.metadata("");
    assert_eq!(
        (root.mode() & 0o7777, root.uid(), root.mtime()),
        (0o1777, 5, 1_000_000_000)
    );
    let group = layer.metadata("group");
    assert_eq!(
        (group.mode() & 0o7777, group.gid(), group.mtime()),
        (0o2775, 50, 1_700_000_000)
    );
    let suid = layer.metadata("group/suid");
    assert_eq!(
        (suid.mode() & 0o7777, suid.uid(), suid.gid()),
        (0o6755, 1000, 3_000_000_000)
    );
    let plain = layer.metadata("group/plain");
    assert_eq!(
        (plain.gid(), plain.mtime(), plain.mtime_nsec()),
        (0, 1_234_567_890, 123_456_789)
    );
    let old = layer.metadata("old");
    assert_eq!((old.mtime(), old.mtime_nsec()), (-2, 500_000_000));
    let link = layer.metadata("link");
    assert_eq!((link.uid(), link.mtime()), (7, 1_111_111_111));
    let pipe = layer.metadata("pipe");
    assert_eq!((pipe.mode() & 0o7777, pipe.uid()), (0o7622, 9));
    assert!(layer.result.as_ref().unwrap().implied.is_empty());
}

#[test]
fn times_out_of_range_are_clamped() {
    let at = |seconds| Time { seconds, nanos: 1 };
    let layer = Tar::default()
        .add(EntryKind::File, "late", |e| e.mtime = at(i64::MAX))
        .add(EntryKind::Directory, "early/", |e| e.mtime = at(i64::MIN + 1))
        .unpack()
        .ok();
    assert!(layer.metadata("early").mtime() < 0 && layer.metadata("late").mtime() > 0);
}

#[test]
fn the_store_does_not_shine_through() {
    let dir = tempfile::tempdir().unwrap();
    let dest = dir.path().join("layer");
    fs::create_dir(&dest).unwrap();
    std::os::unix::fs::chown(&dest, Some(12), Some(34)).unwrap();
    fs::set_permissions(&dest, fs::Permissions::from_mode(0o2700)).unwrap();
    let bytes = Tar::default().file("file", "x").dir("dir/").bytes();
    let expected = Expected {
        blob: None,
        blob_size: None,
        diff_id: &Digest::sha256(&bytes),
    };
    unpack(bytes.as_slice(), &expected, &dest, &[], &Limits::default()).unwrap();
    for path in ["", "file", "dir"] {
        let metadata = fs::metadata(dest.join(path)).unwrap();
        assert_eq!(
            (metadata.uid(), metadata.gid(), metadata.mode() & 0o7000),
            (0, 0, 0),
            "{path:?}"
        );
    }
    assert_eq!(fs::metadata(&dest).unwrap().mode() & 0o7777, 0o755);
}

#[test]
fn extended_attributes() {
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let xattr = |name: &str, value: &[u8]| (name.as_bytes().to_vec(), value.to_vec());
    let layer = Tar::default()
        .add(EntryKind::File, "ping", |e| {
            (e.mode, e.uid) = (0o755, 3);
            e.xattrs = vec![
                xattr("security.capability", &capability),
                xattr("user.note", b"a=b\n\0c"),
                // A label of another node's policy.
                xattr("security.selinux", b"u:object_r:nobody_knows_t:s0"),
            ];
        })
        .add(EntryKind::Directory, "dir/", |e| {
            e.xattrs = vec![
                xattr("user.empty", b""),
                xattr("trusted.overlay.opaque", b"y"),
                xattr("trusted.overlay.redirect", b"/etc"),
                xattr("user.overlay.opaque", b"y"),
            ];
        })
        .add(EntryKind::Symlink, "link", |e| {
            e.link = b"ping".to_vec();
            e.xattrs = vec![
                xattr("trusted.note", b"t"),
                xattr("user.note", b"links cannot have this"),
            ];
        })
        .add(EntryKind::File, "odd", |e| {
            e.xattrs = vec![xattr("nonsense", b"x")]
        })
        .unpack()
        .ok();
    assert_eq!(
        layer.xattr("ping", "security.capability").as_deref(),
        Some(capability.as_slice())
    );
    assert_eq!(
        layer.xattr("ping", "user.note").as_deref(),
        Some(b"a=b\n\0c".as_slice())
    );
    assert_ne!(
        layer.xattr("ping", "security.selinux").as_deref(),
        Some(b"u:object_r:nobody_knows_t:s0".as_slice())
    );
    assert_eq!(layer.xattr("dir", "user.empty").as_deref(), Some(b"".as_slice()));
    assert!(!layer.is_opaque("dir"));
    assert_eq!(layer.xattr("dir", "trusted.overlay.redirect"), None);
    assert_eq!(layer.xattr("dir", "user.overlay.opaque"), None);
    assert_eq!(
        layer.xattr("dir", "trusted.overlay.overlay.redirect").as_deref(),
        Some(b"/etc".as_slice())
    );
    assert_eq!(
        layer.xattr("dir", "user.overlay.overlay.opaque").as_deref(),
        Some(b"y".as_slice())
    );
    assert_eq!(
        layer.xattr("link", "trusted.note").as_deref(),
        Some(b"t".as_slice())
    );
    assert_eq!(layer.result.as_ref().unwrap().skipped_xattrs, 2);
}

#[test]
fn access_lists_do_not_leak_into_children() {
    // Version 2; user::rwx, user:1000:rwx, group::r-x, mask::rwx, other::r-x.
    let entry = |tag: u16, perm: u16, id: u32| {
        [&tag.to_le_bytes()[..], &perm.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    let none = u32::MAX;
    let acl = [
        2u32.to_le_bytes().to_vec(),
        entry(1, 7, none),
        entry(2, 7, 1000),
        entry(4, 5, none),
        entry(16, 7, none),
        entry(32, 5, none),
    ]
    .concat();
    let layer = Tar::default()
        .add(EntryKind::Directory, "shared/", |e| {
            e.mode = 0o775;
            e.xattrs = vec![
                (b"system.posix_acl_access".to_vec(), acl.clone()),
                (b"system.posix_acl_default".to_vec(), acl.clone()),
            ];
        })
        .file("shared/file", "x")
        .dir("shared/sub/")
        .unpack()
        .ok();
    assert_eq!(
        layer.xattr("shared", "system.posix_acl_access"),
        Some(acl.clone())
    );
    assert_eq!(layer.xattr("shared", "system.posix_acl_default"), Some(acl));
    assert_eq!(layer.metadata("shared").mode() & 0o7777, 0o775);
    assert_eq!(layer.xattr("shared/file", "system.posix_acl_access"), None);
    assert_eq!(layer.xattr("shared/sub", "system.posix_acl_default"), None);
}

#[test]
fn odd_and_long_names() {
    let long = "component-of-some-length/".repeat(30) + &"f".repeat(255);
    let target = "../".repeat(400) + "x";
    let layer = Tar::default()
        .file(&long, "long")
        .symlink("long-link", &target)
        .hard_link("hard", &long)
        .file(b"bytes-\xff\xfe".as_slice(), "not text")
        .file("new\nline and blank", "x")
        .file("..file", "x")
        .file("a/./b//../c", "cleaned")
        .file("/absolute", "x")
        .unpack()
        .ok();
    assert_eq!(layer.read(&long), "long");
    assert_eq!(layer.read("hard"), "long");
    assert_eq!(
        os(&fs::read_link(layer.path("long-link")).unwrap()),
        target.as_bytes()
    );
    let odd = layer
        .dir
        .path()
        .join("layer")
        .join(std::ffi::OsStr::from_bytes(b"bytes-\xff\xfe"));
    assert_eq!(fs::read(odd).unwrap(), b"not text");
    for path in ["new\nline and blank", "..file", "absolute"] {
        assert_eq!(layer.read(path), "x", "{path}");
    }
    assert_eq!(layer.read("a/c"), "cleaned");
}

#[test]
fn the_last_entry_of_a_name_wins() {
    let layer = Tar::default()
        .file("a", "first")
        .file("a", "second")
        .dir("d/")
        .file("d/kept", "x")
        .add(EntryKind::Directory, "d/", |e| e.mode = 0o700)
        .dir("tree/sub/")
        .file("tree/sub/file", "x")
        .file("tree", "now a file")
        .symlink("s", "a")
        .file("s", "not through the link")
        .dir("n/")
        .add(EntryKind::Fifo, "n", |_| {})
        .file("f", "x")
        .dir("f/")
        .file("f/inside", "x")
        .unpack()
        .ok();
    assert_eq!(layer.read("a"), "second");
    assert_eq!(layer.read("d/kept"), "x");
    assert_eq!(layer.metadata("d").mode() & 0o777, 0o700);
    assert_eq!(layer.read("tree"), "now a file");
    assert_eq!(layer.read("s"), "not through the link");
    assert!(layer.metadata("n").file_type().is_fifo());
    assert_eq!(layer.read("f/inside"), "x");
    assert!(
        layer.is_opaque("f"),
        "the file before it hid what lower layers have"
    );
    assert!(!layer.is_opaque("d"));
    let unpacked = layer.result.as_ref().unwrap();
    // root, a, d, d/kept, tree, s, n, f, f/inside
    assert_eq!(unpacked.inodes, 9);
    assert_eq!(unpacked.size, 4096 * 8);
}

#[test]
fn paths_through_the_layers_own_links_stay_inside() {
    let layer = Tar::default()
        .dir("usr/lib/")
        .symlink("lib", "usr/lib")
        .symlink("abs", "/usr")
        .symlink("up", "../../../usr/lib/../lib")
        .symlink("dangling", "made/on/demand")
        .file("lib/one", "1")
        .file("abs/lib/two", "2")
        .file("up/three", "3")
        .file("dangling/four", "4")
        .hard_link("five", "lib/one")
        .symlink("lib", "/elsewhere")
        .file("lib/six", "6")
        .unpack()
        .ok();
    assert_eq!(layer.read("usr/lib/one"), "1");
    assert_eq!(layer.read("usr/lib/two"), "2");
    assert_eq!(layer.read("usr/lib/three"), "3");
    assert_eq!(layer.read("made/on/demand/four"), "4");
    assert_eq!(layer.read("five"), "1");
    assert_eq!(layer.read("elsewhere/six"), "6");
    assert!(!layer.exists("usr/lib/six"));
}

#[test]
fn hard_links_to_links_and_to_themselves() {
    let layer = Tar::default()
        .symlink("link", "/etc/passwd")
        .hard_link("other", "link")
        .file("file", "x")
        .hard_link("file", "./file")
        .file("later", "old")
        .hard_link("later", "/file")
        .unpack()
        .ok();
    assert!(layer.metadata("other").is_symlink());
    assert_eq!(layer.metadata("other").nlink(), 2);
    assert_eq!(layer.read("file"), "x");
    assert_eq!(layer.metadata("later").ino(), layer.metadata("file").ino());
}

#[test]
fn directory_times_survive_what_is_made_inside() {
    let layer = Tar::default()
        .add(EntryKind::Directory, "a/", |e| e.mtime.seconds = 1)
        .add(EntryKind::Directory, "a/b/", |e| e.mtime.seconds = 2)
        .file("a/b/file", "x")
        .file("a/file", "x")
        .unpack()
        .ok();
    assert_eq!(layer.metadata("a").mtime(), 1);
    assert_eq!(layer.metadata("a/b").mtime(), 2);
}
