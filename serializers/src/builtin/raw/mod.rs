//! Bodies that are no format at all: bytes, or text.

mod de;
mod ser;

use serde::de::value::Error as DecodeError;
use serde::{Deserialize, Serialize};

use crate::BoxError;

pub(crate) use ser::Refused;

pub(crate) fn encode_bytes<T: Serialize + ?Sized>(
    value: &T,
    out: &mut Vec<u8>,
) -> Result<(), Refused> {
    value.serialize(ser::Whole {
        out,
        allows: ser::Allows::BytesAndText,
    })
}

pub(crate) fn encode_text<T: Serialize + ?Sized>(
    value: &T,
    out: &mut Vec<u8>,
) -> Result<(), Refused> {
    value.serialize(ser::Whole {
        out,
        allows: ser::Allows::Text,
    })
}

// Inlined into the caller, it would slow down the formats beside it.
#[inline(never)]
pub(crate) fn decode_bytes<'de, T: Deserialize<'de>>(body: &'de [u8]) -> Result<T, DecodeError> {
    T::deserialize(de::Body::bytes(body))
}

// Inlined into the caller, it would slow down the formats beside it.
#[inline(never)]
pub(crate) fn decode_text<'de, T: Deserialize<'de>>(body: &'de [u8]) -> Result<T, BoxError> {
    Ok(T::deserialize(de::Body::text(std::str::from_utf8(body)?))?)
}
