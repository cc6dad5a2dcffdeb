//! Compiles the protocol files in `proto/` with a Rust protobuf compiler, so that a build needs cargo alone.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new("proto");
    println!("cargo:rerun-if-changed=proto");

    let cri = protox::compile([root.join("cri/v1.proto")], [root])?;
    tonic_prost_build::configure().bytes(".").compile_fds(cri)?;

    let api = protox::compile([root.join("husk/v1/husk.proto")], [root])?;
    tonic_prost_build::configure().compile_fds(api)?;

    let wire = protox::compile([root.join("husk/supervisor/v1.proto")], [root])?;
    tonic_prost_build::configure()
        .build_client(false)
        .build_server(false)
        .compile_fds(wire)?;
    Ok(())
}
