//! The way back: archives out of entries or out of a layer's directory.
//!
//! The same content always gives the same bytes: entries in order of their names, ustar headers, PAX records in order
//! of their keys and only where ustar has no room, no user names and no times but modification times.

mod tree;
mod writer;

pub use tree::{pack_tree, read_xattrs};
pub use writer::Archive;

#[cfg(test)]
mod tests;
