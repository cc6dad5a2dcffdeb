//! The one place where husk's errors become gRPC codes.

use tonic::{Code, Status};

use crate::types::error::{Error, Kind};

/// Turns an error into the status a client sees.
pub fn status(error: Error) -> Status {
    let code = match error.kind() {
        Kind::InvalidArgument => Code::InvalidArgument,
        Kind::NotFound => Code::NotFound,
        Kind::AlreadyExists => Code::AlreadyExists,
        Kind::FailedPrecondition => Code::FailedPrecondition,
        Kind::DeadlineExceeded => Code::DeadlineExceeded,
        Kind::Unavailable => Code::Unavailable,
        Kind::ResourceExhausted => Code::ResourceExhausted,
        Kind::Unimplemented => Code::Unimplemented,
        Kind::PermissionDenied => Code::PermissionDenied,
        Kind::Cancelled => Code::Cancelled,
        // kubelet recognises `RegistryUnavailable:` and the like only under this code.
        Kind::Unknown => Code::Unknown,
        Kind::Internal => Code::Internal,
    };
    Status::new(code, error.message())
}

/// The answer of a call that husk does not have yet.
pub fn unimplemented(call: &str) -> Status {
    Status::unimplemented(format!("{call} is not implemented by this version of husk"))
}
