//! Against the real kernel where it has the version, and against directories that look like it where it has not.

#![allow(clippy::unwrap_used)]

mod fixture;
mod layout;
mod readings;
mod unified;
mod v1;
mod v1_processes;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use oci_spec::runtime::LinuxResources;

use super::*;

/// Resources from the JSON of an OCI spec.
fn oci(json: &str) -> LinuxResources {
    serde_json::from_str(json).unwrap()
}

/// A parent cgroup of one test's own, removed with all it holds when the test ends, however it ends.
struct Home {
    cgroups: Cgroups,
    path: String,
}

impl Home {
    /// `None` where the controllers are not on version 1.
    fn v1() -> Option<Self> {
        let cgroups = Cgroups::probe(Path::new("/sys/fs/cgroup"), Driver::Cgroupfs).unwrap();
        if cgroups.version() != Version::V1 {
            eprintln!("skipped: this node has cgroup version 2");
            return None;
        }
        Some(Self {
            cgroups,
            path: format!("/{}", unique()),
        })
    }

    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.path)
    }

    fn create(&self, name: &str, json: &str) -> Cgroup {
        self.cgroups.create(&self.path(name), &oci(json)).unwrap()
    }

    /// The directory of a cgroup in one hierarchy.
    fn dir(&self, controller: &str, name: &str) -> PathBuf {
        Path::new("/sys/fs/cgroup")
            .join(controller)
            .join(self.path(name).trim_start_matches('/'))
    }

    fn file(&self, controller: &str, name: &str, file: &str) -> String {
        read(&self.dir(controller, name).join(file))
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let home = self.cgroups.open(&self.path);
        let done = home
            .thaw()
            .and_then(|()| home.kill())
            .and_then(|()| home.remove());
        if !std::thread::panicking() {
            done.unwrap();
        }
    }
}

fn unique() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!(
        "husk-test-{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path)
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        .trim()
        .to_owned()
}

/// A shell that runs `script` once it is in `cgroup`. Killed and reaped at the end of the test.
struct Shell(Child);

impl Shell {
    fn run(cgroup: &Cgroup, script: &str) -> Self {
        let mut child = Command::new("/bin/sh")
            .args(["-c", &format!("read _; {script}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        cgroup.add_process(i32::try_from(child.id()).unwrap()).unwrap();
        // Closing it ends the read, which is all the shell waits for.
        drop(child.stdin.take());
        Self(child)
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }

    /// The signal that ended it.
    fn signal(&mut self) -> Option<i32> {
        std::os::unix::process::ExitStatusExt::signal(&self.0.wait().unwrap())
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits for something that must come, as long as it takes a loaded machine.
fn until(what: &str, done: impl FnMut() -> bool) {
    assert!(
        kill::wait_until(std::time::Duration::from_secs(30), done),
        "never: {what}"
    );
}
