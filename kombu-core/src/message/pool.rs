//! Allocations of envelopes that are used again.
//!
//! A producer allocates and a consumer frees, usually on different threads. In glibc both then meet at the lock
//! of one arena, and on two threads that took a third of the time of publishing and consuming in memory.
//! Here a thread keeps a few free envelopes and passes them on in bundles, so the lock that is shared is
//! taken once per bundle.

use std::cell::RefCell;
use std::mem;
use std::sync::Arc;

use parking_lot::Mutex;

use super::envelope::Sealed;

/// Envelopes in a bundle.
const BUNDLE: usize = 32;
/// Full bundles that wait for a thread: with the ones that threads keep, less than a megabyte.
const MAX_BUNDLES: usize = 64;

type Bundle = Vec<Arc<Sealed>>;

/// What one thread keeps: two bundles, so that a thread which takes and puts in turn keeps to itself.
struct Local {
    current: Bundle,
    spare: Bundle,
}

/// What passes from thread to thread.
struct Shared {
    full: Vec<Bundle>,
    empty: Vec<Bundle>,
}

thread_local! {
    static LOCAL: RefCell<Local> = const {
        RefCell::new(Local {
            current: Vec::new(),
            spare: Vec::new(),
        })
    };
}

static SHARED: Mutex<Shared> = Mutex::new(Shared {
    full: Vec::new(),
    empty: Vec::new(),
});

/// An allocation whose content is to be overwritten, if one is free.
#[inline]
pub(super) fn take() -> Option<Arc<Sealed>> {
    LOCAL
        .try_with(|local| {
            let mut local = local.try_borrow_mut().ok()?;
            if local.current.is_empty() {
                local.refill();
            }
            local.current.pop()
        })
        .ok()
        .flatten()
}

/// Keeps an allocation that nobody else refers to, and that holds nothing.
#[inline]
pub(super) fn put(envelope: Arc<Sealed>) {
    // Fails while the thread ends; then the envelope is freed.
    let _ = LOCAL.try_with(|local| {
        if let Ok(mut local) = local.try_borrow_mut() {
            if local.current.len() >= BUNDLE {
                local.make_room();
            }
            local.current.push(envelope);
        }
    });
}

impl Local {
    #[cold]
    fn refill(&mut self) {
        mem::swap(&mut self.current, &mut self.spare);
        if !self.current.is_empty() {
            return;
        }
        let mut shared = SHARED.lock();
        if let Some(full) = shared.full.pop() {
            let empty = mem::replace(&mut self.current, full);
            shared.empty.push(empty);
        }
    }

    #[cold]
    fn make_room(&mut self) {
        mem::swap(&mut self.current, &mut self.spare);
        if self.current.len() < BUNDLE {
            return;
        }
        let mut shared = SHARED.lock();
        if shared.full.len() < MAX_BUNDLES {
            let empty = shared.empty.pop().unwrap_or_default();
            let full = mem::replace(&mut self.current, empty);
            shared.full.push(full);
        } else {
            drop(shared);
            self.current.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use bytes::Bytes;

    use crate::message::{Content, Envelope, PublishId};
    use crate::name::Name;

    fn envelope(text: &'static str) -> Envelope {
        let id = PublishId {
            producer: 1,
            sequence: 2,
        };
        let mut content = Content::new(
            Name::EMPTY,
            text.into(),
            Bytes::from_static(text.as_bytes()),
        );
        content.set_correlation_id(text);
        Envelope::new(id, content)
    }

    #[test]
    fn an_envelope_that_is_used_again_shows_nothing_of_what_it_held() {
        drop(envelope("before"));
        let id = PublishId {
            producer: 3,
            sequence: 4,
        };
        let after = Envelope::new(id, Content::new(Name::EMPTY, Name::EMPTY, Bytes::new()));
        assert_eq!(after.publish_id(), id);
        assert!(after.body().is_empty() && after.routing_key().is_empty());
        assert_eq!(after.correlation_id(), None);
    }

    #[test]
    fn a_body_is_freed_with_its_last_envelope_and_not_kept_for_later() {
        let body = Bytes::from(vec![1; 100]);
        let id = PublishId {
            producer: 1,
            sequence: 2,
        };
        let first = Envelope::new(id, Content::new(Name::EMPTY, Name::EMPTY, body.clone()));
        let second = first.clone();
        drop(first);
        assert!(!body.is_unique());
        drop(second);
        assert!(body.is_unique());
    }

    #[test]
    fn envelopes_pass_between_threads_whole() {
        for _ in 0..20 {
            let (sender, receiver) = std::sync::mpsc::channel();
            let consumer = thread::spawn(move || {
                let mut count = 0;
                while let Ok(envelope) = receiver.recv() {
                    let envelope: Envelope = envelope;
                    assert_eq!(envelope.body().as_ref(), b"across");
                    assert_eq!(envelope.correlation_id(), Some("across"));
                    count += 1;
                }
                count
            });
            for _ in 0..1000 {
                sender.send(envelope("across")).unwrap();
            }
            drop(sender);
            assert_eq!(consumer.join().unwrap(), 1000);
        }
    }
}
