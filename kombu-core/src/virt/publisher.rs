use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::driver::{Confirm, Confirmation, Op, Publisher};
use crate::error::Result;
use crate::message::Envelope;
use crate::name::Name;

use super::shared::{Reach, Route, Sender, Shared};
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

    /// Routes the envelope and writes it to its queues.
    ///
    /// The lock is held for both: it saves counting references to the route, and what one producer publishes
    /// from several threads takes turns at the queue anyway.
    #[inline]
    fn write(&self, envelope: &Envelope) -> (Op<Result<Answer>>, Reach) {
        let (exchange, key) = (envelope.exchange(), envelope.routing_key());
        let store = &self.shared.store;
        let mut routes = self.routes.lock();
        if let Some((last_exchange, last_key, route)) = &routes.last
            && last_key == key
            && last_exchange == exchange
        {
            return (write(store, route, envelope), route.reach);
        }
        let known = (exchange.clone(), key.clone());
        let route = match routes.by_key.get(&known) {
            Some(route) => route.clone(),
            None => {
                let route = Arc::new(self.shared.route(Sender::Publisher, envelope));
                if !route.by_key {
                    return (write(store, &route, envelope), route.reach);
                }
                if routes.by_key.len() >= MAX_ROUTES {
                    routes.by_key.clear();
                }
                routes.by_key.insert(known.clone(), route.clone());
                route
            }
        };
        let written = (write(store, &route, envelope), route.reach);
        routes.last = Some((known.0, known.1, route));
        written
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
        let (answer, reach) = self.write(envelope);
        match answer {
            Op::Ready(Some(Ok(Answer::Done))) => {
                Op::ready(confirmation(reach.result(envelope), envelope))
            }
            Op::Ready(Some(Err(error))) => Op::ready(Err(error)),
            Op::Ready(_) => {
                self.forget_routes();
                Op::start(again(self.shared.clone(), envelope.clone()))
            }
            Op::Pending(answer) => {
                let (shared, envelope) = (self.shared.clone(), envelope.clone());
                Op::pending(async move {
                    match answer.await? {
                        Answer::Done => confirmation(reach.result(&envelope), &envelope),
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
}

#[inline]
fn write<S: QueueStore>(
    store: &S,
    route: &Route<S::Queue>,
    envelope: &Envelope,
) -> Op<Result<Answer>> {
    if route.targets.is_empty() {
        return Shared::compare(store, route.version);
    }
    store.push(&route.targets, route.version, envelope)
}

async fn again<S: QueueStore>(shared: Arc<Shared<S>>, envelope: Envelope) -> Result<Confirmation> {
    shared.refresh().await?;
    let routed = shared
        .dispatch(Sender::Publisher, envelope.clone(), write)
        .await;
    confirmation(routed, &envelope)
}

#[inline]
fn confirmation(routed: Result<bool>, envelope: &Envelope) -> Result<Confirmation> {
    Ok(match routed? {
        false if envelope.mandatory() => Confirmation::Returned { code: 312 },
        routed => Confirmation::Acked { routed },
    })
}
