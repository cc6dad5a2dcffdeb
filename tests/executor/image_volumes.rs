//! Images mounted besides the container's own: merged, read-only, whole or a part, never beyond themselves.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use husk::spec::plan::ImageVolume;
use husk::types::Kind;
use serde_json::json;

use crate::Case;
use crate::fixture::Bundle;

pub const CASES: &[Case] = &[
    ("image_volume_whole", image_volume_whole),
    ("image_volume_parts", image_volume_parts),
    ("image_volume_links_stay_inside", image_volume_links_stay_inside),
    ("image_volume_that_cannot_be", image_volume_that_cannot_be),
    ("image_volume_without_layers", image_volume_without_layers),
    (
        "image_volume_on_a_read_only_root",
        image_volume_on_a_read_only_root,
    ),
    ("two_image_volumes", two_image_volumes),
];

/// Two layers: the upper one hides a file of the lower and adds links.
fn bundle(script: &str) -> Bundle {
    let mut bundle = Bundle::new(script);
    let (top, low) = (bundle.path("top"), bundle.path("low"));
    for dir in [
        top.join("etc"),
        low.join("etc"),
        low.join("bin"),
        low.join("deep/er"),
    ] {
        fs::create_dir_all(dir).unwrap();
    }
    fs::write(low.join("etc/name"), "from the lower layer\n").unwrap();
    fs::write(low.join("etc/hidden"), "").unwrap();
    fs::write(low.join("deep/er/file"), "deep\n").unwrap();
    fs::write(top.join("etc/added"), "from the upper layer\n").unwrap();
    fs::write(low.join("bin/tool"), "#!/bin/sh\necho it runs\n").unwrap();
    fs::set_permissions(low.join("bin/tool"), fs::Permissions::from_mode(0o755)).unwrap();
    whiteout(&top.join("etc/hidden"));
    symlink("/etc/name", top.join("absolute")).unwrap();
    symlink("../../../../../../../etc/name", top.join("upwards")).unwrap();
    symlink("/deep", top.join("directory")).unwrap();
    symlink("/proc/self/root/etc", top.join("outside")).unwrap();
    symlink("loop", top.join("loop")).unwrap();
    add(&mut bundle, "/img", "", &["top", "low"]);
    bundle
}

fn whiteout(path: &Path) {
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    mknod(path, SFlag::S_IFCHR, Mode::empty(), makedev(0, 0)).unwrap();
}

fn add(bundle: &mut Bundle, destination: &str, sub_path: &str, layers: &[&str]) {
    bundle.add_mount(
        json!({"destination": destination, "type": "overlay", "source": "overlay",
        "options": ["rprivate", "ro"]}),
    );
    let volume = ImageVolume {
        destination: destination.into(),
        image: "data:1".into(),
        layers: layers.iter().map(|l| bundle.path(l)).collect(),
        sub_path: sub_path.into(),
    };
    bundle.options.image_volumes.push(volume);
}

fn with_part(script: &str, sub_path: &str) -> Bundle {
    let mut bundle = bundle(script);
    bundle.options.image_volumes[0].sub_path = sub_path.into();
    bundle
}

fn image_volume_whole() {
    let out = bundle(
        "cat /img/etc/name /img/etc/added; ls /img/etc; /img/bin/tool; touch /img/x; touch /img/etc/name; \
         grep ' /img ' /proc/self/mountinfo | cut -d' ' -f6 | tr , '\\n' | grep -c -e ro -e noexec",
    )
    .run()
    .unwrap();
    assert_eq!(
        out.stdout, "from the lower layer\nfrom the upper layer\nadded\nname\nit runs\n1\n",
        "{out:?}"
    );
    assert_eq!(out.stderr.matches("Read-only file system").count(), 2, "{out:?}");
}

fn image_volume_parts() {
    for (part, script, expected) in [
        (
            "etc",
            "ls /img; cat /img/name",
            "added\nname\nfrom the lower layer\n",
        ),
        ("/etc/", "ls /img", "added\nname\n"),
        (
            "deep/er",
            "cat /img/file; ls /img/..",
            "deep\nbin\ndata\ndev\netc\nimg\nproc\nroot\nsys\ntmp\n",
        ),
        // A file is mounted on a file.
        (
            "etc/name",
            "cat /img; echo x > /img || echo refused",
            "from the lower layer\nrefused\n",
        ),
        ("bin/tool", "/img", "it runs\n"),
    ] {
        let out = with_part(script, part).run().unwrap();
        assert_eq!(out.stdout, expected, "{part}: {out:?}");
    }
}

fn image_volume_links_stay_inside() {
    // The container's root has an /etc/name of its own kind: the node's and the container's must both not show.
    for part in ["absolute", "upwards", "../../etc/name"] {
        let out = with_part("cat /img", part).run().unwrap();
        assert_eq!(out.stdout, "from the lower layer\n", "{part}: {out:?}");
    }
    let out = with_part("ls /img", "directory/er").run().unwrap();
    assert_eq!(out.stdout, "file\n");
    let error = with_part("ls /img", "outside").run().unwrap_err();
    assert!(error.bad_request && error.is(libc::ENOENT), "{error}");
}

fn image_volume_that_cannot_be() {
    for (part, reason) in [
        ("none", "the image has nothing there"),
        ("etc/hidden", "the image has nothing there"),
        ("etc/name/below", "not a directory"),
        ("loop", "circle"),
    ] {
        let error = with_part("exit 0", part).run().unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("ImageVolumeMountFailed: ")
                && text.contains(part)
                && text.contains("data:1")
                && text.contains("/img")
                && text.contains(reason),
            "{text}"
        );
        assert_eq!(
            husk::types::Error::from(error).kind(),
            Kind::InvalidArgument,
            "{text}"
        );
    }
    // The destination is a file, the image is not.
    let mut bundle = bundle("exit 0");
    fs::write(bundle.rootfs().join("img"), "").unwrap();
    let text = bundle.run().unwrap_err().to_string();
    assert!(
        text.starts_with("ImageVolumeMountFailed: ") && text.contains("the destination is not"),
        "{text}"
    );
    // A layer that is gone is the node's fault.
    fs::remove_file(bundle.rootfs().join("img")).unwrap();
    bundle.options.image_volumes[0]
        .layers
        .push("/no/such/layer".into());
    let error = bundle.run().unwrap_err();
    assert!(
        error.to_string().starts_with("ImageVolumeMountFailed: "),
        "{error}"
    );
    assert_eq!(husk::types::Error::from(error).kind(), Kind::Internal);
}

fn image_volume_without_layers() {
    let mut bundle = Bundle::new("ls -A /img; touch /img/x");
    fs::create_dir(bundle.path("empty")).unwrap();
    add(&mut bundle, "/img", "", &["empty"]);
    let out = bundle.run().unwrap();
    assert_eq!(out.stdout, "", "{out:?}");
    assert!(out.stderr.contains("Read-only file system"), "{out:?}");
}

fn image_volume_on_a_read_only_root() {
    // The mount point is made before the root becomes read-only.
    let mut bundle = bundle("cat /img/etc/name; touch /x");
    bundle.spec["root"]["readonly"] = json!(true);
    let out = bundle.run().unwrap();
    assert_eq!(out.stdout, "from the lower layer\n", "{out:?}");
    assert!(out.stderr.contains("/x: Read-only"), "{out:?}");
}

fn two_image_volumes() {
    let mut bundle = bundle("cat /img/etc/name; cat /other/name; cat /img/deep/er/name");
    add(&mut bundle, "/other", "etc", &["low", "top"]);
    // One image within another: the deeper one is made later.
    add(&mut bundle, "/img/deep/er", "etc", &["top", "low"]);
    let out = bundle.run().unwrap();
    assert_eq!(out.stdout, "from the lower layer\n".repeat(3), "{out:?}");
}
