//! What a container's first process and an exec have in common: from a finished root file system to execve.

use std::convert::Infallible;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::net::{SocketFlags, accept_with};
use rustix::process::{Gid, Uid, chdir, getcwd, umask};
use rustix::thread::{set_thread_res_gid, set_thread_res_uid};

use crate::spec::plan::{Hooks, Process};
use crate::sys::seccomp;

use super::console::{self, Console};
use super::error::{During, LaunchError, Step};
use super::message::{Message, bounded};
use super::path::Root;
use super::program::Program;
use super::streams::{self, Kept};
use super::{child, diagnosis, hooks, identity};

const DEFAULT_UMASK: u32 = 0o022;
/// `/etc/passwd` is not read further.
const MAX_PASSWD: u64 = 1 << 20;

/// All that is needed.
pub(super) struct Tail<'a> {
    pub process: &'a Process,
    pub root: Root,
    pub kept: &'a mut Kept,
    pub given: [bool; 3],
    pub console: Option<Console>,
    pub notes: Vec<String>,
    /// Wait to be let go.
    pub gate: bool,
    /// Look for the program before the gate, too.
    pub check_early: bool,
    pub hooks: &'a Hooks,
}

/// Goes all the way.
pub(super) fn run(mut t: Tail<'_>) -> Step<Infallible> {
    let p = t.process;
    umask(Mode::from_raw_mode(p.umask.unwrap_or(DEFAULT_UMASK) & 0o7777));
    set_streams(&t)?;
    let env = environment(&t.root, p);
    drop(t.root);
    let master = t.console.map(|c| c.master);
    if let Some(master) = &master {
        // Sent now, since nothing but what is kept survives the next step.
        t.kept.sync.send(&Message::Console, Some(master.as_fd()))?;
    }
    drop(master);
    // A descriptor of the node left open would be a way out of the container, through /proc/self/fd or the next step.
    streams::close_others(t.kept)?;
    let entered = enter(&p.cwd);
    // Late, since a low limit would hit what husk itself has to do.
    identity::set_limits(p, &mut t.notes)?;
    let remaining = identity::take(p, &mut t.notes)?;
    if entered.is_err() {
        // The user may be allowed what root is not, on NFS.
        enter(&p.cwd)?;
    }
    if t.check_early {
        Program::find(&p.args, &env)?.check()?;
    }
    t.kept.sync.send(
        &Message::Ready {
            notes: bounded(std::mem::take(&mut t.notes)),
        },
        None,
    )?;
    if t.gate {
        wait_at_gate(t.kept)?;
    }

    if !t.hooks.start_container.is_empty() {
        let state = hooks::with_status(t.hooks.state.as_ref(), "created", child::own_pid());
        hooks::run("startContainer", &t.hooks.start_container, &state)?;
    }
    let program = Program::find(&p.args, &env)?;
    t.kept.sync.send(&Message::Executing, None)?;
    if let Some(filter) = &p.seccomp {
        seccomp::install(&filter.filter, filter.flags).during("load", || "seccomp filter")?;
    }
    remaining.drop_them()?;
    program.exec()
}

fn set_streams(t: &Tail<'_>) -> Step {
    match &t.console {
        Some(console) => console::take(console),
        None => {
            streams::use_own_null(&t.root, t.given)?;
            streams::give_to(t.process.uid, t.given);
            Ok(())
        }
    }
}

/// Waits to be let go by the parent, or by whoever connects if the parent is not to be waited for.
fn wait_at_gate(kept: &mut Kept) -> Step {
    let Some(listener) = kept.extra.take() else {
        return match kept.sync.wait_go_on() {
            true => Ok(()),
            false => Err(LaunchError::new("wait", "at the gate", "the parent is gone")),
        };
    };
    loop {
        let visitor = match accept_with(&listener, SocketFlags::CLOEXEC) {
            Ok(fd) => fd.into(),
            Err(rustix::io::Errno::INTR) => continue,
            Err(e) => return Err(LaunchError::errno("wait", "at the gate", e.raw_os_error())),
        };
        // From now on it is the visitor who is told.
        kept.sync = visitor;
        if kept.sync.wait_go_on() {
            return Ok(());
        }
    }
}

/// Enters the working directory and makes sure that it lies in the container.
fn enter(cwd: &Path) -> Step {
    let object = || format!("working directory {}", cwd.display());
    chdir(cwd).during("enter", object).map_err(|e| match e.errno {
        Some(libc::EACCES) => e.advise(
            diagnosis::unsearchable(cwd)
                .unwrap_or_else(|| "this user may not search it or a directory above it".into()),
        ),
        Some(libc::ENOTDIR) => e.advise("the image has a file there"),
        Some(libc::ENOENT) => e.advise("it does not exist and could not be made"),
        _ => e,
    })?;
    let path = getcwd(Vec::new()).during("look at", object)?;
    if path.as_bytes().first() != Some(&b'/') {
        return Err(LaunchError::new(
            "enter",
            object(),
            "it lies outside the container",
        ));
    }
    Ok(())
}

/// The environment as given, with `HOME` from the image's `/etc/passwd` if it is missing.
fn environment(root: &Root, process: &Process) -> Vec<String> {
    let mut env = process.env.clone();
    if !env.iter().any(|e| e.starts_with("HOME=")) {
        let home = home(root, process.uid).unwrap_or_else(|| "/".into());
        env.push(format!("HOME={home}"));
    }
    env
}

fn home(root: &Root, uid: u32) -> Option<String> {
    let fd = root
        .open(
            Path::new("/etc/passwd"),
            OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY,
        )
        .ok()?;
    let file = std::fs::File::from(fd);
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(MAX_PASSWD).read_to_end(&mut bytes).ok()?;
    home_in(&String::from_utf8_lossy(&bytes), uid)
}

fn home_in(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':').skip(2);
        let id: u32 = fields.next()?.parse().ok()?;
        let home = fields.nth(2)?;
        (id == uid && !home.is_empty() && !home.contains('\0')).then(|| home.to_owned())
    })
}

/// Takes the root user of a user namespace.
pub(super) fn become_root() -> Step {
    let (uid, gid) = (Uid::ROOT, Gid::ROOT);
    set_thread_res_gid(gid, gid, gid).during("become", || "root group of the user namespace")?;
    set_thread_res_uid(uid, uid, uid).during("become", || "root of the user namespace")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn home_directories_by_id() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbad line\nweb:x:33:33::/var/www:\nnone:x:34:34:::\n";
        assert_eq!(home_in(passwd, 0).as_deref(), Some("/root"));
        assert_eq!(home_in(passwd, 33).as_deref(), Some("/var/www"));
        assert_eq!(home_in(passwd, 34), None);
        assert_eq!(home_in(passwd, 35), None);
    }
}
