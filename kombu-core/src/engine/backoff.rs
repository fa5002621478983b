use std::time::Duration;

use super::RetryPolicy;

/// The pauses between attempts: each twice the one before, up to the longest, less a random part.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    longest: Duration,
}

impl Backoff {
    pub(super) fn new(policy: &RetryPolicy) -> Self {
        Backoff {
            next: policy.first_pause.min(policy.longest_pause),
            longest: policy.longest_pause,
        }
    }

    /// Starts with the longest pause, for what won't be better soon.
    pub(super) fn slow(policy: &RetryPolicy) -> Self {
        Backoff {
            next: policy.longest_pause,
            longest: policy.longest_pause,
        }
    }

    /// The next pause. Up to half of it is taken off at random, so that clients which lost the same broker
    /// don't come back together.
    pub(crate) fn pause(&mut self) -> Duration {
        let full = self.next;
        self.next = (full * 2).min(self.longest);
        full.mul_f64(1.0 - fastrand::f64() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_lose_at_most_half() {
        let policy = RetryPolicy::default();
        let mut backoff = Backoff::new(&policy);
        for full in [100, 200, 400, 800, 1600, 3200, 6400, 12800, 15000, 15000] {
            let pause = backoff.pause();
            let full = Duration::from_millis(full);
            assert!(pause <= full && pause >= full / 2, "{pause:?} of {full:?}");
        }
    }
}
