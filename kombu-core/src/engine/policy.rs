use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout_at};

use crate::declare::duration;
use crate::error::{Error, ErrorKind, Result};

type Observer = Arc<dyn Fn(&Error, Duration) + Send + Sync>;

/// How connecting is tried again.
///
/// In files: `first_pause`, `longest_pause`, `max_attempts`.
#[derive(Clone, Deserialize)]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(rename = "retry")
)]
#[serde(default, deny_unknown_fields, rename = "retry policy")]
#[non_exhaustive]
pub struct RetryPolicy {
    /// The pause after the first failed attempt; each further one is twice as long. Default: 100 ms.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Duration"))]
    #[serde(with = "duration")]
    pub first_pause: Duration,
    /// The longest pause. Default: 15 s.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Duration"))]
    #[serde(with = "duration")]
    pub longest_pause: Duration,
    /// Failed attempts in a row after which a lost connection is given up. Default: none, it is tried for ever.
    pub max_attempts: Option<u32>,
    #[serde(skip)]
    observer: Option<Observer>,
}

/// The same pauses and attempts, and the same observer.
impl PartialEq for RetryPolicy {
    fn eq(&self, other: &Self) -> bool {
        let observers = (&self.observer, &other.observer);
        let same_observer = match observers {
            (Some(one), Some(another)) => Arc::ptr_eq(one, another),
            (one, another) => one.is_none() && another.is_none(),
        };
        same_observer
            && self.first_pause == other.first_pause
            && self.longest_pause == other.longest_pause
            && self.max_attempts == other.max_attempts
    }
}

impl Eq for RetryPolicy {}

impl Default for RetryPolicy {
    fn default() -> Self {
        RetryPolicy {
            first_pause: Duration::from_millis(100),
            longest_pause: Duration::from_secs(15),
            max_attempts: None,
            observer: None,
        }
    }
}

impl RetryPolicy {
    /// Sets the first pause.
    #[must_use]
    pub fn first_pause(mut self, pause: Duration) -> Self {
        self.first_pause = pause;
        self
    }

    /// Sets the longest pause.
    #[must_use]
    pub fn longest_pause(mut self, pause: Duration) -> Self {
        self.longest_pause = pause;
        self
    }

    /// Gives a lost connection up after this many failed attempts in a row.
    #[must_use]
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = Some(attempts);
        self
    }

    /// Calls `observer` with each failed attempt's error and the pause that follows. What it panics with is dropped.
    #[must_use]
    pub fn on_retry(mut self, observer: impl Fn(&Error, Duration) + Send + Sync + 'static) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    pub(super) fn observe(&self, error: &Error, pause: Duration) {
        if let Some(observer) = &self.observer {
            let told = std::panic::catch_unwind(AssertUnwindSafe(|| observer(error, pause)));
            if told.is_err() {
                // The connection is everybody's.
                tracing::error!("the observer of `RetryPolicy::on_retry` panicked");
            }
        }
    }
}

impl fmt::Debug for RetryPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryPolicy")
            .field("first_pause", &self.first_pause)
            .field("longest_pause", &self.longest_pause)
            .field("max_attempts", &self.max_attempts)
            .finish_non_exhaustive()
    }
}

/// When something that begins now has to be over; a limit without end is some decades, as in tokio's timers.
pub(crate) fn deadline(limit: Duration) -> Instant {
    const DECADES: Duration = Duration::from_secs(30 * 365 * 86_400);
    let now = Instant::now();
    now.checked_add(limit).unwrap_or_else(|| now + DECADES)
}

/// What waits for a time needs a runtime.
pub(crate) fn check_runtime() -> Result<()> {
    match Handle::try_current() {
        Ok(_) => Ok(()),
        Err(problem) => Err(Error::new(
            ErrorKind::Config,
            "kombu needs a tokio runtime; call it within `#[tokio::main]` or `Runtime::block_on`",
        )
        .with_source(problem)),
    }
}

/// Does the work, unless it takes longer than until `end`: then the answer is what `late` says.
pub(crate) async fn by<T>(
    end: Instant,
    work: impl Future<Output = Result<T>>,
    late: impl FnOnce() -> Error,
) -> Result<T> {
    check_runtime()?;
    let answer = timeout_at(end, work).await;
    answer.unwrap_or_else(|_| Err(late()))
}

/// How long operations may take, from the call to the broker's answer.
///
/// In files, the names are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields, rename = "deadlines")]
#[non_exhaustive]
pub struct Deadlines {
    /// Making the first connection, all URLs and pauses included. Default: 10 s.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Duration"))]
    #[serde(with = "duration")]
    pub connect: Duration,
    /// A publish, waiting for a connection and for room included. Default: 30 s.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Duration"))]
    #[serde(with = "duration")]
    pub publish: Duration,
    /// A declaration with everything that it includes, opening a producer or a consumer, and every other control
    /// operation. Default: 30 s.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Duration"))]
    #[serde(with = "duration")]
    pub declare: Duration,
    /// Settling, where the broker's answer is waited for ([`Settling::confirmed`](crate::Settling::confirmed)), and flushing
    /// settles and confirms when a connection is closed. Default: 30 s.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Duration"))]
    #[serde(with = "duration")]
    pub settle: Duration,
    /// How long a session may be silent before it counts as lost, at least a millisecond. Default: 10 s.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Duration"))]
    #[serde(with = "duration")]
    pub liveness: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Deadlines {
            connect: Duration::from_secs(10),
            publish: Duration::from_secs(30),
            declare: Duration::from_secs(30),
            settle: Duration::from_secs(30),
            liveness: Duration::from_secs(10),
        }
    }
}
