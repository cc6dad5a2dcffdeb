//! Whether criu, which checkpoints processes, is there and can work with this kernel.
//!
//! criu reaches deep into the kernel, and one that is older than the kernel often cannot work at all. So it is asked each
//! time: it may have been replaced since.

use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::process::Command;

use crate::types::error::{Error, Kind, Result};

/// The program, found by husk's `PATH`.
const PROGRAM: &str = "criu";
/// Where it is if husk's `PATH` leaves system programs out.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How long its self-test may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Most lines of its complaint that are passed on.
const MAX_LINES: usize = 4;

/// The version of a criu that passes its own test on this node.
///
/// # Errors
/// `Unimplemented`, with criu's own words where it has some.
pub async fn usable() -> Result<String> {
    let version = run(&["--version"]).await?;
    let version = first_version(&String::from_utf8_lossy(&version.stdout));
    let check = run(&["check"]).await?;
    if check.status.success() {
        return Ok(version);
    }
    Err(refused(format!(
        "criu {version} cannot work with this kernel; `criu check` says: {}; a newer criu may",
        complaint(&String::from_utf8_lossy(&check.stderr), &check.status.to_string())
    )))
}

async fn run(arguments: &[&str]) -> Result<Output> {
    let path = std::env::var("PATH").unwrap_or_default();
    let running = Command::new(PROGRAM)
        .args(arguments)
        .env("PATH", format!("{path}:{PATH}"))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    match tokio::time::timeout(PATIENCE, running).await {
        Ok(Ok(output)) => Ok(output),
        Ok(Err(e)) if e.kind() == std::io::ErrorKind::NotFound => {
            Err(refused("criu is not installed on this node".to_owned()))
        }
        Ok(Err(e)) => Err(refused(format!("run {PROGRAM}: {e}"))),
        Err(_) => Err(refused(format!(
            "`{PROGRAM} {}` did not end within {} s",
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
}
