//! MessagePack, by `rmp-serde`, with structs as maps.

mod nesting;

use rmp_serde::decode::Error as DecodeError;
use rmp_serde::encode::Error as EncodeError;
use serde::{Deserialize, Serialize};

use crate::limits::NESTING;
use nesting::Fault;

/// A body of at most this length isn't looked at for enums: a level takes two bytes, so it can't hold more of them
/// than any thread's stack does.
const SMALL: usize = 512;

/// Nearly every body has fewer levels. One that has more is looked at first: at each level serde sets aside up to
/// a megabyte for what a collection claims to hold.
const SHALLOW: usize = 32;

#[inline]
pub(crate) fn encode<T: Serialize + ?Sized>(
    value: &T,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    value.serialize(&mut rmp_serde::Serializer::new(out).with_struct_map())
}

#[inline(always)]
pub(crate) fn decode<'de, T: Deserialize<'de>>(body: &'de [u8]) -> Result<T, DecodeError> {
    // The deserializer counts sequences and maps but not the enums around them.
    if body.len() > SMALL && nesting::may_be_too_deep(body) {
        check(body)?;
    }
    match attempt(body, SHALLOW) {
        Err(DecodeError::DepthLimitExceeded) => decode_deeper(body),
        decoded => decoded,
    }
}

#[cold]
#[inline(never)]
fn decode_deeper<'de, T: Deserialize<'de>>(body: &'de [u8]) -> Result<T, DecodeError> {
    check(body)?;
    attempt(body, NESTING)
}

#[inline(always)]
fn attempt<'de, T: Deserialize<'de>>(body: &'de [u8], levels: usize) -> Result<T, DecodeError> {
    let mut deserializer = rmp_serde::Deserializer::from_read_ref(body);
    deserializer.set_max_depth(levels + 1);
    let value = T::deserialize(&mut deserializer)?;
    // It doesn't say how far it got either, so it is asked for one more value.
    match u8::deserialize(&mut deserializer) {
        Err(DecodeError::InvalidMarkerRead(_)) => Ok(value),
        _ => Err(trailing()),
    }
}

#[cold]
fn check(body: &[u8]) -> Result<(), DecodeError> {
    match nesting::fault(body) {
        Some(Fault::TooDeep) => Err(DecodeError::DepthLimitExceeded),
        Some(Fault::ClaimsTooMuch) => Err(cut_off()),
        None => Ok(()),
    }
}

#[cold]
fn cut_off() -> DecodeError {
    DecodeError::Uncategorized("it claims to hold more than it has".into())
}

#[cold]
fn trailing() -> DecodeError {
    DecodeError::Uncategorized("there are bytes behind the value".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Chain {
        End,
        Link(Box<Chain>),
    }

    fn links(count: usize) -> Vec<u8> {
        let mut body = b"\x81\xa4Link".repeat(count);
        body.extend_from_slice(b"\xa3End");
        body
    }

    #[test]
    fn structs_are_written_as_maps() {
        #[derive(Serialize)]
        struct Point {
            x: u8,
        }
        let mut body = Vec::new();
        encode(&Point { x: 1 }, &mut body).unwrap();
        assert_eq!(body, b"\x81\xa1x\x01");
    }

    #[test]
    fn a_chain_of_enums_is_bounded_too() {
        assert!(decode::<Chain>(&links(NESTING)).is_ok());
        assert!(matches!(
            decode::<Chain>(&links(NESTING + 1)),
            Err(DecodeError::DepthLimitExceeded)
        ));
        assert!(matches!(
            decode::<Chain>(&links(100_000)),
            Err(DecodeError::DepthLimitExceeded)
        ));
    }

    #[test]
    fn the_deepest_chain_in_a_small_body_is_read_on_a_small_stack() {
        // Variants by number: two bytes a level.
        let mut body = b"\x81\x01".repeat(SMALL / 2 - 1);
        body.push(0);
        let read = std::thread::Builder::new()
            .stack_size(512 * 1024)
            .spawn(move || decode::<Chain>(&body).is_ok())
            .unwrap();
        read.join().unwrap();
    }

    #[test]
    fn a_body_is_read_to_the_deepest_level_if_it_has_what_it_claims() {
        let nested = |levels: usize| [&b"\x91".repeat(levels - 1)[..], b"\x90"].concat();
        for levels in [1, SHALLOW, SHALLOW + 1, NESTING] {
            assert!(decode::<crate::Value>(&nested(levels)).is_ok(), "{levels}");
        }
        assert!(decode::<crate::Value>(&nested(NESTING + 1)).is_err());
        let claims = [&b"\xdc\xff\xff".repeat(SHALLOW + 1)[..], b"\x90"].concat();
        let error = decode::<crate::Value>(&claims).unwrap_err();
        assert!(error.to_string().contains("claims"), "{error}");
    }

    #[test]
    fn exactly_one_value_is_read() {
        assert_eq!(decode::<u8>(b"\x01").unwrap(), 1);
        assert_eq!(decode::<Option<u8>>(b"\xc0").unwrap(), None);
        for trailing in [
            &b"\x01\x01"[..],
            b"\x01\xc0",
            b"\x01\xcc",
            b"\x01\xc1",
            b"\x01\x91",
        ] {
            assert!(decode::<u8>(trailing).is_err(), "{trailing:x?}");
        }
    }
}
