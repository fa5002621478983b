//! One message to several exchanges, or with several keys.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::time::{Instant, timeout_at};

use crate::declare::Exchange;
use crate::error::{Error, Result};
use crate::message::Content;
use crate::name::Name;

use super::producer::{Inner, is_mandatory_by_default};
use super::publish::publish;
use super::publishing::{Published, Publishing};

/// Where a message goes that has several destinations: pairs of exchange and routing key.
#[derive(Clone, Debug, Default)]
pub struct Destinations(Vec<Destination>);

#[derive(Clone, Debug)]
struct Destination {
    exchange: Name,
    routing_key: Name,
    mandatory_by_default: bool,
}

impl Destinations {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<E: Into<Exchange>, K: Into<Name>> FromIterator<(E, K)> for Destinations {
    fn from_iter<I: IntoIterator<Item = (E, K)>>(pairs: I) -> Self {
        let destination = |(exchange, key): (E, K)| {
            let exchange = exchange.into();
            Destination {
                mandatory_by_default: is_mandatory_by_default(&exchange),
                exchange: exchange.into(),
                routing_key: key.into(),
            }
        };
        Destinations(pairs.into_iter().map(destination).collect())
    }
}

/// A publish to several destinations under way: resolves to one result for each, in the order of the list.
///
/// Dropping it doesn't take the message back.
#[must_use = "only awaiting tells whether the broker has the message"]
pub struct PublishingAll(Vec<One>);

/// What becomes of one destination.
enum One {
    UnderWay(Publishing),
    Done(Result<Published>),
    /// The answers were taken.
    Taken,
}

impl PublishingAll {
    /// Starts one publish for each destination; `mandatory` is what was asked for, whatever the exchange.
    pub(super) fn start(
        producer: &Arc<Inner>,
        prepared: Result<Content>,
        mandatory: Option<bool>,
        destinations: &Destinations,
    ) -> Self {
        let to = |destination: &Destination, content: &Content| {
            let mut content = content.clone();
            content.exchange = destination.exchange.clone();
            content.routing_key = destination.routing_key.clone();
            content.mandatory = mandatory.unwrap_or(destination.mandatory_by_default);
            content
        };
        let prepared = prepared.map_err(Arc::new);
        let one = |destination: &Destination| {
            let content = match &prepared {
                Ok(content) => Ok(to(destination, content)),
                // Nothing is sent anywhere, for one reason.
                Err(error) => {
                    Err(Error::new(error.kind(), error.message()).with_source(error.clone()))
                }
            };
            One::UnderWay(publish(producer, content))
        };
        PublishingAll(destinations.0.iter().map(one).collect())
    }

    /// Ready once the driver has the message for each destination, or has refused it.
    pub(super) fn poll_sent(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let mut sent = Poll::Ready(());
        for one in &mut self.0 {
            let One::UnderWay(publishing) = one else {
                continue;
            };
            match publishing.poll_sent(context) {
                Poll::Pending => sent = Poll::Pending,
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => *one = One::Done(Err(error.during("publish"))),
            }
        }
        sent
    }

    /// What each of them has come to by then; an error for those that are still under way.
    pub(crate) async fn until(
        mut self,
        end: Instant,
        late: impl Fn() -> Error,
    ) -> Vec<Result<Published>> {
        if let Ok(results) = timeout_at(end, &mut self).await {
            return results;
        }
        let results = self.0.into_iter().filter_map(|one| match one {
            One::Done(result) => Some(result),
            One::UnderWay(_) => Some(Err(late())),
            One::Taken => None,
        });
        results.collect()
    }

    /// What all of them come to: stored where they should be, or the first error.
    pub(super) fn poll_together(&mut self, context: &mut Context<'_>) -> Poll<Result<Published>> {
        Pin::new(self).poll(context).map(together)
    }
}

fn together(results: Vec<Result<Published>>) -> Result<Published> {
    let count = results.len();
    let (mut together, mut failed, mut error) = (None::<Published>, 0, None);
    for result in results {
        match result {
            Ok(one) => {
                let before = together.get_or_insert_with(|| one.clone());
                before.routed |= one.routed;
                before.resent |= one.resent;
            }
            Err(one) => {
                failed += 1;
                error.get_or_insert(one);
            }
        }
    }
    match (error, together) {
        (None, together) => Ok(together.unwrap_or_default()),
        (Some(error), others) => {
            let context = format!("{failed} of {count} destinations failed, this one first");
            let error = error.with_context(&context);
            Err(match others {
                Some(_) => error.with_maybe_stored(),
                None => error,
            })
        }
    }
}

impl Future for PublishingAll {
    type Output = Vec<Result<Published>>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let all = &mut self.get_mut().0;
        let mut under_way = false;
        for one in &mut *all {
            if let One::UnderWay(publishing) = one {
                match Pin::new(publishing).poll(context) {
                    Poll::Ready(result) => *one = One::Done(result),
                    Poll::Pending => under_way = true,
                }
            }
        }
        if under_way {
            return Poll::Pending;
        }
        let results = all
            .iter_mut()
            .filter_map(|one| match std::mem::replace(one, One::Taken) {
                One::Done(result) => Some(result),
                One::UnderWay(_) | One::Taken => None,
            });
        Poll::Ready(results.collect())
    }
}

impl fmt::Debug for PublishingAll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublishingAll").finish_non_exhaustive()
    }
}
