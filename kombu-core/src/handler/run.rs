use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;

use futures_util::future::join;
use tokio::task::{self, JoinSet};
use tokio::time::timeout;

use crate::client::{Consumer, Delivery};
use crate::error::Result;
use crate::name::Name;

use super::dispatch::Dispatch;
use super::lanes::Lanes;
use super::serve::Settings;

/// Why a component ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Exit {
    /// A handler said so, or the command `quit` came.
    Quit,
    /// It is to be started again: a handler said so, or the command `restart` came.
    Restart,
    /// The program stopped it.
    Stopped,
    /// The connection was closed or drained.
    Closed,
}

/// Deliveries that are being handled.
struct Running {
    dispatch: Arc<Dispatch>,
    tasks: JoinSet<Option<Exit>>,
    /// Which lanes they are in, however they end.
    keys: HashMap<task::Id, Name>,
    lanes: Lanes,
}

impl Running {
    fn begin(&mut self, (key, delivery): (Option<Name>, Delivery)) {
        let dispatch = self.dispatch.clone();
        let task = self
            .tasks
            .spawn(async move { dispatch.handle(delivery).await });
        if let Some(key) = key {
            self.keys.insert(task.id(), key);
        }
    }

    fn take(&mut self, delivery: Delivery) {
        let key = match self.lanes.key(&delivery) {
            Ok(key) => key,
            Err(error) => {
                let dispatch = self.dispatch.clone();
                self.tasks
                    .spawn(async move { dispatch.fail_unhandled(delivery, error).await });
                return;
            }
        };
        if let Some(admitted) = self.lanes.admit(key, delivery) {
            self.begin(admitted);
        }
    }

    /// Resolves when a delivery was handled, and goes on behind it; never if there is none.
    async fn handled(&mut self) -> Option<Exit> {
        let Some(ended) = self.tasks.join_next_with_id().await else {
            return std::future::pending().await;
        };
        let (task, exit) = match ended {
            Ok(ended) => ended,
            // Its delivery goes back.
            Err(error) => {
                tracing::error!(%error, "a handler's task was ended");
                (error.id(), None)
            }
        };
        if let Some(key) = self.keys.remove(&task)
            && let Some(next) = self.lanes.next(key)
        {
            self.begin(next);
        }
        exit
    }
}

/// Handles what the consumer brings, until something ends it; what is being handled then has the grace.
pub(super) async fn run(
    mut consumer: Consumer,
    dispatch: Dispatch,
    settings: Settings,
    stop: impl Future<Output = ()> + Send,
) -> Result<Exit> {
    let mut running = Running {
        dispatch: Arc::new(dispatch),
        tasks: JoinSet::new(),
        keys: HashMap::new(),
        lanes: Lanes::new(settings.order),
    };
    let mut stop = pin!(stop);
    let ended = loop {
        let has_room = running.tasks.len() < settings.concurrency;
        tokio::select! {
            biased;
            () = &mut stop => break Ok(Exit::Stopped),
            exit = running.handled() => {
                if let Some(exit) = exit {
                    break Ok(exit);
                }
            }
            next = consumer.next(), if has_room => match next {
                Some(Ok(delivery)) => running.take(delivery),
                Some(Err(error)) => break Err(error),
                None => break Ok(Exit::Closed),
            },
        }
    };
    running.lanes.release();
    let tasks = &mut running.tasks;
    let finished = async {
        let rest = async { while tasks.join_next().await.is_some() {} };
        if timeout(settings.grace, rest).await.is_err() {
            let left = tasks.len();
            tracing::warn!(left, grace = ?settings.grace, "handlers that went on for too long are cancelled");
            // Their deliveries go back.
            tasks.shutdown().await;
        }
    };
    // The grace begins and ends however long the broker takes to answer.
    let (cancelled, ()) = join(consumer.cancel(), finished).await;
    if let Err(error) = cancelled {
        tracing::warn!(%error, "a component's consumer did not end in an orderly way");
    }
    ended
}
