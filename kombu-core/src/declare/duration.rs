//! Durations in files and options: `250ms`, `30s`, `5m`, `1h`, `1d`, or an integer of milliseconds.
//!
//! For serde, `#[serde(with = "kombu_core::declare::duration")]` stands at a field of type
//! [`Duration`], and `duration::option` at an `Option<Duration>`, together with `#[serde(default)]`.
//! They write the text with the largest unit that divides the duration. What is below a millisecond is
//! rounded up, since no broker counts finer.
//!
//! ```
//! use kombu_core::declare::duration;
//! use std::time::Duration;
//!
//! # fn main() -> Result<(), kombu_core::Error> {
//! assert_eq!(duration::parse("90s")?, Duration::from_secs(90));
//! assert_eq!(duration::format(Duration::from_secs(3_600)), "1h");
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::time::Duration;

use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::ser::Serializer;

use crate::error::{Error, ErrorKind};

/// From the largest, with their milliseconds.
const UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Reads a duration; a number without a unit is in milliseconds.
///
/// Fails with [`ErrorKind::Config`] for anything else, fractions and several units included.
pub fn parse(text: &str) -> Result<Duration, Error> {
    let unit_at = text
        .find(|character: char| !character.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let unit = if unit.is_empty() { "ms" } else { unit };
    let millis = UNITS
        .iter()
        .find(|(name, _)| *name == unit)
        .and_then(|(_, millis)| number.parse::<u64>().ok()?.checked_mul(*millis));
    millis.map(Duration::from_millis).ok_or_else(|| {
        Error::new(
            ErrorKind::Config,
            format!(
                "`{text}` is no duration; write a whole number with ms, s, m, h or d, as in `30s`"
            ),
        )
    })
}

/// The shortest text that [`parse`] reads as this duration.
pub fn format(duration: Duration) -> String {
    let millis = whole_millis(duration);
    if millis == 0 {
        return "0s".to_owned();
    }
    let (unit, size) = UNITS
        .into_iter()
        .find(|(_, size)| millis.is_multiple_of(*size))
        .unwrap_or(("ms", 1));
    format!("{}{unit}", millis / size)
}

/// Milliseconds, rounded up, so that a short time to live doesn't become none at all.
pub(crate) fn whole_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// Writes a duration as [`format()`] does.
pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format(*duration))
}

/// Reads an integer of milliseconds, or a text as [`parse`] does.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    struct Written;

    impl Visitor<'_> for Written {
        type Value = Duration;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a duration: an integer of milliseconds, or text as in \"30s\"")
        }

        fn visit_u64<E: de::Error>(self, millis: u64) -> Result<Duration, E> {
            Ok(Duration::from_millis(millis))
        }

        fn visit_i64<E: de::Error>(self, millis: i64) -> Result<Duration, E> {
            u64::try_from(millis)
                .map(Duration::from_millis)
                .map_err(|_| E::invalid_value(de::Unexpected::Signed(millis), &self))
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
            parse(text).map_err(|error| E::custom(error.message()))
        }
    }

    deserializer.deserialize_any(Written)
}

/// The same for durations that need not be there; `None` is written as null and meant to be skipped.
pub mod option {
    use super::{Deserialize, Deserializer, Duration, Serializer};

    /// Writes a duration as [`format()`](super::format) does.
    pub fn serialize<S: Serializer>(
        duration: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => super::serialize(duration, serializer),
            None => serializer.serialize_none(),
        }
    }

    /// Reads an integer of milliseconds, a text as [`parse`](super::parse) does, or null.
    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        struct Inner(Duration);

        impl<'de> Deserialize<'de> for Inner {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                super::deserialize(deserializer).map(Inner)
            }
        }

        Ok(Option::<Inner>::deserialize(deserializer)?.map(|Inner(duration)| duration))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_written_with_the_largest_unit_that_divides_it() {
        for (millis, text) in [
            (0, "0s"),
            (250, "250ms"),
            (1_000, "1s"),
            (1_001, "1001ms"),
            (90_000, "90s"),
            (300_000, "5m"),
            (3_600_000, "1h"),
            (90_000_000, "25h"),
            (172_800_000, "2d"),
            (u64::MAX, "18446744073709551615ms"),
        ] {
            let duration = Duration::from_millis(millis);
            assert_eq!(format(duration), text);
            assert_eq!(parse(text).unwrap(), duration);
        }
    }

    #[test]
    fn a_number_without_a_unit_is_in_milliseconds() {
        assert_eq!(parse("1500").unwrap(), Duration::from_millis(1500));
    }

    #[test]
    fn less_than_a_millisecond_becomes_one() {
        assert_eq!(format(Duration::from_nanos(1)), "1ms");
        assert_eq!(format(Duration::from_micros(1_500)), "2ms");
        assert_eq!(whole_millis(Duration::MAX), u64::MAX);
    }

    #[test]
    fn anything_else_is_refused_with_what_to_write() {
        for text in [
            "",
            "s",
            "-5s",
            "1.5s",
            "5 s",
            "5w",
            "1h30m",
            "5S",
            "99999999999999999999d",
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{text}");
            assert!(error.to_string().contains("`30s`"), "{error}");
        }
    }
}
