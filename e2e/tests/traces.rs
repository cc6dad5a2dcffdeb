//! Spans reach a collector: the real protocol, with a collector that only remembers.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use husk_e2e::v1::*;
use husk_e2e::{Options, run_with};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, Span};
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<ResourceSpans>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let spans = request.into_inner().resource_spans;
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(spans);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Listens on a port of its own; returns the address.
    fn start(&self) -> Result<String> {
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse()?)?;
        let at = incoming.local_addr()?;
        let service = TraceServiceServer::new(self.clone());
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(incoming));
        Ok(format!("http://{at}"))
    }

    fn resources(&self) -> Vec<ResourceSpans> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn spans(&self) -> Vec<Span> {
        let resources = self.resources();
        let scopes = resources.into_iter().flat_map(|r| r.scope_spans);
        scopes.flat_map(|s| s.spans).collect()
    }
}

fn attribute<'a>(span: &'a Span, key: &str) -> Option<&'a str> {
    let found = span.attributes.iter().find(|a| a.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text),
        _ => None,
    }
}

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn traced<T>(message: T, flags: &str) -> Result<Request<T>> {
    let mut request = Request::new(message);
    let value = format!("00-{TRACE}-{PARENT}-{flags}").parse()?;
    request.metadata_mut().insert("traceparent", value);
    Ok(request)
}

fn to(endpoint: &str, more: &str) -> Options {
    Options::new().toml(&format!("[telemetry]\notlp_endpoint = \"{endpoint}\"\n{more}"))
}

#[tokio::test]
async fn a_call_is_a_span_below_its_caller_and_the_last_ones_are_sent_at_the_end() -> Result<()> {
    let collector = Collector::default();
    run_with(to(&collector.start()?, ""), async |husk| {
        let mut runtime = husk.cri.runtime();
        runtime
            .list_containers(traced(ListContainersRequest::default(), "01")?)
            .await?;
        let no_such = ContainerStatusRequest {
            container_id: "no-such".into(),
            verbose: false,
        };
        ensure!(runtime.container_status(traced(no_such, "01")?).await.is_err());
        // A caller that does not want to be traced, and one that cannot write.
        runtime
            .list_pod_sandbox(traced(ListPodSandboxRequest::default(), "00")?)
            .await?;
        let mut odd = Request::new(StatusRequest::default());
        odd.metadata_mut().insert("traceparent", "garbage".parse()?);
        runtime.status(odd).await?;
        ensure!(husk.stop().await?.success());

        let spans = collector.spans();
        let named = |method: &str| {
            let name = format!("runtime.v1.RuntimeService/{method}");
            spans
                .iter()
                .find(move |s| s.name == name)
                .with_context(|| format!("no span {method}: {spans:?}"))
        };
        let listed = named("ListContainers")?;
        ensure!(
            hex(&listed.trace_id) == TRACE && hex(&listed.parent_span_id) == PARENT,
            "{listed:?}"
        );
        ensure!(listed.kind == 2, "not a server's span: {listed:?}");
        ensure!(listed.end_time_unix_nano >= listed.start_time_unix_nano);
        ensure!(
            attribute(listed, "rpc.method") == Some("ListContainers"),
            "{listed:?}"
        );
        ensure!(
            attribute(listed, "rpc.response.status_code") == Some("OK"),
            "{listed:?}"
        );
        ensure!(listed.status.as_ref().is_none_or(|s| s.code != 2), "{listed:?}");
        let missed = named("ContainerStatus")?;
        ensure!(hex(&missed.trace_id) == TRACE, "{missed:?}");
        ensure!(missed.status.as_ref().is_some_and(|s| s.code == 2), "{missed:?}");
        ensure!(
            attribute(missed, "rpc.response.status_code") == Some("NOT_FOUND"),
            "{missed:?}"
        );
        ensure!(
            named("ListPodSandbox").is_err(),
            "traced against the caller's will"
        );
        let alone = named("Status")?;
        ensure!(
            alone.parent_span_id.is_empty() && hex(&alone.trace_id) != TRACE,
            "{alone:?}"
        );
        let resources = collector.resources();
        let service = resources[0].resource.as_ref().context("no resource")?;
        ensure!(
            service.attributes.iter().any(|a| a.key == "service.name"),
            "{service:?}"
        );
        husk.start_again().await
    })
    .await
}

#[tokio::test]
async fn the_share_counts_only_for_those_who_did_not_decide() -> Result<()> {
    let collector = Collector::default();
    run_with(
        to(&collector.start()?, "sampling_per_million = 0\n"),
        async |husk| {
            let mut runtime = husk.cri.runtime();
            runtime.version(VersionRequest::default()).await?;
            runtime
                .list_containers(traced(ListContainersRequest::default(), "01")?)
                .await?;
            ensure!(husk.stop().await?.success());
            let names: Vec<_> = collector.spans().into_iter().map(|s| s.name).collect();
            ensure!(names == ["runtime.v1.RuntimeService/ListContainers"], "{names:?}");
            husk.start_again().await
        },
    )
    .await
}

#[tokio::test]
async fn a_collector_that_is_not_there_hinders_nobody() -> Result<()> {
    // Nobody listens on the discard port.
    run_with(to("http://127.0.0.1:9", ""), async |husk| {
        for _ in 0..100 {
            husk.cri.list(None).await?;
        }
        ensure!(husk.stop().await?.success());
        husk.start_again().await
    })
    .await
}
