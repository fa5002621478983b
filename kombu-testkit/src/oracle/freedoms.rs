//! What may differ: nothing else may. Each is one of the declared freedoms of `docs/semantics.md`, or a matter of the clock.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::sequence::{QUEUE, QUEUES};

/// Takes out of a message's headers what two brokers need not agree on.
pub(super) fn take_out(headers: &mut Value) {
    let deaths = headers.get_mut("x-death").and_then(Value::as_array_mut);
    for death in deaths.into_iter().flatten() {
        forget_time(death);
    }
}

/// When it died: the brokers have clocks of their own.
fn forget_time(death: &mut Value) {
    if let Some(death) = death.as_object_mut() {
        death.remove("time");
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
        let number = number.parse::<usize>().map_or(0, |number| QUEUES - 1 - number);
        mirrored.push_str(&number.to_string());
        mirrored.push_str(rest);
    }
    serde_json::from_str(&mirrored)
}
