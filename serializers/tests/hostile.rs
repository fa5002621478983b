//! Bodies that mean harm are refused, fast, on an ordinary stack.
#![cfg(any(feature = "json", feature = "msgpack", feature = "yaml"))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests are tests"
)]

use std::error::Error;
use std::time::{Duration, Instant};

use kombu_serializers::{Codec, SerializerError, SerializerErrorKind, Value};
use serde::Deserialize;
use serde::de::IgnoredAny;

/// Generous, because other tests run beside: what would go wrong takes minutes, or all memory.
const FAST: Duration = Duration::from_secs(5);

#[derive(Debug, Deserialize)]
struct List(#[allow(dead_code)] Vec<List>);

#[derive(Debug, Deserialize)]
#[serde(transparent)]
struct Map {
    #[allow(dead_code)]
    inner: std::collections::BTreeMap<String, Map>,
}

#[derive(Debug, Deserialize)]
struct Node {
    #[allow(dead_code)]
    next: Option<Box<Node>>,
}

#[derive(Debug, Deserialize)]
enum Chain {
    #[allow(dead_code)]
    End,
    #[allow(dead_code)]
    Link(Box<Chain>),
    #[allow(dead_code)]
    Ring { inner: Box<Chain> },
    #[allow(dead_code)]
    Pair(Box<Chain>, u8),
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Either {
    #[allow(dead_code)]
    Number(u64),
    #[allow(dead_code)]
    List(Vec<Either>),
    #[allow(dead_code)]
    Map(std::collections::BTreeMap<String, Either>),
}

#[derive(Debug, Deserialize)]
#[serde(tag = "type")]
enum Tagged {
    #[allow(dead_code)]
    Leaf,
    #[allow(dead_code)]
    Branch { next: Box<Tagged> },
}

fn refused<'de, T: Deserialize<'de>>(codec: &Codec, body: &'de [u8]) -> SerializerError {
    let start = Instant::now();
    let outcome = codec.decode::<T>(body).map(|_| ());
    let took = start.elapsed();
    let what = String::from_utf8_lossy(&body[..body.len().min(40)]);
    assert!(took < FAST, "{took:?} for {what:?}");
    let error = outcome.expect_err(&what);
    assert_eq!(error.kind(), SerializerErrorKind::Decode);
    assert!(
        error
            .source()
            .is_some_and(|cause| cause.to_string().len() < 1_000)
    );
    error
}

/// Whatever the type, and whether or not it could hold the body.
fn refused_as_anything(codec: &Codec, body: &[u8]) {
    refused::<Value>(codec, body);
    refused::<IgnoredAny>(codec, body);
    refused_as_any_type(codec, body);
}

fn refused_as_any_type(codec: &Codec, body: &[u8]) {
    refused::<List>(codec, body);
    refused::<Map>(codec, body);
    refused::<Node>(codec, body);
    refused::<Chain>(codec, body);
    refused::<Either>(codec, body);
    refused::<Tagged>(codec, body);
}

#[cfg(feature = "json")]
mod json {
    use super::*;

    #[test]
    fn json_nested_100_000_deep_is_refused() {
        for level in [
            "[",
            "{\"a\":",
            "{\"next\":",
            "{\"Link\":",
            "{\"Ring\":{\"inner\":",
            "{\"type\":\"Branch\",\"next\":",
        ] {
            let body = level.repeat(100_000).into_bytes();
            refused_as_anything(&Codec::JSON, &body);
        }
    }

    #[test]
    fn a_json_body_with_trailing_bytes_is_refused() {
        for body in [&b"1 1"[..], b"{}{}", b"null,", b"\"a\"b", b"1\0"] {
            refused::<Value>(&Codec::JSON, body);
        }
        assert!(Codec::JSON.decode::<u8>(b" 1 \n").is_ok());
    }

    #[test]
    fn json_that_is_cut_off_or_not_json_is_refused() {
        for body in [
            &b""[..],
            b"{",
            b"[1,",
            b"\"a",
            b"\xff",
            b"\"\xff\"",
            b"{'a':1}",
            b"nul",
            b"NaN",
            b"01",
        ] {
            refused::<Value>(&Codec::JSON, body);
        }
    }
}

#[cfg(feature = "msgpack")]
mod msgpack {
    use super::*;

    #[test]
    fn msgpack_nested_100_000_deep_is_refused() {
        for level in [
            &b"\x91"[..],
            b"\x81\xa1a",
            b"\x81\xa4next",
            b"\x81\xa4Link",
            b"\x81\xa4Ring\x81\xa5inner",
            b"\x81\xa4Pair\x92",
            b"\xdd\x00\x00\x00\x01",
            b"\xdf\x00\x00\x00\x01\x01",
            b"\x81\x90",
            b"\x81\x81",
        ] {
            let body = level.repeat(100_000);
            refused_as_anything(&Codec::MSGPACK, &body);
        }
    }

    #[test]
    fn a_msgpack_body_with_trailing_bytes_is_refused() {
        for body in [
            &b"\x01\x01"[..],
            b"\x01\xc0",
            b"\xa1a\x00",
            b"\x80\x80",
            b"\xc0\xdd",
            b"\x90\xc1",
        ] {
            refused::<Value>(&Codec::MSGPACK, body);
        }
    }

    #[test]
    fn msgpack_that_claims_more_than_it_has_is_refused() {
        for body in [
            &b"\xdd\xff\xff\xff\xff"[..],
            b"\xdf\xff\xff\xff\xff",
            b"\xdb\xff\xff\xff\xff",
            b"\xc6\xff\xff\xff\xff",
            b"\xc9\xff\xff\xff\xff\x01",
            b"\xdd\xff\xff\xff\xff\x01\x02",
            b"\xdc\xff\xff\xdc\xff\xff",
            b"\xa5ab",
            b"\xcd\x01",
            b"\xd8",
            b"",
        ] {
            refused_as_anything(&Codec::MSGPACK, body);
            refused::<String>(&Codec::MSGPACK, body);
            refused::<Vec<u8>>(&Codec::MSGPACK, body);
            refused::<Vec<String>>(&Codec::MSGPACK, body);
        }
    }

    #[test]
    fn lengths_that_lie_at_every_level_take_no_memory() {
        let body = b"\xdd\xff\xff\xff\xff".repeat(120);
        refused_as_anything(&Codec::MSGPACK, &body);
    }

    #[test]
    fn the_byte_that_msgpack_never_uses_is_refused() {
        refused_as_anything(&Codec::MSGPACK, b"\xc1");
    }
}

#[cfg(feature = "yaml")]
mod yaml {
    use super::*;

    #[test]
    fn yaml_nested_100_000_deep_is_refused() {
        for level in [
            "[",
            "{a: ",
            "{next: ",
            "{Link: ",
            "{Ring: {inner: ",
            "- ",
            "? ",
            "!Link [",
            "&a [",
            "{? ",
            "[[{",
        ] {
            let body = level.repeat(100_000).into_bytes();
            refused_as_anything(&Codec::YAML, &body);
        }
        for level in ["a", "next", "Link"] {
            let body: String = (0..2_000)
                .map(|depth| format!("{}{level}:\n", " ".repeat(depth)))
                .collect();
            refused_as_anything(&Codec::YAML, body.as_bytes());
        }
    }

    #[test]
    fn yaml_is_read_up_to_32_levels_on_an_ordinary_stack() {
        let nested = |open: &str, inner: &str, close: &str| {
            [open.repeat(32), inner.into(), close.repeat(32)].concat()
        };
        assert!(
            Codec::YAML
                .decode::<Value>(nested("[", "", "]").as_bytes())
                .is_ok()
        );
        assert!(
            Codec::YAML
                .decode::<List>(nested("[", "", "]").as_bytes())
                .is_ok()
        );
        assert!(
            Codec::YAML
                .decode::<Node>(nested("{next: ", "~", "}").as_bytes())
                .is_ok()
        );
        assert!(
            Codec::YAML
                .decode::<Chain>(nested("{Link: ", "End", "}").as_bytes())
                .is_ok()
        );
        assert!(
            Codec::YAML
                .decode::<Chain>(nested("{Link: !Link ", "End", "}").as_bytes())
                .is_ok()
        );
        assert!(
            Codec::YAML
                .decode::<Either>(nested("{a: ", "1", "}").as_bytes())
                .is_ok()
        );
        refused_as_anything(
            &Codec::YAML,
            format!("[{}]", nested("[", "", "]")).as_bytes(),
        );
    }

    #[test]
    fn an_alias_bomb_is_refused() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..12 {
            let tenfold = vec![format!("*a{}", level - 1); 10].join(", ");
            bomb.push_str(&format!("a{level}: &a{level} [{tenfold}]\n"));
        }
        refused_as_anything(&Codec::YAML, bomb.as_bytes());
    }

    #[test]
    fn an_alias_of_a_long_text_is_not_repeated_for_ever() {
        let body = format!(
            "a: &a {}\nb: [{}]\n",
            "x".repeat(100_000),
            vec!["*a"; 10_000].join(", ")
        );
        refused_as_anything(&Codec::YAML, body.as_bytes());
    }

    #[test]
    fn an_alias_of_itself_is_refused() {
        for body in ["&a [*a]", "&a {next: *a}", "&a {*a : b}", "*nobody"] {
            refused_as_anything(&Codec::YAML, body.as_bytes());
        }
    }

    #[test]
    fn as_many_aliases_as_python_writes_for_one_object_are_read() {
        let body = format!(
            "- &id001\n  a: 1\n  b: [1, 2]\n{}",
            "- *id001\n".repeat(1_000)
        );
        let value: Value = Codec::YAML.decode(body.as_bytes()).unwrap();
        assert_eq!(value.as_seq().map(<[_]>::len), Some(1_001));
    }

    #[test]
    fn a_tag_bomb_is_refused() {
        let body = format!(
            "%TAG !e! tag:{}\n---\n[{}]",
            "x".repeat(900),
            vec!["!e!a 1"; 10_000].join(", ")
        );
        refused::<Value>(&Codec::YAML, body.as_bytes());
    }

    #[test]
    fn merge_keys_are_refused() {
        for body in ["a: &a {b: c}\nd: {<<: *a}\n", "{<<: {a: b}}"] {
            refused_as_anything(&Codec::YAML, body.as_bytes());
        }
        assert!(Codec::YAML.decode::<Value>(b"\"<<\": a\n").is_ok());
    }

    #[test]
    fn keys_within_keys_are_refused_before_they_are_copied() {
        let list = format!("[{}]", "a,".repeat(200_000));
        for body in [
            format!("{}{list}", "? ".repeat(30)),
            format!("{}{list}", "? - ".repeat(15)),
        ] {
            refused_as_anything(&Codec::YAML, body.as_bytes());
        }
        let implicit = format!("[{}]", "{{{{[a, b, c]: d}: e}: f}: g},".repeat(5_000));
        refused_as_anything(&Codec::YAML, implicit.as_bytes());
    }

    #[test]
    fn a_yaml_key_that_is_there_twice_is_refused() {
        for body in [
            "a: 1\na: 2\n",
            "x: [{a: 1, 'a': 2}]\n",
            "1: a\n0x1: b\n",
            "[a]: 1\n[a]: 2\n",
            "next: ~\nnext: ~\n",
        ] {
            refused_as_anything(&Codec::YAML, body.as_bytes());
        }
    }

    #[test]
    fn a_yaml_body_of_more_than_one_document_is_refused() {
        for body in [
            "a\n---\nb\n",
            "a\n...\nb\n",
            "a\n...\n}{\n",
            "---\n---\n",
            "a\n... b\n",
        ] {
            refused::<Value>(&Codec::YAML, body.as_bytes());
        }
        assert_eq!(
            Codec::YAML
                .decode::<String>(b"---\na\n...\n# the end\n")
                .unwrap(),
            "a"
        );
    }

    #[test]
    fn tags_never_make_types() {
        let value: Value = Codec::YAML
            .decode(b"!!python/object/apply:os.system [ls]")
            .unwrap();
        assert_eq!(value, Value::from_iter(["ls"]));
        let value: Value = Codec::YAML
            .decode(b"a: !!python/tuple [1]\nb: !thing {c: 2}\n")
            .unwrap();
        assert_eq!(
            value,
            Value::from_iter([
                ("a", Value::from_iter([1])),
                ("b", Value::from_iter([("c", 2)]))
            ])
        );
    }

    #[test]
    fn an_error_does_not_show_the_body() {
        let error = refused::<u8>(&Codec::YAML, b"first: line\npassword: hunter2\nbroken: [\n");
        let shown = format!("{error} {error:?} {}", error.source().unwrap());
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn large_bodies_take_time_in_proportion() {
        let keys: String = (0..50_000).map(|key| format!("k{key}: {key}\n")).collect();
        let start = Instant::now();
        assert_eq!(
            Codec::YAML
                .decode::<Value>(keys.as_bytes())
                .unwrap()
                .as_map()
                .map(<[_]>::len),
            Some(50_000)
        );
        for body in [
            "a,".repeat(50_000),
            ":".repeat(100_000),
            "%a\n".repeat(30_000),
            "? a\n".repeat(50_000),
        ] {
            let _ = Codec::YAML.decode::<Value>(format!("[{body}").as_bytes());
            let _ = Codec::YAML.decode::<Value>(body.as_bytes());
        }
        assert!(start.elapsed() < 4 * FAST, "{:?}", start.elapsed());
    }

    #[test]
    fn yaml_that_is_not_utf8_is_refused() {
        for body in [&b"\xff\xfea\0"[..], b"a: \xff", b"a: \0"] {
            refused::<Value>(&Codec::YAML, body);
        }
    }
}

#[cfg(feature = "json")]
mod registered {
    use super::*;
    use kombu_serializers::{BoxError, Visit};

    fn json<'de>(body: &'de [u8], visit: &mut Visit<'_, 'de>) -> Result<(), BoxError> {
        let mut json = serde_json::Deserializer::from_slice(body);
        visit.value(&mut json)?;
        Ok(json.end()?)
    }

    #[test]
    fn a_registered_codec_is_held_to_the_same_nesting() {
        let codec = Codec::builder("own", "application/x-own", "utf-8")
            .decoder(json)
            .build()
            .unwrap();
        for level in [
            "[",
            "{\"a\":",
            "{\"next\":",
            "{\"Link\":",
            "{\"Ring\":{\"inner\":",
        ] {
            refused_as_anything(&codec, level.repeat(100_000).as_bytes());
        }
        let deepest = format!("{}{}", "[".repeat(127), "]".repeat(127));
        assert!(codec.decode::<Value>(deepest.as_bytes()).is_ok());
        assert!(codec.decode::<List>(deepest.as_bytes()).is_ok());
    }
}
