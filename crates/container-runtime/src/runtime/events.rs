//! `GetContainerEvents`: changes of state, pushed.

use cri::v1::ContainerEventResponse;
use futures::stream::{BoxStream, StreamExt};
use tokio::sync::broadcast;

/// Events held for a slow listener. A listener that falls further behind gets an error and must list everything anew.
const PENDING_MAX: usize = 1024;

/// Distributes events to whoever listens.
pub(crate) struct Events {
    sender: broadcast::Sender<ContainerEventResponse>,
}

impl Events {
    pub(crate) fn new() -> Self {
        Self { sender: broadcast::Sender::new(PENDING_MAX) }
    }

    /// Whether somebody listens, so that it is worth making an event.
    pub(crate) fn is_heard(&self) -> bool {
        self.sender.receiver_count() > 0
    }

    pub(crate) fn send(&self, event: ContainerEventResponse) {
        // Nobody listens: the state itself is what counts.
        let _ = self.sender.send(event);
    }

    pub(crate) fn listen(&self) -> BoxStream<'static, Result<ContainerEventResponse, cri::Status>> {
        let receiver = self.sender.subscribe();
        futures::stream::unfold(Some(receiver), |receiver| async move {
            let mut receiver = receiver?;
            match receiver.recv().await {
                Ok(event) => Some((Ok(event), Some(receiver))),
                Err(broadcast::error::RecvError::Closed) => None,
                Err(broadcast::error::RecvError::Lagged(lost)) => {
                    Some((Err(cri::Status::data_loss(format!("{lost} events lost: list the containers again"))), None))
                }
            }
        })
        .boxed()
    }
}
