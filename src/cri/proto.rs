//! The generated protobuf types of CRI v1 (`proto/cri/v1.proto`).
#![allow(
    missing_docs,
    unreachable_pub,
    rust_2018_idioms,
    unused_qualifications,
    clippy::all,
    clippy::unwrap_used
)]

tonic::include_proto!("runtime.v1");
