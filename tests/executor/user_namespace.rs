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
    ("joined_user_namespace", joined_user_namespace),
    ("mounts_with_mapped_ids", mounts_with_mapped_ids),
    ("mounts_that_cannot_be_mapped", mounts_that_cannot_be_mapped),
    (
        "terminal_in_a_joined_user_namespace",
        terminal_in_a_joined_user_namespace,
    ),
    ("layers_can_be_mapped_here", layers_can_be_mapped_here),
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
    nothing_left();
}

/// Whoever helped a launch has ended, or is about to.
fn nothing_left() {
    for _ in 0..1000 {
        if rustix::process::wait(rustix::process::WaitOptions::NOHANG).is_err() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("a child is left");
}

/// A process whose user, network, IPC and UTS namespaces are to be joined; gone when dropped.
struct Holder(std::process::Child);

impl Holder {
    fn new() -> Self {
        let child = std::process::Command::new("unshare")
            .args(["--user", "--net", "--ipc", "--uts", "sleep", "1000"])
            .spawn()
            .unwrap();
        let holder = Self(child);
        let own = fs::read_link("/proc/self/ns/uts").unwrap();
        while fs::read_link(holder.path("uts")).ok().is_none_or(|ns| ns == own) {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        for map in ["gid_map", "uid_map"] {
            fs::write(
                format!("/proc/{}/{map}", holder.0.id()),
                format!("0 {FIRST} 65536"),
            )
            .unwrap();
        }
        holder
    }

    fn path(&self, kind: &str) -> String {
        format!("/proc/{}/ns/{kind}", self.0.id())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// A container in the holder's namespaces with an overlay whose layers belong to root, below a directory that only
/// root may pass.
fn joined(holder: &Holder, script: &str) -> Bundle {
    let mut bundle = Bundle::new(script);
    fs::set_permissions(bundle.dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    lchown(bundle.path("upper"), Some(FIRST), Some(FIRST)).unwrap();
    bundle.options.rootfs_id_map = true;
    let mut namespaces = vec![
        json!({"type": "pid"}),
        json!({"type": "mount"}),
        json!({"type": "cgroup"}),
    ];
    for (kind, file) in [
        ("user", "user"),
        ("network", "net"),
        ("ipc", "ipc"),
        ("uts", "uts"),
    ] {
        namespaces.push(json!({"type": kind, "path": holder.path(file)}));
    }
    bundle.spec["linux"]["namespaces"] = json!(namespaces);
    let map = json!([{"containerID": 0, "hostID": FIRST, "size": 65536}]);
    bundle.spec["linux"]["uidMappings"] = map.clone();
    bundle.spec["linux"]["gidMappings"] = map;
    bundle
}

fn joined_user_namespace() {
    use std::os::unix::fs::MetadataExt;
    let holder = Holder::new();
    let mut bundle = joined(
        &holder,
        "id -u; stat -c %u:%g /bin/busybox /data /; echo own > /data/made; touch /etc/passwd; cat /data/file; \
         readlink /proc/self/ns/user; hostname; echo $$; stat -c '%F' /dev/null /sys/class/net /dev/mqueue; \
         echo x > /dev/null && echo written; cat /proc/self/oom_score_adj; ulimit -n; touch /data/done; exec sleep 1000",
    );
    bundle.spec["process"]["oomScoreAdj"] = json!(77);
    fs::write(bundle.rootfs().join("data/file"), "content\n").unwrap();
    let theirs = fs::read_link(holder.path("user")).unwrap();
    let (out, child) = crate::fixture::pipe();
    let (mut running, notes) = bundle
        .launch(husk::executor::Stdio {
            stdout: Some(child),
            ..Default::default()
        })
        .unwrap();
    assert!(notes.is_empty(), "{notes:?}");
    running.start().unwrap();
    let exec = running
        .exec(&bundle, |p| {
            p["args"] = json!(["/bin/sh", "-c", "while ! test -e /data/done; do sleep 0.01; done; id -u; readlink /proc/self/ns/user; echo $PPID"]);
        })
        .unwrap();
    assert_eq!(exec.stdout, format!("0\n{}\n0\n", theirs.display()), "{exec:?}");
    let upper = bundle.path("upper");
    // What the container made belongs to its root on the node, what it was given is as it was.
    assert_eq!(fs::metadata(upper.join("data/made")).unwrap().uid(), FIRST);
    assert_eq!(
        fs::metadata(bundle.rootfs().join("bin/busybox")).unwrap().uid(),
        0
    );
    assert_eq!(fs::metadata(bundle.rootfs().join("etc/passwd")).unwrap().uid(), 0);
    // The process is this one's child, and the first of its pid namespace.
    rustix::process::pidfd_send_signal(&running.launch.pidfd, rustix::process::Signal::KILL).unwrap();
    assert_eq!(running.wait(), 137);
    assert_eq!(
        crate::fixture::read(out),
        format!(
            "0\n0:0\n0:0\n0:0\ncontent\n{}\nbox\n1\ncharacter special file\ndirectory\ndirectory\nwritten\n77\n1024\n",
            theirs.display()
        )
    );
    assert_eq!(fs::metadata(upper.join("etc/passwd")).unwrap().uid(), FIRST);
    // Nothing is left to reap: neither who led the way in nor who opened the mounts.
    drop(holder);
    nothing_left();
}

fn mounts_with_mapped_ids() {
    use std::os::unix::fs::MetadataExt;
    let holder = Holder::new();
    let mut bundle = joined(
        &holder,
        "touch /mapped/new /plain/new; stat -c %u /mapped/file /plain/file /other/file; touch /other/new",
    );
    for name in ["mapped", "plain", "other"] {
        let dir = bundle.path(name);
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
        fs::write(dir.join("file"), "").unwrap();
        let mut mount = json!({"destination": format!("/{name}"), "source": dir, "options": ["rbind"]});
        let first = match name {
            "mapped" => FIRST,
            // Shows the node's root as user 5 of the container.
            "other" => FIRST + 5,
            _ => 0,
        };
        if first != 0 {
            let map = json!([{"containerID": 0, "hostID": first, "size": 65536}]);
            mount["uidMappings"] = map.clone();
            mount["gidMappings"] = map;
        }
        bundle.add_mount(mount);
    }
    let out = bundle.run().unwrap();
    assert_eq!(out.stdout, "0\n65534\n5\n", "{out:?}");
    assert_eq!(fs::metadata(bundle.path("mapped/new")).unwrap().uid(), 0);
    assert_eq!(fs::metadata(bundle.path("plain/new")).unwrap().uid(), FIRST);
    // The container's root has no owner there.
    assert!(!bundle.path("other/new").exists(), "{out:?}");
}

fn mounts_that_cannot_be_mapped() {
    let holder = Holder::new();
    let mut bundle = joined(&holder, "exit 0");
    bundle.add_mount(json!({"destination": "/in", "source": "/proc/sys", "options": ["bind", "idmap"]}));
    let error = bundle.run().unwrap_err().to_string();
    assert!(
        error.contains("map ids of /in") && error.contains("(proc)"),
        "{error}"
    );
    drop(holder);
    nothing_left();
}

fn terminal_in_a_joined_user_namespace() {
    let holder = Holder::new();
    let mut bundle = joined(&holder, "tty; stat -c '%u %a' $(tty); exit 3");
    bundle.spec["process"]["terminal"] = json!(true);
    bundle.spec["process"]["user"]["uid"] = json!(1000);
    let (mut running, _) = bundle.launch(husk::executor::Stdio::default()).unwrap();
    let mut console = fs::File::from(running.console.take().unwrap());
    running.start().unwrap();
    let mut text = String::new();
    // The other side going away is an error on a terminal.
    let _ = std::io::Read::read_to_string(&mut console, &mut text);
    assert_eq!(text, "/dev/pts/0\r\n1000 620\r\n");
    assert_eq!(running.wait(), 3);
}

fn layers_can_be_mapped_here() {
    let dir = tempfile::Builder::new()
        .prefix(&crate::fixture::prefix())
        .tempdir()
        .unwrap();
    husk::executor::try_id_maps(dir.path()).unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    let error = husk::executor::try_id_maps(Path::new("/proc/self")).unwrap_err();
    assert!(error.to_string().contains("/proc/self"), "{error}");
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
