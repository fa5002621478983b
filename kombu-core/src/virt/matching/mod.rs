//! Which bindings of one exchange a message matches.
//!
//! Everything here is persistent: a clone shares all of it, and a change of either copies only the way to what is
//! changed. So connections have their tables at no cost, and a declaration costs the same however much is declared.

mod group;
mod headers;
#[cfg(test)]
pub(super) mod scan;
mod topic;

use std::sync::Arc;

use rpds::{HashTrieMapSync, HashTrieSetSync};

use crate::declare::ExchangeKind;
use crate::driver::Destination;
use crate::field::FieldTable;
use crate::name::Name;

use self::group::Group;
use self::headers::Conditions;
use self::topic::Patterns;
use super::table::BindingRecord;

/// The bindings of one exchange, indexed for its kind.
#[derive(Clone, Debug)]
pub(super) struct Bindings {
    records: HashTrieSetSync<Arc<BindingRecord>>,
    index: Index,
}

#[derive(Clone, Debug)]
enum Index {
    /// Direct: by equal key.
    Keys(HashTrieMapSync<Name, Group>),
    /// Fanout: every record.
    All,
    /// Topic: by pattern.
    Patterns(Patterns),
    /// Headers: by what they ask for.
    Conditions(Conditions),
}

impl Bindings {
    pub(super) fn new(kind: &ExchangeKind) -> Self {
        let index = match kind {
            ExchangeKind::Fanout => Index::All,
            ExchangeKind::Topic => Index::Patterns(Patterns::default()),
            ExchangeKind::Headers => Index::Conditions(Conditions::default()),
            // Custom kinds are refused at declare by transports without `Feature::CustomExchangeKind`.
            _ => Index::Keys(HashTrieMapSync::default()),
        };
        Bindings {
            records: HashTrieSetSync::default(),
            index,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.records.size()
    }

    /// Whether there are bindings, and all of them lead to one of `destinations`.
    pub(super) fn all_lead_to(&self, destinations: &[Destination]) -> bool {
        let mut records = self.records.iter();
        !self.is_empty() && records.all(|record| destinations.contains(&record.destination))
    }

    /// Whether the index is empty too.
    #[cfg(test)]
    pub(super) fn is_unused(&self) -> bool {
        self.is_empty()
            && match &self.index {
                Index::Keys(keys) => keys.is_empty(),
                Index::All => true,
                Index::Patterns(patterns) => patterns.is_unused(),
                Index::Conditions(conditions) => conditions.is_unused(),
            }
    }

    pub(super) fn contains(&self, record: &BindingRecord) -> bool {
        self.records.contains(record)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<BindingRecord>> {
        self.records.iter()
    }

    /// Adds a binding that isn't there.
    pub(super) fn insert(&mut self, record: Arc<BindingRecord>) {
        match &mut self.index {
            Index::Keys(keys) => match keys.get_mut(&record.routing_key) {
                Some(group) => group.insert(record.clone()),
                None => keys.insert_mut(record.routing_key.clone(), Group::One(record.clone())),
            },
            Index::Patterns(patterns) => patterns.insert(record.clone()),
            Index::Conditions(conditions) => conditions.insert(&record),
            Index::All => {}
        }
        self.records.insert_mut(record);
    }

    /// Removes a binding that is there.
    pub(super) fn remove(&mut self, record: &BindingRecord) {
        match &mut self.index {
            Index::Keys(keys) => {
                if let Some(group) = keys.get_mut(&record.routing_key) {
                    group.remove(record);
                    if group.is_empty() {
                        keys.remove_mut(&record.routing_key);
                    }
                }
            }
            Index::Patterns(patterns) => patterns.remove(record),
            Index::Conditions(conditions) => conditions.remove(record),
            Index::All => {}
        }
        self.records.remove_mut(record);
    }

    /// Adds the destinations of all matching bindings to `found`; the same one may appear twice.
    pub(super) fn matching<'a>(
        &'a self,
        routing_key: &str,
        headers: &FieldTable,
        found: &mut Vec<&'a Destination>,
    ) {
        match &self.index {
            Index::Keys(keys) => {
                if let Some(group) = keys.get(routing_key) {
                    found.extend(group.iter().map(|record| &record.destination));
                }
            }
            Index::All => found.extend(self.records.iter().map(|record| &record.destination)),
            Index::Patterns(patterns) => patterns.matching(routing_key, found),
            Index::Conditions(conditions) => conditions.matching(headers, found),
        }
    }
}
