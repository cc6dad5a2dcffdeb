//! OCI runtimes of other people, as handlers of a daemon: Debian's runc and crun.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::{Husk, Options, Pod, run_with};

/// Debian's runc.
pub const RUNC: &str = "/usr/sbin/runc";
/// Debian's crun.
pub const CRUN: &str = "/usr/bin/crun";

/// A directory for scripts that stand for runtimes.
pub fn scripts() -> Result<tempfile::TempDir> {
    Ok(tempfile::tempdir_in(crate::base_dir())?)
}

/// Writes a program; returns its path.
pub fn write_script(dir: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let path = dir.join(name);
    std::fs::write(&path, text)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

/// crun does not run where version 1 controllers stand beside a version 2 hierarchy. Where they do, it is run without a
/// sight of the latter, and with every other mount as it is: what is shared with the node has to stay so.
pub fn crun(dir: &Path) -> Result<PathBuf> {
    if !Path::new("/sys/fs/cgroup/unified").exists() {
        return Ok(CRUN.into());
    }
    write_script(
        dir,
        "crun",
        &format!(
            "#!/bin/sh\nexec unshare -m --propagation unchanged sh -c \
             'mount --make-rprivate /sys/fs/cgroup; umount /sys/fs/cgroup/unified; exec {CRUN} \"$@\"' crun \"$@\"\n"
        ),
    )
}

/// The table that makes the program at `path` the handler `name`; `more` are further options.
pub fn handler(name: &str, path: &Path, more: &str) -> String {
    format!("[runtime.{name}]\npath = \"{}\"\n{more}\n", path.display())
}

/// Options with runc as a handler.
pub fn runc() -> Options {
    Options::new().toml(&handler("runc", RUNC.as_ref(), ""))
}

/// Runs a test with each runtime, whose handler's name it is told.
pub async fn with_each(test: impl AsyncFn(&mut Husk, &str) -> Result<()>) -> Result<()> {
    with_each_and(Options::new(), test).await
}

/// As [`with_each`], with further options.
pub async fn with_each_and(
    options: Options,
    test: impl AsyncFn(&mut Husk, &str) -> Result<()>,
) -> Result<()> {
    let dir = scripts()?;
    for (name, path) in [("runc", PathBuf::from(RUNC)), ("crun", crun(dir.path())?)] {
        let options = options.clone().toml(&handler(name, &path, ""));
        run_with(options, async |husk| test(husk, name).await)
            .await
            .with_context(|| name.to_owned())?;
    }
    Ok(())
}

/// A pod of that handler.
pub async fn pod(husk: &Husk, handler: &str, name: &str) -> Result<Pod> {
    Ok(husk.cri.pod_by(handler, husk.pod_config(name)).await?)
}

/// What a runtime keeps of its containers, in husk's run directory.
pub fn state(husk: &Husk, handler: &str) -> Vec<String> {
    let dir = husk.dir().join("run/runtimes").join(handler);
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect()
}
