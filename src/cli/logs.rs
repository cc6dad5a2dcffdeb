//! `husk logs`: a container's log, in the format kubelet reads, as the container wrote it.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;

use crate::cri::proto as p;

use super::Socket;
use super::client::{Client, plain};

/// How often a followed log is looked at.
const POLL: Duration = Duration::from_millis(200);

/// Flags of `husk logs`.
#[derive(Args)]
pub struct Logs {
    #[command(flatten)]
    socket: Socket,
    /// Wait for more until the container ends
    #[arg(short, long)]
    follow: bool,
    /// Print times
    #[arg(short, long)]
    timestamps: bool,
    /// Print only the last lines
    #[arg(short = 'n', long)]
    tail: Option<usize>,
    /// Container by id or name
    container: String,
}

impl Logs {
    pub(super) async fn run(self) -> Result<ExitCode> {
        let mut client = Client::connect(&self.socket.socket).await?;
        let id = client.container(&self.container).await?.id;
        let status = status(&mut client, &id).await?;
        let mut reader = Reader::open(Path::new(&status.log_path), self.timestamps)?;
        let mut lines = reader.read()?;
        if let Some(tail) = self.tail {
            lines.drain(..lines.len().saturating_sub(tail));
        }
        print(&lines)?;
        if self.follow {
            follow(&mut client, &id, &mut reader).await?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn follow(client: &mut Client, id: &str, reader: &mut Reader) -> Result<()> {
    loop {
        // Asked before reading: what was written before the end is then read after it.
        let running = status(client, id).await?.state() == p::ContainerState::ContainerRunning;
        print(&reader.read()?)?;
        if !running {
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn status(client: &mut Client, id: &str) -> Result<p::ContainerStatus> {
    let request = p::ContainerStatusRequest {
        container_id: id.to_owned(),
        verbose: false,
    };
    let answer = client.runtime.container_status(request).await.map_err(plain)?;
    Ok(answer.into_inner().status.unwrap_or_default())
}

/// What to print, and whether it goes to stderr.
struct Line {
    error: bool,
    text: Vec<u8>,
}

struct Reader {
    file: BufReader<File>,
    partial: Vec<u8>,
    timestamps: bool,
    line_start: bool,
}

impl Reader {
    fn open(path: &Path, timestamps: bool) -> Result<Self> {
        let file = File::open(path)
            .with_context(|| format!("open log {}: was the container made with a log?", path.display()))?;
        Ok(Self {
            file: BufReader::new(file),
            partial: Vec::new(),
            timestamps,
            line_start: true,
        })
    }

    /// All complete lines that are there.
    fn read(&mut self) -> Result<Vec<Line>> {
        let mut lines = Vec::new();
        while self
            .file
            .read_until(b'\n', &mut self.partial)
            .context("read log")?
            > 0
        {
            if self.partial.last() != Some(&b'\n') {
                break;
            }
            let raw = std::mem::take(&mut self.partial);
            lines.extend(self.parse(&raw));
        }
        Ok(lines)
    }

    /// `<time> <stream> <P|F> <text>`; what is in another format is left out.
    fn parse(&mut self, raw: &[u8]) -> Option<Line> {
        let mut parts = raw.splitn(4, |b| *b == b' ');
        let (time, stream, tag, content) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let mut text = Vec::with_capacity(raw.len());
        if self.timestamps && self.line_start {
            text.extend_from_slice(time);
            text.push(b' ');
        }
        let whole = tag == b"F";
        text.extend_from_slice(if whole {
            content
        } else {
            &content[..content.len() - 1]
        });
        self.line_start = whole;
        Some(Line {
            error: stream == b"stderr",
            text,
        })
    }
}

fn print(lines: &[Line]) -> Result<()> {
    let (mut out, mut err) = (std::io::stdout().lock(), std::io::stderr().lock());
    for line in lines {
        if line.error {
            err.write_all(&line.text)
        } else {
            out.write_all(&line.text)
        }
        .context("write output")?;
    }
    out.flush().context("write output")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn partial_lines_join_and_streams_part() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(
            &path,
            "t1 stdout P ab\nt2 stdout F c d\nt3 stderr F \nbroken\nt4 stdout F x",
        )
        .unwrap();
        let mut reader = Reader::open(&path, false).unwrap();
        let lines = reader.read().unwrap();
        let text: Vec<u8> = lines
            .iter()
            .filter(|l| !l.error)
            .flat_map(|l| l.text.clone())
            .collect();
        assert_eq!(text, b"abc d\n");
        assert_eq!(lines.iter().filter(|l| l.error).count(), 1);
    }
}
