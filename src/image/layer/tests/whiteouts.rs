//! Whiteouts and opaque directories, alone and against entries of the same layer.

use super::*;

#[test]
fn whiteouts_are_made_with_nothing_below() {
    let layer = Tar::default()
        .file("dir/.wh.gone", "")
        .file(".wh.top", "")
        .file("dir/.wh..hidden", "")
        .add(EntryKind::HardLink, "linked/.wh.too", |e| {
            e.link = b"dir/.wh.gone".to_vec()
        })
        .unpack()
        .ok();
    for path in ["dir/gone", "top", "dir/.hidden", "linked/too"] {
        assert!(layer.is_whiteout(path), "{path}");
    }
    assert_eq!(layer.result.as_ref().unwrap().implied.len(), 2);
}

#[test]
fn opaque_marks_in_either_order() {
    let layer = Tar::default()
        .dir("before/")
        .file("before/.wh..wh..opq", "")
        .file("before/kept", "x")
        .file("after/.wh..wh..opq", "")
        .add(EntryKind::Directory, "after/", |e| e.mode = 0o700)
        .unpack()
        .ok();
    for path in ["before", "after"] {
        assert!(layer.is_opaque(path), "{path}");
    }
    assert_eq!(layer.read("before/kept"), "x");
    assert!(!layer.exists("before/.wh..wh..opq"));
    let unpacked = layer.result.as_ref().unwrap();
    assert!(!unpacked.opaque_root && unpacked.implied.is_empty());
}

#[test]
fn an_opaque_root_is_reported() {
    let layer = Tar::default().file(".wh..wh..opq", "").unpack().ok();
    assert!(layer.result.as_ref().unwrap().opaque_root);
}

#[test]
fn housekeeping_of_aufs_is_ignored() {
    let layer = Tar::default()
        .dir(".wh..wh.plnk/")
        .file(".wh..wh.plnk/1.2", "")
        .file(".wh..wh.aufs", "")
        .file("x", "x")
        .unpack()
        .ok();
    assert_eq!(fs::read_dir(layer.path("")).unwrap().count(), 1);
}

#[test]
fn a_whiteout_hides_lower_layers_but_not_its_own() {
    let layer = Tar::default()
        .file(".wh.file-after", "")
        .file("file-after", "new")
        .file("file-before", "new")
        .file(".wh.file-before", "")
        .file(".wh.dir-after", "")
        .dir("dir-after/")
        .dir("dir-before/")
        .file("dir-before/kept", "x")
        .file(".wh.dir-before", "")
        .file(".wh.implied", "")
        .file("implied/file", "x")
        .file(".wh.link", "")
        .symlink("link", "x")
        .file(".wh.twice", "")
        .file(".wh.twice", "")
        .unpack()
        .ok();
    assert_eq!(layer.read("file-after"), "new");
    assert_eq!(layer.read("file-before"), "new");
    for path in ["dir-after", "dir-before", "implied"] {
        assert!(layer.is_opaque(path), "{path}");
    }
    assert_eq!(layer.read("dir-before/kept"), "x");
    assert!(layer.metadata("link").is_symlink());
    assert!(layer.is_whiteout("twice"));
}

#[test]
fn devices_cannot_pass_for_whiteouts() {
    let device = Tar::default()
        .add(EntryKind::Char, "passwd", |e| e.device = (0, 0))
        .unpack();
    device.fails_with("0:0");
    let block = Tar::default()
        .add(EntryKind::Block, "b", |e| e.device = (0, 0))
        .unpack()
        .ok();
    assert!(!block.is_whiteout("b"));
}

#[test]
fn whiteouts_cannot_be_linked() {
    for target in ["dir/.wh.gone", "dir/gone"] {
        let layer = Tar::default()
            .file("dir/.wh.gone", "")
            .hard_link("passwd", target)
            .unpack();
        assert!(
            matches!(layer.result, Err(LayerError::MissingLinkTarget { .. })),
            "{:?}",
            layer.result
        );
        assert!(!layer.exists("passwd"));
    }
}

#[test]
fn nothing_can_be_made_under_a_whiteouts_name() {
    Tar::default()
        .file("a/.wh.b/c", "")
        .unpack()
        .fails_with("through a whiteout");
    Tar::default()
        .symlink("s", ".wh.b")
        .file("s/c", "")
        .unpack()
        .fails_with("through a whiteout");
}

#[test]
fn a_whiteout_of_no_name_is_refused() {
    for name in [".wh.", "a/.wh..", "a/.wh..."] {
        Tar::default()
            .file(name, "")
            .unpack()
            .fails_with("whiteout of no name");
    }
}
