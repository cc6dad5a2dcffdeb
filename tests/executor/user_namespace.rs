//! User and time namespaces.

use std::fs;
use std::os::unix::fs::{PermissionsExt, lchown};
use std::path::Path;

use husk::spec::plan::Rootfs;
use serde_json::json;

use crate::Case;
use crate::fixture::Bundle;

pub const CASES: &[Case] = &[
    ("new_user_namespace", new_user_namespace),
    ("unmapped_user", unmapped_user),
    ("maps_that_are_refused", maps_that_are_refused),
    ("time_namespace", time_namespace),
];

const FIRST: u32 = 100_000;

fn give(path: &Path) {
    lchown(path, Some(FIRST), Some(FIRST)).unwrap();
    if path.is_dir() && !path.is_symlink() {
        fs::read_dir(path).unwrap().for_each(|e| give(&e.unwrap().path()));
    }
}

fn bundle(script: &str) -> Bundle {
    let mut bundle = Bundle::new(script);
    fs::set_permissions(bundle.dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
    give(&bundle.rootfs());
    bundle.options.rootfs = Rootfs::Directory(bundle.rootfs());
    bundle.options.mount_point = bundle.rootfs();
    bundle.spec["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .push(json!({"type": "user"}));
    let map = json!([{"containerID": 0, "hostID": FIRST, "size": 65536}]);
    bundle.spec["linux"]["uidMappings"] = map.clone();
    bundle.spec["linux"]["gidMappings"] = map;
    bundle
}

fn new_user_namespace() {
    let mut bundle = bundle(
        "cat /proc/self/oom_score_adj > /data/oom; id -u; cat /proc/self/uid_map; touch /made; echo x > /dev/null; cat /proc/self/setgroups; hostname",
    );
    bundle.spec["process"]["oomScoreAdj"] = json!(321);
    let out = bundle.run().unwrap();
    assert_eq!(
        fs::read_to_string(bundle.rootfs().join("data/oom")).unwrap(),
        "321\n"
    );
    let lines: Vec<&str> = out.stdout.lines().collect();
    assert_eq!(lines.first(), Some(&"0"), "{out:?}");
    assert_eq!(
        lines[1].split_whitespace().collect::<Vec<_>>(),
        ["0", "100000", "65536"]
    );
    assert_eq!(lines.last(), Some(&"box"), "{out:?}");
    use std::os::unix::fs::MetadataExt;
    assert_eq!(fs::metadata(bundle.rootfs().join("made")).unwrap().uid(), FIRST);

    let (mut running, _) = {
        let mut b = bundle;
        b.spec["process"]["args"] = json!(["sleep", "1000"]);
        let (mut running, notes) = b.launch(husk::executor::Stdio::default()).unwrap();
        running.start().unwrap();
        let out = running
            .exec(&b, |p| {
                p["args"] = json!(["/bin/sh", "-c", "id -u; readlink /proc/self/ns/user"])
            })
            .unwrap();
        let theirs = fs::read_link(format!("/proc/{}/ns/user", running.launch.pid)).unwrap();
        assert_eq!(out.stdout, format!("0\n{}\n", theirs.display()), "{out:?}");
        (running, notes)
    };
    rustix::process::pidfd_send_signal(&running.launch.pidfd, rustix::process::Signal::KILL).unwrap();
    assert_eq!(running.wait(), 137);
}

fn unmapped_user() {
    let mut bundle = bundle("exit 0");
    bundle.spec["process"]["user"]["uid"] = json!(70_000);
    let error = bundle.run().unwrap_err();
    assert!(error.to_string().contains("no mapping"), "{error}");
}

fn maps_that_are_refused() {
    let mut bundle = bundle("exit 0");
    let map = json!({"containerID": 0, "hostID": FIRST, "size": 10});
    bundle.spec["linux"]["uidMappings"] = json!([map, map]);
    let error = husk::executor::launch(&bundle.plan(), husk::executor::Stdio::default()).unwrap_err();
    assert!(error.to_string().contains("uid_map"), "{error}");
    // Nothing is left to reap.
    assert!(rustix::process::wait(rustix::process::WaitOptions::NOHANG).is_err());
}

fn time_namespace() {
    let mut bundle = Bundle::new("cat /proc/uptime; exec sleep 1000");
    bundle.spec["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .push(json!({"type": "time"}));
    bundle.spec["linux"]["timeOffsets"] = json!({"boottime": {"secs": 1_000_000}});
    let uptime = |text: &str| -> f64 { text.split_whitespace().next().unwrap().parse().unwrap() };
    let (mut running, _) = bundle.launch(husk::executor::Stdio::default()).unwrap();
    running.start().unwrap();
    let out = running
        .exec(&bundle, |p| p["args"] = json!(["cat", "/proc/uptime"]))
        .unwrap();
    assert!(uptime(&out.stdout) > 1_000_000.0, "{out:?}");
    drop(running);
    bundle.spec["process"]["args"] = json!(["cat", "/proc/uptime"]);
    let out = bundle.run().unwrap();
    assert!(uptime(&out.stdout) > 1_000_000.0, "{out:?}");
}
