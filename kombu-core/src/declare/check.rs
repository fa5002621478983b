//! What every broker refuses, found before anything is sent.

use std::fmt;
use std::time::Duration;

use super::exchange::ALTERNATE;
use super::known::Known;
use super::{Binding, DeclareMode, Exchange, ExchangeKind, Overflow, Queue, QueueType, duration};
use crate::error::{Error, ErrorKind, Result};
use crate::field::{FieldTable, FieldValue};

const RESERVED: &str = "amq.";

/// RabbitMQ's longest time to live, of messages and of queues.
pub(crate) const LONGEST: Duration = Duration::from_millis(u32::MAX as u64);

impl Exchange {
    /// Whether brokers have it from the start: `amq.direct`, `amq.fanout`, `amq.topic`, `amq.headers`,
    /// and RabbitMQ's `amq.match`.
    pub fn is_predeclared(&self) -> bool {
        self.predeclared_kind().is_some()
    }

    fn predeclared_kind(&self) -> Option<ExchangeKind> {
        Some(match self.name().as_str() {
            "amq.direct" => ExchangeKind::Direct,
            "amq.fanout" => ExchangeKind::Fanout,
            "amq.topic" => ExchangeKind::Topic,
            "amq.headers" | "amq.match" => ExchangeKind::Headers,
            _ => return None,
        })
    }

    /// Fails if every broker would refuse this declaration; needs no connection.
    ///
    /// With [`InvalidName`](ErrorKind::InvalidName) for a name or key over 255 bytes and for a kind
    /// without a name, with [`AccessRefused`](ErrorKind::AccessRefused) for a reserved name and for a
    /// binding from or to the default exchange, with
    /// [`PreconditionFailed`](ErrorKind::PreconditionFailed) for attributes that can't be.
    /// Names that start with `amq.` are fine where the declare mode isn't `ensure`.
    pub fn check(&self) -> Result<()> {
        self.check_as(DeclareMode::Ensure)
    }

    /// Like [`check`](Exchange::check), on a handle with this declare mode. The exchange's own mode wins.
    pub fn check_as(&self, mode: DeclareMode) -> Result<()> {
        self.name().check_length("exchange name")?;
        self.check_name_and_kind(mode)?;
        if let Some(alternate) = self.get_alternate_exchange() {
            alternate.check_length("alternate exchange")?;
        }
        self.arguments().check()?;
        if let Some(value) = self.arguments().get(ALTERNATE) {
            return Err(unfit(ALTERNATE, &ThisExchange(self), "text", value));
        }
        for binding in self.bindings() {
            if self.is_default() {
                return Err(Error::new(
                    ErrorKind::AccessRefused,
                    format!(
                        "the default exchange can't be bound to {}; bind a named exchange",
                        ThisExchange(binding.exchange())
                    ),
                ));
            }
            binding.check_as(mode)?;
        }
        Ok(())
    }

    fn check_name_and_kind(&self, mode: DeclareMode) -> Result<()> {
        let kind = self.kind();
        if let ExchangeKind::Custom(name) = kind {
            name.check_length("exchange type")?;
        }
        if kind.as_str().is_empty() {
            return Err(Error::new(
                ErrorKind::InvalidName,
                format!(
                    "`type` of {} is empty; write direct, fanout, topic, headers, or a plugin's type",
                    ThisExchange(self)
                ),
            ));
        }
        if self.declare_mode().unwrap_or(mode) != DeclareMode::Ensure {
            return Ok(());
        }
        if self.is_default() {
            if *kind == ExchangeKind::Direct {
                return Ok(());
            }
            return Err(Error::new(
                ErrorKind::AccessRefused,
                format!(
                    "the default exchange is direct and can't be declared as {kind}; give the exchange a name"
                ),
            ));
        }
        if !self.name().starts_with(RESERVED) {
            return Ok(());
        }
        let Some(own_kind) = self.predeclared_kind() else {
            return Err(Error::new(
                ErrorKind::AccessRefused,
                format!(
                    "{}: exchange names starting with `amq.` are reserved by AMQP; choose another, or don't declare it (`declare: verify`)",
                    ThisExchange(self)
                ),
            ));
        };
        let wrong = if *kind != own_kind {
            format!("`type` of {} is {own_kind}, not {kind}", ThisExchange(self))
        } else if !self.is_durable() {
            format!("{} is `durable`", ThisExchange(self))
        } else if self.is_auto_delete() {
            format!("{} isn't `auto_delete`", ThisExchange(self))
        } else if self.is_internal() {
            format!("{} isn't `internal`", ThisExchange(self))
        } else {
            return Ok(());
        };
        Err(Error::new(
            ErrorKind::PreconditionFailed,
            format!(
                "{wrong}: brokers have it from the start; declare it as it is, or choose another name"
            ),
        ))
    }
}

impl Binding {
    /// Fails if every broker would refuse this binding; needs no connection.
    ///
    /// The exchange is checked as by [`Exchange::check`]; the default exchange can't be bound to
    /// ([`AccessRefused`](ErrorKind::AccessRefused)).
    pub fn check(&self) -> Result<()> {
        self.check_as(DeclareMode::Ensure)
    }

    /// Like [`check`](Binding::check), on a handle with this declare mode. The exchange's own mode wins.
    pub fn check_as(&self, mode: DeclareMode) -> Result<()> {
        let exchange = self.exchange();
        if exchange.is_default() {
            return Err(Error::new(
                ErrorKind::AccessRefused,
                "nothing can be bound to the default exchange: it sends to the queue whose name is the \
                 routing key; publish there, or bind to a named exchange",
            ));
        }
        self.get_routing_key().check_length("routing key")?;
        self.arguments().check()?;
        check_match(exchange, self.arguments())?;
        exchange.check_as(mode)
    }
}

/// Fails if a binding with these arguments says how to match headers, and its exchange doesn't know that way.
pub(crate) fn check_match(exchange: &Exchange, arguments: &FieldTable) -> Result<()> {
    // One that is only verified may go by its name alone.
    let predeclared = exchange.predeclared_kind();
    if *predeclared.as_ref().unwrap_or(exchange.kind()) == ExchangeKind::Headers
        && let Some(value) = arguments.get("x-match")
        && !matches!(
            value.as_str(),
            Some("all" | "any" | "all-with-x" | "any-with-x")
        )
    {
        return Err(Error::new(
            ErrorKind::PreconditionFailed,
            format!(
                "`x-match` of a binding to {} must be all, any, all-with-x or any-with-x; use `match_all` or `match_any`",
                ThisExchange(exchange)
            ),
        ));
    }
    Ok(())
}

impl Queue {
    /// Fails if every broker would refuse this declaration; needs no connection.
    ///
    /// With [`InvalidName`](ErrorKind::InvalidName) for a name or key over 255 bytes, with
    /// [`AccessRefused`](ErrorKind::AccessRefused) for a reserved name and for a binding to the default
    /// exchange, with [`PreconditionFailed`](ErrorKind::PreconditionFailed) for attributes that can't be
    /// or don't go together. Names that start with `amq.` are fine where the declare mode isn't
    /// `ensure`.
    ///
    /// ```
    /// use kombu_core::ErrorKind;
    /// use kombu_core::declare::Queue;
    ///
    /// let error = Queue::new("jobs").max_deliveries(5).check().unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::PreconditionFailed);
    /// ```
    pub fn check(&self) -> Result<()> {
        self.check_as(DeclareMode::Ensure)
    }

    /// Like [`check`](Queue::check), on a handle with this declare mode. The queue's own mode wins.
    pub fn check_as(&self, mode: DeclareMode) -> Result<()> {
        self.check_names(mode)?;
        self.check_arguments()?;
        self.check_limits()?;
        self.check_dead_letters()?;
        self.check_quorum()?;
        self.bindings()
            .iter()
            .try_for_each(|binding| binding.check_as(mode))
    }

    fn check_names(&self, mode: DeclareMode) -> Result<()> {
        self.name().check_length("queue name")?;
        if let Some(exchange) = self.get_dead_letter_exchange() {
            exchange.check_length("dead-letter exchange")?;
        }
        if let Some(routing_key) = self.get_dead_letter_routing_key() {
            routing_key.check_length("dead-letter routing key")?;
        }
        if self.declare_mode().unwrap_or(mode) == DeclareMode::Ensure
            && self.name().starts_with(RESERVED)
        {
            return Err(Error::new(
                ErrorKind::AccessRefused,
                format!(
                    "{}: queue names starting with `amq.` are reserved by AMQP; choose another, or don't declare it (`declare: verify`)",
                    ThisQueue(self)
                ),
            ));
        }
        Ok(())
    }

    fn check_arguments(&self) -> Result<()> {
        self.arguments().check()?;
        self.consumer_arguments().check()?;
        for known in Known::ALL {
            if let Some(value) = self.arguments().get(known.argument())
                && !known.is_passed_on(value)
            {
                return Err(unfit(
                    known.argument(),
                    &ThisQueue(self),
                    known.expected(),
                    value,
                ));
            }
        }
        Ok(())
    }

    fn check_limits(&self) -> Result<()> {
        if self.get_expires() == Some(Duration::ZERO) {
            return self.refuse(
                Known::Expires,
                "is 0, which RabbitMQ refuses; set at least 1ms, or leave it out to keep the queue",
            );
        }
        for (known, time) in [
            (Known::Expires, self.get_expires()),
            (Known::MessageTtl, self.get_message_ttl()),
        ] {
            if time.is_some_and(|time| time > LONGEST) {
                return self.refuse(
                    known,
                    &format!(
                        "is longer than the {} that RabbitMQ takes; set less, or leave it out for no limit",
                        duration::format(LONGEST)
                    ),
                );
            }
        }
        for (known, limit) in [
            (Known::MaxLength, self.get_max_length()),
            (Known::MaxLengthBytes, self.get_max_length_bytes()),
        ] {
            if limit.is_some_and(|limit| i64::try_from(limit).is_err()) {
                return self.refuse(
                    known,
                    &format!("is above {}; leave it out for no limit", i64::MAX),
                );
            }
        }
        Ok(())
    }

    fn check_dead_letters(&self) -> Result<()> {
        if self.get_dead_letter_exchange().is_some() {
            return Ok(());
        }
        if self.get_dead_letter_routing_key().is_some() {
            return self.refuse(
                Known::DeadLetterRoutingKey,
                "needs a `dead_letter_exchange`; set one (`\"\"` is the default exchange), or leave the key out",
            );
        }
        if self.get_max_deliveries().is_some() {
            return self.refuse(
                Known::MaxDeliveries,
                "needs a `dead_letter_exchange`, or messages would be lost; set one (`\"\"` is the default exchange)",
            );
        }
        Ok(())
    }

    fn check_quorum(&self) -> Result<()> {
        let other_type = self
            .arguments()
            .get(Known::QueueType.argument())
            .and_then(FieldValue::as_str)
            .or_else(|| match self.get_queue_type() {
                Some(QueueType::Quorum) | None => None,
                Some(other) => Some(other.as_str()),
            });
        if self.get_max_deliveries().is_some()
            && let Some(other) = other_type
        {
            return self.refuse(
                Known::MaxDeliveries,
                &format!("needs a quorum queue, and `type` is {other}; use `quorum()`, or leave the limit out"),
            );
        }
        let cause = match (self.get_max_deliveries(), self.get_queue_type()) {
            (Some(0), _) => {
                return self.refuse(
                    Known::MaxDeliveries,
                    "is 0, so no message would be delivered; set at least 1",
                );
            }
            (Some(_), _) => Known::MaxDeliveries,
            (None, Some(QueueType::Quorum)) => Known::QueueType,
            _ => return Ok(()),
        };
        let obstacle = if self.is_exclusive() {
            "`exclusive`"
        } else if self.is_auto_delete() {
            "`auto_delete`"
        } else if !self.is_durable() {
            "`durable: false`"
        } else if self.get_max_priority().is_some() {
            "`max_priority`"
        } else if self.get_overflow() == Some(Overflow::RejectPublishDlx) {
            "`overflow: reject-publish-dlx`"
        } else {
            return Ok(());
        };
        let needs = match cause {
            Known::MaxDeliveries => "needs a quorum queue",
            _ => "is quorum",
        };
        self.refuse(
            cause,
            &format!(
                "{needs}, which can't have {obstacle}; leave out {obstacle} or `{}`",
                cause.attribute()
            ),
        )
    }

    fn refuse(&self, known: Known, why: &str) -> Result<()> {
        Err(Error::new(
            ErrorKind::PreconditionFailed,
            format!("`{}` of {} {why}", known.attribute(), ThisQueue(self)),
        ))
    }
}

fn unfit(argument: &str, of: &dyn fmt::Display, expected: &str, value: &FieldValue) -> Error {
    let given = match (value.as_i64(), value.as_str()) {
        (Some(number), _) => number.to_string(),
        (_, Some(text)) => format!("`{text}`"),
        _ => value.type_name().to_owned(),
    };
    Error::new(
        ErrorKind::PreconditionFailed,
        format!("argument `{argument}` of {of} must be {expected}, not {given}"),
    )
}

struct ThisQueue<'a>(&'a Queue);

impl fmt::Display for ThisQueue<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_server_named() {
            f.write_str("the server-named queue")
        } else {
            write!(f, "queue `{}`", self.0.name())
        }
    }
}

struct ThisExchange<'a>(&'a Exchange);

impl fmt::Display for ThisExchange<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_default() {
            f.write_str("the default exchange")
        } else {
            write!(f, "exchange `{}`", self.0.name())
        }
    }
}
