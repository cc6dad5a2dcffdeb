//! husk.v1, husk's own gRPC service: what the command line needs and CRI has no word for.

pub mod proto;
mod pull;

use std::sync::Arc;

use crate::image::ImageStore;
use proto::husk_server::HuskServer;

/// The service.
pub struct Service {
    images: Arc<ImageStore>,
}

/// The service, ready to be added to a server.
pub fn server(images: Arc<ImageStore>) -> HuskServer<Service> {
    HuskServer::new(Service { images })
}
