//! What has to be there before an exchange or a queue can be used, in the order of declaring.

use std::collections::HashSet;

use crate::declare::{Binding, DeclareMode, Exchange, Queue};
use crate::driver::{Destination, Operation};

#[derive(Debug)]
pub(crate) enum Step<'a> {
    Exchange(&'a Exchange, DeclareMode),
    Queue(&'a Queue, DeclareMode),
    Bind(Destination, &'a Binding),
}

impl Step<'_> {
    /// What errors call it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Step::Exchange(..) => "declare exchange",
            Step::Queue(..) => "declare queue",
            Step::Bind(..) => "bind",
        }
    }

    pub(crate) fn operation(&self) -> Operation<'_> {
        match self {
            Step::Exchange(exchange, mode) => Operation::DeclareExchange(exchange, *mode),
            Step::Queue(queue, mode) => Operation::DeclareQueue(queue, *mode),
            Step::Bind(destination, binding) => Operation::Bind(destination, binding),
        }
    }
}

/// The steps for one exchange, with the exchanges that it is bound to.
///
/// `mode` is for declarations that don't say otherwise themselves.
pub(crate) fn of_exchange(exchange: &Exchange, mode: DeclareMode) -> Vec<Step<'_>> {
    let mut steps = Vec::new();
    add_exchange(exchange, mode, &mut HashSet::new(), &mut steps);
    steps
}

/// The steps for one queue, with its exchanges and bindings.
///
/// `default` is the mode of declarations that don't say otherwise themselves.
pub(crate) fn of_queue(queue: &Queue, default: DeclareMode) -> Vec<Step<'_>> {
    let mut steps = Vec::new();
    let mode = queue.declare_mode().unwrap_or(default);
    let binds = mode == DeclareMode::Ensure;
    if binds {
        let mut seen = HashSet::new();
        for binding in queue.bindings() {
            add_exchange(binding.exchange(), default, &mut seen, &mut steps);
        }
    }
    if mode != DeclareMode::Never {
        steps.push(Step::Queue(queue, mode));
    }
    if binds {
        for binding in queue.bindings() {
            steps.push(Step::Bind(
                Destination::Queue(queue.name().clone()),
                binding,
            ));
        }
    }
    steps
}

fn add_exchange<'a>(
    exchange: &'a Exchange,
    default: DeclareMode,
    seen: &mut HashSet<&'a Exchange>,
    steps: &mut Vec<Step<'a>>,
) {
    let mode = exchange.declare_mode().unwrap_or(default);
    if exchange.is_default() || mode == DeclareMode::Never || !seen.insert(exchange) {
        return;
    }
    let binds = mode == DeclareMode::Ensure;
    if binds {
        for binding in exchange.bindings() {
            add_exchange(binding.exchange(), default, seen, steps);
        }
    }
    steps.push(Step::Exchange(exchange, mode));
    if binds {
        for binding in exchange.bindings() {
            let destination = Destination::Exchange(exchange.name().clone());
            steps.push(Step::Bind(destination, binding));
        }
    }
}
