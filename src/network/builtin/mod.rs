//! The network husk makes itself, with nothing installed: a bridge, a pair of interfaces per pod, addresses from a
//! subnet that is free on this node.
//!
//! A pod's interfaces are never removed one by one: that is slow and holds the kernel's network lock. They go with the
//! namespace.

mod bridge;
mod ipam;
mod plan;
mod subnet;

use std::fs::{self, File};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::cidr::Cidr;
use super::netlink::{Refused, Socket, route};
use super::netns;
use super::record::{BuiltinRecord, replace};
use super::request::{Attachment, BuiltinConfig};
use crate::types::error::Context;
use crate::types::{Error, Kind, PodId, Result};
use ipam::Allocator;
use plan::{Plan, describe};

/// Name of a pod's interface within it.
pub const IFNAME: &str = "eth0";

/// The built-in network.
pub struct Builtin {
    config: BuiltinConfig,
    bridge: String,
    file: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    allocator: Allocator,
    pods: usize,
    /// The plan is in force: bridge and addresses are there, as far as is known.
    ready: Option<Ready>,
    /// Why it is not.
    problem: Option<String>,
}

#[derive(Clone)]
struct Ready {
    plan: Plan,
    index: u32,
}

impl Builtin {
    /// The network as configured; `tag` makes its names this daemon's own. Touches nothing yet.
    ///
    /// # Errors
    /// The configuration cannot work.
    pub fn new(config: BuiltinConfig, state_dir: &Path, tag: &str) -> Result<Self> {
        check(&config)?;
        let bridge = if config.bridge.is_empty() {
            format!("husk-{tag}")
        } else {
            config.bridge.clone()
        };
        let file = state_dir.join("builtin.json");
        Ok(Self {
            config,
            bridge,
            file,
            state: Mutex::default(),
        })
    }

    /// Takes over what a record holds.
    pub fn adopt(&self, record: &BuiltinRecord) {
        let mut state = self.lock();
        state.allocator.adopt(record.index);
        state.pods += 1;
    }

    /// Makes what the node needs if it is not there, and returns the subnets. Blocks for milliseconds the first time.
    ///
    /// # Errors
    /// No subnet is free, or the kernel refuses.
    pub fn ensure(&self) -> Result<Vec<Cidr>> {
        let mut state = self.lock();
        let ready = self.ensure_locked(&mut state);
        state.problem = ready.as_ref().err().map(ToString::to_string);
        ready.map(|ready| ready.plan.subnets)
    }

    /// Why the last [`Builtin::ensure`] failed.
    pub fn problem(&self) -> Option<String> {
        self.lock().problem.clone()
    }

    /// Reserves addresses for `pod`. They are the pod's once its record is written; until then a crash frees them.
    ///
    /// # Errors
    /// The subnet is full, or [`Builtin::ensure`] fails.
    pub fn reserve(&self, pod: &PodId) -> Result<BuiltinRecord> {
        let subnets = self.ensure()?;
        let mut state = self.lock();
        let span = subnets.iter().map(Cidr::span).min().unwrap_or(0);
        let index = state.allocator.take(span).ok_or_else(|| {
            let what = format!("no address is left in the built-in network {}", subnets[0]);
            Error::new(Kind::ResourceExhausted, what)
        })?;
        state.pods += 1;
        let ips = subnets
            .iter()
            .filter_map(|subnet| subnet.nth(index.into()))
            .collect();
        Ok(BuiltinRecord {
            host_interface: format!("hk{}", &pod.as_str()[..12]),
            index,
            ips,
        })
    }

    /// Gives the addresses back.
    pub fn release(&self, record: &BuiltinRecord) {
        let mut state = self.lock();
        state.allocator.release(record.index);
        state.pods = state.pods.saturating_sub(1);
    }

    /// Connects the namespace at `path` to the bridge and gives it what `record` reserved. Blocks for a millisecond.
    ///
    /// # Errors
    /// The namespace is gone or the kernel refuses. What was made is removed.
    pub fn attach(&self, record: &BuiltinRecord, path: &Path) -> Result<(Attachment, Vec<Cidr>)> {
        let ready = self.connect(record, path)?;
        let addresses = ready.plan.addresses(record.index);
        configure_inside(path, &addresses, &ready.plan.gateways()).inspect_err(|_| disconnect(record))?;
        Ok((describe(record, path, &ready.plan, &addresses), addresses))
    }

    /// Removes the bridge if husk made it and no pod uses it. `true` if nothing of the network is left.
    ///
    /// # Errors
    /// The kernel keeps it.
    pub fn close(&self) -> Result<bool> {
        let mut state = self.lock();
        if state.pods > 0 {
            return Ok(false);
        }
        let Some(plan) = self.read_plan() else {
            return Ok(true);
        };
        if plan.made {
            bridge::remove(&plan.bridge)?;
        }
        state.ready = None;
        let _ = fs::remove_file(&self.file);
        Ok(true)
    }

    /// Makes the pair of interfaces. If the bridge has gone meanwhile it is made again.
    fn connect(&self, record: &BuiltinRecord, path: &Path) -> Result<Ready> {
        let what = || {
            format!(
                "connect network namespace {} to bridge {}",
                path.display(),
                self.bridge
            )
        };
        let target = File::open(path).with_context(what)?;
        let mut tries = 0;
        loop {
            let ready = {
                let mut state = self.lock();
                self.ensure_locked(&mut state)?
            };
            let veth = route::Veth {
                host: &record.host_interface,
                bridge: ready.index,
                inner: IFNAME,
                mac: bridge::hardware_address(&ready.plan.addresses(record.index)),
                netns: target.as_fd(),
                mtu: self.config.mtu,
            };
            let refused = connect_veth(&veth).with_context(what)?;
            let Some(refused) = refused else {
                return Ok(ready);
            };
            tries += 1;
            if tries > 2 || !self.can_repair(&refused, &ready, record) {
                return Err(Error::internal(format!("{}: {refused}", what())));
            }
        }
    }

    /// Gets the two things out of the way that can be in it: a bridge that someone removed, and what an earlier attempt
    /// for the same pod left. `false` if it is neither.
    fn can_repair(&self, refused: &Refused, ready: &Ready, record: &BuiltinRecord) -> bool {
        if bridge::index_of(&ready.plan.bridge) != Some(ready.index) {
            tracing::warn!(bridge = ready.plan.bridge, %refused, "the bridge went away; making it again");
            self.lock().ready = None;
            return true;
        }
        if refused.errno() == libc::EEXIST && bridge::index_of(&record.host_interface).is_some() {
            disconnect(record);
            return true;
        }
        false
    }

    fn ensure_locked(&self, state: &mut State) -> Result<Ready> {
        if let Some(ready) = &state.ready {
            return Ok(ready.clone());
        }
        let _turn = subnet::Turn::wait();
        let plan = self.plan(state.pods > 0)?;
        // Before the effect: a daemon that dies now finds what it may remove.
        let bytes = serde_json::to_vec(&plan).context("write the built-in network's plan")?;
        replace(&self.file, &bytes, true).with_context(|| format!("write {}", self.file.display()))?;
        let index = bridge::ensure(&plan.bridge, &plan.gateway_addresses(), self.config.mtu)?;
        let ready = Ready { plan, index };
        state.ready = Some(ready.clone());
        Ok(ready)
    }

    /// The plan on disk as long as pods depend on it, whatever the configuration says by now; else a new one.
    fn plan(&self, in_use: bool) -> Result<Plan> {
        let kept = self.read_plan();
        if let Some(plan) = kept.as_ref().filter(|_| in_use) {
            return Ok(plan.clone());
        }
        if let Some(old) = kept
            .as_ref()
            .filter(|plan| plan.made && plan.bridge != self.bridge)
        {
            bridge::remove(&old.bridge)?;
        }
        let existing = bridge::index_of(&self.bridge);
        let subnets = self.choose_subnets(existing)?;
        let made = existing.is_none() || kept.is_some_and(|plan| plan.made && plan.bridge == self.bridge);
        Ok(Plan {
            bridge: self.bridge.clone(),
            made,
            subnets,
        })
    }

    fn choose_subnets(&self, bridge: Option<u32>) -> Result<Vec<Cidr>> {
        let mut chosen = Vec::new();
        for wanted in [Some(self.config.subnet), self.config.subnet6]
            .into_iter()
            .flatten()
        {
            let taken = subnet::routed(wanted.addr(), bridge).context("list the node's routes")?;
            let found = subnet::choose(wanted, &taken).ok_or_else(|| {
                let family: Vec<String> =
                    taken.iter().filter(|t| t.overlaps(&wanted)).map(ToString::to_string).collect();
                Error::internal(format!(
                    "the built-in network {wanted} overlaps with routes of this node ({}) and no network of its size is \
                     free near it; configure another subnet",
                    family.join(", ")
                ))
            })?;
            if found != wanted.network() {
                tracing::warn!(%wanted, using = %found, "the subnet is taken on this node; using another");
            }
            chosen.push(found);
        }
        Ok(chosen)
    }

    fn read_plan(&self) -> Option<Plan> {
        serde_json::from_slice(&fs::read(&self.file).ok()?).ok()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn check(config: &BuiltinConfig) -> Result<()> {
    let wrong = |what: String| Err(Error::invalid(format!("built-in network: {what}")));
    if config.bridge.len() > 15 || config.bridge.contains(['/', ' ']) {
        return wrong(format!("{:?} is no interface name", config.bridge));
    }
    if !config.subnet.addr().is_ipv4() || config.subnet.prefix() > 29 {
        return wrong(format!(
            "subnet {} must be IPv4 with a prefix length of at most 29",
            config.subnet
        ));
    }
    match config.subnet6 {
        Some(six) if six.addr().is_ipv4() || six.prefix() > 120 => wrong(format!(
            "subnet {six} must be IPv6 with a prefix length of at most 120"
        )),
        _ => Ok(()),
    }
}

/// Makes the pair and brings the node's end up, in one datagram.
fn connect_veth(veth: &route::Veth<'_>) -> std::io::Result<Option<Refused>> {
    const NEEDS_IPV6: usize = 1;
    let requests = vec![
        veth.create(),
        route::without_link_local(veth.host),
        route::allow_hairpin(veth.host),
        route::set_up_by_name(veth.host),
    ];
    let refused = Socket::route()?.batch(requests)?;
    Ok(refused.into_iter().find(|refused| refused.index != NEEDS_IPV6))
}

/// Addresses and default routes, in one datagram.
fn configure_inside(path: &Path, addresses: &[Cidr], gateways: &[IpAddr]) -> Result<()> {
    netns::inside(path, || {
        let what = || format!("configure {IFNAME} in {}", path.display());
        let index =
            bridge::index_of(IFNAME).ok_or_else(|| Error::internal(format!("{}: it is gone", what())))?;
        let mut requests = vec![route::set_up(index)];
        requests.extend(
            addresses
                .iter()
                .map(|address| route::add_address(index, *address)),
        );
        requests.extend(
            gateways
                .iter()
                .map(|gateway| route::add_default_route(index, *gateway)),
        );
        Socket::route()
            .with_context(what)?
            .run(requests)
            .with_context(what)
    })?
}

/// Undoes a connection whose namespace goes on living. Only after a failure: it is slow.
fn disconnect(record: &BuiltinRecord) {
    let removed = Socket::route().map(|mut s| s.run(vec![route::delete_link(&record.host_interface)]));
    if let Ok(Err(refused)) = removed {
        tracing::warn!(interface = record.host_interface, %refused, "cannot remove a half-made interface");
    }
}
