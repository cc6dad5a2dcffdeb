//! The CRI services: one file per call, conversion between protobuf and `types`, errors to gRPC codes. No logic.

pub mod convert;
pub mod image;
pub mod list;
pub mod proto;
pub mod runtime;
pub mod status;

use std::future::Future;
use std::time::Instant;

use tonic::{Response, Status};
use tracing::{debug, info, warn};

use crate::types::error::{Kind, Result};

/// The version of CRI, as `Version` reports it.
pub const API_VERSION: &str = "v1";
/// The name under which kubelet shows husk.
pub const RUNTIME_NAME: &str = "husk";

/// Most bytes of a message in either direction; what kubelet's and crictl's clients accept.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// Runs one call, logs how it went and turns its error into a status.
///
/// Reads are logged at debug level: kubelet makes several of them a second.
async fn answer<T>(call: &'static str, work: impl Future<Output = Result<T>>) -> Result<Response<T>, Status> {
    let started = Instant::now();
    let outcome = work.await;
    let ms = started.elapsed().as_secs_f64() * 1e3;
    match outcome {
        Ok(value) => {
            if is_read(call) {
                debug!(call, ms, "answered");
            } else {
                info!(call, ms, "done");
            }
            Ok(Response::new(value))
        }
        Err(failed) => {
            let error = status::one_line(failed.message());
            match failed.kind() {
                Kind::NotFound | Kind::Unimplemented => debug!(call, ms, error, "refused"),
                _ => warn!(call, ms, error, "failed"),
            }
            Err(status::status(failed))
        }
    }
}

fn is_read(call: &str) -> bool {
    call.starts_with("List")
        || call.starts_with("Stream")
        || call.ends_with("Status")
        || call.ends_with("Stats")
        || call.ends_with("Info")
        || matches!(call, "Version" | "RuntimeConfig" | "ExecSync")
}
