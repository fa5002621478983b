//! What a broker has to do at a certain time: show delayed messages, look for expired ones, or for a queue that nobody
//! uses.

use std::collections::BTreeMap;
use std::sync::Weak;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::queue::MemoryQueue;

/// An appointment: its time, and a number that tells it from others of that time.
pub(crate) type Appointment = (Instant, u64);

/// Further away than anything that is waited for.
const FAR: Duration = Duration::from_secs(60 * 60 * 24 * 365 * 30);

/// The time that comes `duration` after `start`; far in the future if no clock gets there.
pub(crate) fn after(start: Instant, duration: Duration) -> Instant {
    start.checked_add(duration).unwrap_or(start + FAR)
}

#[derive(Default)]
pub(crate) struct Schedule {
    due: Mutex<Due>,
    /// Something is due earlier than what was known.
    changed: Notify,
}

#[derive(Default)]
struct Due {
    queues: BTreeMap<Appointment, Weak<MemoryQueue>>,
    next: u64,
}

impl Schedule {
    pub(crate) fn add(&self, at: Instant, queue: Weak<MemoryQueue>) -> Appointment {
        let mut due = self.due.lock();
        let first = due.queues.first_key_value().map(|((at, _), _)| *at);
        let number = due.next;
        due.next += 1;
        due.queues.insert((at, number), queue);
        drop(due);
        if first.is_none_or(|first| at < first) {
            self.changed.notify_waiters();
        }
        (at, number)
    }

    pub(crate) fn remove(&self, appointment: Appointment) {
        self.due.lock().queues.remove(&appointment);
    }

    /// Takes out the first queue that was to be looked at by now, and when that was. The clock is read only if there
    /// is any.
    pub(crate) fn take_due(&self) -> Option<(Instant, Weak<MemoryQueue>)> {
        let mut due = self.due.lock();
        let first = due.queues.first_entry()?;
        let at = first.key().0;
        (at <= Instant::now()).then(|| (at, first.remove()))
    }

    /// Resolves when something is due.
    pub(crate) async fn until_due(&self) {
        loop {
            let changed = self.changed.notified();
            let first = self
                .due
                .lock()
                .queues
                .first_key_value()
                .map(|(key, _)| key.0);
            match first {
                None => changed.await,
                Some(at) if at <= Instant::now() => return,
                Some(at) => {
                    tokio::select! {
                        biased;
                        () = changed => {}
                        () = tokio::time::sleep_until(at) => return,
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_is_told_of_an_earlier_appointment() {
        let schedule = Schedule::default();
        let start = Instant::now();
        schedule.add(start + Duration::from_secs(60), Weak::new());
        let waiting = schedule.until_due();
        // Polled after the other one, which waits for the later appointment by then.
        let adding = async { schedule.add(start + Duration::from_secs(1), Weak::new()) };
        tokio::join!(waiting, adding);
        assert_eq!(start.elapsed(), Duration::from_secs(1));
    }
}
