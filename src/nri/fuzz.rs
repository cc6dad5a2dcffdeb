//! Entrances for the fuzz targets of `e2e/fuzz` to what plugins send.
//!
//! Nothing in husk calls them, and they decide nothing: bytes go in, and what was understood or why not comes out.

use bytes::BytesMut;
use oci_spec::runtime::Spec;
use prost::Message as _;

use crate::types::{Error, Result};

use super::adjust::{self, owners::Owners};
use super::proto::{self as p, ttrpc::Request};
use super::ttrpc::MessageType;
use super::{mux, service, ttrpc};

/// A whole connection of a plugin, read in `pieces`; what it asked for, in words.
///
/// # Errors
/// The stream has lost its meaning.
pub fn connection<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Result<Vec<String>> {
    let (mut input, mut calls, mut said) = (BytesMut::new(), BytesMut::new(), Vec::new());
    for piece in pieces {
        input.extend_from_slice(piece);
        while let Some(frame) = mux::take_frame(&mut input)? {
            if frame.connection != mux::RUNTIME_SERVICE {
                continue;
            }
            calls.extend_from_slice(&frame.payload);
            while let Some(message) = ttrpc::take_message(&mut calls)? {
                if message.kind == MessageType::Request {
                    said.push(request(&message.data));
                }
            }
        }
    }
    Ok(said)
}

fn request(data: &[u8]) -> String {
    match Request::decode(data) {
        Ok(request) => match service::understand(&request) {
            Ok(service::Call::Register(r)) => format!("register {}", r.plugin_name.is_empty()),
            Ok(service::Call::Update(u)) => format!("update {}", u.update.len().min(3)),
            Err(status) => format!("{}", status.code),
        },
        Err(e) => e.to_string(),
    }
}

/// An adjustment of a container, as the answer to CreateContainer holds it, applied to `spec` twice: by one plugin, and
/// by another that wants the same.
///
/// # Errors
/// What the client of CreateContainer is told.
pub fn adjust(spec: &mut Spec, adjustment: &[u8]) -> Result<()> {
    let adjustment = p::ContainerAdjustment::decode(adjustment).map_err(|e| Error::invalid(e.to_string()))?;
    let mut owners = Owners::default();
    adjust::apply(spec, &mut owners, "container", "10-first", &adjustment)?;
    // Whether it may is for the owners to say; it must not panic.
    let _ = adjust::apply(
        &mut spec.clone(),
        &mut owners,
        "container",
        "20-second",
        &adjustment,
    );
    Ok(())
}
