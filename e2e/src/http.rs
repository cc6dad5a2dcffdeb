//! Just enough HTTP/1.1, blocking, for pushing to a registry and for playing one.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// The head of a message and its body.
#[derive(Debug, Clone, Default)]
pub struct Message {
    /// `GET /v2/ HTTP/1.1` or `HTTP/1.1 200 OK`, in words.
    pub start: Vec<String>,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, if its length was announced.
    pub body: Vec<u8>,
}

impl Message {
    /// The first header of that name (in lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.as_str())
    }

    /// Reads one message; `None` at the end of the connection. Replies to HEAD have a length but no body.
    pub fn read(stream: &mut BufReader<TcpStream>, with_body: bool) -> Result<Option<Self>> {
        let mut message = Self::default();
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line)? == 0 {
                return Ok(None);
            }
            let line = line.trim_end();
            if message.start.is_empty() {
                message.start = line.split(' ').map(str::to_owned).collect();
            } else if let Some((name, value)) = line.split_once(':') {
                message
                    .headers
                    .push((name.to_ascii_lowercase(), value.trim().to_owned()));
            } else {
                break;
            }
        }
        let length = message.header("content-length").map_or(Ok(0), str::parse)?;
        if with_body {
            message.body.resize(length, 0);
            stream.read_exact(&mut message.body)?;
        }
        Ok(Some(message))
    }
}

/// Sends one request on a connection of its own.
pub fn request(
    to: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<(u16, Message)> {
    let mut stream = TcpStream::connect(to).with_context(|| format!("connect to {to}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += &format!("Content-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    let reply = Message::read(&mut BufReader::new(stream), method != "HEAD")?
        .with_context(|| format!("{method} {path}: {to} closed the connection"))?;
    let Some(code) = reply.start.get(1).and_then(|c| c.parse().ok()) else {
        bail!("{method} {path}: odd status line {:?}", reply.start);
    };
    Ok((code, reply))
}
