//! What a layer takes for granted from the layers below.

use std::os::unix::fs::MetadataExt;

use super::*;

fn on(tar: &Tar, lowers: &[&Layer]) -> Layer {
    let bytes = tar.bytes();
    let lowers: Vec<_> = lowers.iter().map(|l| l.path("")).collect();
    unpack_with(&bytes, &Digest::sha256(&bytes), &lowers, &Limits::default())
}

#[test]
fn link_targets_are_copied_up() {
    let bottom = Tar::default()
        .add(EntryKind::Directory, "bin/", |e| (e.mode, e.uid) = (0o711, 3))
        .file("bin/hidden", "deep")
        .add(EntryKind::File, "bin/tool", |e| {
            (e.mode, e.uid, e.mtime.nanos) = (0o4755, 8, 42);
            e.xattrs = vec![(b"user.note".to_vec(), b"n".to_vec())];
        })
        .unpack()
        .ok();
    let middle = Tar::default().symlink("bin/link", "tool").unpack().ok();
    let layer = on(
        &Tar::default()
            .hard_link("new/tool", "bin/tool")
            .hard_link("new/link", "/bin/link")
            .hard_link("x", "bin/tool"),
        &[&middle, &bottom],
    )
    .ok();
    let tool = layer.metadata("bin/tool");
    assert_eq!(
        (tool.mode() & 0o7777, tool.uid(), tool.mtime_nsec(), tool.nlink()),
        (0o4755, 8, 42, 3)
    );
    assert_eq!(layer.metadata("new/tool").ino(), tool.ino());
    assert_eq!(layer.xattr("x", "user.note").as_deref(), Some(b"n".as_slice()));
    assert_eq!(fs::read_link(layer.path("new/link")).unwrap(), Path::new("tool"));
    assert_eq!(bottom.metadata("bin/tool").nlink(), 1);
    assert_eq!(
        layer.metadata("bin").mode() & 0o777,
        0o755,
        "as the middle layer, which is on top, has it"
    );
}

#[test]
fn what_is_hidden_cannot_be_linked() {
    let bottom = Tar::default()
        .file("a/file", "x")
        .file("b/file", "x")
        .file("c/file", "x")
        .unpack()
        .ok();
    let middle = Tar::default()
        .file("a/.wh.file", "")
        .file("b/.wh..wh..opq", "")
        .file(".wh.c", "")
        .unpack()
        .ok();
    for target in ["a/file", "b/file", "c/file", "d/file"] {
        let layer = on(&Tar::default().hard_link("l", target), &[&middle, &bottom]);
        assert!(
            matches!(layer.result, Err(LayerError::MissingLinkTarget { .. })),
            "{target}: {:?}",
            layer.result
        );
    }
    for mark in [".wh.a", "a/.wh.file", "a/.wh..wh..opq", ".wh..wh..opq"] {
        let layer = on(
            &Tar::default().file(mark, "").hard_link("l", "a/file"),
            &[&bottom],
        );
        assert!(
            matches!(layer.result, Err(LayerError::MissingLinkTarget { .. })),
            "{mark}: {:?}",
            layer.result
        );
    }
}

#[test]
fn missing_parents_look_like_those_below() {
    let bottom = Tar::default()
        .add(EntryKind::Directory, "tmp/", |e| {
            (e.mode, e.gid, e.mtime.seconds) = (0o1777, 4, 77)
        })
        .dir("usr/lib/")
        .symlink("lib", "usr/lib")
        .unpack()
        .ok();
    let tar = Tar::default()
        .file("tmp/x", "x")
        .file("lib/y", "y")
        .file("new/z", "z");
    let layer = on(&tar, &[&bottom]).ok();
    let tmp = layer.metadata("tmp");
    assert_eq!((tmp.mode() & 0o7777, tmp.gid(), tmp.mtime()), (0o1777, 4, 77));
    assert_eq!(layer.read("usr/lib/y"), "y");
    assert!(!layer.exists("lib"));
    assert_eq!(layer.result.as_ref().unwrap().implied, [PathBuf::from("new")]);
    let alone = tar.unpack().ok();
    assert_eq!(alone.read("lib/y"), "y");
    assert_eq!(alone.result.as_ref().unwrap().implied.len(), 3);
}

#[test]
fn attributes_can_be_inherited_later() {
    let bottom = Tar::default()
        .add(EntryKind::Directory, "tmp/", |e| {
            (e.mode, e.gid, e.mtime.seconds) = (0o1777, 4, 77);
            e.xattrs = vec![(b"user.overlay.note".to_vec(), b"n".to_vec())];
        })
        .symlink("lib", "usr/lib")
        .unpack()
        .ok();
    let lowers = [bottom.path("")];
    let layer = Tar::default().file("tmp/x", "x").file("new/z", "z").unpack().ok();
    let implied = &layer.result.as_ref().unwrap().implied;
    assert!(super::super::inherit(&layer.path(""), implied, &lowers).unwrap());
    let tmp = layer.metadata("tmp");
    assert_eq!((tmp.mode() & 0o7777, tmp.gid(), tmp.mtime()), (0o1777, 4, 77));
    assert_eq!(
        layer.xattr("tmp", "user.overlay.overlay.note").as_deref(),
        Some(b"n".as_slice())
    );
    assert_eq!(layer.metadata("new").mode() & 0o7777, 0o755);
    let misplaced = Tar::default().file("lib/y", "y").unpack().ok();
    let implied = &misplaced.result.as_ref().unwrap().implied;
    assert!(!super::super::inherit(&misplaced.path(""), implied, &lowers).unwrap());
}

#[test]
fn links_of_lower_layers_do_not_lead_out() {
    let bottom = Tar::default()
        .symlink("a", "/etc")
        .symlink("b", "../secret")
        .unpack()
        .ok();
    for target in ["a/passwd", "b/file"] {
        let layer = on(&Tar::default().hard_link("stolen", target), &[&bottom]);
        assert!(
            matches!(layer.result, Err(LayerError::MissingLinkTarget { .. })),
            "{target}: {:?}",
            layer.result
        );
    }
    let layer = on(
        &Tar::default().file("a/pwned", "x").file("b/pwned", "x"),
        &[&bottom],
    )
    .ok();
    assert_eq!(layer.read("etc/pwned"), "x");
    assert_eq!(layer.read("secret/pwned"), "x");
    assert!(!Path::new("/etc/pwned").exists());
    bottom.assert_contained();
}

#[test]
fn a_missing_lower_layer_is_an_error() {
    let bytes = Tar::default().hard_link("a", "b").bytes();
    let lowers = [PathBuf::from("/nonexistent/layer")];
    unpack_with(&bytes, &Digest::sha256(&bytes), &lowers, &Limits::default()).fails_with("open lower layer");
}
