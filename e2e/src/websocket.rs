//! A client of the streaming server that speaks WebSocket with another implementation's frames and none of husk's code.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

/// Channel of standard input.
pub const STDIN: u8 = 0;
/// Channel of standard output.
pub const STDOUT: u8 = 1;
/// Channel of standard error.
pub const STDERR: u8 = 2;
/// Channel of the outcome.
pub const ERROR: u8 = 3;
/// Channel of terminal sizes.
pub const RESIZE: u8 = 4;

/// An open session.
#[derive(Debug)]
pub struct Session {
    socket: WebSocketStream<TcpStream>,
    /// What came on a channel while another was waited for.
    kept: BTreeMap<u8, String>,
}

/// All that a session said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// The error channel.
    pub error: String,
}

impl Outcome {
    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// The exit code in the status of version 4; 0 for success.
    pub fn exit_code(&self) -> Result<i32> {
        let status: serde_json::Value =
            serde_json::from_str(&self.error).with_context(|| format!("{self:?}"))?;
        if status["status"] == "Success" {
            return Ok(0);
        }
        ensure!(status["reason"] == "NonZeroExitCode", "{status}");
        let causes = status["details"]["causes"].as_array().context("no causes")?;
        let cause = causes.iter().find(|c| c["reason"] == "ExitCode");
        let code = cause
            .and_then(|c| c["message"].as_str())
            .context("no exit code")?;
        Ok(code.parse()?)
    }

    /// The message of a session that failed otherwise.
    pub fn failure(&self) -> Result<String> {
        let status: serde_json::Value =
            serde_json::from_str(&self.error).with_context(|| format!("{self:?}"))?;
        ensure!(
            status["status"] == "Failure" && status["reason"] == "InternalError",
            "{status}"
        );
        Ok(status["message"].as_str().context("no message")?.to_owned())
    }
}

/// The host and port of `url`.
pub fn address(url: &str) -> Result<SocketAddr> {
    let rest = url.strip_prefix("http://").with_context(|| url.to_owned())?;
    let (host, _) = rest.split_once('/').with_context(|| url.to_owned())?;
    Ok(host.parse()?)
}

impl Session {
    /// Opens `url` with one of `protocols` (a list with commas), and tells which it became.
    pub async fn open_any(url: &str, protocols: &str) -> Result<(Self, String)> {
        let mut request = url.replacen("http://", "ws://", 1).into_client_request()?;
        if !protocols.is_empty() {
            request
                .headers_mut()
                .insert("sec-websocket-protocol", protocols.parse()?);
        }
        let tcp = TcpStream::connect(address(url)?).await?;
        let (socket, answer) = tokio_tungstenite::client_async(request, tcp).await?;
        let agreed = answer.headers().get("sec-websocket-protocol");
        let agreed = agreed.map_or(Ok(""), |p| p.to_str())?.to_owned();
        let kept = Default::default();
        Ok((Self { socket, kept }, agreed))
    }

    /// Opens `url` with `protocol`.
    pub async fn open(url: &str, protocol: &str) -> Result<Self> {
        Ok(Self::open_any(url, protocol).await?.0)
    }

    /// Takes both directions apart.
    pub fn split(self) -> (Sender, Receiver) {
        let (sender, receiver) = self.socket.split();
        (Sender(sender), Receiver(receiver))
    }

    /// Carries a stream of bytes in the messages of the session, in pieces that mean nothing, until either ends.
    pub async fn carry(self, bytes: DuplexStream) {
        let (mut sink, mut source) = self.socket.split();
        let (mut read, mut write) = tokio::io::split(bytes);
        let out = async {
            let mut buffer = vec![0; 1000];
            while let Ok(length @ 1..) = read.read(&mut buffer).await {
                let message = Message::binary(buffer[..length].to_vec());
                if sink.send(message).await.is_err() {
                    break;
                }
            }
        };
        let back = async {
            while let Some(Ok(message)) = source.next().await {
                if message.is_binary() && write.write_all(&message.into_data()).await.is_err() {
                    break;
                }
            }
        };
        tokio::select! {
            () = out => {}
            () = back => {}
        }
    }

    /// Sends a whole message.
    pub async fn message(&mut self, message: Message) -> Result<()> {
        Ok(self.socket.send(message).await?)
    }

    /// Sends data on a channel.
    pub async fn send(&mut self, channel: u8, data: &[u8]) -> Result<()> {
        self.message(Message::binary([&[channel], data].concat())).await
    }

    /// Closes a channel, as version 5 does.
    pub async fn close(&mut self, channel: u8) -> Result<()> {
        self.message(Message::binary(vec![255, channel])).await
    }

    /// The next data and its channel; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<(u8, Vec<u8>)>> {
        loop {
            match self.socket.next().await.transpose()? {
                None | Some(Message::Close(_)) => return Ok(None),
                Some(Message::Binary(data)) => {
                    let (channel, data) = data.split_first().context("a message without a channel")?;
                    return Ok(Some((*channel, data.to_vec())));
                }
                Some(Message::Text(text)) => {
                    let (channel, data) = text.as_bytes().split_first().context("no channel")?;
                    return Ok(Some((*channel, data.to_vec())));
                }
                Some(_) => {}
            }
        }
    }

    /// Reads until `text` has come on a channel, and gives all that came on it. What comes on others is kept for its turn.
    /// Cancel safe.
    pub async fn wait_for(&mut self, channel: u8, text: &str) -> Result<String> {
        loop {
            if let Some(kept) = self.kept.get_mut(&channel)
                && kept.contains(text)
            {
                return Ok(std::mem::take(kept));
            }
            match tokio::time::timeout(crate::PATIENCE, self.next()).await {
                Ok(Ok(Some((c, data)))) => {
                    self.kept
                        .entry(c)
                        .or_default()
                        .push_str(&String::from_utf8_lossy(&data));
                }
                other => bail!("waiting for {text:?}, after {:?}: {other:?}", self.kept),
            }
        }
    }

    /// Reads all that comes, to the end.
    pub async fn finish(mut self) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        while let Some((channel, data)) = tokio::time::timeout(crate::PATIENCE, self.next()).await?? {
            match channel {
                STDOUT => outcome.stdout.extend(data),
                STDERR => outcome.stderr.extend(data),
                ERROR => outcome.error += &String::from_utf8(data)?,
                other => bail!("data on channel {other}"),
            }
        }
        // Our answer to the close goes out with the next read.
        let _ = tokio::time::timeout(crate::PATIENCE, self.socket.next()).await;
        Ok(outcome)
    }
}

/// Sends on a session.
#[derive(Debug)]
pub struct Sender(SplitSink<WebSocketStream<TcpStream>, Message>);

impl Sender {
    /// Sends data on a channel.
    pub async fn send(&mut self, channel: u8, data: &[u8]) -> Result<()> {
        Ok(self.0.send(Message::binary([&[channel], data].concat())).await?)
    }

    /// Closes a channel, as version 5 does.
    pub async fn close(&mut self, channel: u8) -> Result<()> {
        Ok(self.0.send(Message::binary(vec![255, channel])).await?)
    }
}

/// Receives on a session.
#[derive(Debug)]
pub struct Receiver(SplitStream<WebSocketStream<TcpStream>>);

impl Receiver {
    /// The next data and its channel; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<(u8, Vec<u8>)>> {
        loop {
            match self.0.next().await.transpose()? {
                None | Some(Message::Close(_)) => return Ok(None),
                Some(Message::Binary(data)) => {
                    let (channel, data) = data.split_first().context("a message without a channel")?;
                    return Ok(Some((*channel, data.to_vec())));
                }
                Some(_) => {}
            }
        }
    }
}
