//! What a declaration changes in the table, and what it conflicts with.

use crate::declare::{Binding, DeclareMode, Exchange, ExchangeKind, Queue, check_match};
use crate::driver::{DeleteQueue, Destination, ExchangeKinds};
use crate::error::{Error, ErrorKind, Result};
use crate::name::Name;

use super::table::{BindingRecord, Change, Table, missing_exchange, missing_queue};

pub(super) fn exchange(
    table: &Table,
    exchange: &Exchange,
    mode: DeclareMode,
) -> Result<Vec<Change>> {
    match (table.exchange(exchange.name()), mode) {
        (_, DeclareMode::Never) | (Some(_), DeclareMode::Verify) => Ok(Vec::new()),
        (None, DeclareMode::Verify) => Err(missing_exchange(exchange.name())),
        (None, DeclareMode::Ensure) => Ok(vec![Change::PutExchange(exchange.clone())]),
        (Some(existing), DeclareMode::Ensure) => match exchange.difference(existing) {
            None => Ok(Vec::new()),
            Some(difference) => Err(conflict("exchange", exchange.name(), &difference)),
        },
    }
}

/// Whether this side knows how exchanges of the kind route.
pub(super) fn check_kind(exchange: &Exchange, kinds: &ExchangeKinds) -> Result<()> {
    match exchange.kind() {
        ExchangeKind::Custom(kind) if kinds.get(kind).is_none() => Err(unknown_kind(exchange)),
        _ => Ok(()),
    }
}

pub(super) fn unknown_kind(exchange: &Exchange) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        format!(
            "exchange `{}` is of kind `{}`, which nobody told this connection of; register it with \
             `ConnectionBuilder::exchange_kind`, or use another kind",
            exchange.name(),
            exchange.kind().as_str()
        ),
    )
}

pub(super) fn queue(
    table: &Table,
    queue: &Queue,
    mode: DeclareMode,
    session: u64,
) -> Result<Vec<Change>> {
    check_access(table, queue.name(), session)?;
    match (table.queue(queue.name()), mode) {
        (_, DeclareMode::Never) | (Some(_), DeclareMode::Verify) => Ok(Vec::new()),
        (None, DeclareMode::Verify) => match table.queue_in_use(queue.name()) {
            Some(_) => Ok(Vec::new()),
            None => Err(missing_queue(queue.name())),
        },
        (None, DeclareMode::Ensure) => {
            let owner = queue.is_exclusive().then_some(session);
            Ok(vec![Change::PutQueue(queue.clone(), owner)])
        }
        (Some(existing), DeclareMode::Ensure) => match queue.difference(existing) {
            None => Ok(Vec::new()),
            // RabbitMQ tells another owner's exclusive queue, and one that isn't exclusive, apart like this.
            Some(difference) if difference.attribute() == "exclusive" => Err(Error::new(
                ErrorKind::ResourceLocked,
                format!(
                    "queue `{}` is there with another declaration: {difference}; declare it as it is, or \
                     choose another name",
                    queue.name()
                ),
            )),
            Some(difference) => Err(conflict("queue", queue.name(), &difference)),
        },
    }
}

/// Whether this session may do something with a queue other than publish to it.
pub(super) fn check_access(table: &Table, queue: &Name, session: u64) -> Result<()> {
    match table.owner(queue) {
        Some(owner) if owner != session => Err(Error::new(
            ErrorKind::ResourceLocked,
            format!(
                "queue `{queue}` is exclusive and belongs to another connection; use that one, or another name"
            ),
        )),
        _ => Ok(()),
    }
}

fn conflict(what: &str, name: &Name, difference: &dyn std::fmt::Display) -> Error {
    Error::new(
        ErrorKind::PreconditionFailed,
        format!(
            "{what} `{name}` is there with another declaration: {difference}; declare it as it is, verify \
             it with `.passive()`, or delete it first"
        ),
    )
}

pub(super) fn delete_exchange(table: &Table, name: &Name, if_unused: bool) -> Result<Vec<Change>> {
    if table.exchange(name).is_none() {
        return Ok(Vec::new());
    }
    if if_unused && table.has_bindings_from(name) {
        return Err(Error::new(
            ErrorKind::PreconditionFailed,
            format!(
                "exchange `{name}` is in use: it has bindings; unbind them, or delete it without `if_unused`"
            ),
        ));
    }
    Ok(table.removal_of_exchange(name))
}

pub(super) fn delete_queue(
    table: &Table,
    name: &Name,
    options: DeleteQueue,
    session: u64,
) -> Result<Vec<Change>> {
    check_access(table, name, session)?;
    Ok(match table.queue_in_use(name) {
        Some(_) => table.removal_of_queue(name, options),
        None => Vec::new(),
    })
}

pub(super) fn record(destination: &Destination, binding: &Binding) -> BindingRecord {
    BindingRecord {
        source: binding.exchange().name().clone(),
        destination: destination.clone(),
        routing_key: binding.get_routing_key().clone(),
        arguments: binding.arguments().clone(),
    }
}

pub(super) fn bind(table: &Table, record: &BindingRecord, session: u64) -> Result<Vec<Change>> {
    let Some(source) = table.exchange(&record.source) else {
        return Err(missing_exchange(&record.source));
    };
    match &record.destination {
        Destination::Queue(name) if table.queue_in_use(name).is_none() => {
            return Err(missing_queue(name));
        }
        Destination::Exchange(name) if table.exchange(name).is_none() => {
            return Err(missing_exchange(name));
        }
        _ => {}
    }
    // The one who binds need not know of which kind the exchange is.
    check_match(source, &record.arguments)?;
    check_destination(table, record, session)?;
    if table.is_bound(record) {
        return Ok(Vec::new());
    }
    Ok(vec![Change::Bind(record.clone())])
}

pub(super) fn unbind(table: &Table, record: &BindingRecord, session: u64) -> Result<Vec<Change>> {
    if !table.is_bound(record) {
        return Ok(Vec::new());
    }
    check_destination(table, record, session)?;
    Ok(table.removal_of_binding(record))
}

fn check_destination(table: &Table, record: &BindingRecord, session: u64) -> Result<()> {
    match &record.destination {
        Destination::Queue(name) => check_access(table, name, session),
        Destination::Exchange(_) => Ok(()),
    }
}
