//! Host ports: who has which, and the packet filter table that leads them to pods.
//!
//! Also hides the built-in network behind the node's address, since both live in one table. Used when no CNI plugin
//! does port mappings. Everything here can be rebuilt from the records; the kernel's table is a copy.

mod conntrack;
mod nft;
mod rule;
mod rules;

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::net::if_::if_indextoname;
use rules::{Content, Mapping};

use super::cidr::Cidr;
use super::cni::args::protocol_name;
use super::netlink::{Refused, Socket, route};
use super::sysctl;
use crate::types::error::Context;
use crate::types::pod::{PortMapping, Protocol};
use crate::types::{Error, PodId, Result};

/// The owner of husk's packet filter table.
pub struct Mapper {
    table: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    connection: nft::Connection,
    pods: HashMap<PodId, Published>,
    hidden: BTreeSet<Cidr>,
    /// The kernel has the table, as far as is known, with these networks in it.
    built: Option<(Vec<Cidr>, Vec<Cidr>)>,
}

/// One pod's ports: what was asked for, and once it has addresses, what the kernel has.
#[derive(Default)]
struct Published {
    claims: Vec<Claim>,
    mappings: Vec<Mapping>,
    networks: Vec<Cidr>,
}

#[derive(Clone, Copy)]
struct Claim {
    protocol: Protocol,
    host_ip: Option<IpAddr>,
    host_port: u16,
    pod_port: u16,
}

impl Mapper {
    /// A mapper that owns the table called `table`. Touches nothing yet.
    pub fn new(table: String) -> Self {
        Self {
            table,
            state: Mutex::default(),
        }
    }

    /// Whether the kernel has what it takes.
    ///
    /// # Errors
    /// It has not; the message says why.
    pub fn probe(&self) -> Result<(), String> {
        self.lock()
            .connection
            .probe()
            .map_err(|e| format!("nf_tables is not usable: {e}"))
    }

    /// Reserves the host ports of `pod`, in memory: two pods cannot both get past this.
    ///
    /// # Errors
    /// A port is taken by another pod or twice by this one, or an address is none.
    pub fn claim(&self, pod: &PodId, ports: &[PortMapping]) -> Result<()> {
        let mut wanted: Vec<Claim> = Vec::new();
        let mut state = self.lock();
        for port in ports.iter().filter(|port| port.host_port != 0) {
            let claim = Claim::of(port)?;
            if wanted.iter().any(|other| claim.meets(other)) {
                return Err(Error::invalid(format!(
                    "host port {claim} is asked for twice by one pod"
                )));
            }
            if let Some(owner) = state.owner_of(&claim, pod) {
                let what = format!("host port {claim} is taken by pod {}", owner.short());
                return Err(Error::precondition(what));
            }
            wanted.push(claim);
        }
        if !wanted.is_empty() {
            state.pods.entry(pod.clone()).or_default().claims = wanted;
        }
        Ok(())
    }

    /// Leads the claimed ports of `pod` to its `addresses`. Blocks for a millisecond.
    ///
    /// # Errors
    /// The kernel refuses, or the pod has no address of a claimed port's family. The claim stays: withdraw it.
    pub fn publish(&self, pod: &PodId, addresses: &[Cidr]) -> Result<()> {
        let mut state = self.lock();
        let Some(published) = state.pods.get_mut(pod) else {
            return Ok(());
        };
        let mappings = mappings(&published.claims, addresses)?;
        published.mappings.clone_from(&mappings);
        published.networks = addresses.iter().map(Cidr::network).collect();
        prepare_node(&mappings)?;
        let applied = self.apply(&mut state, &mappings);
        state.forget_flows(&mappings);
        applied.map_err(|refused| {
            let hint = if state.connection.probe().is_err() {
                "; host ports need nf_tables in the kernel"
            } else {
                ""
            };
            Error::internal(format!(
                "publish host ports in table {}: {refused}{hint}",
                self.table
            ))
        })
    }

    /// Gives the ports of `pod` back. Idempotent.
    ///
    /// # Errors
    /// The kernel keeps them; so does the claim.
    pub fn withdraw(&self, pod: &PodId) -> Result<()> {
        let mut state = self.lock();
        let Some(published) = state.pods.get(pod) else {
            return Ok(());
        };
        let mappings = published.mappings.clone();
        let mut lost = false;
        if state.built.is_some() && !mappings.is_empty() {
            match rules::withdraw(&mut state.connection, &self.table, &mappings) {
                Ok(()) => {}
                // Someone flushed the table, or this pod's part of it never got there. What others need comes back.
                Err(refused) if refused.errno() == libc::ENOENT => lost = true,
                Err(refused) => {
                    return Err(Error::internal(format!(
                        "withdraw host ports from table {}: {refused}",
                        self.table
                    )));
                }
            }
        }
        state.forget_flows(&mappings);
        state.pods.remove(pod);
        if lost && !state.is_empty() {
            self.rebuild(&mut state)
                .with_context(|| format!("rebuild table {}", self.table))?;
        }
        Ok(())
    }

    /// Takes over what a record says a pod has, without touching the kernel. [`Mapper::sync`] follows.
    ///
    /// # Errors
    /// The record is at odds with itself.
    pub fn adopt(&self, pod: &PodId, ports: &[PortMapping], addresses: &[Cidr]) -> Result<()> {
        let claims = ports.iter().map(Claim::of).collect::<Result<Vec<_>>>()?;
        let mappings = if addresses.is_empty() {
            Vec::new()
        } else {
            mappings(&claims, addresses)?
        };
        let networks = addresses.iter().map(Cidr::network).collect();
        let published = Published {
            claims,
            mappings,
            networks,
        };
        self.lock().pods.insert(pod.clone(), published);
        Ok(())
    }

    /// Hides `networks` behind the node's address.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn hide(&self, networks: &[Cidr]) -> Result<()> {
        let mut state = self.lock();
        state.hidden = networks.iter().map(Cidr::network).collect();
        self.apply(&mut state, &[])
            .with_context(|| format!("masquerade in table {}", self.table))
    }

    /// Makes the kernel's table what it should be, whatever it was. Does nothing if nothing is needed.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn sync(&self) -> Result<()> {
        let mut state = self.lock();
        if state.is_empty() {
            return Ok(());
        }
        self.rebuild(&mut state)
            .with_context(|| format!("rebuild table {}", self.table))
    }

    /// Removes the table if no pod has a port. `true` if it did.
    ///
    /// # Errors
    /// The kernel keeps it.
    pub fn close(&self) -> Result<bool> {
        let mut state = self.lock();
        if !state.pods.is_empty() {
            return Ok(false);
        }
        state.hidden.clear();
        state.built = None;
        match rules::remove(&mut state.connection, &self.table) {
            Ok(()) => Ok(true),
            Err(refused) if refused.errno() == libc::ENOENT || state.connection.probe().is_err() => Ok(false),
            Err(refused) => Err(Error::internal(format!("remove table {}: {refused}", self.table))),
        }
    }

    /// Adds `mappings`; makes the table first if it is not there.
    fn apply(&self, state: &mut State, mappings: &[Mapping]) -> Result<(), Refused> {
        let Some(built) = &state.built else {
            return self.rebuild(state);
        };
        let mut content = state.content();
        // A network stays when the last pod with ports has left it: it does no harm, and the next pod is in it.
        content.mapped.extend(built.0.iter().copied());
        content.mapped.sort_unstable();
        content.mapped.dedup();
        let networks = (content.mapped.clone(), content.hidden.clone());
        let changed = (*built != networks).then_some(&content);
        match rules::publish(&mut state.connection, &self.table, mappings, changed) {
            Ok(()) => state.built = Some(networks),
            // Someone flushed the table, or it holds what no pod of ours has.
            Err(refused) if matches!(refused.errno(), libc::ENOENT | libc::EEXIST) => {
                return self.rebuild(state);
            }
            Err(refused) => return Err(refused),
        }
        Ok(())
    }

    fn rebuild(&self, state: &mut State) -> Result<(), Refused> {
        state.built = None;
        let content = state.content();
        rules::rebuild(&mut state.connection, &self.table, &content)?;
        state.built = Some((content.mapped, content.hidden));
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_empty(&self) -> bool {
        self.pods.is_empty() && self.hidden.is_empty()
    }

    /// So that senders of UDP notice that a port has changed hands. A failure only means that some do so late.
    fn forget_flows(&mut self, mappings: &[Mapping]) {
        let udp = mappings
            .iter()
            .filter(|m| m.protocol == Protocol::Udp)
            .map(|m| m.host_port);
        for port in udp.collect::<BTreeSet<_>>() {
            if let Err(refused) = conntrack::forget_udp(&mut self.connection, port) {
                tracing::debug!(port, %refused, "cannot make the kernel forget UDP flows");
            }
        }
    }

    fn owner_of(&self, claim: &Claim, asking: &PodId) -> Option<&PodId> {
        let others = self.pods.iter().filter(|(pod, _)| *pod != asking);
        let mut owners =
            others.filter(|(_, published)| published.claims.iter().any(|other| claim.meets(other)));
        owners.next().map(|(pod, _)| pod)
    }

    fn content(&self) -> Content {
        let networks: BTreeSet<Cidr> = self
            .pods
            .values()
            .flat_map(|p| p.networks.iter().copied())
            .collect();
        Content {
            mappings: self
                .pods
                .values()
                .flat_map(|p| p.mappings.iter().copied())
                .collect(),
            mapped: networks.into_iter().collect(),
            hidden: self.hidden.iter().copied().collect(),
        }
    }
}

impl Claim {
    fn of(port: &PortMapping) -> Result<Self> {
        let host_ip = match port.host_ip.as_str() {
            "" => None,
            text => {
                let wrong = |_| {
                    Error::invalid(format!(
                        "host IP {text:?} of host port {} is no address",
                        port.host_port
                    ))
                };
                Some(text.parse::<IpAddr>().map_err(wrong)?)
            }
        };
        Ok(Self {
            protocol: port.protocol,
            host_ip,
            host_port: port.host_port,
            pod_port: port.container_port,
        })
    }

    /// Whether a packet could be for both.
    fn meets(&self, other: &Self) -> bool {
        let same_address = match (self.host_ip, other.host_ip) {
            (Some(one), Some(two)) => {
                one == two
                    || (one.is_ipv4() == two.is_ipv4() && (one.is_unspecified() || two.is_unspecified()))
            }
            _ => true,
        };
        self.protocol == other.protocol && self.host_port == other.host_port && same_address
    }

    /// The mapping to `pod_ip`, unless the claim is for the other family.
    fn to(&self, pod_ip: IpAddr) -> Option<Mapping> {
        if self.host_ip.is_some_and(|ip| ip.is_ipv4() != pod_ip.is_ipv4()) {
            return None;
        }
        Some(Mapping {
            host_ip: self.host_ip.filter(|ip| !ip.is_unspecified()),
            host_port: self.host_port,
            protocol: self.protocol,
            pod_ip,
            pod_port: self.pod_port,
        })
    }
}

impl std::fmt::Display for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(ip) = self.host_ip {
            write!(f, "{ip} ")?;
        }
        write!(f, "{}/{}", self.host_port, protocol_name(self.protocol))
    }
}

/// Each claim for each family the pod has; the first address of a family counts.
fn mappings(claims: &[Claim], addresses: &[Cidr]) -> Result<Vec<Mapping>> {
    let first = |v4: bool| addresses.iter().map(Cidr::addr).find(|addr| addr.is_ipv4() == v4);
    let targets: Vec<IpAddr> = [first(true), first(false)].into_iter().flatten().collect();
    let mut found = Vec::new();
    for claim in claims {
        let before = found.len();
        found.extend(targets.iter().filter_map(|ip| claim.to(*ip)));
        if found.len() == before {
            let what = format!("host port {claim}: the pod has no address of that family");
            return Err(Error::invalid(what));
        }
    }
    Ok(found)
}

/// Packets to a pod are forwarded, and those from 127.0.0.1 leave by the interface its address is behind, which the
/// kernel forbids unless told otherwise.
fn prepare_node(mappings: &[Mapping]) -> Result<()> {
    sysctl::enable_forwarding(mappings.iter().any(|m| m.pod_ip.is_ipv6()))?;
    let targets: BTreeSet<IpAddr> = mappings
        .iter()
        .map(|m| m.pod_ip)
        .filter(IpAddr::is_ipv4)
        .collect();
    for pod_ip in targets {
        let interface = interface_towards(pod_ip).map_err(|e| e.context("publish host ports"))?;
        sysctl::set(&format!("ipv4/conf/{interface}/route_localnet"), "1")?;
    }
    Ok(())
}

fn interface_towards(addr: IpAddr) -> Result<String> {
    let what = || format!("find the interface towards {addr}");
    let answers = Socket::route()
        .and_then(|mut s| s.dump(route::find_route(addr)))
        .with_context(what)?;
    let link = answers
        .iter()
        .find_map(|answer| route::read_route(answer))
        .and_then(|route| route.link);
    let index = link.ok_or_else(|| Error::internal(format!("{}: there is no route", what())))?;
    let name = if_indextoname(index).with_context(what)?;
    Ok(name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests;
