//! The compiler against an independent reading of profiles, and the default profile against expectations.
#![allow(clippy::unwrap_used)]

mod default;
mod kernel;
mod meaning;
mod oracle;
