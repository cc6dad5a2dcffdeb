//! OpenTelemetry: a span for every gRPC call, below the caller's span if it names one, sent to a collector by OTLP.
//!
//! kubelet puts its span into the metadata (`traceparent`). Without a collector there are no spans at all, and a call
//! pays one read of a flag. Spans wait in a bounded queue; what does not fit, or what a dead collector does not take, is
//! dropped and said in the log, and nothing ever waits for it.

use std::sync::atomic::{AtomicBool, Ordering};

use http::HeaderMap;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider};
use tracing::Span;
use tracing::field::Empty;
use tracing_opentelemetry::{OpenTelemetryLayer, OpenTelemetrySpanExt};
use tracing_subscriber::Registry;

use crate::config::Telemetry;
use crate::types::error::{Error, Result};

/// Whether anybody wants spans.
static ON: AtomicBool = AtomicBool::new(false);

/// The way to the collector; `None` without one.
///
/// # Errors
/// The address is none.
pub(super) fn provider(config: &Telemetry) -> Result<Option<SdkTracerProvider>> {
    if config.otlp_endpoint.is_empty() {
        return Ok(None);
    }
    let wrong = |e: &dyn std::fmt::Display| {
        Error::invalid(format!(
            "telemetry.otlp_endpoint {:?}: {e}: give the collector's gRPC address, such as http://127.0.0.1:4317",
            config.otlp_endpoint
        ))
    };
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(&config.otlp_endpoint)
        .build()
        .map_err(|e| wrong(&e))?;
    let share = f64::from(config.sampling_per_million.min(1_000_000)) / 1e6;
    let node = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let resource = Resource::builder()
        .with_service_name("husk")
        .with_attributes([
            opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            opentelemetry::KeyValue::new("host.name", node.trim().to_owned()),
        ])
        .build();
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        // What the caller decided holds; the share is for calls of those who decided nothing.
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(share))))
        .with_resource(resource)
        .build();
    ON.store(true, Ordering::Relaxed);
    Ok(Some(provider))
}

pub(super) fn layer(provider: &SdkTracerProvider) -> OpenTelemetryLayer<Registry, SdkTracer> {
    tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("husk"))
        .with_threads(false)
        .with_location(false)
}

/// The span of a call, given its path without the first slash; `None` if nobody wants spans.
pub(super) fn span(path: &str, headers: &HeaderMap) -> Option<Span> {
    if !ON.load(Ordering::Relaxed) {
        return None;
    }
    let (service, method) = path.split_once('/').unwrap_or(("", path));
    let span = tracing::info_span!(
        target: "husk::calls",
        "call",
        otel.name = path,
        otel.kind = "server",
        otel.status_code = Empty,
        rpc.system = "grpc",
        rpc.service = service,
        rpc.method = method,
        rpc.response.status_code = Empty,
    );
    let parent = TraceContextPropagator::new().extract(&Headers(headers));
    // Fails only if the layer is not there, and then nobody sees the span.
    let _ = span.set_parent(parent);
    Some(span)
}

/// Notes how the call went.
pub(super) fn outcome(span: &Span, code: &str, ok: bool) {
    span.record("rpc.response.status_code", code);
    if !ok {
        span.record("otel.status_code", "ERROR");
    }
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_collector_there_is_nothing() {
        assert!(matches!(provider(&Telemetry::default()), Ok(None)));
        assert!(span("a/b", &HeaderMap::new()).is_none());
    }
}
