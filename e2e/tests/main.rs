//! What husk promises kubelet, seen from kubelet's side of the socket. One module per journey.

// A test is a future that is awaited once: its size does not matter.
#![allow(clippy::large_futures)]

mod activation;
mod adoption;
mod apparmor;
mod attach;
mod bad_images;
mod bad_input;
mod bad_states;
mod bad_streams;
mod cdi;
mod checkpoint;
mod cli;
mod containers;
mod disk_full;
mod events;
mod exec;
mod exec_errors;
mod exits;
mod handler_streams;
mod handler_volumes;
mod handlers;
mod hostile;
mod image_volumes;
mod images;
mod kubectl;
mod layers;
mod limits;
mod logs;
mod metrics;
mod mounts;
mod namespaces;
mod network;
mod nri;
mod nri_changes;
mod pods;
mod port_forward;
mod prometheus;
mod recovery;
mod registries;
mod registry_errors;
mod restart;
mod security;
mod selinux;
mod stats;
mod stream_lists;
mod stream_server;
mod streams;
mod stuck;
mod traces;
mod updates;
mod user_namespaces;
mod verifiers;
