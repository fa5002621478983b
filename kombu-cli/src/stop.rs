//! Ctrl-C, and SIGTERM: the first one asks for an orderly end, the second one doesn't ask.

use tokio::sync::watch;

use crate::failure::{Code, Failure, Result};
use crate::output;

/// Whether the end was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Stop(watch::Receiver<bool>);

impl Stop {
    pub(crate) fn listen() -> Self {
        let (asked, stop) = watch::channel(false);
        tokio::spawn(async move {
            if kombu::shutdown_signal().await.is_err() {
                // Whoever waits for a signal waits for ever.
                std::future::pending::<()>().await;
            }
            let _ = asked.send(true);
            if kombu::shutdown_signal().await.is_ok() {
                output::note("ended at once; what was under way is unknown");
                std::process::exit(Code::Interrupted as i32);
            }
            std::future::pending::<()>().await;
        });
        Stop(stop)
    }

    /// What comes of `work`, unless the end is asked for before; `what` wasn't done then.
    pub(crate) async fn unless_asked<T>(
        &self,
        what: &str,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        tokio::select! {
            biased;
            () = self.asked() => Err(Failure::interrupted(format!("ended before {what}"))),
            done = work => done,
        }
    }

    pub(crate) fn is_asked(&self) -> bool {
        *self.0.borrow()
    }

    /// Resolves when the end is asked for. Cancel safe.
    pub(crate) async fn asked(&self) {
        let mut stop = self.0.clone();
        if stop.wait_for(|asked| *asked).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
