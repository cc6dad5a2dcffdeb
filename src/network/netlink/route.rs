//! Routing-netlink messages: links, addresses, routes. Builds requests and reads dumps; sends nothing.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{NetlinkMessage, NetlinkPayload, NetlinkSerializable};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoBridgePort, InfoData, InfoKind, InfoPortData,
    InfoPortKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{ACK, CREATE, DUMP, EXCL, Request};
use crate::network::cidr::Cidr;

/// A hardware address.
pub type Mac = [u8; 6];

/// A pair of connected interfaces: one on the node, one in another network namespace.
pub struct Veth<'a> {
    /// Name on the node.
    pub host: &'a str,
    /// Index of the bridge the node's end belongs to.
    pub bridge: u32,
    /// Name in the namespace.
    pub inner: &'a str,
    /// Hardware address in the namespace.
    pub mac: Mac,
    /// The namespace.
    pub netns: BorrowedFd<'a>,
    /// MTU of both ends; 0 for the kernel's default.
    pub mtu: u32,
}

impl Veth<'_> {
    /// Makes both ends, puts the inner one into its namespace and the outer one into the bridge. Both are down.
    pub fn create(&self) -> Request {
        let mut peer = LinkMessage::default();
        peer.attributes = vec![
            LinkAttribute::IfName(self.inner.to_owned()),
            LinkAttribute::Address(self.mac.to_vec()),
            LinkAttribute::NetNsFd(self.netns.as_raw_fd()),
        ];
        let mut link = LinkMessage::default();
        link.attributes = vec![
            LinkAttribute::IfName(self.host.to_owned()),
            LinkAttribute::Controller(self.bridge),
        ];
        if self.mtu != 0 {
            peer.attributes.push(LinkAttribute::Mtu(self.mtu));
            link.attributes.push(LinkAttribute::Mtu(self.mtu));
        }
        link.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        request(RouteNetlinkMessage::NewLink(link), ACK | CREATE | EXCL)
    }
}

/// Keeps the link called `name` from giving itself an IPv6 address: a bridge port needs none, and one would cost
/// messages to every other port. To be asked while the link is down.
pub fn without_link_local(name: &str) -> Request {
    let mut link = LinkMessage::default();
    let none = vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)];
    link.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(none)]),
    ];
    request(RouteNetlinkMessage::SetLink(link), ACK)
}

/// Lets the bridge send back by the port called `name` what came in by it: a pod that reaches itself by a host port or a
/// service address, on nodes where bridged packets go through the packet filter.
pub fn allow_hairpin(name: &str) -> Request {
    let mut link = LinkMessage::default();
    link.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(true)])),
        ]),
    ];
    request(RouteNetlinkMessage::NewLink(link), ACK)
}

/// Brings the link called `name` up.
pub fn set_up_by_name(name: &str) -> Request {
    let mut link = up(LinkMessage::default());
    link.attributes = vec![LinkAttribute::IfName(name.to_owned())];
    request(RouteNetlinkMessage::SetLink(link), ACK)
}

/// Makes a bridge, up, with a hardware address that does not change as ports come and go.
pub fn create_bridge(name: &str, mac: Mac, mtu: u32) -> Request {
    let mut link = up(LinkMessage::default());
    link.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Address(mac.to_vec()),
    ];
    if mtu != 0 {
        link.attributes.push(LinkAttribute::Mtu(mtu));
    }
    link.attributes
        .push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]));
    request(RouteNetlinkMessage::NewLink(link), ACK | CREATE | EXCL)
}

/// Removes the link called `name`.
pub fn delete_link(name: &str) -> Request {
    let mut link = LinkMessage::default();
    link.attributes = vec![LinkAttribute::IfName(name.to_owned())];
    request(RouteNetlinkMessage::DelLink(link), ACK)
}

/// Brings the link with `index` up.
pub fn set_up(index: u32) -> Request {
    let mut link = up(LinkMessage::default());
    link.header.index = index;
    request(RouteNetlinkMessage::SetLink(link), ACK)
}

/// Gives the link with `index` an address; its network becomes reachable through the link.
pub fn add_address(index: u32, address: Cidr) -> Request {
    let mut message = AddressMessage::default();
    message.header.family = family(address.addr());
    message.header.prefix_len = address.prefix();
    message.header.index = index;
    message.attributes = vec![
        AddressAttribute::Local(address.addr()),
        AddressAttribute::Address(address.addr()),
    ];
    match address.nth(address.span()) {
        // Addresses are handed out once, so asking the link whether one is taken only costs a second of waiting.
        Some(IpAddr::V6(_)) => message.header.flags = AddressHeaderFlags::Nodad,
        Some(IpAddr::V4(last)) if address.prefix() < 31 => {
            message.attributes.push(AddressAttribute::Broadcast(last));
        }
        _ => {}
    }
    request(RouteNetlinkMessage::NewAddress(message), ACK | CREATE | EXCL)
}

/// Sends everything that has no better route through `gateway`.
pub fn add_default_route(index: u32, gateway: IpAddr) -> Request {
    let mut message = RouteMessage::default();
    message.header.address_family = family(gateway);
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Boot;
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![
        RouteAttribute::Gateway(gateway.into()),
        RouteAttribute::Oif(index),
    ];
    request(RouteNetlinkMessage::NewRoute(message), ACK | CREATE)
}

/// Asks for all routes of the family of `of`.
pub fn list_routes(of: IpAddr) -> Request {
    let mut message = RouteMessage::default();
    message.header.address_family = family(of);
    request(RouteNetlinkMessage::GetRoute(message), DUMP)
}

/// Asks which way packets to `to` go.
pub fn find_route(to: IpAddr) -> Request {
    let mut message = RouteMessage::default();
    message.header.address_family = family(to);
    message.header.destination_prefix_length = Cidr::host(to).prefix();
    message.attributes = vec![RouteAttribute::Destination(to.into())];
    request(RouteNetlinkMessage::GetRoute(message), ACK)
}

/// A route as far as husk looks at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Where it leads; `None` for a default route.
    pub destination: Option<Cidr>,
    /// Index of the link it goes out by.
    pub link: Option<u32>,
}

/// Reads one message of a route dump. `None` for what is no unicast route, or what this version cannot read.
pub fn read_route(message: &[u8]) -> Option<Route> {
    let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(message).ok()?;
    let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) = message.payload else {
        return None;
    };
    if route.header.kind != RouteType::Unicast {
        return None;
    }
    let mut found = Route {
        destination: None,
        link: None,
    };
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(to) => {
                found.destination = Cidr::new(address(to)?, route.header.destination_prefix_length);
            }
            RouteAttribute::Oif(index) => found.link = Some(*index),
            _ => {}
        }
    }
    Some(found)
}

fn address(from: &RouteAddress) -> Option<IpAddr> {
    match from {
        RouteAddress::Inet(v4) => Some((*v4).into()),
        RouteAddress::Inet6(v6) => Some((*v6).into()),
        _ => None,
    }
}

fn up(mut link: LinkMessage) -> LinkMessage {
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    link
}

fn family(addr: IpAddr) -> AddressFamily {
    match addr {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn request(message: RouteNetlinkMessage, flags: u16) -> Request {
    let mut payload = vec![0; NetlinkSerializable::buffer_len(&message)];
    message.serialize(&mut payload);
    Request::new(message.message_type(), flags, &payload)
}
