//! Compiles the protocol files in `proto/` with a Rust protobuf compiler, so that a build needs cargo alone.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new("proto");
    println!("cargo:rerun-if-changed=proto");

    let cri = protox::compile([root.join("cri/v1.proto")], [root])?;
    let mut config = tonic_prost_build::configure().bytes(".");
    // The lists that kubelet asks for every second are sent as bytes that were encoded before.
    for list in [
        "ListPodSandboxResponse",
        "StreamPodSandboxesResponse",
        "ListContainersResponse",
        "StreamContainersResponse",
    ] {
        config = config.extern_path(format!(".runtime.v1.{list}"), "crate::cri::list::Items");
    }
    config.compile_fds(cri)?;

    let api = protox::compile([root.join("husk/v1/husk.proto")], [root])?;
    tonic_prost_build::configure().compile_fds(api)?;

    let wire = protox::compile([root.join("husk/supervisor/v1.proto")], [root])?;
    tonic_prost_build::configure()
        .build_client(false)
        .build_server(false)
        .compile_fds(wire)?;

    // Maps in order, so that what a plugin is told does not depend on chance.
    let nri = protox::compile(
        [root.join("nri/v1alpha1.proto"), root.join("ttrpc/v1.proto")],
        [root],
    )?;
    tonic_prost_build::configure()
        .build_client(false)
        .build_server(false)
        .btree_map(".")
        .compile_fds(nri)?;
    Ok(())
}
