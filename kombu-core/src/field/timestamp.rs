use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A point in time in whole seconds since 1970-01-01 UTC: AMQP's `T`.
///
/// ```
/// use kombu_core::field::Timestamp;
/// use std::time::{Duration, UNIX_EPOCH};
///
/// let time = Timestamp::from(UNIX_EPOCH + Duration::from_millis(1_700_000_000_900));
/// assert_eq!(time.as_secs(), 1_700_000_000);
/// ```
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The time that is so many seconds after 1970-01-01 UTC.
    pub const fn from_secs(secs: u64) -> Self {
        Timestamp(secs)
    }

    /// The current time, by the system's clock.
    pub fn now() -> Self {
        SystemTime::now().into()
    }

    /// Seconds since 1970-01-01 UTC.
    pub const fn as_secs(self) -> u64 {
        self.0
    }

    /// The same time for the standard library; `None` if it is later than the platform can express.
    pub fn to_system_time(self) -> Option<SystemTime> {
        UNIX_EPOCH.checked_add(Duration::from_secs(self.0))
    }
}

impl From<u64> for Timestamp {
    fn from(secs: u64) -> Self {
        Timestamp(secs)
    }
}

/// Cuts off what is below a second; a time before 1970 becomes 0.
impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        Timestamp(
            time.duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_before_1970_becomes_zero() {
        let time = UNIX_EPOCH - Duration::from_secs(5);
        assert_eq!(Timestamp::from(time), Timestamp::from_secs(0));
    }

    #[test]
    fn a_time_comes_back_as_the_same_second() {
        let time = Timestamp::from_secs(1_700_000_000);
        assert_eq!(time.to_system_time().map(Timestamp::from), Some(time));
    }

    #[test]
    fn a_time_beyond_the_platform_is_none_and_not_a_panic() {
        assert_eq!(Timestamp::from_secs(u64::MAX).to_system_time(), None);
    }
}
