//! A client made from husk's own copy of the contract, for the calls of CRI 1.36 that k8s-cri's revision lacks.
//!
//! It proves what husk does, not that husk's copy of the contract is right: use the independent client wherever it knows
//! the call.

#![allow(
    missing_docs,
    unreachable_pub,
    rust_2018_idioms,
    clippy::all,
    clippy::unwrap_used
)]

tonic::include_proto!("runtime.v1");
