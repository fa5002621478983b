//! Bodies that Python wrote. `python/make.py` says how.
#![cfg(all(feature = "json", feature = "msgpack", feature = "yaml"))]

use kombu_serializers::{Codec, Value};

fn expected() -> Value {
    let tags = || Value::from_iter(["cat", "né"]);
    let list = [
        Value::from_iter([Value::from(1), Value::from_iter([2])]),
        "0x1f".into(),
        "2001-01-01".into(),
        "12:30:45".into(),
    ];
    let nested = [
        ("empty", Value::Seq(vec![])),
        ("map", Value::Map(vec![])),
        ("list", Value::from_iter(list)),
    ];
    Value::from_iter([
        ("name", Value::from("lolcat1.avi")),
        ("size", Value::from(1_301_013)),
        ("big", Value::from(u64::MAX)),
        ("small", Value::from(i64::MIN)),
        ("ratio", Value::from(1e16)),
        ("tiny", Value::from(5e-324)),
        ("text", Value::from("péché — 漢字 🦀\n- yes: ~\t\u{2028}")),
        ("yes", Value::from(true)),
        ("none", Value::Null),
        ("y", Value::from("no")),
        ("nested", Value::from_iter(nested)),
        ("tags", tags()),
        ("again", tags()),
    ])
}

#[test]
fn what_python_writes_is_read_as_it_was_meant() {
    let bodies: [(Codec, &[u8]); 4] = [
        (Codec::JSON, include_bytes!("python/value.json")),
        (Codec::MSGPACK, include_bytes!("python/value.msgpack")),
        (Codec::YAML, include_bytes!("python/value.yaml")),
        (Codec::YAML, include_bytes!("python/unicode.yaml")),
    ];
    for (codec, body) in bodies {
        assert_eq!(
            codec.decode::<Value>(body).unwrap(),
            expected(),
            "{codec:?}"
        );
    }
}

#[test]
fn msgpack_is_written_byte_for_byte_as_python_does() {
    assert_eq!(
        &Codec::MSGPACK.encode(&expected()).unwrap()[..],
        include_bytes!("python/value.msgpack")
    );
}

#[test]
fn text_that_yaml_1_1_would_take_for_something_else_is_quoted() {
    for text in [
        "yes",
        "No",
        "on",
        "~",
        "null",
        "0x1f",
        "017",
        "1_000",
        "12:30:45",
        "2001-01-01",
        "1e5",
        "=",
        "<<",
        ".inf",
    ] {
        let body = Codec::YAML.encode(text).unwrap();
        assert!(
            body.starts_with(b"\"") || body.starts_with(b"'"),
            "{body:?}"
        );
    }
}

#[test]
fn a_number_is_text_where_text_is_asked_for() {
    assert_eq!(
        Codec::YAML
            .decode::<[String; 3]>(b"[1e5, 0o7, 12]")
            .unwrap(),
        ["1e5", "0o7", "12"]
    );
    assert_eq!(
        Codec::YAML.decode::<Value>(b"[1e5, 12]").unwrap(),
        Value::from_iter([1e5.into(), Value::from(12)])
    );
}

#[test]
fn only_true_and_false_are_booleans_in_yaml() {
    assert_eq!(
        Codec::YAML
            .decode::<[bool; 3]>(b"[true, False, TRUE]")
            .unwrap(),
        [true, false, true]
    );
    assert!(Codec::YAML.decode::<bool>(b"yes").is_err());
    assert_eq!(
        Codec::YAML.decode::<Value>(b"{y: on}").unwrap(),
        Value::from_iter([("y", "on")])
    );
}
