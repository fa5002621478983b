use std::ops::Deref;
use std::sync::Arc;

use super::Content;

/// Names one publish *call*; it stays the same when the client sends the message again.
///
/// Private between client and drivers: returned messages, de-duplication and re-sends use it. The user's
/// [`message_id`](Content::message_id) is only the user's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PublishId {
    /// Random, one per producer.
    pub producer: u64,
    /// Counts the publishes of that producer.
    pub sequence: u64,
}

/// What drivers carry: a message and its publish id in one reference-counted allocation.
///
/// A clone is one reference count, so re-sends, copies in several queues and deliveries share it.
#[derive(Clone, Debug)]
pub struct Envelope(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    publish_id: PublishId,
    content: Content,
}

impl Envelope {
    /// Puts a message into its envelope.
    pub fn new(publish_id: PublishId, content: Content) -> Self {
        Envelope(Arc::new(Inner {
            publish_id,
            content,
        }))
    }

    /// The id of the publish call.
    pub fn publish_id(&self) -> PublishId {
        self.0.publish_id
    }
}

impl Deref for Envelope {
    type Target = Content;

    fn deref(&self) -> &Content {
        &self.0.content
    }
}
