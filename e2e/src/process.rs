//! What /proc says about processes.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

/// All process ids of the machine.
pub fn all() -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .collect()
}

/// A file of `/proc/<pid>`, or nothing if the process is gone.
pub fn file(pid: i32, name: &str) -> Vec<u8> {
    fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default()
}

/// The command line, its words joined by spaces.
pub fn command(pid: i32) -> String {
    String::from_utf8_lossy(&file(pid, "cmdline"))
        .replace('\0', " ")
        .trim_end()
        .to_owned()
}

/// Processes whose command line contains `text`.
pub fn with_command(text: &str) -> Vec<i32> {
    all()
        .into_iter()
        .filter(|&pid| command(pid).contains(text))
        .collect()
}

/// The fields of `/proc/<pid>/status`.
pub fn status(pid: i32) -> HashMap<String, String> {
    parse_status(&String::from_utf8_lossy(&file(pid, "status")))
}

/// The fields of a text in the form of `/proc/<pid>/status`.
pub fn parse_status(text: &str) -> HashMap<String, String> {
    text.lines()
        .filter_map(|l| l.split_once(':'))
        .map(|(k, v)| (k.to_owned(), v.trim().to_owned()))
        .collect()
}

/// The parent's pid.
pub fn parent(pid: i32) -> Result<i32> {
    let status = status(pid);
    Ok(status
        .get("PPid")
        .with_context(|| format!("process {pid} is gone"))?
        .parse()?)
}

/// Whether the process is there and not a zombie.
pub fn alive(pid: i32) -> bool {
    status(pid)
        .get("State")
        .is_some_and(|s| !s.starts_with(['Z', 'X']))
}

/// What identifies a namespace of a process: `net:[4026531840]`.
pub fn namespace(pid: &str, kind: &str) -> Result<String> {
    let path = format!("/proc/{pid}/ns/{kind}");
    Ok(fs::read_link(&path)
        .with_context(|| format!("read link {path}"))?
        .display()
        .to_string())
}

/// A control file of the process's cgroup: `controller` and `v1` name it on cgroup v1, `v2` on v2.
pub fn cgroup_value(pid: i32, controller: &str, v1: &str, v2: &str) -> Result<String> {
    let path = cgroup_dir(pid, controller)?;
    let file = if path.starts_with("/sys/fs/cgroup/unified") || is_v2() {
        v2
    } else {
        v1
    };
    let path = path.join(file);
    Ok(fs::read_to_string(&path)
        .with_context(|| format!("read {}", path.display()))?
        .trim()
        .to_owned())
}

/// Whether the machine has cgroup v2 only.
pub fn is_v2() -> bool {
    PathBuf::from("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// The directory of the process's cgroup for that controller.
pub fn cgroup_dir(pid: i32, controller: &str) -> Result<PathBuf> {
    let text = String::from_utf8(file(pid, "cgroup"))?;
    for line in text.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(names), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let path = path.trim_start_matches('/');
        if names.is_empty() && is_v2() {
            return Ok(PathBuf::from("/sys/fs/cgroup").join(path));
        }
        if names.split(',').any(|n| n == controller) {
            return Ok(PathBuf::from("/sys/fs/cgroup").join(controller).join(path));
        }
    }
    anyhow::bail!("process {pid} has no cgroup for {controller}: {text}")
}
