use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;

use crate::driver::{Confirm, Confirmation, Destination, Op, Publisher};
use crate::error::Result;
use crate::message::Envelope;
use crate::name::Name;

use super::copies;
use super::lane::{Lane, Progress, Publishing, Stage};
use super::shared::{Reach, Reached, Route, Sender, Shared};
use super::store::{Answer, QueueStore};

/// How many routes a publisher remembers. Beyond it, it starts over: a publisher with that many keys gains
/// little from remembering.
const MAX_ROUTES: usize = 1024;

pub(super) struct VirtualPublisher<S: QueueStore> {
    shared: Arc<Shared<S>>,
    inner: Arc<Inner<S::Queue>>,
    /// For the answers of a store that has none at once.
    lane: OnceLock<Lane>,
}

struct Inner<Q>(Mutex<State<Q>>);

/// Routes by exchange and key. An outdated one is found out by the store, which answers
/// [`Answer::Stale`].
struct State<Q> {
    /// Most publishers use one key over and over: it is compared, not hashed.
    last: Option<(Name, Name, Arc<Route<Q>>)>,
    by_key: HashMap<(Name, Name), Arc<Route<Q>>>,
    progress: Progress,
}

impl<Q> State<Q> {
    fn forget_routes(&mut self) {
        self.last = None;
        self.by_key.clear();
    }
}

impl<Q: Clone + Send + Sync + 'static> Publishing for Inner<Q> {
    fn with_progress<T>(&self, change: impl FnOnce(&mut Progress) -> T) -> T {
        change(&mut self.0.lock().progress)
    }

    fn forget_routes(&self) {
        self.0.lock().forget_routes();
    }
}

impl<S: QueueStore> VirtualPublisher<S> {
    pub(super) fn new(shared: Arc<Shared<S>>) -> Self {
        VirtualPublisher {
            shared,
            inner: Arc::new(Inner(Mutex::new(State {
                last: None,
                by_key: HashMap::new(),
                progress: Progress::default(),
            }))),
            lane: OnceLock::new(),
        }
    }

    /// Routes the envelope and writes it to its queues, unless others have to be written before.
    #[inline]
    fn write(&self, state: &mut State<S::Queue>, envelope: &Envelope) -> (Stage, u64) {
        if copies::has_any(envelope) {
            let route = self.shared.route(Sender::Publisher, envelope);
            return self.write_to(&state.progress, &route, envelope);
        }
        let (exchange, key) = (envelope.exchange(), envelope.routing_key());
        if let Some((last_exchange, last_key, route)) = &state.last
            && last_key == key
            && last_exchange == exchange
        {
            return self.write_to(&state.progress, route, envelope);
        }
        let known = (exchange.clone(), key.clone());
        let route = match state.by_key.get(&known) {
            Some(route) => route.clone(),
            None => {
                let route = Arc::new(self.shared.route(Sender::Publisher, envelope));
                if !route.by_key {
                    return self.write_to(&state.progress, &route, envelope);
                }
                if state.by_key.len() >= MAX_ROUTES {
                    state.by_key.clear();
                }
                state.by_key.insert(known.clone(), route.clone());
                route
            }
        };
        let written = self.write_to(&state.progress, &route, envelope);
        state.last = Some((known.0, known.1, route));
        written
    }

    #[inline]
    fn write_to(
        &self,
        progress: &Progress,
        route: &Route<S::Queue>,
        envelope: &Envelope,
    ) -> (Stage, u64) {
        let stage = if progress.admits(route.version) {
            Stage::Written(write(&self.shared.store, route, envelope), route.reach)
        } else {
            Stage::Waiting
        };
        (stage, route.version)
    }

    /// Publishes in the order of the calls.
    ///
    /// The lock is held throughout: it saves counting references to the route, and what one producer publishes
    /// from several threads takes turns at the queue anyway.
    #[inline]
    fn push(&self, envelope: &Envelope) -> Confirm {
        let mut state = self.inner.0.lock();
        let (stage, version) = self.write(&mut state, envelope);
        let stage = match stage {
            // Nearly always so with a store that answers at once.
            Stage::Written(Op::Ready(Some(Ok(Answer::Done))), Reach::Queues) => {
                return Op::ready(Ok(Confirmation::Acked { routed: true }));
            }
            Stage::Written(Op::Ready(Some(Err(error))), _) => return Op::ready(Err(error)),
            Stage::Written(Op::Ready(Some(Ok(answer))), reach) if answer != Answer::Stale => {
                return Op::ready(confirmation(reach.reached(answer, envelope), envelope));
            }
            Stage::Written(Op::Ready(_), _) if state.progress.admits_any() => {
                state.forget_routes();
                match Op::start(again(self.shared.clone(), envelope.clone())) {
                    answered @ Op::Ready(_) => return answered,
                    pending => Stage::Routing(pending),
                }
            }
            // Behind others that have no answer yet, it is routed again in its turn.
            Stage::Written(Op::Ready(_), _) => Stage::Waiting,
            stage => stage,
        };
        let lane = self
            .lane
            .get_or_init(|| Lane::open(self.shared.clone(), self.inner.clone()));
        lane.follow(&mut state.progress, version, envelope.clone(), stage)
    }
}

impl<S: QueueStore> Publisher for VirtualPublisher<S> {
    fn repeats_within(&self) -> Option<Duration> {
        self.shared.store.repeats_within()
    }

    #[inline]
    fn publish(&self, envelope: &Envelope) -> Op<Result<Confirm>> {
        if let Err(error) = self.shared.check_open() {
            return Op::ready(Err(error));
        }
        Op::ready(Ok(self.push(envelope)))
    }

    fn together(&self, publish: &mut dyn FnMut()) {
        self.shared.store.together(publish);
    }
}

#[inline]
pub(super) fn write<S: QueueStore>(
    store: &S,
    route: &Route<S::Queue>,
    envelope: &Envelope,
) -> Op<Result<Answer>> {
    match route.reach {
        Reach::Queues => {}
        Reach::Nowhere => return store.push_nowhere(route.version, envelope),
        Reach::Missing => {
            let missing = Destination::Exchange(envelope.exchange().clone());
            return store.look_for(route.version, &missing);
        }
        Reach::UnknownKind | Reach::Broken | Reach::Internal => {
            return Shared::compare(store, route.version);
        }
    }
    let seen = copies::without_hidden(envelope);
    let envelope = seen.as_ref().unwrap_or(envelope);
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
pub(super) fn confirmation(reached: Result<Reached>, envelope: &Envelope) -> Result<Confirmation> {
    Ok(match reached? {
        Reached::Queues => Confirmation::Acked { routed: true },
        Reached::Nowhere if envelope.mandatory() => Confirmation::Returned { code: 312 },
        Reached::Nowhere if envelope.immediate() => Confirmation::Returned { code: 313 },
        Reached::Nowhere => Confirmation::Acked { routed: false },
        Reached::NoConsumers => Confirmation::Returned { code: 313 },
        Reached::Refused => Confirmation::Nacked {
            reason: "a queue that it matches is full".to_owned(),
        },
    })
}
