use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use fastrand::Rng;

use super::*;
use crate::field::FieldValue;
use crate::virt::matching::scan;

/// What a table means, with nothing but lists: every binding is asked.
#[derive(Clone, Default)]
struct Lists {
    exchanges: BTreeMap<Name, Exchange>,
    queues: BTreeSet<Name>,
    bindings: Vec<BindingRecord>,
}

impl Lists {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::PutExchange(exchange) => {
                self.bindings
                    .retain(|record| record.source != *exchange.name());
                self.exchanges
                    .insert(exchange.name().clone(), exchange.clone());
            }
            Change::DeleteExchange(name) => {
                self.exchanges.remove(name);
                self.bindings.retain(|record| {
                    record.source != *name
                        && record.destination != Destination::Exchange(name.clone())
                });
            }
            Change::PutQueue(queue, _) => {
                self.queues.insert(queue.name().clone());
            }
            Change::DeleteQueue(name, _) => {
                self.queues.remove(name);
                self.bindings
                    .retain(|record| record.destination != Destination::Queue(name.clone()));
            }
            Change::Bind(record) => {
                if self.exchanges.contains_key(&record.source) && !self.bindings.contains(record) {
                    self.bindings.push(record.clone());
                }
            }
            Change::Unbind(record) => self.bindings.retain(|other| other != record),
        }
    }

    fn route(&self, content: &Content) -> Option<Routed> {
        self.exchanges.get(content.exchange())?;
        let mut queues = BTreeSet::new();
        let mut by_key = true;
        let mut seen = BTreeSet::from([content.exchange().clone()]);
        let mut pending = vec![content.exchange().clone()];
        while let Some(exchange) = pending.pop().and_then(|name| self.exchanges.get(&name)) {
            by_key &= *exchange.kind() != ExchangeKind::Headers;
            let matched: Vec<&Destination> = self
                .bindings
                .iter()
                .filter(|record| {
                    record.source == *exchange.name()
                        && scan::matches(exchange.kind(), record, content)
                })
                .map(|record| &record.destination)
                .collect();
            let alternate = exchange.get_alternate_exchange();
            let next = match matched.is_empty() {
                true => alternate.cloned().into_iter().collect(),
                false => Vec::new(),
            };
            let bound = matched.into_iter().filter_map(|destination| {
                if let Destination::Queue(name) = destination {
                    queues.insert(name.clone());
                }
                match destination {
                    Destination::Exchange(name) => Some(name.clone()),
                    Destination::Queue(_) => None,
                }
            });
            for name in bound.chain(next) {
                if self.exchanges.contains_key(&name) && seen.insert(name.clone()) {
                    pending.push(name);
                }
            }
        }
        Some(Routed {
            queues: queues.into_iter().collect(),
            by_key,
        })
    }
}

fn exchange(random: &mut Rng) -> Name {
    Name::from(format!("exchange-{}", random.u8(..6)))
}

fn queue(random: &mut Rng) -> Name {
    Name::from(format!("queue-{}", random.u8(..8)))
}

/// Keys and patterns are drawn from the same few words, the empty one included, so that they meet.
fn key(random: &mut Rng, words: &[&str]) -> Name {
    let length = random.usize(..5);
    let words: Vec<&str> = (0..length)
        .filter_map(|_| random.choice(words).copied())
        .collect();
    words.join(".").into()
}

/// Values that are the same in another width, that are nearly the same, and that are never the same.
fn value(random: &mut Rng) -> FieldValue {
    let values = [
        FieldValue::Void,
        FieldValue::I8(1),
        FieldValue::U32(1),
        FieldValue::I64(1),
        FieldValue::I64(-1),
        FieldValue::F32(1.0),
        FieldValue::F64(1.0),
        FieldValue::F64(0.0),
        FieldValue::F32(-0.0),
        FieldValue::F64(f64::NAN),
        FieldValue::Bool(true),
        FieldValue::from("1"),
        FieldValue::Bytes(Bytes::from_static(b"1")),
        FieldValue::Decimal { scale: 0, value: 1 },
        FieldValue::Array(vec![FieldValue::I8(1)]),
        FieldValue::Array(vec![FieldValue::I64(1)]),
        FieldTable::from([("a", 1)]).into(),
    ];
    random.choice(values).unwrap_or_default()
}

fn headers(random: &mut Rng) -> FieldTable {
    (0..random.usize(..4))
        .map(|_| {
            let name = random.choice(["a", "b", "c", "x-a", "x-match"]);
            (name.unwrap_or_default(), value(random))
        })
        .collect()
}

fn arguments(random: &mut Rng) -> FieldTable {
    let mut arguments = headers(random);
    let modes = ["all", "any", "all-with-x", "any-with-x", "else"];
    if let Some(mode) = random.choice(modes).filter(|_| random.u8(..4) > 0) {
        arguments.insert("x-match", mode);
    }
    arguments
}

fn record(random: &mut Rng) -> BindingRecord {
    BindingRecord {
        source: exchange(random),
        destination: match random.u8(..4) {
            0 => Destination::Exchange(exchange(random)),
            _ => Destination::Queue(queue(random)),
        },
        routing_key: key(random, &["a", "b", "", "*", "#"]),
        arguments: arguments(random),
    }
}

fn change(random: &mut Rng, lists: &Lists) -> Change {
    match random.u8(..20) {
        0 | 1 => {
            let kinds = [
                Exchange::direct,
                Exchange::fanout,
                Exchange::topic,
                Exchange::headers,
            ];
            let kind = kinds[random.usize(..kinds.len())];
            let put = kind(exchange(random));
            Change::PutExchange(match random.bool() {
                true => put.alternate_exchange(exchange(random)),
                false => put,
            })
        }
        2 => Change::DeleteExchange(exchange(random)),
        3 | 4 => Change::PutQueue(Queue::new(queue(random)), None),
        5 => Change::DeleteQueue(queue(random), DeleteQueue::default()),
        6..=8 => Change::Unbind(match random.choice(&lists.bindings) {
            Some(record) => record.clone(),
            None => record(random),
        }),
        _ => Change::Bind(record(random)),
    }
}

fn message(random: &mut Rng) -> Content {
    let key = key(random, &["a", "b", "c", ""]);
    let mut content = Content::new(exchange(random), key, Bytes::new());
    *content.headers_mut() = headers(random);
    content
}

#[track_caller]
fn assert_agree(table: &Table, lists: &Lists, random: &mut Rng, seed: u64) {
    let message = message(random);
    assert_eq!(
        table.route(&message).ok(),
        lists.route(&message),
        "KOMBU_TEST_SEED={seed}, message {message:?} over {:#?}",
        lists.bindings
    );
    let record = random.choice(&lists.bindings);
    assert!(record.is_none_or(|record| table.is_bound(record)));
    let source = exchange(random);
    assert_eq!(
        table.has_bindings_from(&source),
        lists.bindings.iter().any(|record| record.source == source),
        "KOMBU_TEST_SEED={seed}, {source}"
    );
}

/// 3,000 random histories of declarations, with a message after each step.
#[test]
fn every_message_reaches_what_asking_each_binding_finds() {
    let first = match std::env::var("KOMBU_TEST_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => fastrand::u64(..),
    };
    println!("KOMBU_TEST_SEED={first}");
    let mut reached = 0;
    for case in 0..3_000 {
        let seed = first.wrapping_add(case);
        let random = &mut Rng::with_seed(seed);
        let (mut table, mut lists) = (Table::new(), Lists::default());
        let mut earlier = Vec::new();
        for step in 0..60 {
            let change = change(random, &lists);
            table.apply(&change);
            lists.apply(&change);
            assert_agree(&table, &lists, random, seed);
            if step % 20 == 0 {
                earlier.push((table.clone(), lists.clone()));
            }
            reached += lists.bindings.len();
        }
        // What was cloned on the way is as it was then.
        for (table, lists) in earlier {
            assert_agree(&table, &lists, random, seed);
        }
    }
    assert!(reached > 100_000, "the histories have bindings");
}

#[test]
fn nothing_is_left_when_all_that_was_declared_is_deleted() {
    for seed in 0..300 {
        let random = &mut Rng::with_seed(seed);
        let (mut table, mut lists) = (Table::new(), Lists::default());
        for _ in 0..100 {
            let change = change(random, &lists);
            table.apply(&change);
            lists.apply(&change);
        }
        match random.bool() {
            true => {
                for record in &lists.bindings {
                    table.apply(&Change::Unbind(record.clone()));
                }
            }
            false => {
                for exchange in lists.exchanges.keys() {
                    table.apply(&Change::DeleteExchange(exchange.clone()));
                }
            }
        }
        assert!(table.by_destination.is_empty(), "seed {seed}");
        for exchange in lists.exchanges.keys() {
            assert!(!table.has_bindings_from(exchange), "seed {seed}");
            let exchange = table.exchanges.get(exchange);
            let is_unused = exchange.is_none_or(|node| node.bindings.is_unused());
            assert!(is_unused, "seed {seed}: {exchange:?}");
        }
    }
}
