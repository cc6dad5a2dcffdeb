//! Pull: the normal pull, with its progress as a stream.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::cri::status::status;
use crate::image::Auth;
use crate::image::{LayerState, Progress};
use crate::types::error::Error;

use super::Service;
use super::proto::husk_server::Husk;
use super::proto::{LayerProgress, PullProgress, PullRequest};

/// How often progress is reported at most.
const INTERVAL: Duration = Duration::from_millis(100);

type Messages = Pin<Box<dyn tokio_stream::Stream<Item = Result<PullProgress, Status>> + Send>>;

#[tonic::async_trait]
impl Husk for Service {
    type PullStream = Messages;

    async fn pull(&self, request: Request<PullRequest>) -> Result<Response<Messages>, Status> {
        let request = request.into_inner();
        if request.reference.is_empty() {
            return Err(status(Error::invalid("Pull: reference is empty")));
        }
        let auth = if request.username.is_empty() {
            None
        } else {
            Some(Auth {
                username: request.username,
                password: request.password,
                ..Default::default()
            })
        };
        let images = Arc::clone(&self.images);
        let (report, progress) = watch::channel(Progress::default());
        let (send, receive) = mpsc::channel(4);
        tokio::spawn(async move {
            let pull = images.pull(&request.reference, auth, Some(report));
            let outcome = forward(pull, progress, &send).await;
            let last = outcome.map(|image| PullProgress {
                layers: Vec::new(),
                image_id: image.id.to_string(),
            });
            // A client that went away is told nothing; its leaving has already ended the pull.
            let _ = send.send(last.map_err(status)).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }
}

/// Reports progress until the pull ends. A client that goes away ends the pull.
async fn forward<T>(
    pull: impl Future<Output = Result<T, Error>>,
    mut progress: watch::Receiver<Progress>,
    send: &mpsc::Sender<Result<PullProgress, Status>>,
) -> Result<T, Error> {
    tokio::pin!(pull);
    let mut tick = tokio::time::interval(INTERVAL);
    loop {
        tokio::select! {
            outcome = &mut pull => return outcome,
            _ = tick.tick() => {
                if progress.has_changed().unwrap_or(false) {
                    let message = convert(&progress.borrow_and_update());
                    if send.send(Ok(message)).await.is_err() {
                        return Err(Error::new(crate::types::Kind::Cancelled, "the client went away"));
                    }
                }
            }
        }
    }
}

fn convert(progress: &Progress) -> PullProgress {
    let layers = progress
        .layers
        .iter()
        .map(|l| LayerProgress {
            digest: l.digest.to_string(),
            total: l.total,
            done: l.done,
            state: match l.state {
                LayerState::Waiting => "waiting",
                LayerState::Fetching => "downloading",
                LayerState::Done => "done",
            }
            .into(),
        })
        .collect();
    PullProgress {
        layers,
        image_id: String::new(),
    }
}
