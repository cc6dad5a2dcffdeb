//! `husk pull`: with a bar for each layer on a terminal.

use std::collections::HashMap;
use std::io::{IsTerminal, Read};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::api::proto as h;

use super::Socket;
use super::client::{Client, plain};
use super::table::short;

/// Flags of `husk pull`.
#[derive(Args)]
pub struct Pull {
    #[command(flatten)]
    socket: Socket,
    /// User name for the registry
    #[arg(short, long, default_value = "")]
    username: String,
    /// Read the password from standard input
    #[arg(long)]
    password_stdin: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print the image id alone
    #[arg(short, long)]
    quiet: bool,
    /// Image, such as debian:12 or registry.example.com/team/app@sha256:…
    image: String,
}

impl Pull {
    pub(super) async fn run(self) -> Result<ExitCode> {
        let mut password = String::new();
        if self.password_stdin {
            std::io::stdin()
                .take(64 << 10)
                .read_to_string(&mut password)
                .context("read password")?;
        }
        let mut client = Client::connect(&self.socket.socket).await?;
        let request = h::PullRequest {
            reference: self.image.clone(),
            username: self.username,
            password: password.trim_end().to_owned(),
        };
        let mut stream = client.husk.pull(request).await.map_err(plain)?.into_inner();
        let mut bars = Bars::new(!self.quiet && !self.json && std::io::stderr().is_terminal());
        let mut id = String::new();
        while let Some(progress) = stream.message().await.map_err(plain)? {
            bars.show(&progress.layers)?;
            if !progress.image_id.is_empty() {
                id = progress.image_id;
            }
        }
        bars.finish();
        if id.is_empty() {
            bail!("pull {}: the daemon ended the pull without a result", self.image);
        }
        if self.json {
            println!("{}", serde_json::json!({ "image": self.image, "id": id }));
        } else {
            println!("{id}");
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// A bar for each layer, or nothing.
struct Bars {
    all: Option<MultiProgress>,
    by_digest: HashMap<String, ProgressBar>,
}

impl Bars {
    fn new(shown: bool) -> Self {
        Self {
            all: shown.then(MultiProgress::new),
            by_digest: HashMap::new(),
        }
    }

    fn show(&mut self, layers: &[h::LayerProgress]) -> Result<()> {
        let Some(all) = &self.all else { return Ok(()) };
        for layer in layers {
            if !self.by_digest.contains_key(&layer.digest) {
                let style =
                    ProgressStyle::with_template("{prefix} {msg:12} [{bar:30}] {bytes}/{total_bytes}")
                        .context("progress style")?
                        .progress_chars("=> ");
                let bar = all.add(ProgressBar::new(layer.total).with_style(style));
                bar.set_prefix(short(&layer.digest));
                self.by_digest.insert(layer.digest.clone(), bar);
            }
            if let Some(bar) = self.by_digest.get(&layer.digest) {
                bar.set_length(layer.total.max(layer.done));
                bar.set_position(layer.done);
                bar.set_message(layer.state.clone());
            }
        }
        Ok(())
    }

    fn finish(&self) {
        self.by_digest.values().for_each(ProgressBar::abandon);
    }
}
