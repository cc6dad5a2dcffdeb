//! The connection to the daemon.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::api::proto::husk_client::HuskClient;
use crate::cri::MAX_MESSAGE_BYTES;
use crate::cri::proto as p;
use crate::cri::proto::image_service_client::ImageServiceClient;
use crate::cri::proto::runtime_service_client::RuntimeServiceClient;

/// Clients of all services on one connection.
pub struct Client {
    pub runtime: RuntimeServiceClient<Channel>,
    pub images: ImageServiceClient<Channel>,
    pub husk: HuskClient<Channel>,
}

/// Runs a verb on a small runtime.
pub fn block_on(verb: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the async runtime")?
        .block_on(verb)
}

impl Client {
    /// Connects to the daemon at `socket`.
    pub async fn connect(socket: &Path) -> Result<Self> {
        let path = socket.to_owned();
        // The host of this address is what the server sees as :authority; a socket path there would be refused.
        let channel = Endpoint::from_static("http://localhost")
            .connect_with_connector(Connector(path))
            .await
            .with_context(|| {
                format!(
                    "connect to husk at {}: is `husk serve` running?",
                    socket.display()
                )
            })?;
        Ok(Self {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES),
            images: ImageServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES),
            husk: HuskClient::new(channel),
        })
    }

    /// All containers.
    pub async fn containers(&mut self) -> Result<Vec<p::Container>> {
        let list = self
            .runtime
            .list_containers(p::ListContainersRequest::default())
            .await
            .map_err(plain)?;
        Ok(list.into_inner().decode()?)
    }

    /// All pods.
    pub async fn pods(&mut self) -> Result<Vec<p::PodSandbox>> {
        let list = self
            .runtime
            .list_pod_sandbox(p::ListPodSandboxRequest::default())
            .await
            .map_err(plain)?;
        Ok(list.into_inner().decode()?)
    }

    /// The container that `name` means: an id, a unique prefix of one, or a unique container name.
    pub async fn container(&mut self, name: &str) -> Result<p::Container> {
        let all = self.containers().await?;
        let by_name = |c: &p::Container| c.metadata.as_ref().is_some_and(|m| m.name == name);
        pick("container", name, all, |c| &c.id, by_name)?.ok_or_else(|| anyhow!("no container {name:?}"))
    }

    /// The pod that `name` means: an id, a unique prefix of one, or a unique pod name; `None` if there is none.
    pub async fn pod(&mut self, name: &str) -> Result<Option<p::PodSandbox>> {
        let all = self.pods().await?;
        let by_name = |s: &p::PodSandbox| s.metadata.as_ref().is_some_and(|m| m.name == name);
        pick("pod", name, all, |s| &s.id, by_name)
    }
}

fn pick<T>(
    kind: &str,
    name: &str,
    all: Vec<T>,
    id: impl Fn(&T) -> &str,
    by_name: impl Fn(&T) -> bool,
) -> Result<Option<T>> {
    let mut hits: Vec<T> = all
        .into_iter()
        .filter(|t| (!name.is_empty() && id(t).starts_with(name)) || by_name(t))
        .collect();
    if hits.len() > 1 {
        bail!(
            "{kind} {name:?} is ambiguous: {} match; give more of the id",
            hits.len()
        );
    }
    Ok(hits.pop())
}

/// The daemon's message without gRPC's trappings.
pub fn plain(status: tonic::Status) -> anyhow::Error {
    match status.code() {
        tonic::Code::Unavailable => anyhow!("husk cannot be reached: {}", status.message()),
        _ => anyhow!("{}", status.message()),
    }
}

/// Connects to a unix socket whatever the address.
#[derive(Clone)]
struct Connector(std::path::PathBuf);

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<UnixStream>;
    type Error = std::io::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = std::io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let path = self.0.clone();
        Box::pin(async move { UnixStream::connect(path).await.map(TokioIo::new) })
    }
}
