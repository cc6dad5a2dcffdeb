//! The user namespace of a pod, and the pod's other namespaces, which must belong to it: only then is the root user
//! inside root of the network, the host name, the message queues and the process ids.
//!
//! A short-lived child is cloned into all of them at once. It sets them up as their root user, because that is whom the
//! kernel lets do it, and ends, or becomes the init of the pod's pid namespace. The supervisor itself stays in the node's
//! user namespace, with all its rights, and keeps the pod's by a descriptor.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};

use nix::sched::CloneFlags;
use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Gid, Pid, PidfdFlags, Uid, WaitOptions, waitpid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::sys::fork::{Forked, fork_into};
use crate::types::error::Context as _;
use crate::types::security::IdMapping;
use crate::types::{Error, Result};

use super::pidns;
use super::protocol::PodSpawn;
use super::sysctl;

/// A pod's user namespace.
#[derive(Debug)]
pub struct Made {
    /// The namespace.
    pub user: OwnedFd,
    /// Init of the pod's own pid namespace, if it wants one.
    pub pidns_init: Option<pidns::Init>,
}

/// Makes the pod's namespaces, sets them up and enters those that the supervisor is to be in.
///
/// # Errors
/// The kernel refuses a namespace, a map, a sysctl.
pub fn make(spawn: &PodSpawn) -> Result<Made> {
    let what = "make the pod's user namespace";
    let program = spawn
        .shared_pid
        .then(|| pidns::program(spawn))
        .transpose()
        .context(what)?;
    let (go, tell_go) = pipe_with(PipeFlags::CLOEXEC).context(what)?;
    let (report, reporter) = pipe_with(PipeFlags::CLOEXEC).context(what)?;
    let pid = match fork_into(namespaces(spawn)).context(what)? {
        Forked::Child => {
            drop((tell_go, report));
            let outcome = as_root_inside(spawn, go).and_then(|()| match &program {
                Some(program) => Err(pidns::strip_and_exec(program, spawn)),
                None => Ok(()),
            });
            let code = match outcome {
                Ok(()) => 0,
                Err(error) => {
                    let _ = rustix::io::write(&reporter, error.to_string().as_bytes());
                    1
                }
            };
            crate::sys::clone::exit_now(code)
        }
        Forked::Parent(pid) => pid,
    };
    drop((go, reporter));
    let child = Pid::from_raw(pid).ok_or_else(|| Error::internal(format!("{what}: no child")))?;
    let made = set_up(spawn, child, tell_go, report);
    if made.is_err() || !spawn.shared_pid {
        // It has ended, or is about to: its pipes are closed.
        if made.is_err() {
            let _ = rustix::process::kill_process(child, rustix::process::Signal::KILL);
        }
        let _ = waitpid(Some(child), WaitOptions::empty());
    }
    made.map_err(|e| e.context(what))
}

fn namespaces(spawn: &PodSpawn) -> CloneFlags {
    let mut flags = CloneFlags::CLONE_NEWUSER;
    flags.set(CloneFlags::CLONE_NEWNET, spawn.new_net);
    flags.set(CloneFlags::CLONE_NEWIPC, spawn.new_ipc);
    flags.set(CloneFlags::CLONE_NEWUTS, spawn.new_uts);
    flags.set(
        CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS,
        spawn.shared_pid,
    );
    flags
}

/// The parent's part.
fn set_up(spawn: &PodSpawn, child: Pid, tell_go: OwnedFd, report: OwnedFd) -> Result<Made> {
    let pid = child.as_raw_pid();
    for (file, list) in [("gid_map", &spawn.gids), ("uid_map", &spawn.uids)] {
        let path = format!("/proc/{pid}/{file}");
        fs::write(&path, lines(list))
            .with_context(|| format!("write {file} {:?}", lines(list).trim_end()))?;
    }
    let user = open(pid, "user")?;
    for (wanted, name, flag) in [
        (spawn.new_net, "net", CloneFlags::CLONE_NEWNET),
        (spawn.new_ipc, "ipc", CloneFlags::CLONE_NEWIPC),
        (spawn.new_uts, "uts", CloneFlags::CLONE_NEWUTS),
    ] {
        if wanted {
            let namespace = open(pid, name)?;
            nix::sched::setns(&namespace, flag)
                .with_context(|| format!("enter the pod's {name} namespace"))?;
        }
    }
    let pidfd = rustix::process::pidfd_open(child, PidfdFlags::empty()).context("open the child")?;
    rustix::io::write(&tell_go, b"g").context("let the child go on")?;
    let mut message = String::new();
    // Ends when the child does, or executes the init's program.
    File::from(report)
        .read_to_string(&mut message)
        .context("hear from the child")?;
    if !message.is_empty() {
        return Err(Error::internal(message));
    }
    Ok(Made {
        user,
        pidns_init: spawn.shared_pid.then_some(pidns::Init { pid, pidfd }),
    })
}

fn lines(list: &[IdMapping]) -> String {
    list.iter()
        .map(|m| format!("{} {} {}\n", m.container_id, m.host_id, m.length))
        .collect()
}

fn open(pid: i32, name: &str) -> Result<OwnedFd> {
    let path = format!("/proc/{pid}/ns/{name}");
    rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).context(path)
}

/// The child's part: waits for its id maps, becomes root, and sets up what is the pod's.
fn as_root_inside(spawn: &PodSpawn, go: OwnedFd) -> Result<()> {
    let mut byte = [0u8; 1];
    let told = File::from(go.as_fd().try_clone_to_owned().context("duplicate a pipe")?).read(&mut byte);
    if !matches!(told, Ok(1)) {
        return Err(Error::internal("the supervisor is gone"));
    }
    become_root().context("become root of the user namespace")?;
    if spawn.new_uts && !spawn.hostname.is_empty() {
        nix::unistd::sethostname(&spawn.hostname)
            .with_context(|| format!("set host name {:?}", spawn.hostname))?;
    }
    sysctl::apply(spawn)
}

fn become_root() -> io::Result<()> {
    set_thread_groups(&[])?;
    set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
    set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)?;
    Ok(())
}
