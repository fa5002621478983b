//! What was declared over a connection, to be declared again on its next session.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::broadcast;

use crate::declare::{Binding, DeclareMode, Exchange, Queue};
use crate::driver::{BoxFuture, Connection, Destination};
use crate::engine::{Event, Restore, Session};
use crate::error::{ErrorKind, Result};
use crate::name::Name;

use super::topology::Step;

/// One thing that was declared.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Record {
    Exchange(Exchange, DeclareMode),
    Queue(Queue, DeclareMode),
    Bind(Destination, Binding),
}

/// Everything that was declared, in the order in which it was first declared.
pub(super) struct Recorded {
    records: Mutex<Vec<Record>>,
    events: broadcast::Sender<Event>,
}

impl Recorded {
    pub(super) fn new(events: broadcast::Sender<Event>) -> Self {
        Recorded {
            records: Mutex::default(),
            events,
        }
    }

    /// Takes note of a step that succeeded. A later declaration of the same thing replaces the earlier one.
    pub(super) fn add(&self, step: &Step<'_>) {
        let record = match step {
            Step::Exchange(exchange, mode) => Record::Exchange((*exchange).clone(), *mode),
            Step::Queue(queue, mode) => Record::Queue((*queue).clone(), *mode),
            Step::Bind(destination, binding) => {
                Record::Bind(destination.clone(), (*binding).clone())
            }
        };
        let mut records = self.records.lock();
        match records.iter_mut().find(|other| other.is_same(&record)) {
            Some(other) => *other = record,
            None => records.push(record),
        }
    }

    pub(super) fn remove_queue(&self, name: &Name) {
        self.records.lock().retain(|record| match record {
            Record::Queue(queue, _) => queue.name() != name,
            Record::Bind(Destination::Queue(queue), _) => queue != name,
            _ => true,
        });
    }

    pub(super) fn remove_exchange(&self, name: &Name) {
        self.records.lock().retain(|record| match record {
            Record::Exchange(exchange, _) => exchange.name() != name,
            Record::Bind(Destination::Exchange(exchange), _) if exchange == name => false,
            Record::Bind(_, binding) => binding.exchange().name() != name,
            Record::Queue(..) => true,
        });
    }

    pub(super) fn remove_binding(&self, destination: &Destination, binding: &Binding) {
        let gone = Record::Bind(destination.clone(), binding.clone());
        self.records.lock().retain(|record| !record.is_same(&gone));
    }
}

impl Record {
    /// Whether both are about the same thing on the broker.
    fn is_same(&self, other: &Record) -> bool {
        match (self, other) {
            (Record::Exchange(one, _), Record::Exchange(other, _)) => one.name() == other.name(),
            (Record::Queue(one, _), Record::Queue(other, _)) => one.name() == other.name(),
            (Record::Bind(to, one), Record::Bind(other_to, other)) => {
                to == other_to
                    && one.exchange().name() == other.exchange().name()
                    && one.get_routing_key() == other.get_routing_key()
                    && one.arguments() == other.arguments()
            }
            _ => false,
        }
    }

    async fn declare(&self, driver: &Arc<dyn Connection>) -> Result<()> {
        match self {
            Record::Exchange(exchange, mode) => driver.declare_exchange(exchange, *mode).await,
            Record::Queue(queue, mode) => driver.declare_queue(queue, *mode).await.map(drop),
            Record::Bind(destination, binding) => driver.bind(destination, binding).await,
        }
    }
}

impl Restore for Recorded {
    fn restore<'a>(&'a self, session: &'a Arc<Session>) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let records = self.records.lock().clone();
            for record in records {
                let Err(error) = record.declare(&session.driver).await else {
                    continue;
                };
                match error.kind() {
                    // Somebody changed it meanwhile. Whoever uses it will be told; the others go on.
                    ErrorKind::PreconditionFailed
                    | ErrorKind::NotFound
                    | ErrorKind::ResourceLocked
                    | ErrorKind::AccessRefused => {
                        tracing::warn!(%error, "could not be declared again as it was");
                        let reason = error.to_string();
                        drop(self.events.send(Event::TopologyMismatch { reason }));
                    }
                    _ => return Err(error),
                }
            }
            Ok(())
        })
    }
}
