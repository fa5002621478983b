//! What NATS and its driver say, in kombu's words.

use std::error::Error as _;

use async_nats::client::{PublishError, PublishErrorKind};
use async_nats::{ConnectError, ConnectErrorKind, RequestError, RequestErrorKind};
use kombu_core::driver::tls;
use kombu_core::{Error, ErrorKind, Name};
use serde::Deserialize;

/// The errors of JetStream that are told apart.
pub(crate) mod code {
    pub(crate) const ACCOUNT_IS_FULL: u64 = 10002;
    pub(crate) const NO_PEERS: u64 = 10005;
    pub(crate) const CONSUMER_NOT_FOUND: u64 = 10014;
    pub(crate) const MEMORY_IS_FULL: u64 = 10028;
    pub(crate) const NO_MESSAGE: u64 = 10037;
    pub(crate) const STORAGE_IS_FULL: u64 = 10047;
    pub(crate) const STREAM_NOT_MADE: u64 = 10049;
    pub(crate) const STREAM_IN_USE: u64 = 10058;
    pub(crate) const STREAM_NOT_FOUND: u64 = 10059;
    pub(crate) const OVERLAP: u64 = 10065;
    pub(crate) const WRONG_SEQUENCE: u64 = 10071;
    pub(crate) const STORE_FAILED: u64 = 10077;
}

/// An error of JetStream's interface.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ApiError {
    #[serde(default)]
    pub(crate) code: u16,
    #[serde(default)]
    pub(crate) err_code: u64,
    #[serde(default)]
    pub(crate) description: String,
}

impl ApiError {
    /// Whether what was asked for isn't there.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(
            self.err_code,
            code::CONSUMER_NOT_FOUND | code::STREAM_NOT_FOUND | code::NO_MESSAGE
        )
    }

    /// What the server says it has counted to, where it refuses a write because that expects something else.
    pub(crate) fn last_sequence(&self) -> Option<u64> {
        self.description.rsplit(' ').next()?.parse().ok()
    }

    /// As an error of somebody who did `what`.
    pub(crate) fn during(&self, what: &str) -> Error {
        let kind = match self.err_code {
            // The stream's limits, or the account's.
            code::STORE_FAILED
            | code::ACCOUNT_IS_FULL
            | code::STORAGE_IS_FULL
            | code::MEMORY_IS_FULL => ErrorKind::Backpressure,
            // Its disk, for one; or somebody deletes the last stream of the account at this moment.
            code::STREAM_NOT_MADE => ErrorKind::Unavailable,
            // A cluster that begins doesn't know all of its servers yet.
            code::NO_PEERS => ErrorKind::Unavailable,
            _ => match self.code {
                401 | 403 => ErrorKind::AccessRefused,
                // There is no leader, for one.
                404 | 503 => ErrorKind::Unavailable,
                _ => ErrorKind::Protocol,
            },
        };
        Error::new(
            kind,
            format!(
                "NATS refuses {what}: {} (error {})",
                self.description, self.err_code
            ),
        )
    }
}

/// What went wrong at connect.
pub(crate) fn classify_connect(error: ConnectError) -> Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = error.source();
    while let Some(inner) = cause {
        if let Some(refusal) = inner.downcast_ref().and_then(tls::refusal) {
            return refusal;
        }
        cause = inner.source();
    }
    let kind = match error.kind() {
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
            ErrorKind::Credentials
        }
        ConnectErrorKind::ServerParse => ErrorKind::Config,
        ConnectErrorKind::Tls => ErrorKind::Tls,
        _ => ErrorKind::ConnectionLost,
    };
    Error::new(kind, format!("NATS: {error}")).with_source(error)
}

/// A request that wasn't answered.
pub(crate) fn classify_request(error: RequestError, what: &str) -> Error {
    match error.kind() {
        RequestErrorKind::MaxPayloadExceeded => too_large(what),
        RequestErrorKind::NoResponders => nobody(what),
        RequestErrorKind::TimedOut => silence(what),
        _ => lost(&error),
    }
}

/// Something that couldn't be sent.
pub(crate) fn classify_publish(error: PublishError, what: &str) -> Error {
    match error.kind() {
        PublishErrorKind::MaxPayloadExceeded => too_large(what),
        PublishErrorKind::InvalidSubject => Error::new(
            ErrorKind::Protocol,
            format!("{what} has a subject that NATS doesn't allow"),
        ),
        _ => lost(&error),
    }
}

fn too_large(what: &str) -> Error {
    Error::new(
        ErrorKind::TooLarge,
        format!(
            "{what} is larger, headers included, than the `max_payload` of the NATS server; send less, or raise it"
        ),
    )
}

fn lost(error: &(dyn std::error::Error + 'static)) -> Error {
    let reason = error.source().map(ToString::to_string).unwrap_or_default();
    Error::new(
        ErrorKind::ConnectionLost,
        format!("the connection to NATS is lost: {error} {reason}"),
    )
}

/// Nobody is there to answer, on a line that is well.
pub(crate) fn nobody(what: &str) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        format!(
            "nobody answers {what}: JetStream isn't enabled on this NATS server, or not available now"
        ),
    )
}

/// Nothing was answered, on a line that is well.
pub(crate) fn silence(what: &str) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        format!("NATS doesn't answer {what}: the server that has to may be gone"),
    )
}

/// Whether the same may be answered in a moment, on this session.
pub(crate) fn is_passing(error: &Error) -> bool {
    error.kind() == ErrorKind::Unavailable
}

pub(crate) fn unexpected(what: &str) -> Error {
    Error::new(
        ErrorKind::Protocol,
        format!("NATS answered {what} with something else"),
    )
}

pub(crate) fn missing_queue(name: &Name) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("no queue `{name}`; declare it first"),
    )
}

pub(crate) fn settle_lost() -> Error {
    Error::new(
        ErrorKind::SettleLost,
        "the session that delivered this message is gone; the message goes to another consumer",
    )
}

pub(crate) fn deleted(queue: &Name) -> Error {
    Error::new(
        ErrorKind::ConsumerCancelled,
        format!(
            "queue `{queue}` was deleted while it was being consumed; declare it and open the consumer again"
        ),
    )
}
