//! Pure: CRI or husk configuration + image configuration + host -> OCI runtime spec -> launch plan.
//!
//! Nothing here touches the kernel or the disk; what has to be looked up (users, devices, mount sources) is looked up
//! by the caller and handed in, so that every rule can be tested by comparing values.

pub mod apparmor;
pub mod cdi;
pub mod container;
pub mod identity;
pub mod mounts;
pub mod plan;
pub mod process;
pub mod selinux;

pub use container::{ContainerInputs, container};
