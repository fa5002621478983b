//! The buffer that a value is written into before it becomes `Bytes`.

use std::cell::Cell;

use bytes::Bytes;

/// A larger buffer is given back to the allocator: one big message shouldn't weigh on its thread
/// for ever.
const KEEP: usize = 64 * 1024;

thread_local! {
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Lets `write` fill a buffer and copies it into one allocation of the exact size.
///
/// The buffer is out of its cell meanwhile, because a `Serialize` may encode something itself.
#[inline]
pub(crate) fn collect<E>(write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<Bytes, E> {
    // While a thread ends, its cell is gone but destructors may still encode.
    let mut buffer = BUFFER.try_with(Cell::take).unwrap_or_default();
    let written = write(&mut buffer);
    let body = written.map(|()| Bytes::copy_from_slice(&buffer));
    if buffer.capacity() <= KEEP {
        buffer.clear();
        let _ = BUFFER.try_with(|cell| cell.set(buffer));
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> usize {
        let buffer = BUFFER.take();
        let capacity = buffer.capacity();
        BUFFER.set(buffer);
        capacity
    }

    fn write(size: usize) -> Result<Bytes, ()> {
        collect(|out| {
            out.resize(size, 7);
            Ok(())
        })
    }

    #[test]
    fn a_small_buffer_is_kept_and_a_large_one_is_not() {
        assert_eq!(write(100).unwrap().len(), 100);
        let small = kept();
        assert!((100..=KEEP).contains(&small));
        assert_eq!(write(KEEP + 1).unwrap().len(), KEEP + 1);
        assert_eq!(kept(), 0);
    }

    #[test]
    fn a_failed_write_leaves_nothing_for_the_next_one() {
        let failed: Result<Bytes, &str> = collect(|out| {
            out.extend_from_slice(b"half a mess");
            Err("broken off")
        });
        assert_eq!(failed, Err("broken off"));
        assert_eq!(write(2).unwrap(), [7, 7][..]);
    }

    #[test]
    fn a_write_inside_a_write_has_a_buffer_of_its_own() {
        let outer: Result<Bytes, ()> = collect(|out| {
            out.extend_from_slice(b"<");
            let inner = write(3)?;
            out.extend_from_slice(&inner);
            out.extend_from_slice(b">");
            Ok(())
        });
        assert_eq!(outer.unwrap(), &b"<\x07\x07\x07>"[..]);
    }

    #[test]
    fn encoding_still_works_while_the_thread_is_being_torn_down() {
        struct Late(std::sync::mpsc::Sender<usize>);
        impl Drop for Late {
            fn drop(&mut self) {
                let _ = self.0.send(write(5).unwrap().len());
            }
        }
        thread_local!(static LATE: Cell<Option<Late>> = const { Cell::new(None) });
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            LATE.set(Some(Late(sender)));
            write(1).unwrap();
        })
        .join()
        .unwrap();
        assert_eq!(receiver.recv(), Ok(5));
    }
}
