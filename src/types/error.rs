//! The error that crosses module borders: a kind a client can act on and a message a person can act on.

use std::fmt;

/// What went wrong, in the terms a client can act on. `cri/status.rs` turns it into a gRPC code; nothing else does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The request itself is wrong and will stay wrong.
    InvalidArgument,
    /// The named pod, container or image does not exist.
    NotFound,
    /// An object of that name exists and differs from the one asked for.
    AlreadyExists,
    /// The object is not in a state that allows the call.
    FailedPrecondition,
    /// A time limit of the request ran out.
    DeadlineExceeded,
    /// husk is starting, stopping or recovering; the same call may work later.
    Unavailable,
    /// A bound was reached (disk, processes, waiting tokens, message size).
    ResourceExhausted,
    /// The call or the option is not supported here.
    Unimplemented,
    /// The caller or the credentials do not suffice.
    PermissionDenied,
    /// The caller went away.
    Cancelled,
    /// kubelet recognises some failures by message prefix, and only under this kind (see `cri/status.rs`).
    Unknown,
    /// Everything else: the node, a plugin or husk itself is at fault.
    Internal,
}

/// First word of a message that no registry could be talked to; under [`Kind::Unknown`] only.
pub const REGISTRY_UNAVAILABLE: &str = "RegistryUnavailable";
/// First word of a message that an image may not be used; under [`Kind::Unknown`] only.
pub const SIGNATURE_VALIDATION_FAILED: &str = "SignatureValidationFailed";
/// First word of a message that an image could not be mounted into a container.
pub const IMAGE_VOLUME_MOUNT_FAILED: &str = "ImageVolumeMountFailed";
/// The words by which kubelet recognises failures, and only as the first of a message (cri-api, `pkg/errors`).
pub const KUBELET_WORDS: [&str; 3] = [
    REGISTRY_UNAVAILABLE,
    SIGNATURE_VALIDATION_FAILED,
    IMAGE_VOLUME_MOUNT_FAILED,
];

/// An error with its [`Kind`]. The message says what was attempted, on what, why it failed and, where known, what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    kind: Kind,
    message: String,
}

/// Result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind` with a complete message.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    /// The kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The message, without the kind.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Puts what was being attempted in front of the message and keeps the kind. A word of [`KUBELET_WORDS`] stays the
    /// first.
    #[must_use]
    pub fn context(self, what: impl fmt::Display) -> Self {
        let word = KUBELET_WORDS
            .iter()
            .find_map(|word| Some((word, self.message.strip_prefix(word)?.strip_prefix(": ")?)));
        Self {
            kind: self.kind,
            message: match word {
                Some((word, rest)) => format!("{word}: {what}: {rest}"),
                None => format!("{what}: {}", self.message),
            },
        }
    }

    /// The request is wrong.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::InvalidArgument, message)
    }

    /// No such object.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, message)
    }

    /// Wrong state for this call.
    pub fn precondition(message: impl Into<String>) -> Self {
        Self::new(Kind::FailedPrecondition, message)
    }

    /// The node, a plugin or husk is at fault.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Kind::Internal, message)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// Adds what was being attempted to a foreign error, which becomes [`Kind::Internal`].
pub trait Context<T> {
    /// `what` is a phrase such as `create directory /run/husk`.
    fn context(self, what: impl fmt::Display) -> Result<T>;
    /// As [`Context::context`], built only on failure.
    fn with_context<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T>;
}

impl<T, E: fmt::Display> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl fmt::Display) -> Result<T> {
        self.map_err(|e| Error::internal(format!("{what}: {e}")))
    }

    fn with_context<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|e| Error::internal(format!("{}: {e}", what())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kubelet_looks_for_stays_in_front() {
        for word in KUBELET_WORDS {
            let error = Error::internal(format!("{word}: no"))
                .context("inner")
                .context("outer");
            assert_eq!(error.message(), format!("{word}: outer: inner: no"));
        }
        let error = Error::internal("RegistryUnavailableness: no").context("outer");
        assert_eq!(error.message(), "outer: RegistryUnavailableness: no");
    }
}
