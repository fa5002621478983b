//! Gives back what was put off when it is time, whether its consumer is polled or not.

use std::sync::Weak;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep_until};

use crate::engine;

use super::delivery::Link;

type PutOff = (Instant, Weak<Link>);

/// A connection's way to the task that waits. It has no more to wait for than there are unsettled deliveries.
pub(super) struct Later(UnboundedSender<PutOff>);

impl Later {
    /// Starts the task, which ends with this or with the connection.
    pub(super) fn start(connection: &engine::Shared) -> Self {
        let (sender, receiver) = unbounded_channel();
        let ended = connection.ended();
        connection.runtime.spawn(async move {
            tokio::select! {
                biased;
                () = ended => {}
                () = give_back(receiver) => {}
            }
        });
        Later(sender)
    }

    /// Has a link give back what is due then. False if the task is gone.
    pub(super) fn give_back(&self, due: Instant, link: Weak<Link>) -> bool {
        self.0.send((due, link)).is_ok()
    }
}

async fn give_back(mut put_off: UnboundedReceiver<PutOff>) {
    // Everything is put off for equally long, so what comes first is due first.
    while let Some((due, link)) = put_off.recv().await {
        sleep_until(due).await;
        if let Some(link) = link.upgrade() {
            link.release_due(due);
        }
    }
}
