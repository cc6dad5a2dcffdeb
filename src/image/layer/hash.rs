//! Digests of streams, by whichever algorithm the other side chose.

use sha2::{Digest as _, Sha256, Sha512};

use super::LayerError;
use crate::types::{Digest, id};

/// A running digest.
pub(super) enum Hasher {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    /// One that can be compared with `expected`; SHA-256 where nothing is expected.
    pub(super) fn like(expected: Option<&Digest>) -> Self {
        match expected.map(Digest::algorithm) {
            Some("sha512") => Self::Sha512(Sha512::new()),
            _ => Self::Sha256(Sha256::new()),
        }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Sha512(hash) => hash.update(bytes),
        }
    }

    pub(super) fn finish(self) -> Result<Digest, LayerError> {
        match self {
            Self::Sha256(hash) => Ok(Digest::from_sha256(&hash.finalize().into())),
            Self::Sha512(hash) => format!("sha512:{}", id::hex(&hash.finalize()))
                .parse()
                .map_err(|e: crate::types::Error| LayerError::archive(e.message())),
        }
    }
}

/// `actual` must be `expected`, if anything is.
pub(super) fn check(
    what: &'static str,
    expected: Option<&Digest>,
    actual: &Digest,
) -> Result<(), LayerError> {
    match expected {
        Some(expected) if expected != actual => Err(LayerError::Digest {
            what,
            expected: expected.to_string(),
            actual: actual.to_string(),
        }),
        _ => Ok(()),
    }
}
