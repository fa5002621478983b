//! Messages that wait: a ladder of queues with a time to live, and the way back from them.
//!
//! Step n is the exchange and the queue `kombu.v1.delay.n`, where a message lives for 2ⁿ milliseconds. A message enters at its
//! highest step. Each exchange looks at one header: with it, the message goes to the queue of this step, and from there,
//! when it has expired, to the exchange of the next lower step; without it, at once to that exchange, which is the
//! alternate one. From below the lowest step, a queue for each target, in which nothing lives, leads to the exchange
//! that the message is for. So its routing key is what it was throughout, and it is the broker that keeps it.
//!
//! A retry is for one queue, whatever else is bound to where the message came from: the exchange of retries routes by a
//! header as well.

use std::collections::HashSet;
use std::time::Duration;

use kombu_core::{Error, ErrorKind, Name, Result};
use lapin::ExchangeKind;
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use tokio::sync::Mutex;

use crate::session::{Owner, Shared};

/// The exchange that retries come back through.
pub(crate) const RETRIES: Name = Name::from_static("kombu.v1.retry");
/// The queue that a retry is for.
pub(crate) const RETRY_TO: &str = "kombu-retry-to";
/// The exchange that a delayed message is for.
pub(crate) const DELAY_TO: &str = "kombu-delay-to";
/// With the number of a step: the message waits there.
const DELAY: &str = "kombu-delay-";
/// What exchanges and queues of the ladder are named after.
const STEP: &str = "kombu.v1.delay.";
/// Below the lowest step.
const BOTTOM: &str = "kombu.v1.delay.bottom";
/// Queues at the end, by their targets.
const END: &str = "kombu.v1.delay.to.";

/// Whether a header is for the exchanges here.
pub(crate) fn is_header(name: &str) -> bool {
    name == RETRY_TO || name.starts_with(DELAY)
}

/// Whether an exchange is one of those here.
pub(crate) fn is_exchange(name: &str) -> bool {
    name.starts_with(STEP) || RETRIES == name
}

/// Whether a queue is one of the ladder's.
pub(crate) fn is_queue(name: &str) -> bool {
    name.starts_with(STEP)
}

/// The steps that a delay is made of: bit n is set for 2ⁿ milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Steps(u32);

impl Steps {
    /// Rounded up: nothing comes early.
    pub(crate) fn new(delay: Duration) -> Result<Self> {
        match u32::try_from(delay.as_nanos().div_ceil(1_000_000)) {
            Ok(millis) => Ok(Steps(millis)),
            Err(_) => Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "a delay of {delay:?} is longer than the 49 days that a message can wait on RabbitMQ; send it later"
                ),
            )),
        }
    }

    fn numbers(self) -> impl Iterator<Item = u32> {
        (0..u32::BITS).filter(move |step| self.0 & 1 << step != 0)
    }

    pub(crate) fn headers(self) -> impl Iterator<Item = Name> {
        self.numbers()
            .map(|step| Name::from(format!("{DELAY}{step}")))
    }

    /// The exchange where a message enters.
    pub(crate) fn entry(self) -> Name {
        exchange(self.numbers().last())
    }
}

fn exchange(step: Option<u32>) -> Name {
    match step {
        Some(step) => Name::from(format!("{STEP}{step}")),
        None => Name::from_static(BOTTOM),
    }
}

/// What is there, as far as this session knows.
#[derive(Default)]
pub(crate) struct Ladder(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// Exchanges and queues by the numbers of their steps.
    exchanges: u64,
    queues: u32,
    has_bottom: bool,
    /// Exchanges that the bottom leads to.
    ends: HashSet<Name>,
    has_retries: bool,
    /// Queues that retries lead to.
    retried: HashSet<Name>,
}

impl Ladder {
    /// Sees that these steps are there, and that they lead to this exchange.
    pub(crate) async fn lead(&self, shared: &Shared, steps: Steps, target: &Name) -> Result<()> {
        let mut known = self.0.lock().await;
        if !known.has_bottom {
            declare_exchange(shared, BOTTOM, None).await?;
            known.has_bottom = true;
        }
        let highest = steps.numbers().last().unwrap_or(0);
        for step in 0..=highest {
            if known.exchanges & 1 << step == 0 {
                let below = exchange(step.checked_sub(1));
                declare_exchange(shared, &exchange(Some(step)), Some(&below)).await?;
                known.exchanges |= 1 << step;
            }
        }
        for step in steps.numbers() {
            if known.queues & 1 << step == 0 {
                let (name, below) = (exchange(Some(step)), exchange(step.checked_sub(1)));
                let lifetime = 1_i64 << step;
                declare_queue(shared, &name, lifetime, &below).await?;
                let header = format!("{DELAY}{step}");
                bind(shared, &name, &name, &header, AMQPValue::Boolean(true)).await?;
                known.queues |= 1 << step;
            }
        }
        if !known.ends.contains(target) {
            let name = end(target);
            declare_queue(shared, &name, 0, target).await?;
            let bottom = Name::from_static(BOTTOM);
            bind(shared, &name, &bottom, DELAY_TO, long(target)).await?;
            remember(&mut known.ends, target);
        }
        Ok(())
    }

    /// Sees that retries lead to this queue.
    pub(crate) async fn lead_back(&self, shared: &Shared, queue: &Name) -> Result<()> {
        let mut known = self.0.lock().await;
        if !known.has_retries {
            declare_exchange(shared, &RETRIES, None).await?;
            known.has_retries = true;
        }
        if !known.retried.contains(queue) {
            bind(shared, queue, &RETRIES, RETRY_TO, long(queue)).await?;
            remember(&mut known.retried, queue);
        }
        Ok(())
    }

    /// A queue is gone, and with it the way to it.
    pub(crate) async fn forget(&self, queue: &Name) {
        self.0.lock().await.retried.remove(queue);
    }

    /// Somebody deleted a part of it.
    pub(crate) async fn forget_all(&self) {
        *self.0.lock().await = Known::default();
    }
}

/// How many names are remembered of what is there.
const MOST_NAMES: usize = 10_000;

/// Takes note of what is there, to be looked at, or made, again where it was forgotten: names come and go for as long as
/// the session lasts.
pub(crate) fn remember(names: &mut HashSet<Name>, name: &Name) {
    if names.len() == MOST_NAMES {
        names.clear();
    }
    names.insert(name.clone());
}

/// The queue at the end of the ladder that leads to this exchange.
fn end(target: &Name) -> Name {
    let name = format!("{END}{target}");
    match name.len() {
        ..=255 => Name::from(name),
        // Names have 255 bytes at most; what is cut off is told apart by its sum.
        _ => {
            let sum = target.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
                (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
            Name::from(format!("{END}#{sum:016x}"))
        }
    }
}

fn long(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

async fn declare_exchange(shared: &Shared, name: &str, alternate: Option<&str>) -> Result<()> {
    let mut arguments = FieldTable::default();
    if let Some(alternate) = alternate {
        arguments.insert("alternate-exchange".into(), long(alternate));
    }
    let options = ExchangeDeclareOptions {
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    shared
        .control(Owner::Anybody, async |channel| {
            channel
                .exchange_declare(name.into(), ExchangeKind::Headers, options, arguments)
                .await
        })
        .await
}

/// A queue whose messages live so many milliseconds and go to an exchange then.
async fn declare_queue(shared: &Shared, name: &Name, lifetime: i64, next: &str) -> Result<()> {
    let arguments = [
        ("x-message-ttl", AMQPValue::LongLongInt(lifetime)),
        ("x-dead-letter-exchange", long(next)),
        ("x-queue-type", long("classic")),
    ];
    let mut table = FieldTable::default();
    for (argument, value) in arguments {
        table.insert(ShortString::from(argument), value);
    }
    let options = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    shared
        .control(Owner::Anybody, async |channel| {
            channel
                .queue_declare(name.as_str().into(), options, table)
                .await
        })
        .await
        .map(drop)
}

/// Binds a queue to an exchange for messages with this header.
async fn bind(
    shared: &Shared,
    queue: &Name,
    exchange: &Name,
    header: &str,
    value: AMQPValue,
) -> Result<()> {
    let mut arguments = FieldTable::default();
    arguments.insert("x-match".into(), long("all"));
    arguments.insert(ShortString::from(header), value);
    let (queue_name, exchange) = (queue.as_str().into(), exchange.as_str().into());
    shared
        .control(shared.owner_of(queue), async |channel| {
            let options = QueueBindOptions::default();
            channel
                .queue_bind(queue_name, exchange, "".into(), options, arguments)
                .await
        })
        .await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_delay_is_the_sum_of_its_steps_and_never_shorter() {
        let numbers = |delay: Duration| Steps::new(delay).unwrap().numbers().collect::<Vec<_>>();
        assert_eq!(numbers(Duration::from_millis(20)), [2, 4]);
        assert_eq!(numbers(Duration::from_nanos(1)), [0]);
        assert_eq!(numbers(Duration::from_micros(3001)), [2]);
        let longest = Duration::from_millis(u64::from(u32::MAX));
        assert_eq!(numbers(longest).len(), 32);
        let error = Steps::new(longest + Duration::from_nanos(1)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn a_message_enters_at_its_highest_step() {
        let steps = Steps::new(Duration::from_millis(20)).unwrap();
        assert_eq!(steps.entry(), "kombu.v1.delay.4");
        let headers: Vec<_> = steps.headers().collect();
        assert_eq!(headers, ["kombu-delay-2", "kombu-delay-4"]);
    }

    #[test]
    fn targets_with_long_names_are_told_apart() {
        let [one, other] = ["a", "b"].map(|last| end(&Name::from("x".repeat(254) + last)));
        assert!(one != other && one.len() <= 255);
    }
}
