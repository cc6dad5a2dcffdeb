//! Between CRI's protobuf messages and husk's own types. Field by field, no decisions beyond what a value means.

pub mod container;
pub mod image;
pub mod inspect;
pub mod pod;
pub mod resources;
pub mod security;
pub mod signal;
pub mod stats;

use std::collections::{BTreeMap, HashMap};

use crate::types::error::{Error, Result};

/// A map as protobuf has it.
pub fn from_map(map: HashMap<String, String>) -> BTreeMap<String, String> {
    map.into_iter().collect()
}

/// A map for protobuf.
pub fn to_map(map: &BTreeMap<String, String>) -> HashMap<String, String> {
    map.iter().map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// An enum field, whose numbers a newer client may know more of.
pub fn enumeration<T: TryFrom<i32>>(value: i32, field: &str) -> Result<T> {
    T::try_from(value).map_err(|_| Error::invalid(format!("{field}: unknown value {value}")))
}
