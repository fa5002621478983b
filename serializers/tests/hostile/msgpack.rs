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
