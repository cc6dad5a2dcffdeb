//! Images: references, registries, layers, root filesystems and the store that ties them together.
//!
//! [`ImageStore`] is the way in. It knows nothing of pods, containers or protobuf: who uses an image says so with a lease.

mod catalog;
pub mod config;
mod flight;
#[doc(hidden)]
pub mod fuzz;
mod janitor;
pub mod layer;
mod layers;
pub mod lookup;
mod manifest;
mod pipe;
pub mod platform;
mod progress;
mod pull;
mod record;
pub mod reference;
pub mod registry;
mod store;
mod verifier;
mod view;

pub use config::ImageDefaults;
pub use progress::{LayerProgress, LayerState, Progress};
pub use reference::ImageRef;
pub use registry::Auth;
pub use store::{ImageConfig, ImageStore};
pub use view::{FsUsage, Image, Rootfs};

#[cfg(test)]
mod tests;
