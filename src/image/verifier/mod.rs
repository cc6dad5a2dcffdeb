//! Asks the administrator's programs whether an image may be used, before anything of it but its manifest is fetched.
//!
//! The contract is that of containerd's verifiers, so that what is installed for the one serves the other: every file
//! of a directory is run with `-name <reference> -digest <digest> -stdin-media-type <type>`, is given the descriptor as
//! JSON on standard input, prints its reason, and allows the image by exit status 0. All have to allow it. Unlike there,
//! none is ever left out for being one too many.
//!
//! Owns how a verifier is run: bounded in time and output, killed with everything it started. Must not know what a
//! signature is.

#[cfg(test)]
mod tests;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, sleep_until};

use super::manifest::{self, Descriptor};
use super::reference::ImageRef;
use super::registry::Content;
use crate::types::error::SIGNATURE_VALIDATION_FAILED;
use crate::types::{Error, Kind, Result};

/// Media type of what a verifier reads.
const INPUT_TYPE: &str = "application/vnd.oci.descriptor.v1+json";
/// Most files of the directory: more are a mistake, and each costs a process for every pull.
const MAX_PROGRAMS: usize = 64;
/// Most bytes kept of each of a verifier's outputs; what comes after is read and dropped.
const MAX_OUTPUT: usize = 32 << 10;
/// Most characters of a reason that go into an error.
const MAX_REASON: usize = 1000;
/// How long output is awaited after the verifier is gone: something it left behind may hold the pipe.
const GRACE: Duration = Duration::from_secs(1);
/// How often a program that is being replaced at this moment is tried again.
const BUSY_RETRIES: u32 = 5;

/// The node's verifiers.
#[derive(Debug, Clone)]
pub(super) struct Verifier {
    /// Where they are; empty means that there are none.
    pub dir: PathBuf,
    /// How long each may take.
    pub limit: Duration,
}

/// What one verifier said.
#[derive(Debug, PartialEq, Eq)]
struct Verdict {
    /// `None` if it allows the image, else how it ended.
    refusal: Option<String>,
    reason: String,
}

impl Verifier {
    /// The programs in the order they are asked. None, as the contract has it, if there is no such directory.
    ///
    /// # Errors
    /// `Unknown` with kubelet's word for it if the directory cannot be read or holds too much: nobody can say then what
    /// the images would have been checked for.
    pub(super) async fn programs(&self) -> Result<Vec<PathBuf>> {
        if self.dir.as_os_str().is_empty() {
            return Ok(Vec::new());
        }
        let failed = |reason: String| {
            Error::new(
                Kind::Unknown,
                format!(
                    "{SIGNATURE_VALIDATION_FAILED}: verifiers in {}: {reason}",
                    self.dir.display()
                ),
            )
        };
        let mut entries = match tokio::fs::read_dir(&self.dir).await {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(failed(e.to_string())),
        };
        let mut programs = Vec::new();
        while let Some(entry) = entries.next_entry().await.map_err(|e| failed(e.to_string()))? {
            programs.push(entry.path());
            if programs.len() > MAX_PROGRAMS {
                return Err(failed(format!("there are more than {MAX_PROGRAMS} files")));
            }
        }
        programs.sort();
        Ok(programs)
    }

    /// Asks `programs` whether `image`, which stands for `content`, may be used.
    ///
    /// # Errors
    /// `Unknown` with kubelet's word for it if one refuses, or cannot be asked.
    pub(super) async fn verify(
        &self,
        programs: &[PathBuf],
        image: &ImageRef,
        content: &Content,
    ) -> Result<()> {
        let descriptor = descriptor(content);
        for program in programs {
            let name = program.file_name().unwrap_or(program.as_os_str());
            let name = Path::new(name).display();
            let refused = |why: String| {
                Error::new(
                    Kind::Unknown,
                    format!(
                        "{SIGNATURE_VALIDATION_FAILED}: {image} ({}): {why}",
                        descriptor.digest
                    ),
                )
            };
            match self.ask(program, image, &descriptor).await {
                Ok(Verdict {
                    refusal: None,
                    reason,
                }) => tracing::debug!(%image, verifier = %name, reason, "an image was allowed"),
                Ok(Verdict {
                    refusal: Some(how),
                    reason,
                }) => {
                    return Err(refused(match reason.is_empty() {
                        true => format!("verifier {name} refuses it without a reason ({how})"),
                        false => format!("verifier {name} refuses it ({how}): {reason}"),
                    }));
                }
                Err(problem) => return Err(refused(format!("verifier {name} gave no verdict: {problem}"))),
            }
        }
        Ok(())
    }

    /// Runs one verifier. An error says why it has no opinion.
    async fn ask(&self, program: &Path, image: &ImageRef, what: &Descriptor) -> Result<Verdict, String> {
        let mut child = self.start(program, image, what).await?;
        let group = Group::of(&child);
        let mut input = serde_json::json!({
            "mediaType": what.media_type, "digest": what.digest, "size": what.size,
        })
        .to_string();
        input.push('\n');
        let mut said = Said::default();
        let status = said.listen(&mut child, input.as_bytes(), self.limit).await;
        let stderr = String::from_utf8_lossy(&said.stderr);
        if !stderr.trim().is_empty() {
            tracing::debug!(verifier = %program.display(), stderr = stderr.trim(), "a verifier wrote to stderr");
        }
        let status = status?;
        group.release();
        Ok(Verdict {
            refusal: (!status.success()).then(|| status.to_string()),
            reason: one_line(&said.stdout),
        })
    }

    async fn start(&self, program: &Path, image: &ImageRef, what: &Descriptor) -> Result<Child, String> {
        let (image, digest) = (image.to_string(), what.digest.to_string());
        let arguments: [&OsStr; 6] = [
            "-name".as_ref(),
            image.as_ref(),
            "-digest".as_ref(),
            digest.as_ref(),
            "-stdin-media-type".as_ref(),
            INPUT_TYPE.as_ref(),
        ];
        let mut tries = 0;
        loop {
            let spawned = Command::new(program)
                .args(arguments)
                .current_dir("/")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .process_group(0)
                .kill_on_drop(true)
                .spawn();
            match spawned {
                Err(e) if e.raw_os_error() == Some(libc::ETXTBSY) && tries < BUSY_RETRIES => {
                    tries += 1;
                    sleep(Duration::from_millis(100)).await;
                }
                other => return other.map_err(|e| format!("it cannot be run: {e}")),
            }
        }
    }
}

/// The descriptor of what a reference stands for.
fn descriptor(content: &Content) -> Descriptor {
    Descriptor {
        media_type: content
            .media_type
            .clone()
            .filter(|t| !t.is_empty())
            .unwrap_or_else(|| manifest::media_type(&content.bytes)),
        digest: content.digest.clone(),
        size: content.bytes.len() as u64,
    }
}

/// A reason as part of an error: on one line, without what a terminal would obey, and bounded.
fn one_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut kept = words.chars().filter(|c| !c.is_control());
    let mut line: String = kept.by_ref().take(MAX_REASON).collect();
    if kept.next().is_some() {
        line.push('…');
    }
    line
}

/// The verifier's process group; killed when dropped, be it because nobody wants the image any more.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        Self(id.map(Pid::from_raw))
    }

    /// The verifier has ended by itself and been reaped: its number may be another's now.
    fn release(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0.take() {
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

/// What a verifier printed, as far as it is kept.
#[derive(Default)]
struct Said {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Said {
    /// Feeds the verifier and listens to it until it is gone and both pipes are closed.
    async fn listen(
        &mut self,
        child: &mut Child,
        input: &[u8],
        limit: Duration,
    ) -> Result<ExitStatus, String> {
        let (Some(mut to), Some(mut out), Some(mut err)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err("its pipes are missing".into());
        };
        // A verifier need not read what it is given; a closed pipe is its choice.
        let feed = async move {
            let _ = to.write_all(input).await;
        };
        tokio::pin!(feed);
        let mut deadline = Instant::now() + limit;
        let (mut feeding, mut out_open, mut err_open, mut status) = (true, true, true, None);
        let (mut out_buffer, mut err_buffer) = ([0; 4096], [0; 4096]);
        loop {
            if let Some(status) = status
                && !out_open
                && !err_open
            {
                return Ok(status);
            }
            tokio::select! {
                () = &mut feed, if feeding => feeding = false,
                read = out.read(&mut out_buffer), if out_open => {
                    out_open = keep(&mut self.stdout, &out_buffer, read.unwrap_or(0));
                }
                read = err.read(&mut err_buffer), if err_open => {
                    err_open = keep(&mut self.stderr, &err_buffer, read.unwrap_or(0));
                }
                ended = child.wait(), if status.is_none() => {
                    status = Some(ended.map_err(|e| format!("it cannot be waited for: {e}"))?);
                    deadline = deadline.min(Instant::now() + GRACE);
                }
                () = sleep_until(deadline) => {
                    return status.ok_or_else(|| {
                        format!("it did not end within {} s and was killed", limit.as_secs_f32())
                    });
                }
            }
        }
    }
}

/// Keeps what still fits of `n` bytes just read; `false` at the end.
fn keep(kept: &mut Vec<u8>, buffer: &[u8], n: usize) -> bool {
    let room = MAX_OUTPUT.saturating_sub(kept.len()).min(n);
    kept.extend_from_slice(&buffer[..room]);
    n > 0
}
