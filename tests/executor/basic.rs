//! Exit codes, commands, directories, streams, namespaces, exec.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use husk::executor::{self, Progress, Stdio};
use serde_json::json;

use crate::Case;
use crate::fixture::{Bundle, Running, pipe, read};

pub const CASES: &[Case] = &[
    ("exit_codes", exit_codes),
    ("missing_command", missing_command),
    ("commands_that_cannot_run", commands_that_cannot_run),
    ("what_a_user_may_not_run", what_a_user_may_not_run),
    ("what_interpreters_lack", what_interpreters_lack),
    ("pid_one_and_names", pid_one_and_names),
    ("environment_and_cwd", environment_and_cwd),
    ("descriptors_do_not_leak", descriptors_do_not_leak),
    ("dropping_a_launch_ends_it", dropping_a_launch_ends_it),
    ("hooks_end_with_the_launch", hooks_end_with_the_launch),
    ("exec_into", exec_into),
    ("exec_into_nothing", exec_into_nothing),
    ("joins_namespaces", joins_namespaces),
    ("sysctl_in_own_namespace", sysctl_in_own_namespace),
    ("directory_rootfs", directory_rootfs),
    ("signals_are_default", signals_are_default),
];

fn exit_codes() {
    assert_eq!(Bundle::new("exit 7").run().unwrap().code, 7);
    assert_eq!(Bundle::with_args(&["true"]).run().unwrap().code, 0);
}

fn missing_command() {
    let error = Bundle::with_args(&["no-such-thing"]).run().unwrap_err();
    assert_eq!(error.exit_code, 127);
    assert!(
        error
            .to_string()
            .contains("\"no-such-thing\": executable file not found in $PATH"),
        "{error}"
    );
    for (path, text) in [
        ("/bin/none", "the file does not exist in the container"),
        ("/opt/none", "not even /opt exists in the container"),
        ("/etc/passwd/none", "/etc/passwd is not a directory"),
    ] {
        let error = Bundle::with_args(&[path]).run().unwrap_err();
        assert_eq!(error.exit_code, 127);
        assert!(error.to_string().contains(text), "{error}");
    }
}

fn commands_that_cannot_run() {
    let bundle = Bundle::with_args(&["/x"]);
    let x = bundle.rootfs().join("x");
    let check = |content: &[u8], mode: u32, code: i32, text: &str| {
        fs::write(&x, content).unwrap();
        fs::set_permissions(&x, fs::Permissions::from_mode(mode)).unwrap();
        let error = bundle.run().unwrap_err();
        assert_eq!(error.exit_code, code, "{error}");
        assert!(error.to_string().contains(text), "{error}");
    };
    check(b"#!/bin/sh\n", 0o644, 126, "no execute permission");
    check(b"#!/bin/sh\r\nexit\r\n", 0o755, 126, "Unix line endings");
    check(
        b"#!/usr/bin/perl\n",
        0o755,
        126,
        "interpreter /usr/bin/perl does not",
    );
    check(b"echo hi\n", 0o755, 126, "neither a program nor a script");
    check(b"", 0o755, 126, "empty");
    let mut arm = fs::read("/bin/busybox").unwrap()[..4096].to_vec();
    arm[18] = 183;
    check(&arm, 0o755, 126, "is for aarch64");
    // A dynamic program without its loader.
    check(
        &fs::read("/bin/cat").unwrap(),
        0o755,
        126,
        "but its loader /lib64/ld-linux",
    );
    fs::remove_file(&x).unwrap();
    fs::create_dir(&x).unwrap();
    let error = bundle.run().unwrap_err();
    assert_eq!(error.exit_code, 126);
    assert!(error.to_string().contains("it is a directory"), "{error}");
}

fn what_a_user_may_not_run() {
    let mut bundle = Bundle::with_args(&["/a/b/c/x"]);
    bundle.spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    let root = bundle.rootfs();
    fs::create_dir_all(root.join("a/b/c")).unwrap();
    fs::copy("/bin/busybox", root.join("a/b/c/x")).unwrap();
    let mode = |path: &str, mode: u32| {
        fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode)).unwrap();
    };
    let says = |bundle: &Bundle, text: &str| {
        let error = bundle.run().unwrap_err();
        assert_eq!(error.exit_code, 126, "{error}");
        assert!(error.to_string().contains(text), "{error}");
    };
    mode("a/b", 0o700);
    says(
        &bundle,
        "this user (uid 1000) may not search the directory /a/b (mode 700, owner 0:0)",
    );
    mode("a/b", 0o755);
    mode("a/b/c/x", 0o700);
    says(
        &bundle,
        "may not be executed by this user (uid 1000; its mode is 700, its owner 0:0)",
    );
    // In a script, it is the interpreter's permission that counts, too.
    mode("a/b/c/x", 0o755);
    fs::write(root.join("script"), "#!/bin/tool\n").unwrap();
    fs::write(root.join("bin/tool"), "").unwrap();
    mode("script", 0o755);
    mode("bin/tool", 0o644);
    bundle.spec["process"]["args"] = json!(["/script"]);
    says(&bundle, "its interpreter /bin/tool has no execute permission");
    bundle.spec["process"]["args"] = json!(["/vol/program"]);
    fs::create_dir(bundle.path("vol")).unwrap();
    fs::copy("/bin/busybox", bundle.path("vol/program")).unwrap();
    bundle.add_mount(
        json!({"destination": "/vol", "source": bundle.path("vol"), "type": "bind",
        "options": ["bind", "noexec"]}),
    );
    says(&bundle, "it is on /vol, which is mounted noexec");
}

fn what_interpreters_lack() {
    let bundle = Bundle::with_args(&["/script"]);
    let root = bundle.rootfs();
    let write = |path: &str, content: &[u8]| {
        fs::write(root.join(path), content).unwrap();
        fs::set_permissions(root.join(path), fs::Permissions::from_mode(0o755)).unwrap();
    };
    let says = |text: &str| {
        let error = bundle.run().unwrap_err();
        assert_eq!(error.exit_code, 126, "{error}");
        assert!(error.to_string().contains(text), "{error}");
    };
    write("script", b"#!/bin/python\n");
    // Dynamic, and without its loader.
    write("bin/python", &fs::read("/bin/cat").unwrap());
    says("its interpreter /bin/python exists, but its loader /lib64/ld-linux");
    let mut arm = fs::read("/bin/busybox").unwrap()[..4096].to_vec();
    arm[18] = 183;
    write("bin/python", &arm);
    says("its interpreter /bin/python is for aarch64");
    write("bin/python", b"\x7fELF");
    says("its interpreter /bin/python is not a program this kernel can run");
    let bundle = Bundle::with_args(&["folder"]);
    fs::create_dir(bundle.rootfs().join("bin/folder")).unwrap();
    let error = bundle.run().unwrap_err();
    assert_eq!(error.exit_code, 127);
    assert!(
        error.to_string().contains("/bin/folder is a directory"),
        "{error}"
    );
}

fn pid_one_and_names() {
    let mut bundle =
        Bundle::new("echo $$; hostname; cat /proc/sys/kernel/domainname; ls /proc/1/ns | wc -l; ps | wc -l");
    bundle.spec["domainname"] = json!("dom");
    let out = bundle.run().unwrap();
    let lines: Vec<&str> = out.stdout.lines().collect();
    assert_eq!(lines[..3], ["1", "box", "dom"], "{out:?}");
    // Heading, shell, ps, wc at most.
    assert!(lines[4].parse::<u32>().unwrap() <= 4, "{out:?}");
}

fn environment_and_cwd() {
    let mut bundle = Bundle::new("pwd; env");
    bundle.spec["process"]["cwd"] = json!("/made/for/me");
    bundle.spec["process"]["env"] = json!(["PATH=/bin", "A=b=c", "A=d", "EMPTY="]);
    let out = bundle.run().unwrap();
    assert!(out.stdout.starts_with("/made/for/me\n"), "{out:?}");
    assert!(
        out.stdout.contains("\nHOME=/root\n") && out.stdout.contains("\nEMPTY=\n"),
        "{out:?}"
    );

    bundle.spec["process"]["env"] = json!(["PATH=/bin", "HOME=/elsewhere"]);
    bundle.spec["process"]["user"]["uid"] = json!(1000);
    assert!(bundle.run().unwrap().stdout.contains("HOME=/elsewhere\n"));
    bundle.spec["process"]["env"] = json!(["PATH=/bin"]);
    assert!(bundle.run().unwrap().stdout.contains("HOME=/data\n"));
}

fn descriptors_do_not_leak() {
    let held = fs::File::open("/etc").unwrap();
    rustix::io::fcntl_setfd(&held, rustix::io::FdFlags::empty()).unwrap();
    let out = Bundle::with_args(&["ls", "-l", "/proc/self/fd"]).run().unwrap();
    // 0, 1, 2 and the directory that ls reads.
    let count = out.stdout.lines().filter(|l| l.starts_with('l')).count();
    assert_eq!(count, 4, "{out:?}");
    assert!(out.stdout.contains("0 -> /dev/null"), "{out:?}");
}

fn dropping_a_launch_ends_it() {
    let bundle = Bundle::new("exit 0");
    let (mut running, _) = bundle.launch(Stdio::default()).unwrap();
    let (other, _) = bundle.launch(Stdio::default()).unwrap();
    drop(other);
    running.start().unwrap();
    assert_eq!(running.wait(), 0);
}

fn hooks_end_with_the_launch() {
    let mut bundle = Bundle::new("exit 0");
    let told = bundle.path("told");
    let script = format!(
        "echo $$ > {0}.new; mv {0}.new {0}; exec sleep 1000",
        told.display()
    );
    bundle.spec["hooks"] = json!({"createRuntime": [
        {"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]}
    ]});
    let plan = bundle.plan();
    let mut running = Running::new(executor::launch(&plan, Stdio::default()).unwrap());
    assert!(matches!(running.next().unwrap(), Progress::BeforePivot));
    running.launch.resume_after_hooks(&plan.hooks).unwrap();
    let until = |done: &dyn Fn() -> bool, what: &str| {
        let end = Instant::now() + Duration::from_secs(60);
        while !done() {
            assert!(Instant::now() < end, "never: {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    until(&|| told.exists(), "the hook runs");
    let hook: i32 = fs::read_to_string(&told).unwrap().trim().parse().unwrap();
    drop(running);
    // Whoever inherits it may take a while to reap it.
    let lives = || fs::read_to_string(format!("/proc/{hook}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
    until(&|| !lives(), "the hook is gone");
}

fn exec_into() {
    let bundle = Bundle::new("echo ready > /data/ready; exec sleep 1000");
    let (mut running, _) = bundle.launch(Stdio::default()).unwrap();
    running.start().unwrap();
    let out = running
        .exec(&bundle, |p| {
            p["args"] = json!([
                "/bin/sh",
                "-c",
                "while ! test -e /data/ready; do sleep 0.1; done; \
                cat /data/ready; pwd; id -u; hostname; grep Cap /proc/self/status; cat /proc/1/comm; exit 5"
            ]);
            p["user"]["uid"] = json!(1000);
            p["cwd"] = json!("/data");
            p["capabilities"] = json!(null);
        })
        .unwrap();
    assert_eq!(out.code, 5, "{out:?}");
    assert!(out.stdout.starts_with("ready\n/data\n1000\nbox\n"), "{out:?}");
    assert!(out.stdout.contains("CapBnd:\t0000000000000000"), "{out:?}");
    assert!(out.stdout.contains("sleep"), "{out:?}");

    let error = running
        .exec(&bundle, |p| p["args"] = json!(["nope"]))
        .unwrap_err();
    assert_eq!(error.exit_code, 127, "{error}");
    // The caller's own children are still in its own pid namespace.
    let out = std::process::Command::new("/bin/sh")
        .args(["-c", "readlink /proc/self/ns/pid"])
        .output()
        .unwrap();
    let own = fs::read_link("/proc/self/ns/pid").unwrap();
    assert_eq!(
        String::from_utf8(out.stdout).unwrap().trim(),
        own.to_str().unwrap()
    );
}

fn exec_into_nothing() {
    let bundle = Bundle::new("exit 0");
    let (mut running, _) = bundle.launch(Stdio::default()).unwrap();
    running.start().unwrap();
    rustix::event::poll(
        &mut [rustix::event::PollFd::new(
            &running.launch.pidfd,
            rustix::event::PollFlags::IN,
        )],
        None,
    )
    .unwrap();
    let error = running.exec(&bundle, |_| {}).unwrap_err();
    assert!(error.to_string().contains("has ended"), "{error}");
}

fn joins_namespaces() {
    let first = Bundle::new("exec sleep 1000");
    let (mut running, _) = first.launch(Stdio::default()).unwrap();
    running.start().unwrap();
    let ns = |kind: &str| format!("/proc/{}/ns/{kind}", running.launch.pid);
    let mut second = Bundle::new(
        "for n in net ipc uts pid; do readlink /proc/self/ns/$n; done; hostname; ps | grep -c sleep",
    );
    second.spec["linux"]["namespaces"] = json!([
        {"type": "mount"}, {"type": "cgroup"},
        {"type": "network", "path": ns("net")}, {"type": "ipc", "path": ns("ipc")},
        {"type": "uts", "path": ns("uts")}, {"type": "pid", "path": ns("pid")},
    ]);
    second.spec["hostname"] = json!("");
    let out = second.run().unwrap();
    let expected: Vec<String> = ["net", "ipc", "uts", "pid"]
        .iter()
        .map(|k| fs::read_link(ns(k)).unwrap().to_str().unwrap().to_owned())
        .collect();
    let lines: Vec<&str> = out.stdout.lines().collect();
    assert_eq!(lines[..4], expected, "{out:?}");
    assert_eq!(lines[4], "box");
    assert_ne!(lines[5], "0");
}

fn sysctl_in_own_namespace() {
    let mut bundle =
        Bundle::new("cat /proc/sys/kernel/msgmax /proc/sys/net/ipv4/ip_default_ttl; ifconfig lo");
    bundle.spec["linux"]["sysctl"] = json!({"kernel.msgmax": "12345", "net.ipv4.ip_default_ttl": "77"});
    let before = fs::read_to_string("/proc/sys/net/ipv4/ip_default_ttl").unwrap();
    let out = bundle.run().unwrap();
    assert!(out.stdout.starts_with("12345\n77\n"), "{out:?}");
    assert!(out.stdout.contains("UP"), "{out:?}");
    assert_eq!(
        fs::read_to_string("/proc/sys/net/ipv4/ip_default_ttl").unwrap(),
        before
    );
}

fn directory_rootfs() {
    let mut bundle = Bundle::new("echo x > /new; ls /");
    bundle.options.rootfs = husk::spec::plan::Rootfs::Directory(bundle.rootfs());
    bundle.options.mount_point = bundle.rootfs();
    let out = bundle.run().unwrap();
    assert_eq!(out.code, 0, "{out:?}");
    assert_eq!(fs::read_to_string(bundle.rootfs().join("new")).unwrap(), "x\n");
}

fn signals_are_default() {
    let (out, child) = pipe();
    let bundle = Bundle::with_args(&["grep", "Sig", "/proc/self/status"]);
    let (mut running, _) = bundle
        .launch(Stdio {
            stdout: Some(child),
            ..Stdio::default()
        })
        .unwrap();
    running.start().unwrap();
    let text = read(out);
    running.wait();
    assert!(
        text.contains("SigBlk:\t0000000000000000") && text.contains("SigIgn:\t0000000000000000"),
        "{text}"
    );
}
