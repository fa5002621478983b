use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::driver::{Op, Outcome, Settlement};
use crate::engine::{by, deadline};
use crate::error::{Error, ErrorKind, Result};
use crate::name::Name;

/// A settle that was queued when it was called.
///
/// Awaiting it tells whether the driver has it in its outbound queue;
/// [`ErrorKind::SettleLost`](crate::ErrorKind::SettleLost) means that the session which delivered the message
/// is gone, and that the message goes to somebody else. Dropping it doesn't undo the settle.
#[derive(Debug)]
#[must_use = "the settle is queued, but only awaiting it tells whether it was lost"]
pub struct Settling {
    queued: Option<Result<()>>,
    confirming: Option<Confirming>,
}

/// An answer that is still to come.
struct Confirming {
    answer: Op<Result<()>>,
    outcome: Outcome,
    queue: Name,
    limit: Duration,
}

impl Settling {
    /// `context` is asked only where there is something to wait for: what was settled, from which queue, and how
    /// long its confirm may take.
    #[inline]
    pub(super) fn new(
        settlement: Settlement,
        context: impl FnOnce() -> (Outcome, Name, Duration),
    ) -> Self {
        let confirming = settlement.confirmed.map(|answer| {
            let (outcome, queue, limit) = context();
            Confirming {
                answer,
                outcome,
                queue,
                limit,
            }
        });
        Settling {
            queued: Some(settlement.queued),
            confirming,
        }
    }

    pub(super) fn failed(error: Error) -> Self {
        Settling {
            queued: Some(Err(error)),
            confirming: None,
        }
    }

    /// Waits for the broker's answer, where it gives one.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::SettleLost`](crate::ErrorKind::SettleLost) if the session ends before the answer comes, and
    /// [`ErrorKind::Timeout`](crate::ErrorKind::Timeout) if there is none within
    /// [`Deadlines::settle`](crate::Deadlines::settle) of this call (30 s unless set otherwise): the settle is
    /// queued, and may still be carried out.
    pub async fn confirmed(self) -> Result<()> {
        let Settling { queued, confirming } = self;
        if let Some(queued) = queued {
            queued.map_err(|error| error.during("settle"))?;
        }
        let Some(confirming) = confirming else {
            return Ok(());
        };
        let Confirming {
            answer,
            outcome,
            queue,
            limit,
        } = confirming;
        let late = || {
            Error::new(
                ErrorKind::Timeout,
                format!(
                    "no answer within {limit:?}: waiting for the broker to confirm the {outcome} of a delivery \
                     from queue `{queue}`, which was queued and may still be carried out"
                ),
            )
        };
        let answer = by(deadline(limit), answer, late).await;
        answer.map_err(|error| error.during("settle"))
    }
}

impl fmt::Debug for Confirming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Confirming")
            .field("outcome", &self.outcome)
            .field("queue", &self.queue)
            .finish_non_exhaustive()
    }
}

impl Future for Settling {
    type Output = Result<()>;

    #[inline]
    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
        // Polled again after it was ready, it says the same of a settle that went well.
        match self.get_mut().queued.take() {
            Some(Err(error)) => Poll::Ready(Err(error.during("settle"))),
            Some(Ok(())) | None => Poll::Ready(Ok(())),
        }
    }
}
