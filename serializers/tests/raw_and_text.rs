//! Bodies that are no format at all.
#![cfg(feature = "raw")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests are tests"
)]

use std::error::Error;

use kombu_serializers::{Codec, SerializerErrorKind, Value};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

const BYTES: &[u8] = b"\x00\xff\xfe";

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Wrapped<T>(T);

fn refused(codec: &Codec, value: &(impl Serialize + ?Sized)) -> String {
    let error = codec
        .encode(value)
        .map(|_| ())
        .expect_err("this is no body");
    assert_eq!(error.kind(), SerializerErrorKind::Encode);
    error.source().map(ToString::to_string).unwrap_or_default()
}

#[test]
fn raw_takes_bytes_in_any_of_their_forms() {
    let forms = [
        Codec::RAW.encode(BYTES),
        Codec::RAW.encode(&BYTES.to_vec()),
        Codec::RAW.encode(&[0x00_u8, 0xff, 0xfe]),
        Codec::RAW.encode(&Value::Bytes(BYTES.to_vec())),
        Codec::RAW.encode(&Wrapped(Some(BYTES))),
    ];
    for body in forms {
        assert_eq!(body.unwrap(), BYTES);
    }
    assert_eq!(&Codec::RAW.encode("péché").unwrap()[..], "péché".as_bytes());
    assert_eq!(&Codec::RAW.encode(&String::new()).unwrap()[..], b"");
    assert_eq!(&Codec::RAW.encode::<[u8]>(&[]).unwrap()[..], b"");
}

#[test]
fn raw_refuses_what_would_need_a_format() {
    #[derive(Serialize)]
    struct Struct {
        a: u8,
    }
    #[derive(Serialize)]
    enum Enum {
        Unit,
        Newtype(&'static str),
    }
    for cause in [
        refused(&Codec::RAW, &7_u8),
        refused(&Codec::RAW, &1.5),
        refused(&Codec::RAW, &'c'),
        refused(&Codec::RAW, &true),
        refused(&Codec::RAW, &()),
        refused(&Codec::RAW, &None::<&str>),
        refused(&Codec::RAW, &["a", "b"]),
        refused(&Codec::RAW, &[1_u16]),
        refused(&Codec::RAW, &[[1_u8]]),
        refused(&Codec::RAW, &[Some(1_u8)]),
        refused(&Codec::RAW, &(1_u8, "a")),
        refused(&Codec::RAW, &Struct { a: 1 }),
        refused(&Codec::RAW, &Enum::Unit),
        refused(&Codec::RAW, &Enum::Newtype("a")),
        refused(&Codec::RAW, &Value::Map(vec![])),
    ] {
        assert!(
            cause.starts_with("the raw serializer takes bytes or text, and this is "),
            "{cause}"
        );
        assert!(cause.ends_with("use json, or publish_bytes"), "{cause}");
    }
}

#[test]
fn raw_gives_bytes_borrowed_or_owned() {
    let borrowed: &[u8] = Codec::RAW.decode(BYTES).unwrap();
    assert_eq!(borrowed.as_ptr(), BYTES.as_ptr());
    assert_eq!(Codec::RAW.decode::<Vec<u8>>(BYTES).unwrap(), BYTES);
    assert_eq!(Codec::RAW.decode::<[u8; 3]>(BYTES).unwrap(), BYTES);
    assert_eq!(
        Codec::RAW.decode::<Wrapped<Option<&[u8]>>>(BYTES).unwrap(),
        Wrapped(Some(BYTES))
    );
    assert_eq!(
        Codec::RAW.decode::<Value>(BYTES).unwrap(),
        Value::from(BYTES)
    );
    assert!(Codec::RAW.decode::<IgnoredAny>(BYTES).is_ok());
    assert_eq!(Codec::RAW.decode::<&[u8]>(b"").unwrap(), b"");
}

#[test]
fn raw_gives_text_if_it_is_asked_for_and_the_body_is_utf8() {
    assert_eq!(Codec::RAW.decode::<&str>("é".as_bytes()).unwrap(), "é");
    assert_eq!(Codec::RAW.decode::<String>("é".as_bytes()).unwrap(), "é");
    let error = Codec::RAW.decode::<&str>(BYTES).unwrap_err();
    assert!(
        error
            .source()
            .unwrap()
            .to_string()
            .contains("invalid utf-8")
    );
}

#[test]
fn raw_gives_nothing_else() {
    assert!(Codec::RAW.decode::<u8>(b"\x01").is_err());
    assert!(Codec::RAW.decode::<[u8; 2]>(BYTES).is_err());
    assert!(Codec::RAW.decode::<[u8; 4]>(BYTES).is_err());
    assert!(Codec::RAW.decode::<Vec<String>>(b"a").is_err());
    assert!(
        Codec::RAW
            .decode::<std::collections::BTreeMap<String, u8>>(b"")
            .is_err()
    );
}

#[test]
fn text_takes_strings_and_nothing_else() {
    assert_eq!(
        &Codec::TEXT.encode("péché").unwrap()[..],
        "péché".as_bytes()
    );
    assert_eq!(&Codec::TEXT.encode(&Wrapped(Some("a"))).unwrap()[..], b"a");
    for cause in [
        refused(&Codec::TEXT, &'c'),
        refused(&Codec::TEXT, &7),
        refused(&Codec::TEXT, b"bytes"),
        refused(&Codec::TEXT, &b"bytes"[..]),
        refused(&Codec::TEXT, &Value::Bytes(b"bytes".to_vec())),
        refused(&Codec::TEXT, &None::<&str>),
    ] {
        assert!(
            cause.starts_with("the text serializer takes text, and this is "),
            "{cause}"
        );
    }
}

#[test]
fn text_gives_what_is_utf8_as_a_whole() {
    let body = "péché".as_bytes();
    assert_eq!(Codec::TEXT.decode::<&str>(body).unwrap(), "péché");
    assert_eq!(
        Codec::TEXT.decode::<Wrapped<Option<String>>>(body).unwrap(),
        Wrapped(Some("péché".into()))
    );
    assert_eq!(Codec::TEXT.decode::<&[u8]>(body).unwrap(), body);
    assert_eq!(Codec::TEXT.decode::<Vec<u8>>(body).unwrap(), body);
    assert!(Codec::TEXT.decode::<&[u8]>(b"abc\xff").is_err());
    assert!(Codec::TEXT.decode::<Value>(b"abc\xff").is_err());
    assert!(Codec::TEXT.decode::<u8>(b"1").is_err());
}
