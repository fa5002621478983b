//! A value that tasks wait for.

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

/// Wakes everybody after each change, in the order in which they began to wait.
///
/// Tokio's `watch` wakes its receivers in random order. Who is woken first often gets the next message, so with it no
/// two runs of a test would be alike.
#[derive(Debug, Default)]
pub(crate) struct Watched<T> {
    value: Mutex<T>,
    changed: Notify,
}

impl<T> Watched<T> {
    pub(crate) fn new(value: T) -> Self {
        Watched {
            value: Mutex::new(value),
            changed: Notify::new(),
        }
    }

    pub(crate) fn get(&self) -> MutexGuard<'_, T> {
        self.value.lock()
    }

    pub(crate) fn set(&self, value: T) {
        *self.value.lock() = value;
        self.changed.notify_waiters();
    }

    /// Wakes nobody if `change` says that it changed nothing; answers what it says.
    pub(crate) fn change_if(&self, change: impl FnOnce(&mut T) -> bool) -> bool {
        let changed = change(&mut self.value.lock());
        if changed {
            self.changed.notify_waiters();
        }
        changed
    }

    /// Resolves when `look` finds in the value what it is looking for. Cancel safe.
    pub(crate) async fn until<R>(&self, mut look: impl FnMut(&T) -> Option<R>) -> R {
        loop {
            let changed = self.changed.notified();
            let found = look(&self.value.lock());
            match found {
                Some(found) => return found,
                None => changed.await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn whoever_began_to_wait_first_is_woken_first() {
        let watched = Arc::new(Watched::new(0));
        let (looks, woken) = (
            Arc::new(AtomicUsize::new(0)),
            Arc::new(Mutex::new(Vec::new())),
        );
        let waiting = (0..100).map(|number| {
            let (watched, looks, woken) = (watched.clone(), looks.clone(), woken.clone());
            tokio::spawn(async move {
                let look = |value: &i32| {
                    looks.fetch_add(1, Ordering::Relaxed);
                    (*value == 2).then_some(())
                };
                watched.until(look).await;
                woken.lock().push(number);
            })
        });
        let waiting: Vec<_> = waiting.collect();
        for change in 1..=2 {
            // All of them have looked at what was there before.
            while looks.load(Ordering::Relaxed) < change * 100 {
                tokio::task::yield_now().await;
            }
            watched.set(change as i32);
        }
        for task in waiting {
            assert!(task.await.is_ok());
        }
        assert_eq!(*woken.lock(), (0..100).collect::<Vec<_>>());
    }
}
