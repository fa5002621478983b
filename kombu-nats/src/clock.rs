//! The server's clock, as far as it can be known from here.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

/// What the server's clock is ahead of ours, in ns.
#[derive(Debug, Default)]
pub(crate) struct Clock(AtomicI64);

impl Clock {
    /// The server's time, in ns since 1970.
    pub(crate) fn now(&self) -> u64 {
        own().saturating_add_signed(self.0.load(Ordering::Relaxed))
    }

    /// The server stored something at `stored`, which was asked for at `asked` and answered now, both by our clock.
    pub(crate) fn set(&self, stored: u64, asked: u64) {
        let (now, stored) = (own() as i64, stored as i64);
        let asked = asked as i64;
        // As long as it may have happened at any time in between, the clocks may be the same.
        let ahead = match stored {
            _ if stored > now => stored - now,
            _ if stored < asked => stored - asked,
            _ => 0,
        };
        self.0.store(ahead, Ordering::Relaxed);
    }
}

/// Our own time, in ns since 1970.
pub(crate) fn own() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos() as u64)
}

pub(crate) fn time(nanoseconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(nanoseconds)
}

/// A time as the server writes it, `2026-11-21T15:10:07.123456789Z`, in ns since 1970; 0 if it isn't one.
pub(crate) fn parse(text: &str) -> u64 {
    parsed(text).unwrap_or(0)
}

fn parsed(text: &str) -> Option<u64> {
    let text = text.strip_suffix('Z')?;
    let (date, time) = text.split_once('T')?;
    let mut date = date.splitn(3, '-').map(str::parse::<i64>);
    let (year, month, day) = (date.next()?.ok()?, date.next()?.ok()?, date.next()?.ok()?);
    let mut time = time.splitn(3, ':');
    let hour: i64 = time.next()?.parse().ok()?;
    let minute: i64 = time.next()?.parse().ok()?;
    let second = time.next()?;
    let (second, fraction) = second.split_once('.').unwrap_or((second, ""));
    let second: i64 = second.parse().ok()?;
    let fraction: i64 = format!("{fraction:0<9.9}").parse().ok()?;
    // Days since 1970 in the Gregorian calendar, with years that begin in March.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second;
    u64::try_from(seconds * 1_000_000_000 + fraction).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_times_are_read() {
        assert_eq!(parse("1970-01-01T00:00:00Z"), 0);
        assert_eq!(parse("2000-02-29T12:00:00.5Z"), 951_825_600_500_000_000);
        assert_eq!(
            parse("2026-11-21T15:10:07.123456789Z"),
            1_795_273_807_123_456_789
        );
        assert_eq!(parse("yesterday"), 0);
    }
}
