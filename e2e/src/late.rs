//! Fields that the contract got after the revision that the client was generated from.
//!
//! Protobuf merges messages that are put one behind the other: what the client encodes is completed by a message of
//! which only the new fields are known, and a reply is read again for them.

use anyhow::{Context, Result};
use k8s_cri::v1::{ContainerConfig, ContainerStatusRequest, CreateContainerRequest};
use prost::Message;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

use crate::cri::{Cri, Pod};

/// `ImageSpec` with its `image_ref`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ImageSpec {
    /// The image.
    #[prost(string, tag = "1")]
    pub image: String,
    /// What the user wrote.
    #[prost(string, tag = "18")]
    pub user_specified_image: String,
    /// The image by digest.
    #[prost(string, tag = "20")]
    pub image_ref: String,
}

/// `Mount` with its `image_sub_path`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Mount {
    /// Path inside.
    #[prost(string, tag = "1")]
    pub container_path: String,
    /// Read-only.
    #[prost(bool, tag = "3")]
    pub readonly: bool,
    /// The image.
    #[prost(message, optional, tag = "9")]
    pub image: Option<ImageSpec>,
    /// The part of it.
    #[prost(string, tag = "10")]
    pub image_sub_path: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct Config {
    #[prost(message, repeated, tag = "7")]
    mounts: Vec<Mount>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct CreateRequest {
    #[prost(message, optional, tag = "2")]
    config: Option<Config>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct CreateReply {
    #[prost(string, tag = "1")]
    container_id: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct ContainerStatus {
    #[prost(message, repeated, tag = "14")]
    mounts: Vec<Mount>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct StatusReply {
    #[prost(message, optional, tag = "1")]
    status: Option<ContainerStatus>,
}

impl Cri {
    /// CreateContainer with further mounts; returns the id.
    pub async fn create_with_mounts(
        &self,
        pod: &Pod,
        config: ContainerConfig,
        mounts: Vec<Mount>,
    ) -> Result<String, Status> {
        let request = CreateContainerRequest {
            pod_sandbox_id: pod.id.clone(),
            config: Some(config),
            sandbox_config: Some(pod.config.clone()),
        };
        let mut bytes = request.encode_to_vec();
        let more = CreateRequest {
            config: Some(Config { mounts }),
        };
        bytes.extend(more.encode_to_vec());
        let reply = self.raw("CreateContainer", bytes).await?;
        CreateReply::decode(reply.as_slice())
            .map(|r| r.container_id)
            .map_err(|e| Status::internal(e.to_string()))
    }

    /// The mounts in ContainerStatus.
    pub async fn mounts(&self, id: &str) -> Result<Vec<Mount>> {
        let request = ContainerStatusRequest {
            container_id: id.into(),
            verbose: false,
        };
        let reply = self.raw("ContainerStatus", request.encode_to_vec()).await?;
        let reply = StatusReply::decode(reply.as_slice())?;
        Ok(reply.status.context("ContainerStatus without a status")?.mounts)
    }

    async fn raw(&self, call: &str, bytes: Vec<u8>) -> Result<Vec<u8>, Status> {
        let mut client = tonic::client::Grpc::new(self.channel());
        client
            .ready()
            .await
            .map_err(|e| Status::unavailable(e.to_string()))?;
        let path = format!("/runtime.v1.RuntimeService/{call}")
            .parse()
            .map_err(|e| Status::internal(format!("{e}")))?;
        Ok(client
            .unary(tonic::Request::new(bytes), path, Bytes)
            .await?
            .into_inner())
    }
}

/// Messages as they are.
#[derive(Debug, Clone, Copy, Default)]
struct Bytes;

impl Codec for Bytes {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        use prost::bytes::BufMut as _;
        into.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        use prost::bytes::Buf as _;
        let mut item = vec![0; from.remaining()];
        from.copy_to_slice(&mut item);
        Ok(Some(item))
    }
}
