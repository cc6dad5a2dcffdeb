//! The bridge on the node: makes it, finds it again, removes it.

use nix::net::if_::if_nametoindex;

use crate::network::cidr::Cidr;
use crate::network::netlink::{Socket, route};
use crate::network::sysctl;
use crate::types::error::Context;
use crate::types::{Error, Result};

/// Index of the link called `name`, if there is one.
pub fn index_of(name: &str) -> Option<u32> {
    if_nametoindex(name).ok()
}

/// Makes the bridge if it is not there, gives it its addresses, and returns its index.
///
/// # Errors
/// The kernel refuses.
pub fn ensure(name: &str, addresses: &[Cidr], mtu: u32) -> Result<u32> {
    let what = || format!("make bridge {name}");
    let mut socket = Socket::route().with_context(what)?;
    if index_of(name).is_none() {
        socket
            .run(vec![route::create_bridge(name, hardware_address(addresses), mtu)])
            .with_context(what)?;
        tracing::info!(bridge = name, "made the bridge of the built-in network");
    }
    let index = index_of(name).ok_or_else(|| Error::internal(format!("{}: it went away", what())))?;
    let mut requests = vec![route::set_up(index)];
    requests.extend(
        addresses
            .iter()
            .map(|address| route::add_address(index, *address)),
    );
    for refused in socket.batch(requests).with_context(what)? {
        // A bridge that was there has its address already.
        if refused.errno() != libc::EEXIST {
            return Err(Error::internal(format!("{}: {refused}", what())));
        }
    }
    sysctl::enable_forwarding(addresses.iter().any(|a| a.addr().is_ipv6()))?;
    Ok(index)
}

/// Removes the bridge. Idempotent.
///
/// # Errors
/// The kernel keeps it.
pub fn remove(name: &str) -> Result<()> {
    let mut socket = Socket::route().with_context(|| format!("remove bridge {name}"))?;
    match socket.run(vec![route::delete_link(name)]) {
        Err(refused) if refused.errno() != libc::ENODEV => {
            Err(Error::internal(format!("remove bridge {name}: {refused}")))
        }
        _ => Ok(()),
    }
}

/// A locally administered hardware address made from an IPv4 address. The same address always has the same one, so what
/// neighbours remember stays right when a pod takes over the address of another.
pub fn hardware_address(addresses: &[Cidr]) -> route::Mac {
    let v4 = addresses.iter().find_map(|address| match address.addr() {
        std::net::IpAddr::V4(v4) => Some(v4.octets()),
        std::net::IpAddr::V6(_) => None,
    });
    let [a, b, c, d] = v4.unwrap_or_default();
    [0x0a, 0x58, a, b, c, d]
}
