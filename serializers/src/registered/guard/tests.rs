//! A format with every fault that the guard is there for: it recurses without a limit, opens
//! options without reading anything for them, and quotes an error once more at each level.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeSeed, Deserializer, Error as _, Visitor};
use serde::forward_to_deserialize_any;

use super::*;
use crate::registered::decode;
use crate::{BoxError, Value, Visit};

#[derive(Debug)]
struct Quoting(String);

impl fmt::Display for Quoting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Quoting({:?})", self.0)
    }
}

impl std::error::Error for Quoting {}

impl de::Error for Quoting {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

/// `[` is a sequence of one item, `{` a map with one entry whose key is `k`, `e` an enum's variant
/// `Link`, `s` is `Some`, `n` a newtype, and `1` a one.
struct Naive<'b, 'de>(&'b mut &'de [u8]);

impl<'de> Naive<'_, 'de> {
    fn next(&mut self) -> Result<u8, Quoting> {
        let (first, rest) = self
            .0
            .split_first()
            .ok_or_else(|| Quoting("the \"end\"".into()))?;
        *self.0 = rest;
        Ok(*first)
    }
}

impl<'de> Deserializer<'de> for Naive<'_, 'de> {
    type Error = Quoting;

    fn deserialize_any<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Quoting> {
        match self.next()? {
            b'[' => visitor.visit_seq(One(Some(self))),
            b'{' => visitor.visit_map(One(Some(self))),
            b'e' => visitor.visit_enum(self),
            b's' => visitor.visit_some(self),
            b'n' => visitor.visit_newtype_struct(self),
            b'1' => visitor.visit_u8(1),
            other => Err(Quoting::custom(format_args!(
                "what is {:?}",
                char::from(other)
            ))),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

struct One<T>(Option<T>);

impl<'de> de::SeqAccess<'de> for One<Naive<'_, 'de>> {
    type Error = Quoting;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Quoting> {
        self.0.take().map(|item| seed.deserialize(item)).transpose()
    }
}

impl<'de> de::MapAccess<'de> for One<Naive<'_, 'de>> {
    type Error = Quoting;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Quoting> {
        self.0
            .as_ref()
            .map(|_| seed.deserialize(StrDeserializer::new("k")))
            .transpose()
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Quoting> {
        seed.deserialize(self.0.take().ok_or_else(|| Quoting("no value".into()))?)
    }
}

impl<'de> de::EnumAccess<'de> for Naive<'_, 'de> {
    type Error = Quoting;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), Quoting> {
        Ok((
            seed.deserialize(StrDeserializer::<Quoting>::new("Link"))?,
            self,
        ))
    }
}

impl<'de> de::VariantAccess<'de> for Naive<'_, 'de> {
    type Error = Quoting;

    fn unit_variant(self) -> Result<(), Quoting> {
        Ok(())
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Quoting> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, Quoting> {
        self.deserialize_any(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Quoting> {
        self.deserialize_any(visitor)
    }
}

fn naive<'de>(body: &'de [u8], visit: &mut Visit<'_, 'de>) -> Result<(), BoxError> {
    let mut rest = body;
    visit.value(Naive(&mut rest))?;
    if rest.is_empty() {
        Ok(())
    } else {
        Err("trailing".into())
    }
}

fn read<'de, T: Deserialize<'de>>(body: &'de str) -> Result<T, String> {
    decode(&naive, body.as_bytes()).map_err(|error: BoxError| error.to_string())
}

#[derive(Debug, Deserialize)]
struct Seq(#[allow(dead_code)] Vec<Seq>);

#[derive(Debug, Deserialize)]
#[serde(transparent)]
struct Map {
    #[allow(dead_code)]
    inner: BTreeMap<String, Map>,
}

#[derive(Debug, Deserialize)]
enum Chain {
    Link(#[allow(dead_code)] Box<Chain>),
}

#[derive(Debug)]
struct Maybe;

impl<'de> Deserialize<'de> for Maybe {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Option::<Box<Maybe>>::deserialize(deserializer).map(|_| Maybe)
    }
}

#[test]
fn nesting_is_refused_for_every_kind_of_type() {
    let depth = 100_000;
    for error in [
        read::<Value>(&"[".repeat(depth)).unwrap_err(),
        read::<Value>(&"{".repeat(depth)).unwrap_err(),
        read::<Value>(&"s".repeat(depth)).unwrap_err(),
        read::<Value>(&"n".repeat(depth)).unwrap_err(),
        read::<Value>(&"[s{n".repeat(depth)).unwrap_err(),
        read::<Seq>(&"n[".repeat(depth)).unwrap_err(),
        read::<Map>(&"{".repeat(depth)).unwrap_err(),
        read::<Chain>(&"e".repeat(depth)).unwrap_err(),
        read::<Maybe>(&"s".repeat(depth)).unwrap_err(),
    ] {
        assert!(error.contains("nested more than 127 levels"), "{error}");
        assert!(error.len() < 1_000, "{} bytes of error", error.len());
    }
}

#[test]
fn values_up_to_the_limit_are_read() {
    assert!(read::<Value>(&format!("{}1", "[".repeat(NESTING))).is_ok());
    assert!(read::<Value>(&format!("{}1", "s[n".repeat(60))).is_ok());
    assert!(read::<Value>(&format!("{}1", "[".repeat(NESTING + 1))).is_err());
}

#[test]
fn collections_side_by_side_do_not_add_up() {
    fn thousandfold<'de>(_: &'de [u8], visit: &mut Visit<'_, 'de>) -> Result<(), BoxError> {
        let items = vec![vec![1_u8]; 1_000];
        Ok(visit.value(de::value::SeqDeserializer::<_, Quoting>::new(
            items.into_iter(),
        ))?)
    }
    let read: Vec<Vec<u8>> = decode(&thousandfold, b"").unwrap();
    assert_eq!(read.len(), 1_000);
}

#[test]
fn an_error_keeps_its_first_words_and_does_not_grow_on_its_way_out() {
    for depth in [1, 5, 100] {
        let error = read::<Value>(&"[".repeat(depth)).unwrap_err();
        assert!(error.contains("end"), "{error}");
        assert!(
            error.len() < 500,
            "{} bytes of error at depth {depth}",
            error.len()
        );
    }
}

#[test]
fn a_long_error_is_cut() {
    fn verbose<'de>(_: &'de [u8], visit: &mut Visit<'_, 'de>) -> Result<(), BoxError> {
        visit.value(StrDeserializer::<Quoting>::new(&"x".repeat(100_000)))?;
        Ok(())
    }
    let error = decode::<u8>(&verbose, b"").unwrap_err().to_string();
    assert!(error.len() < 2_000, "{} bytes of error", error.len());
}
