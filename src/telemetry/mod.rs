//! Logs, traces and the counts of what husk does.

pub mod calls;
pub mod operations;
mod traces;

use std::time::Duration;

use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::filter::{FilterExt, Targets, filter_fn};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry};

use crate::config::{Log, LogFormat, Telemetry};
use crate::types::error::{Error, Result};

/// How long the collector may take for the last spans when the daemon ends.
const FLUSH: Duration = Duration::from_secs(3);

/// What has to be finished before the process ends.
pub struct Guard {
    traces: Option<SdkTracerProvider>,
}

/// Starts logging to stderr and, if there is a collector, tracing. Once per process, within the async runtime.
///
/// # Errors
/// The level is no level and no filter, the collector's address is none, or logging was started before.
pub fn start(log: &Log, telemetry: &Telemetry) -> Result<Guard> {
    let filter = EnvFilter::try_new(directives(&log.level))
        .map_err(|e| Error::invalid(format!("log level {:?}: {e}", log.level)))?;
    let traces = traces::provider(telemetry)?;
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(true)
        .with_ansi(false);
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match log.format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    // Lines are about what happened; spans are the collector's, and would only make lines longer.
    let lines = lines.with_filter(filter.and(filter_fn(|metadata| metadata.is_event())));
    let mut layers: Vec<Box<dyn Layer<Registry> + Send + Sync>> = vec![lines.boxed()];
    if let Some(provider) = &traces {
        let husk = Targets::new().with_target("husk", tracing::Level::INFO);
        layers.push(traces::layer(provider).with_filter(husk).boxed());
    }
    tracing_subscriber::registry()
        .with(layers)
        .try_init()
        .map_err(|e| Error::internal(format!("start logging: {e}")))?;
    Ok(Guard { traces })
}

impl Guard {
    /// Hands the collector what it has not been given yet.
    pub async fn finish(self) {
        let Some(provider) = self.traces else { return };
        let flushed = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(FLUSH)).await;
        if let Ok(Err(error)) = flushed {
            tracing::warn!(%error, "the last spans did not reach the collector");
        }
    }
}

/// A bare level is husk's own: at `debug` the libraries below it would drown what husk says.
fn directives(level: &str) -> String {
    let bare = level.bytes().all(|b| b.is_ascii_alphabetic());
    if bare {
        format!("warn,husk={level}")
    } else {
        level.to_owned()
    }
}
