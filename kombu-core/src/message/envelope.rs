use std::mem;
use std::ops::Deref;
use std::sync::Arc;

use super::{Content, pool};

/// Names one publish *call*; it stays the same when the client sends the message again.
///
/// Private between client and drivers: returned messages, de-duplication and re-sends use it. The user's
/// [`message_id`](Content::message_id) is only the user's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PublishId {
    /// One per producer: its [origin](PublishId::origin), which is random, and its number there.
    pub producer: u64,
    /// Counts the publishes of that producer.
    pub sequence: u64,
}

impl PublishId {
    /// What all producers of one connection have in common, over all of its sessions.
    pub fn origin(self) -> u32 {
        (self.producer >> 32) as u32
    }
}

/// What drivers carry: a message and its publish id in one reference-counted allocation.
///
/// A clone is one reference count, so re-sends, copies in several queues and deliveries share it.
// `None` only while it is being dropped.
#[derive(Clone, Debug)]
pub struct Envelope(Option<Arc<Sealed>>);

#[derive(Clone, Debug)]
pub(super) struct Sealed {
    pub(super) publish_id: PublishId,
    pub(super) content: Content,
}

static NOTHING: Sealed = Sealed {
    publish_id: PublishId {
        producer: 0,
        sequence: 0,
    },
    content: Content::EMPTY,
};

impl Envelope {
    /// Puts a message into its envelope.
    #[inline]
    pub fn new(publish_id: PublishId, content: Content) -> Self {
        if let Some(mut used) = pool::take()
            && let Some(place) = Arc::get_mut(&mut used)
        {
            place.publish_id = publish_id;
            // Nothing is in there that would have to be freed.
            mem::forget(mem::replace(&mut place.content, content));
            return Envelope(Some(used));
        }
        Envelope(Some(Arc::new(Sealed {
            publish_id,
            content,
        })))
    }

    #[inline]
    fn sealed(&self) -> &Sealed {
        self.0.as_deref().unwrap_or(&NOTHING)
    }

    /// The id of the publish call.
    pub fn publish_id(&self) -> PublishId {
        self.sealed().publish_id
    }
}

impl Deref for Envelope {
    type Target = Content;

    #[inline]
    fn deref(&self) -> &Content {
        &self.sealed().content
    }
}

impl Drop for Envelope {
    #[inline]
    fn drop(&mut self) {
        let Some(mut sealed) = self.0.take() else {
            return;
        };
        // Two threads that drop the last two at once both miss this, and the allocation is freed as usual.
        if Arc::strong_count(&sealed) == 1
            && let Some(used) = Arc::get_mut(&mut sealed)
        {
            used.content = Content::EMPTY;
            pool::put(sealed);
        }
    }
}
