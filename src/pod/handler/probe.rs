//! Asks an OCI runtime what it can do: its `features`, and the options of its `exec`.
//!
//! An answer that does not come, or cannot be read, means "cannot".

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::process::Command;
use tracing::debug;

use crate::spec::plan::ExecCgroup;

/// How long a runtime may think about what it can do.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a runtime says of itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Knows the mount option `rro`.
    pub recursive_read_only: bool,
    /// Knows user namespaces.
    pub user_namespaces: bool,
    /// What its `exec` knows of cgroups.
    pub exec_cgroup: ExecCgroup,
}

/// The part of the OCI features document that husk looks at.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Document {
    mount_options: Vec<String>,
    linux: Linux,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Linux {
    namespaces: Vec<String>,
}

/// Asks the runtime at `path`.
pub(super) async fn ask(path: &Path) -> Found {
    let (features, help) = tokio::join!(output(path, &["features"]), output(path, &["exec", "--help"]));
    let features = features.map(|text| document(&text)).unwrap_or_default();
    Found {
        recursive_read_only: features.mount_options.iter().any(|o| o == "rro"),
        user_namespaces: features.linux.namespaces.iter().any(|n| n == "user"),
        exec_cgroup: help.map_or(ExecCgroup::Unknown, |text| exec_cgroup(&text)),
    }
}

async fn output(path: &Path, arguments: &[&str]) -> Option<String> {
    let running = Command::new(path)
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    match tokio::time::timeout(PATIENCE, running).await {
        Ok(Ok(output)) if output.status.success() => String::from_utf8(output.stdout).ok(),
        outcome => {
            debug!(runtime = %path.display(), ?arguments, ?outcome, "the runtime does not answer");
            None
        }
    }
}

fn document(features: &str) -> Document {
    serde_json::from_str(features).unwrap_or_default()
}

fn exec_cgroup(help: &str) -> ExecCgroup {
    match (help.contains("--cgroup"), help.contains("<controller>:")) {
        (false, _) => ExecCgroup::Unknown,
        (true, false) => ExecCgroup::Unified,
        (true, true) => ExecCgroup::PerController,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_runc_and_crun() {
        let found = document(
            r#"{"ociVersionMin":"1.0.0","mountOptions":["ro","rro"],"linux":{"namespaces":["ipc","user"]}}"#,
        );
        assert_eq!(found.mount_options, ["ro", "rro"]);
        assert_eq!(found.linux.namespaces, ["ipc", "user"]);
        assert!(document("unknown command features").mount_options.is_empty());
        let runc = "--cgroup value  run the process in an (existing) sub-cgroup(s). Format is [<controller>:]<cgroup>.";
        assert_eq!(exec_cgroup(runc), ExecCgroup::PerController);
        assert_eq!(
            exec_cgroup("--cgroup=PATH  sub-cgroup in the container"),
            ExecCgroup::Unified
        );
        assert_eq!(exec_cgroup("--detach"), ExecCgroup::Unknown);
    }

    #[tokio::test]
    async fn a_runtime_that_is_not_there_can_do_nothing() {
        assert_eq!(ask(Path::new("/nonexistent/runtime")).await, Found::default());
    }
}
