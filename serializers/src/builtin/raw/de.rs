//! Hands a body to a `Deserialize` as it is.

use serde::de::value::{Error, SeqDeserializer};
use serde::de::{Error as _, Visitor};
use serde::{Deserializer, forward_to_deserialize_any};

/// A body, which `text` says is text.
pub(super) struct Body<'de> {
    bytes: &'de [u8],
    text: Option<&'de str>,
}

impl<'de> Body<'de> {
    #[inline]
    pub(super) fn bytes(bytes: &'de [u8]) -> Self {
        Self { bytes, text: None }
    }

    #[inline]
    pub(super) fn text(text: &'de str) -> Self {
        Self {
            bytes: text.as_bytes(),
            text: Some(text),
        }
    }

    fn visit_text<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let text = match self.text {
            Some(text) => text,
            None => std::str::from_utf8(self.bytes).map_err(Error::custom)?,
        };
        visitor.visit_borrowed_str(text)
    }

    /// For `Vec<u8>` and `[u8; N]`, which serde takes as sequences.
    fn visit_items<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let mut items = SeqDeserializer::new(self.bytes.iter().copied());
        let value = visitor.visit_seq(&mut items)?;
        items.end()?;
        Ok(value)
    }
}

impl<'de> Deserializer<'de> for Body<'de> {
    type Error = Error;

    #[inline]
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.text {
            Some(text) => visitor.visit_borrowed_str(text),
            None => visitor.visit_borrowed_bytes(self.bytes),
        }
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_borrowed_bytes(self.bytes)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_borrowed_bytes(self.bytes)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.visit_text(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.visit_text(visitor)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.visit_items(visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.visit_items(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    // For anything else the visitor says best itself what it expected instead of a body.
    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char unit unit_struct
        tuple_struct map struct enum identifier
    }
}
