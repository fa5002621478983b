//! Field values and tables: what they hold comes back from files.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use bytes::Bytes;
use kombu_core::field::{FieldTable, FieldValue, Timestamp};
use serde::{Deserialize, Serialize};

/// TOML has nothing but tables at its top.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct File {
    value: FieldValue,
}

fn through_all_formats(value: &FieldValue) {
    let file = File {
        value: value.clone(),
    };
    let json = serde_json::to_string(&file).unwrap();
    assert_eq!(serde_json::from_str::<File>(&json).unwrap(), file, "{json}");
    let tree = serde_json::to_value(&file).unwrap();
    assert_eq!(serde_json::from_value::<File>(tree).unwrap(), file);
    let yaml = serde_saphyr::to_string(&file).unwrap();
    let read =
        serde_saphyr::from_str::<File>(&yaml).unwrap_or_else(|error| panic!("{yaml}{error}"));
    assert_eq!(read, file, "{yaml}");
    let toml = toml::to_string(&file).unwrap();
    let read = toml::from_str::<File>(&toml).unwrap_or_else(|error| panic!("{toml}{error}"));
    assert_eq!(read, file, "{toml}");
}

fn json(value: impl Into<FieldValue>) -> String {
    serde_json::to_string(&value.into()).unwrap()
}

fn read(json: &str) -> FieldValue {
    serde_json::from_str(json).unwrap_or_else(|error| panic!("{json}: {error}"))
}

fn refused(json: &str) -> String {
    serde_json::from_str::<FieldValue>(json)
        .expect_err(json)
        .to_string()
}

fn table<const N: usize>(entries: [(&str, FieldValue); N]) -> FieldValue {
    FieldTable::from(entries).into()
}

#[test]
fn integers_of_every_width_come_back_as_the_same_type() {
    for value in [
        FieldValue::I8(i8::MIN),
        FieldValue::I8(i8::MAX),
        FieldValue::U8(u8::MAX),
        FieldValue::I16(i16::MIN),
        FieldValue::U16(u16::MAX),
        FieldValue::I32(i32::MIN),
        FieldValue::I32(i32::MAX),
        FieldValue::U32(u32::MAX),
        FieldValue::I64(i64::MIN),
        FieldValue::I64(i64::MAX),
        FieldValue::I64(-1),
        FieldValue::I64(0),
    ] {
        through_all_formats(&value);
    }
}

#[test]
fn floats_come_back_bit_for_bit() {
    for value in [
        0.0,
        -0.0,
        1.0,
        -1.0,
        1.5,
        0.1,
        0.1 + 0.2,
        1.0 / 3.0,
        1e15,
        1e16,
        123_456_789_012_345_680.0,
        1e-7,
        5e-324,
        1e300,
        -1e-300,
        2.5e21,
        f64::MAX,
        f64::MIN,
        f64::MIN_POSITIVE,
        f64::EPSILON,
        f64::NAN,
        -f64::NAN,
        f64::from_bits(0x7ff8_0000_0000_0001),
        f64::INFINITY,
        f64::NEG_INFINITY,
    ] {
        through_all_formats(&FieldValue::F64(value));
        through_all_formats(&FieldValue::F32(value as f32));
    }
    through_all_formats(&FieldValue::F32(f32::MAX));
    through_all_formats(&FieldValue::F32(f32::from_bits(1)));
}

#[test]
fn text_comes_back_whatever_it_looks_like() {
    for text in [
        "",
        " ",
        "plain",
        "5",
        "-5",
        "1.0",
        "1e5",
        ".5",
        "0x10",
        "0o7",
        "0b1",
        "1_000",
        "true",
        "True",
        "yes",
        "no",
        "on",
        "off",
        "y",
        "n",
        "null",
        "Null",
        "~",
        ".nan",
        ".inf",
        "-.inf",
        "nan",
        "inf",
        "2024-01-01",
        "2024-01-01T00:00:00Z",
        "12:30:45",
        "- a",
        "a: b",
        "a:",
        ":a",
        "#a",
        "a #b",
        "{a}",
        "[a]",
        "*a",
        "&a",
        "!a",
        "|",
        ">",
        "%a",
        "@a",
        "`a`",
        "'",
        "\"",
        "\\",
        "a\\nb",
        "a\nb",
        "\n",
        "\na",
        "a\n",
        " a",
        "a ",
        "\ta",
        "a\tb",
        "\r\n",
        "a\r",
        "---",
        "...",
        "---\na",
        "$i8",
        "$table",
        "<<",
        "=",
        "?",
        "? a",
        "\u{0}",
        "\u{1b}",
        "\u{7f}",
        "\u{85}",
        "\u{a0}",
        "\u{feff}",
        "\u{2028}",
        "grüße",
        "日本語",
        "🦀",
        "e\u{301}",
        "a, b",
        "a]",
        "a}",
        "a\n\nb\n  c",
        "  a\nb",
        "a \nb",
    ] {
        through_all_formats(&FieldValue::from(text));
    }
    through_all_formats(&FieldValue::from("x".repeat(5_000)));
    through_all_formats(&FieldValue::from("word ".repeat(100)));
}

#[test]
fn the_rest_comes_back_too() {
    for value in [
        FieldValue::Void,
        FieldValue::Bool(true),
        FieldValue::Bool(false),
        FieldValue::Bytes(Bytes::new()),
        FieldValue::Bytes(Bytes::from((0..=255).collect::<Vec<u8>>())),
        FieldValue::Timestamp(Timestamp::from_secs(0)),
        FieldValue::Timestamp(Timestamp::from_secs(1_700_000_000)),
        FieldValue::Timestamp(Timestamp::from_secs(u64::MAX)),
        FieldValue::Decimal { scale: 0, value: 0 },
        FieldValue::Decimal {
            scale: 0,
            value: u32::MAX,
        },
        FieldValue::Decimal { scale: 2, value: 5 },
        FieldValue::Decimal {
            scale: 2,
            value: 1250,
        },
        FieldValue::Decimal {
            scale: 255,
            value: u32::MAX,
        },
    ] {
        through_all_formats(&value);
    }
}

#[test]
fn arrays_and_tables_come_back_with_what_is_inside() {
    let inner = table([
        ("", 1.into()),
        ("grüße", "🦀".into()),
        ("n", FieldValue::Void),
        ("sub", table([("x", FieldValue::F64(-0.0))])),
    ]);
    for value in [
        FieldValue::Array(vec![]),
        table([]),
        FieldValue::Array(vec![FieldValue::Array(vec![]), table([]), FieldValue::Void]),
        FieldValue::Array(vec![
            1.into(),
            1i64.into(),
            "x".into(),
            1.5.into(),
            true.into(),
        ]),
        FieldValue::Array(vec![
            inner.clone(),
            inner.clone(),
            FieldValue::Array(vec![inner.clone()]),
        ]),
        table([
            ("list", FieldValue::Array(vec![inner.clone()])),
            ("a", 5i64.into()),
            ("z", inner),
        ]),
        table([
            ("with space", 1i64.into()),
            ("with.dot", 2i64.into()),
            ("\"quoted\"", 3i64.into()),
            ("5", 5i64.into()),
            ("true", true.into()),
            ("~", 1i64.into()),
        ]),
    ] {
        through_all_formats(&value);
    }
}

#[test]
fn a_table_that_looks_like_a_tag_comes_back_as_a_table() {
    let one = table([("$i8", 5i64.into())]);
    for value in [
        one.clone(),
        table([("$", 5i64.into())]),
        table([("$unknown", "x".into())]),
        table([("$table", 5i64.into())]),
        table([("$table", table([]))]),
        table([("$table", one.clone())]),
        table([("$table", table([("$table", one.clone())]))]),
        table([(
            "$table",
            table([("a", one.clone()), ("$table", one.clone())]),
        )]),
        table([("$i8", 5i64.into()), ("b", one.clone())]),
        table([("$table", one.clone()), ("$void", FieldValue::Void)]),
        table([("$table", FieldValue::I8(1)), ("$void", true.into())]),
        table([(
            "a",
            table([("$table", FieldValue::Array(vec![one.clone()]))]),
        )]),
    ] {
        through_all_formats(&value);
    }
}

#[test]
fn sixty_four_levels_come_back() {
    let mut value = FieldValue::I8(1);
    for depth in 0..64 {
        value = if depth % 2 == 0 {
            FieldValue::Array(vec![value])
        } else {
            table([("inner", value)])
        };
    }
    let json = serde_json::to_string(&value).unwrap();
    assert_eq!(read(&json), value);
}

#[test]
fn values_made_at_random_come_back() {
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..2_000 {
        through_all_formats(&random_value(&mut random, 4));
    }
}

fn random_value(random: &mut fastrand::Rng, depth: u8) -> FieldValue {
    let kinds = if depth == 0 { 15 } else { 17 };
    match random.u8(0..kinds) {
        0 => FieldValue::Void,
        1 => random.bool().into(),
        2 => random.i8(..).into(),
        3 => random.u8(..).into(),
        4 => random.i16(..).into(),
        5 => random.u16(..).into(),
        6 => random.i32(..).into(),
        7 => random.u32(..).into(),
        8 => random.i64(..).into(),
        9 => f32::from_bits(random.u32(..)).into(),
        10 => f64::from_bits(random.u64(..)).into(),
        11 => FieldValue::Decimal {
            scale: random.u8(..),
            value: random.u32(..),
        },
        12 => random_text(random).into(),
        13 => {
            let bytes: Vec<u8> = (0..random.usize(..20)).map(|_| random.u8(..)).collect();
            bytes.into()
        }
        14 => Timestamp::from_secs(random.u64(..)).into(),
        15 => (0..random.usize(..4))
            .map(|_| random_value(random, depth - 1))
            .collect::<Vec<_>>()
            .into(),
        _ => (0..random.usize(..4))
            .map(|_| (random_name(random), random_value(random, depth - 1)))
            .collect::<FieldTable>()
            .into(),
    }
}

fn random_name(random: &mut fastrand::Rng) -> String {
    let start = *random
        .choice(["", "$", "$table", "$i8", "x-"].iter())
        .unwrap_or(&"");
    format!("{start}{}", random_text(random))
}

fn random_text(random: &mut fastrand::Rng) -> String {
    let awkward = b" \t\n\r-:#?{}[],&*!|>'\"%@`\\.~<=0123456789abefnxyEN_$+/";
    (0..random.usize(..8))
        .map(|_| match random.u8(..4) {
            0 => random.char(..),
            _ => awkward
                .get(random.usize(..awkward.len()))
                .copied()
                .map_or(' ', char::from),
        })
        .collect()
}

#[test]
fn what_a_format_has_is_written_plainly() {
    assert_eq!(json(5i64), "5");
    assert_eq!(json(1.0), "1.0");
    assert_eq!(json(true), "true");
    assert_eq!(json("x"), r#""x""#);
    assert_eq!(
        json(FieldTable::from([("b", 1i64), ("a", 2)])),
        r#"{"a":2,"b":1}"#
    );
    assert_eq!(json(vec![FieldValue::from("x")]), r#"["x"]"#);
}

#[test]
fn what_a_format_lacks_is_written_with_a_tag() {
    assert_eq!(json(5i8), r#"{"$i8":5}"#);
    assert_eq!(json(5), r#"{"$i32":5}"#);
    assert_eq!(json(0.1f32), r#"{"$f32":0.1}"#);
    assert_eq!(json(f64::NAN), r#"{"$f64":"nan"}"#);
    assert_eq!(json(f32::NEG_INFINITY), r#"{"$f32":"-inf"}"#);
    assert_eq!(
        json(f64::from_bits(0x7ff8_0000_0000_0001)),
        r#"{"$f64":"0x7ff8000000000001"}"#
    );
    assert_eq!(
        json(FieldValue::Decimal {
            scale: 2,
            value: 1250
        }),
        r#"{"$decimal":"12.50"}"#
    );
    assert_eq!(
        json(FieldValue::Decimal { scale: 3, value: 5 }),
        r#"{"$decimal":"0.005"}"#
    );
    assert_eq!(json(b"\x00\x01\x02"), r#"{"$bytes":"AAEC"}"#);
    assert_eq!(json(Timestamp::from_secs(5)), r#"{"$timestamp":5}"#);
    assert_eq!(json(()), r#"{"$void":true}"#);
    assert_eq!(
        json(table([("$i8", 5i64.into())])),
        r#"{"$table":{"$i8":5}}"#
    );
}

#[test]
fn a_plain_null_is_read_as_void() {
    assert_eq!(read("null"), FieldValue::Void);
    assert_eq!(read("[null]"), FieldValue::Array(vec![FieldValue::Void]));
    assert_eq!(
        serde_saphyr::from_str::<FieldValue>("~").unwrap(),
        FieldValue::Void
    );
}

#[test]
fn an_unknown_tag_is_refused_and_the_known_ones_are_listed() {
    let error = refused(r#"{"$int": 5}"#);
    for word in [
        "`$int`",
        "$i8",
        "$u32",
        "$decimal",
        "$timestamp",
        "$void",
        "$table",
    ] {
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn a_tag_before_something_else_is_refused_with_what_it_takes() {
    for (json, word) in [
        (r#"{"$i8": 128}"#, "range of `$i8`"),
        (r#"{"$u8": -1}"#, "range of `$u8`"),
        (r#"{"$u32": 4294967296}"#, "range of `$u32`"),
        (r#"{"$i16": "5"}"#, "an integer"),
        (r#"{"$i32": 5.0}"#, "an integer"),
        (r#"{"$f64": "x"}"#, "a number"),
        (r#"{"$f32": true}"#, "a number"),
        (r#"{"$decimal": 1.5}"#, "12.50"),
        (r#"{"$decimal": "1."}"#, "12.50"),
        (r#"{"$decimal": ".5"}"#, "12.50"),
        (r#"{"$decimal": "-1"}"#, "12.50"),
        (r#"{"$decimal": "99999999999"}"#, "12.50"),
        (r#"{"$bytes": "*"}"#, "base64"),
        (r#"{"$timestamp": -1}"#, "seconds"),
        (r#"{"$void": false}"#, "true"),
        (r#"{"$table": 5}"#, "a map"),
    ] {
        let error = refused(json);
        assert!(error.contains(word), "{json}: {error}");
    }
}

#[test]
fn an_integer_above_i64_is_refused() {
    let error = refused("18446744073709551615");
    assert!(error.contains("18446744073709551615"), "{error}");
}

#[test]
fn a_name_that_is_there_twice_is_refused() {
    let error = refused(r#"{"a": 1, "a": 2}"#);
    assert!(error.contains("`a`"), "{error}");
    assert!(serde_json::from_str::<FieldTable>(r#"{"a": 1, "a": 2}"#).is_err());
}

/// An array in an array and so on, in a format that has no limit of its own.
struct Nested(usize);

impl<'de> serde::Deserializer<'de> for Nested {
    type Error = serde::de::value::Error;

    fn deserialize_any<V: serde::de::Visitor<'de>>(
        self,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        visitor.visit_seq(self)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

impl<'de> serde::de::SeqAccess<'de> for Nested {
    type Error = serde::de::value::Error;

    fn next_element_seed<T: serde::de::DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Self::Error> {
        match std::mem::take(&mut self.0) {
            0 => Ok(None),
            depth => seed.deserialize(Nested(depth - 1)).map(Some),
        }
    }
}

#[test]
fn values_nested_without_end_are_refused_and_do_not_overflow_the_stack() {
    let error = FieldValue::deserialize(Nested(1_000_000)).unwrap_err();
    assert!(error.to_string().contains("64 levels"), "{error}");
    assert!(FieldValue::deserialize(Nested(63)).is_ok());
}

#[test]
fn a_table_by_itself_is_a_plain_map() {
    let table = FieldTable::from([("$i8", FieldValue::I64(5))]);
    let json = serde_json::to_string(&table).unwrap();
    assert_eq!(json, r#"{"$i8":5}"#);
    assert_eq!(serde_json::from_str::<FieldTable>(&json).unwrap(), table);
    assert_eq!(
        serde_json::from_str::<FieldTable>("null").unwrap(),
        FieldTable::new()
    );
}
