//! A busybox root file system and a launcher that collects what a container did.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use husk::executor::{self, ExecTarget, Launch, LaunchError, Progress, Stdio};
use husk::spec::plan::{self, ContainerOptions, ExecOptions, LaunchPlan, Rootfs};
use oci_spec::runtime::Spec;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, WaitOptions, waitpid};
use serde_json::{Value, json};

/// Mounts of this test on the node; other programs' come and go meanwhile.
pub fn leftovers() -> Vec<String> {
    let list = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let own = prefix();
    list.lines()
        .filter(|l| l.contains(&own))
        .map(str::to_owned)
        .collect()
}

pub fn prefix() -> String {
    format!("husk-executor-{}-", std::process::id())
}

pub struct Bundle {
    pub dir: tempfile::TempDir,
    pub spec: Value,
    pub options: ContainerOptions,
}

#[derive(Debug, Default)]
pub struct Outcome {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
    pub notes: Vec<String>,
}

impl Bundle {
    /// A container of busybox that runs `script` in its shell.
    pub fn new(script: &str) -> Self {
        Self::with_args(&["/bin/sh", "-c", script])
    }

    pub fn with_args(args: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix(&prefix()).tempdir().unwrap();
        let root = dir.path().join("rootfs");
        busybox(&root);
        for name in ["upper", "work", "mnt"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let path = |name: &str| dir.path().join(name);
        let options = ContainerOptions {
            rootfs: Rootfs::Overlay {
                lower: vec![root],
                upper: path("upper"),
                work: path("work"),
                volatile: false,
            },
            mount_point: path("mnt"),
            ..ContainerOptions::default()
        };
        Self {
            spec: spec(args),
            dir,
            options,
        }
    }

    pub fn rootfs(&self) -> PathBuf {
        self.dir.path().join("rootfs")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn add_mount(&mut self, mount: Value) {
        self.spec["mounts"].as_array_mut().unwrap().push(mount);
    }

    pub fn oci(&self) -> Spec {
        serde_json::from_value(self.spec.clone()).unwrap()
    }

    pub fn plan(&self) -> LaunchPlan {
        let plan = plan::container(&self.oci(), &self.options).unwrap();
        // As it travels to a supervisor.
        serde_json::from_slice(&serde_json::to_vec(&plan).unwrap()).unwrap()
    }

    /// Launches up to the gate.
    pub fn launch(&self, stdio: Stdio) -> Result<(Running, Vec<String>), LaunchError> {
        let mut running = Running::new(executor::launch(&self.plan(), stdio)?);
        let notes = running.until_ready()?;
        Ok((running, notes))
    }

    /// Runs to the end.
    pub fn run(&self) -> Result<Outcome, LaunchError> {
        let (out, out_child) = pipe();
        let (err, err_child) = pipe();
        let (mut running, notes) = self.launch(Stdio {
            stdin: None,
            stdout: Some(out_child),
            stderr: Some(err_child),
        })?;
        running.start()?;
        Ok(Outcome {
            stdout: read(out),
            stderr: read(err),
            code: running.wait(),
            notes,
        })
    }
}

/// A container's process; killed and reaped when dropped.
pub struct Running {
    pub launch: Launch,
    pub console: Option<OwnedFd>,
    reaped: bool,
}

impl Running {
    pub fn new(launch: Launch) -> Self {
        Self {
            launch,
            console: None,
            reaped: false,
        }
    }

    pub fn next(&mut self) -> Result<Progress, LaunchError> {
        loop {
            match self.launch.advance()? {
                Progress::Pending => {
                    poll(
                        &mut [PollFd::from_borrowed_fd(self.launch.sync_fd(), PollFlags::IN)],
                        None,
                    )
                    .unwrap();
                }
                progress => return Ok(progress),
            }
        }
    }

    pub fn until_ready(&mut self) -> Result<Vec<String>, LaunchError> {
        match self.next()? {
            Progress::Ready { console, notes } => {
                self.console = console;
                Ok(notes)
            }
            other => panic!("{other:?} instead of Ready"),
        }
    }

    pub fn until_running(&mut self) -> Result<(), LaunchError> {
        match self.next()? {
            Progress::Running => Ok(()),
            other => panic!("{other:?} instead of Running"),
        }
    }

    pub fn start(&mut self) -> Result<(), LaunchError> {
        self.launch.open_gate()?;
        self.until_running()
    }

    /// Exit code, or 128 and the signal.
    pub fn wait(&mut self) -> i32 {
        let pid = Pid::from_raw(self.launch.pid).unwrap();
        let (_, status) = waitpid(Some(pid), WaitOptions::empty()).unwrap().unwrap();
        self.reaped = true;
        status
            .exit_status()
            .unwrap_or_else(|| 128 + status.terminating_signal().unwrap())
    }

    /// Runs a shell script in the container.
    pub fn exec(&self, bundle: &Bundle, change: impl FnOnce(&mut Value)) -> Result<Outcome, LaunchError> {
        let mut process = bundle.spec["process"].clone();
        change(&mut process);
        let process = serde_json::from_value(process).unwrap();
        let plan = plan::exec(&bundle.oci(), &process, &ExecOptions::default()).unwrap();
        let target = ExecTarget {
            pid: self.launch.pid,
            pidfd: None,
            cgroup: None,
        };
        let (out, out_child) = pipe();
        let (err, err_child) = pipe();
        let stdio = Stdio {
            stdin: None,
            stdout: Some(out_child),
            stderr: Some(err_child),
        };
        let mut running = Self::new(executor::exec(&plan, &target, stdio)?);
        let notes = running.until_ready()?;
        running.until_running()?;
        Ok(Outcome {
            stdout: read(out),
            stderr: read(err),
            code: running.wait(),
            notes,
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.reaped {
            let _ = rustix::process::pidfd_send_signal(&self.launch.pidfd, rustix::process::Signal::KILL);
            self.wait();
        }
    }
}

pub fn pipe() -> (File, OwnedFd) {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    (read.into(), write)
}

pub fn read(mut from: File) -> String {
    let mut text = String::new();
    from.read_to_string(&mut text).unwrap();
    text
}

/// busybox with all its names, and a few files.
pub fn busybox(root: &Path) {
    for dir in ["bin", "etc", "tmp", "root", "data"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for name in [
        "sh", "cat", "ls", "id", "true", "false", "sleep", "echo", "pwd", "stat", "mount", "env", "grep",
        "touch", "tty", "stty", "hostname", "ps", "readlink", "test", "wc", "kill", "umount", "mkdir",
        "ifconfig", "ulimit", "seq", "cut", "tr",
    ] {
        symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000::/data:/bin/sh\n",
    )
    .unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\nweb:x:1000:\n").unwrap();
}

/// What `runc spec` gives, roughly.
pub fn spec(args: &[&str]) -> Value {
    let caps = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": args,
            "env": ["PATH=/usr/local/bin:/usr/bin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs", "readonly": false},
        "hostname": "box",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
             "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
             "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs",
             "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
             "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]},
        ],
        "linux": {
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
                {"type": "cgroup"},
            ],
            "maskedPaths": ["/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        }
    })
}
