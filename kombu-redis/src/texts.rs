//! Texts of messages on their way.

use bytes::{Bytes, BytesMut};
use kombu_core::message::Envelope;
use parking_lot::Mutex;

use crate::element;

/// Several texts lie in one allocation of this size. Each of them is freed on another thread than it was made on, where glibc
/// locks the arena for it.
const CHUNK: usize = 64 << 10;
/// Longer texts have allocations of their own.
const LONG: usize = 8 << 10;

#[derive(Debug, Default)]
pub(crate) struct Texts(Mutex<Writing>);

#[derive(Debug, Default)]
struct Writing {
    chunk: BytesMut,
    text: Vec<u8>,
}

impl Texts {
    pub(crate) fn encode(&self, envelope: &Envelope) -> Bytes {
        if envelope.body().len() > LONG {
            return element::encode(envelope).into();
        }
        let Writing { chunk, text } = &mut *self.0.lock();
        text.clear();
        element::write(envelope, text);
        if text.len() > LONG {
            return std::mem::take(text).into();
        }
        if chunk.capacity() < text.len() {
            *chunk = BytesMut::with_capacity(CHUNK);
        }
        chunk.extend_from_slice(text);
        chunk.split().freeze()
    }
}
