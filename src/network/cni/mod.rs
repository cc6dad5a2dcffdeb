//! CNI: configurations, results, and the plugins that are run with them.
//!
//! This module knows the specification (0.3 to 1.1) and nothing of pods beyond what a plugin is told. Which
//! configuration is current is `watch`'s business, what was attached is the record's.

pub mod args;
pub mod cache;
pub mod chain;
pub mod conf;
pub mod exec;
pub mod result;
pub mod shown;
pub mod template;
pub mod version;
pub mod watch;
