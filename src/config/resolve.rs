//! Names in a file become what they stand for.

use std::collections::BTreeMap;

use crate::driver::SubscribeOptions;
use crate::{Binding, Connection, Exchange, ExchangeKind, Name, OpenProducer, Queue, Result};

use super::document::Places;
use super::handles::{self, Meant};
use super::{Sort, config_error, find, missing};

/// Each exchange is written out wherever it is bound to, so a small file could ask for a very large one.
const MAX_EXCHANGES: usize = 10_000;

/// The exchanges and queues of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Declared {
    exchanges: BTreeMap<String, Exchange>,
    queues: BTreeMap<String, Queue>,
}

/// A producer, with its exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Producer {
    pub(super) settings: handles::Producer,
    exchange: Exchange,
    destinations: Vec<(Exchange, Name)>,
}

/// A consumer, with its queues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Consumer {
    pub(super) settings: handles::Consumer,
    pub(super) queues: Vec<Queue>,
    /// What it asks of a transport.
    pub(super) options: SubscribeOptions,
}

/// What makes calls, with its exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rpc {
    pub(super) settings: handles::Rpc,
    pub(super) exchange: Exchange,
}

/// Handlers, with their queues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Handlers {
    pub(super) settings: handles::Handlers,
    pub(super) queues: Vec<Queue>,
    /// What its consumer asks of a transport.
    pub(super) options: SubscribeOptions,
}

impl Producer {
    pub(super) fn open(&self, connection: &Connection) -> OpenProducer {
        let destinations = self.destinations.clone();
        self.settings
            .open(connection, self.exchange.clone(), destinations)
    }

    /// The exchanges that it publishes to.
    pub(super) fn exchanges(&self) -> impl Iterator<Item = &Exchange> {
        let others = self.destinations.iter().map(|(exchange, _)| exchange);
        std::iter::once(&self.exchange).chain(others)
    }
}

impl Declared {
    pub(super) fn new(
        exchanges: BTreeMap<String, Exchange>,
        queues: BTreeMap<String, Queue>,
        places: &Places,
    ) -> Result<Self> {
        const QUEUE: Sort = Sort("queues", "queue");
        const EXCHANGE: Sort = Sort("exchanges", "exchange");

        let written: BTreeMap<String, Exchange> = exchanges
            .into_iter()
            .map(|(key, exchange)| {
                let exchange = if exchange.name().is_empty() {
                    exchange.with_name(key.as_str())
                } else {
                    exchange
                };
                (key, exchange)
            })
            .collect();
        let mut declared = Declared {
            exchanges: BTreeMap::new(),
            queues: BTreeMap::new(),
        };
        for (key, exchange) in &written {
            let bound = resolve_bindings(exchange.bindings(), |name| {
                find("exchange", name, &written).cloned()
            });
            bound.map_err(|error| EXCHANGE.tell(key, places, error))?;
        }
        let mut count = 0;
        for key in written.keys() {
            let exchange = resolve_exchange(key, &written, &mut Vec::new(), &mut count);
            // It says by itself which exchange it is.
            let exchange = exchange.map_err(|error| places.tell(&["exchanges", key], error))?;
            declared.exchanges.insert(key.clone(), exchange);
        }
        // As they are written: what is wrong with one isn't told of those that are bound to it.
        for (key, exchange) in &written {
            let checked = declared.check_alternates(exchange);
            checked.map_err(|error| EXCHANGE.tell(key, places, error))?;
        }
        for (key, queue) in queues {
            let queue = declared.bound(queue);
            let queue = queue.map_err(|error| QUEUE.tell(&key, places, error))?;
            let queue = if queue.is_server_named() {
                queue.with_name(key.as_str())
            } else {
                queue
            };
            declared.queues.insert(key, queue);
        }
        Ok(declared)
    }

    pub(super) fn exchange(&self, name: &str) -> Result<&Exchange> {
        find("exchange", name, &self.exchanges)
    }

    pub(super) fn queue(&self, name: &str) -> Result<&Queue> {
        find("queue", name, &self.queues)
    }

    pub(super) fn exchanges(&self) -> impl Iterator<Item = &Exchange> {
        self.exchanges.values()
    }

    pub(super) fn queues(&self) -> impl Iterator<Item = &Queue> {
        self.queues.values()
    }

    pub(super) fn producer(&self, settings: handles::Producer) -> Result<Producer> {
        let destinations = settings.destinations.iter().map(|destination| {
            let exchange = self.meant_exchange(Some(&destination.exchange))?;
            Ok((exchange, destination.routing_key.clone()))
        });
        Ok(Producer {
            destinations: destinations.collect::<Result<_>>()?,
            exchange: self.meant_exchange(settings.exchange.as_ref())?,
            settings,
        })
    }

    pub(super) fn consumer(&self, settings: handles::Consumer) -> Result<Consumer> {
        let queues = self.meant_queues(&settings.queues)?;
        Ok(Consumer {
            options: settings.options(&queues)?,
            queues,
            settings,
        })
    }

    pub(super) fn rpc(&self, settings: handles::Rpc) -> Result<Rpc> {
        Ok(Rpc {
            exchange: self.meant_exchange(settings.exchange.as_ref())?,
            settings,
        })
    }

    pub(super) fn handlers(&self, settings: handles::Handlers) -> Result<Handlers> {
        let queues = self.meant_queues(&settings.queues)?;
        Ok(Handlers {
            options: settings.options(&queues)?,
            queues,
            settings,
        })
    }

    fn meant_exchange(&self, meant: Option<&Meant<Exchange>>) -> Result<Exchange> {
        match meant {
            None => Ok(Exchange::default()),
            Some(Meant::Name(name)) if name.is_empty() => Ok(Exchange::default()),
            Some(Meant::Name(name)) => match of_the_broker(name) {
                Some(exchange) if !self.exchanges.contains_key(name) => Ok(exchange),
                _ => self.exchange(name).cloned(),
            },
            Some(Meant::Declaration(exchange)) => {
                self.check_alternates(exchange)?;
                let bindings = self.resolved(exchange.bindings())?;
                Ok(exchange.as_ref().clone().with_bindings(bindings))
            }
        }
    }

    fn meant_queues(&self, meant: &[Meant<Queue>]) -> Result<Vec<Queue>> {
        if meant.is_empty() {
            return Err(config_error("it has no `queues`"));
        }
        let queues = meant.iter().map(|meant| match meant {
            Meant::Name(name) => self.queue(name).cloned(),
            Meant::Declaration(queue) => self.bound(queue.as_ref().clone()),
        });
        queues.collect()
    }

    /// The queue with its bindings' exchanges.
    fn bound(&self, queue: Queue) -> Result<Queue> {
        if let Some(name) = queue.get_dead_letter_exchange() {
            self.check_name("dead_letter_exchange", name)?;
        }
        for binding in queue.bindings() {
            self.check_alternates(binding.exchange())?;
        }
        let bindings = self.resolved(queue.bindings())?;
        Ok(queue.with_bindings(bindings))
    }

    /// Looks at an exchange, and at those that are written out in its bindings.
    fn check_alternates(&self, exchange: &Exchange) -> Result<()> {
        if let Some(name) = exchange.get_alternate_exchange() {
            self.check_name("alternate_exchange", name)?;
        }
        for binding in exchange.bindings() {
            self.check_alternates(binding.exchange())?;
        }
        Ok(())
    }

    /// Fails if a key of the file stands where the broker's name belongs, which would lose what goes there.
    fn check_name(&self, attribute: &str, name: &Name) -> Result<()> {
        let meant = self.exchanges.get(name.as_str());
        let Some(meant) = meant.map(Exchange::name).filter(|meant| *meant != name) else {
            return Ok(());
        };
        if self
            .exchanges
            .values()
            .any(|exchange| exchange.name() == name)
        {
            return Ok(());
        }
        Err(config_error(format!(
            "`{attribute}` is the exchange's name on the broker, and `{name}` is the key of one that is called `{meant}`; \
             write `{attribute}: {meant}`"
        )))
    }

    fn resolved(&self, bindings: &[Binding]) -> Result<Vec<Binding>> {
        resolve_bindings(bindings, |name| self.exchange(name).cloned())
    }
}

/// An exchange that brokers have from the start.
fn of_the_broker(name: &str) -> Option<Exchange> {
    let kind = match name {
        "amq.direct" => ExchangeKind::Direct,
        "amq.fanout" => ExchangeKind::Fanout,
        "amq.topic" => ExchangeKind::Topic,
        "amq.headers" | "amq.match" => ExchangeKind::Headers,
        _ => return None,
    };
    Some(Exchange::custom(kind.as_str(), name).no_declare())
}

/// Bindings that name an exchange of the file get its declaration.
fn resolve_bindings(
    bindings: &[Binding],
    mut find: impl FnMut(&str) -> Result<Exchange>,
) -> Result<Vec<Binding>> {
    bindings
        .iter()
        .map(|binding| {
            let source = binding.exchange();
            // What a plain name in the file is read as.
            let reference = Exchange::direct(source.name()).no_declare();
            if *source != reference || source.name().starts_with("amq.") {
                return Ok(binding.clone());
            }
            Ok(binding.clone().with_exchange(find(source.name())?))
        })
        .collect()
}

fn resolve_exchange(
    key: &str,
    declared: &BTreeMap<String, Exchange>,
    path: &mut Vec<String>,
    count: &mut usize,
) -> Result<Exchange> {
    let Some(exchange) = declared.get(key) else {
        return Err(missing("exchange", key, declared.keys()));
    };
    if path.iter().any(|above| above == key) {
        return Err(config_error(format!(
            "it is bound to itself by way of {}; make the last binding at run time with \
             `connection.bind_exchange`",
            path.join(", ")
        )));
    }
    *count += 1;
    if *count > MAX_EXCHANGES {
        return Err(config_error(format!(
            "its exchanges are bound to each other in more than {MAX_EXCHANGES} ways; bind some of them at run time \
             with `connection.bind_exchange`"
        )));
    }
    path.push(key.to_owned());
    let bindings = resolve_bindings(exchange.bindings(), |name| {
        resolve_exchange(name, declared, path, count)
    })
    .map_err(|error| error.with_context(&format!("exchange `{key}`")))?;
    path.pop();
    Ok(exchange.clone().with_bindings(bindings))
}
