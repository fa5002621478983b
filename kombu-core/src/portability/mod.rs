//! Whether a transport can do what a program needs, told before anything is connected.

mod report;

use std::collections::{BTreeMap, HashSet};

use crate::client::topology::{self, Step};
use crate::declare::{DeclareMode, Exchange, Queue};
use crate::driver::{Capabilities, Destination, Feature, Operation, SubscribeOptions};
use crate::error::Result;
use crate::handler::Retries;
use crate::layers::{Need, arguments, asking, kept, needs};
use crate::name::Name;

pub use report::{FeatureUse, Portability, Portable};

/// Everything that a program declares, and how it consumes: checked against a transport without a broker.
///
/// The rules are those by which a connection refuses declarations and consumers at run time. What it refuses only of a message isn't
/// looked at, nor what only a broker or a program knows: the arguments that a broker reads itself, a plugin's exchange kinds, those
/// that a program adds to its connection: the report says where that is so. A consumer has the priority of its options: for one that takes it from its queues, see
/// [`SubscribeOptions::with_priority_of`].
///
/// ```
/// use kombu::{Exchange, Queue, Topology};
///
/// let media = Exchange::topic("media");
/// let videos = Queue::new("videos").bind(&media, "video.#").max_priority(9);
/// let topology = Topology::new().queue(&videos);
///
/// let redis = kombu::registry().capabilities("memory").expect("it is built in");
/// # let redis = redis.emulated(kombu::Feature::Priority).with_max_priority(9);
/// topology.check(&redis).require()?; // one line in a unit test
///
/// let higher = Topology::new().queue(videos.max_priority(10)).check(&redis);
/// assert!(higher.require().unwrap_err().to_string().contains("up to 9"));
/// # Ok::<(), kombu::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    exchanges: Vec<Exchange>,
    queues: Vec<Queue>,
    consumers: Vec<Consuming>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Consuming {
    queues: Vec<Name>,
    options: SubscribeOptions,
    /// Whether messages come again after a pause.
    retries_later: bool,
}

impl Topology {
    /// Nothing yet.
    pub fn new() -> Self {
        Topology::default()
    }

    /// Adds an exchange, with those that it is bound to.
    #[must_use]
    pub fn exchange(mut self, exchange: impl Into<Exchange>) -> Self {
        self.exchanges.push(exchange.into());
        self
    }

    /// Adds a queue, with its bindings and the exchanges that it is bound to.
    #[must_use]
    pub fn queue(mut self, queue: impl Into<Queue>) -> Self {
        self.queues.push(queue.into());
        self
    }

    /// Adds a consumer of these queues, with what it asks for.
    #[must_use]
    pub fn consumer<N: Into<Name>>(
        self,
        queues: impl IntoIterator<Item = N>,
        options: SubscribeOptions,
    ) -> Self {
        self.handlers(queues, options, &Retries::none())
    }

    /// Adds handlers that serve these queues: a consumer, and messages that come again as `retries` says. Where the transport has no
    /// delayed retries, the handlers wait themselves, so that is no reason to refuse it.
    #[must_use]
    pub fn handlers<N: Into<Name>>(
        mut self,
        queues: impl IntoIterator<Item = N>,
        options: SubscribeOptions,
        retries: &Retries,
    ) -> Self {
        self.consumers.push(Consuming {
            queues: queues.into_iter().map(Into::into).collect(),
            options,
            retries_later: retries.pause(1).is_some_and(|pause| !pause.is_zero()),
        });
        self
    }

    /// Adds everything of another one.
    #[must_use]
    pub fn and(mut self, other: Topology) -> Self {
        self.exchanges.extend(other.exchanges);
        self.queues.extend(other.queues);
        self.consumers.extend(other.consumers);
        self
    }

    /// The exchanges that were added.
    pub fn exchanges(&self) -> &[Exchange] {
        &self.exchanges
    }

    /// The queues that were added.
    pub fn queues(&self) -> &[Queue] {
        &self.queues
    }

    /// How each declaration fares on a transport with these capabilities, in the order of declaring.
    ///
    /// A transport's are known by its scheme, [`Registry::capabilities`](crate::Registry::capabilities); those of a
    /// connection, [`Connection::capabilities`](crate::Connection::capabilities), say what this broker can do. What is only verified, or not
    /// declared at all, asks for nothing.
    pub fn check(&self, capabilities: &Capabilities) -> Portability {
        let mut checks = Checks {
            capabilities,
            seen: HashSet::new(),
            problems: HashSet::new(),
            exchanges: BTreeMap::new(),
            queues: BTreeMap::new(),
            declarations: Vec::new(),
        };
        for exchange in &self.exchanges {
            for step in topology::of_exchange(exchange, DeclareMode::Ensure) {
                checks.step(step);
            }
        }
        for queue in &self.queues {
            for step in topology::of_queue(queue, DeclareMode::Ensure) {
                checks.step(step);
            }
        }
        let mut consumers = Vec::new();
        for consuming in &self.consumers {
            let options = &consuming.options;
            let operation = Operation::OpenSubscription(&consuming.queues, options);
            let mut asked = checks.asked(&operation);
            if consuming.retries_later {
                asked.push(FeatureUse::of_retries(capabilities));
            }
            let problem = problem(options.check(), true);
            let consumer = checks.declaration(asking(&operation), &operation, asked, problem);
            // Several may ask for the same.
            if !consumers.contains(&consumer) {
                consumers.push(consumer);
            }
        }
        checks.declarations.append(&mut consumers);
        Portability::new(checks.declarations)
    }
}

struct Checks<'a> {
    capabilities: &'a Capabilities,
    /// What was looked at, as it is called.
    seen: HashSet<String>,
    /// What was wrong with it.
    problems: HashSet<(String, String)>,
    exchanges: BTreeMap<&'a Name, &'a Exchange>,
    queues: BTreeMap<&'a Name, &'a Queue>,
    declarations: Vec<Portable>,
}

impl<'a> Checks<'a> {
    fn step(&mut self, step: Step<'a>) {
        let operation = step.operation();
        let (name, problem) = match &step {
            Step::Exchange(exchange, mode) => {
                let first = *self.exchanges.entry(exchange.name()).or_insert(exchange);
                let refused = exchange.check_as(*mode);
                (
                    asking(&operation),
                    problem(refused, first.difference(exchange).is_none()),
                )
            }
            // Each that the broker names is another one.
            Step::Queue(queue, mode) if queue.is_server_named() => (
                "the server-named queue".to_owned(),
                problem(queue.check_as(*mode), true),
            ),
            Step::Queue(queue, mode) => {
                let first = *self.queues.entry(queue.name()).or_insert(queue);
                (
                    asking(&operation),
                    problem(queue.check_as(*mode), first.difference(queue).is_none()),
                )
            }
            Step::Bind(destination, binding) => {
                let destination = match destination {
                    Destination::Queue(name) => format!("queue `{name}`"),
                    Destination::Exchange(name) => format!("exchange `{name}`"),
                };
                let source = binding.exchange().name();
                let key = binding.get_routing_key();
                (
                    format!("{destination} bound to `{source}` by `{key}`"),
                    None,
                )
            }
        };
        // What was looked at is told again only for what else is wrong with it.
        let is_new = self.seen.insert(name.clone());
        let is_told = match &problem {
            Some(problem) => !self.problems.insert((name.clone(), problem.clone())),
            None => !is_new,
        };
        if !is_told {
            let asked = self.asked(&operation);
            let declaration = self.declaration(name, &operation, asked, problem);
            self.declarations.push(declaration);
        }
    }

    fn asked(&self, operation: &Operation<'_>) -> Vec<FeatureUse> {
        let needs = needs(operation);
        let asked = needs.iter().map(|need| {
            let asked = FeatureUse::of(need, self.capabilities);
            match operation {
                Operation::DeclareExchange(exchange, _) if is_of_kind(need) => {
                    asked.of_kind(exchange.kind(), self.capabilities)
                }
                _ => asked,
            }
        });
        asked.collect()
    }

    fn declaration(
        &self,
        name: String,
        operation: &Operation<'_>,
        asked: Vec<FeatureUse>,
        problem: Option<String>,
    ) -> Portable {
        let refused = arguments(operation, self.capabilities);
        let mut declaration = Portable::new(name, asked, refused, problem);
        declaration.kept = kept(operation, self.capabilities);
        declaration
    }
}

fn is_of_kind(need: &Need) -> bool {
    need.feature == Feature::CustomExchangeKind
}

/// What every broker would refuse.
fn problem(checked: Result<()>, is_as_before: bool) -> Option<String> {
    match checked {
        Err(error) => Some(error.message().to_owned()),
        Ok(()) if !is_as_before => {
            Some("it is declared twice, and not alike; declare it once".to_owned())
        }
        Ok(()) => None,
    }
}
