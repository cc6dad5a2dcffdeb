//! File systems mounted on the node for a test, which propagate to containers or do not.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

/// A tmpfs that is mounted until this value goes.
#[derive(Debug)]
pub struct Mounted(PathBuf);

impl Mounted {
    /// One at `dir` whose mounts propagate.
    pub fn shared(dir: PathBuf) -> Result<Self> {
        let made = Self::private(dir)?;
        mount(&["--make-shared"], &made.0)?;
        Ok(made)
    }

    /// One at `dir` whose mounts do not propagate.
    pub fn private(dir: PathBuf) -> Result<Self> {
        mount(&["-t", "tmpfs", "e2e"], &dir)?;
        let made = Self(dir);
        mount(&["--make-private"], &made.0)?;
        Ok(made)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Mounts another tmpfs at `name` in it, with a file that holds its name.
    pub fn add(&self, name: &str) -> Result<()> {
        let dir = self.0.join(name);
        std::fs::create_dir_all(&dir)?;
        mount(&["-t", "tmpfs", "e2e"], &dir)?;
        Ok(std::fs::write(dir.join("file"), name)?)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .args(["--recursive", "--lazy"])
            .arg(&self.0)
            .status();
    }
}

fn mount(arguments: &[&str], dir: &Path) -> Result<()> {
    let status = Command::new("mount").args(arguments).arg(dir).status()?;
    ensure!(
        status.success(),
        "mount {arguments:?} {}: {status}",
        dir.display()
    );
    Ok(())
}
