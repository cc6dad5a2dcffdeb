//! PullImage: fetches an image and returns its id.

use std::sync::Arc;

use crate::cri::convert::image;
use crate::cri::proto as p;
use crate::image::ImageStore;
use crate::types::error::{Error, Result};

pub(super) async fn call(
    images: &Arc<ImageStore>,
    request: p::PullImageRequest,
) -> Result<p::PullImageResponse> {
    let wanted = request.image.map(|i| i.image).unwrap_or_default();
    if wanted.is_empty() {
        return Err(Error::invalid("PullImage: image is missing"));
    }
    let auth = request.auth.map(image::auth);
    let pulled = images.pull(&wanted, auth, None).await?;
    Ok(p::PullImageResponse {
        image_ref: pulled.id.to_string(),
    })
}
