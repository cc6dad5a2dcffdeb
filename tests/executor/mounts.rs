//! Mounts, devices, masked and read-only paths.

use std::fs;

use serde_json::json;

use crate::Case;
use crate::fixture::Bundle;

pub const CASES: &[Case] = &[
    ("read_only_root", read_only_root),
    ("masked_and_readonly_paths", masked_and_readonly_paths),
    ("devices_and_links", devices_and_links),
    ("bind_mounts", bind_mounts),
    ("bind_flags", bind_flags),
    ("recursive_read_only", recursive_read_only),
    (
        "read_only_tmpfs_with_mount_inside",
        read_only_tmpfs_with_mount_inside,
    ),
    ("tmpcopyup", tmpcopyup),
    ("missing_source", missing_source),
    ("many_layers_with_awkward_names", many_layers_with_awkward_names),
    ("overlay_that_cannot_be", overlay_that_cannot_be),
    ("without_pivot_root", without_pivot_root),
    ("cgroup_view", cgroup_view),
    ("remount", remount),
    ("propagation", propagation),
    (
        "shared_root_does_not_reach_the_node",
        shared_root_does_not_reach_the_node,
    ),
];

fn read_only_root() {
    let mut bundle = Bundle::new("touch /x && exit 1; touch /tmp/x && exit 2; touch /dev/shm/x || exit 3");
    bundle.spec["root"]["readonly"] = json!(true);
    let out = bundle.run().unwrap();
    assert_eq!(out.code, 0, "{out:?}");
    assert!(out.stderr.contains("Read-only file system"), "{out:?}");
}

fn masked_and_readonly_paths() {
    let mut bundle = Bundle::new(
        "cat /data/secret/x /data/file; ls /data/secret /data/other | wc -l; touch /data/secret/y; \
         echo 1 > /proc/sys/kernel/msgmax; touch /data/ro/sub/x; cat /proc/keys | wc -c",
    );
    for dir in ["data/secret", "data/other", "data/ro/sub"] {
        fs::create_dir_all(bundle.rootfs().join(dir)).unwrap();
    }
    for file in ["data/secret/x", "data/other/x", "data/file"] {
        fs::write(bundle.rootfs().join(file), "content").unwrap();
    }
    bundle.spec["linux"]["maskedPaths"] = json!([
        "/data/secret",
        "/data/other",
        "/data/file",
        "/nowhere",
        "/data/file/below",
        "/proc/keys"
    ]);
    bundle.spec["linux"]["readonlyPaths"] = json!(["/proc/sys", "/data/ro", "/nowhere"]);
    let out = bundle.run().unwrap();
    // ls prints two headings and an empty line.
    assert_eq!(out.stdout, "3\n0\n", "{out:?}");
    for path in ["/data/secret/y", "/proc/sys/kernel/msgmax", "/data/ro/sub/x"] {
        assert!(
            out.stderr
                .lines()
                .any(|l| l.contains(path) && l.contains("ead-only file system")),
            "{path} {out:?}"
        );
    }
}

fn devices_and_links() {
    let mut bundle = Bundle::new(
        "stat -c '%n %F %t:%T %a' /dev/null /dev/urandom /dev/tty /dev/mine /dev/sub/fifo; readlink /dev/ptmx; \
         readlink /dev/fd; echo x > /dev/null; echo out > /dev/stdout",
    );
    bundle.spec["linux"]["devices"] = json!([
        {"path": "/dev/mine", "type": "c", "major": 1, "minor": 5, "fileMode": 0o600, "uid": 3, "gid": 4},
        {"path": "/dev/sub/fifo", "type": "p", "fileMode": 0o644},
    ]);
    let out = bundle.run().unwrap();
    assert_eq!(
        out.stdout,
        "/dev/null character special file 1:3 666\n/dev/urandom character special file 1:9 666\n\
         /dev/tty character special file 5:0 666\n/dev/mine character special file 1:5 600\n\
         /dev/sub/fifo fifo 0:0 644\npts/ptmx\n/proc/self/fd\nout\n",
        "{out:?}"
    );
}

fn bind_mounts() {
    let mut bundle = Bundle::new("cat /in/file /deep/er/file; echo new > /in/made; touch /deep/er/file");
    fs::create_dir(bundle.path("vol")).unwrap();
    fs::write(bundle.path("vol/file"), "content\n").unwrap();
    bundle.add_mount(json!({"destination": "/in", "source": bundle.path("vol"), "type": "bind", "options": ["rbind", "rw"]}));
    bundle.add_mount(
        json!({"destination": "/deep/er/file", "source": bundle.path("vol/file"), "options": ["bind", "ro"]}),
    );
    let out = bundle.run().unwrap();
    assert_eq!(out.stdout, "content\ncontent\n", "{out:?}");
    assert!(out.stderr.contains("Read-only file system"), "{out:?}");
    assert_eq!(fs::read_to_string(bundle.path("vol/made")).unwrap(), "new\n");
}

fn bind_flags() {
    let mut bundle = Bundle::new("grep ' /in ' /proc/self/mountinfo");
    fs::create_dir(bundle.path("vol")).unwrap();
    bundle.add_mount(
        json!({"destination": "/in", "source": bundle.path("vol"), "type": "bind",
        "options": ["rbind", "ro", "nosuid", "nodev", "noexec", "noatime", "rprivate"]}),
    );
    let out = bundle.run().unwrap();
    assert!(
        out.stdout.contains(" /in ro,nosuid,nodev,noexec,noatime - "),
        "{out:?}"
    );
}

fn recursive_read_only() {
    use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
    let mut bundle = Bundle::new("touch /in/sub/x; touch /in/x; grep -c ' /in' /proc/self/mountinfo");
    let sub = bundle.path("vol/sub");
    fs::create_dir_all(&sub).unwrap();
    mount("tmpfs", &sub, "tmpfs", MountFlags::empty(), c"size=64k").unwrap();
    bundle.add_mount(json!({"destination": "/in", "source": bundle.path("vol"), "type": "bind", "options": ["rbind", "rro"]}));
    let recursive = bundle.run();
    let last = bundle.spec["mounts"].as_array().unwrap().len() - 1;
    bundle.spec["mounts"][last]["options"] = json!(["rbind", "ro"]);
    let plain = bundle.run();
    unmount(&sub, UnmountFlags::empty()).unwrap();
    let (recursive, plain) = (recursive.unwrap(), plain.unwrap());
    assert_eq!(
        recursive.stderr.matches("ead-only file system").count(),
        2,
        "{recursive:?}"
    );
    assert_eq!(
        plain.stderr.matches("ead-only file system").count(),
        1,
        "{plain:?}"
    );
    assert_eq!(plain.stdout, "2\n");
}

fn read_only_tmpfs_with_mount_inside() {
    let mut bundle = Bundle::new("cat /t/inner/file; touch /t/x");
    fs::create_dir(bundle.path("vol")).unwrap();
    fs::write(bundle.path("vol/file"), "content\n").unwrap();
    bundle.add_mount(
        json!({"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": ["ro", "size=64k"]}),
    );
    bundle.add_mount(json!({"destination": "/t/inner", "source": bundle.path("vol"), "options": ["bind"]}));
    let out = bundle.run().unwrap();
    assert_eq!(out.stdout, "content\n", "{out:?}");
    assert!(out.stderr.contains("/t/x: Read-only file system"), "{out:?}");
}

fn tmpcopyup() {
    let mut bundle = Bundle::new(
        "cat /data/a/file; readlink /data/link; stat -c '%u:%g %a' /data/a; echo x > /data/a/file; \
        grep ' /data ' /proc/self/mountinfo",
    );
    let data = bundle.rootfs().join("data");
    fs::create_dir(data.join("a")).unwrap();
    fs::write(data.join("a/file"), "content\n").unwrap();
    std::os::unix::fs::symlink("a/file", data.join("link")).unwrap();
    std::os::unix::fs::chown(data.join("a"), Some(12), Some(34)).unwrap();
    bundle.add_mount(json!({"destination": "/data", "type": "tmpfs", "source": "tmpfs",
        "options": ["tmpcopyup", "nodev", "size=1m"]}));
    let out = bundle.run().unwrap();
    assert!(out.stdout.starts_with("content\na/file\n12:34 755\n"), "{out:?}");
    assert!(
        out.stdout.contains("nodev") && out.stdout.contains("- tmpfs"),
        "{out:?}"
    );
    assert_eq!(fs::read_to_string(data.join("a/file")).unwrap(), "content\n");
}

fn missing_source() {
    let mut bundle = Bundle::new("exit 0");
    bundle.add_mount(json!({"destination": "/in", "source": "/no/such/thing", "options": ["bind"]}));
    let error = bundle.run().unwrap_err();
    assert!(
        error.to_string().contains("/no/such/thing for /in: No such file"),
        "{error}"
    );
    assert_eq!(error.exit_code, 128);
}

fn many_layers_with_awkward_names() {
    let mut bundle = Bundle::new("ls /layers | wc -l; cat /layers/top");
    let husk::spec::plan::Rootfs::Overlay { lower, .. } = &mut bundle.options.rootfs else {
        unreachable!()
    };
    for n in 0..70 {
        // Long, and with what overlayfs takes for separators.
        let name = format!("{}:,\\{n}", "l".repeat(220));
        let layer = bundle.dir.path().join(name);
        fs::create_dir_all(layer.join("layers")).unwrap();
        fs::write(layer.join(format!("layers/{n}")), "").unwrap();
        fs::write(layer.join("layers/top"), format!("{n}\n")).unwrap();
        lower.insert(0, layer);
    }
    let out = bundle.run().unwrap();
    assert_eq!(out.stdout, "71\n69\n", "{out:?}");
}

fn overlay_that_cannot_be() {
    let mut bundle = Bundle::new("exit 0");
    let good = bundle.options.rootfs.clone();
    let husk::spec::plan::Rootfs::Overlay { lower, upper, .. } = &mut bundle.options.rootfs else {
        unreachable!()
    };
    let (old_lower, old_upper) = (lower.clone(), upper.clone());
    lower.push("/no/such/layer".into());
    let error = bundle.run().unwrap_err().to_string();
    assert!(
        error.contains("/no/such/layer") && error.contains("ENOENT"),
        "{error}"
    );
    bundle.options.rootfs = match good {
        husk::spec::plan::Rootfs::Overlay { work, volatile, .. } => husk::spec::plan::Rootfs::Overlay {
            lower: old_lower,
            upper: old_upper.with_file_name("none"),
            work,
            volatile,
        },
        other => other,
    };
    let error = bundle.run().unwrap_err().to_string();
    assert!(error.contains("/none") && error.contains("ENOENT"), "{error}");
}

fn without_pivot_root() {
    let mut bundle = Bundle::new("ls /; ls /../..; cd ..; pwd");
    bundle.options.no_pivot = true;
    bundle.spec["process"]["cwd"] = json!("/data");
    let list = "bin\ndata\ndev\netc\nproc\nroot\nsys\ntmp\n";
    assert_eq!(bundle.run().unwrap().stdout, format!("{list}{list}/\n"));

    bundle.spec["process"]["args"] = json!(["sleep", "1000"]);
    let (mut running, _) = bundle.launch(husk::executor::Stdio::default()).unwrap();
    running.start().unwrap();
    // An exec finds the same root.
    let out = running.exec(&bundle, |p| p["args"] = json!(["ls", "/"])).unwrap();
    assert_eq!(out.stdout, list);
}

fn cgroup_view() {
    let out = Bundle::new("ls /sys/fs/cgroup; cat /proc/self/cgroup; touch /sys/fs/cgroup/x")
        .run()
        .unwrap();
    assert!(
        out.stdout
            .lines()
            .any(|l| l.starts_with("0::/") || l.ends_with(":/")),
        "{out:?}"
    );
    assert!(
        out.stderr.contains("/sys/fs/cgroup/x: Read-only file system"),
        "{out:?}"
    );
}

fn remount() {
    let mut bundle = Bundle::new("touch /dev/shm/x");
    bundle.add_mount(
        json!({"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["remount", "ro"]}),
    );
    assert!(bundle.run().unwrap().stderr.contains("Read-only file system"));
}

/// A shared mount on the node, gone when dropped.
struct Shared(std::path::PathBuf);

impl Shared {
    fn new(path: std::path::PathBuf) -> Self {
        use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
        fs::create_dir_all(&path).unwrap();
        mount("tmpfs", &path, "tmpfs", MountFlags::empty(), c"size=64k").unwrap();
        mount_change(&path, MountPropagationFlags::SHARED).unwrap();
        Self(path)
    }

    fn mount_below(&self, name: &str) {
        let path = self.0.join(name);
        fs::create_dir(&path).unwrap();
        rustix::mount::mount(
            "tmpfs",
            &path,
            "tmpfs",
            rustix::mount::MountFlags::empty(),
            c"size=64k",
        )
        .unwrap();
        fs::write(path.join("file"), "").unwrap();
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        use rustix::mount::{UnmountFlags, unmount};
        for entry in fs::read_dir(&self.0).unwrap() {
            let _ = unmount(entry.unwrap().path(), UnmountFlags::DETACH);
        }
        unmount(&self.0, UnmountFlags::DETACH).unwrap();
    }
}

fn propagation() {
    // For each kind: does the container see the node's later mount, and the node the container's?
    for (option, down, up) in [
        ("rprivate", false, false),
        ("rslave", true, false),
        ("rshared", true, true),
    ] {
        let mut bundle = Bundle::new(
            "mkdir /vol/inner; mount -t tmpfs tmpfs /vol/inner; touch /vol/inner/file; touch /vol/ready; \
             while ! test -e /vol/go; do sleep 0.02; done; test -e /vol/outer/file; echo $?",
        );
        for set in ["bounding", "effective", "permitted"] {
            bundle.spec["process"]["capabilities"][set] = json!(["CAP_SYS_ADMIN"]);
        }
        let shared = Shared::new(bundle.path("vol"));
        bundle.add_mount(
            json!({"destination": "/vol", "source": bundle.path("vol"), "type": "bind",
            "options": ["rbind", "rw", option]}),
        );
        bundle.spec["linux"]["rootfsPropagation"] = json!(option);
        let (out, child) = crate::fixture::pipe();
        let (mut running, _) = bundle
            .launch(husk::executor::Stdio {
                stdout: Some(child),
                ..Default::default()
            })
            .unwrap();
        running.start().unwrap();
        while !shared.0.join("ready").exists() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert_eq!(shared.0.join("inner/file").exists(), up, "{option}: up");
        shared.mount_below("outer");
        fs::write(shared.0.join("go"), "").unwrap();
        assert_eq!(
            crate::fixture::read(out),
            if down { "0\n" } else { "1\n" },
            "{option}: down"
        );
        running.wait();
    }
}

fn shared_root_does_not_reach_the_node() {
    let mut bundle = Bundle::new("mount -t tmpfs tmpfs /tmp; grep ' / / ' /proc/self/mountinfo");
    for set in ["bounding", "effective", "permitted"] {
        bundle.spec["process"]["capabilities"][set] = json!(["CAP_SYS_ADMIN"]);
    }
    let shared = Shared::new(bundle.path("on-shared"));
    for dir in ["upper", "work", "mnt"] {
        fs::create_dir(shared.0.join(dir)).unwrap();
    }
    bundle.options.mount_point = shared.0.join("mnt");
    bundle.spec["linux"]["rootfsPropagation"] = json!("shared");
    let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let out = bundle.run().unwrap();
    assert!(out.stdout.contains("shared:"), "{out:?}");
    let after = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let own = |text: &str| text.lines().filter(|l| l.contains("on-shared")).count();
    assert_eq!((own(&before), own(&after)), (1, 1));
}
