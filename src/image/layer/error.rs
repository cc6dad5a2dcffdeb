//! Why a layer was not unpacked.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::types::{Error, Kind};

/// Why a layer was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// A hard link to something that neither this layer nor the given lower ones have. Worth a second try with `lowers`.
    #[error("hard link {link:?} in the layer points to {target:?}, which does not exist")]
    MissingLinkTarget {
        /// The link.
        link: PathBuf,
        /// What it should share.
        target: PathBuf,
    },
    /// The bytes are not the ones promised.
    #[error("{what} is {actual}, but {expected} was expected: the registry or a proxy sent wrong content")]
    Digest {
        /// Which digest or size.
        what: &'static str,
        /// As promised.
        expected: String,
        /// As received.
        actual: String,
    },
    /// The archive or its compression is malformed, or asks for something no layer may have.
    #[error("the layer's archive is not usable{}: {reason}", Entry(.entry))]
    Archive {
        /// The entry at fault, if it is one.
        entry: Option<PathBuf>,
        /// What is wrong.
        reason: String,
    },
    /// A bound of [`super::Limits`].
    #[error("the layer exceeds the limit of {limit} {what}")]
    Limit {
        /// What is bounded, with its unit.
        what: &'static str,
        /// The bound.
        limit: u64,
    },
    /// The node could not do it.
    #[error("{action}: {source}")]
    Io {
        /// What was attempted.
        action: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The source said that nobody wants the layer any more.
    #[error("unpacking the layer was cancelled")]
    Cancelled,
    /// The source failed.
    #[error("read the layer: {0}")]
    Source(io::Error),
}

/// What a source puts into its `io::Error` to say that it was cancelled rather than broken.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("cancelled")]
pub struct Cancelled;

struct Entry<'a>(&'a Option<PathBuf>);

impl fmt::Display for Entry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(path) => write!(f, " at entry {path:?}"),
            None => Ok(()),
        }
    }
}

impl LayerError {
    pub(super) fn archive(reason: impl Into<String>) -> Self {
        Self::Archive {
            entry: None,
            reason: reason.into(),
        }
    }

    pub(super) fn limit(what: &'static str, limit: impl TryInto<u64>) -> Self {
        Self::Limit {
            what,
            limit: limit.try_into().unwrap_or(u64::MAX),
        }
    }

    pub(super) fn io(action: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Io {
            action: action.into(),
            source: source.into(),
        }
    }

    pub(super) fn source(error: io::Error) -> Self {
        if error.get_ref().is_some_and(|inner| inner.is::<Cancelled>()) {
            return Self::Cancelled;
        }
        Self::Source(error)
    }

    /// Names the entry at fault where the error does not do so yet.
    pub(super) fn at(self, path: &std::path::Path) -> Self {
        match self {
            Self::Archive { entry: None, reason } => Self::Archive {
                entry: Some(path.to_owned()),
                reason,
            },
            other => other,
        }
    }
}

impl From<LayerError> for Error {
    fn from(error: LayerError) -> Self {
        let kind = match &error {
            LayerError::Cancelled => Kind::Cancelled,
            LayerError::Limit { .. } => Kind::ResourceExhausted,
            LayerError::Io { source, .. } if is_full(source) => Kind::ResourceExhausted,
            LayerError::Source(_) => Kind::Unavailable,
            _ => Kind::Internal,
        };
        Self::new(kind, error.to_string())
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
