//! `ImageService`.

mod image_fs_info;
mod image_status;
mod pull_image;

use std::sync::Arc;

use tonic::{Request, Response, Status};

use crate::cri::convert::image;
use crate::cri::list;
use crate::cri::proto as p;
use crate::cri::proto::image_service_server::ImageService;
use crate::image::{Image, ImageStore};
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

    /// All images, or the one that the filter means.
    fn found(&self, filter: Option<p::ImageFilter>) -> Vec<Arc<Image>> {
        match filter.and_then(|f| f.image).map(|i| i.image) {
            Some(wanted) if !wanted.is_empty() => self.images.resolve(&wanted).into_iter().collect(),
            _ => self.images.list(),
        }
    }
}

type Rpc<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl ImageService for Service {
    async fn list_images(&self, r: Request<p::ListImagesRequest>) -> Rpc<p::ListImagesResponse> {
        answer("ListImages", async {
            let found = self.found(r.into_inner().filter);
            Ok(p::ListImagesResponse {
                images: found.iter().map(|i| image::item(i)).collect(),
            })
        })
        .await
    }

    type StreamImagesStream = list::Stream<p::StreamImagesResponse>;
    async fn stream_images(&self, r: Request<p::StreamImagesRequest>) -> Rpc<Self::StreamImagesStream> {
        answer("StreamImages", async {
            let found = self.found(r.into_inner().filter);
            Ok(list::stream(
                found.into_iter().map(|i| image::item(&i)),
                list::size,
                |images| p::StreamImagesResponse { images },
            ))
        })
        .await
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
