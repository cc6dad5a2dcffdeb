//! One rule of a packet filter chain: what it looks at, and what it does then.
//!
//! The kernel runs a rule's expressions in order. They load into registers, compare, look up, act.

use super::nft::{Family, LIST_ITEM, value};
use crate::network::netlink::nla::Attributes;

/// The first of the 32-bit registers; the others follow.
const REGISTER: u32 = 8;

/// A rule under construction. Matches come first, and end the rule where they fail.
#[derive(Default)]
pub struct Rule(Attributes);

impl Rule {
    /// The expressions, for a message.
    pub fn encode(self) -> Attributes {
        self.0
    }

    /// The packet is of the family.
    pub fn family(self, family: Family) -> Self {
        self.meta(15, REGISTER).equals(&[family.protocol()], false)
    }

    /// The packet did not come in by the loopback device.
    pub fn not_from_loopback(self) -> Self {
        self.meta(4, REGISTER).equals(&1u32.to_ne_bytes(), true)
    }

    /// The IPv4 source is in 127.0.0.0/8.
    pub fn source_is_loopback(self) -> Self {
        self.payload(1, Family::V4.source_offset(), 1, REGISTER)
            .equals(&[127], false)
    }

    /// The IPv4 destination is in 127.0.0.0/8.
    pub fn destination_is_loopback(self) -> Self {
        self.payload(1, Family::V4.destination_offset(), 1, REGISTER)
            .equals(&[127], false)
    }

    /// The source is in `set`.
    pub fn source_in(self, family: Family, set: &str) -> Self {
        self.payload(1, family.source_offset(), family.width(), REGISTER)
            .lookup(set, None, false)
    }

    /// The destination is in `set`, or with `not` is not.
    pub fn destination_in(self, family: Family, set: &str, not: bool) -> Self {
        self.payload(1, family.destination_offset(), family.width(), REGISTER)
            .lookup(set, None, not)
    }

    /// The destination is an address of this node.
    pub fn destination_is_local(self) -> Self {
        const DESTINATION: u32 = 2;
        const ADDRESS_TYPE: u32 = 3;
        const LOCAL: u32 = 2;
        let fib = Attributes::default()
            .be32(1, REGISTER)
            .be32(2, ADDRESS_TYPE)
            .be32(3, DESTINATION);
        self.expression("fib", fib).equals(&LOCAL.to_ne_bytes(), false)
    }

    /// The connection was led to another destination.
    pub fn destination_was_changed(self) -> Self {
        const STATUS: u32 = 2;
        const DESTINATION_NAT: u32 = 1 << 5;
        let mask = DESTINATION_NAT.to_ne_bytes();
        let bits = Attributes::default()
            .be32(1, REGISTER)
            .be32(2, REGISTER)
            .be32(3, 4)
            .nested(4, value(&mask))
            .nested(5, value(&[0; 4]));
        self.expression("ct", Attributes::default().be32(1, REGISTER).be32(2, STATUS))
            .expression("bitwise", bits)
            .equals(&[0; 4], true)
    }

    /// Leads the connection to what `map` has for protocol and port, and with `with_address` for the destination
    /// address before them. Ends the rule if it has nothing.
    pub fn redirect_by(self, family: Family, map: &str, with_address: bool) -> Self {
        let words = family.width() / 4;
        let (rule, next) = if with_address {
            (
                self.payload(1, family.destination_offset(), family.width(), REGISTER),
                REGISTER + words,
            )
        } else {
            (self, REGISTER)
        };
        let to = Attributes::default()
            .be32(1, 1)
            .be32(2, family.protocol().into())
            .be32(3, REGISTER)
            .be32(5, REGISTER + words);
        rule.meta(16, next)
            .payload(2, 2, 2, next + 1)
            .lookup(map, Some(REGISTER), false)
            .expression("nat", to)
    }

    /// Hides the source behind the address of the interface the packet leaves by.
    pub fn masquerade(self) -> Self {
        self.expression("masq", Attributes::default())
    }

    /// Drops the packet.
    pub fn drop(self) -> Self {
        self.verdict(0, None)
    }

    /// Goes on in `chain`.
    pub fn jump(self, chain: &str) -> Self {
        self.verdict(-3, Some(chain))
    }

    fn verdict(self, code: i32, chain: Option<&str>) -> Self {
        let mut verdict = Attributes::default().be32(1, code.cast_unsigned());
        if let Some(chain) = chain {
            verdict = verdict.text(2, chain);
        }
        let data = Attributes::default().nested(2, verdict);
        self.expression("immediate", Attributes::default().be32(1, 0).nested(2, data))
    }

    fn meta(self, key: u32, register: u32) -> Self {
        self.expression("meta", Attributes::default().be32(1, register).be32(2, key))
    }

    /// Loads bytes of the network header (`base` 1) or the transport header (2).
    fn payload(self, base: u32, offset: u32, length: u32, register: u32) -> Self {
        let load = Attributes::default()
            .be32(1, register)
            .be32(2, base)
            .be32(3, offset)
            .be32(4, length);
        self.expression("payload", load)
    }

    fn equals(self, bytes: &[u8], not: bool) -> Self {
        let compare = Attributes::default()
            .be32(1, REGISTER)
            .be32(2, not.into())
            .nested(3, value(bytes));
        self.expression("cmp", compare)
    }

    fn lookup(self, set: &str, into: Option<u32>, not: bool) -> Self {
        let mut look = Attributes::default().text(1, set).be32(2, REGISTER);
        if let Some(register) = into {
            look = look.be32(3, register);
        }
        if not {
            look = look.be32(5, 1);
        }
        self.expression("lookup", look)
    }

    fn expression(self, name: &str, data: Attributes) -> Self {
        let expression = Attributes::default().text(1, name).nested(2, data);
        Self(self.0.nested(LIST_ITEM, expression))
    }
}
