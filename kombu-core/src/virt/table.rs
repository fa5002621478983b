use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rpds::{HashTrieMapSync, HashTrieSetSync};

use crate::declare::{Exchange, ExchangeKind, Queue};
use crate::driver::{DeleteQueue, Destination, ExchangeKinds, RouteMessages};
use crate::error::{Error, ErrorKind, Result};
use crate::field::FieldTable;
use crate::message::Content;
use crate::name::Name;

use super::copies;
use super::declarations::unknown_kind;
use super::matching::Bindings;
use super::owners::Owners;

/// A binding as a store keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BindingRecord {
    /// The exchange that messages come from.
    pub source: Name,
    /// Where they go.
    pub destination: Destination,
    /// The routing key, or the pattern on a topic exchange.
    pub routing_key: Name,
    /// Arguments, which headers exchanges match on.
    pub arguments: FieldTable,
}

/// One step from a version of the [`Table`] to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// An exchange is there, or is replaced.
    PutExchange(Exchange),
    /// An exchange and its bindings are gone.
    DeleteExchange(Name),
    /// A queue is there. An exclusive one belongs to the session of this number.
    PutQueue(Queue, Option<u64>),
    /// A queue, its messages and its bindings are gone, if the conditions hold.
    DeleteQueue(Name, DeleteQueue),
    /// A binding is there.
    Bind(BindingRecord),
    /// A binding is gone.
    Unbind(BindingRecord),
}

/// All exchanges, queues and bindings of a virtual host, ready for routing.
///
/// A store keeps one per virtual host and counts its versions; connections route over a clone of it. A clone costs
/// nothing, however much is declared: it shares everything, and a change copies only the way to what it changes.
#[derive(Clone, Debug)]
pub struct Table {
    version: u64,
    exchanges: HashTrieMapSync<Name, Node>,
    queues: HashTrieMapSync<Name, Arc<Queue>>,
    owners: Owners,
    /// Queues that are there, and nobody knows how they were declared.
    undeclared: HashTrieSetSync<Name>,
    /// All bindings by where they lead to, so that they are found when that is deleted.
    by_destination: HashTrieMapSync<Destination, HashTrieSetSync<Arc<BindingRecord>>>,
}

#[derive(Clone, Debug)]
struct Node {
    exchange: Arc<Exchange>,
    bindings: Bindings,
}

impl Node {
    /// Adds the destinations that a kind of somebody's own chooses. Its panic is an error: this may be a task that does
    /// the work of others too.
    fn route_by<'a>(
        &'a self,
        kind: &dyn RouteMessages,
        content: &Content,
        matched: &mut Vec<&'a Destination>,
    ) -> Result<()> {
        let mut bindings: Vec<&BindingRecord> =
            self.bindings.iter().map(|record| &**record).collect();
        bindings.sort_unstable_by(|one, other| {
            let key =
                |record: &'a BindingRecord| (&record.destination, record.routing_key.as_str());
            key(one).cmp(&key(other))
        });
        let routing = AssertUnwindSafe(|| kind.route(content, &bindings));
        let Ok(chosen) = catch_unwind(routing) else {
            return Err(Error::new(
                ErrorKind::Protocol,
                format!("the kind of exchange `{}` panicked", self.exchange.name()),
            ));
        };
        let chosen = chosen.into_iter().filter_map(|index| bindings.get(index));
        matched.extend(chosen.map(|record| &record.destination));
        Ok(())
    }
}

impl Table {
    /// The table of a new virtual host: the exchanges that AMQP 0-9-1 requires, and RabbitMQ's `amq.match`.
    pub fn new() -> Self {
        let mut table = Table {
            version: 0,
            exchanges: HashTrieMapSync::default(),
            queues: HashTrieMapSync::default(),
            owners: Owners::default(),
            undeclared: HashTrieSetSync::default(),
            by_destination: HashTrieMapSync::default(),
        };
        for exchange in [
            Exchange::direct("amq.direct"),
            Exchange::fanout("amq.fanout"),
            Exchange::topic("amq.topic"),
            Exchange::headers("amq.headers"),
            Exchange::headers("amq.match"),
        ] {
            table.apply(&Change::PutExchange(exchange));
        }
        table.version = 1;
        table
    }

    /// The version that the store gave this state.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Says which version of the store this state is.
    pub fn set_version(&mut self, version: u64) {
        self.version = version;
    }

    /// The declaration of an exchange.
    pub fn exchange(&self, name: &str) -> Option<&Exchange> {
        self.exchanges.get(name).map(|node| &*node.exchange)
    }

    /// The declarations of all exchanges, the predeclared ones included, in no order.
    pub fn exchanges(&self) -> impl Iterator<Item = &Exchange> {
        self.exchanges.values().map(|node| &*node.exchange)
    }

    /// All bindings of an exchange, in no order.
    pub fn bindings_from(&self, exchange: &str) -> impl Iterator<Item = &BindingRecord> {
        let node = self.exchanges.get(exchange).into_iter();
        node.flat_map(|node| node.bindings.iter().map(|record| &**record))
    }

    /// All bindings that lead to a queue or an exchange, in no order.
    pub fn bindings_to(&self, destination: &Destination) -> impl Iterator<Item = &BindingRecord> {
        let bindings = self.by_destination.get(destination).into_iter();
        bindings.flat_map(|bindings| bindings.iter().map(|record| &**record))
    }

    /// All bindings, in no order.
    pub fn bindings(&self) -> impl Iterator<Item = &BindingRecord> {
        let nodes = self.exchanges.values();
        nodes.flat_map(|node| node.bindings.iter().map(|record| &**record))
    }

    /// The declaration of a queue.
    pub fn queue(&self, name: &str) -> Option<&Arc<Queue>> {
        self.queues.get(name)
    }

    /// Takes note of a queue that is there without a declaration: others, who share the broker, made it in their own way.
    ///
    /// The default exchange leads to it, and whoever declares it decides how it is.
    pub fn add_undeclared(&mut self, queue: Name) {
        self.undeclared.insert_mut(queue);
    }

    /// Whether a queue is there without a declaration.
    pub fn is_undeclared(&self, queue: &str) -> bool {
        self.undeclared.contains(queue)
    }

    /// The declaration of a queue; a plain one if it has none and is there.
    pub(super) fn queue_in_use(&self, name: &Name) -> Option<Arc<Queue>> {
        let declared = self.queues.get(name).cloned();
        declared.or_else(|| {
            let is_there = self.undeclared.contains(name);
            is_there.then(|| Arc::new(Queue::new(name.clone())))
        })
    }

    /// The session that an exclusive queue belongs to.
    pub fn owner(&self, queue: &str) -> Option<u64> {
        self.owners.get(queue)
    }

    /// The exclusive queues of a session.
    pub fn owned_by(&self, session: u64) -> Vec<Name> {
        self.owners.of(session)
    }

    /// What goes with a queue that goes: the queue itself, and exchanges that are deleted with their last binding.
    pub fn removal_of_queue(&self, name: &Name, options: DeleteQueue) -> Vec<Change> {
        let mut changes = vec![Change::DeleteQueue(name.clone(), options)];
        self.add_unbound(Destination::Queue(name.clone()), &mut changes);
        changes
    }

    /// What goes with an exchange that goes: the exchange itself, and exchanges that are deleted with their last
    /// binding.
    pub fn removal_of_exchange(&self, name: &Name) -> Vec<Change> {
        let mut changes = vec![Change::DeleteExchange(name.clone())];
        self.add_unbound(Destination::Exchange(name.clone()), &mut changes);
        changes
    }

    /// What goes with a binding that goes: the binding itself, and an exchange that is deleted with its last binding.
    pub fn removal_of_binding(&self, record: &BindingRecord) -> Vec<Change> {
        let mut changes = vec![Change::Unbind(record.clone())];
        if let Some(node) = self.exchanges.get(&record.source)
            && node.exchange.is_auto_delete()
            && node.bindings.len() == 1
        {
            changes.extend(self.removal_of_exchange(&record.source));
        }
        changes
    }

    /// Adds the deletion of every auto-delete exchange whose bindings all lead to `destination`, or to exchanges that
    /// go with it.
    fn add_unbound(&self, destination: Destination, changes: &mut Vec<Change>) {
        let mut gone = vec![destination];
        while let Some(name) = self.next_unbound(&gone) {
            gone.push(Destination::Exchange(name.clone()));
            changes.push(Change::DeleteExchange(name));
        }
    }

    fn next_unbound(&self, gone: &[Destination]) -> Option<Name> {
        let mut exchanges = self.exchanges.values();
        let unbound = exchanges.find(|node| {
            let destination = Destination::Exchange(node.exchange.name().clone());
            node.exchange.is_auto_delete()
                && !gone.contains(&destination)
                && node.bindings.all_lead_to(gone)
        });
        unbound.map(|node| node.exchange.name().clone())
    }

    /// Whether an equal binding is there.
    pub fn is_bound(&self, record: &BindingRecord) -> bool {
        self.exchanges
            .get(&record.source)
            .is_some_and(|node| node.bindings.contains(record))
    }

    /// Whether any binding leads from this exchange.
    pub fn has_bindings_from(&self, exchange: &str) -> bool {
        self.exchanges
            .get(exchange)
            .is_some_and(|node| !node.bindings.is_empty())
    }

    /// Takes one step. The version is the caller's to set.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::PutExchange(exchange) => {
                self.forget_from(exchange.name());
                let node = Node {
                    bindings: Bindings::new(exchange.kind()),
                    exchange: Arc::new(exchange.clone()),
                };
                self.exchanges.insert_mut(exchange.name().clone(), node);
            }
            Change::DeleteExchange(name) => {
                self.forget_from(name);
                self.exchanges.remove_mut(name);
                self.forget_to(&Destination::Exchange(name.clone()));
            }
            Change::PutQueue(queue, owner) => {
                self.owners.set(queue.name(), *owner);
                self.queues
                    .insert_mut(queue.name().clone(), Arc::new(queue.clone()));
            }
            Change::DeleteQueue(name, _) => {
                self.queues.remove_mut(name);
                self.undeclared.remove_mut(name);
                self.owners.set(name, None);
                self.forget_to(&Destination::Queue(name.clone()));
            }
            Change::Bind(record) => {
                if !self.is_bound(record)
                    && let Some(node) = self.exchanges.get_mut(&record.source)
                {
                    let record = Arc::new(record.clone());
                    node.bindings.insert(record.clone());
                    self.add_to_destination(record);
                }
            }
            Change::Unbind(record) => {
                if self.is_bound(record)
                    && let Some(node) = self.exchanges.get_mut(&record.source)
                {
                    node.bindings.remove(record);
                    self.remove_from_destination(record);
                }
            }
        }
    }

    fn add_to_destination(&mut self, record: Arc<BindingRecord>) {
        match self.by_destination.get_mut(&record.destination) {
            Some(records) => records.insert_mut(record),
            None => self.by_destination.insert_mut(
                record.destination.clone(),
                HashTrieSetSync::default().insert(record),
            ),
        }
    }

    fn remove_from_destination(&mut self, record: &BindingRecord) {
        if let Some(records) = self.by_destination.get_mut(&record.destination) {
            records.remove_mut(record);
            if records.is_empty() {
                self.by_destination.remove_mut(&record.destination);
            }
        }
    }

    /// Forgets where the bindings of an exchange lead to, which go with it.
    fn forget_from(&mut self, exchange: &Name) {
        let node = self.exchanges.get(exchange).cloned();
        for record in node.iter().flat_map(|node| node.bindings.iter()) {
            self.remove_from_destination(record);
        }
    }

    /// Removes the bindings that lead to something that is gone.
    fn forget_to(&mut self, destination: &Destination) {
        let records = self.by_destination.get(destination).cloned();
        self.by_destination.remove_mut(destination);
        for record in records.iter().flat_map(|records| records.iter()) {
            if let Some(node) = self.exchanges.get_mut(&record.source) {
                node.bindings.remove(record);
            }
        }
    }

    /// The queues that a message reaches by its routing key, and by those that its headers `CC` and `BCC` list, each once, or [`ErrorKind::NotFound`] if its exchange is missing.
    ///
    /// As in RabbitMQ, an exchange whose own bindings match nothing hands the message to its alternate
    /// exchange, and an alternate exchange that is missing counts as none.
    ///
    /// An exchange of a kind that isn't one of the four fails with [`ErrorKind::Unsupported`];
    /// [`route_with`](Self::route_with) knows more.
    pub fn route(&self, content: &Content) -> Result<Routed> {
        self.route_with(content, &ExchangeKinds::default())
    }

    /// As [`route`](Self::route), with exchange kinds beyond the four. One that panics fails with
    /// [`ErrorKind::Protocol`].
    pub fn route_with(&self, content: &Content, kinds: &ExchangeKinds) -> Result<Routed> {
        if content.exchange().is_empty() {
            let queues = copies::keys(content).filter_map(|key| {
                let declared = self.queues.get_key_value(key).map(|(name, _)| name);
                declared.or_else(|| self.undeclared.get(key))
            });
            let queues = queues.collect();
            return Ok(Routed::to(queues, !copies::has_any(content)));
        }
        let Some(first) = self.exchanges.get(content.exchange()) else {
            return Err(missing_exchange(content.exchange()));
        };
        let mut by_key = true;
        let mut queues: Vec<&Name> = Vec::new();
        // Without the first one, which most often is the only one: it may be asked twice.
        let mut seen: HashSet<&Name> = HashSet::new();
        let mut pending = vec![first];
        let mut matched = Vec::new();
        while let Some(node) = pending.pop() {
            match node.exchange.kind() {
                ExchangeKind::Custom(kind) => {
                    by_key = false;
                    let Some(kind) = kinds.get(kind) else {
                        return Err(unknown_kind(&node.exchange));
                    };
                    node.route_by(kind, content, &mut matched)?;
                }
                kind => {
                    by_key &= *kind != ExchangeKind::Headers;
                    for key in copies::keys(content) {
                        node.bindings.matching(key, content.headers(), &mut matched);
                    }
                }
            }
            let mut visit = |name| {
                if let Some(next) = self.exchanges.get(name)
                    && seen.insert(name)
                {
                    pending.push(next);
                }
            };
            if matched.is_empty()
                && let Some(alternate) = node.exchange.get_alternate_exchange()
            {
                visit(alternate);
            }
            for destination in matched.drain(..) {
                match destination {
                    Destination::Queue(name) => queues.push(name),
                    Destination::Exchange(name) => visit(name),
                }
            }
        }
        Ok(Routed::to(queues, by_key && !copies::has_any(content)))
    }
}

/// Where a message goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routed {
    /// The queues, each once.
    pub queues: Vec<Name>,
    /// Whether every message with this exchange and routing key goes there, whatever its headers are, unless they
    /// have further keys in `CC` or `BCC`.
    pub by_key: bool,
}

impl Routed {
    fn to(mut queues: Vec<&Name>, by_key: bool) -> Self {
        queues.sort_unstable();
        queues.dedup();
        Routed {
            queues: queues.into_iter().cloned().collect(),
            by_key,
        }
    }
}

impl Default for Table {
    fn default() -> Self {
        Self::new()
    }
}

pub(super) fn missing_exchange(name: &Name) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!(
            "no exchange `{name}`; declare it with `connection.declare_exchange`, or open the producer \
             with its declaration"
        ),
    )
}

pub(super) fn missing_queue(name: &Name) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!(
            "no queue `{name}`; declare it with `connection.declare_queue`, or open a consumer on its declaration"
        ),
    )
}

#[cfg(test)]
mod tests;
