//! The CRI client: k8s-cri's generated one over a unix socket, and the few calls that every test makes.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use hyper_util::rt::TokioIo;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::*;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};

use crate::own;

/// The largest message kubelet takes.
pub const KUBELET_MESSAGE_LIMIT: usize = 16 << 20;

/// A client of one CRI socket. It connects when first used, and again when the server was restarted.
#[derive(Debug, Clone)]
pub struct Cri {
    channel: Channel,
}

/// A pod that a test made: its id, and its configuration, which CreateContainer wants to see again.
#[derive(Debug, Clone)]
pub struct Pod {
    /// The sandbox's id.
    pub id: String,
    /// What it was made from.
    pub config: PodSandboxConfig,
}

impl Cri {
    /// A client of the socket at `path`.
    pub fn new(path: &Path) -> Self {
        let path = PathBuf::from(path);
        let channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(
            tower::service_fn(move |_: Uri| {
                let path = path.clone();
                async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
            }),
        );
        Self { channel }
    }

    /// The connection.
    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// The runtime service, with kubelet's message limit.
    pub fn runtime(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone()).max_decoding_message_size(KUBELET_MESSAGE_LIMIT)
    }

    /// The image service, with kubelet's message limit.
    pub fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel.clone()).max_decoding_message_size(KUBELET_MESSAGE_LIMIT)
    }

    /// The runtime service as of husk's own copy of CRI, for the calls that the independent client lacks.
    pub fn own_runtime(&self) -> own::runtime_service_client::RuntimeServiceClient<Channel> {
        own::runtime_service_client::RuntimeServiceClient::new(self.channel.clone())
            .max_decoding_message_size(KUBELET_MESSAGE_LIMIT)
    }

    /// The image service as of husk's own copy of CRI, for the calls that the independent client lacks.
    pub fn own_images(&self) -> own::image_service_client::ImageServiceClient<Channel> {
        own::image_service_client::ImageServiceClient::new(self.channel.clone())
            .max_decoding_message_size(KUBELET_MESSAGE_LIMIT)
    }

    /// PullImage without credentials; returns the image id.
    pub async fn pull(&self, image: &str) -> Result<String, Status> {
        self.pull_with(image, None).await
    }

    /// PullImage; returns the image id.
    pub async fn pull_with(&self, image: &str, auth: Option<AuthConfig>) -> Result<String, Status> {
        let request = PullImageRequest {
            image: Some(spec(image)),
            auth,
            ..Default::default()
        };
        Ok(self.images().pull_image(request).await?.into_inner().image_ref)
    }

    /// ImageStatus; `None` for an image that is not there.
    pub async fn image(&self, image: &str) -> Result<Option<Image>, Status> {
        let request = ImageStatusRequest {
            image: Some(spec(image)),
            verbose: false,
        };
        Ok(self.images().image_status(request).await?.into_inner().image)
    }

    /// ListImages without a filter.
    pub async fn list_images(&self) -> Result<Vec<Image>, Status> {
        Ok(self
            .images()
            .list_images(ListImagesRequest::default())
            .await?
            .into_inner()
            .images)
    }

    /// RemoveImage.
    pub async fn remove_image(&self, image: &str) -> Result<(), Status> {
        let request = RemoveImageRequest {
            image: Some(spec(image)),
        };
        self.images().remove_image(request).await.map(drop)
    }

    /// RunPodSandbox with the default handler; returns the id.
    pub async fn run_pod(&self, config: &PodSandboxConfig) -> Result<String, Status> {
        let request = RunPodSandboxRequest {
            config: Some(config.clone()),
            ..Default::default()
        };
        Ok(self
            .runtime()
            .run_pod_sandbox(request)
            .await?
            .into_inner()
            .pod_sandbox_id)
    }

    /// RunPodSandbox with a handler; returns the pod with its configuration.
    pub async fn pod_by(&self, handler: &str, config: PodSandboxConfig) -> Result<Pod, Status> {
        let request = RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: handler.into(),
        };
        let reply = self.runtime().run_pod_sandbox(request).await?.into_inner();
        Ok(Pod {
            id: reply.pod_sandbox_id,
            config,
        })
    }

    /// RunPodSandbox; returns the pod with its configuration.
    pub async fn pod(&self, config: PodSandboxConfig) -> Result<Pod, Status> {
        Ok(Pod {
            id: self.run_pod(&config).await?,
            config,
        })
    }

    /// StopPodSandbox.
    pub async fn stop_pod(&self, id: &str) -> Result<(), Status> {
        let request = StopPodSandboxRequest {
            pod_sandbox_id: id.into(),
        };
        self.runtime().stop_pod_sandbox(request).await.map(drop)
    }

    /// RemovePodSandbox.
    pub async fn remove_pod(&self, id: &str) -> Result<(), Status> {
        let request = RemovePodSandboxRequest {
            pod_sandbox_id: id.into(),
        };
        self.runtime().remove_pod_sandbox(request).await.map(drop)
    }

    /// PodSandboxStatus.
    pub async fn pod_status(&self, id: &str) -> Result<PodSandboxStatus> {
        let request = PodSandboxStatusRequest {
            pod_sandbox_id: id.into(),
            verbose: false,
        };
        let reply = self.runtime().pod_sandbox_status(request).await?.into_inner();
        reply.status.context("PodSandboxStatus without a status")
    }

    /// ListPodSandbox.
    pub async fn list_pods(&self, filter: Option<PodSandboxFilter>) -> Result<Vec<PodSandbox>, Status> {
        let request = ListPodSandboxRequest { filter };
        Ok(self.runtime().list_pod_sandbox(request).await?.into_inner().items)
    }

    /// CreateContainer; returns the id.
    pub async fn create(&self, pod: &Pod, config: ContainerConfig) -> Result<String, Status> {
        let request = CreateContainerRequest {
            pod_sandbox_id: pod.id.clone(),
            config: Some(config),
            sandbox_config: Some(pod.config.clone()),
        };
        Ok(self
            .runtime()
            .create_container(request)
            .await?
            .into_inner()
            .container_id)
    }

    /// StartContainer.
    pub async fn start(&self, id: &str) -> Result<(), Status> {
        let request = StartContainerRequest {
            container_id: id.into(),
        };
        self.runtime().start_container(request).await.map(drop)
    }

    /// CreateContainer and StartContainer; returns the id.
    pub async fn launch(&self, pod: &Pod, config: ContainerConfig) -> Result<String, Status> {
        let id = Box::pin(self.create(pod, config)).await?;
        self.start(&id).await?;
        Ok(id)
    }

    /// StopContainer with seconds of grace.
    pub async fn stop(&self, id: &str, grace: i64) -> Result<(), Status> {
        let request = StopContainerRequest {
            container_id: id.into(),
            timeout: grace,
        };
        self.runtime().stop_container(request).await.map(drop)
    }

    /// RemoveContainer.
    pub async fn remove(&self, id: &str) -> Result<(), Status> {
        let request = RemoveContainerRequest {
            container_id: id.into(),
        };
        self.runtime().remove_container(request).await.map(drop)
    }

    /// ReopenContainerLog.
    pub async fn reopen_log(&self, id: &str) -> Result<(), Status> {
        let request = ReopenContainerLogRequest {
            container_id: id.into(),
        };
        self.runtime().reopen_container_log(request).await.map(drop)
    }

    /// ContainerStatus.
    pub async fn status(&self, id: &str) -> Result<ContainerStatus> {
        let request = ContainerStatusRequest {
            container_id: id.into(),
            verbose: false,
        };
        let reply = self.runtime().container_status(request).await?.into_inner();
        reply.status.context("ContainerStatus without a status")
    }

    /// The `info` object of a verbose ContainerStatus.
    pub async fn container_info(&self, id: &str) -> Result<serde_json::Value> {
        let request = ContainerStatusRequest {
            container_id: id.into(),
            verbose: true,
        };
        let reply = self.runtime().container_status(request).await?.into_inner();
        let info = reply
            .info
            .get("info")
            .context("verbose ContainerStatus without the key info")?;
        Ok(serde_json::from_str(info)?)
    }

    /// The container's first process, as the host numbers it.
    pub async fn pid(&self, id: &str) -> Result<i32> {
        let info = self.container_info(id).await?;
        let pid = info["pid"]
            .as_i64()
            .context("verbose ContainerStatus without info.pid")?;
        Ok(i32::try_from(pid)?)
    }

    /// ListContainers.
    pub async fn list(&self, filter: Option<ContainerFilter>) -> Result<Vec<Container>, Status> {
        let request = ListContainersRequest { filter };
        Ok(self
            .runtime()
            .list_containers(request)
            .await?
            .into_inner()
            .containers)
    }

    /// ExecSync with seconds of patience (0: none).
    pub async fn exec_sync(&self, id: &str, cmd: &[&str], timeout: i64) -> Result<ExecSyncResponse, Status> {
        let cmd = cmd.iter().map(|&c| c.to_owned()).collect();
        let request = ExecSyncRequest {
            container_id: id.into(),
            cmd,
            timeout,
        };
        Ok(self.runtime().exec_sync(request).await?.into_inner())
    }

    /// Waits until the container has exited.
    pub async fn wait_exit(&self, id: &str) -> Result<ContainerStatus> {
        crate::eventually("the container's exit", async || {
            let status = self.status(id).await?;
            Ok((status.state() == ContainerState::ContainerExited).then_some(status))
        })
        .await
    }

    /// Runs `sh -c script` in the container, which must succeed, and returns what it printed without the last newline.
    pub async fn sh(&self, id: &str, script: &str) -> Result<String> {
        let reply = self.exec_sync(id, &["sh", "-c", script], 60).await?;
        anyhow::ensure!(
            reply.exit_code == 0,
            "{script:?} ended with {}: {}{}",
            reply.exit_code,
            String::from_utf8_lossy(&reply.stdout),
            String::from_utf8_lossy(&reply.stderr)
        );
        Ok(String::from_utf8(reply.stdout)?.trim_end_matches('\n').to_owned())
    }

    /// Creates and starts a container, waits for its end, and returns its status.
    pub async fn run_to_end(&self, pod: &Pod, config: ContainerConfig) -> Result<ContainerStatus> {
        let id = Box::pin(self.launch(pod, config)).await?;
        self.wait_exit(&id).await
    }
}

/// An ImageSpec that only names an image.
pub fn spec(image: &str) -> ImageSpec {
    ImageSpec {
        image: image.into(),
        ..Default::default()
    }
}

/// What a test expects of a refused call.
pub trait CriExt {
    /// The status of a call that must fail.
    fn refused(self) -> Result<Status>;
    /// The status of a call that must fail with this code.
    fn refused_with(self, code: Code) -> Result<Status>;
}

impl<T: std::fmt::Debug, E: Into<anyhow::Error>> CriExt for Result<T, E> {
    fn refused(self) -> Result<Status> {
        match self {
            Ok(value) => anyhow::bail!("the call should have been refused, and gave {value:?}"),
            Err(error) => Ok(error.into().downcast::<Status>()?),
        }
    }

    fn refused_with(self, code: Code) -> Result<Status> {
        let status = self.refused()?;
        anyhow::ensure!(status.code() == code, "expected code {code:?}, got {status:?}");
        Ok(status)
    }
}
