//! Makes a client for the calls that the independent one (k8s-cri, an older revision of CRI) does not know.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new("../proto");
    println!("cargo:rerun-if-changed=../proto/cri");
    let cri = protox::compile([root.join("cri/v1.proto")], [root])?;
    tonic_prost_build::configure()
        .build_server(false)
        .compile_fds(cri)?;
    Ok(())
}
