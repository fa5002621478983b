//! The value of any shape.

use kombu_serializers::Value;

#[cfg(feature = "json")]
#[test]
fn json_becomes_a_value_and_the_same_json_again() {
    use kombu_serializers::Codec;
    let body = br#"{"z":[1,-1,1.0,"a",null,true],"a":{},"n":18446744073709551615}"#;
    let value: Value = Codec::JSON.decode(body).unwrap();
    assert_eq!(value.get("n"), Some(&Value::U64(u64::MAX)));
    assert!(matches!(
        value.get("z").and_then(Value::as_seq),
        Some([Value::I64(1), Value::I64(-1), Value::F64(_), ..])
    ));
    assert_eq!(&Codec::JSON.encode(&value).unwrap()[..], body);
}

#[cfg(feature = "json")]
#[test]
fn bytes_become_an_array_of_numbers_in_json() {
    use kombu_serializers::Codec;
    let body = Codec::JSON.encode(&Value::Bytes(vec![0, 255])).unwrap();
    assert_eq!(&body[..], b"[0,255]");
    assert_eq!(
        Codec::JSON.decode::<Value>(&body).unwrap(),
        Value::from_iter([0, 255])
    );
}

#[cfg(feature = "json")]
#[test]
fn keys_that_are_scalars_become_strings_in_json_and_others_are_refused() {
    use kombu_serializers::Codec;
    let scalars = Value::from_iter([(Value::from(1), "a"), (Value::from(true), "b")]);
    assert_eq!(
        &Codec::JSON.encode(&scalars).unwrap()[..],
        br#"{"1":"a","true":"b"}"#
    );
    let sequence = Value::from_iter([(Value::Seq(vec![]), "a")]);
    assert!(Codec::JSON.encode(&sequence).is_err());
}

#[cfg(feature = "json")]
#[test]
fn a_key_that_is_there_twice_stays_and_the_last_one_is_found() {
    use kombu_serializers::Codec;
    let value: Value = Codec::JSON.decode(br#"{"a":1,"a":2}"#).unwrap();
    assert_eq!(value.as_map().map(<[_]>::len), Some(2));
    assert_eq!(value.get("a"), Some(&Value::I64(2)));
}

#[cfg(feature = "msgpack")]
#[test]
fn msgpack_keeps_bytes_and_keys_of_any_kind() {
    use kombu_serializers::Codec;
    let value = Value::Map(vec![
        (Value::Bytes(vec![1]), Value::Bytes(vec![0, 255])),
        (Value::from(-1), Value::Null),
        (Value::Seq(vec![1.into(), "b".into()]), Value::Map(vec![])),
        (Value::Null, Value::from(0.5)),
    ]);
    let body = Codec::MSGPACK.encode(&value).unwrap();
    assert_eq!(Codec::MSGPACK.decode::<Value>(&body).unwrap(), value);
}

#[cfg(feature = "msgpack")]
#[test]
fn an_extension_of_msgpack_becomes_its_number_and_its_bytes() {
    use kombu_serializers::Codec;
    let timestamp = b"\xd6\xff\x65\x00\x00\x00";
    let value: Value = Codec::MSGPACK.decode(timestamp).unwrap();
    assert_eq!(
        value,
        Value::Seq(vec![Value::I64(-1), Value::Bytes(vec![0x65, 0, 0, 0])])
    );
}

#[cfg(feature = "yaml")]
#[test]
fn yaml_keeps_keys_of_any_kind() {
    use kombu_serializers::Codec;
    let value: Value = Codec::YAML
        .decode(b"1: a\n~: b\ntrue: c\n1.5: d\n[x, y]: e\ny: f\n")
        .unwrap();
    let keys: Vec<&Value> = value.as_map().unwrap().iter().map(|(key, _)| key).collect();
    let pair = Value::Seq(vec!["x".into(), "y".into()]);
    assert_eq!(
        keys,
        [
            &1.into(),
            &Value::Null,
            &true.into(),
            &1.5.into(),
            &pair,
            &"y".into()
        ]
    );
    let body = Codec::YAML.encode(&value).unwrap();
    assert_eq!(Codec::YAML.decode::<Value>(&body).unwrap(), value);
}

#[cfg(feature = "yaml")]
#[test]
fn binary_in_yaml_is_bytes_where_bytes_are_asked_for_and_text_in_a_value() {
    use kombu_serializers::Codec;
    use std::collections::BTreeMap;

    struct Blob(Vec<u8>);
    impl<'de> serde::Deserialize<'de> for Blob {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Bytes;
            impl serde::de::Visitor<'_> for Bytes {
                type Value = Blob;
                fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str("bytes")
                }
                fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Blob, E> {
                    Ok(Blob(bytes.to_vec()))
                }
            }
            deserializer.deserialize_byte_buf(Bytes)
        }
    }

    let body = Codec::YAML
        .encode(&Value::from_iter([("a", Value::Bytes(vec![0, 255]))]))
        .unwrap();
    assert_eq!(&body[..], b"a: !!binary AP8=\n");
    assert_eq!(
        Codec::YAML.decode::<BTreeMap<String, Blob>>(&body).unwrap()["a"].0,
        [0, 255]
    );
    assert!(Codec::YAML.decode::<Value>(&body).is_err());
    assert_eq!(
        Codec::YAML.decode::<Value>(b"!!binary aGk=").unwrap(),
        Value::from("hi")
    );
}

#[cfg(feature = "raw")]
#[test]
fn a_raw_body_is_bytes_and_a_text_is_a_string() {
    use kombu_serializers::Codec;
    for (codec, value) in [
        (Codec::RAW, Value::Bytes(b"hi".to_vec())),
        (Codec::TEXT, Value::from("hi")),
    ] {
        let body = codec.encode(&value).unwrap();
        assert_eq!(&body[..], b"hi");
        assert_eq!(codec.decode::<Value>(&body).unwrap(), value);
    }
}

#[test]
fn integers_are_equal_by_number_and_never_equal_floats() {
    assert_eq!(Value::I64(5), Value::U64(5));
    assert_ne!(Value::I64(-1), Value::U64(u64::MAX));
    assert_ne!(Value::I64(5), Value::F64(5.0));
    assert_ne!(Value::F64(f64::NAN), Value::F64(f64::NAN));
    assert_ne!(Value::String("a".into()), Value::Bytes(b"a".to_vec()));
}

#[test]
fn values_are_made_of_rusts_own_types() {
    assert_eq!(Value::from(u64::MAX), Value::U64(u64::MAX));
    assert!(matches!(Value::from(7_u64), Value::I64(7)));
    assert_eq!(Value::from(None::<i32>), Value::Null);
    assert_eq!(Value::from(Some("a")), Value::String("a".into()));
    assert_eq!(Value::from(()), Value::default());
    assert_eq!(Value::from(&b"a"[..]), Value::from(vec![b'a']));
    assert_eq!(
        Value::from(bytes::Bytes::from_static(b"a")),
        Value::from(b"a".to_vec())
    );
    let list: Value = ["a", "b"].into_iter().collect();
    assert_eq!(list, Value::from(vec![Value::from("a"), Value::from("b")]));
    let map: Value = [("a", 1.5_f32)].into_iter().collect();
    assert_eq!(map, Value::from(vec![(Value::from("a"), Value::F64(1.5))]));
}

#[test]
fn a_value_is_taken_apart_by_what_it_is() {
    let value = Value::from_iter([
        ("a", Value::from(1)),
        ("b", Value::from(vec![2_u8])),
        ("c", Value::from("text")),
    ]);
    assert_eq!(value.get("a").and_then(Value::as_u64), Some(1));
    assert_eq!(value.get("a").and_then(Value::as_f64), Some(1.0));
    assert_eq!(value.get("a").and_then(Value::as_str), None);
    assert_eq!(value.get("b").and_then(Value::as_bytes), Some(&[2][..]));
    assert_eq!(value.get("c").and_then(Value::as_str), Some("text"));
    assert_eq!(value.get("c").and_then(Value::as_bytes), None);
    assert_eq!(Value::from(true).as_bool(), Some(true));
    assert_eq!(Value::I64(-1).as_u64(), None);
    assert_eq!((Value::Null.get("a"), Value::Null.is_null()), (None, true));
}
