//! A daemon of one test: started, killed, restarted, stopped, and searched for what it left behind.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use k8s_cri::v1::{PodSandboxConfig, VersionRequest};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::clean::Footprint;
use crate::cri::{Cri, CriExt as _};
use crate::network::{CNI_BIN_DIR, Names, conflist};
use crate::options::Network;
pub use crate::options::Options;
use crate::registry::Registry;
use crate::{eventually, image, target_dir};

/// What a command said.
#[derive(Debug)]
pub struct Output {
    /// Its exit code, if it was not killed.
    pub code: Option<i32>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Output {
    /// Its standard output, if it succeeded and said nothing of an error.
    pub fn fine(self) -> Result<String> {
        ensure!(self.code == Some(0), "{self:?}");
        Ok(self.stdout)
    }

    /// Its standard error, if it failed without falling over.
    pub fn failed(self) -> Result<String> {
        ensure!(self.code.is_some_and(|code| code != 0 && code != 101), "{self:?}");
        ensure!(
            !self.stderr.trim().is_empty() && !self.stderr.contains("panicked"),
            "{self:?}"
        );
        Ok(self.stderr)
    }
}

/// A running daemon and everything around it.
#[derive(Debug)]
pub struct Husk {
    /// The client.
    pub cri: Cri,
    /// Its network names, whether or not it has a network.
    pub names: Names,
    dir: PathBuf,
    tag: String,
    options: Options,
    child: Option<Child>,
    listener: Option<UnixListener>,
}

/// Runs a test with a daemon, then sees that nothing is left.
pub async fn run(test: impl AsyncFnOnce(&mut Husk) -> Result<()>) -> Result<()> {
    run_with(Options::new(), test).await
}

/// As [`run`], for what only husk's own executor does.
pub async fn run_on_executor(test: impl AsyncFnOnce(&mut Husk) -> Result<()>) -> Result<()> {
    run_with(Options::new().executor_only(), test).await
}

/// As [`run`], with options.
pub async fn run_with(options: Options, test: impl AsyncFnOnce(&mut Husk) -> Result<()>) -> Result<()> {
    let limit = Duration::from_secs(if options.crowd { 1800 } else { 300 });
    let mut husk = Husk::start(options).await?;
    let mut outcome = match tokio::time::timeout(limit, test(&mut husk)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(anyhow::anyhow!("the test is stuck")),
    };
    if outcome.is_ok() {
        outcome = husk.finish().await;
    }
    if outcome.is_err() {
        eprintln!("--- last lines of {}'s log\n{}", husk.tag, husk.log_tail());
        // Gently first: a CNI plugin can only take its rules back while its configuration is there.
        let _ = tokio::time::timeout(Duration::from_secs(30), husk.remove_everything()).await;
    }
    outcome
}

impl Husk {
    async fn start(options: Options) -> Result<Self> {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        ensure!(
            nix::unistd::geteuid().is_root(),
            "these tests make namespaces and cgroups: run them as root"
        );
        let tag = format!("husk-e2e-{}-{serial}", std::process::id());
        let dir = crate::base_dir().join(&tag);
        let mut husk = Self {
            cri: Cri::new(&dir.join("run/husk.sock")),
            names: if options.crowd {
                Names::new(serial).wide()
            } else {
                Names::new(serial)
            },
            dir,
            tag,
            options,
            child: None,
            listener: None,
        };
        husk.prepare()?;
        if husk.options.activated {
            husk.listener = Some(UnixListener::bind(husk.socket())?);
        }
        husk.launch().await?;
        Ok(husk)
    }

    fn prepare(&self) -> Result<()> {
        for dir in ["root", "run", "certs.d", "cni", "plugins", "logs", "share"] {
            fs::create_dir_all(self.dir.join(dir))?;
        }
        // For whoever has to clean up after a test process that was killed.
        fs::write(self.dir.join("bridge"), &self.names.bridge)?;
        fs::write(
            self.dir.join("config.toml"),
            format!(
                "[cgroup]\nparent = \"/{}\"\n[network]\nbuiltin = {}\nbuiltin_bridge = \"{}\"\n\
                 builtin_subnet = \"{}\"\n{}",
                self.tag,
                self.options.network == Network::Builtin,
                self.names.bridge,
                self.names.subnet,
                self.options.toml.clone() + &default_runtime(&self.options),
            ),
        )?;
        for (host, toml) in &self.options.hosts {
            let dir = self.dir.join("certs.d").join(host);
            fs::create_dir_all(&dir)?;
            fs::write(dir.join("hosts.toml"), toml)?;
        }
        for plugin in fs::read_dir(CNI_BIN_DIR)
            .with_context(|| format!("read {CNI_BIN_DIR} (apt-get install containernetworking-plugins)"))?
            .flatten()
        {
            std::os::unix::fs::symlink(plugin.path(), self.dir.join("plugins").join(plugin.file_name()))?;
        }
        for (name, script) in &self.options.plugins {
            let path = self.dir.join("plugins").join(name);
            fs::write(&path, script)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
        if self.options.network == Network::Cni {
            let list = conflist(&self.tag, &self.names, &self.dir.join("ipam"));
            fs::write(
                self.cni_dir().join("10-e2e.conflist"),
                serde_json::to_vec_pretty(&list)?,
            )?;
        }
        Ok(())
    }

    /// `husk`, told by the environment and by descriptor 3 of the socket on its standard input if there is one. Only the
    /// process itself knows its id, and it becomes the daemon: so a shell in between.
    fn program(&self) -> Result<Command> {
        let binary = binary()?;
        let Some(listener) = &self.listener else {
            let mut command = Command::new(&binary);
            command.stdin(Stdio::null());
            return Ok(command);
        };
        let mut command = Command::new("sh");
        let script = "export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=husk.socket; exec \"$0\" \"$@\" 3<&0 0</dev/null";
        command.arg("-c").arg(script).arg(&binary);
        command.stdin(Stdio::from(OwnedFd::from(listener.try_clone()?)));
        Ok(command)
    }

    async fn launch(&mut self) -> Result<()> {
        self.spawn()?;
        eventually("the daemon's first answer", async || {
            if let Some(status) = self
                .child
                .as_mut()
                .and_then(|c| c.try_wait().transpose())
                .transpose()?
            {
                bail!("the daemon ended with {status}:\n{}", self.log_tail());
            }
            // On a socket that somebody else holds open, the call waits even if nobody will ever answer.
            let mut runtime = self.cri.runtime();
            let version = runtime.version(VersionRequest::default());
            let answer = tokio::time::timeout(Duration::from_secs(1), version).await;
            Ok(answer.ok().and_then(Result::ok))
        })
        .await?;
        Ok(())
    }

    /// Starts the daemon without waiting for it.
    pub fn spawn(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "the daemon is still running");
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.join("daemon.log"))?;
        let mut command = self.program()?;
        command.arg("serve");
        for (flag, path) in [
            ("--config", "config.toml"),
            ("--root", "root"),
            ("--run", "run"),
            ("--socket", "run/husk.sock"),
            ("--hosts-dir", "certs.d"),
            ("--cni-conf-dir", "cni"),
            ("--cni-bin-dir", "plugins"),
        ] {
            command.arg(flag).arg(self.dir.join(path));
        }
        command
            .args(["--cgroup-driver", "cgroupfs"])
            .args([
                "--log-level",
                if self.options.quiet {
                    "warn"
                } else {
                    "info,husk=debug"
                },
            ])
            .env("HUSK_E2E_TAG", &self.tag)
            .envs(self.options.env.iter().map(|(k, v)| (k, v)))
            .stdout(log.try_clone()?)
            .stderr(log);
        self.child = Some(command.spawn().context("start the daemon")?);
        Ok(())
    }

    /// Where the daemon serves.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("run/husk.sock")
    }

    /// The socket that is passed to each daemon, with [`Options::activated`].
    pub fn listener(&self) -> Result<&UnixListener> {
        self.listener
            .as_ref()
            .context("the daemon makes its socket itself")
    }

    /// The daemon's pid.
    pub fn pid(&self) -> Result<i32> {
        let child = self.child.as_ref().context("the daemon is not running")?;
        Ok(i32::try_from(child.id())?)
    }

    /// Kills the daemon with SIGKILL and waits until it is gone.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().context("the daemon is not running")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Starts the daemon again, in the same place.
    pub async fn start_again(&mut self) -> Result<()> {
        self.launch().await
    }

    /// Asks the daemon to end with SIGTERM and waits until it has.
    pub async fn stop(&mut self) -> Result<ExitStatus> {
        kill(Pid::from_raw(self.pid()?), Signal::SIGTERM)?;
        let mut child = self.child.take().context("the daemon is not running")?;
        let ended = eventually("the daemon's end", async || Ok(child.try_wait()?)).await;
        if ended.is_err() {
            self.child = Some(child);
        }
        ended
    }

    /// The directory that holds everything of this test.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where CNI configurations go.
    pub fn cni_dir(&self) -> PathBuf {
        self.dir.join("cni")
    }

    /// A fresh directory to share with containers.
    pub fn share(&self, name: &str) -> Result<PathBuf> {
        let dir = self.dir.join("share").join(name);
        fs::create_dir_all(&dir)?;
        Ok(dir)
    }

    /// A pod configuration with a log directory of this daemon.
    pub fn pod_config(&self, name: &str) -> PodSandboxConfig {
        crate::config::pod(name, &self.dir.join("logs"))
    }

    /// The parent cgroup of this daemon's pods.
    pub fn cgroup_parent(&self) -> String {
        format!("/{}", self.tag)
    }

    /// Pulls busybox from the registry that all tests of this process share.
    pub async fn busybox(&self) -> Result<String> {
        let reference = shared_busybox()?;
        self.cri.pull(&reference).await.context("pull busybox")?;
        Ok(reference)
    }

    /// Runs husk's command line against this daemon.
    pub async fn cli(&self, arguments: &[&str]) -> Result<Output> {
        let output = tokio::process::Command::new(binary()?)
            .args(arguments)
            .env("HUSK_SOCKET", self.dir.join("run/husk.sock"))
            .env("HUSK_E2E_TAG", &self.tag)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await?;
        Ok(Output {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// The daemon's log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("daemon.log")).unwrap_or_default()
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    /// What this daemon and its pods occupy on the machine.
    pub fn footprint(&self) -> Footprint {
        Footprint {
            dir: self.dir.clone(),
            tag: self.tag.clone(),
            names: self.names.clone(),
        }
    }

    /// Stops and removes all pods, and removes all images.
    pub async fn remove_everything(&self) -> Result<()> {
        for pod in self.cri.list_pods(None).await? {
            self.cri
                .stop_pod(&pod.id)
                .await
                .with_context(|| format!("stop pod {}", pod.id))?;
            self.cri
                .remove_pod(&pod.id)
                .await
                .with_context(|| format!("remove pod {}", pod.id))?;
        }
        for image in self.cri.list_images().await? {
            self.cri
                .remove_image(&image.id)
                .await
                .with_context(|| format!("remove image {}", image.id))?;
        }
        Ok(())
    }

    /// Fails if anything of this daemon's pods is still on the machine.
    pub async fn assert_no_pods(&self) -> Result<()> {
        self.assert_none("a machine without pods", |f| f.leftovers_of_pods())
            .await
    }

    /// Fails if anything of this daemon's pods and images is still on the machine.
    pub async fn assert_clean(&self) -> Result<()> {
        self.assert_none("a clean machine", |f| {
            Ok([f.leftovers_of_pods()?, f.leftovers_of_images()?].concat())
        })
        .await
    }

    async fn assert_none(&self, what: &str, look: impl Fn(&Footprint) -> Result<Vec<String>>) -> Result<()> {
        let footprint = self.footprint();
        let mut last = Vec::new();
        let none = eventually(what, async || {
            last = look(&footprint)?;
            Ok(last.is_empty().then_some(()))
        })
        .await;
        none.with_context(|| format!("left behind:\n  {}", last.join("\n  ")))
    }

    async fn finish(&mut self) -> Result<()> {
        if self.child.is_none() {
            self.start_again().await?;
        }
        self.remove_everything().await?;
        self.assert_clean().await?;
        let status = self.stop().await?;
        ensure!(status.success(), "the daemon ended with {status}");
        ensure!(
            !self.log().contains("panicked at"),
            "the daemon panicked:\n{}",
            self.log_tail()
        );
        ensure!(
            self.socket().exists() == self.listener.is_some(),
            "a daemon removes the socket that it made, and no other"
        );
        let rest = self.footprint().leftovers_of_daemon()?;
        ensure!(
            rest.is_empty(),
            "left behind after the daemon's end:\n  {}",
            rest.join("\n  ")
        );
        Ok(())
    }

    /// A call that proves the daemon unharmed.
    pub async fn assert_serving(&mut self) -> Result<()> {
        let status = self
            .child
            .as_mut()
            .context("the daemon is not running")?
            .try_wait()?;
        ensure!(status.is_none(), "the daemon ended: {status:?}");
        self.cri.runtime().version(VersionRequest::default()).await?;
        self.cri
            .pod_status("0123456789abcdef")
            .await
            .refused_with(tonic::Code::NotFound)?;
        Ok(())
    }
}

impl Drop for Husk {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        self.footprint().wipe();
    }
}

/// With `HUSK_E2E_RUNTIME=/usr/sbin/runc`, makes that OCI runtime the handler of every pod: whatever a test promises has
/// to hold with it too. Tests that configure handlers themselves are left alone, and those of what only the executor does.
fn default_runtime(options: &Options) -> String {
    match other_runtime() {
        Some(path) if !options.toml.contains("[runtime.") && !options.executor_only => {
            format!("\n[runtime.other]\npath = \"{path}\"\ndefault = true\n")
        }
        _ => String::new(),
    }
}

/// The OCI runtime that the suites are run on, if it is not husk's executor.
pub fn other_runtime() -> Option<String> {
    std::env::var("HUSK_E2E_RUNTIME").ok()
}

/// The program under test: `HUSK_BIN`, or what cargo built last beside this test.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("HUSK_BIN") {
        return Ok(path.into());
    }
    let own = std::env::current_exe()?;
    let beside = own
        .ancestors()
        .skip(1)
        .map(|dir| dir.join("husk"))
        .find(|path| path.is_file());
    beside.with_context(|| {
        format!(
            "no husk in {}: cargo build first, or set HUSK_BIN",
            target_dir().display()
        )
    })
}

/// The registry that all tests of this process share.
pub fn shared_registry() -> Result<&'static Registry> {
    static REGISTRY: std::sync::OnceLock<std::result::Result<Registry, String>> = std::sync::OnceLock::new();
    match REGISTRY.get_or_init(|| Registry::start().map_err(|e| format!("{e:#}"))) {
        Ok(registry) => Ok(registry),
        Err(e) => bail!("{e}"),
    }
}

/// The reference of busybox in the shared registry.
pub fn shared_busybox() -> Result<String> {
    static REFERENCE: std::sync::OnceLock<std::result::Result<String, String>> = std::sync::OnceLock::new();
    let push = || shared_registry()?.push("base/busybox", "1", &image::busybox()?.build()?);
    match REFERENCE.get_or_init(|| push().map_err(|e| format!("{e:#}"))) {
        Ok(reference) => Ok(reference.clone()),
        Err(e) => bail!("{e}"),
    }
}
