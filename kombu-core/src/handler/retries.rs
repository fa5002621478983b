use std::time::Duration;

use serde::Deserialize;

use crate::declare::duration;

/// How often, and after which pauses, a message comes again whose handler failed.
///
/// ```
/// use std::time::Duration;
/// use kombu::handler::Retries;
///
/// let retries = Retries::new(3).first_pause(Duration::from_millis(100)).jitter(false);
/// let pauses: Vec<_> = (1..=4).map(|attempt| retries.pause(attempt)).collect();
/// let millis = |millis| Some(Duration::from_millis(millis));
/// assert_eq!(pauses, [millis(100), millis(200), millis(400), None]);
/// ```
///
/// In files: `count`, `first_pause`, `longest_pause`, `jitter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields, rename = "retries")]
pub struct Retries {
    /// How many. Default: 5.
    count: u32,
    /// The first pause; each further one is twice as long. Default: 1 s.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Duration"))]
    #[serde(with = "duration")]
    first_pause: Duration,
    /// No pause is longer, but by its jitter. Default: 5 min.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Duration"))]
    #[serde(with = "duration")]
    longest_pause: Duration,
    /// Whether pauses are up to a fifth shorter or longer. Default: true.
    jitter: bool,
}

impl Default for Retries {
    /// Five, after 1 s, 2 s, 4 s, 8 s and 16 s, each up to a fifth shorter or longer.
    fn default() -> Self {
        Retries::new(5)
    }
}

impl Retries {
    /// So many.
    pub fn new(count: u32) -> Self {
        Retries {
            count,
            first_pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(5 * 60),
            jitter: true,
        }
    }

    /// None: what fails is given up at once.
    pub fn none() -> Self {
        Retries::new(0)
    }

    /// For as long as it fails.
    pub(crate) fn endless() -> Self {
        Retries::new(u32::MAX)
    }

    /// The first pause; each further one is twice as long. Default: 1 s. Zero retries at once.
    #[must_use]
    pub fn first_pause(mut self, pause: Duration) -> Self {
        self.first_pause = pause;
        self
    }

    /// No pause is longer, but by its jitter. Default: 5 min.
    #[must_use]
    pub fn longest_pause(mut self, pause: Duration) -> Self {
        self.longest_pause = pause;
        self
    }

    /// Whether pauses are up to a fifth shorter or longer, so that what failed together doesn't come again together.
    /// Default: true.
    #[must_use]
    pub fn jitter(mut self, jitter: bool) -> Self {
        self.jitter = jitter;
        self
    }

    /// The pause after this try has failed, the first being 1; `None` if it was the last.
    pub fn pause(&self, attempt: u32) -> Option<Duration> {
        if attempt > self.count {
            return None;
        }
        let doublings = attempt.saturating_sub(1).min(31);
        let pause = self.first_pause.saturating_mul(1 << doublings);
        let pause = pause.min(self.longest_pause);
        Some(match self.jitter {
            true => pause.mul_f64(0.8 + 0.4 * fastrand::f64()),
            false => pause,
        })
    }
}
