//! One connection: a task that reads frames, a task that writes them, and what both share with the streams.
//!
//! The reader never waits for the writer: what it has to answer goes to a short list of control frames, and a peer that
//! makes it longer than [`MAX_WAITING_CONTROL`] without reading is let go, whether the reader or a stream finds out. It waits for the consumer of a stream whose
//! buffer is full, and looks meanwhile whether the peer is still there.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tracing::debug;

use super::frame::{Control, HEAD, Head, MAX_WINDOW, Reset};
use super::header::{Deflater, Headers, Inflater};
use super::stream::{Inner, Stream, TELL_AFTER};
use crate::stream::activity::{Activity, HungUp};
use crate::stream::queue::{End, weight};

/// Most streams at once.
pub const MAX_STREAMS: usize = 256;
/// Window of a stream and of a connection until somebody says otherwise, in bytes.
pub const INITIAL_WINDOW: i64 = 64 * 1024;
/// Control frames that may wait to be written.
const MAX_WAITING_CONTROL: usize = 1024;
/// Data frames that may wait to be written, each up to [`super::stream::MAX_DATA`] long.
const MAX_WAITING_DATA: usize = 8;
/// Bytes of all streams that may wait to be consumed; beyond, a stream that has some waits for its own consumer.
const MAX_BUFFERED: usize = 2 * 1024 * 1024;
/// Bytes of a data frame handed on at once.
const CHUNK: usize = 32 * 1024;
/// How often a reader that waits for room looks whether the peer is still there.
const LOOK: Duration = Duration::from_secs(1);

/// What the writer gets.
pub(super) enum Outgoing {
    /// A whole frame.
    Frame(Vec<u8>),
    /// Tell when everything before it is written.
    Mark(oneshot::Sender<()>),
}

/// Send windows, of the connection and of its streams.
#[derive(Debug)]
pub(super) struct Flow {
    /// The peer has shown that it keeps windows.
    pub kept: bool,
    /// Window of streams to come.
    pub initial: i64,
    /// What is left of the connection's.
    pub connection: i64,
    /// What is left of each stream's.
    pub streams: HashMap<u32, i64>,
}

struct ControlQueue {
    frames: VecDeque<Vec<u8>>,
    deflater: Deflater,
}

/// What the tasks and the streams of a connection share.
pub(super) struct Shared {
    streams: Mutex<HashMap<u32, Arc<Inner>>>,
    control: Mutex<ControlQueue>,
    control_waits: Notify,
    pub flow: Mutex<Flow>,
    pub flow_moved: Notify,
    pub out: mpsc::Sender<Outgoing>,
    pub buffered: AtomicUsize,
    /// Bytes of all streams consumed since the peer was last told that the connection's window is wider again.
    untold: AtomicU32,
    closed: watch::Sender<bool>,
    activity: Arc<Activity>,
}

/// A connection.
pub struct Connection {
    shared: Arc<Shared>,
    opened: mpsc::Receiver<Stream>,
    tasks: [AbortHandle; 2],
}

impl Connection {
    /// Serves SPDY over `io`. `hung_up` tells whether the peer is gone, while nobody reads.
    ///
    /// # Errors
    /// The compression library fails.
    pub fn start<T>(
        io: T,
        hung_up: HungUp,
        activity: Arc<Activity>,
    ) -> Result<Self, super::header::HeaderError>
    where
        T: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (out, outgoing) = mpsc::channel(MAX_WAITING_DATA);
        let (opener, opened) = mpsc::channel(MAX_STREAMS);
        let shared = Arc::new(Shared {
            streams: Mutex::default(),
            control: Mutex::new(ControlQueue {
                frames: VecDeque::new(),
                deflater: Deflater::new()?,
            }),
            control_waits: Notify::new(),
            flow: Mutex::new(Flow {
                kept: false,
                initial: INITIAL_WINDOW,
                connection: INITIAL_WINDOW,
                streams: HashMap::new(),
            }),
            flow_moved: Notify::new(),
            out,
            buffered: AtomicUsize::new(0),
            untold: AtomicU32::new(0),
            closed: watch::Sender::new(false),
            activity,
        });
        let (read, write) = tokio::io::split(io);
        let reader = Reader {
            shared: Arc::clone(&shared),
            opener,
            inflater: Inflater::default(),
            last: 0,
            going_away: false,
            hung_up,
            buffer: vec![0; CHUNK].into_boxed_slice(),
        };
        let tasks = [
            tokio::spawn(reader.run(BufReader::new(read))).abort_handle(),
            tokio::spawn(write_all(Arc::clone(&shared), outgoing, write)).abort_handle(),
        ];
        Ok(Self {
            shared,
            opened,
            tasks,
        })
    }

    /// The next stream that the client opens; `None` once it is gone. Cancel safe.
    pub async fn accept(&mut self) -> Option<Stream> {
        self.opened.recv().await
    }

    /// Knows when the peer is gone.
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.shared.closed.subscribe()
    }

    /// Waits until what was sent so far is written to the connection.
    pub async fn flush(&self) {
        let (tell, told) = oneshot::channel();
        if self.shared.out.send(Outgoing::Mark(tell)).await.is_ok() {
            let _ = told.await;
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.close();
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Shared {
    /// Nothing comes or goes any more.
    fn close(&self) {
        for stream in self.lock_streams().drain() {
            stream.1.incoming.end(End::Lost);
            stream.1.mark_reset();
        }
        self.closed.send_replace(true);
        self.flow_moved.notify_waiters();
    }

    pub fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    /// Has `frame` written ahead of data. `false`: too many wait, the peer does not read, and the connection is closed.
    pub fn control(&self, frame: &Control<'_>) -> bool {
        let frame = frame.encode();
        self.queue(self.lock_control(), frame)
    }

    /// Everything that the peer can make us say comes by here, whoever says it.
    fn queue(&self, mut control: MutexGuard<'_, ControlQueue>, frame: Vec<u8>) -> bool {
        let fits = control.frames.len() < MAX_WAITING_CONTROL;
        if fits {
            control.frames.push_back(frame);
        }
        drop(control);
        if fits {
            self.control_waits.notify_one();
        } else {
            self.close();
        }
        fits
    }

    /// Accepts a stream. If too many control frames wait, the connection is closed as by [`Shared::control`].
    pub fn reply(&self, stream: u32) {
        let mut control = self.lock_control();
        // Written in the order they are compressed in: both happen under this lock.
        let Ok(block) = control.deflater.write(&Headers::default()) else {
            return;
        };
        let frame = Control::SynReply {
            stream,
            fin: false,
            block: &block,
        };
        let frame = frame.encode();
        self.queue(control, frame);
    }

    /// What a stream held is consumed or thrown away.
    pub fn forget(&self, weight: usize) {
        self.buffered.fetch_sub(weight, Ordering::Relaxed);
    }

    /// Gives back `bytes` of the connection's window, which all streams draw on and none of them can give back alone: what
    /// each has consumed may never be worth telling.
    pub fn credit(&self, bytes: u32) {
        let untold = self.untold.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if untold >= TELL_AFTER {
            let delta = self.untold.swap(0, Ordering::Relaxed);
            // Two streams may come here at once, and one find that the other has told.
            if delta > 0 {
                self.control(&Control::WindowUpdate { stream: 0, delta });
            }
        }
    }

    pub fn remove(&self, stream: u32) {
        self.lock_streams().remove(&stream);
        self.lock_flow().streams.remove(&stream);
    }

    pub fn lock_flow(&self) -> MutexGuard<'_, Flow> {
        self.flow.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_streams(&self) -> MutexGuard<'_, HashMap<u32, Arc<Inner>>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_control(&self) -> MutexGuard<'_, ControlQueue> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes until the connection breaks or everybody is gone.
async fn write_all(
    shared: Arc<Shared>,
    mut outgoing: mpsc::Receiver<Outgoing>,
    mut io: impl AsyncWrite + Unpin,
) {
    loop {
        let first = shared.lock_control().frames.pop_front();
        let next = match first {
            Some(frame) => Outgoing::Frame(frame),
            None => tokio::select! {
                () = shared.control_waits.notified() => continue,
                next = outgoing.recv() => match next {
                    Some(next) => next,
                    None => break,
                },
            },
        };
        match next {
            Outgoing::Frame(frame) => {
                let written = async {
                    io.write_all(&frame).await?;
                    io.flush().await
                };
                if let Err(error) = written.await {
                    debug!(%error, "write to a SPDY client");
                    break;
                }
                shared.activity.touch();
            }
            Outgoing::Mark(tell) => {
                let _ = tell.send(());
            }
        }
    }
    shared.close();
}

/// Why reading ends.
enum Stop {
    /// The peer closed, or the connection broke.
    Gone,
    /// The peer broke the rules.
    Fault(String),
}

impl From<std::io::Error> for Stop {
    fn from(_: std::io::Error) -> Self {
        Self::Gone
    }
}

fn fault(error: impl ToString) -> Stop {
    Stop::Fault(error.to_string())
}

struct Reader {
    shared: Arc<Shared>,
    opener: mpsc::Sender<Stream>,
    inflater: Inflater,
    /// Highest stream the peer opened.
    last: u32,
    going_away: bool,
    hung_up: HungUp,
    buffer: Box<[u8]>,
}

impl Reader {
    async fn run(mut self, mut io: impl AsyncRead + Unpin) {
        let mut closed = self.shared.closed.subscribe();
        let frames = async {
            loop {
                if let Err(stop) = self.frame(&mut io).await {
                    break stop;
                }
            }
        };
        let stop = tokio::select! {
            stop = frames => stop,
            // The writer, or whoever had too much to say to a peer that does not read, has given it up.
            _ = closed.wait_for(|closed| *closed) => Stop::Gone,
        };
        if let Stop::Fault(reason) = stop {
            debug!(reason, "a SPDY client broke the protocol");
        }
        self.shared.close();
    }

    async fn frame(&mut self, io: &mut (impl AsyncRead + Unpin)) -> Result<(), Stop> {
        let mut head = [0; HEAD];
        io.read_exact(&mut head).await?;
        self.shared.activity.touch();
        match Head::parse(head).map_err(fault)? {
            Head::Data { stream, fin, length } => self.data(io, stream, fin, length as usize).await,
            Head::Control { kind, flags, length } => {
                let mut body = vec![0; length as usize];
                io.read_exact(&mut body).await?;
                let control = Control::parse(kind, flags, &body).map_err(fault)?;
                self.control(control)
            }
        }
    }

    async fn data(
        &mut self,
        io: &mut (impl AsyncRead + Unpin),
        id: u32,
        fin: bool,
        mut left: usize,
    ) -> Result<(), Stop> {
        let stream = self.shared.lock_streams().get(&id).cloned();
        if stream.is_none() && id > self.last {
            self.answer(&reset(id, Reset::InvalidStream))?;
        }
        while left > 0 {
            if let Some(stream) = &stream {
                self.room(stream).await?;
            }
            let limit = left.min(self.buffer.len());
            let read = io.read(&mut self.buffer[..limit]).await?;
            if read == 0 {
                return Err(Stop::Gone);
            }
            left -= read;
            self.shared.activity.touch();
            self.deliver(stream.as_ref(), Bytes::copy_from_slice(&self.buffer[..read]))?;
        }
        if fin && let Some(stream) = stream {
            stream.incoming.end(End::Finished);
            stream.mark_remote_done();
        }
        Ok(())
    }

    fn deliver(&self, stream: Option<&Arc<Inner>>, chunk: Bytes) -> Result<(), Stop> {
        let (length, weight) = (chunk.len(), weight(&chunk));
        self.shared.buffered.fetch_add(weight, Ordering::Relaxed);
        if stream.is_some_and(|stream| stream.incoming.push(chunk)) {
            return Ok(());
        }
        // Nobody will consume it, but the connection's window must not dry up for it.
        self.shared.forget(weight);
        self.answer(&Control::WindowUpdate {
            stream: 0,
            delta: length as u32,
        })
    }

    /// Waits until `stream` can take more.
    async fn room(&self, stream: &Inner) -> Result<(), Stop> {
        loop {
            let wait = async {
                stream.incoming.room().await;
                if self.shared.buffered.load(Ordering::Relaxed) >= MAX_BUFFERED {
                    stream.incoming.empty().await;
                }
            };
            tokio::select! {
                biased;
                () = wait => return Ok(()),
                () = tokio::time::sleep(LOOK) => {
                    if (self.hung_up)() {
                        return Err(Stop::Gone);
                    }
                    self.probe();
                }
            }
        }
    }

    /// Says something that needs no answer. If the peer is gone, the kernel on its side says so; on our own we would never
    /// know, for its goodbye stands behind what it sent and we do not read.
    fn probe(&self) {
        if self.shared.lock_control().frames.is_empty() {
            self.shared.control(&Control::Settings { initial_window: None });
        }
    }

    fn answer(&self, frame: &Control<'_>) -> Result<(), Stop> {
        if self.shared.control(frame) {
            Ok(())
        } else {
            Err(fault("it does not read what it makes us answer"))
        }
    }

    fn control(&mut self, control: Control<'_>) -> Result<(), Stop> {
        match control {
            Control::SynStream {
                stream,
                fin,
                unidirectional,
                block,
            } => self.open(stream, fin, unidirectional, block),
            Control::RstStream { stream, .. } => {
                if let Some(stream) = self.find(stream) {
                    stream.incoming.end(End::Reset);
                    stream.mark_reset();
                    self.shared.flow_moved.notify_waiters();
                }
                Ok(())
            }
            Control::Settings { initial_window } => {
                if let Some(window) = initial_window {
                    self.resize_windows(i64::from(window));
                }
                Ok(())
            }
            // An odd number is the peer's; an even one would be ours, and we send none.
            Control::Ping(number) if number % 2 == 1 => self.answer(&Control::Ping(number)),
            Control::Ping(_) | Control::Unknown(_) => Ok(()),
            Control::GoAway { .. } => {
                self.going_away = true;
                Ok(())
            }
            // Read for the sake of the compression's state only.
            Control::Headers { stream, fin, block } => {
                self.inflater.read(block).map_err(fault)?;
                if fin && let Some(stream) = self.find(stream) {
                    stream.incoming.end(End::Finished);
                    stream.mark_remote_done();
                }
                Ok(())
            }
            Control::SynReply { stream, block, .. } => {
                self.inflater.read(block).map_err(fault)?;
                self.answer(&reset(stream, Reset::InvalidStream))
            }
            Control::WindowUpdate { stream, delta } => self.widen(stream, i64::from(delta)),
        }
    }

    fn find(&self, stream: u32) -> Option<Arc<Inner>> {
        self.shared.lock_streams().get(&stream).cloned()
    }

    fn open(&mut self, id: u32, fin: bool, unidirectional: bool, block: &[u8]) -> Result<(), Stop> {
        let headers = self.inflater.read(block).map_err(fault)?;
        if id.is_multiple_of(2) || id <= self.last {
            return Err(fault(format!("stream {id} opened after stream {}", self.last)));
        }
        self.last = id;
        let count = self.shared.lock_streams().len();
        if self.going_away || count >= MAX_STREAMS {
            return self.answer(&reset(id, Reset::RefusedStream));
        }
        let inner = Arc::new(Inner::new(id, headers, unidirectional));
        if fin {
            inner.incoming.end(End::Finished);
            inner.mark_remote_done();
        }
        self.shared.lock_streams().insert(id, Arc::clone(&inner));
        let mut flow = self.shared.lock_flow();
        let initial = flow.initial;
        flow.streams.insert(id, initial);
        drop(flow);
        // There is room for as many as there may be. One that nobody takes refuses itself.
        let _ = self.opener.try_send(Stream::new(inner, Arc::clone(&self.shared)));
        Ok(())
    }

    fn resize_windows(&self, window: i64) {
        let mut flow = self.shared.lock_flow();
        let change = window - flow.initial;
        flow.kept = true;
        flow.initial = window;
        for left in flow.streams.values_mut() {
            *left += change;
        }
        drop(flow);
        self.shared.flow_moved.notify_waiters();
    }

    fn widen(&self, stream: u32, delta: i64) -> Result<(), Stop> {
        let mut flow = self.shared.lock_flow();
        flow.kept = true;
        let window = match stream {
            0 => Some(&mut flow.connection),
            stream => flow.streams.get_mut(&stream),
        };
        if let Some(window) = window {
            *window += delta;
            if *window > i64::from(MAX_WINDOW) {
                return Err(fault("a window is wider than 2^31 - 1"));
            }
        }
        drop(flow);
        self.shared.flow_moved.notify_waiters();
        Ok(())
    }
}

fn reset(stream: u32, why: Reset) -> Control<'static> {
    Control::RstStream {
        stream,
        status: why as u32,
    }
}
