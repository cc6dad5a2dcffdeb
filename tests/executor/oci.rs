//! `husk oci`, driven as a program of its own the way containerd and test suites drive runc.

use std::fs;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::{Value, json};

use crate::Case;
use crate::fixture::{busybox, prefix, spec};

pub const CASES: &[Case] = &[
    ("oci_run", oci_run),
    ("oci_run_fails_like_runc", oci_run_fails_like_runc),
    ("oci_create_start_delete", oci_create_start_delete),
    ("oci_create_fails_early", oci_create_fails_early),
    ("oci_start_tells_why", oci_start_tells_why),
    ("oci_kill_and_force", oci_kill_and_force),
    ("oci_exec", oci_exec),
    ("oci_console_socket", oci_console_socket),
    ("oci_hooks", oci_hooks),
    ("oci_run_on_a_terminal", oci_run_on_a_terminal),
    ("oci_signals_are_passed_on", oci_signals_are_passed_on),
    ("oci_run_detached", oci_run_detached),
    ("oci_unknown_capability", oci_unknown_capability),
    ("oci_preserved_descriptors", oci_preserved_descriptors),
    ("oci_bundle_of_runc", oci_bundle_of_runc),
    ("oci_on_a_node_with_cgroup_v2", oci_on_a_node_with_cgroup_v2),
    ("oci_list_and_features", oci_list_and_features),
];

struct Oci {
    dir: tempfile::TempDir,
    spec: Value,
}

impl Oci {
    fn new(script: &str) -> Self {
        let dir = tempfile::Builder::new().prefix(&prefix()).tempdir().unwrap();
        busybox(&dir.path().join("rootfs"));
        Self {
            dir,
            spec: spec(&["/bin/sh", "-c", script]),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        fs::write(self.path("config.json"), self.spec.to_string()).unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .arg("--as-husk-oci")
            .arg("--root")
            .arg(self.path("state"))
            .args(args)
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// For what must work; gives stdout. Not for `create`, whose container keeps the pipes open.
    fn ok(&self, args: &[&str]) -> String {
        let out = self.run(args);
        assert!(out.status.success(), "{args:?}: {out:?}");
        String::from_utf8(out.stdout).unwrap()
    }

    fn create(&self, id: &str, more: &[&str]) {
        let log = fs::File::create(self.path("out")).unwrap();
        let status = self
            .command(&[&["create"], more, &[id]].concat())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .status()
            .unwrap();
        assert!(status.success(), "{}", self.output());
    }

    fn output(&self) -> String {
        fs::read_to_string(self.path("out")).unwrap()
    }

    fn status(&self, id: &str) -> String {
        let state: Value = serde_json::from_str(&self.ok(&["state", id])).unwrap();
        state["status"].as_str().unwrap().to_owned()
    }

    fn wait_until_stopped(&self, id: &str) {
        for _ in 0..500 {
            if self.status(id) == "stopped" {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("{id} does not stop: {}", self.ok(&["state", id]));
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn oci_run() {
    let oci = Oci::new("echo out; echo err >&2; exit 3");
    let out = oci.run(&["run", "box"]);
    assert_eq!(out.status.code(), Some(3), "{out:?}");
    assert_eq!(
        (text(&out.stdout), text(&out.stderr)),
        ("out\n".into(), "err\n".into())
    );
    assert!(!oci.path("state/box").exists());
    let out = Oci::new("kill -TERM 1; sleep 0.1; kill -KILL $$ ; exit 4").run(&["run", "box"]);
    // The first process of a pid namespace does not hear signals from inside that it has no handler for.
    assert_eq!(out.status.code(), Some(4), "{out:?}");
}

fn oci_run_fails_like_runc() {
    let mut oci = Oci::new("");
    oci.spec["process"]["args"] = json!(["nothing-there"]);
    let out = oci.run(&["run", "box"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(
        text(&out.stderr).contains("executable file not found in $PATH"),
        "{out:?}"
    );
    assert!(!oci.path("state/box").exists());
    assert_eq!(oci.run(&["run", "../x"]).status.code(), Some(1));
    assert_eq!(
        oci.run(&["run", "--bundle", "/nowhere", "box"]).status.code(),
        Some(1)
    );
}

fn oci_create_start_delete() {
    let oci = Oci::new("echo started; cat /proc/self/status | grep NoNewPrivs");
    oci.create("box", &["--pid-file", "pid"]);
    assert_eq!(oci.status("box"), "created");
    let state: Value = serde_json::from_str(&oci.ok(&["state", "box"])).unwrap();
    assert_eq!(
        state["pid"].to_string(),
        fs::read_to_string(oci.path("pid")).unwrap()
    );
    assert_eq!(
        state["bundle"].as_str().unwrap(),
        oci.dir.path().to_str().unwrap()
    );
    assert_eq!(oci.output(), "", "it ran before it was started");

    // A second one of the same name is refused and does not harm the first.
    let again = oci.run(&["create", "box"]);
    assert!(text(&again.stderr).contains("already exists"), "{again:?}");

    oci.ok(&["start", "box"]);
    oci.wait_until_stopped("box");
    assert_eq!(oci.output(), "started\nNoNewPrivs:\t1\n");
    let again = oci.run(&["start", "box"]);
    assert!(text(&again.stderr).contains("is stopped"), "{again:?}");
    oci.ok(&["delete", "box"]);
    let gone = oci.run(&["state", "box"]);
    assert_eq!(gone.status.code(), Some(1));
    assert!(text(&gone.stderr).contains("does not exist"), "{gone:?}");
    oci.ok(&["delete", "--force", "box"]);
}

fn oci_create_fails_early() {
    let mut oci = Oci::new("");
    oci.spec["process"]["args"] = json!(["nothing-there"]);
    let out = oci.run(&["create", "box"]);
    assert!(text(&out.stderr).contains("executable file not found"), "{out:?}");
    assert!(!oci.path("state/box").exists());
    let log = oci.path("log.json");
    let out = oci.run(&[
        "--log",
        log.to_str().unwrap(),
        "--log-format",
        "json",
        "create",
        "box",
    ]);
    assert!(!out.status.success());
    let line: Value = serde_json::from_str(fs::read_to_string(log).unwrap().trim()).unwrap();
    assert_eq!(line["level"], "error");
    assert!(
        line["msg"]
            .as_str()
            .unwrap()
            .contains("executable file not found"),
        "{line}"
    );
}

fn oci_start_tells_why() {
    let mut oci = Oci::new("");
    // Passes the early check, for the file is there and executable.
    fs::write(oci.path("rootfs/script"), "no first line\n").unwrap();
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(oci.path("rootfs/script"), fs::Permissions::from_mode(0o755)).unwrap();
    oci.spec["process"]["args"] = json!(["/script"]);
    oci.create("box", &[]);
    let out = oci.run(&["start", "box"]);
    assert!(
        text(&out.stderr).contains("neither a program nor a script"),
        "{out:?}"
    );
    oci.wait_until_stopped("box");
    oci.ok(&["delete", "box"]);
}

fn oci_kill_and_force() {
    let oci = Oci::new("trap 'exit 9' TERM; while :; do sleep 0.05; done");
    oci.create("box", &[]);
    oci.ok(&["start", "box"]);
    let refused = oci.run(&["delete", "box"]);
    assert!(text(&refused.stderr).contains("is running"), "{refused:?}");
    // The trap may not be set yet: then the signal is lost, as signals to a first process are.
    while oci.status("box") == "running" {
        oci.run(&["kill", "box", "TERM"]);
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(oci.status("box"), "stopped");
    let gone = oci.run(&["kill", "box"]);
    assert!(text(&gone.stderr).contains("is not running"), "{gone:?}");
    oci.ok(&["kill", "--all", "box", "KILL"]);
    oci.ok(&["delete", "box"]);

    oci.create("box", &[]);
    oci.ok(&["start", "box"]);
    oci.ok(&["delete", "--force", "box"]);
    // A created one is ended without force.
    oci.create("box", &[]);
    oci.ok(&["delete", "box"]);
    assert!(!oci.path("state/box").exists());
}

fn oci_exec() {
    let oci = Oci::new("exec sleep 1000");
    oci.create("box", &[]);
    oci.ok(&["start", "box"]);
    let out = oci.run(&[
        "exec",
        "--user",
        "1000:5",
        "--env",
        "A=b",
        "--cwd",
        "/data",
        "--cap",
        "CAP_NET_RAW",
        "box",
        "sh",
        "-c",
        "id -u; id -g; echo $A; pwd; exit 6",
    ]);
    assert_eq!(out.status.code(), Some(6), "{out:?}");
    assert_eq!(text(&out.stdout), "1000\n5\nb\n/data\n");
    assert_eq!(oci.run(&["exec", "box", "missing"]).status.code(), Some(127));
    assert_eq!(oci.run(&["exec", "box", "/etc/passwd"]).status.code(), Some(126));

    let mut process = oci.spec["process"].clone();
    process["args"] = json!(["hostname"]);
    fs::write(oci.path("process.json"), process.to_string()).unwrap();
    assert_eq!(oci.ok(&["exec", "--process", "process.json", "box"]), "box\n");

    let status = oci
        .command(&["exec", "--detach", "--pid-file", "pid", "box", "sleep", "1000"])
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    let pid = fs::read_to_string(oci.path("pid")).unwrap();
    assert!(
        fs::read_to_string(format!("/proc/{pid}/comm"))
            .unwrap()
            .contains("sleep")
    );
    oci.ok(&["delete", "-f", "box"]);
    let gone = oci.run(&["exec", "box", "true"]);
    assert!(text(&gone.stderr).contains("does not exist"), "{gone:?}");
}

fn receive_fd(listener: &UnixListener) -> OwnedFd {
    let (socket, _) = listener.accept().unwrap();
    let mut bytes = [0; 64];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(
        &socket,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )
    .unwrap();
    let fd = control.drain().find_map(|m| match m {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    fd.unwrap()
}

fn oci_console_socket() {
    let mut oci = Oci::new("tty; exec sleep 1000");
    oci.spec["process"]["terminal"] = json!(true);
    let refused = oci.run(&["create", "box"]);
    assert!(text(&refused.stderr).contains("--console-socket"), "{refused:?}");

    let listener = UnixListener::bind(oci.path("console")).unwrap();
    oci.create("box", &["--console-socket", "console"]);
    let master = receive_fd(&listener);
    oci.ok(&["start", "box"]);
    let mut buffer = [0; 64];
    let n = rustix::io::read(&master, &mut buffer).unwrap();
    assert_eq!(text(&buffer[..n]), "/dev/pts/0\r\n");
    oci.ok(&["delete", "-f", "box"]);
}

fn oci_hooks() {
    let mut oci = Oci::new("echo program >> /data/order");
    let order = oci.path("rootfs/data/order");
    let hook = |name: &str, inside: bool| {
        let file = if inside {
            "/data/order"
        } else {
            order.to_str().unwrap()
        };
        let script =
            format!("read -r s; case \"$s\" in *'\"id\":\"box\"'*) echo {name} >> {file};; *) exit 1;; esac");
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin"]}])
    };
    oci.spec["hooks"] = json!({
        "prestart": hook("prestart", false), "createRuntime": hook("createRuntime", false),
        "createContainer": hook("createContainer", false), "startContainer": hook("startContainer", true),
        "poststart": hook("poststart", false), "poststop": hook("poststop", false),
    });
    oci.create("box", &[]);
    oci.ok(&["start", "box"]);
    oci.wait_until_stopped("box");
    oci.ok(&["delete", "box"]);
    let lines = fs::read_to_string(&order).unwrap();
    let mut lines: Vec<&str> = lines.lines().collect();
    assert_eq!(
        lines[..4],
        ["prestart", "createRuntime", "createContainer", "startContainer"],
        "{}",
        oci.output()
    );
    // The program and what follows its start run at the same time.
    lines[4..6].sort_unstable();
    assert_eq!(lines[4..], ["poststart", "program", "poststop"]);

    oci.spec["hooks"] =
        json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", "echo no >&2; exit 1"]}]});
    let out = oci.run(&["create", "box"]);
    assert!(
        text(&out.stderr).contains("run createRuntime hook /bin/sh: exit status: 1: no"),
        "{out:?}"
    );
    assert!(!oci.path("state/box").exists());
}

fn oci_unknown_capability() {
    let mut oci = Oci::new("exit 0");
    for set in ["bounding", "effective", "permitted"] {
        oci.spec["process"]["capabilities"][set] = json!(["CAP_KILL", "CAP_FROM_THE_FUTURE"]);
    }
    let out = oci.run(&["run", "box"]);
    assert!(out.status.success(), "{out:?}");
    assert!(text(&out.stderr).contains("CAP_FROM_THE_FUTURE"), "{out:?}");
}

fn oci_preserved_descriptors() {
    let oci = Oci::new("cat <&3; ls -l /proc/self/fd | grep -c '^l'");
    fs::write(oci.path("given"), "given\n").unwrap();
    oci.ok(&["features"]);
    let exe = std::env::current_exe().unwrap();
    let script = format!(
        "exec {} --as-husk-oci --root state run --preserve-fds 1 box 3<given",
        exe.display()
    );
    let out = Command::new("/bin/sh")
        .args(["-c", &script])
        .current_dir(oci.dir.path())
        .output()
        .unwrap();
    // 0 to 3 and the directory.
    assert_eq!(text(&out.stdout), "given\n5\n", "{out:?}");
    let out = oci.run(&["run", "--preserve-fds", "3", "box"]);
    assert!(text(&out.stderr).contains("is not open"), "{out:?}");
}

fn oci_bundle_of_runc() {
    if !fs::exists("/usr/sbin/runc").unwrap_or(false) {
        println!("  (no runc on this machine: its bundle is not compared)");
        return;
    }
    let mut oci = Oci::new("");
    assert!(
        Command::new("runc")
            .arg("spec")
            .current_dir(oci.dir.path())
            .status()
            .unwrap()
            .success()
    );
    oci.spec = serde_json::from_slice(&fs::read(oci.path("config.json")).unwrap()).unwrap();
    oci.spec["process"]["terminal"] = json!(false);
    let script = "id; pwd; env; hostname; umask; ulimit -n; cat /proc/self/status | grep -E 'Cap|NoNew|Seccomp|Groups'; \
        ls -l /dev | grep -v total; ls /proc/self/ns; cut -d' ' -f5,6 /proc/self/mountinfo > /dev/shm/m; \
        for m in / /proc /proc/sys /proc/bus /dev /dev/pts /dev/shm /dev/mqueue /sys; do grep \"^$m \" /dev/shm/m; done; touch /x; cat /proc/keys";
    oci.spec["process"]["args"] = json!(["/bin/sh", "-c", script]);
    let ours = oci.run(&["run", "box"]);
    let theirs = Command::new("runc")
        .args(["--root", "runc-state", "run", "box"])
        .current_dir(oci.dir.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let lines = |out: &Output| -> Vec<String> {
        let both = text(&out.stdout) + &text(&out.stderr);
        // Times of device nodes differ.
        both.lines()
            .map(|l| {
                l.split_whitespace()
                    .filter(|w| !w.contains(':'))
                    .collect::<Vec<_>>()
                    .join(" ")
            })
            .collect()
    };
    assert_eq!(lines(&ours), lines(&theirs), "{ours:?}\n{theirs:?}");
}

/// This node may have version 1: then version 2 is put in its place in a mount namespace of its own.
fn oci_on_a_node_with_cgroup_v2() {
    let oci = Oci::new(
        "cat /proc/self/cgroup | grep ^0; grep ' /sys/fs/cgroup ' /proc/self/mountinfo; \
        test -e /sys/fs/cgroup/cgroup.procs && echo procs; touch /sys/fs/cgroup/x",
    );
    oci.ok(&["features"]);
    let exe = std::env::current_exe().unwrap();
    let script = format!(
        "mount --make-rprivate / && mount -t cgroup2 cgroup2 /sys/fs/cgroup && \
         exec {} --as-husk-oci --root state run box",
        exe.display()
    );
    let out = Command::new("unshare")
        .args(["-m", "sh", "-c", &script])
        .current_dir(oci.dir.path())
        .output()
        .unwrap();
    let stdout = text(&out.stdout);
    assert!(
        stdout.starts_with("0::/\n") && stdout.ends_with("\nprocs\n"),
        "{out:?}"
    );
    assert!(
        stdout.contains(" ro,nosuid,nodev,noexec,relatime - cgroup2 "),
        "{out:?}"
    );
    assert!(text(&out.stderr).contains("Read-only file system"), "{out:?}");
}

fn oci_list_and_features() {
    let oci = Oci::new("exec sleep 1000");
    assert_eq!(oci.ok(&["list", "-q"]), "");
    oci.create("one", &[]);
    oci.create("two", &[]);
    assert_eq!(oci.ok(&["list", "--quiet"]), "one\ntwo\n");
    let list: Value = serde_json::from_str(&oci.ok(&["list", "-f", "json"])).unwrap();
    assert_eq!(list[1]["status"], "created");
    assert!(oci.ok(&["list"]).starts_with("ID "));
    oci.ok(&["delete", "one"]);
    oci.ok(&["delete", "two"]);
    let features: Value = serde_json::from_str(&oci.ok(&["features"])).unwrap();
    assert_eq!(features["linux"]["seccomp"]["enabled"], true);
    assert_eq!(oci.run(&["--help"]).status.code(), Some(0));
    assert_eq!(oci.run(&["nonsense"]).status.code(), Some(1));
}

fn oci_run_on_a_terminal() {
    use std::io::{Read, Write};
    let mut oci = Oci::new("tty; stty size; read line; echo got $line; exit 4");
    oci.spec["process"]["terminal"] = json!(true);
    let master = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/ptmx")
        .unwrap();
    let slave = husk::sys::tty::open_slave(std::os::fd::AsFd::as_fd(&master)).unwrap();
    husk::sys::tty::set_size(std::os::fd::AsFd::as_fd(&master), 21, 43).unwrap();
    let mut child = oci
        .command(&["run", "box"])
        .stdin(slave.try_clone().unwrap())
        .stdout(slave.try_clone().unwrap())
        .stderr(slave)
        .spawn()
        .unwrap();
    let (mut seen, mut buffer) = (String::new(), [0; 256]);
    let mut read_until = |what: &str| {
        while !seen.contains(what) {
            let n = (&master).read(&mut buffer).unwrap();
            seen.push_str(&text(&buffer[..n]));
        }
    };
    read_until("21 43\r\n");
    (&master).write_all(b"hello\r").unwrap();
    read_until("got hello\r\n");
    assert_eq!(child.wait().unwrap().code(), Some(4));
}

fn oci_signals_are_passed_on() {
    let oci = Oci::new("trap 'exit 9' TERM; touch /data/ready; while :; do sleep 0.05; done");
    let mut child = oci.command(&["run", "box"]).spawn().unwrap();
    while !oci.path("rootfs/data/ready").exists() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(9));
    assert!(!oci.path("state/box").exists());
}

fn oci_run_detached() {
    let oci = Oci::new("exec sleep 1000");
    let status = oci
        .command(&["run", "--detach", "--pid-file", "pid", "box"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(oci.status("box"), "running");
    assert!(!fs::read_to_string(oci.path("pid")).unwrap().is_empty());
    oci.ok(&["kill", "box", "KILL"]);
    oci.wait_until_stopped("box");
    oci.ok(&["delete", "box"]);
}
