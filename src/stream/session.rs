//! Exec and attach: bytes between a client and a process.
//!
//! A client that goes away takes its exec along: the command is killed with all its descendants, for nobody is left to
//! end it, read it or learn its exit code. (What is to live on can be started in the background by the command itself,
//! before it ends.) From an attached container a client that goes away is merely detached.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::debug;

use super::queue::End;
use super::remote::{Input, Output, Remote};
use super::resize::Decoder;
use super::status::Outcome;
use crate::pod::Runtime;
use crate::pod::interactive::{Attachment, Session, Streams, Terminal};
use crate::pod::pipe::Pipe;
use crate::types::error::{Error, Kind};
use crate::types::{ContainerId, ContainerState};

/// Bytes read from a process at once.
const CHUNK: usize = 32 * 1024;
/// How long descendants that have the output open may still be silent after the command itself has ended.
const QUIET: Duration = Duration::from_millis(500);
/// Most bytes taken after the command has ended. More than any pipe holds: all that the command itself wrote is
/// among them, and a descendant that writes for ever does not keep the client.
const AFTER: usize = 1024 * 1024;

/// How long the end of a container may come after that of its output.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// Runs a command for a client.
pub async fn exec(
    runtime: Arc<Runtime>,
    container: ContainerId,
    cmd: Vec<String>,
    want: Streams,
    mut remote: Remote,
) {
    let started = tokio::select! {
        started = runtime.exec(container.as_str(), cmd, want) => started,
        () = remote.lost() => return,
    };
    let Session {
        stdin,
        stdout,
        stderr,
        terminal,
        mut end,
    } = match started {
        Ok(session) => session,
        Err(error) => return remote.conclude(&Outcome::Failed(error)).await,
    };
    let (tell_exit, exited) = watch::channel(false);
    let inputs = [
        feed(remote.stdin.take(), stdin, terminal.is_some()),
        follow_size(remote.resize.take(), terminal),
    ];
    let outputs = [
        drain(stdout, remote.stdout.take(), exited.clone()),
        drain(stderr, remote.stderr.take(), exited),
    ];
    let session = async {
        let code = end.wait().await;
        tell_exit.send_replace(true);
        let outputs = finish(outputs).await;
        (code, outputs)
    };
    tokio::select! {
        (code, outputs) = session => {
            drop(inputs);
            [remote.stdout, remote.stderr] = outputs;
            let outcome = match code {
                Ok(0) => Outcome::Success,
                Ok(code) => Outcome::ExitCode(code),
                Err(error) => Outcome::Failed(error),
            };
            remote.conclude(&outcome).await;
        }
        // Dropping the end of a running command kills it.
        () = remote.lost() => debug!(?container, "the client of an exec is gone"),
    }
}

/// Lets a client take part in a container's streams.
pub async fn attach(runtime: Arc<Runtime>, container: ContainerId, want: Streams, mut remote: Remote) {
    // Whoever is gone needs no answer of a supervisor that takes its time.
    let attached = tokio::select! {
        attached = runtime.attach_streams(container.as_str(), want) => attached,
        () = remote.lost() => return,
    };
    let Attachment {
        stdin,
        stdout,
        stderr,
        terminal,
        container,
    } = match attached {
        Ok(attachment) => attachment,
        Err(error) => return remote.conclude(&Outcome::Failed(error)).await,
    };
    let (_never, running) = watch::channel(false);
    let with_output = stdout.is_some() || stderr.is_some();
    let inputs = [
        feed(remote.stdin.take(), stdin, false),
        follow_size(remote.resize.take(), terminal),
    ];
    let outputs = [
        drain(stdout, remote.stdout.take(), running.clone()),
        drain(stderr, remote.stderr.take(), running),
    ];
    let session = async {
        // Without output to wait for there is only the container's own end.
        if !with_output {
            container.wait().await;
        }
        finish(outputs).await
    };
    tokio::select! {
        outputs = session => {
            drop(inputs);
            [remote.stdout, remote.stderr] = outputs;
            let outcome = tokio::select! {
                () = container.wait() => Outcome::Success,
                () = tokio::time::sleep(LAST_WORDS) => cut_off(container.state()),
                () = remote.lost() => return,
            };
            remote.conclude(&outcome).await;
        }
        () = remote.lost() => debug!(container = ?container.id(), "an attached client is gone"),
    }
}

/// The output of a container has ended before the container.
fn cut_off(state: ContainerState) -> Outcome {
    if state == ContainerState::Exited {
        return Outcome::Success;
    }
    Outcome::Failed(Error::new(
        Kind::Unavailable,
        "the container has closed its output but still runs, or this client read so slowly that it was let go \
         (husk keeps 1 MiB for a client that is behind): read the log instead",
    ))
}

/// A task that ends with its handle.
struct Task<T>(JoinHandle<T>);

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Copies input from the client to the process. What nobody takes is thrown away, so that the client is not held up.
fn feed(from: Option<Input>, to: Option<Pipe>, types_end: bool) -> Task<()> {
    Task(tokio::spawn(async move {
        let Some(from) = from else { return };
        let mut at_line_start = true;
        if let Some(to) = to {
            let end = loop {
                match from.recv().await {
                    Ok(data) => {
                        if to.write_all(&data).await.is_err() {
                            break End::Reset;
                        }
                        at_line_start = data.last() == Some(&b'\n');
                    }
                    Err(end) => break end,
                }
            };
            if types_end && end == End::Finished {
                type_end(&to, at_line_start).await;
            }
        }
        from.discard();
        // The channel itself stays open as long as the session does: some clients wait for that.
        std::future::pending::<()>().await;
    }))
}

/// Types at a terminal what ends its input. In the middle of a line the first one only completes the line.
async fn type_end(terminal: &Pipe, at_line_start: bool) {
    if let Some(end) = terminal.end_of_input() {
        let keys = [end, end];
        let _ = terminal.write_all(&keys[usize::from(at_line_start)..]).await;
    }
}

/// Gives the terminal the client's size, again and again.
fn follow_size(from: Option<Input>, terminal: Option<Terminal>) -> Task<()> {
    Task(tokio::spawn(async move {
        let Some(from) = from else { return };
        let mut decoder = Decoder::default();
        while let Some(terminal) = &terminal
            && let Ok(data) = from.recv().await
        {
            if let Some(size) = decoder.push(&data)
                && let Err(error) = terminal.resize(size.height, size.width).await
            {
                debug!(%error, "resize a terminal");
            }
        }
        from.discard();
        std::future::pending::<()>().await;
    }))
}

/// Copies output from the process to the client, to its end or until `exited`, and gives the client's channel back,
/// finished.
fn drain(from: Option<Pipe>, to: Option<Output>, mut exited: watch::Receiver<bool>) -> Task<Option<Output>> {
    Task(tokio::spawn(async move {
        if let Some(from) = from {
            let mut buffer = vec![0; CHUNK];
            if let Err(error) = copy(&from, to.as_ref(), &mut buffer, &mut exited).await {
                debug!(%error, "read output");
            }
        }
        if let Some(to) = &to {
            to.finish().await;
        }
        to
    }))
}

async fn copy(
    from: &Pipe,
    to: Option<&Output>,
    buffer: &mut [u8],
    exited: &mut watch::Receiver<bool>,
) -> io::Result<()> {
    loop {
        let read = tokio::select! {
            read = from.read(buffer) => read?,
            // If nobody will tell there is only the end of the output.
            true = async { exited.wait_for(|exited| *exited).await.is_ok() } => break,
        };
        if read == 0 || !pass(to, &buffer[..read]).await {
            return Ok(());
        }
    }
    // What was written before the end is there; what comes later is a descendant's.
    let mut taken = 0;
    while taken < AFTER {
        let read = match from.read_now(buffer)? {
            Some(read) => read,
            None => match tokio::time::timeout(QUIET, from.read(buffer)).await {
                Ok(read) => read?,
                Err(_) => return Ok(()),
            },
        };
        if read == 0 || !pass(to, &buffer[..read]).await {
            return Ok(());
        }
        taken += read;
    }
    Ok(())
}

/// `false`: the client wants no more of this, and the process may know.
async fn pass(to: Option<&Output>, data: &[u8]) -> bool {
    match to {
        Some(to) => to.send(Bytes::copy_from_slice(data)).await.is_ok(),
        // The output of a terminal has to be read, even if nobody wants it.
        None => true,
    }
}

/// Waits until all output is delivered.
async fn finish(outputs: [Task<Option<Output>>; 2]) -> [Option<Output>; 2] {
    let [mut stdout, mut stderr] = outputs;
    let (stdout, stderr) = tokio::join!(&mut stdout.0, &mut stderr.0);
    [stdout.ok().flatten(), stderr.ok().flatten()]
}
