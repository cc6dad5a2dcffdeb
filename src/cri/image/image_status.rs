//! ImageStatus: from memory; an unknown image is an answer, not an error.

use std::collections::HashMap;

use serde_json::json;

use crate::cri::convert::image;
use crate::cri::proto as p;
use crate::image::{Image, ImageStore};
use crate::types::error::{Error, Result};

pub(super) async fn call(
    images: &ImageStore,
    request: p::ImageStatusRequest,
) -> Result<p::ImageStatusResponse> {
    let wanted = request.image.map(|i| i.image).unwrap_or_default();
    if wanted.is_empty() {
        return Err(Error::invalid("ImageStatus: image is missing"));
    }
    let Some(found) = images.resolve(&wanted) else {
        return Ok(p::ImageStatusResponse::default());
    };
    Ok(p::ImageStatusResponse {
        info: if request.verbose {
            info(&found)
        } else {
            HashMap::new()
        },
        image: Some(image::item(&found)),
    })
}

fn info(image: &Image) -> HashMap<String, String> {
    let info = json!({
        "chainID": image.chain_id,
        "labels": image.config.labels,
        "imageSpec": serde_json::from_str::<serde_json::Value>(&image.raw_config).unwrap_or_default(),
    });
    HashMap::from([("info".to_owned(), info.to_string())])
}
