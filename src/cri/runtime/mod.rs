//! `RuntimeService`: the list of its calls, each one a file of its own.

mod attach;
mod container_stats;
mod container_status;
mod create_container;
mod exec;
mod exec_sync;
mod get_container_events;
mod list_containers;
mod list_pod_sandbox;
mod pod_sandbox_metrics;
mod pod_sandbox_stats;
mod pod_sandbox_status;
mod port_forward;
mod run_pod_sandbox;
mod runtime_config;
mod status;
mod update_container_resources;
mod update_pod_sandbox_resources;
mod update_runtime_config;

use std::sync::Arc;
use std::time::Duration;

use tonic::{Request, Response, Status};

use crate::cri::list::{self, Items};
use crate::cri::proto as p;
use crate::cri::proto::runtime_service_server::RuntimeService;
use crate::pod::Runtime;
use crate::stats::Stats;
use crate::stream;
use crate::types::Error;

use super::{API_VERSION, RUNTIME_NAME, answer};

/// The service. Cheap to clone.
#[derive(Clone)]
pub struct Service {
    runtime: Arc<Runtime>,
    stats: Arc<Stats>,
    streams: Arc<stream::Server>,
}

impl Service {
    /// Serves `runtime`, with statistics from `stats`; what streams goes over `streams`.
    pub fn new(runtime: Arc<Runtime>, stats: Arc<Stats>, streams: Arc<stream::Server>) -> Self {
        Self {
            runtime,
            stats,
            streams,
        }
    }
}

type Rpc<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl RuntimeService for Service {
    async fn version(&self, _: Request<p::VersionRequest>) -> Rpc<p::VersionResponse> {
        answer("Version", async {
            Ok(p::VersionResponse {
                // The version of this message, not of husk; kubelet wants exactly this.
                version: "0.1.0".into(),
                runtime_name: RUNTIME_NAME.into(),
                runtime_version: env!("CARGO_PKG_VERSION").into(),
                runtime_api_version: API_VERSION.into(),
            })
        })
        .await
    }

    async fn run_pod_sandbox(&self, r: Request<p::RunPodSandboxRequest>) -> Rpc<p::RunPodSandboxResponse> {
        answer(
            "RunPodSandbox",
            run_pod_sandbox::call(&self.runtime, r.into_inner()),
        )
        .await
    }

    async fn stop_pod_sandbox(&self, r: Request<p::StopPodSandboxRequest>) -> Rpc<p::StopPodSandboxResponse> {
        answer("StopPodSandbox", async {
            self.runtime.stop_pod(&r.get_ref().pod_sandbox_id).await?;
            Ok(p::StopPodSandboxResponse {})
        })
        .await
    }

    async fn remove_pod_sandbox(
        &self,
        r: Request<p::RemovePodSandboxRequest>,
    ) -> Rpc<p::RemovePodSandboxResponse> {
        answer("RemovePodSandbox", async {
            self.runtime.remove_pod(&r.get_ref().pod_sandbox_id).await?;
            Ok(p::RemovePodSandboxResponse {})
        })
        .await
    }

    async fn pod_sandbox_status(
        &self,
        r: Request<p::PodSandboxStatusRequest>,
    ) -> Rpc<p::PodSandboxStatusResponse> {
        answer(
            "PodSandboxStatus",
            pod_sandbox_status::call(&self.runtime, r.into_inner()),
        )
        .await
    }

    async fn list_pod_sandbox(&self, r: Request<p::ListPodSandboxRequest>) -> Rpc<Items> {
        answer(
            "ListPodSandbox",
            list_pod_sandbox::call(&self.runtime, r.into_inner()),
        )
        .await
    }

    async fn create_container(
        &self,
        r: Request<p::CreateContainerRequest>,
    ) -> Rpc<p::CreateContainerResponse> {
        answer(
            "CreateContainer",
            create_container::call(&self.runtime, r.into_inner()),
        )
        .await
    }

    async fn start_container(&self, r: Request<p::StartContainerRequest>) -> Rpc<p::StartContainerResponse> {
        answer("StartContainer", async {
            self.runtime.start_container(&r.get_ref().container_id).await?;
            Ok(p::StartContainerResponse {})
        })
        .await
    }

    async fn stop_container(&self, r: Request<p::StopContainerRequest>) -> Rpc<p::StopContainerResponse> {
        answer("StopContainer", async {
            let r = r.into_inner();
            let grace = Duration::from_secs(u64::try_from(r.timeout).unwrap_or(0));
            self.runtime.stop_container(&r.container_id, grace).await?;
            Ok(p::StopContainerResponse {})
        })
        .await
    }

    async fn remove_container(
        &self,
        r: Request<p::RemoveContainerRequest>,
    ) -> Rpc<p::RemoveContainerResponse> {
        answer("RemoveContainer", async {
            self.runtime.remove_container(&r.get_ref().container_id).await?;
            Ok(p::RemoveContainerResponse {})
        })
        .await
    }

    async fn list_containers(&self, r: Request<p::ListContainersRequest>) -> Rpc<Items> {
        answer(
            "ListContainers",
            list_containers::call(&self.runtime, r.into_inner()),
        )
        .await
    }

    async fn container_status(
        &self,
        r: Request<p::ContainerStatusRequest>,
    ) -> Rpc<p::ContainerStatusResponse> {
        answer(
            "ContainerStatus",
            container_status::call(&self.runtime, r.into_inner()),
        )
        .await
    }

    async fn update_container_resources(
        &self,
        r: Request<p::UpdateContainerResourcesRequest>,
    ) -> Rpc<p::UpdateContainerResourcesResponse> {
        answer(
            "UpdateContainerResources",
            update_container_resources::call(&self.runtime, r.into_inner()),
        )
        .await
    }

    async fn reopen_container_log(
        &self,
        r: Request<p::ReopenContainerLogRequest>,
    ) -> Rpc<p::ReopenContainerLogResponse> {
        answer("ReopenContainerLog", async {
            self.runtime.reopen_log(&r.get_ref().container_id).await?;
            Ok(p::ReopenContainerLogResponse {})
        })
        .await
    }

    async fn exec_sync(&self, r: Request<p::ExecSyncRequest>) -> Rpc<p::ExecSyncResponse> {
        answer("ExecSync", exec_sync::call(&self.runtime, r.into_inner())).await
    }

    async fn container_stats(&self, r: Request<p::ContainerStatsRequest>) -> Rpc<p::ContainerStatsResponse> {
        answer(
            "ContainerStats",
            container_stats::one(&self.stats, r.into_inner()),
        )
        .await
    }

    async fn list_container_stats(
        &self,
        r: Request<p::ListContainerStatsRequest>,
    ) -> Rpc<p::ListContainerStatsResponse> {
        answer(
            "ListContainerStats",
            container_stats::list(&self.stats, r.into_inner()),
        )
        .await
    }

    async fn status(&self, r: Request<p::StatusRequest>) -> Rpc<p::StatusResponse> {
        answer("Status", status::call(&self.runtime, r.into_inner())).await
    }

    async fn runtime_config(&self, _: Request<p::RuntimeConfigRequest>) -> Rpc<p::RuntimeConfigResponse> {
        answer("RuntimeConfig", runtime_config::call(&self.runtime)).await
    }

    async fn update_runtime_config(
        &self,
        r: Request<p::UpdateRuntimeConfigRequest>,
    ) -> Rpc<p::UpdateRuntimeConfigResponse> {
        answer(
            "UpdateRuntimeConfig",
            update_runtime_config::call(&self.runtime, r.into_inner()),
        )
        .await
    }

    type StreamPodSandboxesStream = list::Stream<Items>;
    async fn stream_pod_sandboxes(
        &self,
        r: Request<p::StreamPodSandboxesRequest>,
    ) -> Rpc<Self::StreamPodSandboxesStream> {
        answer(
            "StreamPodSandboxes",
            list_pod_sandbox::stream(&self.runtime, r.into_inner()),
        )
        .await
    }

    type StreamContainersStream = list::Stream<Items>;
    async fn stream_containers(
        &self,
        r: Request<p::StreamContainersRequest>,
    ) -> Rpc<Self::StreamContainersStream> {
        answer(
            "StreamContainers",
            list_containers::stream(&self.runtime, r.into_inner()),
        )
        .await
    }

    async fn exec(&self, r: Request<p::ExecRequest>) -> Rpc<p::ExecResponse> {
        answer("Exec", exec::call(&self.runtime, &self.streams, r.into_inner())).await
    }

    async fn attach(&self, r: Request<p::AttachRequest>) -> Rpc<p::AttachResponse> {
        answer(
            "Attach",
            attach::call(&self.runtime, &self.streams, r.into_inner()),
        )
        .await
    }

    async fn port_forward(&self, r: Request<p::PortForwardRequest>) -> Rpc<p::PortForwardResponse> {
        answer(
            "PortForward",
            port_forward::call(&self.runtime, &self.streams, r.into_inner()),
        )
        .await
    }

    type StreamContainerStatsStream = list::Stream<p::StreamContainerStatsResponse>;
    async fn stream_container_stats(
        &self,
        r: Request<p::StreamContainerStatsRequest>,
    ) -> Rpc<Self::StreamContainerStatsStream> {
        Ok(Response::new(container_stats::stream(
            &self.stats,
            r.into_inner(),
        )))
    }

    async fn pod_sandbox_stats(
        &self,
        r: Request<p::PodSandboxStatsRequest>,
    ) -> Rpc<p::PodSandboxStatsResponse> {
        answer(
            "PodSandboxStats",
            pod_sandbox_stats::one(&self.stats, r.into_inner()),
        )
        .await
    }

    async fn list_pod_sandbox_stats(
        &self,
        r: Request<p::ListPodSandboxStatsRequest>,
    ) -> Rpc<p::ListPodSandboxStatsResponse> {
        answer(
            "ListPodSandboxStats",
            pod_sandbox_stats::list(&self.stats, r.into_inner()),
        )
        .await
    }

    type StreamPodSandboxStatsStream = list::Stream<p::StreamPodSandboxStatsResponse>;
    async fn stream_pod_sandbox_stats(
        &self,
        r: Request<p::StreamPodSandboxStatsRequest>,
    ) -> Rpc<Self::StreamPodSandboxStatsStream> {
        Ok(Response::new(pod_sandbox_stats::stream(
            &self.stats,
            r.into_inner(),
        )))
    }

    async fn checkpoint_container(
        &self,
        r: Request<p::CheckpointContainerRequest>,
    ) -> Rpc<p::CheckpointContainerResponse> {
        answer("CheckpointContainer", async {
            let r = r.into_inner();
            let limit = match r.timeout {
                0 => None,
                seconds => Some(Duration::from_secs(u64::try_from(seconds).map_err(|_| {
                    Error::invalid(format!("a timeout of {seconds} s has no meaning"))
                })?)),
            };
            self.runtime
                .checkpoint_container(&r.container_id, &r.location, limit)
                .await?;
            Ok(p::CheckpointContainerResponse {})
        })
        .await
    }

    type GetContainerEventsStream = list::Stream<p::ContainerEventResponse>;
    async fn get_container_events(
        &self,
        _: Request<p::GetEventsRequest>,
    ) -> Rpc<Self::GetContainerEventsStream> {
        answer("GetContainerEvents", get_container_events::call(&self.runtime)).await
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<p::ListMetricDescriptorsRequest>,
    ) -> Rpc<p::ListMetricDescriptorsResponse> {
        answer("ListMetricDescriptors", async {
            Ok(pod_sandbox_metrics::descriptors(&self.stats))
        })
        .await
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<p::ListPodSandboxMetricsRequest>,
    ) -> Rpc<p::ListPodSandboxMetricsResponse> {
        answer("ListPodSandboxMetrics", pod_sandbox_metrics::list(&self.stats)).await
    }

    type StreamPodSandboxMetricsStream = list::Stream<p::StreamPodSandboxMetricsResponse>;
    async fn stream_pod_sandbox_metrics(
        &self,
        _: Request<p::StreamPodSandboxMetricsRequest>,
    ) -> Rpc<Self::StreamPodSandboxMetricsStream> {
        Ok(Response::new(pod_sandbox_metrics::stream(&self.stats)))
    }

    async fn update_pod_sandbox_resources(
        &self,
        r: Request<p::UpdatePodSandboxResourcesRequest>,
    ) -> Rpc<p::UpdatePodSandboxResourcesResponse> {
        answer(
            "UpdatePodSandboxResources",
            update_pod_sandbox_resources::call(&self.runtime, r.into_inner()),
        )
        .await
    }
}
