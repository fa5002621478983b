//! The server's clock, as far as it can be known from here.
//!
//! Ours may be wrong, and set while we run. So it is looked at once, and only for what the first word of the server's leaves
//! open; from there on, time is what has passed here.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// The server's clock.
#[derive(Debug)]
pub(crate) struct Clock {
    /// The time from which it counts, and our own then, in ns since 1970.
    start: (Instant, u64),
    /// What the server's is ahead, in ns.
    ahead: AtomicI64,
}

impl Default for Clock {
    fn default() -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Clock {
            start: (
                Instant::now(),
                since.map_or(0, |since| since.as_nanos() as u64),
            ),
            ahead: AtomicI64::new(0),
        }
    }
}

impl Clock {
    /// The server's time, in ns since 1970.
    pub(crate) fn now(&self) -> u64 {
        self.at(Instant::now())
    }

    fn at(&self, at: Instant) -> u64 {
        let (start, own) = self.start;
        let passed = at.saturating_duration_since(start).as_nanos() as u64;
        let ahead = self.ahead.load(Ordering::Relaxed);
        own.saturating_add(passed).saturating_add_signed(ahead)
    }

    /// The server stored something at `stored`, by its clock, which was asked for at `asked` and was answered at `answered`.
    pub(crate) fn set(&self, stored: u64, asked: Instant, answered: Instant) {
        // As long as it may have happened at any time in between, what is known is right.
        let (asked, answered) = (self.at(asked), self.at(answered));
        let error = match stored {
            _ if stored > answered => (stored - answered) as i64,
            _ if stored < asked => -((asked - stored) as i64),
            _ => return,
        };
        self.ahead.fetch_add(error, Ordering::Relaxed);
    }
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
    fn the_clock_is_the_servers_and_stays_where_nothing_contradicts_it() {
        let clock = Clock::default();
        let asked = Instant::now();
        let answered = asked + Duration::from_millis(10);
        let own = clock.at(asked);
        for (stored, expected) in [
            // Behind, ahead, and anywhere in between.
            (own - 7_000_000_000, own - 7_000_000_000),
            (own + 60_000_000_000, own + 59_990_000_000),
            (own + 59_995_000_000, own + 59_990_000_000),
        ] {
            clock.set(stored, asked, answered);
            assert_eq!(clock.at(asked), expected);
        }
    }

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
