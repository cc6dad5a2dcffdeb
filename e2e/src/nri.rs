//! An NRI plugin of a test: its own reader and writer of the wire format, so that husk is not measured by itself.
//!
//! The protocol is small: frames of two logical connections on one socket, ttrpc messages in them, protobuf in those.
//! Fields are named by number, as on the wire.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};

use crate::Options;

/// Asks for all events.
pub const ALL: u64 = 0;
/// The service of plugins, on connection 1.
const PLUGIN: u32 = 1;
/// The service of the runtime, on connection 2.
const RUNTIME: u32 = 2;

/// The socket that a test's daemon makes for plugins. Its path has to be known before the daemon's directory is.
pub struct Socket(pub PathBuf);

impl Socket {
    /// A path of this test's own.
    pub fn new(name: &str) -> Self {
        let dir = crate::base_dir();
        Self(dir.join(format!("nri-{name}-{}.sock", std::process::id())))
    }

    /// A daemon with that socket; `more` goes into the table `[nri]`.
    pub fn options(&self, more: &str) -> Options {
        Options::new().toml(&format!(
            "[nri]\nenabled = true\nsocket = \"{}\"\n{more}",
            self.0.display()
        ))
    }
}

/// Agrees to everything.
pub fn consent(_: &Event) -> Answer {
    Answer::Say(Fields::default())
}

/// Answers one method; consents to everything else.
pub fn on(
    method: &'static str,
    answer: impl Fn(&Event) -> Answer + Send + Sync,
) -> impl Fn(&Event) -> Answer + Send + Sync {
    move |event| {
        if event.method == method {
            answer(event)
        } else {
            consent(event)
        }
    }
}

/// What a plugin says to a request.
pub enum Answer {
    /// This response; empty for consent.
    Say(Fields),
    /// An error.
    Refuse(String),
    /// That it does not know the method, as plugins built for older versions say.
    Unknown,
    /// Nothing, ever.
    Silence,
}

/// A request that a plugin got.
#[derive(Debug, Clone)]
pub struct Event {
    /// Index and name of the plugin.
    pub plugin: String,
    /// The method.
    pub method: String,
    /// The request.
    pub request: Fields,
}

impl Event {
    /// Id of the pod it is about.
    pub fn pod(&self) -> String {
        self.request.message(1).text(1)
    }

    /// Id of the container it is about; empty for a pod's event.
    pub fn container(&self) -> String {
        self.request.message(2).text(1)
    }
}

/// Requests of one or several plugins in the order they came.
pub type Record = Arc<Mutex<Vec<Event>>>;

/// A plugin that is connected.
pub struct Plugin {
    record: Record,
    calls: mpsc::Sender<(String, Fields, oneshot::Sender<Result<Fields>>)>,
    ended: oneshot::Receiver<()>,
}

impl Plugin {
    /// Connects, registers and waits until the plugin is synchronized. Every request but Configure is recorded and
    /// answered by `answer`.
    pub async fn join(
        socket: &Path,
        name: &str,
        events: u64,
        record: &Record,
        answer: impl Fn(&Event) -> Answer + Send + Sync + 'static,
    ) -> Result<Self> {
        let stream = UnixStream::connect(socket)
            .await
            .with_context(|| format!("connect to {}", socket.display()))?;
        let (input, output) = stream.into_split();
        let (calls, queue) = mpsc::channel(8);
        let (synchronized, joined) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let peer = Peer {
            name: name.into(),
            events,
            record: Arc::clone(record),
            answer: Box::new(answer),
            output,
            waiting: Vec::new(),
            stream: 1,
            synchronized: Some(synchronized),
        };
        tokio::spawn(async move {
            let _ = peer.serve(input, queue).await;
            drop(end);
        });
        let plugin = Self {
            record: Arc::clone(record),
            calls,
            ended,
        };
        let (index, base) = name.split_once('-').context("a name is index-name")?;
        let mut register = Fields::default();
        register.put_text(1, base).put_text(2, index);
        plugin.call("RegisterPlugin", register).await?;
        joined.await.context("the plugin was not synchronized")?;
        Ok(plugin)
    }

    /// Calls a method of the runtime.
    pub async fn call(&self, method: &str, request: Fields) -> Result<Fields> {
        let (tell, told) = oneshot::channel();
        let _ = self.calls.send((method.into(), request, tell)).await;
        told.await.context("the connection was closed")?
    }

    /// What it was asked, without Configure.
    pub fn events(&self) -> Vec<Event> {
        recorded(&self.record)
    }

    /// Waits until the runtime has let it go.
    pub async fn gone(self) {
        let _ = self.ended.await;
    }
}

/// A copy of a record.
pub fn recorded(record: &Record) -> Vec<Event> {
    record.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

struct Peer {
    name: String,
    events: u64,
    record: Record,
    answer: Box<dyn Fn(&Event) -> Answer + Send + Sync>,
    output: OwnedWriteHalf,
    waiting: Vec<(u32, oneshot::Sender<Result<Fields>>)>,
    stream: u32,
    synchronized: Option<oneshot::Sender<()>>,
}

impl Peer {
    async fn serve(
        mut self,
        input: OwnedReadHalf,
        mut calls: mpsc::Receiver<(String, Fields, oneshot::Sender<Result<Fields>>)>,
    ) -> Result<()> {
        // Reading is not safe to give up half-way, so it has a task of its own.
        let (messages, mut incoming) = mpsc::channel(64);
        tokio::spawn(read(input, messages));
        loop {
            tokio::select! {
                message = incoming.recv() => match message {
                    Some((PLUGIN, stream, data)) => self.on_request(stream, &data).await?,
                    Some((_, stream, data)) => self.on_response(stream, &data)?,
                    None => return Ok(()),
                },
                call = calls.recv() => match call {
                    Some((method, request, tell)) => {
                        let mut envelope = Fields::default();
                        envelope
                            .put_text(1, "nri.pkg.api.v1alpha1.Runtime")
                            .put_text(2, &method)
                            .put_message(3, &request);
                        self.waiting.push((self.stream, tell));
                        send(&mut self.output, RUNTIME, self.stream, 1, &envelope).await?;
                        self.stream += 2;
                    }
                    None => return Ok(()),
                },
            }
        }
    }

    async fn on_request(&mut self, stream: u32, data: &[u8]) -> Result<()> {
        let envelope = Fields::parse(data)?;
        let event = Event {
            plugin: self.name.clone(),
            method: envelope.text(2),
            request: envelope.message(3),
        };
        let answer = if event.method == "Configure" {
            let mut response = Fields::default();
            response.put_number(2, self.events);
            Answer::Say(response)
        } else {
            self.record
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(event.clone());
            (self.answer)(&event)
        };
        let mut envelope = Fields::default();
        match answer {
            Answer::Say(response) => envelope.put_message(2, &response),
            Answer::Refuse(why) => envelope.put_message(1, &status(2, &why)),
            Answer::Unknown => envelope.put_message(1, &status(12, "no such method")),
            Answer::Silence => return Ok(()),
        };
        send(&mut self.output, PLUGIN, stream, 2, &envelope).await?;
        if event.method == "Synchronize" && event.request.number(3) == 0 {
            self.synchronized.take().map(|s| s.send(()));
        }
        Ok(())
    }

    fn on_response(&mut self, stream: u32, data: &[u8]) -> Result<()> {
        let envelope = Fields::parse(data)?;
        let at = self.waiting.iter().position(|(id, _)| *id == stream);
        let (_, tell) = self
            .waiting
            .swap_remove(at.context("an answer nobody waits for")?);
        let status = envelope.message(1);
        let outcome = if status.number(1) == 0 {
            Ok(envelope.message(2))
        } else {
            Err(anyhow::anyhow!("{}: {}", status.number(1), status.text(2)))
        };
        let _ = tell.send(outcome);
        Ok(())
    }
}

/// A gRPC status.
fn status(code: u64, message: &str) -> Fields {
    let mut status = Fields::default();
    status.put_number(1, code).put_text(2, message);
    status
}

async fn send(
    output: &mut OwnedWriteHalf,
    connection: u32,
    stream: u32,
    kind: u8,
    message: &Fields,
) -> Result<()> {
    let data = message.bytes();
    let mut bytes = connection.to_be_bytes().to_vec();
    bytes.extend(u32::try_from(data.len() + 10)?.to_be_bytes());
    bytes.extend(u32::try_from(data.len())?.to_be_bytes());
    bytes.extend(stream.to_be_bytes());
    bytes.extend([kind, 0]);
    bytes.extend(data);
    Ok(output.write_all(&bytes).await?)
}

/// Reads frames, and takes messages out of the stream of each connection.
async fn read(mut input: OwnedReadHalf, messages: mpsc::Sender<(u32, u32, Vec<u8>)>) -> Result<()> {
    let mut streams = [Vec::new(), Vec::new()];
    loop {
        let (connection, length) = (input.read_u32().await?, input.read_u32().await?);
        let mut payload = vec![0; length as usize];
        input.read_exact(&mut payload).await?;
        let buffer = match connection {
            PLUGIN => &mut streams[0],
            RUNTIME => &mut streams[1],
            other => anyhow::bail!("a frame of connection {other}"),
        };
        buffer.extend(payload);
        while let Some(header) = buffer.first_chunk::<10>() {
            let number =
                |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
            let (length, stream) = (number(0) as usize, number(4));
            if buffer.len() < 10 + length {
                break;
            }
            let data = buffer[10..10 + length].to_vec();
            buffer.drain(..10 + length);
            messages.send((connection, stream, data)).await?;
        }
    }
}

/// A protobuf message: its fields by number, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields(Vec<(u64, Value)>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Number(u64),
    Bytes(Vec<u8>),
}

impl Fields {
    /// Reads a message.
    pub fn parse(mut bytes: &[u8]) -> Result<Self> {
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            let tag = varint(&mut bytes)?;
            let value = match tag & 7 {
                0 => Value::Number(varint(&mut bytes)?),
                2 => {
                    let length = usize::try_from(varint(&mut bytes)?)?;
                    ensure!(length <= bytes.len(), "a field is cut short");
                    let (value, rest) = bytes.split_at(length);
                    bytes = rest;
                    Value::Bytes(value.to_vec())
                }
                other => anyhow::bail!("wire type {other}"),
            };
            fields.push((tag >> 3, value));
        }
        Ok(Self(fields))
    }

    /// Its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (field, value) in &self.0 {
            match value {
                Value::Number(n) => {
                    put_varint(&mut out, field << 3);
                    put_varint(&mut out, *n);
                }
                Value::Bytes(bytes) => {
                    put_varint(&mut out, field << 3 | 2);
                    put_varint(&mut out, bytes.len() as u64);
                    out.extend(bytes);
                }
            }
        }
        out
    }

    /// Adds a number.
    pub fn put_number(&mut self, field: u64, value: u64) -> &mut Self {
        self.0.push((field, Value::Number(value)));
        self
    }

    /// Adds a text.
    pub fn put_text(&mut self, field: u64, value: &str) -> &mut Self {
        self.0.push((field, Value::Bytes(value.into())));
        self
    }

    /// Adds a message.
    pub fn put_message(&mut self, field: u64, value: &Self) -> &mut Self {
        self.0.push((field, Value::Bytes(value.bytes())));
        self
    }

    /// The last number of a field; 0 without one.
    pub fn number(&self, field: u64) -> u64 {
        let found = self.0.iter().rev().find_map(|(f, v)| match v {
            Value::Number(n) if *f == field => Some(*n),
            _ => None,
        });
        found.unwrap_or(0)
    }

    /// All values of a field that are not numbers.
    fn all(&self, field: u64) -> impl Iterator<Item = &[u8]> {
        self.0.iter().filter_map(move |(f, v)| match v {
            Value::Bytes(bytes) if *f == field => Some(bytes.as_slice()),
            _ => None,
        })
    }

    /// The texts of a repeated field.
    pub fn texts(&self, field: u64) -> Vec<String> {
        self.all(field)
            .map(|b| String::from_utf8_lossy(b).into_owned())
            .collect()
    }

    /// The last text of a field; empty without one.
    pub fn text(&self, field: u64) -> String {
        self.texts(field).pop().unwrap_or_default()
    }

    /// The messages of a repeated field.
    pub fn messages(&self, field: u64) -> Vec<Self> {
        self.all(field).filter_map(|b| Self::parse(b).ok()).collect()
    }

    /// The last message of a field; empty without one.
    pub fn message(&self, field: u64) -> Self {
        self.messages(field).pop().unwrap_or_default()
    }
}

fn varint(bytes: &mut &[u8]) -> Result<u64> {
    let mut out = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first().context("a number is cut short")?;
        *bytes = rest;
        out |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Ok(out);
        }
    }
    anyhow::bail!("a number is too long")
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
