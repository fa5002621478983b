//! What a session knows of the declarations.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use kombu_core::driver::Destination;
use kombu_core::virt::{BindingRecord, Change, Table};
use kombu_core::{Exchange, ExchangeKind, Name, Queue, Result};
use redis::Value;

use crate::error;
use crate::flight::number;
use crate::records::{self, QueueRecord};
use crate::work::Target;

/// How many queues and exchanges are remembered that others have.
const OTHERS: usize = 1000;

/// A queue that was looked up.
#[derive(Clone, Debug)]
pub(crate) struct RedisQueue {
    declaration: Arc<Queue>,
    /// Otherwise the server has no record of it: others made it.
    pub(crate) is_declared: bool,
}

impl RedisQueue {
    pub(crate) fn name(&self) -> &Name {
        self.declaration.name()
    }

    pub(crate) fn declaration(&self) -> &Arc<Queue> {
        &self.declaration
    }

    /// Whether the server has something to look at before it stores a message.
    pub(crate) fn has_limits(&self) -> bool {
        let queue = &self.declaration;
        queue.get_message_ttl().is_some()
            || queue.get_max_length().is_some()
            || queue.get_max_length_bytes().is_some()
    }

    /// The list of the queue that a message of a priority belongs to.
    ///
    /// kombu has four, of which the first is served first. Without priorities, everything goes there.
    pub(crate) fn target(&self, priority: Option<u8>) -> Target {
        let step = match self.declaration.get_max_priority() {
            None | Some(0) => 0,
            Some(max) => {
                let levels = u16::from(max) + 1;
                let priority = u16::from(priority.unwrap_or(0).min(max));
                let level = match levels {
                    ..=4 => priority + 4 - levels,
                    _ => priority * 4 / levels,
                };
                3 - level as u8
            }
        };
        Target {
            queue: self.name().clone(),
            step,
        }
    }
}

/// The newest table that was loaded, and how it is compared with the server's.
pub(crate) struct Known {
    /// Its version is the session's own, for the server's doesn't count what Python does.
    pub(crate) table: Table,
    /// The server's.
    pub(crate) version: u64,
    /// The exchanges whose rows of kombu's were loaded.
    loaded: HashSet<Name>,
    /// Those that a message depends on which comes by an exchange.
    reached: HashMap<Name, Arc<[Name]>>,
    queues: HashMap<Name, RedisQueue>,
    /// Queues and exchanges that others have, and nobody declared here, the last one found last.
    others: VecDeque<Destination>,
}

impl Known {
    pub(crate) fn new() -> Self {
        Known {
            table: Table::new(),
            version: 0,
            loaded: HashSet::new(),
            reached: HashMap::new(),
            queues: HashMap::new(),
            others: VecDeque::new(),
        }
    }

    pub(crate) fn queue(&mut self, name: &Name) -> Option<RedisQueue> {
        if let Some(queue) = self.queues.get(name) {
            return Some(queue.clone());
        }
        let queue = match self.table.queue(name) {
            Some(queue) => RedisQueue {
                declaration: queue.clone(),
                is_declared: true,
            },
            None if self.table.is_undeclared(name) => RedisQueue {
                declaration: Arc::new(Queue::new(name.clone())),
                is_declared: false,
            },
            None => return None,
        };
        self.queues.insert(name.clone(), queue.clone());
        Some(queue)
    }

    /// Takes note of something that others have. The next load has it.
    pub(crate) fn add_other(&mut self, other: Destination) {
        if !self.others.contains(&other) {
            if self.others.len() >= OTHERS {
                // It is looked for again when somebody wants it.
                self.others.pop_front();
            }
            self.others.push_back(other);
        }
        self.table.set_version(self.table.version() + 1);
    }

    /// Exchanges that others have.
    pub(crate) fn other_exchanges(&self) -> impl Iterator<Item = &Name> {
        self.others.iter().filter_map(|other| match other {
            Destination::Exchange(name) => Some(name),
            Destination::Queue(_) => None,
        })
    }

    /// All exchanges whose rows are to be compared.
    pub(crate) fn loaded(&self) -> impl Iterator<Item = &Name> {
        self.loaded.iter()
    }

    /// What a message that is published to an exchange depends on: the rows of that, and of those behind it.
    pub(crate) fn reached(&mut self, exchange: &Name) -> Arc<[Name]> {
        if let Some(reached) = self.reached.get(exchange) {
            return reached.clone();
        }
        let mut reached = vec![exchange.clone()];
        let mut seen: HashSet<Name> = reached.iter().cloned().collect();
        let mut next = 0;
        while let Some(name) = reached.get(next).cloned() {
            next += 1;
            let alternate = self
                .table
                .exchange(&name)
                .and_then(Exchange::get_alternate_exchange);
            let behind = self
                .table
                .bindings()
                .filter_map(|record| match &record.destination {
                    Destination::Exchange(behind) if record.source == name => Some(behind),
                    _ => None,
                });
            for behind in alternate.into_iter().chain(behind) {
                if seen.insert(behind.clone()) {
                    reached.push(behind.clone());
                }
            }
        }
        reached.retain(|name| self.loaded.contains(name));
        let reached: Arc<[Name]> = reached.into();
        self.reached.insert(exchange.clone(), reached.clone());
        reached
    }

    /// Takes in what `load.lua` answered.
    pub(crate) fn load(&mut self, answer: &Value) -> Result<()> {
        let wrong = || error::unexpected("for all declarations", answer);
        let Value::Array(parts) = answer else {
            return Err(wrong());
        };
        let [version, exchanges, queues, bindings, rows] = &parts[..] else {
            return Err(wrong());
        };
        let mut table = Table::new();
        for (_, text) in pairs(exchanges).ok_or_else(wrong)? {
            let exchange: Exchange = records::read(text, "exchange")?;
            table.apply(&Change::PutExchange(exchange));
        }
        for (_, text) in pairs(queues).ok_or_else(wrong)? {
            let QueueRecord { queue, owner } = records::read(text, "queue")?;
            table.apply(&Change::PutQueue(queue, owner));
        }
        for text in texts(bindings).ok_or_else(wrong)? {
            table.apply(&Change::Bind(records::binding(text)?));
        }
        let mut loaded = HashSet::new();
        let Value::Array(rows) = rows else {
            return Err(wrong());
        };
        for pair in rows.chunks_exact(2) {
            let name = text(&pair[0]).and_then(|name| std::str::from_utf8(name).ok());
            let name = Name::from(name.ok_or_else(wrong)?);
            let rows = texts(&pair[1]).ok_or_else(wrong)?;
            loaded.insert(name.clone());
            let read: Vec<(BindingRecord, bool)> = rows
                .iter()
                .filter_map(|row| records::row(&name, std::str::from_utf8(row).ok()?))
                .collect();
            if table.exchange(&name).is_none() && !read.is_empty() {
                // Somebody else's: kombu doesn't tell the kind.
                let exchange = match read.iter().any(|(_, is_topic)| *is_topic) {
                    true => Exchange::topic(name.clone()),
                    false => Exchange::direct(name.clone()),
                };
                table.apply(&Change::PutExchange(exchange));
            }
            // Python's queues on a fanout exchange are its consumers, which listen at a channel.
            let has_lists = table
                .exchange(&name)
                .is_some_and(|exchange| *exchange.kind() != ExchangeKind::Fanout);
            for (record, _) in read {
                if let Destination::Queue(queue) = &record.destination
                    && has_lists
                    && table.queue(queue).is_none()
                {
                    table.add_undeclared(queue.clone());
                }
                table.apply(&Change::Bind(record));
            }
        }
        for other in &self.others {
            if let Destination::Queue(name) = other
                && table.queue(name).is_none()
            {
                table.add_undeclared(name.clone());
            }
        }
        table.set_version(self.table.version() + 1);
        self.version = number(version).ok_or_else(wrong)?;
        self.table = table;
        self.loaded = loaded;
        self.reached.clear();
        self.queues.clear();
        Ok(())
    }

    /// Takes in changes that the server has made, which were based on what is known. Answers the version.
    pub(crate) fn apply(&mut self, changes: &[Change], version: u64) -> u64 {
        for change in changes {
            match change {
                Change::PutExchange(exchange) => {
                    self.loaded.insert(exchange.name().clone());
                }
                Change::DeleteExchange(name) => {
                    self.loaded.remove(name);
                }
                _ => {}
            }
            self.table.apply(change);
        }
        self.table.set_version(self.table.version() + 1);
        self.version = version;
        self.reached.clear();
        self.queues.clear();
        self.table.version()
    }

    /// The channel that Python's consumers of a fanout exchange listen at.
    pub(crate) fn is_fanout(&self, exchange: &str) -> bool {
        self.table
            .exchange(exchange)
            .is_some_and(|exchange| *exchange.kind() == ExchangeKind::Fanout)
    }
}

fn text(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(text) => Some(text),
        _ => None,
    }
}

fn texts(value: &Value) -> Option<Vec<&[u8]>> {
    match value {
        Value::Array(values) | Value::Set(values) => values.iter().map(text).collect(),
        _ => None,
    }
}

fn pairs(value: &Value) -> Option<Vec<(&[u8], &[u8])>> {
    match value {
        Value::Map(pairs) => pairs
            .iter()
            .map(|(key, value)| Some((text(key)?, text(value)?)))
            .collect(),
        Value::Array(_) => {
            let texts = texts(value)?;
            Some(
                texts
                    .chunks_exact(2)
                    .map(|pair| (pair[0], pair[1]))
                    .collect(),
            )
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(declaration: Queue) -> RedisQueue {
        RedisQueue {
            declaration: Arc::new(declaration),
            is_declared: true,
        }
    }

    fn steps(max: u8) -> Vec<u8> {
        let queue = queue(Queue::new("jobs").max_priority(max));
        (0..=max)
            .map(|priority| queue.target(Some(priority)).step)
            .collect()
    }

    #[test]
    fn the_highest_priority_is_served_first_and_none_overtakes_a_higher_one() {
        assert_eq!(steps(1), [1, 0]);
        assert_eq!(steps(3), [3, 2, 1, 0]);
        assert_eq!(steps(9), [3, 3, 3, 2, 2, 1, 1, 1, 0, 0]);
        let plain = queue(Queue::new("jobs"));
        assert_eq!(plain.target(Some(9)).step, 0);
    }
}
