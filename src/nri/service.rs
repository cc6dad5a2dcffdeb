//! The service that plugins call: registration, and updates of containers that nobody asked them for.

use prost::Message as _;
use tokio::sync::mpsc;

use crate::types::error::{Error, Kind, Result};

use super::connection::Connection;
use super::proto as p;
use super::proto::ttrpc::{Request, Status};
use super::ttrpc::code;

/// Name of the plugins' service on the wire.
pub const PLUGIN: &str = "nri.pkg.api.v1alpha1.Plugin";
/// Name of husk's service on the wire.
pub const RUNTIME: &str = "nri.pkg.api.v1alpha1.Runtime";

/// A request of a plugin, understood.
#[derive(Debug, PartialEq)]
pub enum Call {
    /// Registers the plugin.
    Register(p::RegisterPluginRequest),
    /// Wants containers updated or stopped.
    Update(p::UpdateContainersRequest),
}

/// Reads a request.
///
/// # Errors
/// The status to answer with, for an unknown method or a payload that is none.
pub fn understand(request: &Request) -> Result<Call, Status> {
    fn decode<T: prost::Message + Default>(payload: &[u8]) -> Result<T, Status> {
        T::decode(payload).map_err(|e| status(code::INVALID_ARGUMENT, &e.to_string()))
    }
    match (request.service.as_str(), request.method.as_str()) {
        (RUNTIME, "RegisterPlugin") => decode(&request.payload).map(Call::Register),
        (RUNTIME, "UpdateContainers") => decode(&request.payload).map(Call::Update),
        (service, method) => Err(status(
            code::UNIMPLEMENTED,
            &format!("husk has no method {service}/{method}"),
        )),
    }
}

/// Waits for the registration on a fresh connection and answers it. Returns index and name.
///
/// # Errors
/// The name or the index is not one; the connection was closed.
pub async fn registration(
    connection: &Connection,
    requests: &mut mpsc::Receiver<(u32, Request)>,
) -> Result<(String, String)> {
    loop {
        let next = tokio::select! {
            next = requests.recv() => next,
            () = connection.closed() => None,
        };
        let Some((stream, request)) = next else {
            return Err(Error::new(Kind::Unavailable, connection.reason()));
        };
        match understand(&request) {
            Ok(Call::Register(r)) => {
                let checked = check(&r.plugin_idx, &r.plugin_name);
                let answer = match &checked {
                    Ok(()) => Ok(p::Empty {}.encode_to_vec()),
                    Err(e) => Err(status(code::INVALID_ARGUMENT, e.message())),
                };
                connection.respond(stream, answer).await;
                return checked.map(|()| (r.plugin_idx, r.plugin_name));
            }
            Ok(Call::Update(_)) => {
                let refusal = status(code::FAILED_PRECONDITION, "register first");
                connection.respond(stream, Err(refusal)).await;
            }
            Err(refusal) => connection.respond(stream, Err(refusal)).await,
        }
    }
}

/// A status with a message.
pub fn status(code: i32, message: &str) -> Status {
    Status {
        code,
        message: message.to_owned(),
    }
}

fn check(index: &str, name: &str) -> Result<()> {
    if index.len() != 2 || !index.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Error::invalid(format!(
            "plugin index {index:?} is not two digits, such as 10"
        )));
    }
    let fine = |b: u8| b.is_ascii_alphanumeric() || b"-_.+".contains(&b);
    if name.is_empty() || name.len() > 128 || !name.bytes().all(fine) {
        return Err(Error::invalid(format!(
            "plugin name {:?} is not 1 to 128 letters, digits and any of -_.+",
            name.chars().take(128).collect::<String>()
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn names_and_indices() {
        for (index, name, ok) in [
            ("00", "a", true),
            ("99", "my-plugin_1.0+x", true),
            ("0", "a", false),
            ("1a", "a", false),
            ("100", "a", false),
            ("00", "", false),
            ("00", "a b", false),
            ("00", "../x", false),
            ("00", "ü", false),
        ] {
            assert_eq!(check(index, name).is_ok(), ok, "{index} {name}");
        }
    }

    #[test]
    fn unknown_methods_are_unimplemented_and_bad_payloads_invalid() {
        let request = |method: &str, payload: Vec<u8>| Request {
            service: RUNTIME.into(),
            method: method.into(),
            payload,
            timeout_nano: 0,
        };
        assert_eq!(
            understand(&request("X", Vec::new())).unwrap_err().code,
            code::UNIMPLEMENTED
        );
        let bad = understand(&request("RegisterPlugin", vec![0xff])).unwrap_err();
        assert_eq!(bad.code, code::INVALID_ARGUMENT);
        assert_eq!(
            understand(&request("UpdateContainers", Vec::new())).unwrap(),
            Call::Update(Default::default())
        );
    }
}
