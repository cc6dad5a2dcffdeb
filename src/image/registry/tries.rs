//! In which order hosts are asked, and asked again.
//!
//! All of them once, in the configured order; then those whose failure may pass, after a pause that doubles. Content that
//! arrives in pieces starts the count anew whenever a piece came.

use std::sync::Arc;
use std::time::Duration;

use super::endpoint::Endpoint;
use super::failure::{self, Failure, MAX_RETRY_AFTER};
use super::hosts::{Capabilities, Host};
use crate::image::reference::ImageRef;
use crate::types::Error;

/// How often the hosts are asked again without anything new.
const ROUNDS: u32 = 4;
/// Most attempts for one piece of content, however much progress each makes.
const MAX_ATTEMPTS: u32 = 1000;

/// What a host must be allowed to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// Give content by digest.
    Pull,
    /// Say what a tag stands for.
    Resolve,
}

impl Need {
    pub(super) fn is_met_by(self, capabilities: &Capabilities) -> bool {
        match self {
            Self::Pull => capabilities.pull,
            Self::Resolve => capabilities.resolve,
        }
    }
}

/// The attempts at one piece of content.
pub(super) struct Tries {
    hosts: Vec<Attempted>,
    /// Index of the next host of this round.
    next: usize,
    round: u32,
    attempts: u32,
    under_way: bool,
    backoff: Duration,
}

struct Attempted {
    endpoint: Arc<Endpoint>,
    failure: Option<Failure>,
}

impl Tries {
    pub(super) fn new(endpoints: Vec<Arc<Endpoint>>, backoff: Duration) -> Self {
        let hosts = endpoints
            .into_iter()
            .map(|endpoint| Attempted {
                endpoint,
                failure: None,
            })
            .collect();
        Self {
            hosts,
            next: 0,
            round: 0,
            attempts: 0,
            under_way: false,
            backoff,
        }
    }

    /// The next host to ask, after a pause where one is due. `None` when there is no point in going on.
    pub(super) async fn next(&mut self) -> Option<Arc<Endpoint>> {
        self.attempts += 1;
        if self.attempts > MAX_ATTEMPTS || self.is_abandoned() {
            return None;
        }
        loop {
            while let Some(candidate) = self.hosts.get(self.next) {
                self.next += 1;
                if candidate
                    .failure
                    .as_ref()
                    .is_none_or(|f| f.may_pass(self.under_way))
                {
                    return Some(Arc::clone(&candidate.endpoint));
                }
            }
            self.round += 1;
            let worth_it = |a: &Attempted| a.failure.as_ref().is_some_and(|f| f.may_pass(self.under_way));
            if self.round >= ROUNDS || !self.hosts.iter().any(worth_it) {
                return None;
            }
            tokio::time::sleep(self.pause()).await;
            self.next = 0;
        }
    }

    /// Notes why `endpoint` did not deliver.
    pub(super) fn failed(&mut self, endpoint: &Arc<Endpoint>, failure: Failure) {
        tracing::debug!(host = %endpoint.host.authority, ?failure, "a registry host did not deliver");
        if matches!(failure, Failure::Connect(_) | Failure::Content(_)) {
            endpoint.shun();
        }
        if let Some(entry) = self.hosts.iter_mut().find(|a| Arc::ptr_eq(&a.endpoint, endpoint)) {
            entry.failure = Some(failure);
        }
    }

    /// Something came before the last failure: the patience begins anew.
    pub(super) fn progressed(&mut self) {
        self.under_way = true;
        self.round = 0;
    }

    /// The error for the client.
    pub(super) fn conclude(self, image: &ImageRef, what: &str) -> Error {
        let mut failures: Vec<(Host, Failure)> = Vec::new();
        for attempted in self.hosts {
            if let Some(failure) = attempted.failure {
                failures.push((attempted.endpoint.host.clone(), failure));
            }
        }
        failure::conclude(image, what, &failures)
    }

    fn is_abandoned(&self) -> bool {
        self.hosts.iter().any(|a| a.failure == Some(Failure::Abandoned))
    }

    fn pause(&self) -> Duration {
        let asked = self
            .hosts
            .iter()
            .filter_map(|a| a.failure.as_ref()?.retry_after())
            .max();
        let own = self.backoff * 2u32.saturating_pow(self.round - 1);
        asked.unwrap_or(own).min(MAX_RETRY_AFTER)
    }
}
