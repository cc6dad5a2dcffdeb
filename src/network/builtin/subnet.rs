//! Chooses the pods' network so that it is nobody else's on this node.

use std::io;
use std::net::IpAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::thread;
use std::time::Duration;

use crate::network::cidr::Cidr;
use crate::network::netlink::{Socket, route};

/// How many networks are tried before giving up.
const TRIES: usize = 256;
const PRIVATE: [&str; 4] = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fd00::/8"];

/// The wanted network, or the first one after it of the same size that shares no address with `taken`. Stays within the
/// private range that the wanted one is in, and goes round at its end.
pub fn choose(wanted: Cidr, taken: &[Cidr]) -> Option<Cidr> {
    let wanted = wanted.network();
    let free = |candidate: &Cidr| !taken.iter().any(|other| other.overlaps(candidate));
    let range = private_range(wanted)?;
    let mut candidate = Some(wanted);
    for _ in 0..TRIES {
        let now = candidate
            .filter(|c| range.contains(c.addr()))
            .unwrap_or(first_of(range, wanted)?);
        if free(&now) {
            return Some(now);
        }
        candidate = now.next();
    }
    None
}

/// The private range around `network`; the network itself if it is in none, so that nothing else is ever chosen.
fn private_range(network: Cidr) -> Option<Cidr> {
    for range in PRIVATE {
        let range: Cidr = range.parse().ok()?;
        if range.contains(network.addr()) && range.prefix() <= network.prefix() {
            return Some(range);
        }
    }
    Some(network)
}

fn first_of(range: Cidr, like: Cidr) -> Option<Cidr> {
    Cidr::new(range.network().addr(), like.prefix())
}

/// Networks that packets are routed to by other links than `except`. Default routes do not count.
///
/// # Errors
/// The kernel does not list its routes.
pub fn routed(family: IpAddr, except: Option<u32>) -> io::Result<Vec<Cidr>> {
    let answers = Socket::route()?.dump(route::list_routes(family))?;
    let routes = answers.iter().filter_map(|answer| route::read_route(answer));
    Ok(routes
        .filter(|route| route.link.is_none() || route.link != except)
        .filter_map(|route| route.destination)
        .filter(|destination| destination.prefix() > 0)
        .collect())
}

/// Held while a network is chosen and its bridge made, against other husk daemons on the node that choose at the same
/// moment. It is an abstract socket because that has the right scope, one network namespace, and goes with its process.
pub struct Turn(#[expect(dead_code, reason = "held, not used")] Option<UnixListener>);

impl Turn {
    /// Waits for the turn, five seconds at most: then someone holds the name who is no husk.
    pub fn wait() -> Self {
        let Ok(name) = SocketAddr::from_abstract_name(b"husk-choosing-a-subnet") else {
            return Self(None);
        };
        for _ in 0..500 {
            match UnixListener::bind_addr(&name) {
                Ok(held) => return Self(Some(held)),
                Err(e) if e.kind() == io::ErrorKind::AddrInUse => thread::sleep(Duration::from_millis(10)),
                Err(_) => break,
            }
        }
        tracing::warn!("chose the pods' subnet without locking out other daemons");
        Self(None)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn chosen(wanted: &str, taken: &[&str]) -> Option<String> {
        let taken: Vec<Cidr> = taken.iter().map(|t| t.parse().unwrap()).collect();
        choose(wanted.parse().unwrap(), &taken).map(|c| c.to_string())
    }

    #[test]
    fn the_wanted_network_is_used_when_free_and_the_next_when_not() {
        assert_eq!(chosen("10.88.0.0/24", &["192.0.2.0/24"]).unwrap(), "10.88.0.0/24");
        assert_eq!(
            chosen("10.88.0.9/24", &["10.88.0.128/25"]).unwrap(),
            "10.88.1.0/24"
        );
        assert_eq!(
            chosen("10.88.0.0/24", &["10.88.0.0/23", "10.88.2.7/32"]).unwrap(),
            "10.88.3.0/24"
        );
    }

    #[test]
    fn the_search_goes_round_its_private_range_and_never_leaves_it() {
        assert_eq!(
            chosen("192.168.255.0/24", &["192.168.255.0/24"]).unwrap(),
            "192.168.0.0/24"
        );
        assert_eq!(chosen("172.16.0.0/12", &["172.20.0.0/16"]), None);
        assert_eq!(chosen("10.88.0.0/24", &["10.0.0.0/8"]), None);
        assert_eq!(chosen("203.0.113.0/24", &["203.0.113.0/28"]), None);
        assert_eq!(
            chosen("fd00:1::/64", &["fd00:1::/64"]).unwrap(),
            "fd00:1:0:1::/64"
        );
    }

    #[test]
    fn the_nodes_own_routes_are_seen() {
        let netns = crate::network::netns::create().unwrap();
        let seen = crate::network::netns::inside_fd(std::os::fd::AsFd::as_fd(&netns), || {
            let mut socket = Socket::route().unwrap();
            socket
                .run(vec![route::create_bridge("br0", [2, 0, 0, 0, 0, 1], 0)])
                .unwrap();
            let bridge = nix::net::if_::if_nametoindex("br0").unwrap();
            socket
                .run(vec![route::add_address(bridge, "10.7.0.1/24".parse().unwrap())])
                .unwrap();
            let v4: IpAddr = "0.0.0.0".parse().unwrap();
            (routed(v4, None).unwrap(), routed(v4, Some(bridge)).unwrap())
        });
        let (all, but_bridge) = seen.unwrap();
        assert!(all.contains(&"10.7.0.0/24".parse().unwrap()));
        assert!(!but_bridge.contains(&"10.7.0.0/24".parse().unwrap()));
    }

    #[test]
    fn one_has_the_turn_at_a_time() {
        let netns = crate::network::netns::create().unwrap();
        crate::network::netns::inside_fd(std::os::fd::AsFd::as_fd(&netns), || {
            let name = SocketAddr::from_abstract_name(b"husk-choosing-a-subnet").unwrap();
            let turn = Turn::wait();
            assert!(UnixListener::bind_addr(&name).is_err());
            drop(turn);
            assert!(UnixListener::bind_addr(&name).is_ok());
        })
        .unwrap();
    }
}
