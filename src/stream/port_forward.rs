//! Port forwarding: bytes between a client and ports of a pod.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::debug;

use super::queue::End;
use super::remote::{Input, LINGER, Output};
use super::spdy;
use super::websocket::Channels;
use crate::pod::Runtime;
use crate::types::PodId;
use crate::types::error::{Error, Result};

/// Most ports of one WebSocket: each takes two of 255 channels.
pub const MAX_PORTS: usize = 64;
/// Bytes read from the pod at once.
const CHUNK: usize = 32 * 1024;
/// How long one direction may be silent once the pod has ended the other, as with other runtimes.
const GRACE: Duration = Duration::from_secs(1);

/// One forwarded connection.
struct Forward {
    port: u16,
    input: Input,
    output: Output,
    error: Output,
}

/// Serves a SPDY client until it is gone: each connection is a pair of streams that it opens.
pub async fn over_spdy(runtime: Arc<Runtime>, pod: PodId, mut connection: spdy::Connection, limit: Duration) {
    let mut halves = Halves::default();
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            stream = connection.accept() => match stream {
                Some(stream) => {
                    if let Some(forward) = halves.add(stream, limit).await {
                        running.spawn(run(Arc::clone(&runtime), pod.clone(), forward));
                    }
                }
                None => break,
            },
            Some(_) = running.join_next() => {}
            () = halves.expire() => {}
        }
    }
    debug!(?pod, "the client of a port forwarding is gone");
}

/// Serves the ports named in advance, each on two channels of its own, and closes when all are done.
pub async fn over_websocket(runtime: Arc<Runtime>, pod: PodId, ports: Vec<u16>, channels: Channels) {
    let mut running = JoinSet::new();
    for (at, port) in (0..).zip(ports) {
        let (data, error) = (2 * at, 2 * at + 1);
        let number = Bytes::copy_from_slice(&port.to_le_bytes());
        let (output, error) = (channels.output(data), channels.output(error));
        // A client that is gone shows below.
        let _ = output.send(number.clone()).await;
        let _ = error.send(number).await;
        let Some(input) = channels.input(data) else {
            continue;
        };
        let forward = Forward {
            port,
            input: Input::Channel(input),
            output: Output::Channel(output),
            error: Output::Channel(error),
        };
        running.spawn(run(Arc::clone(&runtime), pod.clone(), forward));
    }
    let mut closed = channels.watch();
    let lost = async {
        let _ = closed.wait_for(|closed| *closed).await;
    };
    tokio::pin!(lost);
    loop {
        tokio::select! {
            done = running.join_next() => if done.is_none() {
                break;
            },
            () = &mut lost => return debug!(?pod, "the client of a port forwarding is gone"),
        }
    }
    let closing = async {
        channels.close().await;
        lost.await;
    };
    let _ = tokio::time::timeout(LINGER, closing).await;
}

/// Which channels of a WebSocket the client may write to, for so many ports.
pub fn readable(ports: usize) -> Vec<bool> {
    [true, false].repeat(ports)
}

async fn run(runtime: Arc<Runtime>, pod: PodId, forward: Forward) {
    if let Err(error) = copy(&runtime, &pod, &forward).await {
        let message = format!(
            "forward port {} of pod sandbox {}: {error}",
            forward.port,
            pod.short()
        );
        debug!("{message}");
        let _ = forward.error.send(message.into()).await;
        forward.error.finish().await;
        forward.output.reset().await;
    } else {
        forward.output.finish().await;
        forward.error.finish().await;
    }
}

async fn copy(runtime: &Runtime, pod: &PodId, forward: &Forward) -> Result<()> {
    let connection = runtime.connect_to_port(pod, forward.port).await?;
    exchange(&forward.input, &forward.output, connection).await
}

/// Copies both ways until it is over. A client that is done sending waits for its answer as long as it likes. Once the pod
/// has hung up, or takes nothing more, the other direction goes on until it is silent for [`GRACE`]: over a WebSocket the
/// client cannot be told that one direction has ended, and would wait for us while we wait for it.
async fn exchange(input: &Input, output: &Output, pod: TcpStream) -> Result<()> {
    let (read, write) = pod.into_split();
    let (ending, is_ending) = watch::channel(false);
    let delivered = AtomicBool::new(false);
    let upload = upload(input, write, is_ending.clone());
    let download = download(read, output, &delivered, is_ending);
    tokio::pin!(upload, download);
    let ended = tokio::select! {
        biased;
        sent = &mut upload => match sent {
            Ok(()) => download.await,
            Err(Some(error)) => {
                // The pod may have answered before it stopped listening, and that answer still be on its way.
                ending.send_replace(true);
                match download.await {
                    Err(None) => Err(None),
                    _ if delivered.load(Ordering::Relaxed) => Ok(()),
                    _ => Err(Some(error)),
                }
            }
            gone => gone,
        },
        received = &mut download => {
            if received.is_ok() {
                ending.send_replace(true);
                // The pod has said all it had to say; whether it still listens is nobody's concern.
                let _ = upload.await;
            }
            received
        }
    };
    match ended {
        // The client has taken its channel back: there is nobody to tell.
        Err(None) | Ok(()) => Ok(()),
        Err(Some(error)) => Err(error),
    }
}

/// Comes back when it is ending and nothing has happened for [`GRACE`] since this was called.
async fn silence(is_ending: &mut watch::Receiver<bool>) {
    if is_ending.wait_for(|ending| *ending).await.is_err() {
        std::future::pending().await
    }
    tokio::time::sleep(GRACE).await;
}

async fn upload(
    from: &Input,
    mut to: OwnedWriteHalf,
    mut is_ending: watch::Receiver<bool>,
) -> std::result::Result<(), Option<Error>> {
    loop {
        let step = async {
            match from.recv().await {
                Ok(data) => to.write_all(&data).await.map_err(|e| broken(&e)).map(|()| true),
                Err(End::Finished) => {
                    // The pod may have closed first.
                    let _ = to.shutdown().await;
                    Ok(false)
                }
                Err(End::Reset | End::Lost) => Err(None),
            }
        };
        let more = tokio::select! {
            more = step => more?,
            () = silence(&mut is_ending) => false,
        };
        if !more {
            return Ok(());
        }
    }
}

async fn download(
    mut from: OwnedReadHalf,
    to: &Output,
    delivered: &AtomicBool,
    mut is_ending: watch::Receiver<bool>,
) -> std::result::Result<(), Option<Error>> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            () = silence(&mut is_ending) => Ok(0),
        };
        let read = match read {
            Ok(read) => read,
            // A server that closes with a request half read resets the connection behind its answer. kubectl gives up all
            // its connections if it is told of an error in one.
            Err(error) if hung_up(&error) && delivered.load(Ordering::Relaxed) => 0,
            Err(error) => return Err(broken(&error)),
        };
        if read == 0 {
            to.finish().await;
            return Ok(());
        }
        let data = Bytes::copy_from_slice(&buffer[..read]);
        to.send(data).await.map_err(|_| None)?;
        delivered.store(true, Ordering::Relaxed);
    }
}

fn hung_up(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    )
}

fn broken(error: &io::Error) -> Option<Error> {
    Some(Error::internal(format!("the connection broke: {error}")))
}

/// Streams whose counterpart is still to come.
#[derive(Default)]
struct Halves(HashMap<String, Half>);

struct Half {
    data: Option<spdy::Stream>,
    error: Option<spdy::Stream>,
    until: Instant,
}

impl Halves {
    /// Takes a stream, and gives back the connection that it completes. A stream that makes no sense is refused.
    async fn add(&mut self, stream: spdy::Stream, limit: Duration) -> Option<Forward> {
        port_of(&stream)?;
        let is_data = match stream.headers().get("streamtype")? {
            "data" => true,
            "error" => false,
            _ => return None,
        };
        let id = request_id(&stream, is_data);
        let half = self.0.entry(id.clone()).or_insert_with(|| Half {
            data: None,
            error: None,
            until: Instant::now() + limit,
        });
        let place = if is_data { &mut half.data } else { &mut half.error };
        if place.is_some() {
            return None;
        }
        stream.accept();
        *place = Some(stream);
        if half.data.is_none() || half.error.is_none() {
            return None;
        }
        let Half { data, error, .. } = self.0.remove(&id)?;
        let (data, error) = (Arc::new(data?), error?);
        let port = port_of(&data)?;
        Some(Forward {
            port,
            input: Input::Stream(Arc::clone(&data)),
            output: Output::Stream(data),
            error: Output::Stream(Arc::new(error)),
        })
    }

    /// Comes back when a half has waited too long, and was given up. Cancel safe.
    async fn expire(&mut self) {
        let Some(first) = self.0.values().map(|half| half.until).min() else {
            return std::future::pending().await;
        };
        tokio::time::sleep_until(first).await;
        let now = Instant::now();
        self.0.retain(|_, half| half.until > now);
    }
}

fn port_of(stream: &spdy::Stream) -> Option<u16> {
    let port = stream.headers().get("port")?.parse().ok()?;
    (port > 0).then_some(port)
}

/// What a pair has in common. Clients of Kubernetes 1.0 do not say; they open the error stream first.
fn request_id(stream: &spdy::Stream, is_data: bool) -> String {
    match stream.headers().get("requestid") {
        Some(id) => id.to_owned(),
        None if is_data => format!("stream {}", stream.id().wrapping_sub(2)),
        None => format!("stream {}", stream.id()),
    }
}

#[cfg(test)]
mod tests;
