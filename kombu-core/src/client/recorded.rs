//! What was declared over a connection, to be declared again on its next session.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::broadcast;

use crate::declare::{Binding, DeclareMode, Exchange, Queue};
use crate::driver::{BoxFuture, Connection, Destination};
use crate::engine::{Entity, Event, Restore, Session};
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

pub(super) struct Entry {
    record: Record,
    /// Its place among the others.
    number: u64,
    /// It had gone when a session began, and nobody was told yet. The attempt that made it anew may have been lost
    /// before its answer came; the next one finds it there.
    missed: bool,
}

/// Everything that was declared, in the order in which it was first declared.
pub(super) struct Recorded {
    entries: Mutex<Vec<Entry>>,
    next_number: AtomicU64,
    events: broadcast::Sender<Event>,
}

impl Recorded {
    pub(super) fn new(events: broadcast::Sender<Event>) -> Self {
        Recorded {
            entries: Mutex::default(),
            next_number: AtomicU64::new(0),
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
        let mut entries = self.entries.lock();
        match entries
            .iter_mut()
            .find(|other| other.record.is_same(&record))
        {
            Some(other) => {
                other.record = record;
                other.missed = false;
            }
            None => entries.push(Entry {
                record,
                // Numbers are drawn under the lock, so that they stand in their order.
                number: self.next_number.fetch_add(1, Ordering::Relaxed),
                missed: false,
            }),
        }
    }

    /// Takes out what a deletion concerns, before the broker is asked for it: if the answer never comes, or nobody
    /// waits for it, the deletion may have been carried out all the same, and nothing of it must come back.
    pub(super) fn take(&self, deletion: &Deletion<'_>) -> Vec<Entry> {
        let mut entries = self.entries.lock();
        let taken = entries.extract_if(.., |entry| deletion.concerns(&entry.record));
        taken.collect()
    }

    /// Puts back where it was what had been taken out for a deletion that the broker refused, except for what was
    /// declared again meanwhile.
    pub(super) fn put_back(&self, taken: Vec<Entry>) {
        let mut entries = self.entries.lock();
        for entry in taken {
            if !entries
                .iter()
                .any(|other| other.record.is_same(&entry.record))
            {
                let index = entries.partition_point(|other| other.number < entry.number);
                entries.insert(index, entry);
            }
        }
    }

    fn set_missed(&self, record: &Record, missed: bool) {
        let mut entries = self.entries.lock();
        if let Some(entry) = entries.iter_mut().find(|entry| entry.record == *record) {
            entry.missed = missed;
        }
    }

    /// Declares again what is recorded, and tells if it had gone.
    async fn declare(
        &self,
        record: &Record,
        mut missed: bool,
        driver: &Arc<dyn Connection>,
    ) -> Result<()> {
        let Some((what, name)) = record.survivor() else {
            return record.declare(driver).await;
        };
        if !missed && record.is_missing(driver).await? {
            missed = true;
            self.set_missed(record, true);
        }
        // Also when it is there: it may have other attributes by now.
        record.declare(driver).await?;
        if missed {
            self.set_missed(record, false);
            tracing::warn!(%what, %name, "had gone, and was declared again");
            let name = name.clone();
            drop(self.events.send(Event::Recreated { what, name }));
        }
        Ok(())
    }
}

/// What is to be deleted.
pub(super) enum Deletion<'a> {
    Queue(&'a Name),
    Exchange(&'a Name),
    Binding(&'a Destination, &'a Binding),
}

impl Deletion<'_> {
    /// Whether a record goes with it.
    fn concerns(&self, record: &Record) -> bool {
        match self {
            Deletion::Queue(name) => match record {
                Record::Queue(queue, _) => queue.name() == *name,
                Record::Bind(Destination::Queue(queue), _) => queue == *name,
                _ => false,
            },
            Deletion::Exchange(name) => match record {
                Record::Exchange(exchange, _) => exchange.name() == *name,
                Record::Bind(Destination::Exchange(exchange), _) if exchange == *name => true,
                Record::Bind(_, binding) => binding.exchange().name() == *name,
                Record::Queue(..) => false,
            },
            Deletion::Binding(destination, binding) => match record {
                Record::Bind(to, other) => to == *destination && is_same_binding(other, binding),
                _ => false,
            },
        }
    }
}

fn is_same_binding(one: &Binding, other: &Binding) -> bool {
    one.exchange().name() == other.exchange().name()
        && one.get_routing_key() == other.get_routing_key()
        && one.arguments() == other.arguments()
}

/// Whether the broker understood what was asked, and didn't do it.
pub(super) fn is_refusal(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::PreconditionFailed
            | ErrorKind::ResourceLocked
            | ErrorKind::AccessRefused
            | ErrorKind::InvalidName
            | ErrorKind::Unsupported
    )
}

impl Record {
    /// Whether both are about the same thing on the broker.
    fn is_same(&self, other: &Record) -> bool {
        match (self, other) {
            (Record::Exchange(one, _), Record::Exchange(other, _)) => one.name() == other.name(),
            (Record::Queue(one, _), Record::Queue(other, _)) => one.name() == other.name(),
            (Record::Bind(to, one), Record::Bind(other_to, other)) => {
                to == other_to && is_same_binding(one, other)
            }
            _ => false,
        }
    }

    /// What should still be there after the session that declared it, if this is such a thing.
    fn survivor(&self) -> Option<(Entity, &Name)> {
        match self {
            Record::Exchange(exchange, DeclareMode::Ensure) if !exchange.is_auto_delete() => {
                Some((Entity::Exchange, exchange.name()))
            }
            Record::Queue(queue, DeclareMode::Ensure)
                if !queue.is_exclusive()
                    && !queue.is_auto_delete()
                    && queue.get_expires().is_none() =>
            {
                Some((Entity::Queue, queue.name()))
            }
            _ => None,
        }
    }

    async fn is_missing(&self, driver: &Arc<dyn Connection>) -> Result<bool> {
        let found = match self {
            Record::Exchange(exchange, _) => {
                driver.declare_exchange(exchange, DeclareMode::Verify).await
            }
            Record::Queue(queue, _) => {
                let info = driver.declare_queue(queue, DeclareMode::Verify).await;
                info.map(drop)
            }
            Record::Bind(..) => Ok(()),
        };
        match found {
            Ok(()) => Ok(false),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
            // Then it is there, or may not be seen; declaring it says which.
            Err(error) if is_refusal(error.kind()) => Ok(false),
            Err(error) => Err(error),
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
            let entries: Vec<_> = {
                let entries = self.entries.lock();
                let entries = entries.iter();
                entries
                    .map(|entry| (entry.record.clone(), entry.missed))
                    .collect()
            };
            for (record, missed) in entries {
                let Err(error) = self.declare(&record, missed, &session.driver).await else {
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_what_goes_with_nobody_is_missed() {
        use DeclareMode::{Ensure, Verify};
        let exchange = || Exchange::topic("media");
        let queue = || Queue::new("jobs");
        let hour = Duration::from_secs(3600);
        let survivors = [
            Record::Exchange(exchange(), Ensure),
            Record::Queue(queue(), Ensure),
            Record::Queue(queue().durable(false), Ensure),
        ];
        for record in survivors {
            assert!(record.survivor().is_some(), "{record:?}");
        }
        let others = [
            Record::Exchange(exchange().auto_delete(true), Ensure),
            Record::Exchange(exchange(), Verify),
            Record::Queue(queue().exclusive(true), Ensure),
            Record::Queue(queue().auto_delete(true), Ensure),
            Record::Queue(queue().expires(hour), Ensure),
            Record::Queue(queue(), Verify),
            Record::Bind(
                Destination::Queue("jobs".into()),
                Binding::from(&exchange()),
            ),
        ];
        for record in others {
            assert!(record.survivor().is_none(), "{record:?}");
        }
    }
}
