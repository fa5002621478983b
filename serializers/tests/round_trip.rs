//! What goes into a codec comes out of it again.
#![cfg(any(feature = "json", feature = "msgpack", feature = "yaml"))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests are tests"
)]

use std::collections::BTreeMap;

use kombu_serializers::{Codec, Registry, Value};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Shape {
    Nothing,
    Circle(f64),
    Line(i8, u16),
    Box { width: u32, label: Option<String> },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Everything {
    yes: bool,
    smallest: i64,
    largest: u64,
    floats: Vec<f64>,
    small_float: f32,
    letter: char,
    text: String,
    absent: Option<u8>,
    present: Option<u8>,
    nothing: (),
    tuple: (u8, String, [i32; 2]),
    shapes: Vec<Shape>,
    nested: BTreeMap<String, BTreeMap<String, Vec<Option<String>>>>,
    empty_list: Vec<u8>,
    empty_map: BTreeMap<String, u8>,
}

fn everything() -> Everything {
    let texts = [
        "",
        "plain",
        "péché — 漢字 🦀",
        "\u{0}\u{1b}\"'\\\n\r\t\u{2028}\u{feff}",
        "- yes: ~",
        "1e5",
        "null",
        "...",
    ];
    Everything {
        yes: true,
        smallest: i64::MIN,
        largest: u64::MAX,
        floats: vec![
            0.0,
            -0.0,
            0.1,
            1.0,
            1e16,
            5e-324,
            f64::MAX,
            f64::MIN_POSITIVE,
            2.225073858507201e-308,
        ],
        small_float: 0.1,
        letter: '🦀',
        text: texts.concat(),
        absent: None,
        present: Some(7),
        nothing: (),
        tuple: (255, "tuple".into(), [i32::MIN, i32::MAX]),
        shapes: vec![
            Shape::Nothing,
            Shape::Circle(1.5),
            Shape::Line(-128, 65535),
            Shape::Box {
                width: 3,
                label: Some("label".into()),
            },
        ],
        nested: texts
            .iter()
            .map(|&text| {
                (
                    text.to_owned(),
                    BTreeMap::from([(text.to_owned(), vec![None, Some(text.to_owned())])]),
                )
            })
            .collect(),
        empty_list: vec![],
        empty_map: BTreeMap::new(),
    }
}

/// The codecs that are compiled in and take any value.
fn formats() -> Vec<Codec> {
    let codecs = Registry::default();
    let names = codecs
        .names()
        .into_iter()
        .filter(|name| name != "raw" && name != "text");
    names.map(|name| codecs.by_name(&name).unwrap()).collect()
}

fn check(codec: &Codec) {
    let sent = everything();
    let body = codec.encode(&sent).unwrap();
    assert_eq!(codec.decode::<Everything>(&body).unwrap(), sent);
}

#[cfg(feature = "json")]
#[test]
fn json_keeps_unicode_numbers_nulls_enums_and_nesting() {
    check(&Codec::JSON);
}

#[cfg(feature = "msgpack")]
#[test]
fn msgpack_keeps_unicode_numbers_nulls_enums_and_nesting() {
    check(&Codec::MSGPACK);
}

#[cfg(feature = "yaml")]
#[test]
fn yaml_keeps_unicode_numbers_nulls_enums_and_nesting() {
    check(&Codec::YAML);
}

#[cfg(any(feature = "msgpack", feature = "yaml"))]
fn check_not_finite(codec: &Codec) {
    let body = codec
        .encode(&[f64::NAN, f64::INFINITY, f64::NEG_INFINITY])
        .unwrap();
    let [nan, up, down] = codec.decode::<[f64; 3]>(&body).unwrap();
    assert!(nan.is_nan() && up == f64::INFINITY && down == f64::NEG_INFINITY);
    let value: Value = codec.decode(&body).unwrap();
    assert!(value.as_seq().unwrap()[0].as_f64().unwrap().is_nan());
}

#[cfg(feature = "msgpack")]
#[test]
fn msgpack_keeps_nan_and_infinities() {
    check_not_finite(&Codec::MSGPACK);
}

#[cfg(feature = "yaml")]
#[test]
fn yaml_keeps_nan_and_infinities() {
    check_not_finite(&Codec::YAML);
}

#[cfg(feature = "json")]
#[test]
fn json_writes_nan_as_null() {
    assert_eq!(&Codec::JSON.encode(&f64::NAN).unwrap()[..], b"null");
    assert!(Codec::JSON.decode::<f64>(b"null").is_err());
}

#[test]
fn a_type_that_is_not_sized_can_be_encoded() {
    for codec in formats() {
        let items: &[u8] = &[1, 2];
        let (slice, text) = (codec.encode(items).unwrap(), codec.encode("text").unwrap());
        assert_eq!(
            codec.decode::<Vec<u8>>(&slice).unwrap(),
            [1, 2],
            "{codec:?}"
        );
        assert_eq!(codec.decode::<String>(&text).unwrap(), "text", "{codec:?}");
    }
}

#[test]
fn text_is_borrowed_from_the_body() {
    #[derive(Serialize, Deserialize)]
    struct Video<'a> {
        name: &'a str,
    }
    for codec in formats() {
        let body = codec
            .encode(&Video {
                name: "lolcat1.avi",
            })
            .unwrap();
        let video: Video<'_> = codec.decode(&body).unwrap();
        assert!(
            body.as_ptr_range().contains(&video.name.as_ptr()),
            "{codec:?}"
        );
    }
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[ \t\n\r#:?*&!|>'\"%@`{}\\[\\],.~a-z0-9_+=<-]{0,40}",
        "[ \na]{0,120}",
        "[ a]{60,200}",
        "[0-9:._+eExXobnaif-]{0,12}",
        proptest::sample::select(vec![
            "yes",
            "y",
            "on",
            "Null",
            "~",
            "true",
            "<<",
            "=",
            "...",
            "---",
            "- a",
            "? a",
            "1e5",
            "0o7",
            "017",
            "1_0",
            "12:30:45",
            "2001-01-01",
            ".nan",
            "-.inf",
            "\u{feff}",
            "\u{85}",
            "\u{7f}",
            "\u{10ffff}",
            "\0",
            "\x1b",
        ])
        .prop_map(String::from),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        proptest::num::f64::NORMAL.prop_map(Value::from),
        proptest::num::f64::SUBNORMAL.prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    scalar.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::Seq),
            proptest::collection::btree_map(text(), inner, 0..6)
                .prop_map(|entries| entries.into_iter().collect()),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_value_survives_every_format(value in value()) {
        for codec in formats() {
            let body = codec.encode(&value).unwrap();
            let back: Value = codec.decode(&body).unwrap();
            prop_assert_eq!(&back, &value, "{:?} {:?}", codec, String::from_utf8_lossy(&body));
        }
    }
}
