//! Ctrl-C, and SIGTERM: the first one asks for an orderly end, the second one doesn't ask.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::failure::{Code, Failure, Result};
use crate::output;

/// What comes so soon after the first one is the same press: it reaches a process by itself and by its group, as `timeout` sends it.
const TOGETHER: Duration = Duration::from_millis(500);
/// Whoever waits longer for an orderly end is told what for.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether the end was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Stop(watch::Receiver<bool>);

impl Stop {
    pub(crate) fn listen() -> Self {
        let (asked, stop) = watch::channel(false);
        tokio::spawn(async move {
            pressed_twice(async || kombu::shutdown_signal().await.is_ok(), asked).await;
            output::note("ended at once; what was under way is unknown");
            std::process::exit(Code::Interrupted as i32);
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

/// Asks for the end at the first press, and resolves at the second. `press` waits for one; without any to come, it says so.
async fn pressed_twice(press: impl AsyncFn() -> bool, asked: watch::Sender<bool>) {
    let press = async || {
        if !press().await {
            std::future::pending::<()>().await;
        }
    };
    press().await;
    let _ = asked.send(true);
    let same = async {
        loop {
            press().await;
        }
    };
    let _: std::result::Result<(), _> = timeout(TOGETHER, same).await;
    let told = async {
        sleep(PATIENCE).await;
        output::note(
            "what is under way is waited for, and the broker if it is away; Ctrl-C again ends it at once",
        );
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = press() => {}
        () = told => {}
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn two_presses_at_once_are_one() {
        let (asked, stop) = watch::channel(false);
        let presses = Semaphore::new(2);
        let press = async || {
            presses.acquire().await.is_ok_and(|press| {
                press.forget();
                true
            })
        };
        let twice = pressed_twice(press, asked);
        tokio::pin!(twice);
        assert!(timeout(TOGETHER * 100, &mut twice).await.is_err());
        assert!(*stop.borrow());
        presses.add_permits(1);
        twice.await;
    }
}
