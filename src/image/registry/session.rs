//! One pull's view of a registry: its hosts in order, the credentials that belong to each, and what was learned of them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::client::proxy::matcher::Matcher;

use super::auth::{Auth, Credentials};
use super::client::Transport;
use super::endpoint::Endpoint;
use super::hosts;
use super::tls::SystemRoots;
use super::tries::{Need, Tries};
use crate::image::reference::ImageRef;
use crate::types::Result;

/// What all pulls share.
pub(crate) struct Registries {
    /// Directories in containerd's `certs.d` layout.
    pub hosts_dirs: Vec<PathBuf>,
    /// How long a connection may be silent.
    pub stall: Duration,
    /// First pause before a host is asked again; it doubles.
    pub backoff: Duration,
    roots: Arc<SystemRoots>,
    proxies: Arc<Matcher>,
}

impl Registries {
    /// Proxies come from the environment, once.
    pub(crate) fn new(hosts_dirs: Vec<PathBuf>, stall: Duration, backoff: Duration) -> Self {
        let (roots, proxies) = (Arc::default(), Arc::new(Matcher::from_env()));
        Self {
            hosts_dirs,
            stall,
            backoff,
            roots,
            proxies,
        }
    }

    /// Prepares a pull of `reference`. Connects to nothing yet. Reads the hosts' configuration, which blocks shortly.
    ///
    /// # Errors
    /// [`crate::types::Kind::InvalidArgument`] for malformed credentials, `FailedPrecondition` for a malformed
    /// configuration.
    pub(crate) fn session(&self, reference: &ImageRef, auth: Option<&Auth>) -> Result<Session> {
        let registry = reference.registry();
        let mut endpoints: Vec<Arc<Endpoint>> = Vec::new();
        for host in hosts::hosts_for(&self.hosts_dirs, registry)? {
            let credentials = match auth {
                Some(auth) if auth.belongs_to(&host, registry) => auth.credentials()?,
                _ => Credentials::Anonymous,
            };
            let same = endpoints
                .iter()
                .find(|e| e.host.tls == host.tls && e.host.dial_timeout == host.dial_timeout)
                .map(|e| e.transport.clone());
            let transport = same.unwrap_or_else(|| {
                let (roots, proxies) = (Arc::clone(&self.roots), Arc::clone(&self.proxies));
                Transport::new(&host.tls, roots, host.dial_timeout, proxies, self.stall)
            });
            endpoints.push(Arc::new(Endpoint::new(host, transport, credentials)));
        }
        Ok(Session {
            reference: reference.clone(),
            hosts: endpoints,
            backoff: self.backoff,
        })
    }
}

/// One pull's view of a registry.
pub(crate) struct Session {
    pub(super) reference: ImageRef,
    pub(super) hosts: Vec<Arc<Endpoint>>,
    backoff: Duration,
}

impl Session {
    pub(super) fn tries(&self, need: Need) -> Tries {
        Tries::new(self.endpoints(need), self.backoff)
    }
}
