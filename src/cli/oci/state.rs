//! What is known of a container between two calls of `husk oci`: a directory below the root, by its id.
//!
//! ```text
//! <root>/<id>/state.json    what this file describes
//!             config.json   the spec, for exec
//!             gate          socket of a container that waits to be started
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::types::error::Context;
use crate::types::{CgroupJoin, Error, Kind, Result};

/// A container's state, as stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct State {
    pub oci_version: String,
    pub id: String,
    /// 0 until there is a process.
    pub pid: i32,
    /// When the process began, in ticks since boot: tells it from a later one with its id.
    pub pid_start: u64,
    pub bundle: PathBuf,
    pub rootfs: PathBuf,
    pub created: String,
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub cgroup: Option<CgroupJoin>,
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Creating,
    Created,
    Running,
    Stopped,
}

impl Status {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Stopped => "stopped",
        }
    }
}

/// The directory of one container.
#[derive(Debug, Clone)]
pub(super) struct Home(PathBuf);

impl Home {
    /// Makes the directory of a new container.
    pub fn create(root: &Path, id: &str) -> Result<Self> {
        check_id(id)?;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(root)
            .with_context(|| format!("create {}", root.display()))?;
        let path = root.join(id);
        match fs::DirBuilder::new().mode(0o711).create(&path) {
            Ok(()) => Ok(Self(path)),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Err(Error::new(
                Kind::AlreadyExists,
                format!("container {id:?} already exists"),
            )),
            Err(e) => Err(Error::internal(format!("create {}: {e}", path.display()))),
        }
    }

    /// Finds the directory of an existing container.
    pub fn find(root: &Path, id: &str) -> Result<Self> {
        check_id(id)?;
        let path = root.join(id);
        if path.is_dir() {
            Ok(Self(path))
        } else {
            Err(Error::not_found(format!(
                "container {id:?} does not exist below {}",
                root.display()
            )))
        }
    }

    /// Removes it all.
    pub fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.0) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::internal(format!("remove {}: {e}", self.0.display())))
            }
            _ => Ok(()),
        }
    }

    /// The gate's path in a form short enough for a socket address, with the descriptor that it goes through.
    pub fn gate(&self) -> Result<(PathBuf, OwnedFd)> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = open(&self.0, flags, Mode::empty()).with_context(|| format!("open {}", self.0.display()))?;
        Ok((format!("/proc/self/fd/{}/gate", fd.as_raw_fd()).into(), fd))
    }

    /// The container no longer waits to be started.
    pub fn remove_gate(&self) {
        let _ = fs::remove_file(self.0.join("gate"));
    }

    pub fn save(&self, state: &State) -> Result<()> {
        self.write("state.json", &serde_json::to_vec(state).context("encode state")?)
    }

    pub fn save_spec(&self, spec: &Spec) -> Result<()> {
        self.write("config.json", &serde_json::to_vec(spec).context("encode spec")?)
    }

    pub fn load(&self) -> Result<State> {
        self.read("state.json")
    }

    pub fn load_spec(&self) -> Result<Spec> {
        self.read("config.json")
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let temporary = self.0.join(format!(".{name}"));
        let what = || format!("write {}", self.0.join(name).display());
        fs::write(&temporary, bytes).with_context(what)?;
        fs::rename(&temporary, self.0.join(name)).with_context(what)
    }

    fn read<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<T> {
        let path = self.0.join(name);
        let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        serde_json::from_slice(&bytes).with_context(|| format!("read {}", path.display()))
    }

    pub fn status(&self, state: &State) -> Status {
        if state.pid == 0 {
            Status::Creating
        } else if start_time(state.pid) != Some(state.pid_start) {
            Status::Stopped
        } else if self.0.join("gate").exists() {
            Status::Created
        } else {
            Status::Running
        }
    }
}

impl State {
    /// The state as the OCI spec has it, for hooks and `state`.
    pub fn to_oci(&self, status: Status) -> Value {
        json!({
            "ociVersion": self.oci_version,
            "id": self.id,
            "status": status.as_str(),
            "pid": if status == Status::Stopped { 0 } else { self.pid },
            "bundle": self.bundle,
            "annotations": self.annotations,
        })
    }

    /// A handle on the process; `None` if it has ended.
    pub fn process(&self) -> Option<OwnedFd> {
        let fd = pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::empty()).ok()?;
        // Looked at after the handle was taken, so it is the right one.
        (start_time(self.pid) == Some(self.pid_start)).then_some(fd)
    }
}

/// When process `pid` began; `None` if there is none, or only what is left for its parent to reap.
pub(super) fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before may contain anything, even brackets.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let ended = matches!(fields.next()?, "Z" | "X");
    if ended { None } else { fields.nth(18)?.parse().ok() }
}

fn check_id(id: &str) -> Result<()> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'+' | b'-' | b'.');
    if id.is_empty() || id == "." || id == ".." || id.len() > 255 || !id.bytes().all(good) {
        return Err(Error::invalid(format!(
            "container id {id:?}: only letters, digits and _ + - . are allowed"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ids_that_could_lead_astray_are_refused() {
        for id in ["", ".", "..", "a/b", "../x", "a b", "a\n", &"x".repeat(256)] {
            assert!(check_id(id).is_err(), "{id:?}");
        }
        for id in ["a", "A.b-c_d+1", "..."] {
            assert!(check_id(id).is_ok(), "{id:?}");
        }
    }

    #[test]
    fn a_process_is_told_by_its_start() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(start_time(own).is_some());
        assert_eq!(start_time(own), start_time(own));
        assert_eq!(start_time(0), None);
    }

    #[test]
    fn a_second_container_of_the_same_name_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let home = Home::create(root.path(), "x").unwrap();
        assert_eq!(
            Home::create(root.path(), "x").unwrap_err().kind(),
            Kind::AlreadyExists
        );
        home.remove().unwrap();
        home.remove().unwrap();
        assert_eq!(Home::find(root.path(), "x").unwrap_err().kind(), Kind::NotFound);
    }
}
