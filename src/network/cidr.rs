//! An IP network: address plus prefix length. Pure arithmetic; knows nothing of interfaces or pods.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An address with the prefix length of its network, such as `10.88.0.7/16`. The host bits are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    addr: IpAddr,
    prefix: u8,
}

impl Cidr {
    /// `None` if the prefix is longer than the address.
    pub fn new(addr: IpAddr, prefix: u8) -> Option<Self> {
        (prefix <= width(addr)).then_some(Self { addr, prefix })
    }

    /// The address alone, as a network of one.
    pub fn host(addr: IpAddr) -> Self {
        Self {
            addr,
            prefix: width(addr),
        }
    }

    /// The address, host bits included.
    pub fn addr(&self) -> IpAddr {
        self.addr
    }

    /// The prefix length.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The network itself: host bits cleared.
    pub fn network(&self) -> Self {
        Self {
            addr: from_bits(self.addr, self.first()),
            prefix: self.prefix,
        }
    }

    /// The address `index` places after the network's first one; `None` outside of the network.
    pub fn nth(&self, index: u128) -> Option<IpAddr> {
        let bits = self.first().checked_add(index)?;
        (bits <= self.last()).then(|| from_bits(self.addr, bits))
    }

    /// How many places `addr` is after the network's first address; `None` if it is outside.
    pub fn index_of(&self, addr: IpAddr) -> Option<u128> {
        self.contains(addr).then(|| bits(addr) - self.first())
    }

    /// Whether `addr` lies within the network.
    pub fn contains(&self, addr: IpAddr) -> bool {
        addr.is_ipv4() == self.addr.is_ipv4() && (self.first()..=self.last()).contains(&bits(addr))
    }

    /// Whether the two networks share an address.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.addr.is_ipv4() == other.addr.is_ipv4()
            && self.first() <= other.last()
            && other.first() <= self.last()
    }

    /// The next network of the same size; `None` past the end of the address space.
    pub fn next(&self) -> Option<Self> {
        let after = self.last().checked_add(1)?;
        if self.addr.is_ipv4() && after > u128::from(u32::MAX) {
            return None;
        }
        Some(Self {
            addr: from_bits(self.addr, after),
            prefix: self.prefix,
        })
    }

    /// First address and the one after the last (`None` at the end of the address space), as kernel interval sets
    /// want them.
    pub fn bounds(&self) -> (IpAddr, Option<IpAddr>) {
        (from_bits(self.addr, self.first()), self.next().map(|n| n.addr))
    }

    /// How many addresses the network has, less one.
    pub fn span(&self) -> u128 {
        let host_bits = u32::from(width(self.addr) - self.prefix);
        if host_bits == 128 {
            u128::MAX
        } else {
            (1u128 << host_bits) - 1
        }
    }

    fn first(&self) -> u128 {
        bits(self.addr) & !self.span()
    }

    fn last(&self) -> u128 {
        bits(self.addr) | self.span()
    }
}

fn width(addr: IpAddr) -> u8 {
    if addr.is_ipv4() { 32 } else { 128 }
}

fn bits(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn from_bits(family: IpAddr, bits: u128) -> IpAddr {
    match family {
        IpAddr::V4(_) => Ipv4Addr::from_bits(u32::try_from(bits).unwrap_or(u32::MAX)).into(),
        IpAddr::V6(_) => Ipv6Addr::from_bits(bits).into(),
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.prefix)
    }
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not an address with a prefix length, such as 10.88.0.0/16");
        let (addr, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let addr = addr.parse().map_err(|_| wrong())?;
        let prefix = prefix.parse().map_err(|_| wrong())?;
        Self::new(addr, prefix).ok_or_else(wrong)
    }
}

impl Serialize for Cidr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn arithmetic_stays_within_the_network() {
        let net = cidr("10.88.3.9/24");
        assert_eq!(net.network(), cidr("10.88.3.0/24"));
        assert_eq!(net.nth(1), Some("10.88.3.1".parse().unwrap()));
        assert_eq!(net.nth(256), None);
        assert_eq!(net.index_of("10.88.3.255".parse().unwrap()), Some(255));
        assert_eq!(net.index_of("10.88.4.0".parse().unwrap()), None);
        assert_eq!(net.next(), Some(cidr("10.88.4.0/24")));
    }

    #[test]
    fn the_ends_of_the_address_space_do_not_overflow() {
        assert_eq!(cidr("255.255.255.0/24").next(), None);
        assert_eq!(cidr("0.0.0.0/0").bounds(), ("0.0.0.0".parse().unwrap(), None));
        assert_eq!(cidr("::/0").next(), None);
        assert_eq!(
            cidr("::/0").nth(u128::MAX).unwrap().to_string(),
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
        );
    }

    #[test]
    fn overlap_is_symmetric_and_per_family() {
        assert!(cidr("10.0.0.0/8").overlaps(&cidr("10.88.0.0/16")));
        assert!(cidr("10.88.0.0/16").overlaps(&cidr("10.0.0.0/8")));
        assert!(!cidr("10.88.0.0/16").overlaps(&cidr("10.89.0.0/16")));
        assert!(!cidr("0.0.0.0/0").overlaps(&cidr("::/0")));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "10.0.0.1",
            "10.0.0.1/33",
            "::1/129",
            "10.0.0/8",
            "10.0.0.0/-1",
            "a/8",
        ] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }
}
