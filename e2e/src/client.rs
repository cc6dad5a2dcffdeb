//! Kubernetes' own clients, where the machine has them. Debian does not, so a test that needs one says that it is skipped.

use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};

use anyhow::{Context, Result, ensure};
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};

use crate::api::Api;

/// The program `name`, if it is there: as `HUSK_E2E_<NAME>` says, or in `PATH`.
pub fn find(name: &str) -> Option<PathBuf> {
    let set = std::env::var_os(format!("HUSK_E2E_{}", name.to_uppercase()));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = set
        .map(PathBuf::from)
        .into_iter()
        .chain(std::env::split_paths(&path).map(|dir| dir.join(name)));
    let found = found.into_iter().find(|path| path.is_file());
    if found.is_none() {
        eprintln!(
            "SKIPPED: there is no {name} here; put it into PATH, or its path into HUSK_E2E_{}",
            name.to_uppercase()
        );
    }
    found
}

/// What a client said.
#[derive(Debug)]
pub struct Said {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: String,
}

impl Said {
    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// kubectl against a stand-in for the API server.
#[derive(Debug, Clone)]
pub struct Kubectl {
    program: PathBuf,
    server: String,
    home: PathBuf,
    websockets: bool,
}

impl Kubectl {
    /// Over WebSockets, or over SPDY as older ones do.
    pub fn new(program: PathBuf, api: &Api, home: PathBuf, websockets: bool) -> Self {
        Self {
            program,
            server: format!("http://{}", api.address),
            home,
            websockets,
        }
    }

    /// The command line for a shell.
    pub fn line(&self, arguments: &str) -> String {
        format!(
            "{} --server={} --kubeconfig=/dev/null --cache-dir={} {arguments}",
            self.program.display(),
            self.server,
            self.home.join("cache").display()
        )
    }

    /// A shell that runs `script`, with kubectl's switches in its environment.
    pub fn shell(&self, script: &str) -> Command {
        let mut command = Command::new("sh");
        command
            .args(["-c", script])
            .env("HOME", &self.home)
            .env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", self.websockets.to_string())
            .env("KUBECTL_PORT_FORWARD_WEBSOCKETS", self.websockets.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Starts kubectl.
    pub fn start(&self, arguments: &str) -> Result<Child> {
        let line = format!("exec {}", self.line(arguments));
        self.shell(&line).spawn().context("start kubectl")
    }

    /// Runs kubectl to its end, with `input`.
    pub async fn run(&self, arguments: &str, input: &[u8]) -> Result<Said> {
        say(self.start(arguments)?, input).await
    }

    /// Runs kubectl on a terminal of 33 lines and 77 columns, typing `lines`, each once `script` has shown what stands
    /// before it.
    pub async fn run_on_terminal(
        &self,
        arguments: &str,
        lines: &[(&str, &str)],
    ) -> Result<(ExitStatus, String)> {
        use tokio::io::AsyncReadExt as _;
        let inner = format!("stty rows 33 cols 77; exec {}", self.line(arguments));
        let script = format!("exec script -qefc '{inner}' /dev/null");
        let mut child = self.shell(&script).spawn()?;
        let (mut stdin, mut stdout) = (
            child.stdin.take().context("no stdin")?,
            child.stdout.take().context("no stdout")?,
        );
        let mut seen = String::new();
        let mut from = 0;
        let mut chunk = [0; 4096];
        for (before, line) in lines {
            while !seen[from..].contains(before) {
                let read = tokio::time::timeout(crate::PATIENCE, stdout.read(&mut chunk)).await;
                let read = read.with_context(|| format!("waiting for {before:?} after {seen:?}"))??;
                ensure!(read > 0, "ended before {before:?}: {seen:?}");
                seen += &String::from_utf8_lossy(&chunk[..read]);
            }
            from = seen.len();
            stdin.write_all(line.as_bytes()).await?;
        }
        while let Ok(read @ 1..) = tokio::time::timeout(crate::PATIENCE, stdout.read(&mut chunk)).await? {
            seen += &String::from_utf8_lossy(&chunk[..read]);
        }
        drop(stdin);
        Ok((child.wait().await?, seen))
    }
}

/// Gives `input` to a client and waits for its end.
pub async fn say(mut child: Child, input: &[u8]) -> Result<Said> {
    let mut stdin = child.stdin.take().context("no stdin")?;
    let input = input.to_vec();
    let feeder = tokio::spawn(async move {
        // It may not want any.
        let _ = stdin.write_all(&input).await;
    });
    let output = tokio::time::timeout(crate::PATIENCE * 2, child.wait_with_output())
        .await
        .context("a client does not end")??;
    feeder.await?;
    Ok(Said {
        status: output.status,
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
