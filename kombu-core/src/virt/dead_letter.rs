use std::time::SystemTime;

use crate::declare::Queue;
use crate::field::{FieldTable, FieldValue, Timestamp};
use crate::message::Envelope;
use crate::name::Name;

use super::copies;
use super::store::Death;

/// The message that a dead one becomes on its way to the dead-letter exchange.
///
/// RabbitMQ's rules: the queue's dead-letter routing key replaces the message's own one if it is set, the
/// expiration is taken off and kept in the entry, and `x-death` counts by queue and reason, the latest first. With a
/// key of the queue's, further keys of the message don't count any more.
pub fn letter(envelope: &Envelope, queue: &Queue, death: Death, died: SystemTime) -> Envelope {
    let reason = death.as_str();
    let mut content = (**envelope).clone();
    let name = queue.name();
    let deaths = content.headers.remove("x-death");
    let deaths = match deaths {
        Some(FieldValue::Array(deaths)) => deaths,
        _ => {
            let first = [
                ("x-first-death-exchange", content.exchange.clone()),
                ("x-first-death-queue", name.clone()),
                ("x-first-death-reason", Name::from_static(reason)),
            ];
            for (header, value) in first {
                content
                    .headers
                    .insert(Name::from_static(header), FieldValue::from(value));
            }
            Vec::new()
        }
    };
    let deaths = count(deaths, envelope, name, reason, died);
    content
        .headers
        .insert(Name::from_static("x-death"), FieldValue::Array(deaths));
    content.set_expiration(None);
    content.set_delay(None);
    if let Some(exchange) = queue.get_dead_letter_exchange() {
        content.exchange = exchange.clone();
    }
    if let Some(key) = queue.get_dead_letter_routing_key() {
        content.routing_key = key.clone();
        copies::forget(&mut content);
    }
    content.mandatory = false;
    Envelope::new(envelope.publish_id(), content)
}

/// Whether a message that died of `death` would go round in a circle if it came to `queue`.
///
/// RabbitMQ's rule: it was dead-lettered from there before, and nobody has rejected it since. What goes round
/// because somebody rejects it isn't stopped, nor is what has an entry that no broker wrote.
pub(super) fn is_cycle(letter: &Envelope, queue: &Name, death: Death) -> bool {
    if death == Death::Rejected {
        return false;
    }
    let deaths = letter.headers().get("x-death");
    let Some(deaths) = deaths.and_then(FieldValue::as_array) else {
        return false;
    };
    let field = |death: &FieldTable, name: &str, value: &str| {
        death.get(name).and_then(FieldValue::as_str) == Some(value)
    };
    let is_here = |death: &FieldValue| {
        let death = death.as_table();
        death.is_some_and(|death| field(death, "queue", queue.as_str()))
    };
    let is_automatic = |death: &FieldValue| {
        let death = death.as_table();
        death.is_some_and(|death| !field(death, "reason", Death::Rejected.as_str()))
    };
    let before = deaths.iter().position(is_here);
    before.is_some_and(|last| deaths[..=last].iter().all(is_automatic))
}

/// Adds one death: the entry of this queue and reason counts on and moves to the front.
fn count(
    mut deaths: Vec<FieldValue>,
    envelope: &Envelope,
    queue: &Name,
    reason: &'static str,
    died: SystemTime,
) -> Vec<FieldValue> {
    let is_same = |death: &FieldValue| {
        death.as_table().is_some_and(|death| {
            death.get("queue").and_then(FieldValue::as_str) == Some(queue)
                && death.get("reason").and_then(FieldValue::as_str) == Some(reason)
        })
    };
    let entry = match deaths.iter().position(is_same) {
        Some(index) => match deaths.remove(index) {
            FieldValue::Table(mut death) => {
                let before = death.get("count").and_then(FieldValue::as_i64).unwrap_or(0);
                death.insert(
                    Name::from_static("count"),
                    FieldValue::I64(before.saturating_add(1)),
                );
                death
            }
            // `is_same` accepts tables only.
            _ => FieldTable::default(),
        },
        None => {
            let mut death = FieldTable::from_iter([
                ("count", FieldValue::I64(1)),
                ("exchange", FieldValue::from(envelope.exchange().clone())),
                ("queue", FieldValue::from(queue.clone())),
                ("reason", FieldValue::from(Name::from_static(reason))),
                (
                    "routing-keys",
                    FieldValue::Array(
                        copies::visible_keys(envelope)
                            .map(FieldValue::from)
                            .collect(),
                    ),
                ),
                ("time", FieldValue::Timestamp(Timestamp::from(died))),
            ]);
            if let Some(expiration) = envelope.expiration() {
                let text = expiration.as_millis().to_string();
                death.insert(
                    Name::from_static("original-expiration"),
                    FieldValue::from(Name::from(text)),
                );
            }
            death
        }
    };
    deaths.insert(0, FieldValue::Table(entry));
    deaths
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Content, PublishId};

    fn letter(deaths: impl Into<Vec<FieldValue>>) -> Envelope {
        let mut content = Content::new("".into(), "dead".into(), "".into());
        let deaths = FieldValue::Array(deaths.into());
        content.headers.insert("x-death", deaths);
        let id = PublishId {
            producer: 1,
            sequence: 1,
        };
        Envelope::new(id, content)
    }

    fn death(queue: &'static str, reason: &'static str) -> FieldValue {
        FieldValue::Table(FieldTable::from_iter([
            ("queue", FieldValue::from(queue)),
            ("reason", FieldValue::from(reason)),
        ]))
    }

    #[test]
    fn a_circle_that_nobody_had_a_hand_in_is_stopped() {
        let automatic = [death("jobs", "expired"), death("dead", "maxlen")];
        let forged = |at: usize| {
            let mut deaths = automatic.to_vec();
            deaths.insert(at, "forged".into());
            letter(deaths)
        };
        let queue = Name::from_static("dead");
        assert!(is_cycle(&letter(automatic.clone()), &queue, Death::Expired));
        assert!(!is_cycle(
            &letter(automatic.clone()),
            &queue,
            Death::Rejected
        ));
        // A client wrote it, so that the circle isn't the broker's alone.
        assert!(!is_cycle(&forged(0), &queue, Death::Expired));
        assert!(!is_cycle(&forged(1), &queue, Death::Expired));
        // Before the message was here, it doesn't matter.
        assert!(is_cycle(&forged(2), &queue, Death::Expired));
    }
}
