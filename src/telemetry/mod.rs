//! Logs, traces and metrics.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

use crate::config::{Log, LogFormat};
use crate::types::error::{Error, Result};

/// Starts logging to stderr. Once per process.
///
/// # Errors
/// The level is no level and no filter, or logging was started before.
pub fn start(config: &Log) -> Result<()> {
    let filter = EnvFilter::try_new(directives(&config.level))
        .map_err(|e| Error::invalid(format!("log level {:?}: {e}", config.level)))?;
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(true)
        .with_ansi(false)
        .with_span_events(FmtSpan::NONE);
    match config.format {
        LogFormat::Text => logs.try_init(),
        LogFormat::Json => logs.json().try_init(),
    }
    .map_err(|e| Error::internal(format!("start logging: {e}")))
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
