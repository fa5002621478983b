//! What may differ: nothing else may. Each is one of the declared freedoms of `docs/semantics.md`, or a matter of the clock.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use kombu_core::Name;
use kombu_core::declare::{Overflow, Queue};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{Broker, Freedom};

use super::observe::Observed;
use super::sequence::{LONG, Operation, QUEUE, QUEUES, Sequence, Step};

/// Takes out of a message's headers what two brokers need not agree on.
pub(super) fn take_out(headers: &mut Value) {
    forget_last_death(headers);
    let deaths = headers.get_mut("x-death").and_then(Value::as_array_mut);
    let Some(deaths) = deaths else { return };
    deaths.iter_mut().for_each(forget_time);
    forget_order(deaths);
}

/// When it died: the brokers have clocks of their own.
fn forget_time(death: &mut Value) {
    if let Some(death) = death.as_object_mut() {
        death.remove("time");
    }
}

/// The first entry of `x-death` once more, which RabbitMQ adds since version 4.
fn forget_last_death(headers: &mut Value) {
    if let Some(headers) = headers.as_object_mut() {
        headers.retain(|name, _| !name.starts_with("x-last-death-"));
    }
}

/// In which order a message died before its last death: RabbitMQ 3 turns the older entries over with each death.
fn forget_order(deaths: &mut [Value]) {
    if let Some((_, older)) = deaths.split_first_mut() {
        older.sort_by_key(Value::to_string);
    }
}

/// Leaves out what two brokers need not do alike, and what comes of it.
pub(super) fn leave_out(sequence: &mut Sequence) {
    leave_out_overtaking(sequence);
    leave_out_rejections(sequence);
}

/// Leaves out what this broker need not do as the others do.
///
/// One that counts what is unsettled refuses other messages than memory does, so its full queues drop their heads instead. A
/// queue that takes nothing at all counts nothing.
///
/// Where a message dies of either, none is over at once in queues that drop what is too much.
pub(super) fn leave_out_for(broker: &Broker, sequence: &mut Sequence) {
    if broker.may(Freedom::CountInFlight) {
        leave_out_refusals(sequence);
    }
    if broker.may(Freedom::DieOfEither) {
        leave_out_expired_drops(sequence);
    }
    leave_out(sequence);
}

fn leave_out_refusals(sequence: &mut Sequence) {
    for step in &mut sequence.0 {
        if let Operation::DeclareQueue(queue) = &mut step.operation
            && queue.get_overflow() == Some(Overflow::RejectPublish)
            && queue.get_max_length().is_some_and(|limit| limit > 0)
        {
            *queue = queue.clone().overflow(Overflow::DropHead);
        }
    }
}

fn leave_out_expired_drops(sequence: &mut Sequence) {
    let mut queues = sequence.0.iter().filter_map(declared);
    if !queues.any(drops) {
        return;
    }
    for step in &mut sequence.0 {
        match &mut step.operation {
            Operation::DeclareQueue(queue)
                if drops(queue) && queue.get_message_ttl() == Some(Duration::ZERO) =>
            {
                *queue = queue.clone().message_ttl(LONG);
            }
            Operation::Publish(publish) => {
                publish.expiration = publish.expiration.filter(|expiration| *expiration > 0);
            }
            _ => {}
        }
    }
}

fn declared(step: &Step) -> Option<&Queue> {
    match &step.operation {
        Operation::DeclareQueue(queue) => Some(queue),
        _ => None,
    }
}

/// Whether what is too much for a queue goes, for what comes.
fn drops(queue: &Queue) -> bool {
    let has_length = queue.get_max_length().is_some() || queue.get_max_length_bytes().is_some();
    has_length && queue.get_overflow() != Some(Overflow::RejectPublish)
}

/// Whether this broker may mark messages from here on, though nobody had them: something was over at once.
pub(super) fn may_mark(broker: &Broker, step: &Step) -> bool {
    let is_over = match &step.operation {
        Operation::DeclareQueue(queue) => queue.get_message_ttl() == Some(Duration::ZERO),
        Operation::Publish(publish) => publish.expiration == Some(0),
        _ => false,
    };
    is_over && broker.may(Freedom::MarkBehindExpired)
}

/// Takes messages for new that were marked, and that nobody had: what was `expected` says so.
pub(super) fn forgive_marks(expected: &Value, answer: &mut Value) {
    match (expected, answer) {
        (Value::Array(expected), Value::Array(answer)) => {
            for (expected, answer) in expected.iter().zip(answer) {
                forgive_marks(expected, answer);
            }
        }
        (Value::Object(expected), Value::Object(answer)) => {
            let marks = [expected.get("redelivered"), answer.get("redelivered")];
            if marks == [Some(&Value::Bool(false)), Some(&Value::Bool(true))] {
                answer.insert("redelivered".to_owned(), Value::Bool(false));
            }
        }
        _ => {}
    }
}

/// How many steps this broker does as the others do, whatever became of messages that went back.
pub(super) fn keeps_order_until(broker: &Broker, model: &[Observed]) -> usize {
    if !broker.may(Freedom::OrderOwnReleases) {
        return model.len();
    }
    let mut givers = HashMap::new();
    let mut steps = model.iter();
    let mixed = steps.position(|step| {
        let is_mixed = match &step.given_back {
            Some((queue, session)) => *givers.entry(queue).or_insert(session) != session,
            None => false,
        };
        // What is taken next was never given back.
        givers.retain(|queue, _| step.counts.get(*queue).is_some_and(|ready| *ready > 0));
        is_mixed
    });
    mixed.map_or(model.len(), |step| step + 1)
}

/// Leaves out rejections where messages may die by themselves in more than one way.
///
/// Whether a dead letter goes round in a circle depends on whether it was rejected since it was in that queue before, and so
/// on the order of the older entries of `x-death`, as soon as there are two of them and one is a rejection.
fn leave_out_rejections(sequence: &mut Sequence) {
    let mut deadly = HashSet::new();
    for Step { operation, .. } in &sequence.0 {
        match operation {
            Operation::DeclareQueue(queue) if kills(queue) => deadly.insert(queue.name().clone()),
            Operation::Publish(publish) if publish.expiration == Some(0) => {
                deadly.insert(Name::EMPTY)
            }
            _ => false,
        };
    }
    if deadly.len() < 2 {
        return;
    }
    for Step { operation, .. } in &mut sequence.0 {
        if let Operation::Reject(held) = *operation {
            *operation = Operation::Release(held);
        }
    }
}

/// Whether messages die in a queue for which nobody has to do anything, and leave a letter.
fn kills(queue: &Queue) -> bool {
    let expires = queue.get_message_ttl() == Some(Duration::ZERO);
    queue.get_dead_letter_exchange().is_some() && (drops(queue) || expires)
}

/// Leaves out messages that expire at once where queues have priorities.
///
/// RabbitMQ looks at the time of a message that comes into an empty queue, and of what becomes the head when the one before
/// it goes. One that becomes the head because it overtakes others by its priority counts, and is served, as if its time
/// weren't over.
fn leave_out_overtaking(sequence: &mut Sequence) {
    let mut queues = sequence.0.iter().filter_map(declared);
    if !queues.any(|queue| queue.get_max_priority().is_some()) {
        return;
    }
    for step in &mut sequence.0 {
        if let Operation::Publish(publish) = &mut step.operation {
            publish.expiration = publish.expiration.filter(|expiration| *expiration > 0);
        }
    }
}

/// The same with the names of the queues in the opposite order.
///
/// The queues that one message reaches get it at the same time. If it kills something in several of them, their dead
/// letters race: on RabbitMQ, each queue is a process. A model takes the queues in some order of its own. If that order
/// makes a difference to what is observed, nothing can be said about it; if not, it makes none in the mirror.
pub(super) fn mirrored<T: Serialize + DeserializeOwned>(value: &T) -> serde_json::Result<T> {
    let text = serde_json::to_string(value)?;
    let mut parts = text.split(QUEUE);
    let mut mirrored = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        mirrored.push_str(QUEUE);
        let (number, rest) = part.split_at(1);
        let number = number
            .parse::<usize>()
            .map_or(0, |number| QUEUES - 1 - number);
        mirrored.push_str(&number.to_string());
        mirrored.push_str(rest);
    }
    serde_json::from_str(&mirrored)
}
