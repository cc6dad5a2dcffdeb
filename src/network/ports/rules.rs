//! husk's packet filter table: what it looks like and how pods come and go in it.
//!
//! ```text
//! table inet husk-1a2b3c4d
//!   hostports{4,6}   map   address . protocol . port -> pod . port    mappings with a host address
//!   ports{4,6}       map   protocol . port -> pod . port              mappings for any address
//!   mapped{4,6}      set   networks of the pods in those maps
//!   hidden{4,6}      set   networks that leave the node under its own address (the built-in network)
//!   prerouting, output   for local destinations: look into the maps
//!   postrouting          hide what would otherwise be answered past the node, and what leaves it
//!   guard                drop 127.0.0.0/8 from outside
//! ```
//!
//! Connections to 127.0.0.1 reach pods because `route_localnet` is set on the interface they leave by; the guard keeps
//! the door shut that this opens (packets from pods or neighbours to the node's loopback services).

use std::net::IpAddr;

use super::nft::{Batch, Connection, Element, Family, Field, Hook, Set};
use super::rule::Rule;
use crate::network::cidr::Cidr;
use crate::network::netlink::Refused;
use crate::types::pod::Protocol;

/// One host port that leads to a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping {
    /// Address on the node; `None` for all of the pod's family.
    pub host_ip: Option<IpAddr>,
    /// Port on the node.
    pub host_port: u16,
    /// Protocol.
    pub protocol: Protocol,
    /// The pod's address.
    pub pod_ip: IpAddr,
    /// Port in the pod.
    pub pod_port: u16,
}

/// Everything that is to be in the table.
#[derive(Debug, Clone, Default)]
pub struct Content {
    /// Host ports.
    pub mappings: Vec<Mapping>,
    /// Networks of pods that have host ports.
    pub mapped: Vec<Cidr>,
    /// Networks to hide.
    pub hidden: Vec<Cidr>,
}

/// Makes the table anew with `content`, in one step: there is no moment with half of it.
///
/// # Errors
/// The kernel refuses: usually a part of nf_tables is missing.
pub fn rebuild(to: &mut Connection, table: &str, content: &Content) -> Result<(), Refused> {
    let mut batch = Batch::new(table);
    // Deleting needs the table to be there.
    batch.add_table();
    batch.delete_table();
    batch.add_table();
    add_sets(&mut batch);
    add_chains(&mut batch);
    fill_networks(&mut batch, content);
    add_mappings(&mut batch, &content.mappings);
    batch.commit(to)
}

/// Adds host ports, and replaces the networks if they changed.
///
/// # Errors
/// `EEXIST` if one of them is taken, `ENOENT` if the table is gone.
pub fn publish(
    to: &mut Connection,
    table: &str,
    mappings: &[Mapping],
    networks: Option<&Content>,
) -> Result<(), Refused> {
    let mut batch = Batch::new(table);
    if let Some(content) = networks {
        for set in network_sets() {
            batch.flush_set(&set.name);
        }
        fill_networks(&mut batch, content);
    }
    add_mappings(&mut batch, mappings);
    batch.commit(to)
}

/// Takes host ports out.
///
/// # Errors
/// `ENOENT` if one of them or the table is gone.
pub fn withdraw(to: &mut Connection, table: &str, mappings: &[Mapping]) -> Result<(), Refused> {
    let mut batch = Batch::new(table);
    for (map, elements) in by_map(mappings) {
        batch.delete_elements(&map, &elements);
    }
    batch.commit(to)
}

/// Removes the table.
///
/// # Errors
/// `ENOENT` if it is not there.
pub fn remove(to: &mut Connection, table: &str) -> Result<(), Refused> {
    let mut batch = Batch::new(table);
    batch.delete_table();
    batch.commit(to)
}

fn add_sets(batch: &mut Batch) {
    for family in Family::ALL {
        let target = || Some(vec![Field::Address(family), Field::Port]);
        let map = |name: String, key| Set {
            name,
            key,
            data: target(),
            intervals: false,
        };
        let port = vec![Field::Protocol, Field::Port];
        let address_and_port = vec![Field::Address(family), Field::Protocol, Field::Port];
        batch.add_set(&map(ports(family), port));
        batch.add_set(&map(host_ports(family), address_and_port));
    }
    for set in network_sets() {
        batch.add_set(&set);
    }
}

fn network_sets() -> impl Iterator<Item = Set> {
    let set = |name, family| Set {
        name,
        key: vec![Field::Address(family)],
        data: None,
        intervals: true,
    };
    Family::ALL
        .into_iter()
        .flat_map(move |family| [set(mapped(family), family), set(hidden(family), family)])
}

fn add_chains(batch: &mut Batch) {
    const PREROUTING: u32 = 0;
    const OUTPUT: u32 = 3;
    const POSTROUTING: u32 = 4;
    let nat = |point, priority| Hook {
        kind: "nat",
        point,
        priority,
    };
    batch.add_chain(
        "guard",
        Some(&Hook {
            kind: "filter",
            point: PREROUTING,
            priority: -300,
        }),
    );
    batch.add_chain("hostports", None);
    batch.add_chain("prerouting", Some(&nat(PREROUTING, -100)));
    batch.add_chain("output", Some(&nat(OUTPUT, -100)));
    batch.add_chain("postrouting", Some(&nat(POSTROUTING, 100)));

    let outside = || Rule::default().family(Family::V4).not_from_loopback();
    batch.add_rule("guard", outside().destination_is_loopback().drop());
    batch.add_rule("guard", outside().source_is_loopback().drop());
    for chain in ["prerouting", "output"] {
        batch.add_rule(chain, Rule::default().destination_is_local().jump("hostports"));
    }
    for family in Family::ALL {
        let rule = || Rule::default().family(family);
        batch.add_rule("hostports", rule().redirect_by(family, &host_ports(family), true));
        batch.add_rule("hostports", rule().redirect_by(family, &ports(family), false));
    }
    add_hiding(batch);
}

/// Sources that must become the node's own, or answers would not come back through it.
fn add_hiding(batch: &mut Batch) {
    let local = Rule::default().family(Family::V4).source_is_loopback();
    let local = local
        .destination_in(Family::V4, &mapped(Family::V4), false)
        .destination_was_changed();
    batch.add_rule("postrouting", local.masquerade());
    for family in Family::ALL {
        // A pod that reaches a neighbour, or itself, through a host port.
        let neighbours = Rule::default().family(family).source_in(family, &mapped(family));
        let neighbours = neighbours
            .destination_in(family, &mapped(family), false)
            .destination_was_changed();
        batch.add_rule("postrouting", neighbours.masquerade());
        let leaving = Rule::default().family(family).source_in(family, &hidden(family));
        batch.add_rule(
            "postrouting",
            leaving.destination_in(family, &hidden(family), true).masquerade(),
        );
    }
}

fn fill_networks(batch: &mut Batch, content: &Content) {
    for family in Family::ALL {
        batch.add_elements(&mapped(family), &ranges(family, &content.mapped), false);
        batch.add_elements(&hidden(family), &ranges(family, &content.hidden), false);
    }
}

fn add_mappings(batch: &mut Batch, mappings: &[Mapping]) {
    for (map, elements) in by_map(mappings) {
        batch.add_elements(&map, &elements, true);
    }
}

fn ports(family: Family) -> String {
    format!("ports{}", family.digit())
}

fn host_ports(family: Family) -> String {
    format!("hostports{}", family.digit())
}

fn mapped(family: Family) -> String {
    format!("mapped{}", family.digit())
}

fn hidden(family: Family) -> String {
    format!("hidden{}", family.digit())
}

fn family_of(addr: IpAddr) -> Family {
    if addr.is_ipv4() { Family::V4 } else { Family::V6 }
}

/// The mappings as elements, by the map they belong to.
fn by_map(mappings: &[Mapping]) -> Vec<(String, Vec<Element>)> {
    let mut maps: Vec<(String, Vec<Element>)> = Vec::new();
    for mapping in mappings {
        let family = family_of(mapping.pod_ip);
        let map = if mapping.host_ip.is_some() {
            host_ports(family)
        } else {
            ports(family)
        };
        let element = element(mapping);
        match maps.iter_mut().find(|(name, _)| *name == map) {
            Some((_, elements)) => elements.push(element),
            None => maps.push((map, vec![element])),
        }
    }
    maps
}

fn element(mapping: &Mapping) -> Element {
    let mut key = mapping.host_ip.map(octets).unwrap_or_default();
    key.extend([protocol_number(mapping.protocol), 0, 0, 0]);
    key.extend(port_field(mapping.host_port));
    let mut data = octets(mapping.pod_ip);
    data.extend(port_field(mapping.pod_port));
    Element {
        key,
        data: Some(data),
        ends_range: false,
    }
}

fn port_field(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

fn octets(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(v4) => v4.octets().into(),
        IpAddr::V6(v6) => v6.octets().into(),
    }
}

fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

/// The networks of one family as ranges that neither overlap nor touch, which is what the kernel takes.
fn ranges(family: Family, networks: &[Cidr]) -> Vec<Element> {
    let mut bounds: Vec<(IpAddr, Option<IpAddr>)> = networks
        .iter()
        .filter(|network| family_of(network.addr()) == family)
        .map(Cidr::bounds)
        .collect();
    bounds.sort_by_key(|(first, _)| *first);
    let mut merged: Vec<(IpAddr, Option<IpAddr>)> = Vec::new();
    for (first, end) in bounds {
        match merged.last_mut() {
            Some((_, None)) => {}
            Some((_, last)) if last.is_some_and(|last| first <= last) => {
                *last = end.map(|end| last.map_or(end, |last| last.max(end)));
            }
            _ => merged.push((first, end)),
        }
    }
    let range = |addr, ends_range| Element {
        key: octets(addr),
        data: None,
        ends_range,
    };
    merged
        .into_iter()
        .flat_map(|(first, end)| [Some(range(first, false)), end.map(|end| range(end, true))])
        .flatten()
        .collect()
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
