//! Which device nodes a cgroup's processes may use: the rules of an OCI spec as one filter, enforced by either version.
//!
//! The filter means what version 1's kernel code means: a default and exceptions from it. A request is an exception if
//! one exception covers it. Version 2 has the same filter as an eBPF program.

pub(super) mod program;
pub(super) mod v1;
pub(super) mod v2;

use std::fmt;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use crate::types::{Error, Result};

/// What is done with a device.
pub(super) const MKNOD: u8 = 1;
pub(super) const READ: u8 = 2;
pub(super) const WRITE: u8 = 4;
pub(super) const ALL: u8 = MKNOD | READ | WRITE;

/// Most exceptions of one filter. A node with more devices needs a wildcard.
const MAX_EXCEPTIONS: usize = 8192;

/// Kind of device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Block,
    Char,
}

/// Device nodes, and what about them differs from the default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Exception {
    pub(super) kind: Kind,
    /// `None` is every number.
    pub(super) major: Option<u32>,
    /// `None` is every number.
    pub(super) minor: Option<u32>,
    /// Bits of [`MKNOD`], [`READ`] and [`WRITE`].
    pub(super) access: u8,
}

/// A default and exceptions from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Filter {
    pub(super) allow_by_default: bool,
    pub(super) exceptions: Vec<Exception>,
}

/// What every container may use: (major, minor) of character devices. Making nodes is harmless and allowed for all.
const DEFAULT: [(u32, Option<u32>); 9] = [
    (1, Some(3)), // null
    (1, Some(5)), // zero
    (1, Some(7)), // full
    (1, Some(8)), // random
    (1, Some(9)), // urandom
    (5, Some(0)), // tty
    (5, Some(1)), // console
    (5, Some(2)), // ptmx
    (136, None),  // pts/*
];

impl Filter {
    /// The filter of a new cgroup: nothing forbidden yet.
    pub(super) fn open() -> Self {
        Self {
            allow_by_default: true,
            exceptions: Vec::new(),
        }
    }

    /// Whether it forbids nothing.
    pub(super) fn is_open(&self) -> bool {
        self.allow_by_default && self.exceptions.is_empty()
    }

    /// The rules in order, then, where they forbid by default, the devices no container can do without.
    ///
    /// # Errors
    /// `InvalidArgument`: impossible numbers or access, or a rule that takes back part of an earlier wildcard.
    pub(super) fn of(rules: &[LinuxDeviceCgroup]) -> Result<Self> {
        let mut filter = Self {
            allow_by_default: false,
            exceptions: Vec::new(),
        };
        for rule in rules {
            filter.add(rule)?;
        }
        if !filter.allow_by_default {
            for kind in [Kind::Char, Kind::Block] {
                filter.except(Exception {
                    kind,
                    major: None,
                    minor: None,
                    access: MKNOD,
                })?;
            }
            for (major, minor) in DEFAULT {
                filter.except(Exception {
                    kind: Kind::Char,
                    major: Some(major),
                    minor,
                    access: ALL,
                })?;
            }
        }
        Ok(filter)
    }

    fn add(&mut self, rule: &LinuxDeviceCgroup) -> Result<()> {
        let bad = |why: &str| Error::invalid(format!("device rule \"{rule}\": {why}"));
        let access = access(rule.access().as_deref().unwrap_or("rwm"))
            .ok_or_else(|| bad("access is not of r, w, m"))?;
        let major = number(rule.major()).ok_or_else(|| bad("major number out of range"))?;
        let minor = number(rule.minor()).ok_or_else(|| bad("minor number out of range"))?;
        let kinds: &[Kind] = match rule.typ().unwrap_or(LinuxDeviceType::A) {
            LinuxDeviceType::B => &[Kind::Block],
            LinuxDeviceType::C | LinuxDeviceType::U => &[Kind::Char],
            LinuxDeviceType::A if access == ALL && major.is_none() && minor.is_none() => {
                *self = Self {
                    allow_by_default: rule.allow(),
                    exceptions: Vec::new(),
                };
                return Ok(());
            }
            LinuxDeviceType::A => &[Kind::Block, Kind::Char],
            LinuxDeviceType::P => return Err(bad("pipes are not subject to device rules")),
        };
        for &kind in kinds {
            let exception = Exception {
                kind,
                major,
                minor,
                access,
            };
            if rule.allow() == self.allow_by_default {
                self.take_back(&exception).map_err(|why| bad(&why))?;
            } else {
                self.except(exception)?;
            }
        }
        Ok(())
    }

    /// Adds an exception, into an earlier one for the same nodes if there is one.
    fn except(&mut self, new: Exception) -> Result<()> {
        if let Some(same) = self.exceptions.iter_mut().find(|e| e.same_nodes(&new)) {
            same.access |= new.access;
        } else if self.exceptions.len() >= MAX_EXCEPTIONS {
            return Err(Error::invalid(format!(
                "more than {MAX_EXCEPTIONS} device rules: use a wildcard"
            )));
        } else if new.access != 0 {
            self.exceptions.push(new);
        }
        Ok(())
    }

    /// Restores the default for nodes. It cannot be restored for some nodes of a wildcard: the kernel has no such thing.
    fn take_back(&mut self, nodes: &Exception) -> std::result::Result<(), String> {
        let wider = |e: &&Exception| e.overlaps(nodes) && !nodes.covers(e);
        if let Some(wider) = self.exceptions.iter().find(wider) {
            return Err(format!("would cut a hole into the wider rule \"{wider}\""));
        }
        for e in self.exceptions.iter_mut().filter(|e| nodes.covers(e)) {
            e.access &= !nodes.access;
        }
        self.exceptions.retain(|e| e.access != 0);
        Ok(())
    }

    /// What the filter decides. The kernel decides by the same words; this is for tests.
    #[cfg(test)]
    pub(super) fn allows(&self, kind: Kind, major: u32, minor: u32, access: u8) -> bool {
        let hit = self.exceptions.iter().any(|e| {
            let bits = if self.allow_by_default {
                e.access & access != 0
            } else {
                e.access & access == access
            };
            bits && e.kind == kind && e.major.is_none_or(|m| m == major) && e.minor.is_none_or(|m| m == minor)
        });
        hit != self.allow_by_default
    }
}

impl Exception {
    pub(super) fn same_nodes(&self, other: &Self) -> bool {
        (self.kind, self.major, self.minor) == (other.kind, other.major, other.minor)
    }

    /// All nodes of `other` are nodes of `self`.
    fn covers(&self, other: &Self) -> bool {
        let part = |mine: Option<u32>, theirs: Option<u32>| mine.is_none() || mine == theirs;
        self.kind == other.kind && part(self.major, other.major) && part(self.minor, other.minor)
    }

    /// Some node and some access of `other` are those of `self`.
    fn overlaps(&self, other: &Self) -> bool {
        let part = |a: Option<u32>, b: Option<u32>| a.is_none() || b.is_none() || a == b;
        self.access & other.access != 0
            && self.kind == other.kind
            && part(self.major, other.major)
            && part(self.minor, other.minor)
    }
}

/// The form of version 1's files: `c 1:3 rwm`.
impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.kind == Kind::Char { 'c' } else { 'b' };
        let number = |n: Option<u32>| n.map_or_else(|| "*".to_owned(), |n| n.to_string());
        write!(f, "{kind} {}:{} ", number(self.major), number(self.minor))?;
        for (bit, letter) in [(READ, "r"), (WRITE, "w"), (MKNOD, "m")] {
            if self.access & bit != 0 {
                f.write_str(letter)?;
            }
        }
        Ok(())
    }
}

fn access(text: &str) -> Option<u8> {
    text.bytes().try_fold(0, |bits, b| match b {
        b'r' => Some(bits | READ),
        b'w' => Some(bits | WRITE),
        b'm' => Some(bits | MKNOD),
        _ => None,
    })
}

/// A device number or, for a missing or negative one, all. The kernel's are 12 and 20 bits wide.
fn number(n: Option<i64>) -> Option<Option<u32>> {
    match n {
        None | Some(i64::MIN..=-1) => Some(None),
        Some(n) if n < 1 << 20 => Some(u32::try_from(n).ok()),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests;
