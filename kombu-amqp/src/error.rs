//! What lapin's errors mean in the terms of the messaging model.

use std::error::Error as _;

use kombu_core::message::Content;
use kombu_core::{Error, ErrorKind};
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};

use crate::greeting::Unoffered;

/// Classifies an error of an operation on a live connection.
pub(crate) fn classify(error: lapin::Error) -> Error {
    let (kind, code, text) = match error.kind() {
        lapin::ErrorKind::ProtocolError(problem) => {
            let kind = match problem.kind() {
                AMQPErrorKind::Soft(soft) => of_soft(soft),
                AMQPErrorKind::Hard(hard) => of_hard(hard),
            };
            let text = problem.get_message().as_str();
            // RabbitMQ has no error of its own for it.
            if text.contains("message size") {
                (ErrorKind::TooLarge, Some(311), too_large(text))
            } else if text.contains("unknown exchange type") {
                let text = format!("{text}; enable the plugin of RabbitMQ that has it");
                (ErrorKind::Unsupported, Some(problem.get_id()), text)
            } else {
                (kind, Some(problem.get_id()), in_our_words(kind, text))
            }
        }
        lapin::ErrorKind::ChannelsLimitReached => (
            ErrorKind::Backpressure,
            None,
            "all channels of the connection are in use; raise `channel_max` here and on the broker"
                .to_owned(),
        ),
        lapin::ErrorKind::ParsingError(_) | lapin::ErrorKind::SerialisationError(_) => {
            (ErrorKind::Protocol, None, error.to_string())
        }
        // Whatever else happens to a channel or a connection means that it is gone.
        _ => (ErrorKind::ConnectionLost, None, error.to_string()),
    };
    let classified = Error::new(kind, text).with_source(error);
    match code {
        Some(code) => classified.with_code(code),
        None => classified,
    }
}

fn too_large(text: &str) -> String {
    format!("{text}; raise `max_message_size` on the broker, or set it here to what that takes")
}

fn of_soft(error: &AMQPSoftError) -> ErrorKind {
    match error {
        AMQPSoftError::CONTENTTOOLARGE => ErrorKind::TooLarge,
        AMQPSoftError::NOROUTE => ErrorKind::Unroutable,
        AMQPSoftError::NOCONSUMERS => ErrorKind::NoConsumers,
        AMQPSoftError::ACCESSREFUSED => ErrorKind::AccessRefused,
        AMQPSoftError::NOTFOUND => ErrorKind::NotFound,
        AMQPSoftError::RESOURCELOCKED => ErrorKind::ResourceLocked,
        AMQPSoftError::PRECONDITIONFAILED => ErrorKind::PreconditionFailed,
    }
}

fn of_hard(error: &AMQPHardError) -> ErrorKind {
    match error {
        AMQPHardError::CONNECTIONFORCED => ErrorKind::ConnectionLost,
        AMQPHardError::INVALIDPATH | AMQPHardError::NOTALLOWED => ErrorKind::AccessRefused,
        AMQPHardError::NOTIMPLEMENTED => ErrorKind::Unsupported,
        AMQPHardError::RESOURCEERROR => ErrorKind::Backpressure,
        _ => ErrorKind::Protocol,
    }
}

/// Classifies an error of an attempt to connect: what the broker refuses then won't get better by itself.
pub(crate) fn classify_connect(error: lapin::Error) -> Error {
    let refused = match error.kind() {
        lapin::ErrorKind::ProtocolError(problem) => matches!(
            problem.kind(),
            AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED)
                | AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED | AMQPHardError::INVALIDPATH)
        ),
        _ => false,
    };
    if let lapin::ErrorKind::IOError(problem) = error.kind() {
        // A broker that wants another certificate says so after the handshake.
        #[cfg(feature = "tls")]
        if let Some(refusal) = kombu_core::driver::tls::refusal(problem) {
            return refusal;
        }
        let unoffered = problem.get_ref().map(|problem| problem.is::<Unoffered>());
        if unoffered == Some(true) {
            return Error::new(ErrorKind::Credentials, problem.to_string());
        }
    }
    let classified = classify(error);
    if !refused {
        return classified;
    }
    let code = classified.code();
    let error = Error::new(
        ErrorKind::Credentials,
        format!(
            "the broker refused user, password, certificate or virtual host: {}",
            classified.message()
        ),
    )
    .with_source(classified);
    match code {
        Some(code) => error.with_code(code),
        None => error,
    }
}

/// Whether the broker closed a connection over frames of a channel that is closed. lapin writes publishes that it has queued
/// behind its answer to the end of their channel.
pub(crate) fn is_out_of_step(error: &lapin::Error) -> bool {
    match error.kind() {
        lapin::ErrorKind::ProtocolError(problem) => {
            *problem.kind() == AMQPErrorKind::Hard(AMQPHardError::CHANNELERROR)
        }
        _ => false,
    }
}

/// The session is over.
pub(crate) fn lost(reason: impl Into<String>) -> Error {
    Error::new(ErrorKind::ConnectionLost, reason)
}

pub(crate) fn settle_lost() -> Error {
    Error::new(
        ErrorKind::SettleLost,
        "the session that delivered this message is gone; the message goes to another consumer",
    )
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(before)?;
    rest.split_once(after).map(|(found, _)| found)
}

/// The name of the queue or exchange that RabbitMQ's text is about, which may have apostrophes in it.
fn named<'a>(text: &'a str, what: &str) -> Option<&'a str> {
    let before = format!("{what} '");
    between(text, &before, "' in vhost '").or_else(|| between(text, &before, "'"))
}

/// RabbitMQ's text, with the thing as we write it, the attribute by its name here, and the way out.
fn in_our_words(kind: ErrorKind, text: &str) -> String {
    let thing = named(text, "queue")
        .map(|name| ("queue", name))
        .or_else(|| named(text, "exchange").map(|name| ("exchange", name)));
    let Some((what, name)) = thing else {
        return text.to_owned();
    };
    match kind {
        ErrorKind::NotFound => format!(
            "no {what} `{name}`; declare it with `connection.declare_{what}`, or open what uses it with its \
             declaration"
        ),
        ErrorKind::PreconditionFailed => match between(text, "inequivalent arg '", "'") {
            Some(argument) => format!(
                "{what} `{name}` is there with another declaration: {} ({text}); declare it as it is, verify it with \
                 `.passive()`, or delete it first",
                attribute(argument)
            ),
            None => format!("{what} `{name}`: {text}"),
        },
        _ => format!("{what} `{name}`: {text}"),
    }
}

/// `x-message-ttl` is our `message_ttl`; what isn't an argument has the same name.
fn attribute(argument: &str) -> String {
    match argument.strip_prefix("x-") {
        Some("queue-type") => format!("`type` ({argument})"),
        Some(known) => format!("`{}` ({argument})", known.replace('-', "_")),
        None => format!("`{argument}`"),
    }
}

/// Whether the broker refused one thing and closed a channel over it, and not the connection.
pub(crate) fn is_refusal(error: &Error) -> bool {
    let error = error.source().and_then(|source| source.downcast_ref());
    error.is_some_and(lapin::Error::is_amqp_soft_error)
}

/// The same error for another one who gets it.
pub(crate) fn same(error: &Error) -> Error {
    let same = Error::new(error.kind(), error.message());
    match error.code() {
        Some(code) => same.with_code(code),
        None => same,
    }
}

/// What an error on a publishing channel is about.
#[derive(Debug, PartialEq)]
pub(crate) enum Culprit {
    /// Publishes to this exchange.
    Exchange(String),
    /// Those of them with this key.
    Key { exchange: String, key: String },
    /// Messages whose user isn't who published them.
    User(String),
    /// Bodies of so many bytes.
    Size(usize),
}

/// Finds out from RabbitMQ's text what an error is about.
pub(crate) fn culprit(error: &Error) -> Option<Culprit> {
    let error: &lapin::Error = error.source()?.downcast_ref()?;
    match error.kind() {
        lapin::ErrorKind::ProtocolError(problem) => culprit_in(problem.get_message().as_str()),
        _ => None,
    }
}

fn culprit_in(text: &str) -> Option<Culprit> {
    if let Some(user) = between(
        text,
        "user_id property set to '",
        "' but authenticated user was",
    ) {
        return Some(Culprit::User(user.to_owned()));
    }
    if let Some(size) = between(text, "message size ", " ") {
        return size.parse().ok().map(Culprit::Size);
    }
    let exchange = match named(text, "exchange")? {
        "amq.default" => "",
        name => name,
    };
    let exchange = exchange.to_owned();
    Some(
        match between(text, "access to topic '", "' in exchange '") {
            Some(key) => Culprit::Key {
                exchange,
                key: key.to_owned(),
            },
            None => Culprit::Exchange(exchange),
        },
    )
}

impl Culprit {
    pub(crate) fn exchange(&self) -> Option<&str> {
        match self {
            Culprit::Exchange(name) => Some(name),
            _ => None,
        }
    }

    /// Whether a publish is one that the error is about.
    pub(crate) fn is(&self, exchange: &str, content: &Content) -> bool {
        match self {
            Culprit::Exchange(name) => exchange == name,
            Culprit::Key {
                exchange: name,
                key,
            } => exchange == name && content.routing_key() == key.as_str(),
            Culprit::User(user) => content.user_id() == Some(user),
            Culprit::Size(size) => content.body().len() == *size,
        }
    }

    /// Whether the broker refuses such a message whenever it comes.
    pub(crate) fn is_always_refused(&self) -> bool {
        matches!(self, Culprit::User(_) | Culprit::Size(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn culprits_are_found_in_what_rabbitmq_says() {
        let exchange = |name: &str| Some(Culprit::Exchange(name.to_owned()));
        for (text, culprit) in [
            (
                "NOT_FOUND - no exchange 'it's' in vhost '/'",
                exchange("it's"),
            ),
            (
                "ACCESS_REFUSED - access to exchange 'amq.default' in vhost 'a' refused for user 'b'",
                exchange(""),
            ),
            (
                "ACCESS_REFUSED - access to topic 'no' in exchange 'media' in vhost 'a' refused for user 'b'",
                Some(Culprit::Key {
                    exchange: "media".to_owned(),
                    key: "no".to_owned(),
                }),
            ),
            (
                "PRECONDITION_FAILED - user_id property set to 'a' but authenticated user was 'b'",
                Some(Culprit::User("a".to_owned())),
            ),
            (
                "PRECONDITION_FAILED - message size 1000 is larger than configured max size 500",
                Some(Culprit::Size(1000)),
            ),
            ("PRECONDITION_FAILED - invalid expiration", None),
        ] {
            assert_eq!(culprit_in(text), culprit);
        }
    }
}
