//! nf_tables messages: tables, chains, maps and their elements, as the kernel reads them.
//!
//! Only the encoding. What husk's table looks like is `rules`; what a rule is made of is `rule`.

use super::rule::Rule;
use crate::network::netlink::nla::Attributes;
use crate::network::netlink::{ACK, APPEND, CREATE, EXCL, Refused, Request, Socket};

/// The address families that matter here.
const INET: u8 = 1;
const IPV4: u8 = 2;
const IPV6: u8 = 10;

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;

const NEW_TABLE: u16 = 0;
const DEL_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const NEW_SET: u16 = 9;
const NEW_ELEMENT: u16 = 12;
const DEL_ELEMENT: u16 = 14;
const GET_GENERATION: u16 = 16;

/// One of a list, be it of elements or expressions.
pub(super) const LIST_ITEM: u16 = 1;
/// An attribute's length field has 16 bits; a message takes no more elements than surely fit.
const ELEMENTS_PER_MESSAGE: usize = 256;

/// IPv4 or IPv6 within an `inet` table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// Bytes of an address.
    pub fn width(self) -> u32 {
        if self == Self::V4 { 4 } else { 16 }
    }

    /// As set names end.
    pub fn digit(self) -> char {
        if self == Self::V4 { '4' } else { '6' }
    }

    /// The kernel's number.
    pub fn protocol(self) -> u8 {
        if self == Self::V4 { IPV4 } else { IPV6 }
    }

    pub(super) fn source_offset(self) -> u32 {
        if self == Self::V4 { 12 } else { 8 }
    }

    pub(super) fn destination_offset(self) -> u32 {
        self.source_offset() + self.width()
    }

    /// The number by which the nft tool knows addresses of the family.
    fn data_type(self) -> u32 {
        if self == Self::V4 { 7 } else { 8 }
    }
}

/// Builds one transaction on one table.
pub struct Batch {
    table: String,
    requests: Vec<Request>,
    sets: u32,
}

impl Batch {
    /// A transaction on the `inet` table called `table`.
    pub fn new(table: &str) -> Self {
        let table = table.to_owned();
        Self {
            table,
            requests: Vec::new(),
            sets: 0,
        }
    }

    /// Makes the table, or takes the one that is there.
    pub fn add_table(&mut self) {
        let table = self.table.clone();
        self.push(NEW_TABLE, CREATE, |a| a.text(1, &table));
    }

    /// Removes the table with all in it.
    pub fn delete_table(&mut self) {
        let table = self.table.clone();
        self.push(DEL_TABLE, 0, |a| a.text(1, &table));
    }

    /// Makes a chain; `hook` is where the kernel calls it, if anywhere.
    pub fn add_chain(&mut self, name: &str, hook: Option<&Hook>) {
        self.push_in_table(NEW_CHAIN, CREATE, |a| {
            let a = a.text(3, name);
            match hook {
                None => a,
                Some(hook) => {
                    let point = Attributes::default()
                        .be32(1, hook.point)
                        .be32(2, hook.priority.cast_unsigned());
                    a.nested(4, point).text(7, hook.kind)
                }
            }
        });
    }

    /// Makes a set or map.
    pub fn add_set(&mut self, set: &Set) {
        self.sets += 1;
        let id = self.sets;
        self.push_in_table(NEW_SET, CREATE, |a| {
            let (key_type, key_length) = layout(&set.key);
            let mut flags = if set.intervals { 4 } else { 0 };
            let mut a = a.text(2, &set.name).be32(4, key_type).be32(5, key_length);
            if let Some(data) = &set.data {
                flags |= 8;
                let (data_type, data_length) = layout(data);
                a = a.be32(6, data_type).be32(7, data_length);
            }
            a.be32(3, flags).be32(10, id)
        });
    }

    /// Adds `elements` to a set. With `exclusive` an element that is there is an error.
    pub fn add_elements(&mut self, set: &str, elements: &[Element], exclusive: bool) {
        let flags = if exclusive { CREATE | EXCL } else { CREATE };
        for some in elements.chunks(ELEMENTS_PER_MESSAGE) {
            self.push_elements(NEW_ELEMENT, flags, set, some);
        }
    }

    /// Takes `elements` out of a set. One that is not there is an error.
    pub fn delete_elements(&mut self, set: &str, elements: &[Element]) {
        for some in elements.chunks(ELEMENTS_PER_MESSAGE) {
            self.push_elements(DEL_ELEMENT, 0, set, some);
        }
    }

    /// Empties a set.
    pub fn flush_set(&mut self, set: &str) {
        self.push_in_table(DEL_ELEMENT, 0, |a| a.text(2, set));
    }

    /// Adds a rule at the end of a chain.
    pub fn add_rule(&mut self, chain: &str, rule: Rule) {
        self.push_in_table(NEW_RULE, CREATE | APPEND, |a| {
            a.text(2, chain).nested(4, rule.encode())
        });
    }

    /// Puts the transaction into force, whole or not at all.
    ///
    /// # Errors
    /// The first refusal.
    pub fn commit(self, connection: &mut Connection) -> Result<(), Refused> {
        if self.requests.is_empty() {
            return Ok(());
        }
        let frame = |kind| Request::new(kind, 0, &header(0, SUBSYSTEM));
        let mut requests = vec![frame(BATCH_BEGIN)];
        requests.extend(self.requests);
        requests.push(frame(BATCH_END));
        // After a failure answers may still be under way; a new connection will not see them.
        connection
            .socket()?
            .run(requests)
            .inspect_err(|_| connection.0 = None)
    }

    fn push_elements(&mut self, kind: u16, flags: u16, set: &str, elements: &[Element]) {
        self.push_in_table(kind, flags, |a| {
            let mut list = Attributes::default();
            for element in elements {
                list = list.nested(LIST_ITEM, element.encode());
            }
            a.text(2, set).nested(3, list)
        });
    }

    fn push_in_table(&mut self, kind: u16, flags: u16, fill: impl FnOnce(Attributes) -> Attributes) {
        let table = self.table.clone();
        self.push(kind, flags, |a| fill(a.text(1, &table)));
    }

    fn push(&mut self, kind: u16, flags: u16, fill: impl FnOnce(Attributes) -> Attributes) {
        let payload = fill(Attributes::after(&header(INET, 0))).finish();
        self.requests
            .push(Request::new((SUBSYSTEM << 8) | kind, flags | ACK, &payload));
    }
}

/// A connection to nf_tables that stays open: closing one waits until the kernel has freed all that was ever deleted,
/// which takes tens of milliseconds.
#[derive(Default)]
pub struct Connection(Option<Socket>);

impl Connection {
    /// Whether this kernel and process can use nf_tables at all.
    ///
    /// # Errors
    /// They cannot.
    pub fn probe(&mut self) -> Result<(), Refused> {
        let request = Request::new((SUBSYSTEM << 8) | GET_GENERATION, ACK, &header(0, 0));
        self.socket()?.run(vec![request])
    }

    /// The socket, opened if need be.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn socket(&mut self) -> Result<&mut Socket, Refused> {
        let refused = |error| Refused {
            index: 0,
            error,
            text: String::new(),
        };
        match &mut self.0 {
            Some(socket) => Ok(socket),
            none => Ok(none.insert(Socket::netfilter().map_err(refused)?)),
        }
    }
}

fn header(family: u8, resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

/// Where a chain is called.
pub struct Hook {
    /// `filter` or `nat`.
    pub kind: &'static str,
    /// The kernel's number of the place.
    pub point: u32,
    /// Lower is earlier.
    pub priority: i32,
}

/// What a field of a key or value is.
#[derive(Debug, Clone, Copy)]
pub enum Field {
    /// An address.
    Address(Family),
    /// A transport protocol number.
    Protocol,
    /// A port.
    Port,
}

/// A set, or a map if it has `data`.
pub struct Set {
    /// Name.
    pub name: String,
    /// Fields of the key.
    pub key: Vec<Field>,
    /// Fields of the value.
    pub data: Option<Vec<Field>>,
    /// Keys are ranges.
    pub intervals: bool,
}

/// The nft tool's number for a sequence of fields, and its length: each field is padded to four bytes.
fn layout(fields: &[Field]) -> (u32, u32) {
    fields.iter().fold((0, 0), |(kind, length), field| {
        let (number, width) = match field {
            Field::Address(family) => (family.data_type(), family.width()),
            Field::Protocol => (12, 4),
            Field::Port => (13, 4),
        };
        ((kind << 6) | number, length + width)
    })
}

/// A key, its value in a map, and whether it ends a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    /// The key.
    pub key: Vec<u8>,
    /// The value.
    pub data: Option<Vec<u8>>,
    /// The key is the first one after a range.
    pub ends_range: bool,
}

impl Element {
    fn encode(&self) -> Attributes {
        let mut a = Attributes::default().nested(1, value(&self.key));
        if let Some(data) = &self.data {
            a = a.nested(2, value(data));
        }
        if self.ends_range {
            a = a.be32(3, 1);
        }
        a
    }
}

/// Bytes as a set or an expression holds them.
pub(super) fn value(bytes: &[u8]) -> Attributes {
    Attributes::default().bytes(1, bytes)
}
