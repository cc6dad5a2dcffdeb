//! criu, which writes processes down and makes them again: whether it is there and can work with this kernel, and a dump
//! by it.
//!
//! It reaches deep into the kernel, and one that is older than the kernel often cannot work at all. So it is asked each
//! time: it may have been replaced since.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use tokio::process::Command;

use crate::config::Checkpoint;
use crate::executor::LaunchError;
use crate::executor::criu::Session;
use crate::executor::criu::rpc::{Request, Response};
use crate::spec::plan::NamespaceKind;
use crate::sys::namespace;
use crate::types::error::{Context, Error, Kind, Result};

/// The program, found by husk's `PATH`.
const PROGRAM: &str = "criu";
/// Where it is if husk's `PATH` leaves system programs out.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How long its self-test may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long it may take from one stage to the next: it writes as much as the container has memory.
const ANSWER: Duration = Duration::from_secs(1800);
/// How long it may take to end once all is said.
const FAREWELL: Duration = Duration::from_secs(10);
/// Most lines of its complaint that are passed on.
const MAX_LINES: usize = 4;

/// A criu that works on this node.
#[derive(Debug, Clone)]
pub struct Criu {
    /// The program, by an absolute path.
    pub program: PathBuf,
    /// What it says of itself.
    pub version: String,
}

impl Criu {
    /// One that passes its own test on this node.
    ///
    /// # Errors
    /// `Unimplemented`, with criu's own words where it has some.
    pub async fn find(config: &Checkpoint) -> Result<Self> {
        let path = std::env::var("PATH").unwrap_or_default();
        let program =
            locate(&config.criu, &format!("{path}:{PATH}")).ok_or_else(|| refused(missing(&config.criu)))?;
        let version = run(&program, &["--version"]).await?;
        let version = first_version(&String::from_utf8_lossy(&version.stdout));
        let check = run(&program, &["check"]).await?;
        if check.status.success() {
            return Ok(Self { program, version });
        }
        Err(refused(format!(
            "criu {version} cannot work with this kernel; `criu check` says: {}; a newer criu may",
            complaint(&String::from_utf8_lossy(&check.stderr), &check.status.to_string())
        )))
    }

    /// Has it serve a request in the network, IPC, UTS and cgroup namespaces of `process`: what is there is then not the
    /// container's to criu but the node's, and stays out of the images. Blocks for as long as criu takes.
    ///
    /// # Errors
    /// What `stage` or criu said; criu cannot be run.
    pub fn serve(
        &self,
        process: &OwnedFd,
        request: &Request,
        stage: impl FnMut(&str) -> Result<(), LaunchError>,
    ) -> Result<Response> {
        let (session, theirs) = Session::new(ANSWER)?;
        let child = self.spawn_near(process, theirs)?;
        let outcome = session.ask(request, stage);
        // It has nothing left to do, and ends when its socket does.
        drop(session);
        end(child);
        Ok(outcome?)
    }

    /// A thread can enter the namespaces that a process with several threads cannot, and what it starts is born there.
    fn spawn_near(&self, process: &OwnedFd, socket: OwnedFd) -> Result<Child> {
        use std::os::fd::AsFd as _;
        let what = || format!("run {}", self.program.display());
        let mut command = std::process::Command::new(&self.program);
        // The socket is its standard input.
        command
            .args(["swrk", "0"])
            .stdin(Stdio::from(socket))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .env("PATH", PATH);
        let kinds = [
            NamespaceKind::Network,
            NamespaceKind::Ipc,
            NamespaceKind::Uts,
            NamespaceKind::Cgroup,
        ];
        let flags = kinds.iter().fold(0, |flags, kind| flags | kind.clone_flag());
        let spawned = std::thread::scope(|scope| {
            let near = scope.spawn(move || {
                namespace::enter(process.as_fd(), flags).context("enter the container's namespaces")?;
                command.spawn().with_context(what)
            });
            near.join()
        });
        spawned.unwrap_or_else(|_| Err(Error::internal(format!("{}: the thread died", what()))))
    }
}

/// Sees a criu to its end. One that hangs in the kernel is left to a thread that waits for it.
fn end(mut child: Child) {
    let deadline = Instant::now() + FAREWELL;
    while Instant::now() < deadline {
        match child.try_wait() {
            Ok(None) => std::thread::sleep(Duration::from_millis(5)),
            _ => return,
        }
    }
    let _ = child.kill();
    let waits = std::thread::Builder::new().name("criu-wait".to_owned());
    // Without a thread it stays a zombie.
    let _ = waits.spawn(move || child.wait());
}

/// The program as configured, or by its name in one of the directories of `path`.
fn locate(configured: &Path, path: &str) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let runs = |p: &PathBuf| {
        p.is_absolute()
            && p.metadata()
                .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    };
    if !configured.as_os_str().is_empty() {
        return Some(configured.to_owned()).filter(runs);
    }
    path.split(':').map(|dir| Path::new(dir).join(PROGRAM)).find(runs)
}

fn missing(configured: &Path) -> String {
    match configured.as_os_str().is_empty() {
        true => "criu is not installed on this node".to_owned(),
        false => format!(
            "[checkpoint] criu = {:?} is no absolute path of a program",
            configured.display()
        ),
    }
}

async fn run(program: &Path, arguments: &[&str]) -> Result<Output> {
    let running = Command::new(program)
        .args(arguments)
        .env("PATH", PATH)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    match tokio::time::timeout(PATIENCE, running).await {
        Ok(Ok(output)) => Ok(output),
        Ok(Err(e)) => Err(refused(format!("run {}: {e}", program.display()))),
        Err(_) => Err(refused(format!(
            "`{} {}` did not end within {} s",
            program.display(),
            arguments.join(" "),
            PATIENCE.as_secs()
        ))),
    }
}

fn refused(why: String) -> Error {
    Error::new(Kind::Unimplemented, why)
}

fn first_version(text: &str) -> String {
    let version = text.lines().find_map(|l| l.strip_prefix("Version:"));
    version.map_or("of unknown version", str::trim).to_owned()
}

fn complaint(stderr: &str, status: &str) -> String {
    let errors: Vec<&str> = stderr
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .take(MAX_LINES)
        .collect();
    if errors.is_empty() {
        status.to_owned()
    } else {
        errors.join(" / ")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn versions_and_complaints_are_read() {
        assert_eq!(first_version("Version: 3.17.1\nGitID: x\n"), "3.17.1");
        assert_eq!(first_version(""), "of unknown version");
        assert_eq!(
            complaint("\nError (a): b\nError (c): d\n", "1"),
            "Error (a): b / Error (c): d"
        );
        assert_eq!(complaint(" \n", "exit status: 1"), "exit status: 1");
    }

    #[test]
    fn the_program_is_the_configured_one_or_found() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let criu = dir.path().join(PROGRAM);
        std::fs::write(&criu, "").unwrap();
        let path = format!("/nonexistent::{}", dir.path().display());
        assert_eq!(locate(Path::new(""), &path), None, "it cannot be executed");
        std::fs::set_permissions(&criu, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(locate(Path::new(""), &path), Some(criu.clone()));
        assert_eq!(locate(&criu, ""), Some(criu));
        for wrong in ["criu", "/nonexistent/criu", "/"] {
            assert_eq!(locate(Path::new(wrong), &path), None, "{wrong}");
        }
    }
}
