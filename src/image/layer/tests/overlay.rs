//! What the kernel's overlayfs makes of the layers: the only opinion on whiteouts that counts.

use std::process::Command;

use super::*;

/// Mounts layers, topmost first, in a mount namespace of its own, and lists what is to be seen.
fn merged(layers: &[&Layer]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let lowers: Vec<_> = layers
        .iter()
        .map(|l| l.path("").display().to_string().trim_end_matches('/').to_owned())
        .collect();
    let script = "mount -t overlay overlay -o ro,lowerdir=$1 $2 && cd $2 && find . -mindepth 1 -printf '%P %y %m\\n' | sort";
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-ec", script, "sh", &lowers.join(":")])
        .arg(dir.path())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn overlayfs_sees_the_image_as_its_maker_did() {
    let bottom = Tar::default()
        .add(EntryKind::Directory, "tmp/", |e| e.mode = 0o1777)
        .file("tmp/deep", "")
        .file("gone", "")
        .file("opaque/hidden", "")
        .file("replaced/hidden", "")
        .file("became-file/hidden", "")
        .file("kept/a", "")
        .symlink("link", "kept")
        .unpack()
        .ok();
    let top = Tar::default()
        .file(".wh.gone", "")
        .file("opaque/.wh..wh..opq", "")
        .file("opaque/new", "")
        .file(".wh.replaced", "")
        .file("replaced/new", "")
        .file("became-file", "")
        .file("kept/.wh.a", "")
        .file("kept/b", "")
        .file(".wh.link", "")
        .file("tmp/x", "")
        .add(EntryKind::Directory, "fooled/", |e| {
            e.xattrs = vec![
                (b"trusted.overlay.opaque".to_vec(), b"y".to_vec()),
                (b"trusted.overlay.redirect".to_vec(), b"/kept".to_vec()),
            ];
        })
        .unpack()
        .ok();
    let implied = &top.result.as_ref().unwrap().implied;
    assert!(super::super::inherit(&top.path(""), implied, &[bottom.path("")]).unwrap());
    let expected = "became-file f 644\nfooled d 755\nkept d 755\nkept/b f 644\nopaque d 755\nopaque/new f 644\n\
                    replaced d 755\nreplaced/new f 644\ntmp d 1777\ntmp/deep f 644\ntmp/x f 644\n";
    assert_eq!(merged(&[&top, &bottom]), expected);
}
