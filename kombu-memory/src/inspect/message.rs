use std::fmt;

use kombu_core::message::Envelope;
use kombu_core::serializers::{Accept, Registry};
use kombu_core::{Error, Result};
use serde::Deserialize;
use tokio::time::Instant;

use crate::queue::Seen;

/// A message that was looked at and not taken, and what its body is decoded with.
#[derive(Clone)]
pub(super) struct Peeked {
    pub(super) envelope: Envelope,
    serializers: Registry,
}

impl Peeked {
    pub(super) fn new(envelope: Envelope, serializers: &Registry) -> Self {
        Peeked {
            envelope,
            serializers: serializers.clone(),
        }
    }

    pub(super) fn decode<'de, T: Deserialize<'de>>(&'de self) -> Result<T> {
        let content = &self.envelope;
        let codec = self.serializers.decoder_for(
            content.content_type(),
            content.content_encoding(),
            &Accept::all(),
        );
        let decoded = codec.and_then(|codec| codec.decode(content.body()));
        decoded.map_err(|error| Error::from(error).during("decode"))
    }
}

impl fmt::Debug for Peeked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.envelope, f)
    }
}

/// What everything with a `message` that was peeked at has: its content, and the value of its body.
macro_rules! impl_peeked {
    ($type:ty) => {
        impl $type {
            /// Decodes the body with the codec of its content type, as a delivery of it would be. Write the type:
            /// `decode::<T>()`.
            ///
            /// # Errors
            ///
            /// [`ErrorKind::Undecodable`](kombu_core::ErrorKind::Undecodable), and
            /// [`ErrorKind::UnknownSerializer`](kombu_core::ErrorKind::UnknownSerializer) if nothing is registered for
            /// the content type: on the connection, if that is what was inspected, else among what is built in.
            pub fn decode<'de, T: serde::Deserialize<'de>>(&'de self) -> kombu_core::Result<T> {
                self.message.decode()
            }
        }

        impl std::ops::Deref for $type {
            type Target = kombu_core::message::Content;

            fn deref(&self) -> &Self::Target {
                &self.message.envelope
            }
        }
    };
}
pub(super) use impl_peeked;

/// A message that lies in a queue, or was taken from there and isn't settled. It dereferences to its
/// [`Content`](kombu_core::message::Content).
#[derive(Clone, Debug)]
pub struct StoredMessage {
    message: Peeked,
    failures: u32,
    redelivered: bool,
    expires: Option<Instant>,
    due: Option<Instant>,
}

impl StoredMessage {
    pub(super) fn new(seen: Seen, serializers: &Registry) -> Self {
        StoredMessage {
            message: Peeked::new(seen.envelope, serializers),
            failures: seen.failures,
            redelivered: seen.redelivered,
            expires: seen.expires,
            due: seen.due,
        }
    }

    /// How often it failed: retries count, releases don't.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Whether it has come back from a consumer.
    pub fn redelivered(&self) -> bool {
        self.redelivered
    }

    /// When its time is over, if it has one. That of a delayed message begins when it is due.
    pub fn expires(&self) -> Option<Instant> {
        self.expires
    }

    /// When it becomes visible, if it is delayed.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }
}

impl_peeked!(StoredMessage);
