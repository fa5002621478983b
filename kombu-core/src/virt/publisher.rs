use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::driver::{Confirm, Confirmation, Op, Publisher};
use crate::error::{Error, ErrorKind, Result};
use crate::message::Envelope;
use crate::name::Name;

use super::shared::{Route, Shared};
use super::store::{Answer, QueueStore};

/// How many routes a publisher remembers. Beyond it, it starts over: a publisher with that many keys gains
/// little from remembering.
const MAX_ROUTES: usize = 1024;

pub(super) struct VirtualPublisher<S: QueueStore> {
    shared: Arc<Shared<S>>,
    routes: Mutex<Routes<S::Queue>>,
}

/// Routes by exchange and key. An outdated one is found out by the store, which answers
/// [`Answer::Stale`].
struct Routes<Q> {
    /// Most publishers use one key over and over: it is compared, not hashed.
    last: Option<(Name, Name, Arc<Route<Q>>)>,
    by_key: HashMap<(Name, Name), Arc<Route<Q>>>,
}

impl<S: QueueStore> VirtualPublisher<S> {
    pub(super) fn new(shared: Arc<Shared<S>>) -> Self {
        VirtualPublisher {
            shared,
            routes: Mutex::new(Routes {
                last: None,
                by_key: HashMap::new(),
            }),
        }
    }

    #[inline]
    fn route(&self, envelope: &Envelope) -> Arc<Route<S::Queue>> {
        let (exchange, key) = (envelope.exchange(), envelope.routing_key());
        let mut routes = self.routes.lock();
        if let Some((last_exchange, last_key, route)) = &routes.last
            && last_key == key
            && last_exchange == exchange
        {
            return route.clone();
        }
        let known = (exchange.clone(), key.clone());
        let route = match routes.by_key.get(&known) {
            Some(route) => route.clone(),
            None => {
                let route = Arc::new(self.shared.route(envelope));
                if !route.by_key {
                    return route;
                }
                if routes.by_key.len() >= MAX_ROUTES {
                    routes.by_key.clear();
                }
                routes.by_key.insert(known.clone(), route.clone());
                route
            }
        };
        routes.last = Some((known.0, known.1, route.clone()));
        route
    }

    fn forget_routes(&self) {
        let mut routes = self.routes.lock();
        routes.last = None;
        routes.by_key.clear();
    }

    #[inline]
    fn push(&self, envelope: &Envelope) -> Confirm {
        if let Err(error) = self.shared.check_open() {
            return Op::ready(Err(error));
        }
        let route = self.route(envelope);
        match write(&self.shared.store, &route, envelope) {
            Op::Ready(Some(Ok(Answer::Done))) => Op::ready(confirmation(route.result(), envelope)),
            Op::Ready(Some(Err(error))) => Op::ready(Err(error)),
            Op::Ready(_) => {
                self.forget_routes();
                Op::start(again(self.shared.clone(), envelope.clone()))
            }
            Op::Pending(answer) => {
                let (shared, envelope) = (self.shared.clone(), envelope.clone());
                Op::pending(async move {
                    match answer.await? {
                        Answer::Done => confirmation(route.result(), &envelope),
                        Answer::Stale => again(shared, envelope).await,
                    }
                })
            }
        }
    }
}

impl<S: QueueStore> Publisher for VirtualPublisher<S> {
    #[inline]
    fn publish(&self, envelope: &Envelope) -> Op<Result<Confirm>> {
        Op::ready(Ok(self.push(envelope)))
    }

    fn publish_batch(&self, envelopes: &[Envelope]) -> Op<Vec<Result<Confirmation>>> {
        let mut confirms: Vec<Confirm> = envelopes
            .iter()
            .map(|envelope| self.push(envelope))
            .collect();
        if confirms
            .iter()
            .any(|confirm| matches!(confirm, Op::Pending(_)))
        {
            return Op::pending(async move {
                let mut results = Vec::with_capacity(confirms.len());
                for confirm in confirms {
                    results.push(confirm.await);
                }
                results
            });
        }
        let ready = confirms.drain(..).filter_map(|confirm| match confirm {
            Op::Ready(result) => result,
            Op::Pending(_) => None,
        });
        Op::ready(ready.collect())
    }
}

#[inline]
fn write<S: QueueStore>(
    store: &S,
    route: &Route<S::Queue>,
    envelope: &Envelope,
) -> Op<Result<Answer>> {
    if route.internal {
        // The route may be an old one: only if it is the newest, the answer is no.
        let exchange = envelope.exchange().clone();
        let current = Shared::compare(store, route.version);
        return current.map(move |answer| match answer? {
            Answer::Done => Err(internal(&exchange)),
            Answer::Stale => Ok(Answer::Stale),
        });
    }
    if route.targets.is_empty() {
        return Shared::compare(store, route.version);
    }
    store.push(&route.targets, route.version, envelope)
}

#[cold]
fn internal(exchange: &Name) -> Error {
    Error::new(
        ErrorKind::AccessRefused,
        format!("exchange `{exchange}` is internal: it takes messages from other exchanges only"),
    )
}

async fn again<S: QueueStore>(shared: Arc<Shared<S>>, envelope: Envelope) -> Result<Confirmation> {
    shared.refresh().await?;
    let routed = shared.dispatch(envelope.clone(), write).await;
    confirmation(routed, &envelope)
}

#[inline]
fn confirmation(routed: Result<bool>, envelope: &Envelope) -> Result<Confirmation> {
    Ok(match routed? {
        false if envelope.mandatory() => Confirmation::Returned { code: 312 },
        routed => Confirmation::Acked { routed },
    })
}
