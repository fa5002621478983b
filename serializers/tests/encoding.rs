//! What happens while a value is written.
#![cfg(feature = "json")]

use std::collections::BTreeMap;
use std::error::Error;

use kombu_serializers::{Codec, Registry, SerializerErrorKind};
use serde::ser::{Error as _, SerializeSeq};
use serde::{Serialize, Serializer};

/// Writes half of itself and fails.
struct Unwilling;

impl Serialize for Unwilling {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        list.serialize_element("half of it")?;
        Err(S::Error::custom("it doesn't want to"))
    }
}

/// Encodes something else while it is being encoded.
struct Envelope<'a>(&'a str);

impl Serialize for Envelope<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let inner = Codec::JSON
            .encode(&[self.0, self.0])
            .map_err(S::Error::custom)?;
        serializer.serialize_str(&String::from_utf8_lossy(&inner))
    }
}

#[test]
fn a_value_may_encode_another_one_while_it_is_encoded() {
    let body = Codec::JSON.encode(&[Envelope("a"), Envelope("b")]).unwrap();
    assert_eq!(&body[..], br#"["[\"a\",\"a\"]","[\"b\",\"b\"]"]"#);
}

#[test]
fn a_value_that_fails_leaves_nothing_in_the_next_body() {
    let registry = Registry::default();
    for name in ["json", "msgpack", "yaml"] {
        let Ok(codec) = registry.by_name(name) else {
            continue;
        };
        let error = codec.encode(&Unwilling).unwrap_err();
        assert_eq!(error.kind(), SerializerErrorKind::Encode);
        assert!(
            error
                .to_string()
                .contains(&format!("{name} codec ({})", codec.content_type())),
            "{error}"
        );
        assert!(
            error
                .source()
                .unwrap()
                .to_string()
                .contains("it doesn't want to")
        );
        let after = codec.encode(&1).unwrap();
        assert_eq!(
            after,
            std::thread::spawn(move || codec.encode(&1).unwrap())
                .join()
                .unwrap()
        );
    }
}

#[test]
fn a_value_that_panics_leaves_nothing_in_the_next_body() {
    struct Panics;
    impl Serialize for Panics {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut list = serializer.serialize_seq(None)?;
            list.serialize_element("half of it")?;
            panic!("on purpose");
        }
    }
    assert!(std::panic::catch_unwind(|| Codec::JSON.encode(&Panics)).is_err());
    assert_eq!(&Codec::JSON.encode(&1).unwrap()[..], b"1");
}

#[test]
fn a_body_that_fails_to_decode_changes_nothing() {
    assert!(Codec::JSON.decode::<Vec<u8>>(b"[1,2,").is_err());
    assert_eq!(Codec::JSON.decode::<Vec<u8>>(b"[3]").unwrap(), [3]);
}

#[test]
fn a_map_whose_keys_are_no_strings_is_refused_by_json() {
    let error = Codec::JSON
        .encode(&BTreeMap::from([(vec![1], 2)]))
        .unwrap_err();
    assert_eq!(error.kind(), SerializerErrorKind::Encode);
    assert!(
        error
            .source()
            .unwrap()
            .to_string()
            .contains("key must be a string")
    );
}

#[test]
fn a_body_outlives_the_next_one_and_may_be_large() {
    let first = Codec::JSON.encode("first").unwrap();
    let second = Codec::JSON.encode("second").unwrap();
    assert_eq!(
        (&first[..], &second[..]),
        (&b"\"first\""[..], &b"\"second\""[..])
    );
    let large = Codec::JSON.encode(&"x".repeat(200_000)).unwrap();
    assert_eq!(large.len(), 200_002);
}
