//! What Redis and its driver say, in kombu's words.

use kombu_core::{Error, ErrorKind, Name};
use redis::{RedisError, ServerError, Value};

/// An error of the driver: the connection is of no use any more.
pub(crate) fn lost(error: RedisError) -> Error {
    Error::new(
        ErrorKind::ConnectionLost,
        format!("the connection to Redis is lost: {error}"),
    )
    .with_source(error)
}

/// The session's lease ran out, or the server has lost its data.
pub(crate) fn session_over() -> Error {
    Error::new(
        ErrorKind::ConnectionLost,
        "Redis doesn't know this session any more: its lease ran out, or the server lost its data",
    )
}

/// What went wrong at connect.
pub(crate) fn classify_connect(error: RedisError) -> Error {
    if error.kind() == redis::ErrorKind::RESP3NotSupported || is_unknown_command(error.detail()) {
        // Not as a source: what the server repeats may be a password.
        return too_old(&error.to_string());
    }
    let kind = match error.code() {
        Some("WRONGPASS" | "NOAUTH" | "NOPERM") => ErrorKind::Credentials,
        _ if error.kind() == redis::ErrorKind::AuthenticationFailed => ErrorKind::Credentials,
        _ if error.kind() == redis::ErrorKind::InvalidClientConfig => ErrorKind::Config,
        // As of a virtual host that isn't there.
        _ if error.detail().is_some_and(is_of_database) => ErrorKind::AccessRefused,
        _ => ErrorKind::ConnectionLost,
    };
    Error::new(kind, format!("Redis: {error}")).with_source(error)
}

/// How servers begin to say that they don't have a command.
fn is_unknown_command(details: Option<&str>) -> bool {
    details.is_some_and(|details| details.starts_with("unknown command"))
}

/// How servers say that they don't have a database of this number.
fn is_of_database(details: &str) -> bool {
    ["DB index is out of range", "invalid DB index"]
        .iter()
        .any(|text| details.contains(text))
}

fn too_old(text: &str) -> Error {
    // Servers repeat what the command was called with: a password, or a message.
    let text = text.split(", with args").next().unwrap_or_default();
    Error::new(
        ErrorKind::Unsupported,
        format!("this server lacks a command that kombu needs; use Redis 7.0 or newer: {text}"),
    )
}

/// Whether the server can't serve this session any more; another one may.
pub(crate) fn ends_session(error: &ServerError) -> bool {
    matches!(
        error.code(),
        "SESSION"
            | "READONLY"
            | "LOADING"
            | "MASTERDOWN"
            | "MISCONF"
            | "NOREPLICAS"
            | "BUSY"
            | "NOAUTH"
    )
}

/// The server doesn't tell of changes any more.
pub(crate) fn unwatched(error: &ServerError) -> Error {
    Error::new(
        ErrorKind::ConnectionLost,
        format!("Redis doesn't tell of new messages any more: {error}"),
    )
}

/// An error that a command answered with.
pub(crate) fn classify(error: &ServerError) -> Error {
    let text = match error.details() {
        Some(details) => format!("{} {details}", error.code()),
        None => error.code().to_owned(),
    };
    match error.code() {
        "SESSION" => session_over(),
        "OOM" => Error::new(
            ErrorKind::Backpressure,
            format!("Redis has reached its `maxmemory` and takes nothing more: {text}"),
        ),
        "READONLY" | "LOADING" | "MASTERDOWN" | "MISCONF" | "NOREPLICAS" | "BUSY" => Error::new(
            ErrorKind::ConnectionLost,
            format!("this Redis can't be written to now: {text}"),
        ),
        "NOPERM" | "NOAUTH" => Error::new(
            ErrorKind::AccessRefused,
            format!("Redis refuses: {text}; give the user the right"),
        ),
        "WRONGTYPE" => foreign_key(&text),
        _ if is_unknown_command(error.details()) => too_old(&text),
        _ => Error::new(ErrorKind::Protocol, format!("Redis: {text}")),
    }
}

/// Another program uses the name of a queue or an exchange.
pub(crate) fn foreign_key(text: &str) -> Error {
    Error::new(
        ErrorKind::PreconditionFailed,
        format!(
            "a key of a queue or exchange holds something else: {text}; another program uses the name, so choose \
             another one, or a prefix"
        ),
    )
}

pub(crate) fn unexpected(what: &str, answer: &Value) -> Error {
    match answer {
        Value::ServerError(error) => classify(error),
        _ => Error::new(
            ErrorKind::Protocol,
            format!("Redis answered {what} with something else"),
        ),
    }
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
