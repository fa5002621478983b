use std::fmt;
use std::sync::Arc;

use crate::declare::Queue;
use crate::name::Name;

use super::{Publisher, SubscribeOptions, Subscription};

/// How many answers a reply queue may send ahead.
const AHEAD: u32 = 1024;

/// What questions are published with, and where their answers come to.
pub struct Caller {
    /// Publishes the questions. Answers may come only to what it published.
    pub publisher: Arc<dyn Publisher>,
    /// What questions carry as their `reply_to`: whoever answers publishes to the default exchange with this key.
    pub reply_to: Name,
    /// The answers; none of them is settled. [`Received::Cancelled`](super::Received::Cancelled) says that answers may have
    /// been lost, and that further ones come.
    pub replies: Box<dyn Subscription>,
}

impl Caller {
    /// The queue for answers of this name.
    pub fn queue(name: &Name) -> Queue {
        Queue::new(name)
            .durable(false)
            .exclusive(true)
            .auto_delete(true)
    }

    /// How a queue for answers is subscribed to.
    pub fn options() -> SubscribeOptions {
        SubscribeOptions::new(AHEAD).no_ack(true)
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller")
            .field("reply_to", &self.reply_to)
            .finish_non_exhaustive()
    }
}
