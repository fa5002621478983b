use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::driver::{Op, Settlement};
use crate::error::Result;

/// A settle that was queued when it was called.
///
/// Awaiting it tells whether the driver has it in its outbound queue;
/// [`ErrorKind::SettleLost`](crate::ErrorKind::SettleLost) means that the session which delivered the message
/// is gone, and that the message goes to somebody else. Dropping it doesn't undo the settle.
#[derive(Debug)]
#[must_use = "the settle is queued, but only awaiting it tells whether it was lost"]
pub struct Settling {
    queued: Option<Result<()>>,
    confirmed: Option<Op<Result<()>>>,
}

impl Settling {
    pub(super) fn new(settlement: Settlement) -> Self {
        Settling {
            queued: Some(settlement.queued),
            confirmed: settlement.confirmed,
        }
    }

    /// Waits for the broker's answer, where it gives one.
    pub async fn confirmed(self) -> Result<()> {
        let Settling { queued, confirmed } = self;
        if let Some(queued) = queued {
            queued.map_err(|error| error.during("settle"))?;
        }
        match confirmed {
            Some(answer) => answer.await.map_err(|error| error.during("settle")),
            None => Ok(()),
        }
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
