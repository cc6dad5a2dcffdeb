//! `ImageService`.

mod image_fs_info;
mod image_status;
mod pull_image;

use std::sync::Arc;

use tonic::{Request, Response, Status};

use crate::cri::convert::image;
use crate::cri::proto as p;
use crate::cri::proto::image_service_server::ImageService;
use crate::cri::status::unimplemented;
use crate::image::ImageStore;
use crate::types::error::Error;

use super::answer;

/// The service. Cheap to clone.
#[derive(Clone)]
pub struct Service {
    images: Arc<ImageStore>,
}

impl Service {
    /// Serves `images`.
    pub fn new(images: Arc<ImageStore>) -> Self {
        Self { images }
    }
}

type Rpc<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl ImageService for Service {
    async fn list_images(&self, r: Request<p::ListImagesRequest>) -> Rpc<p::ListImagesResponse> {
        answer("ListImages", async {
            let wanted = r
                .into_inner()
                .filter
                .and_then(|f| f.image)
                .map(|i| i.image)
                .unwrap_or_default();
            let found = if wanted.is_empty() {
                self.images.list()
            } else {
                self.images.resolve(&wanted).into_iter().collect()
            };
            Ok(p::ListImagesResponse {
                images: found.iter().map(|i| image::item(i)).collect(),
            })
        })
        .await
    }

    type StreamImagesStream = tokio_stream::Empty<Result<p::StreamImagesResponse, Status>>;
    async fn stream_images(&self, _: Request<p::StreamImagesRequest>) -> Rpc<Self::StreamImagesStream> {
        Err(unimplemented("StreamImages"))
    }

    async fn image_status(&self, r: Request<p::ImageStatusRequest>) -> Rpc<p::ImageStatusResponse> {
        answer("ImageStatus", image_status::call(&self.images, r.into_inner())).await
    }

    async fn pull_image(&self, r: Request<p::PullImageRequest>) -> Rpc<p::PullImageResponse> {
        answer("PullImage", pull_image::call(&self.images, r.into_inner())).await
    }

    async fn remove_image(&self, r: Request<p::RemoveImageRequest>) -> Rpc<p::RemoveImageResponse> {
        answer("RemoveImage", async {
            let wanted = r.into_inner().image.map(|i| i.image).unwrap_or_default();
            if wanted.is_empty() {
                return Err(Error::invalid("RemoveImage: image is missing"));
            }
            self.images.remove(&wanted)?;
            Ok(p::RemoveImageResponse {})
        })
        .await
    }

    async fn image_fs_info(&self, _: Request<p::ImageFsInfoRequest>) -> Rpc<p::ImageFsInfoResponse> {
        answer("ImageFsInfo", image_fs_info::call(&self.images)).await
    }
}
