//! `husk images`, `husk rmi`.

use std::process::ExitCode;

use anyhow::{Result, anyhow};
use clap::Args;
use serde_json::json;

use crate::cri::proto as p;

use super::Socket;
use super::client::{Client, plain};
use super::table::{self, bytes, short};

/// Flags of `husk images`.
#[derive(Args)]
pub struct Images {
    #[command(flatten)]
    socket: Socket,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print ids alone
    #[arg(short, long)]
    quiet: bool,
}

impl Images {
    pub(super) async fn run(self) -> Result<ExitCode> {
        let mut client = Client::connect(&self.socket.socket).await?;
        let list = client
            .images
            .list_images(p::ListImagesRequest::default())
            .await
            .map_err(plain)?;
        let images = list.into_inner().images;
        if self.quiet {
            images.iter().for_each(|i| println!("{}", i.id));
        } else if self.json {
            let all: Vec<_> = images.iter().map(describe).collect();
            println!("{}", serde_json::to_string_pretty(&all)?);
        } else {
            let rows: Vec<_> = images.iter().flat_map(rows).collect();
            table::print(["REPOSITORY", "TAG", "IMAGE ID", "SIZE"], &rows);
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn describe(i: &p::Image) -> serde_json::Value {
    json!({
        "id": i.id,
        "repoTags": i.repo_tags,
        "repoDigests": i.repo_digests,
        "size": i.size,
        "pinned": i.pinned,
    })
}

fn rows(image: &p::Image) -> Vec<[String; 4]> {
    let row = |name: &str, tag: &str| [name.into(), tag.into(), short(&image.id), bytes(image.size)];
    if image.repo_tags.is_empty() {
        let name = image
            .repo_digests
            .first()
            .and_then(|d| d.split_once('@'))
            .map_or("<none>", |(n, _)| n);
        return vec![row(name, "<none>")];
    }
    let split = |t: &String| {
        t.rsplit_once(':')
            .map_or_else(|| row(t, ""), |(name, tag)| row(name, tag))
    };
    image.repo_tags.iter().map(split).collect()
}

/// Flags of `husk rmi`.
#[derive(Args)]
pub struct Rmi {
    #[command(flatten)]
    socket: Socket,
    /// Images by name or id; all names of an image go with it
    #[arg(required = true)]
    images: Vec<String>,
}

impl Rmi {
    pub(super) async fn run(self) -> Result<ExitCode> {
        let mut client = Client::connect(&self.socket.socket).await?;
        for name in &self.images {
            let spec = p::ImageSpec {
                image: name.clone(),
                ..Default::default()
            };
            let status = p::ImageStatusRequest {
                image: Some(spec.clone()),
                verbose: false,
            };
            let found = client
                .images
                .image_status(status)
                .await
                .map_err(plain)?
                .into_inner()
                .image;
            let image = found.ok_or_else(|| anyhow!("no image {name:?}"))?;
            client
                .images
                .remove_image(p::RemoveImageRequest { image: Some(spec) })
                .await
                .map_err(plain)?;
            println!("Deleted: {}", image.id);
        }
        Ok(ExitCode::SUCCESS)
    }
}
