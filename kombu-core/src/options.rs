//! Reads key and value pairs, as a URL's query has them, into a serde struct.

use std::borrow::Cow;
use std::fmt;

use serde::de::value::MapDeserializer;
use serde::de::{self, DeserializeOwned, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;

use crate::error::{Error, ErrorKind};

/// Reads `pairs` into `T`; `scheme` is named in errors.
pub(crate) fn from_pairs<'a, T: DeserializeOwned>(
    pairs: impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)>,
    scheme: &str,
) -> Result<T, Error> {
    let pairs = pairs
        .map(|(key, value)| (key.into_owned(), value.into_owned()))
        .collect();
    T::deserialize(Options { pairs }).map_err(|problem| {
        Error::new(
            ErrorKind::Config,
            format!("option of a `{scheme}` URL: {problem}"),
        )
    })
}

/// The known name nearest to what was written, if one is near enough to be a typing mistake.
pub fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(written, name), name))
        .min()
        .filter(|(distance, name)| *distance <= 1 + name.len() / 3)
        .map(|(_, name)| name)
}

#[derive(Debug)]
struct Problem(String);

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Problem {}

impl de::Error for Problem {
    fn custom<M: fmt::Display>(message: M) -> Self {
        Problem(message.to_string())
    }
}

struct Options {
    pairs: Vec<(String, String)>,
}

impl<'de> de::Deserializer<'de> for Options {
    type Error = Problem;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        visitor.visit_map(MapDeserializer::new(self.pairs.into_iter().map(
            |(key, text)| {
                let value = OptionValue {
                    key: key.clone(),
                    text,
                };
                (key, value)
            },
        )))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        for (key, _) in &self.pairs {
            if fields.contains(&key.as_str()) {
                continue;
            }
            let is_name = |letter: char| letter.is_alphanumeric() || "_-.".contains(letter);
            let is_cut_off =
                |(key, value): &(String, String)| key.contains('@') || value.contains('@');
            if !key.chars().all(is_name) || self.pairs.iter().any(is_cut_off) {
                // It isn't repeated: it may be of a password, whose end is what stands before an `@`.
                return Err(Problem(
                    "what stands behind a `?` is no option; in a user's name, a password or a token, write it as `%3F`"
                        .to_owned(),
                ));
            }
            let hint = match nearest(key, fields.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None if fields.is_empty() => "this transport has no options".to_owned(),
                None => format!("known are: {}", fields.join(", ")),
            };
            return Err(Problem(format!("`{key}` is unknown; {hint}")));
        }
        self.deserialize_any(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

struct OptionValue {
    key: String,
    text: String,
}

impl OptionValue {
    fn parse<T: std::str::FromStr>(&self, wanted: &str) -> Result<T, Problem> {
        self.text
            .parse()
            .map_err(|_| Problem(format!("`{}` must be {wanted}", self.key)))
    }
}

impl<'de> IntoDeserializer<'de, Problem> for OptionValue {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

macro_rules! parsed {
    ($($method:ident $visit:ident $wanted:literal),* $(,)?) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
            visitor.$visit(self.parse($wanted)?)
        })*
    };
}

impl<'de> de::Deserializer<'de> for OptionValue {
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
        visitor.visit_string(self.text)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Problem> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        if !variants.contains(&self.text.as_str()) {
            let hint = match nearest(&self.text, variants.iter().copied()) {
                Some(near) => format!("; did you mean `{near}`?"),
                None => String::new(),
            };
            return Err(Problem(format!(
                "`{}` must be one of {}{hint}",
                self.key,
                variants.join(", ")
            )));
        }
        visitor.visit_enum(self.text.into_deserializer())
    }

    forward_to_deserialize_any! {
        i128 u128 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map struct
        identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq, serde::Deserialize)]
    #[serde(default)]
    struct Sample {
        max_message_size: Option<u64>,
        verify: bool,
    }

    fn read(pairs: &[(&'static str, &'static str)]) -> Result<Sample, Error> {
        from_pairs(
            pairs
                .iter()
                .map(|(key, value)| ((*key).into(), (*value).into())),
            "memory",
        )
    }

    #[test]
    fn options_are_read_by_type() {
        let sample = read(&[("max_message_size", "7"), ("verify", "true")]).unwrap();
        assert_eq!(
            sample,
            Sample {
                max_message_size: Some(7),
                verify: true
            }
        );
    }

    #[test]
    fn an_unknown_option_is_refused_with_the_nearest_known_one() {
        let error = read(&[("max_mesage_size", "7")]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(
            error
                .to_string()
                .contains("did you mean `max_message_size`"),
            "{error}"
        );
    }

    #[test]
    fn an_option_far_from_all_known_ones_lists_them() {
        let error = read(&[("zzz", "7")]).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("known are: max_message_size, verify"),
            "{error}"
        );
    }

    #[test]
    fn a_value_that_does_not_fit_names_its_key() {
        let error = read(&[("verify", "maybe")]).unwrap_err();
        assert!(
            error.to_string().contains("`verify` must be true or false"),
            "{error}"
        );
    }
}
