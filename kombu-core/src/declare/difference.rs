use std::fmt;
use std::time::Duration;

use super::exchange::ALTERNATE;
use super::known::Known;
use super::{Exchange, Queue, QueueType, duration};
use crate::field::FieldValue;
use crate::name::Name;

/// The first attribute in which a declaration differs from what the broker has under its name.
///
/// ```
/// use kombu_core::declare::Queue;
/// use std::time::Duration;
///
/// let here = Queue::new("jobs").message_ttl(Duration::from_secs(90));
/// let there = Queue::new("jobs");
/// assert_eq!(
///     here.difference(&there).map(|difference| difference.to_string()).as_deref(),
///     Some("`message_ttl` (x-message-ttl) is 90s here and unset on the broker"),
/// );
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    attribute: &'static str,
    argument: Option<&'static str>,
    here: String,
    broker: String,
}

impl Difference {
    /// The attribute's name in kombu: its key in files.
    pub fn attribute(&self) -> &'static str {
        self.attribute
    }

    /// The broker's name for it, if it is an argument.
    pub fn argument(&self) -> Option<&'static str> {
        self.argument
    }

    /// The value in this declaration, as text; `unset` if there is none.
    pub fn here(&self) -> &str {
        &self.here
    }

    /// The value that the broker has, as text; `unset` if there is none.
    pub fn broker(&self) -> &str {
        &self.broker
    }

    fn between<T: PartialEq + ToString>(
        attribute: &'static str,
        here: T,
        broker: T,
    ) -> Option<Difference> {
        (here != broker).then(|| Difference {
            attribute,
            argument: None,
            here: here.to_string(),
            broker: broker.to_string(),
        })
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.attribute)?;
        if let Some(argument) = self.argument {
            write!(f, " ({argument})")?;
        }
        write!(
            f,
            " is {} here and {} on the broker",
            self.here, self.broker
        )
    }
}

impl Exchange {
    /// What a broker that has `existing` under this name objects to, if it does.
    ///
    /// As in RabbitMQ, these count: type, durable, auto_delete, internal, alternate exchange. Bindings,
    /// delivery mode, declare mode and other arguments don't.
    pub fn difference(&self, existing: &Exchange) -> Option<Difference> {
        let name = |name: Option<&Name>| name.map_or("unset".to_owned(), |name| quoted(name));
        Difference::between("type", self.kind().as_str(), existing.kind().as_str())
            .or_else(|| Difference::between("durable", self.is_durable(), existing.is_durable()))
            .or_else(|| {
                Difference::between(
                    "auto_delete",
                    self.is_auto_delete(),
                    existing.is_auto_delete(),
                )
            })
            .or_else(|| Difference::between("internal", self.is_internal(), existing.is_internal()))
            .or_else(|| {
                let (here, broker) = (
                    self.get_alternate_exchange(),
                    existing.get_alternate_exchange(),
                );
                (here != broker).then(|| Difference {
                    attribute: "alternate_exchange",
                    argument: Some(ALTERNATE),
                    here: name(here),
                    broker: name(broker),
                })
            })
    }
}

impl Queue {
    /// What a broker that has `existing` under this name objects to, if it does.
    ///
    /// As in RabbitMQ, these count: exclusive, durable, auto_delete, and the arguments that stand for
    /// attributes, where no type counts as classic. Bindings, alias, no_ack, declare mode and other
    /// arguments don't. RabbitMQ answers 405 where [`attribute`](Difference::attribute) is `exclusive`,
    /// and 406 for the rest.
    pub fn difference(&self, existing: &Queue) -> Option<Difference> {
        Difference::between("exclusive", self.is_exclusive(), existing.is_exclusive())
            .or_else(|| Difference::between("durable", self.is_durable(), existing.is_durable()))
            .or_else(|| {
                Difference::between(
                    "auto_delete",
                    self.is_auto_delete(),
                    existing.is_auto_delete(),
                )
            })
            .or_else(|| {
                Known::ALL
                    .into_iter()
                    .find_map(|known| self.argument_difference(existing, known))
            })
    }

    fn argument_difference(&self, existing: &Queue, known: Known) -> Option<Difference> {
        let (here, broker) = (self.effective(known), existing.effective(known));
        (here != broker).then(|| Difference {
            attribute: known.attribute(),
            argument: Some(known.argument()),
            here: text(known, here),
            broker: text(known, broker),
        })
    }

    fn effective(&self, known: Known) -> Option<FieldValue> {
        known
            .get(&self.0)
            .or_else(|| self.0.arguments.get(known.argument()).cloned())
            .or_else(|| match known {
                Known::QueueType => Some(QueueType::Classic.as_str().into()),
                Known::SingleActiveConsumer => Some(false.into()),
                _ => None,
            })
    }
}

fn text(known: Known, value: Option<FieldValue>) -> String {
    let Some(value) = value else {
        return "unset".to_owned();
    };
    match (known, value.as_i64(), value.as_str(), value.as_bool()) {
        (Known::Expires | Known::MessageTtl, Some(millis), ..) => match u64::try_from(millis) {
            Ok(millis) => duration::format(Duration::from_millis(millis)),
            Err(_) => format!("{millis}ms"),
        },
        (Known::MaxDeliveries, Some(limit @ 0..), ..) => (i128::from(limit) + 1).to_string(),
        (Known::MaxDeliveries, Some(_), ..) => "unlimited".to_owned(),
        (Known::DeadLetterExchange | Known::DeadLetterRoutingKey, _, Some(name), _) => quoted(name),
        (_, Some(number), ..) => number.to_string(),
        (_, _, Some(text), _) => text.to_owned(),
        (_, _, _, Some(truth)) => truth.to_string(),
        _ => format!("a value of type {}", value.type_name()),
    }
}

fn quoted(name: &str) -> String {
    if name.is_empty() {
        "\"\"".to_owned()
    } else {
        format!("`{name}`")
    }
}
