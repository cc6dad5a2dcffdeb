//! The generated protobuf types of husk.v1 (`proto/husk/v1/husk.proto`).
#![allow(
    missing_docs,
    unreachable_pub,
    rust_2018_idioms,
    unused_qualifications,
    clippy::all,
    clippy::unwrap_used
)]

tonic::include_proto!("husk.v1");
