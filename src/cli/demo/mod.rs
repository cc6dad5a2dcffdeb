//! `husk demo`: the main job end to end, with nothing installed and no network but loopback.
//!
//! A daemon in a temporary root pulls an image from an embedded registry through the normal path, runs a pod with two
//! containers through the CRI socket, shows status, logs and an exec, removes everything, and compares the node before
//! and after. The exit status is 0 only if all of it held.

pub mod image;
mod node;
pub mod registry;
mod walk;
mod workload;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

use super::client::Client;
use node::Node;
use registry::DemoRegistry;

pub use workload::Workload;

/// How long the daemon may take to answer for the first time.
const START_PATIENCE: Duration = Duration::from_secs(20);
/// How long the daemon may take to end.
const STOP_PATIENCE: Duration = Duration::from_secs(20);

/// Flags of `husk demo`.
#[derive(Args)]
pub struct Demo {
    /// Where to put the temporary root
    #[arg(long, default_value = "/tmp")]
    dir: PathBuf,
    /// Log level of the daemon, whose log is shown if something fails
    #[arg(long, default_value = "info")]
    log_level: String,
}

impl Demo {
    pub(super) async fn run(self) -> Result<ExitCode> {
        if !nix::unistd::geteuid().is_root() {
            bail!("husk makes namespaces, cgroups and mounts: run the demo as root");
        }
        let name = format!("husk-demo-{}", std::process::id());
        let root = self.dir.join(&name);
        let before = Node::look(&name);
        step("Preparing an image from this program and serving it from an embedded registry");
        let registry = DemoRegistry::start(vec![image::assemble()?])
            .await
            .context("start the registry")?;
        println!("      {} holds {}", registry.addr, registry.reference());

        let mut daemon = Daemon::start(&root, &name, &self.log_level).await?;
        let walked = walk::walk(&daemon.socket(), &registry.reference(), &root).await;
        let stopped = daemon.stop().await;
        let outcome = walked.and(stopped);
        if outcome.is_err() {
            println!("\n--- log of the daemon\n{}---", daemon.log());
        }
        drop(registry);
        std::fs::remove_dir_all(&root).with_context(|| format!("delete {}", root.display()))?;
        outcome?;

        step("Comparing the node before and after");
        let after = Node::look(&name);
        let left = after.beyond(&before);
        if !left.is_empty() {
            bail!("left behind:\n  {}", left.join("\n  "));
        }
        for (kind, count) in after.counts() {
            println!("      {kind}: {count}, as before");
        }
        println!("\nAll of it held, and nothing is left.");
        Ok(ExitCode::SUCCESS)
    }
}

/// Announces a step.
fn step(text: &str) {
    println!("\n==> {text}");
}

/// A daemon of the demo's own, as a process of its own.
struct Daemon {
    child: Child,
    root: PathBuf,
}

impl Daemon {
    async fn start(root: &Path, name: &str, log_level: &str) -> Result<Self> {
        step("Starting husk in a temporary root");
        let config = root.join("config.toml");
        std::fs::create_dir_all(root.join("cni")).with_context(|| format!("create {}", root.display()))?;
        let bridge = node::bridge(name);
        let text = format!(
            "[cgroup]\nparent = \"/{name}\"\n\n[network]\nbuiltin = true\nbuiltin_bridge = \"{bridge}\"\n"
        );
        std::fs::write(&config, text).context("write the configuration")?;
        let log = std::fs::File::create(root.join("husk.log")).context("create the log")?;
        let program = std::env::current_exe().context("find this program")?;
        let child = Command::new(program)
            .arg("serve")
            .arg("--config")
            .arg(&config)
            .arg("--root")
            .arg(root.join("lib"))
            .arg("--run")
            .arg(root.join("run"))
            .arg("--cni-conf-dir")
            .arg(root.join("cni"))
            .args(["--log-level", log_level])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("start the daemon")?;
        let mut daemon = Self {
            child,
            root: root.to_owned(),
        };
        println!(
            "      husk serve --root {0}/lib --run {0}/run (pid {1})",
            root.display(),
            daemon.child.id()
        );
        let answered = tokio::time::timeout(START_PATIENCE, daemon.answers()).await;
        if let Err(error) = answered.unwrap_or_else(|_| Err(anyhow::anyhow!("the daemon does not answer"))) {
            println!("\n--- log of the daemon\n{}---", daemon.log());
            let _ = daemon.stop().await;
            let _ = std::fs::remove_dir_all(root);
            return Err(error);
        }
        Ok(daemon)
    }

    async fn answers(&mut self) -> Result<()> {
        while Client::connect(&self.socket()).await.is_err() {
            if let Some(status) = self.child.try_wait().context("look at the daemon")? {
                bail!("the daemon ended at once: {status}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    fn socket(&self) -> PathBuf {
        self.root.join("run/husk.sock")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.root.join("husk.log")).unwrap_or_default()
    }

    async fn stop(&mut self) -> Result<()> {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).context("pid of the daemon")?);
        if self.child.try_wait().context("look at the daemon")?.is_some() {
            return Ok(());
        }
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).context("stop the daemon")?;
        let deadline = tokio::time::Instant::now() + STOP_PATIENCE;
        while self.child.try_wait().context("look at the daemon")?.is_none() {
            if tokio::time::Instant::now() > deadline {
                self.child.kill().context("kill the daemon")?;
                self.child.wait().context("wait for the daemon")?;
                bail!("the daemon did not end within {STOP_PATIENCE:?} of SIGTERM");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }
}
