//! The streaming lists of CRI 1.36, which the client of the older revision does not know.
//!
//! A chunk has its items under number 1, as the unary list's answer has, and the requests are the same: so the messages of
//! the unary list do.

use anyhow::Result;
use tonic::Status;
use tonic::codegen::http::uri::PathAndQuery;
use tonic_prost::ProstCodec;
use tonic_prost::prost::Message;

use crate::cri::{Cri, KUBELET_MESSAGE_LIMIT};

impl Cri {
    /// Every chunk of a streaming list of the runtime service, such as `StreamContainerStats`.
    pub async fn stream<Request, Chunk>(&self, call: &str, request: Request) -> Result<Vec<Chunk>, Status>
    where
        Request: Message + Default + 'static,
        Chunk: Message + Default + 'static,
    {
        let path = PathAndQuery::try_from(format!("/runtime.v1.RuntimeService/{call}"))
            .map_err(|e| Status::internal(e.to_string()))?;
        let mut client =
            tonic::client::Grpc::new(self.channel()).max_decoding_message_size(KUBELET_MESSAGE_LIMIT);
        client
            .ready()
            .await
            .map_err(|e| Status::unavailable(e.to_string()))?;
        let codec = ProstCodec::<Request, Chunk>::default();
        let mut stream = client
            .server_streaming(tonic::Request::new(request), path, codec)
            .await?
            .into_inner();
        let mut chunks = Vec::new();
        while let Some(chunk) = stream.message().await? {
            chunks.push(chunk);
        }
        Ok(chunks)
    }
}
