use std::pin::pin;
use std::sync::Arc;

use futures_util::future::join;
use tokio::task::JoinSet;
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

/// What became of one delivery.
struct Handled {
    key: Option<Name>,
    exit: Option<Exit>,
}

/// Deliveries that are being handled.
struct Running {
    dispatch: Arc<Dispatch>,
    tasks: JoinSet<Handled>,
    lanes: Lanes,
}

impl Running {
    fn begin(&mut self, (key, delivery): (Option<Name>, Delivery)) {
        let dispatch = self.dispatch.clone();
        self.tasks.spawn(async move {
            let exit = dispatch.handle(delivery).await;
            Handled { key, exit }
        });
    }

    fn take(&mut self, delivery: Delivery) {
        if let Some(admitted) = self.lanes.admit(delivery) {
            self.begin(admitted);
        }
    }

    /// Goes on behind a delivery that was handled.
    fn go_on(&mut self, handled: Handled) -> Option<Exit> {
        if let Some(key) = handled.key
            && let Some(next) = self.lanes.next(key)
        {
            self.begin(next);
        }
        handled.exit
    }

    /// Resolves when a delivery was handled; never if there is none.
    async fn handled(&mut self) -> Handled {
        loop {
            match self.tasks.join_next().await {
                Some(Ok(handled)) => return handled,
                // It was aborted, by nobody here.
                Some(Err(error)) => tracing::error!(%error, "a handler's task was ended"),
                None => std::future::pending::<()>().await,
            }
        }
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
        lanes: Lanes::new(settings.order),
    };
    let mut stop = pin!(stop);
    let ended = loop {
        let has_room = running.tasks.len() < settings.concurrency;
        tokio::select! {
            biased;
            () = &mut stop => break Ok(Exit::Stopped),
            handled = running.handled() => {
                if let Some(exit) = running.go_on(handled) {
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
