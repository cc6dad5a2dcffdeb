//! Fuzz targets for everything in husk that reads bytes from outside.
//!
//! A [`Target`] is a function from bytes to a sentence: what was understood, or why it was refused. It must not panic,
//! hang, or allocate out of proportion to its input, and where a value can be written again it checks that it reads back
//! the same. Two runners share targets and `corpus/`:
//!
//! - `tests/fuzz/`, part of `cargo test`: replays the corpus, then a fixed number of mutations from a fixed seed.
//! - `libfuzzer/`, for `cargo fuzz` on nightly: `make fuzz TARGET=tar TIME=60`.
//!
//! An input that once broke something is added to the corpus under a name that says what it broke.

pub mod mutate;
pub mod seeds;
pub mod targets;

pub use targets::{TARGETS, find};

/// What an input led to, in words. The runner takes words it has not seen for new ground and keeps the input.
pub type Said = String;

/// One thing that reads bytes from outside.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, and that of its directory in `corpus/`.
    pub name: &'static str,
    /// Reads.
    pub run: fn(&[u8]) -> Said,
    /// How its bytes are made up, for mutations that keep them halfway valid.
    pub shape: Shape,
    /// Words worth trying.
    pub words: &'static [&'static str],
    /// Bytes of memory that any input may need.
    pub memory: usize,
    /// Bytes of memory for each byte of input beyond that.
    pub memory_factor: usize,
    /// Valid messages to start from.
    pub seeds: fn() -> Vec<seeds::Seed>,
}

/// How the bytes of a target are made up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Nothing is known.
    Bytes,
    /// Mostly text.
    Text,
    /// A JSON document.
    Json,
    /// A protobuf message.
    Protobuf,
    /// As `Protobuf`, with one byte before it that selects the message.
    SelectedProtobuf,
    /// A tar archive, whose headers have checksums.
    Tar,
}
