//! Images that were made to harm the node.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::json;

use crate::Case;
use crate::fixture::Bundle;

pub const CASES: &[Case] = &[
    ("mount_target_links_stay_inside", mount_target_links_stay_inside),
    (
        "dangling_links_are_filled_inside",
        dangling_links_are_filled_inside,
    ),
    ("link_loops_end", link_loops_end),
    ("proc_is_no_link", proc_is_no_link),
    (
        "dev_null_of_the_image_masks_nothing",
        dev_null_of_the_image_masks_nothing,
    ),
    ("cwd_outside_is_refused", cwd_outside_is_refused),
    ("pipe_for_passwd", pipe_for_passwd),
    ("own_program_is_not_visible", own_program_is_not_visible),
];

fn mount_target_links_stay_inside() {
    let mut bundle = Bundle::new("cat /mnt/escape/file; ls /");
    let outside = bundle.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::create_dir(bundle.path("vol")).unwrap();
    fs::write(bundle.path("vol/file"), "inside\n").unwrap();
    // Up and out, and then by absolute name.
    symlink("../../../../../../../..", bundle.rootfs().join("mnt")).unwrap();
    symlink(&outside, bundle.rootfs().join("abs")).unwrap();
    bundle
        .add_mount(json!({"destination": "/mnt/escape", "source": bundle.path("vol"), "options": ["bind"]}));
    bundle.add_mount(
        json!({"destination": "/abs/made", "source": bundle.path("vol/file"), "options": ["bind"]}),
    );
    let out = bundle.run().unwrap();
    assert!(out.stdout.starts_with("inside\n"), "{out:?}");
    assert!(out.stdout.contains("\nescape\n"), "{out:?}");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    assert!(!std::path::Path::new("/escape").exists());
}

fn dangling_links_are_filled_inside() {
    let mut bundle = Bundle::new("cat /etc/resolv.conf /run/systemd/resolve/stub");
    symlink(
        "../run/systemd/resolve/stub",
        bundle.rootfs().join("etc/resolv.conf"),
    )
    .unwrap();
    fs::write(bundle.path("file"), "x\n").unwrap();
    bundle.add_mount(
        json!({"destination": "/etc/resolv.conf", "source": bundle.path("file"), "options": ["bind"]}),
    );
    let out = bundle.run().unwrap();
    assert_eq!(out.stdout, "x\nx\n", "{out:?}");
}

fn link_loops_end() {
    let mut bundle = Bundle::new("exit 0");
    symlink("b", bundle.rootfs().join("a")).unwrap();
    symlink("a", bundle.rootfs().join("b")).unwrap();
    bundle.add_mount(json!({"destination": "/a/x", "source": "/etc", "options": ["bind"]}));
    let error = bundle.run().unwrap_err();
    assert!(error.is(libc::ELOOP), "{error}");
}

fn proc_is_no_link() {
    let bundle = Bundle::new("exit 0");
    symlink("/tmp", bundle.rootfs().join("proc")).unwrap();
    let error = bundle.run().unwrap_err();
    assert!(error.to_string().contains("symbolic link"), "{error}");
}

fn dev_null_of_the_image_masks_nothing() {
    let mut bundle = Bundle::new("cat /data/secret");
    // No /dev mount: the image's own /dev is used, with a link instead of the null device.
    bundle.spec["mounts"]
        .as_array_mut()
        .unwrap()
        .retain(|m| !m["destination"].as_str().unwrap().starts_with("/dev"));
    fs::create_dir(bundle.rootfs().join("dev")).unwrap();
    symlink("/etc/passwd", bundle.rootfs().join("dev/null")).unwrap();
    fs::write(bundle.rootfs().join("data/secret"), "secret").unwrap();
    bundle.spec["linux"]["maskedPaths"] = json!(["/data/secret"]);
    let out = bundle.run().unwrap();
    assert_eq!((out.stdout.as_str(), out.code), ("", 0), "{out:?}");
}

fn cwd_outside_is_refused() {
    for n in 3..10 {
        let mut bundle = Bundle::new("pwd");
        bundle.spec["process"]["cwd"] = json!(format!("/proc/self/fd/{n}"));
        // Whatever is open there must not be a directory of the node.
        match bundle.run() {
            Ok(out) => panic!("{out:?}"),
            Err(e) => assert!(e.to_string().contains("working directory"), "{e}"),
        }
    }
}

fn pipe_for_passwd() {
    let mut bundle = Bundle::new("env");
    let passwd = bundle.rootfs().join("etc/passwd");
    fs::remove_file(&passwd).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, &passwd, rustix::fs::Mode::from_raw_mode(0o644)).unwrap();
    bundle.spec["process"]["user"]["uid"] = json!(77);
    assert!(bundle.run().unwrap().stdout.contains("HOME=/\n"));
}

fn own_program_is_not_visible() {
    // Shares the node's pids, so the process that waits at the gate can be seen, but not its program or memory.
    let waiting = Bundle::new("exit 0");
    let (held, _) = waiting.launch(husk::executor::Stdio::default()).unwrap();
    let pid = held.launch.pid;
    let mut bundle = Bundle::new(&format!(
        "readlink /proc/{pid}/exe /proc/{pid}/fd/3; cat /proc/{pid}/environ; ls -d /proc/{pid}"
    ));
    bundle.spec["linux"]["namespaces"] =
        json!([{"type": "mount"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}]);
    let out = bundle.run().unwrap();
    assert_eq!(out.stdout, format!("/proc/{pid}\n"), "{out:?}");
}
