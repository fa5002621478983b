//! Reads what stands in a file into types; what is wrong says where.

use std::fmt::Display;
use std::str::FromStr;

use kombu_core::nearest;
use serde::de::value::{BorrowedStrDeserializer, StrDeserializer};
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Expected, IntoDeserializer,
    MapAccess, SeqAccess, Unexpected, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use super::document::{Key, Loose, Node, Problem, Value};

pub(super) fn read<T: DeserializeOwned>(node: &Node) -> Result<T, Problem> {
    T::deserialize(node)
}

impl de::Error for Problem {
    fn custom<M: Display>(message: M) -> Self {
        Problem::new(message.to_string())
    }

    // Without the text itself, which may be a secret.
    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Problem::new(format!(
            "{} stands where {} belongs",
            kind(found),
            plain(expected)
        ))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let found = match found {
            Unexpected::Unsigned(number) => number.to_string(),
            Unexpected::Signed(number) => number.to_string(),
            other => kind(other).to_owned(),
        };
        Problem::new(format!("{found} stands where {} belongs", plain(expected)))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Problem::new(unknown("key", field, expected))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Problem::new(unknown("value", variant, expected))
    }

    fn missing_field(field: &'static str) -> Self {
        Problem::new(format!("the key `{field}` is missing"))
    }
}

fn kind(found: Unexpected<'_>) -> &'static str {
    match found {
        Unexpected::Bool(_) => "true or false",
        Unexpected::Unsigned(_) | Unexpected::Signed(_) | Unexpected::Float(_) => "a number",
        Unexpected::Str(_) | Unexpected::Char(_) => "text",
        Unexpected::Unit | Unexpected::Option => "nothing",
        Unexpected::Seq => "a list",
        Unexpected::Map => "a map",
        _ => "something else",
    }
}

/// What was expected, in words of files and not of Rust.
fn plain(expected: &dyn Expected) -> String {
    let expected = expected.to_string();
    match expected.as_str() {
        "u8" => "a whole number from 0 to 255".to_owned(),
        "u16" => "a whole number from 0 to 65535".to_owned(),
        "u32" => "a whole number from 0 to 4294967295".to_owned(),
        "u64" | "usize" => "a whole number that isn't negative".to_owned(),
        "i32" => "a whole number from -2147483648 to 2147483647".to_owned(),
        "i8" | "i16" | "i64" => "a whole number".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        "a string" => "text".to_owned(),
        "a sequence" => "a list".to_owned(),
        other => match other.strip_prefix("struct ") {
            Some(name) => format!("a map ({name})"),
            None => expected,
        },
    }
}

fn unknown(what: &str, written: &str, known: &'static [&'static str]) -> String {
    // RabbitMQ's arguments end as our keys do: `x-queue-type`.
    let ends_alike = |known: &&&str| written.ends_with(**known);
    let near = nearest(written, known.iter().copied());
    match near.or_else(|| known.iter().find(ends_alike).copied()) {
        Some(near) => format!("unknown {what} `{written}`; did you mean `{near}`?"),
        None => format!(
            "unknown {what} `{written}`; known are: {}",
            known.join(", ")
        ),
    }
}

impl Loose {
    fn parsed<T: FromStr>(&self, wanted: &str) -> Result<T, Problem> {
        let parsed = self.text.trim().parse();
        parsed.map_err(|_| Problem::new(format!("text stands where {wanted} belongs")))
    }

    /// Without what a variable says.
    fn hide(&self, problem: Problem) -> Problem {
        match &self.written {
            Some(written) if !self.text.is_empty() && problem.message().contains(&self.text) => {
                problem.with_message(format!("`{written}` has a value that can't stand here"))
            }
            _ => problem,
        }
    }
}

impl<'de> IntoDeserializer<'de, Problem> for &'de Node {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Node {
    fn any<V: Visitor<'de>>(&'de self, visitor: V) -> Result<V::Value, Problem> {
        match &self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Unsigned(number) => visitor.visit_u64(*number),
            Value::Signed(number) => visitor.visit_i64(*number),
            Value::Float(number) => visitor.visit_f64(*number),
            Value::Text(text) => visitor.visit_borrowed_str(text),
            Value::Loose(Loose {
                plain: Some(plain), ..
            }) => match &**plain {
                Value::Unsigned(number) => visitor.visit_u64(*number),
                Value::Signed(number) => visitor.visit_i64(*number),
                Value::Float(number) => visitor.visit_f64(*number),
                Value::Bool(value) => visitor.visit_bool(*value),
                _ => visitor.visit_unit(),
            },
            Value::Loose(loose) => visitor.visit_borrowed_str(&loose.text),
            Value::List(nodes) => visitor.visit_seq(Items {
                nodes: nodes.iter().enumerate(),
            }),
            Value::Map(entries) => visitor.visit_map(Entries {
                entries: entries.iter(),
                value: None,
            }),
        }
    }

    /// What went wrong here is told with this place.
    fn placed<T>(&self, read: Result<T, Problem>) -> Result<T, Problem> {
        read.map_err(|problem| {
            let problem = match &self.value {
                Value::Loose(loose) => loose.hide(problem),
                _ => problem,
            };
            problem.at(self.at)
        })
    }
}

macro_rules! parsed {
    ($($method:ident $visit:ident $wanted:literal),* $(,)?) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
            let read = match &self.value {
                Value::Loose(loose) if loose.plain.is_none() => {
                    loose.parsed($wanted).and_then(|value| visitor.$visit(value))
                }
                _ => self.any(visitor),
            };
            self.placed(read)
        })*
    };
}

impl<'de> Deserializer<'de> for &'de Node {
    type Error = Problem;

    parsed! {
        deserialize_bool visit_bool "true or false",
        deserialize_i8 visit_i8 "a whole number",
        deserialize_i16 visit_i16 "a whole number",
        deserialize_i32 visit_i32 "a whole number",
        deserialize_i64 visit_i64 "a whole number",
        deserialize_u8 visit_u8 "a whole number from 0 to 255",
        deserialize_u16 visit_u16 "a whole number from 0 to 65535",
        deserialize_u32 visit_u32 "a whole number that isn't negative",
        deserialize_u64 visit_u64 "a whole number that isn't negative",
        deserialize_f32 visit_f32 "a number",
        deserialize_f64 visit_f64 "a number",
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        self.placed(self.any(visitor))
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        let read = match &self.value {
            Value::Loose(loose) => visitor.visit_borrowed_str(&loose.text),
            _ => self.any(visitor),
        };
        self.placed(read)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match &self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Problem> {
        visitor.visit_newtype_struct(self)
    }

    // A section that is there and says nothing has its defaults.
    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        let read = match &self.value {
            Value::Null => visitor.visit_map(Entries::default()),
            _ => self.any(visitor),
        };
        self.placed(read)
    }

    // Types would take a list for their fields one after the other, which no file means.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        match &self.value {
            Value::List(_) => {
                let problem = de::Error::invalid_type(Unexpected::Seq, &visitor);
                self.placed(Err(problem))
            }
            _ => self.deserialize_map(visitor),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        let read = match &self.value {
            Value::Text(text) => visitor.visit_enum(Variant(text)),
            Value::Loose(loose) => visitor.visit_enum(Variant(&loose.text)),
            _ => self.any(visitor),
        };
        self.placed(read)
    }

    forward_to_deserialize_any! {
        i128 u128 char bytes byte_buf unit unit_struct seq tuple tuple_struct identifier ignored_any
    }
}

/// A word that is one of several.
struct Variant<'de>(&'de str);

impl<'de> EnumAccess<'de> for Variant<'de> {
    type Error = Problem;
    type Variant = Word;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Word), Problem> {
        let word: BorrowedStrDeserializer<'de, Problem> = BorrowedStrDeserializer::new(self.0);
        Ok((seed.deserialize(word)?, Word))
    }
}

/// What a word has beside itself: nothing.
struct Word;

impl<'de> VariantAccess<'de> for Word {
    type Error = Problem;

    fn unit_variant(self) -> Result<(), Problem> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _: T) -> Result<T::Value, Problem> {
        Err(de::Error::custom("a word alone says too little here"))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Problem> {
        Err(de::Error::custom("a word alone says too little here"))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Problem> {
        Err(de::Error::custom("a word alone says too little here"))
    }
}

struct Items<'de> {
    nodes: std::iter::Enumerate<std::slice::Iter<'de, Node>>,
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Problem;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Problem> {
        let Some((index, node)) = self.nodes.next() else {
            return Ok(None);
        };
        let read = node.placed(seed.deserialize(node));
        read.map(Some)
            .map_err(|problem| problem.within(index.to_string()))
    }
}

#[derive(Default)]
struct Entries<'de> {
    entries: std::slice::Iter<'de, (Key, Node)>,
    value: Option<(&'de str, &'de Node)>,
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = Problem;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Problem> {
        let Some((key, node)) = self.entries.next() else {
            return Ok(None);
        };
        self.value = Some((&key.text, node));
        let text: StrDeserializer<'_, Problem> = StrDeserializer::new(&key.text);
        let read = seed.deserialize(text);
        read.map(Some).map_err(|problem| problem.at(key.at))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Problem> {
        let Some((key, node)) = self.value.take() else {
            return Err(de::Error::custom("a value was asked for before its key"));
        };
        let read = node.placed(seed.deserialize(node));
        read.map_err(|problem| problem.within(key))
    }
}
