//! Valid messages to start from. `cargo test -p husk-fuzz -- --write-seeds` writes them to `corpus/`, where inputs that
//! once broke something stand beside them.

pub mod cdi;
pub mod cni;
pub mod cri;
pub mod image;
pub mod nri;
pub mod oci;
pub mod stream;
pub mod supervisor;
pub mod tar;
pub mod text;

/// An input and the name of its file.
pub type Seed = (&'static str, Vec<u8>);

fn bytes(text: &str) -> Vec<u8> {
    text.as_bytes().to_vec()
}
