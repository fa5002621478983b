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
        "{} {}",
        "[1] 2",
        "'a' 'b'",
        "\"a\" b",
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
    let start = ThreadTime::now();
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
