use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use kombu_core::driver::DeleteQueue;
use kombu_core::virt::{Applied, Change, Table};
use kombu_core::{Name, Result};
use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;
use url::Url;

use crate::queue::{MemoryQueue, Surroundings};

/// One broker: its declarations and its queues.
pub(crate) struct Broker {
    /// The table's version, to be compared without a lock.
    version: AtomicU64,
    table: Mutex<Table>,
    queues: RwLock<HashMap<Name, Arc<MemoryQueue>>>,
    surroundings: Arc<Surroundings>,
    sessions: AtomicU64,
}

impl Broker {
    fn new() -> Self {
        let table = Table::new();
        Broker {
            version: AtomicU64::new(table.version()),
            table: Mutex::new(table),
            queues: RwLock::default(),
            surroundings: Arc::default(),
            sessions: AtomicU64::new(0),
        }
    }

    pub(crate) fn version(&self) -> u64 {
        // Acquire pairs with the store in `apply`: whoever sees the version sees its queues.
        self.version.load(Ordering::Acquire)
    }

    pub(crate) fn table(&self) -> Table {
        self.table.lock().clone()
    }

    pub(crate) fn queue(&self, name: &Name) -> Option<Arc<MemoryQueue>> {
        self.queues.read().get(name).cloned()
    }

    /// All queues, in order of name.
    pub(crate) fn queues(&self) -> Vec<Arc<MemoryQueue>> {
        let mut queues: Vec<_> = self.queues.read().values().cloned().collect();
        queues.sort_unstable_by(|one, other| one.name().cmp(other.name()));
        queues
    }

    pub(crate) fn next_session(&self) -> u64 {
        self.sessions.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn surroundings(&self) -> &Arc<Surroundings> {
        &self.surroundings
    }

    /// Does what is due: delayed messages come, expired ones die, and queues that nobody used go.
    ///
    /// If the clock has jumped over several of these, they happen in their order: where a message died, this stops until
    /// somebody has moved it, because what it does in its next queue may be due as well. `session` is the one that moves
    /// it next, if there is one.
    pub(crate) fn catch_up(&self, session: Option<u64>) {
        let Surroundings { schedule, dead, .. } = &*self.surroundings;
        while !dead.wait_for(session)
            && let Some((at, queue)) = schedule.take_due()
        {
            if let Some(queue) = queue.upgrade()
                && queue.look_at(at)
            {
                self.remove_expired(&queue, at);
            }
        }
    }

    /// Deletes a queue that has no consumers any more.
    pub(crate) fn remove_unused(&self, queue: &Arc<MemoryQueue>) {
        self.remove(&mut self.table.lock(), queue);
    }

    /// Deletes a queue that nobody had used for too long by then, unless somebody has meanwhile.
    fn remove_expired(&self, queue: &Arc<MemoryQueue>, at: Instant) {
        let mut table = self.table.lock();
        if queue.has_expired(at) {
            self.remove(&mut table, queue);
        }
    }

    fn remove(&self, table: &mut Table, queue: &Arc<MemoryQueue>) {
        let is_there = |there: Arc<MemoryQueue>| Arc::ptr_eq(&there, queue);
        if !self.queue(queue.name()).is_some_and(is_there) {
            return;
        }
        let changes = table.removal_of_queue(queue.name(), DeleteQueue::new(true, false));
        // Somebody may have begun to consume from it in between: then it stays.
        drop(self.change(table, &changes));
    }

    /// Deletes the exclusive queues of a session.
    pub(crate) fn remove_owned(&self, session: u64) {
        let mut table = self.table.lock();
        for queue in table.owned_by(session) {
            let changes = table.removal_of_queue(&queue, DeleteQueue::default());
            drop(self.change(&mut table, &changes));
        }
    }

    pub(crate) fn apply(&self, base: u64, changes: &[Change]) -> Result<Applied> {
        let mut table = self.table.lock();
        if table.version() != base {
            return Ok(Applied::Stale);
        }
        let messages = self.change(&mut table, changes)?;
        let version = table.version();
        Ok(Applied::Done { version, messages })
    }

    /// Makes all of `changes`; answers how many messages went with the queues.
    fn change(&self, table: &mut Table, changes: &[Change]) -> Result<u64> {
        // First, because it is the only one that can be refused.
        let mut messages = 0;
        for change in changes {
            if let Change::DeleteQueue(name, options) = change
                && let Some(queue) = self.queue(name)
            {
                messages += queue.delete(*options)?;
            }
        }
        for change in changes {
            match change {
                Change::PutQueue(queue, _) => {
                    let queue = MemoryQueue::new(queue.clone(), self.surroundings.clone());
                    self.queues.write().insert(queue.name().clone(), queue);
                }
                Change::DeleteQueue(name, _) => {
                    self.queues.write().remove(name);
                }
                _ => {}
            }
            table.apply(change);
        }
        let version = table.version() + 1;
        table.set_version(version);
        self.version.store(version, Ordering::Release);
        Ok(messages)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // They hold their queues, and those what holds the dead.
        self.surroundings.dead.clear();
    }
}

/// Where a broker is found: name and virtual host for one that a URL named, the fragment for a fresh one.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Address {
    name: String,
    virtual_host: String,
    fresh: Option<String>,
}

enum Entry {
    /// Stays until it is removed.
    Named(Arc<Broker>),
    /// Goes with its last connection.
    Fresh(Weak<Broker>),
}

fn brokers() -> &'static Mutex<HashMap<Address, Entry>> {
    static BROKERS: OnceLock<Mutex<HashMap<Address, Entry>>> = OnceLock::new();
    BROKERS.get_or_init(Mutex::default)
}

impl Address {
    fn of(url: &Url) -> Self {
        let path = url.path();
        Address {
            name: url.host_str().unwrap_or_default().to_owned(),
            virtual_host: path.strip_prefix('/').unwrap_or(path).to_owned(),
            fresh: url.fragment().map(str::to_owned),
        }
    }

    fn broker(&self, brokers: &HashMap<Address, Entry>) -> Option<Arc<Broker>> {
        match brokers.get(self)? {
            Entry::Named(broker) => Some(broker.clone()),
            Entry::Fresh(broker) => broker.upgrade(),
        }
    }
}

/// The broker that a URL means, if it is there.
pub(crate) fn find(url: &Url) -> Option<Arc<Broker>> {
    Address::of(url).broker(&brokers().lock())
}

/// The broker that a URL means, made if it isn't there.
pub(crate) fn at(url: &Url) -> Arc<Broker> {
    let address = Address::of(url);
    let mut brokers = brokers().lock();
    address.broker(&brokers).unwrap_or_else(|| {
        brokers.retain(|_, entry| match entry {
            Entry::Named(_) => true,
            Entry::Fresh(broker) => broker.strong_count() > 0,
        });
        let broker = Arc::new(Broker::new());
        let entry = match address.fresh {
            Some(_) => Entry::Fresh(Arc::downgrade(&broker)),
            None => Entry::Named(broker.clone()),
        };
        brokers.insert(address, entry);
        broker
    })
}

/// Forgets the broker `memory://name`, with all of its virtual hosts; true if there was one.
///
/// Connections that are open keep using it; the next connect makes a new one.
pub fn remove(name: &str) -> bool {
    let mut brokers = brokers().lock();
    let before = brokers.len();
    brokers.retain(|address, _| address.fresh.is_some() || address.name != name);
    brokers.len() < before
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kombu_core::Queue;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_queue_that_is_used_while_it_expires_stays() {
        let broker = Broker::new();
        let expires = Duration::from_secs(1);
        let jobs = Change::PutQueue(Queue::new("jobs").expires(expires), None);
        broker.apply(broker.version(), &[jobs]).unwrap();
        let queue = broker.queue(&"jobs".into()).unwrap();
        tokio::time::advance(expires).await;
        let now = Instant::now();
        assert!(queue.look_at(now));
        // Somebody asks about it before it is deleted.
        queue.touch();
        broker.remove_expired(&queue, now);
        assert!(broker.queue(&"jobs".into()).is_some());
        tokio::time::advance(expires).await;
        broker.catch_up(None);
        assert!(broker.queue(&"jobs".into()).is_none());
    }

    #[test]
    fn a_fresh_broker_that_is_gone_is_forgotten_when_another_one_comes() {
        let [gone, there, new] =
            ["gone", "there", "new"].map(|name| Url::parse(&format!("memory://#{name}")).unwrap());
        drop(at(&gone));
        let _there = at(&there);
        let _new = at(&new);
        let is_known = |url| brokers().lock().contains_key(&Address::of(url));
        assert_eq!([&gone, &there, &new].map(is_known), [false, true, true]);
    }
}
