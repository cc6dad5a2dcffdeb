//! Makes the kernel forget UDP flows through host ports that have changed hands.
//!
//! A flow is led where its first packet was led, for as long as packets come. TCP clients connect anew when their pod is
//! gone; a UDP client that keeps sending would go on to reach the old pod's address, or nothing, for ever.

use super::nft::{Connection, Family};
use crate::network::netlink::nla::{self, Attributes};
use crate::network::netlink::{ACK, DUMP, Refused, Request};

const SUBSYSTEM: u16 = 1;
const GET: u16 = 1;
const DELETE: u16 = 2;

const TUPLE: u16 = 1;
const FILTER: u16 = 25;
const TUPLE_PROTOCOL: u16 = 2;
const PROTOCOL_NUMBER: u16 = 1;
const PROTOCOL_PORT: u16 = 3;
const UDP: u8 = 17;

/// Netlink header and the family header behind it.
const HEADERS: usize = 16 + 4;

/// Forgets all UDP flows to `port`, of both families.
///
/// # Errors
/// The kernel does not list or forget them; it may know no flows at all.
pub fn forget_udp(connection: &mut Connection, port: u16) -> Result<(), Refused> {
    for family in Family::ALL {
        let socket = connection.socket()?;
        let io = |error| Refused {
            index: 0,
            error,
            text: String::new(),
        };
        // Kernels before 5.8 take no filter and list everything, or refuse.
        let listed = socket
            .dump(list(family, port, true))
            .or_else(|_| socket.dump(list(family, port, false)));
        let flows = listed.map_err(io)?;
        let deletions: Vec<Request> = flows
            .iter()
            .filter_map(|flow| nla::find(flow.get(HEADERS..)?, TUPLE))
            .filter(|tuple| is_udp_to(tuple, port))
            .map(|tuple| delete(family, tuple))
            .collect();
        if !deletions.is_empty() {
            // One that has ended meanwhile is as good as deleted.
            let refused = socket.batch(deletions).map_err(io)?;
            if let Some(refused) = refused.into_iter().find(|r| r.errno() != libc::ENOENT) {
                return Err(refused);
            }
        }
    }
    Ok(())
}

fn list(family: Family, port: u16, filtered: bool) -> Request {
    let mut a = Attributes::after(&header(family));
    if filtered {
        const NUMBER_AND_PORT: u32 = (1 << 3) | (1 << 5);
        let protocol = Attributes::default()
            .bytes(PROTOCOL_NUMBER, &[UDP])
            .bytes(PROTOCOL_PORT, &port.to_be_bytes());
        let filter = Attributes::default()
            .bytes(1, &NUMBER_AND_PORT.to_ne_bytes())
            .bytes(2, &0u32.to_ne_bytes());
        a = a
            .nested(TUPLE, Attributes::default().nested(TUPLE_PROTOCOL, protocol))
            .nested(FILTER, filter);
    }
    Request::new((SUBSYSTEM << 8) | GET, DUMP, &a.finish())
}

fn delete(family: Family, tuple: &[u8]) -> Request {
    let a = Attributes::after(&header(family)).nested(TUPLE, Attributes::after(tuple));
    Request::new((SUBSYSTEM << 8) | DELETE, ACK, &a.finish())
}

fn header(family: Family) -> [u8; 4] {
    [family.protocol(), 0, 0, 0]
}

fn is_udp_to(tuple: &[u8], port: u16) -> bool {
    let field = |kind| nla::find(nla::find(tuple, TUPLE_PROTOCOL)?, kind);
    field(PROTOCOL_NUMBER) == Some(&[UDP]) && field(PROTOCOL_PORT) == Some(&port.to_be_bytes())
}
