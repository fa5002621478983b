//! JSON, by `serde_json`.

use std::io;

use serde::{Deserialize, Serialize};
use serde_json::ser::Formatter;

use crate::limits::NESTING;

#[inline]
pub(crate) fn encode<T: Serialize + ?Sized>(
    value: &T,
    out: &mut Vec<u8>,
) -> Result<(), serde_json::Error> {
    value.serialize(&mut serde_json::Serializer::with_formatter(
        out,
        Bounded { nesting: 0 },
    ))
}

#[inline]
pub(crate) fn decode<'de, T: Deserialize<'de>>(body: &'de [u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(body)
}

/// Compact output that ends where the decoder of the other side would refuse it, and long before
/// the stack does.
struct Bounded {
    nesting: usize,
}

impl Bounded {
    #[inline]
    fn enter(&mut self) -> io::Result<()> {
        self.nesting += 1;
        if self.nesting > NESTING {
            Err(too_deep())
        } else {
            Ok(())
        }
    }
}

#[cold]
fn too_deep() -> io::Error {
    io::Error::other(format!(
        "the value is nested more than {NESTING} levels deep"
    ))
}

impl Formatter for Bounded {
    #[inline]
    fn begin_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.enter()?;
        writer.write_all(b"[")
    }

    #[inline]
    fn end_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.nesting -= 1;
        writer.write_all(b"]")
    }

    #[inline]
    fn begin_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.enter()?;
        writer.write_all(b"{")
    }

    #[inline]
    fn end_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.nesting -= 1;
        writer.write_all(b"}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::ser::SerializeSeq;
    use serde::{Deserializer, Serializer};

    struct Nest(usize);

    impl Serialize for Nest {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut list = serializer.serialize_seq(None)?;
            if self.0 > 1 {
                list.serialize_element(&Nest(self.0 - 1))?;
            }
            list.end()
        }
    }

    impl<'de> Deserialize<'de> for Nest {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let inner: Vec<Nest> = Vec::deserialize(deserializer)?;
            Ok(Nest(inner.first().map_or(0, |nest| nest.0) + 1))
        }
    }

    #[test]
    fn what_can_be_encoded_is_as_deep_as_what_can_be_decoded() {
        let mut body = Vec::new();
        encode(&Nest(NESTING), &mut body).unwrap();
        assert_eq!(decode::<Nest>(&body).unwrap().0, NESTING);
        assert!(decode::<Nest>(&[b"[", &body[..], b"]"].concat()).is_err());
        assert!(encode(&Nest(NESTING + 1), &mut Vec::new()).is_err());
    }

    #[test]
    fn a_value_nested_without_end_is_an_encode_error() {
        let error = encode(&Nest(1_000_000), &mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("127 levels"), "{error}");
    }

    #[test]
    fn output_is_compact_as_serde_jsons_own() {
        let value = (
            1,
            [Some("a"), None],
            std::collections::BTreeMap::from([("k", [1.5, 2.0])]),
        );
        let mut body = Vec::new();
        encode(&value, &mut body).unwrap();
        assert_eq!(body, serde_json::to_vec(&value).unwrap());
    }

    #[test]
    fn json_has_no_nan_and_writes_null() {
        let mut body = Vec::new();
        encode(&[f64::NAN, f64::INFINITY], &mut body).unwrap();
        assert_eq!(body, b"[null,null]");
        assert!(decode::<f64>(b"NaN").is_err());
    }
}
