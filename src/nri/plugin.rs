//! A plugin: how it registers, what it wants to hear of, and how a request to it can end.
//!
//! A plugin that takes too long or breaks the protocol is let go and named in the log; what it was asked about goes on
//! without it. An error that it answers with is the error of the operation.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::types::error::{Error, Kind, Result};

use super::connection::{CallError, Connection};
use super::proto::ttrpc::Request;
use super::proto::{self as p, Event};
use super::{Settings, service, ttrpc};

/// Version of the protocol's Go module whose wire format this is; plugins that care compare it.
const NRI_VERSION: &str = "v0.12.1";
/// One bit for each event of this version.
const ALL_EVENTS: u32 = (1 << (Event::Last as u32 - 1)) - 1;
/// Most bytes of objects in one Synchronize request: the rest of a message is for what surrounds them.
const SYNC_BYTES: usize = ttrpc::MAX_DATA_BYTES - (64 << 10);

/// A registered plugin.
pub struct Plugin {
    /// Index and name, such as `10-balloons`.
    pub name: String,
    /// Name without index.
    pub base: String,
    /// Two digits that order plugins.
    pub index: String,
    connection: Connection,
    events: u32,
    request_timeout: Duration,
    /// It knows StateChange only, as plugins built for older versions do.
    state_change_only: AtomicBool,
}

impl Plugin {
    /// Waits for a plugin that has connected to register, and configures it. Its requests that come later are left in
    /// the receiver.
    ///
    /// # Errors
    /// It does not register in time, or not properly; it refuses its configuration.
    pub async fn register(
        stream: UnixStream,
        settings: &Settings,
    ) -> Result<(Self, mpsc::Receiver<(u32, Request)>)> {
        let pid = stream.peer_cred().ok().and_then(|c| c.pid()).unwrap_or(0);
        let (connection, mut requests) = Connection::start(stream);
        let outcome = async {
            let registration = service::registration(&connection, &mut requests);
            let (index, base) = tokio::time::timeout(settings.registration_timeout, registration)
                .await
                .unwrap_or_else(|_| {
                    Err(Error::new(
                        Kind::DeadlineExceeded,
                        format!("it did not register within {:?}", settings.registration_timeout),
                    ))
                })?;
            let mut plugin = Self {
                name: format!("{index}-{base}"),
                base,
                index,
                connection: connection.clone(),
                events: 0,
                request_timeout: settings.request_timeout,
                state_change_only: AtomicBool::new(false),
            };
            plugin.configure(settings).await?;
            Ok::<_, Error>(plugin)
        };
        match outcome.await {
            Ok(plugin) => {
                info!(plugin = %plugin.name, pid, events = format!("{:#x}", plugin.events), "NRI plugin registered");
                Ok((plugin, requests))
            }
            Err(e) => {
                connection.close(e.message());
                Err(e.context(format!("NRI plugin of process {pid}")))
            }
        }
    }

    async fn configure(&mut self, settings: &Settings) -> Result<()> {
        let millis = |d: Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX);
        let request = p::ConfigureRequest {
            config: String::new(),
            runtime_name: settings.runtime_name.clone(),
            runtime_version: settings.runtime_version.clone(),
            registration_timeout: millis(settings.registration_timeout),
            request_timeout: millis(settings.request_timeout),
            nri_version: NRI_VERSION.into(),
        };
        let answer: p::ConfigureResponse = self
            .connection
            .call("Configure", &request, settings.request_timeout)
            .await
            .map_err(|e| describe(e).context(format!("configure plugin {}", self.name)))?;
        let events = answer.events.cast_unsigned();
        if events & !ALL_EVENTS != 0 {
            return Err(Error::invalid(format!(
                "plugin {} subscribes to events {events:#x}, of which {:#x} are not known",
                self.name,
                events & !ALL_EVENTS
            )));
        }
        self.events = if events == 0 { ALL_EVENTS } else { events };
        Ok(())
    }

    /// Whether the plugin wants to hear of an event.
    pub fn wants(&self, event: Event) -> bool {
        self.events & (1 << (event as u32 - 1)) != 0
    }

    /// Whether it is gone.
    pub fn is_gone(&self) -> bool {
        self.connection.is_closed()
    }

    /// Its connection.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Lets the plugin go.
    pub fn dismiss(&self, reason: &str) {
        if !self.is_gone() {
            warn!(plugin = %self.name, %reason, "NRI plugin is disconnected");
            self.connection.close(reason);
        }
    }

    /// Tells it that husk stops; what it says to that does not matter.
    pub async fn shut_down(&self) {
        let _ = self
            .connection
            .call::<_, p::Empty>("Shutdown", &p::Empty {}, self.request_timeout)
            .await;
        self.connection.close("husk stops");
    }

    /// Gives the plugin the state of the node, in as many messages as it takes. Returns the updates it wants.
    ///
    /// # Errors
    /// The plugin refuses, is too slow, or cannot take more than one message; it is let go then.
    pub async fn synchronize(
        &self,
        pods: Vec<p::PodSandbox>,
        containers: Vec<p::Container>,
        limit: Duration,
    ) -> Result<Vec<p::ContainerUpdate>> {
        let exchange = async {
            for request in split(pods, containers)? {
                let more = request.more;
                let answer: p::SynchronizeResponse = self
                    .connection
                    .call("Synchronize", &request, limit)
                    .await
                    .map_err(describe)?;
                if !more {
                    return Ok(answer.update);
                }
                if !answer.more || !answer.update.is_empty() {
                    return Err(Error::new(
                        Kind::Unimplemented,
                        "it cannot take the state of this node in more than one message",
                    ));
                }
            }
            Ok(Vec::new())
        };
        let outcome = tokio::time::timeout(limit, exchange).await.unwrap_or_else(|_| {
            Err(Error::new(
                Kind::DeadlineExceeded,
                format!("it did not synchronize within {limit:?}"),
            ))
        });
        outcome.map_err(|e| {
            self.connection.close(e.message());
            e.context(format!("synchronize NRI plugin {}", self.name))
        })
    }

    /// Asks the plugin about an event it wants to hear of. `None` if it does not, or is gone now.
    ///
    /// # Errors
    /// The plugin answered with an error.
    pub async fn ask<A: prost::Message, B: prost::Message + Default>(
        &self,
        event: Event,
        method: &str,
        request: &A,
    ) -> Result<Option<B>> {
        if !self.wants(event) || self.is_gone() {
            return Ok(None);
        }
        let outcome = self.connection.call(method, request, self.request_timeout).await;
        self.judge(method, outcome)
    }

    /// Tells the plugin of an event to which it has nothing to add but its consent.
    ///
    /// # Errors
    /// As [`Plugin::ask`].
    pub async fn tell<A: prost::Message>(
        &self,
        event: Event,
        method: &str,
        request: &A,
        change: impl FnOnce() -> p::StateChangeEvent,
    ) -> Result<()> {
        if !self.wants(event) || self.is_gone() {
            return Ok(());
        }
        let (connection, limit) = (&self.connection, self.request_timeout);
        // StopContainer was a call of its own from the beginning.
        if event == Event::StopContainer || !self.state_change_only.load(Ordering::Relaxed) {
            match connection.call::<_, p::Empty>(method, request, limit).await {
                Err(CallError::Refused { code, .. }) if code == ttrpc::code::UNIMPLEMENTED => {
                    self.state_change_only.store(true, Ordering::Relaxed);
                }
                outcome => return self.judge(method, outcome).map(drop),
            }
        }
        let outcome = connection
            .call::<_, p::Empty>("StateChange", &change(), limit)
            .await;
        self.judge(method, outcome).map(drop)
    }

    fn judge<B>(&self, method: &str, outcome: Result<B, CallError>) -> Result<Option<B>> {
        match outcome {
            Ok(answer) => Ok(Some(answer)),
            Err(CallError::Broken(reason)) => {
                self.dismiss(&reason);
                Ok(None)
            }
            Err(e) => Err(describe(e).context(format!("NRI plugin {}: {method}", self.name))),
        }
    }
}

fn describe(error: CallError) -> Error {
    match error {
        CallError::Refused { message, .. } => Error::internal(message),
        CallError::Unsendable(e) => e,
        CallError::Broken(reason) => Error::new(Kind::Unavailable, reason),
    }
}

/// Puts objects into as few requests as the size of a message allows, pods first.
fn split(pods: Vec<p::PodSandbox>, containers: Vec<p::Container>) -> Result<Vec<p::SynchronizeRequest>> {
    use prost::Message as _;

    // Tag and length of an element are below this.
    const OVERHEAD: usize = 8;
    let mut requests = vec![p::SynchronizeRequest::default()];
    let mut used = 0;
    let mut room = |requests: &mut Vec<p::SynchronizeRequest>, size: usize, id: &str| {
        if size > SYNC_BYTES {
            return Err(Error::new(
                Kind::ResourceExhausted,
                format!("{id} has {size} bytes of metadata, more than a message of {SYNC_BYTES} holds"),
            ));
        }
        if used + size > SYNC_BYTES {
            requests.push(p::SynchronizeRequest::default());
            used = 0;
        }
        used += size;
        Ok(())
    };
    for pod in pods {
        room(&mut requests, pod.encoded_len() + OVERHEAD, &pod.id)?;
        if let Some(last) = requests.last_mut() {
            last.pods.push(pod);
        }
    }
    for container in containers {
        room(&mut requests, container.encoded_len() + OVERHEAD, &container.id)?;
        if let Some(last) = requests.last_mut() {
            last.containers.push(container);
        }
    }
    let last = requests.len() - 1;
    for request in &mut requests[..last] {
        request.more = true;
    }
    Ok(requests)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use prost::Message as _;

    use super::*;

    fn pod(id: &str, bytes: usize) -> p::PodSandbox {
        p::PodSandbox {
            id: id.into(),
            labels: [("l".to_owned(), "x".repeat(bytes))].into(),
            ..Default::default()
        }
    }

    #[test]
    fn a_small_node_is_one_message_even_when_empty() {
        assert_eq!(
            split(Vec::new(), Vec::new()).unwrap(),
            [p::SynchronizeRequest::default()]
        );
        let one = split(vec![pod("a", 9)], vec![p::Container::default()]).unwrap();
        assert_eq!((one.len(), one[0].more), (1, false));
    }

    #[test]
    fn a_large_node_is_split_without_loss() {
        let pods: Vec<_> = (0..10).map(|i| pod(&i.to_string(), 1 << 20)).collect();
        let containers = vec![p::Container {
            id: "c".into(),
            ..Default::default()
        }];
        let requests = split(pods.clone(), containers).unwrap();
        assert!(requests.len() > 2);
        let (last, rest) = requests.split_last().unwrap();
        assert!(!last.more && rest.iter().all(|r| r.more));
        assert!(requests.iter().all(|r| r.encoded_len() < ttrpc::MAX_DATA_BYTES));
        let got: Vec<_> = requests.iter().flat_map(|r| r.pods.clone()).collect();
        assert_eq!(got, pods);
        assert_eq!(requests.iter().map(|r| r.containers.len()).sum::<usize>(), 1);
    }

    #[test]
    fn an_object_that_fits_no_message_is_named() {
        let error = split(vec![pod("huge", 5 << 20)], Vec::new()).unwrap_err();
        assert!(error.message().contains("huge"), "{error}");
    }
}
