use std::time::Duration;

use crate::declare::Queue;
use crate::driver::{Feature, Support};

use super::Connection;

/// A queue for this connection alone, which goes with it: as much of that as the transport has.
pub(crate) fn private(connection: &Connection, queue: Queue, expires: Duration) -> Queue {
    let has = |feature| connection.capabilities().support(feature) != Support::Unsupported;
    let mut queue = queue.durable(false);
    if has(Feature::ExclusiveQueue) {
        queue = queue.exclusive(true);
    }
    if has(Feature::AutoDelete) {
        queue = queue.auto_delete(true);
    }
    if has(Feature::QueueExpiry) {
        queue = queue.expires(expires);
    }
    queue
}
