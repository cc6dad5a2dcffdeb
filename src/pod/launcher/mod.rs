//! Starts supervisors: the one place of the daemon that makes processes for pods.
//!
//! Owns the template (see [`crate::supervisor::template`]): starts it, puts it into its cgroup, starts it again should it
//! die. Must not know containers.

pub mod apparmor;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use tokio::process::{Child, Command};
use tokio::sync::Mutex;

use crate::supervisor::protocol::{Op, PodSpawn};
use crate::supervisor::wire::{self, Message};
use crate::types::error::Context as _;
use crate::types::{CgroupJoin, Error, Kind, Result};

use super::client::Client;
use super::client::packets;

/// How to start the template.
#[derive(Debug, Clone)]
pub struct Config {
    /// The husk binary; by default the running one, even if its file has been replaced meanwhile.
    pub program: PathBuf,
    /// Arguments that select the template's personality.
    pub arguments: Vec<OsString>,
    /// Environment added to the daemon's own.
    pub environment: Vec<(OsString, OsString)>,
    /// The cgroup of supervisors, which exists; `None` leaves them in the daemon's.
    pub cgroup: Option<CgroupJoin>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            program: "/proc/self/exe".into(),
            arguments: vec!["supervisor-template".into()],
            environment: Vec::new(),
            cgroup: None,
        }
    }
}

/// A supervisor just started.
#[derive(Debug)]
pub struct Spawned {
    /// Connection to it.
    pub client: Client,
    /// Its process id.
    pub pid: i32,
    /// Process id, as the node counts, of the init of the pod's pid namespace.
    pub pidns_init_pid: Option<i32>,
}

struct Template {
    socket: packets::Socket,
    /// Not killed on drop: it ends when its socket does, and tokio reaps it.
    child: Child,
}

impl Template {
    fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

/// Starts supervisors. Cheap to clone.
#[derive(Clone)]
pub struct Launcher {
    config: Arc<Config>,
    template: Arc<Mutex<Option<Template>>>,
}

impl std::fmt::Debug for Launcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Launcher")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Launcher {
    /// Starts the template and waits until it can fork.
    ///
    /// # Errors
    /// If the binary cannot be run or the cgroup cannot be entered.
    pub async fn start(config: Config) -> Result<Self> {
        let launcher = Self {
            config: Arc::new(config),
            template: Arc::new(Mutex::new(None)),
        };
        let template = launcher.start_template().await?;
        *launcher.template.lock().await = Some(template);
        Ok(launcher)
    }

    /// Process id of the template, while it lives.
    pub async fn template_pid(&self) -> Option<u32> {
        self.template.lock().await.as_ref().and_then(|t| t.child.id())
    }

    /// Ends the template; supervisors go on. The next [`Launcher::spawn`] would start another.
    pub async fn stop(&self) {
        let template = self.template.lock().await.take();
        if let Some(Template { socket, mut child }) = template {
            // The end of its socket is the template's sign to go.
            drop(socket);
            let _ = child.wait().await;
        }
    }

    /// Tries whether layers in `directory` can be mounted with mapped ids. It takes a process with one thread to make the
    /// user namespace for that, which the daemon is not.
    ///
    /// # Errors
    /// Why they cannot.
    pub async fn try_id_maps(&self, directory: &Path) -> Result<()> {
        let what = "try id-mapped layers";
        let slot = self.template.lock().await;
        let Some(template) = slot.as_ref() else {
            return Err(Error::new(Kind::Unavailable, format!("{what}: no template runs")));
        };
        let request = Message::Request(0, Ok(Op::TryIdMaps(directory.to_owned())));
        packets::send(&template.socket, &request, &[])
            .await
            .context(what)?;
        match packets::receive(&template.socket).await.context(what)? {
            Some((Message::Response(_, outcome), _)) => outcome.map(drop).map_err(Error::from),
            _ => Err(Error::internal(format!("{what}: the template is gone"))),
        }
    }

    /// Starts the supervisor of a pod. Comes back when it is set up.
    ///
    /// # Errors
    /// What the supervisor could not set up, for example an unknown sysctl; nothing is left then but what it may have
    /// written to the run directory.
    pub async fn spawn(&self, pod: PodSpawn) -> Result<Spawned> {
        let what = format!("start the supervisor of pod {}", pod.pod_id);
        match self.try_spawn(&pod).await {
            // The template died before it forked. Its successor gets one chance.
            Err(e) if e.kind() == Kind::Unavailable => self.try_spawn(&pod).await,
            outcome => outcome,
        }
        .map_err(|e| e.context(what))
    }

    async fn try_spawn(&self, pod: &PodSpawn) -> Result<Spawned> {
        let (ours, theirs) = wire::pair().context("make a socket pair")?;
        self.order(&Message::Request(0, Ok(Op::Spawn(pod.clone()))), &theirs)
            .await?;
        // From here on only the template and its fork hold the other end: if they die, this end sees it.
        drop(theirs);
        let client = Client::over(ours).await?;
        let greeting = client.greeting();
        let (pid, pidns_init_pid) = (greeting.pid, greeting.pidns_init_pid);
        Ok(Spawned {
            client,
            pid,
            pidns_init_pid,
        })
    }

    /// Sends to the template; to a new one if it turns out to be dead, which its socket may tell before its parent knows.
    async fn order(&self, message: &Message, descriptor: &OwnedFd) -> Result<()> {
        let mut slot = self.template.lock().await;
        if let Some(template) = slot.as_mut()
            && template.is_alive()
        {
            match packets::send(&template.socket, message, &[descriptor.as_fd()]).await {
                Ok(()) => return Ok(()),
                Err(e) => tracing::debug!("send to the supervisor template: {e}"),
            }
        }
        if slot.take().is_some() {
            tracing::warn!("the supervisor template died; starting another");
        }
        let template = slot.insert(self.start_template().await?);
        packets::send(&template.socket, message, &[descriptor.as_fd()])
            .await
            .context("send to the supervisor template")
    }

    async fn start_template(&self) -> Result<Template> {
        let (ours, theirs) = wire::pair().context("make a socket pair")?;
        rustix::io::ioctl_fionbio(&theirs, false).context("make a socket block")?;
        let program = &self.config.program;
        let child = Command::new(program)
            .args(&self.config.arguments)
            .envs(self.config.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("run {} as supervisor template", program.display()))?;
        let socket = packets::register(ours).context("watch the supervisor template")?;
        let prepare = Message::Request(0, Ok(Op::Prepare(self.config.cgroup.clone())));
        packets::send(&socket, &prepare, &[])
            .await
            .context("send to the supervisor template")?;
        match packets::receive(&socket)
            .await
            .context("receive from the supervisor template")?
        {
            Some((Message::Response(_, outcome), _)) => {
                outcome.map_err(Error::from)?;
                Ok(Template { socket, child })
            }
            Some(_) => Err(Error::internal(
                "the supervisor template gave an answer to another question",
            )),
            None => Err(Error::internal(format!(
                "{} ended instead of waiting for orders",
                program.display()
            ))),
        }
    }
}
