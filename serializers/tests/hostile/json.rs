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
