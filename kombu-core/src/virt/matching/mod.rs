//! Which bindings of one exchange a message matches.

mod headers;
mod topic;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::declare::ExchangeKind;
use crate::driver::Destination;
use crate::field::FieldTable;
use crate::name::Name;

use self::topic::Patterns;
use super::table::BindingRecord;

/// The bindings of one exchange, indexed for its kind.
#[derive(Clone, Debug)]
pub(super) struct Bindings {
    records: HashSet<Arc<BindingRecord>>,
    index: Index,
}

#[derive(Clone, Debug)]
enum Index {
    /// Direct: by equal key.
    Keys(HashMap<Name, Vec<Arc<BindingRecord>>>),
    /// Fanout: every record.
    All,
    /// Topic: by pattern.
    Patterns(Patterns),
    /// Headers: each record is asked.
    Arguments,
}

impl Bindings {
    pub(super) fn new(kind: &ExchangeKind) -> Self {
        let index = match kind {
            ExchangeKind::Fanout => Index::All,
            ExchangeKind::Topic => Index::Patterns(Patterns::default()),
            ExchangeKind::Headers => Index::Arguments,
            // Custom kinds are refused at declare by transports without `Feature::CustomExchangeKind`.
            _ => Index::Keys(HashMap::new()),
        };
        Bindings {
            records: HashSet::new(),
            index,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    pub(super) fn records(&self) -> impl Iterator<Item = &BindingRecord> {
        self.records.iter().map(|record| &**record)
    }

    /// Whether there are bindings, and all of them lead to one of `destinations`.
    pub(super) fn all_lead_to(&self, destinations: &[Destination]) -> bool {
        let mut records = self.records.iter();
        !self.is_empty() && records.all(|record| destinations.contains(&record.destination))
    }

    pub(super) fn contains(&self, record: &BindingRecord) -> bool {
        self.records.contains(record)
    }

    pub(super) fn insert(&mut self, record: BindingRecord) {
        let record = Arc::new(record);
        if !self.records.insert(record.clone()) {
            return;
        }
        match &mut self.index {
            Index::Keys(keys) => keys
                .entry(record.routing_key.clone())
                .or_default()
                .push(record),
            Index::Patterns(patterns) => patterns.insert(record),
            Index::All | Index::Arguments => {}
        }
    }

    pub(super) fn remove(&mut self, record: &BindingRecord) {
        if !self.records.remove(record) {
            return;
        }
        match &mut self.index {
            Index::Keys(keys) => {
                if let Some(list) = keys.get_mut(&record.routing_key) {
                    list.retain(|other| **other != *record);
                    if list.is_empty() {
                        keys.remove(&record.routing_key);
                    }
                }
            }
            Index::Patterns(patterns) => patterns.remove(record),
            Index::All | Index::Arguments => {}
        }
    }

    pub(super) fn remove_destination(&mut self, destination: &Destination) {
        let gone: Vec<_> = self
            .records
            .iter()
            .filter(|record| record.destination == *destination)
            .cloned()
            .collect();
        for record in gone {
            self.remove(&record);
        }
    }

    /// Adds the destinations of all matching bindings to `found`; the same one may appear twice.
    pub(super) fn matching<'a>(
        &'a self,
        routing_key: &str,
        headers: &FieldTable,
        found: &mut Vec<&'a Destination>,
    ) {
        let destination = |record: &'a Arc<BindingRecord>| &record.destination;
        match &self.index {
            Index::Keys(keys) => {
                found.extend(keys.get(routing_key).into_iter().flatten().map(destination));
            }
            Index::All => found.extend(self.records.iter().map(destination)),
            Index::Patterns(patterns) => patterns.matching(routing_key, found),
            Index::Arguments => found.extend(
                self.records
                    .iter()
                    .filter(|record| headers::matches(&record.arguments, headers))
                    .map(destination),
            ),
        }
    }
}
