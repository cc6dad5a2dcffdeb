//! The vocabulary of husk: plain data that every other module speaks.
//!
//! Nothing here does I/O, and nothing here knows protobuf, the database or the kernel.

pub mod capability;
pub mod cgroup;
pub mod container;
pub mod digest;
pub mod error;
pub mod id;
pub mod mountinfo;
pub mod pod;
pub mod resources;
pub mod security;
pub mod time;

pub use capability::{CapSet, Capability};
pub use cgroup::CgroupJoin;
pub use container::{ContainerConfig, ContainerMetadata, ContainerState};
pub use digest::Digest;
pub use error::{Error, Kind, Result};
pub use id::{ContainerId, PodId};
pub use mountinfo::MountLine;
pub use pod::{PodConfig, PodMetadata, PodState, Realm};
pub use resources::Resources;
