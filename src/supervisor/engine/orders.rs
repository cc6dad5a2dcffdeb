//! Orders to OCI runtimes: signals, and the deletion of a container that has ended.
//!
//! An order is carried out by a helper process while everything else goes on. A container is not forgotten before its
//! runtime has deleted it, and the supervisor does not end before that either.

use crate::types::error::Context as _;
use crate::types::{Error, Result};

use super::super::container::{Pending, Ticket};
use super::super::poll::Token;
use super::super::protocol::{Failure, Phase, Reply};
use super::super::runner::{Order, Progress};
use super::Engine;

/// An order that is being carried out.
pub(super) struct Errand {
    /// The helper's process id.
    pub pid: i32,
    /// Serial number of the container.
    container: u32,
    order: Order,
    /// Who waits for it.
    ticket: Option<Ticket>,
    pending: Pending,
}

impl Engine {
    /// Has a container's runtime do something.
    pub(super) fn order(
        &mut self,
        container: u32,
        order: Order,
        ticket: Option<Ticket>,
    ) -> Result<(), Failure> {
        let serial = self.serial();
        let Some(found) = self.containers.get(&container) else {
            return Ok(());
        };
        let launch = self
            .runner
            .order_runtime(&found.config.runtime_json, &found.id, order)?;
        self.trim_due = true;
        let pid = launch.pid();
        let pending = Pending::new(launch, &self.poller, Token::Order(serial)).context("watch an order")?;
        let errand = Errand {
            pid,
            container,
            order,
            ticket,
            pending,
        };
        self.orders.insert(serial, errand);
        Ok(())
    }

    /// Has the runtime forget a container that has ended.
    pub(super) fn delete_from_runtime(&mut self, serial: u32) {
        let Some(container) = self.containers.get_mut(&serial) else {
            return;
        };
        if container.config.runtime_json.is_empty() {
            return;
        }
        container.deleting = true;
        if let Err(failure) = self.order(serial, Order::Delete, None) {
            self.deleted(serial, Err(failure));
        }
    }

    /// An order's helper has something to say.
    pub(super) fn order_moves(&mut self, serial: u32) {
        let Some(errand) = self.orders.get_mut(&serial) else {
            return;
        };
        let outcome = match errand.pending.launch.advance() {
            Ok(Progress::Pending | Progress::Ready { .. }) => return,
            Ok(Progress::Running) => Ok(()),
            Err(failure) => Err(failure),
        };
        let Some(errand) = self.orders.remove(&serial) else {
            return;
        };
        if let Some(ticket) = errand.ticket {
            self.respond(ticket, outcome.clone().map(|()| Reply::Done), Vec::new());
        }
        if errand.order == Order::Delete {
            self.deleted(errand.container, outcome);
        }
        self.shut_down_if_empty();
    }

    fn deleted(&mut self, serial: u32, outcome: Result<(), Failure>) {
        let Some(container) = self.containers.get_mut(&serial) else {
            return;
        };
        if let Err(failure) = outcome {
            // What it keeps is a directory of its state, which the daemon removes.
            eprintln!("container {}: {}", container.id.short(), failure.error);
        }
        container.deleting = false;
        let waiting = std::mem::take(&mut container.removal);
        if !waiting.is_empty() {
            self.forget(serial);
        }
        for ticket in waiting {
            self.respond(ticket, Ok(Reply::Done), Vec::new());
        }
    }

    /// Removes an exited container, or notes that it has to be removed when its runtime has deleted it.
    pub(super) fn remove(&mut self, ticket: Ticket, id: &crate::types::ContainerId) -> Result<()> {
        let container = self.find(id)?;
        if container.phase != Phase::Exited {
            return Err(Error::precondition(format!(
                "container {id} has not exited: stop it first"
            )));
        }
        if container.deleting {
            container.removal.push(ticket);
            return Ok(());
        }
        let serial = container.serial;
        self.forget(serial);
        self.respond(ticket, Ok(Reply::Done), Vec::new());
        Ok(())
    }

    fn forget(&mut self, serial: u32) {
        self.containers.remove(&serial);
        self.trim_due = true;
        self.resume_listener();
    }
}
