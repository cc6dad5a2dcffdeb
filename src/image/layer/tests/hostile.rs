//! Layers that want out.

use super::*;

#[test]
fn paths_out_of_the_layer_are_refused() {
    for path in [
        "../secret/file",
        "a/../../secret/file",
        "/../secret/file",
        "..",
        "./../secret/new",
    ] {
        Tar::default()
            .file(path, "overwritten")
            .unpack()
            .fails_with("leads out of the layer");
        Tar::default()
            .dir(path)
            .unpack()
            .fails_with("leads out of the layer");
        Tar::default()
            .symlink(path, "x")
            .unpack()
            .fails_with("leads out of the layer");
        Tar::default()
            .file(format!("{path}/.wh.file"), "")
            .unpack()
            .fails_with("leads out of the layer");
        Tar::default()
            .hard_link("link", path)
            .unpack()
            .fails_with("leads out of the layer");
    }
}

#[test]
fn planted_links_do_not_lead_out() {
    for target in [
        "../secret",
        "../../../../../../../../",
        "/",
        "/etc",
        "/proc/self/root",
        "/proc/self/cwd/..",
    ] {
        let layer = Tar::default()
            .symlink("a", target)
            .file("a/file", "overwritten")
            .dir("a/new/")
            .symlink("a/link", "x")
            .file("a/.wh.gone", "")
            .add(EntryKind::Fifo, "a/pipe", |_| {})
            .add(EntryKind::Directory, "a/mode/", |e| e.mode = 0o7777)
            .unpack();
        layer.assert_contained();
        assert!(!Path::new("/etc/pipe").exists() && !Path::new("/pipe").exists());
        assert!(!Path::new("/etc/new").exists() && !Path::new("/new").exists());
        layer.ok();
    }
}

#[test]
fn the_real_secret_is_out_of_reach_by_its_full_path() {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    fs::write(&secret, "kept").unwrap();
    let layer = Tar::default()
        .symlink("out", dir.path().as_os_str().as_bytes())
        .file("out/secret", "overwritten")
        .symlink("direct", secret.as_os_str().as_bytes())
        .add(EntryKind::File, "direct", |e| (e.mode, e.uid) = (0o6777, 1))
        .unpack()
        .ok();
    assert_eq!(fs::read(&secret).unwrap(), b"kept");
    assert_eq!(fs::metadata(&secret).unwrap().nlink(), 1);
    assert!(layer.metadata("direct").is_file());
}

#[test]
fn a_directory_replaced_by_a_link_does_not_lead_out() {
    let layer = Tar::default()
        .dir("d/")
        .file("d/x", "x")
        .symlink("d", "../secret")
        .file("d/file", "overwritten")
        .add(EntryKind::Directory, "d", |e| e.mode = 0o777)
        .file("d/y", "y")
        .unpack()
        .ok();
    assert_eq!(layer.read("d/y"), "y");
    assert_eq!(layer.read("secret/file"), "overwritten");
}

#[test]
fn attributes_of_a_removed_directory_do_not_reach_its_successor() {
    let layer = Tar::default()
        .dir("d/")
        .add(EntryKind::Directory, "d/sub/", |e| (e.mode, e.uid) = (0o7777, 77))
        .symlink("d", "other")
        .dir("other/sub/")
        .unpack()
        .ok();
    let sub = layer.metadata("other/sub");
    assert_eq!((sub.mode() & 0o7777, sub.uid()), (0o755, 0));
}

#[test]
fn hard_links_do_not_reach_out() {
    // Through a link of the layer, a hard link's target is looked up inside it, where there is no such file.
    for target in ["../secret", "/etc"] {
        let layer = Tar::default()
            .symlink("a", target)
            .hard_link("stolen", "a/passwd")
            .unpack();
        assert!(
            matches!(layer.result, Err(LayerError::MissingLinkTarget { .. })),
            "{:?}",
            layer.result
        );
    }
    let absolute = Tar::default().hard_link("stolen", "/etc/passwd").unpack();
    assert!(matches!(
        absolute.result,
        Err(LayerError::MissingLinkTarget { .. })
    ));
    // A hard link to a symbolic link is a second symbolic link; writing to it replaces it.
    let layer = Tar::default()
        .symlink("a", "../secret/file")
        .hard_link("b", "a")
        .file("b", "overwritten")
        .unpack()
        .ok();
    assert_eq!(layer.read("b"), "overwritten");
}

#[test]
fn hard_links_to_directories_are_refused() {
    Tar::default()
        .dir("d/")
        .hard_link("l", "d")
        .unpack()
        .fails_with("hard link to a directory");
    Tar::default()
        .hard_link("l", "/")
        .unpack()
        .fails_with("hard link to a directory");
}

#[test]
fn link_loops_end() {
    Tar::default()
        .symlink("a", "b")
        .symlink("b", "a")
        .file("a/x", "")
        .unpack()
        .fails_with("too many symbolic links");
    Tar::default()
        .symlink("a", "a")
        .hard_link("x", "a/b")
        .unpack()
        .fails_with("too many symbolic links");
}

#[test]
fn walking_is_bounded_for_the_whole_layer() {
    let mut tar = Tar::default().dir("d/").symlink("l", "d/../".repeat(500) + "d");
    for i in 0..100 {
        tar = tar
            .file(format!("l/x/{}", i % 50), "")
            .file(format!("d/{i}"), "")
            .dir(format!("l/{i}/"))
            .file(format!("l/{i}/x"), "");
    }
    let bytes = tar.bytes();
    let limits = Limits {
        entries: 500,
        ..Limits::default()
    };
    unpack_with(&bytes, &Digest::sha256(&bytes), &[], &limits).fails_with("path components to walk");
}

#[test]
fn a_file_is_no_parent() {
    Tar::default()
        .file("a", "")
        .file("a/b", "")
        .unpack()
        .fails_with("is not a directory");
    Tar::default()
        .file("a", "")
        .dir("a/b/c/")
        .unpack()
        .fails_with("is not a directory");
}

#[test]
fn the_root_stays_a_directory() {
    for kind in [
        EntryKind::File,
        EntryKind::Symlink,
        EntryKind::Fifo,
        EntryKind::HardLink,
    ] {
        Tar::default()
            .add(kind, "./", |e| e.link = b"x".to_vec())
            .unpack()
            .fails_with("root is not a directory");
    }
}

#[test]
fn device_numbers_are_checked() {
    Tar::default()
        .add(EntryKind::Char, "x", |e| e.device = (0x1000, 0))
        .unpack()
        .fails_with("out of range");
    Tar::default()
        .add(EntryKind::Block, "x", |e| e.device = (8, 0x10_0000))
        .unpack()
        .fails_with("out of range");
}

#[test]
fn a_device_over_a_file_replaces_it() {
    let layer = Tar::default()
        .file("f", "x")
        .add(EntryKind::Char, "f", |e| e.device = (1, 3))
        .file("f", "not into the device")
        .unpack()
        .ok();
    assert_eq!(layer.read("f"), "not into the device");
}

#[test]
fn a_malformed_capability_is_an_error() {
    let layer = Tar::default()
        .add(EntryKind::File, "f", |e| {
            e.xattrs = vec![(b"security.capability".to_vec(), b"nonsense".to_vec())]
        })
        .unpack();
    layer.fails_with("security.capability");
}

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
