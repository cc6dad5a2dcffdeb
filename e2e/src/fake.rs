//! A registry that does as it is told: asks for credentials, lies, cuts transfers short, stalls.

use std::collections::HashMap;
use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use anyhow::Result;

use crate::http::Message;
use crate::image::{Blob, Built};

/// What a client asked for.
#[derive(Debug, Clone)]
pub struct Asked {
    /// `GET`, `HEAD`, ...
    pub method: String,
    /// Path and query.
    pub path: String,
    /// The whole head.
    pub message: Message,
}

impl Asked {
    /// Whether this asks for the content of a blob.
    pub fn is_blob(&self) -> bool {
        self.method == "GET" && self.path.contains("/blobs/")
    }
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    cut: Option<usize>,
    gate: Option<Gate>,
}

impl Answer {
    /// An answer without a body.
    pub fn status(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Vec::new(),
            cut: None,
            gate: None,
        }
    }

    /// Status 200 with a body.
    pub fn ok(media_type: &str, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        Self {
            body,
            ..Self::status(200)
        }
        .with("Content-Type", media_type)
    }

    /// Adds a header.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Announces the whole body, sends so many bytes and closes the connection.
    #[must_use]
    pub fn cut_after(mut self, bytes: usize) -> Self {
        self.cut = Some(bytes);
        self
    }

    /// Sends the head, then the body only after `gate` was opened.
    #[must_use]
    pub fn behind(mut self, gate: &Gate) -> Self {
        self.gate = Some(gate.clone());
        self
    }
}

/// Holds answers back until it is opened.
#[derive(Debug, Clone, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    /// Lets everything through from now on.
    pub fn open(&self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.1.notify_all();
    }

    fn wait(&self) {
        let closed = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.0.1.wait_while(closed, |open| !*open));
    }
}

type Hook = dyn Fn(&Asked, usize) -> Option<Answer> + Send + Sync;

struct Shared {
    content: Mutex<HashMap<String, (String, Vec<u8>)>>,
    asked: Mutex<Vec<Asked>>,
    gates: Mutex<Vec<Gate>>,
    hook: Box<Hook>,
    ended: AtomicBool,
}

/// The registry; it ends with this value.
pub struct FakeRegistry {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl FakeRegistry {
    /// Starts an honest one.
    pub fn start() -> Result<Self> {
        Self::start_with(|_, _| None)
    }

    /// Starts one whose `hook` may answer in place of the honest content. The hook is told how many times the same
    /// path was asked for before.
    pub fn start_with(
        hook: impl Fn(&Asked, usize) -> Option<Answer> + Send + Sync + 'static,
    ) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            content: Mutex::default(),
            asked: Mutex::default(),
            gates: Mutex::default(),
            hook: Box::new(hook),
            ended: AtomicBool::new(false),
        });
        let for_thread = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if for_thread.ended.load(Ordering::SeqCst) {
                    break;
                }
                let shared = Arc::clone(&for_thread);
                std::thread::spawn(move || drop(serve(&shared, stream)));
            }
        });
        Ok(Self { address, shared })
    }

    /// `127.0.0.1:port`.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Offers an image and returns its reference.
    pub fn add(&self, repository: &str, tag: &str, image: &Built) -> String {
        for blob in image.layers.iter().chain([&image.config]) {
            self.add_blob(repository, &blob.digest, &blob.data);
        }
        self.add_manifest(repository, tag, &image.manifest, &image.media_type);
        format!("{}/{repository}:{tag}", self.address)
    }

    /// Offers these bytes under that digest, whether or not it is theirs.
    pub fn add_blob(&self, repository: &str, digest: &str, data: &[u8]) {
        self.put(
            format!("/v2/{repository}/blobs/{digest}"),
            "application/octet-stream",
            data,
        );
    }

    /// Offers a manifest under a tag and under its digest.
    pub fn add_manifest(&self, repository: &str, tag: &str, manifest: &Blob, media_type: &str) {
        for reference in [tag, manifest.digest.as_str()] {
            self.put(
                format!("/v2/{repository}/manifests/{reference}"),
                media_type,
                &manifest.data,
            );
        }
    }

    /// Everything asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared
            .asked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn put(&self, path: String, media_type: &str, data: &[u8]) {
        let mut content = self.shared.content.lock().unwrap_or_else(PoisonError::into_inner);
        content.insert(path, (media_type.into(), data.into()));
    }
}

impl Drop for FakeRegistry {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        for gate in self
            .shared
            .gates
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .drain(..)
        {
            gate.open();
        }
        // Wakes the listener, which then sees that it is over.
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(shared: &Shared, stream: TcpStream) -> Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    while let Some(message) = Message::read(&mut reader, true)? {
        let [method, path, ..] = message.start.as_slice() else {
            break;
        };
        let asked = Asked {
            method: method.clone(),
            path: path.clone(),
            message: message.clone(),
        };
        let before = {
            let mut all = shared.asked.lock().unwrap_or_else(PoisonError::into_inner);
            let before = all
                .iter()
                .filter(|a| a.path == asked.path && a.method == asked.method)
                .count();
            all.push(asked.clone());
            before
        };
        let answer = (shared.hook)(&asked, before).unwrap_or_else(|| honest(shared, &asked));
        if !send(shared, &mut writer, &asked, &answer)? {
            break;
        }
    }
    Ok(())
}

fn honest(shared: &Shared, asked: &Asked) -> Answer {
    let path = asked.path.split('?').next().unwrap_or_default();
    if path == "/v2/" {
        return Answer::ok("application/json", "{}");
    }
    let content = shared.content.lock().unwrap_or_else(PoisonError::into_inner);
    let Some((media_type, data)) = content.get(path) else {
        let error = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
        return Answer {
            status: 404,
            ..Answer::ok("application/json", error)
        };
    };
    let digest = crate::image::digest_of(data);
    let from = asked
        .message
        .header("range")
        .and_then(|r| r.strip_prefix("bytes=")?.split('-').next()?.parse::<usize>().ok())
        .filter(|from| *from < data.len());
    match from {
        Some(from) => Answer {
            status: 206,
            ..Answer::ok(media_type, &data[from..])
        }
        .with(
            "Content-Range",
            &format!("bytes {from}-{}/{}", data.len() - 1, data.len()),
        ),
        None => Answer::ok(media_type, data.clone()),
    }
    .with("Docker-Content-Digest", &digest)
    .with("Accept-Ranges", "bytes")
}

/// Returns whether the connection can be used again.
fn send(shared: &Shared, writer: &mut TcpStream, asked: &Asked, answer: &Answer) -> Result<bool> {
    let mut head = format!(
        "HTTP/1.1 {} x\r\nContent-Length: {}\r\n",
        answer.status,
        answer.body.len()
    );
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += "\r\n";
    writer.write_all(head.as_bytes())?;
    if asked.method == "HEAD" {
        return Ok(true);
    }
    if let Some(gate) = &answer.gate {
        shared
            .gates
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(gate.clone());
        gate.wait();
    }
    let sent = answer.cut.unwrap_or(answer.body.len()).min(answer.body.len());
    writer.write_all(&answer.body[..sent])?;
    Ok(sent == answer.body.len())
}
