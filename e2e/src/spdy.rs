//! A client of the streaming server that speaks SPDY/3.1, written from the specification and without husk's code. It keeps
//! flow control windows, which Kubernetes' own clients do not, and can be made to misbehave.

use std::collections::HashMap;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::websocket::{Session, address};

/// What bytes go over.
trait Wire: AsyncRead + AsyncWrite + std::fmt::Debug + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + std::fmt::Debug + Send + Unpin> Wire for T {}

/// An open connection.
#[derive(Debug)]
pub struct Spdy {
    wire: Box<dyn Wire>,
    next: u32,
    /// Headers were sent: the compressed stream has begun.
    begun: bool,
    /// The version agreed on.
    pub protocol: Option<String>,
}

/// What the server sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Data.
    Data {
        /// Stream.
        stream: u32,
        /// The last of it.
        fin: bool,
        /// Content.
        data: Vec<u8>,
    },
    /// A stream is accepted.
    Reply(u32),
    /// A stream is reset.
    Reset {
        /// Stream.
        stream: u32,
        /// Why.
        status: u32,
    },
    /// A ping came back.
    Ping(u32),
    /// More may be sent on a stream.
    Window {
        /// Stream.
        stream: u32,
        /// How much.
        delta: u32,
    },
}

impl Spdy {
    /// Upgrades a request for `url`; the server has to agree to one of `protocols`.
    pub async fn open(url: &str, protocols: &[&str]) -> Result<Self> {
        let target = address(url)?;
        let path = url.splitn(4, '/').nth(3).context("no path")?;
        let mut tcp = TcpStream::connect(target).await?;
        let mut head = format!(
            "POST /{path} HTTP/1.1\r\nHost: {target}\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nContent-Length: 0\r\n"
        );
        for protocol in protocols {
            head += &format!("X-Stream-Protocol-Version: {protocol}\r\n");
        }
        head += "\r\n";
        tcp.write_all(head.as_bytes()).await?;
        let mut text = Vec::new();
        while !text.ends_with(b"\r\n\r\n") {
            text.push(tcp.read_u8().await?);
        }
        let text = String::from_utf8(text)?.to_ascii_lowercase();
        ensure!(text.starts_with("http/1.1 101 "), "{text}");
        ensure!(text.contains("upgrade: spdy/3.1"), "{text}");
        let protocol = text
            .lines()
            .find_map(|line| line.strip_prefix("x-stream-protocol-version: "))
            .map(str::to_owned);
        Ok(Self {
            wire: Box::new(tcp),
            next: 1,
            begun: false,
            protocol,
        })
    }

    /// Speaks within the messages of a WebSocket.
    pub fn through(session: Session) -> Self {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        tokio::spawn(session.carry(theirs));
        Self {
            wire: Box::new(ours),
            next: 1,
            begun: false,
            protocol: None,
        }
    }

    /// Opens a stream and tells its number.
    pub async fn stream(&mut self, headers: &[(&str, &str)]) -> Result<u32> {
        let id = self.next;
        self.next += 2;
        let mut block = u32::try_from(headers.len())?.to_be_bytes().to_vec();
        for text in headers.iter().flat_map(|(n, v)| [n, v]) {
            block.extend(u32::try_from(text.len())?.to_be_bytes());
            block.extend(text.as_bytes());
        }
        let mut body = [id.to_be_bytes(), [0; 4]].concat();
        body.extend([0, 0]);
        if !self.begun {
            self.begun = true;
            body.extend([0x78, 0x01]);
        }
        // A block that is stored as it is (RFC 1951, section 3.2.4); the stream never ends.
        let length = u16::try_from(block.len())?;
        body.push(0);
        body.extend(length.to_le_bytes());
        body.extend((!length).to_le_bytes());
        body.extend(block);
        self.control(1, &body).await?;
        Ok(id)
    }

    /// Opens a stream of a session, such as `stdin`.
    pub async fn channel(&mut self, kind: &str) -> Result<u32> {
        self.stream(&[("streamtype", kind)]).await
    }

    /// Sends a control frame.
    pub async fn control(&mut self, kind: u8, body: &[u8]) -> Result<()> {
        let length = u32::try_from(body.len())?.to_be_bytes();
        let head = [0x80, 3, 0, kind, 0, length[1], length[2], length[3]];
        self.raw(&[&head, body].concat()).await
    }

    /// Sends data.
    pub async fn send(&mut self, stream: u32, fin: bool, data: &[u8]) -> Result<()> {
        let length = u32::try_from(data.len())?.to_be_bytes();
        let mut frame = stream.to_be_bytes().to_vec();
        frame.extend([u8::from(fin), length[1], length[2], length[3]]);
        frame.extend(data);
        self.raw(&frame).await
    }

    /// Announces the window of all streams, from which on the server has to keep it.
    pub async fn set_window(&mut self, bytes: u32) -> Result<()> {
        let body = [1u32.to_be_bytes(), 7u32.to_be_bytes(), bytes.to_be_bytes()].concat();
        self.control(4, &body).await
    }

    /// Lets the server send more; stream 0 is the connection.
    pub async fn widen(&mut self, stream: u32, bytes: u32) -> Result<()> {
        self.control(9, &[stream.to_be_bytes(), bytes.to_be_bytes()].concat())
            .await
    }

    /// Sends bytes as they are.
    pub async fn raw(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.wire.write_all(bytes).await?)
    }

    /// The next frame; `None` when the server has closed.
    pub async fn frame(&mut self) -> Result<Option<Frame>> {
        tokio::time::timeout(crate::PATIENCE, self.read()).await?
    }

    async fn read(&mut self) -> Result<Option<Frame>> {
        let mut head = [0; 8];
        if self.wire.read_exact(&mut head).await.is_err() {
            return Ok(None);
        }
        let word = |bytes: &[u8]| bytes.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte));
        let mut body = vec![0; word(&head[5..]) as usize];
        self.wire.read_exact(&mut body).await?;
        if head[0] & 0x80 == 0 {
            return Ok(Some(Frame::Data {
                stream: word(&head[..4]),
                fin: head[4] & 1 != 0,
                data: body,
            }));
        }
        ensure!(head[..2] == [0x80, 3], "{head:?}");
        Ok(Some(match head[3] {
            2 => Frame::Reply(word(&body[..4])),
            3 => Frame::Reset {
                stream: word(&body[..4]),
                status: word(&body[4..8]),
            },
            6 => Frame::Ping(word(&body)),
            9 => Frame::Window {
                stream: word(&body[..4]),
                delta: word(&body[4..8]),
            },
            other => bail!("a frame of kind {other}"),
        }))
    }

    /// Reads until each of `streams` has ended, and gives back what came on them.
    pub async fn collect(&mut self, streams: &[u32]) -> Result<HashMap<u32, Vec<u8>>> {
        let mut all: HashMap<u32, Vec<u8>> = HashMap::new();
        let mut open = streams.to_vec();
        while !open.is_empty() {
            match self.frame().await?.context("the server closed before the end")? {
                Frame::Data { stream, fin, data } => {
                    all.entry(stream).or_default().extend(data);
                    open.retain(|id| !(fin && *id == stream));
                }
                Frame::Reset { stream, .. } => open.retain(|id| *id != stream),
                _ => {}
            }
        }
        Ok(all)
    }
}
