//! ImageFsInfo: kubelet's connection probe, so it is answered from running counters.

use crate::cri::proto as p;
use crate::image::ImageStore;
use crate::types::error::Result;
use crate::types::time::now_nanos;

pub(super) async fn call(images: &ImageStore) -> Result<p::ImageFsInfoResponse> {
    let usage = images.fs_usage();
    let usage = p::FilesystemUsage {
        timestamp: now_nanos(),
        fs_id: Some(p::FilesystemIdentifier {
            mountpoint: usage.mountpoint.display().to_string(),
        }),
        used_bytes: Some(p::UInt64Value {
            value: usage.used_bytes,
        }),
        inodes_used: Some(p::UInt64Value {
            value: usage.inodes_used,
        }),
    };
    // Writable layers live on the same file system as images.
    Ok(p::ImageFsInfoResponse {
        image_filesystems: vec![usage.clone()],
        container_filesystems: vec![usage],
    })
}
