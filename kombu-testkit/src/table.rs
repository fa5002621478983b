//! What kombu's transports have to be capable of: fixed here, and compared with what they say of themselves.
//!
//! Every row that a transport has is tested by cases; for every row that it lacks, the same cases ask for the
//! [`Unsupported`](kombu_core::ErrorKind::Unsupported) error. So a transport can neither claim nor drop a feature
//! without a test that fails.

use kombu_core::driver::{Capabilities, Feature};

use crate::Freedom;

/// The transports that have a column.
pub const TRANSPORTS: [&str; 4] = ["memory", "amqp", "redis", "nats"];

/// What the transport of this name has to be capable of; `None` if it has no column.
///
/// The size of messages is left to the broker.
pub fn of(transport: &str) -> Option<Capabilities> {
    Some(match transport {
        "memory" => MEMORY,
        "amqp" => AMQP,
        "redis" | "nats" => QUEUES_ONLY,
        _ => return None,
    })
}

const MEMORY: Capabilities = {
    let mut all = Capabilities::basic();
    let mut index = 0;
    while index < Feature::ALL.len() {
        all = all.native(Feature::ALL[index]);
        index += 1;
    }
    all
};

const AMQP: Capabilities = MEMORY
    // A ladder of queues with a time to live.
    .emulated(Feature::DelayedPublish)
    .emulated(Feature::DelayedRetry)
    // RabbitMQ takes the flag and ignores it.
    .emulated(Feature::NoLocal)
    .without(Feature::Immediate);

/// Redis and NATS: the virtual layer makes a broker of them.
const QUEUES_ONLY: Capabilities = {
    let mut all = Capabilities::basic();
    let mut index = 0;
    while index < Feature::ALL.len() {
        all = all.emulated(Feature::ALL[index]);
        index += 1;
    }
    all.without(Feature::ConsumerPriority)
        .without(Feature::Immediate)
        .with_max_priority(9)
};

/// What the transport of this name may do otherwise than the others.
pub fn freedoms(transport: &str) -> &'static [Freedom] {
    match transport {
        "amqp" => &[
            Freedom::CountReleases,
            Freedom::RetryByCopy,
            Freedom::MarkFetched,
            Freedom::ForgetPaused,
            Freedom::ShuffleDeaths,
            Freedom::TellNumbersApart,
            Freedom::KeepFurtherKeys,
        ],
        "nats" => &[
            Freedom::MarkFetched,
            Freedom::CountInFlight,
            Freedom::OrderOwnReleases,
            Freedom::MarkBehindExpired,
            Freedom::DieOfEither,
        ],
        _ => &[],
    }
}

/// What `found` says otherwise than the column of this transport, in both directions.
///
/// # Panics
///
/// If the transport has no column.
pub fn differences(transport: &str, found: &Capabilities) -> Vec<String> {
    let Some(expected) = of(transport) else {
        panic!("`{transport}` has no column; there are {TRANSPORTS:?}");
    };
    let mut differences: Vec<_> = Feature::ALL
        .iter()
        .filter(|feature| expected.support(**feature) != found.support(**feature))
        .map(|feature| {
            let (expected, found) = (expected.support(*feature), found.support(*feature));
            format!("{feature} ({feature:?}): {expected} expected, {found} found")
        })
        .collect();
    if expected.max_priority() != found.max_priority() {
        differences.push(format!(
            "highest max_priority: {} expected, {} found",
            expected.max_priority(),
            found.max_priority()
        ));
    }
    differences
}
