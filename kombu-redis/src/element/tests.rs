use std::time::Duration;

use bytes::Bytes;
use kombu_core::Name;
use kombu_core::declare::DeliveryMode;
use kombu_core::field::{FieldTable, FieldValue, Timestamp};
use kombu_core::message::{Content, Envelope, PublishId};
use proptest::prelude::*;

use super::json::Reader;
use super::{Decoded, decode, encode};

const ID: PublishId = PublishId {
    producer: 0x0123_4567_89ab_cdef,
    sequence: 42,
};

/// What scripts look for: they patch what stands behind the last one.
const INFO: &str = "\"delivery_info\": {";

fn message(body: &'static str) -> Content {
    let mut content = Content::new(
        "ex1".into(),
        "rk1".into(),
        Bytes::from_static(body.as_bytes()),
    );
    content.set_content_type("application/json");
    content.set_content_encoding("utf-8");
    content
}

fn with_headers(headers: FieldTable) -> Content {
    let mut content = message("{}");
    *content.headers_mut() = headers;
    content
}

fn written(content: &Content) -> String {
    String::from_utf8(encode(&Envelope::new(ID, content.clone()))).unwrap()
}

fn read(element: impl Into<Bytes>) -> Decoded {
    decode(&element.into())
}

fn came_back(content: &Content) -> Decoded {
    read(written(content))
}

/// All that an element keeps.
#[derive(Debug, PartialEq)]
struct Kept {
    address: [Name; 2],
    body: Bytes,
    headers: FieldTable,
    texts: [Option<String>; 9],
    delivery_mode: DeliveryMode,
    priority: Option<u8>,
    expiration: Option<Duration>,
    timestamp: Option<Timestamp>,
}

fn kept(content: &Content) -> Kept {
    Kept {
        address: [content.exchange().clone(), content.routing_key().clone()],
        body: content.body().clone(),
        headers: content.headers().clone(),
        texts: [
            content.content_type(),
            content.content_encoding(),
            content.correlation_id(),
            content.reply_to(),
            content.message_id(),
            content.kind(),
            content.user_id(),
            content.app_id(),
            content.cluster_id(),
        ]
        .map(|text| text.map(String::from)),
        delivery_mode: content.delivery_mode(),
        priority: content.priority(),
        expiration: content.expiration(),
        timestamp: content.timestamp(),
    }
}

/// One of each type, and what Python or the scripts might stumble over.
fn everything() -> Content {
    let nan = f64::from_bits(0xfff8_0000_0000_0001);
    let form = FieldTable::from([("__type__", "no such type"), ("__value__", "x")]);
    let headers = FieldTable::from([
        ("void", FieldValue::Void),
        ("bool", true.into()),
        ("i8", FieldValue::I8(-8)),
        ("u8", FieldValue::U8(8)),
        ("i16", FieldValue::I16(-16)),
        ("u16", FieldValue::U16(16)),
        ("i32", FieldValue::I32(-32)),
        ("u32", FieldValue::U32(32)),
        ("i64", FieldValue::I64(i64::MIN)),
        ("f32", FieldValue::F32(1.1)),
        ("f32 nan", FieldValue::F32(f32::NAN)),
        ("f64", FieldValue::F64(1.0)),
        ("f64 big", FieldValue::F64(1e300)),
        ("f64 nan", FieldValue::F64(f64::NAN)),
        ("f64 odd nan", FieldValue::F64(nan)),
        ("f64 inf", FieldValue::F64(f64::NEG_INFINITY)),
        (
            "decimal",
            FieldValue::Decimal {
                scale: 2,
                value: 1250,
            },
        ),
        (
            "small",
            FieldValue::Decimal {
                scale: 10,
                value: 1,
            },
        ),
        (
            "negative",
            FieldValue::Decimal {
                scale: 1,
                value: -15_i32 as u32,
            },
        ),
        ("text", "ünïcode \"quoted\"\n\u{1F600}".into()),
        ("bytes", b"text".into()),
        ("more bytes", b"\xff\x00".into()),
        (
            "time",
            FieldValue::Timestamp(Timestamp::from_secs(1_700_000_000)),
        ),
        (
            "far time",
            FieldValue::Timestamp(Timestamp::from_secs(u64::MAX)),
        ),
        (
            "array",
            vec![FieldValue::I32(1), FieldValue::I64(2), "x".into()].into(),
        ),
        ("form", form.into()),
        (
            "delivery_info",
            FieldTable::from([("exchange", 1_i64)]).into(),
        ),
    ]);
    let mut content = with_headers(headers);
    content.set_body("{\"name\": \"ünïcode\"}");
    content.set_correlation_id("cid");
    content.set_reply_to("replies");
    content.set_message_id("mid");
    content.set_kind("kind");
    content.set_user_id("user");
    content.set_app_id("app");
    content.set_cluster_id("cluster");
    content.set_priority(5);
    content.set_expiration(Some(Duration::from_millis(10_000)));
    content.set_timestamp(Timestamp::from_secs(1_700_000_000));
    content.set_delivery_mode(DeliveryMode::Transient);
    content
}

#[test]
fn a_plain_message_is_written_as_kombu_writes_it() {
    let mut content = message("{\"a\": 1}");
    content.headers_mut().insert("h", "v");
    assert_eq!(
        written(&content),
        concat!(
            r#"{"body": "{\"a\": 1}", "content-encoding": "utf-8", "content-type": "application/json", "#,
            r#""headers": {"h": "v"}, "properties": {"delivery_mode": 2, "#,
            r#""delivery_info": {"exchange": "ex1", "routing_key": "rk1"}, "#,
            r#""body_encoding": "utf-8", "delivery_tag": "01234567-89ab-cdef-0000-00000000002a"}}"#
        )
    );
}

#[test]
fn properties_stand_in_the_order_of_kombu_s() {
    let mut content = everything();
    content.headers_mut().clear();
    let element = written(&content);
    let properties = element.split_once("\"properties\": ").unwrap().1;
    assert_eq!(
        properties,
        concat!(
            r#"{"correlation_id": "cid", "reply_to": "replies", "message_id": "mid", "timestamp": 1700000000, "#,
            r#""app_id": "app", "type": "kind", "user_id": "user", "cluster_id": "cluster", "#,
            r#""delivery_mode": 1, "expiration": "10000", "#,
            r#""delivery_info": {"exchange": "ex1", "routing_key": "rk1"}, "priority": 5, "#,
            r#""body_encoding": "utf-8", "delivery_tag": "01234567-89ab-cdef-0000-00000000002a"}}"#
        )
    );
}

#[test]
fn every_property_and_every_type_of_header_comes_back() {
    let decoded = came_back(&everything());
    assert_eq!(kept(&decoded.envelope), kept(&everything()));
    assert_eq!(decoded.envelope.publish_id(), ID);
    assert_eq!((decoded.failures, decoded.redelivered), (0, false));
}

#[test]
fn what_only_concerns_routing_does_not_travel() {
    let mut content = message("{}");
    content.set_delay(Some(Duration::from_secs(5)));
    let decoded = came_back(&content);
    assert_eq!(decoded.envelope.delay(), None);
    assert_eq!(kept(&decoded.envelope), kept(&content));
}

#[test]
fn no_priority_is_none_and_not_zero() {
    let mut content = message("{}");
    assert_eq!(came_back(&content).envelope.priority(), None);
    content.set_priority(0);
    assert_eq!(came_back(&content).envelope.priority(), Some(0));
}

#[test]
fn bodies_that_are_not_text_go_in_base64() {
    let mut binary = message("");
    binary.set_body(vec![0xff, 0xfe]);
    let mut without_encoding = Content::new(Name::EMPTY, "q".into(), Bytes::from_static(b"text"));
    without_encoding.set_content_type("text/plain");
    let mut compressed = message("could be text");
    let headers = compressed.headers_mut();
    headers.insert("compression", "application/x-gzip");
    for content in [binary, without_encoding, compressed] {
        let element = written(&content);
        assert!(
            element.contains(r#""body_encoding": "base64""#),
            "{element}"
        );
        assert_eq!(kept(&read(element).envelope), kept(&content));
    }
}

#[test]
fn a_body_without_escapes_is_not_copied() {
    let element = Bytes::from(written(&message("[1, 2, 3]")));
    let decoded = decode(&element);
    assert!(
        element
            .as_ptr_range()
            .contains(&decoded.envelope.body().as_ptr())
    );
}

#[test]
fn nothing_that_users_choose_is_taken_for_the_delivery_info() {
    let bait = format!("{INFO}\"exchange\": \"fooled\"}}, {INFO}");
    let mut content = Content::new(
        Name::from(&bait),
        Name::from(format!("\\{bait}\\\\{bait}")),
        Bytes::from(bait.clone()),
    );
    content.set_content_type(bait.as_str());
    content.set_correlation_id(bait.as_str());
    content.set_app_id(bait.as_str());
    let nested = FieldTable::from([("exchange", FieldValue::U8(1))]);
    let headers = content.headers_mut();
    headers.insert("delivery_info", nested);
    headers.insert(Name::from(&bait), bait.as_str());
    headers.insert("x", b"\"delivery_info\": {");
    for encoding in ["utf-8", "binary"] {
        content.set_content_encoding(encoding);
        let element = written(&content);
        let (before, after) = element.rsplit_once(INFO).unwrap();
        assert!(before.ends_with("\"delivery_mode\": 2, "), "{before}");
        assert!(after.starts_with("\"exchange\": \""), "{after}");
        assert_eq!(kept(&read(element.clone()).envelope), kept(&content));

        let patched = format!("{before}{INFO}\"redelivered\": true, {after}");
        let decoded = read(patched);
        assert!(decoded.redelivered);
        assert_eq!(kept(&decoded.envelope), kept(&content));
    }
}

#[test]
fn integers_of_32_bits_cost_a_note_of_one_letter() {
    let literals = with_headers(FieldTable::from([("tenant", 7), ("shard", -3)]));
    assert!(written(&literals).contains(r#""properties": {"_kt": "I", "#));
    let mut mixed = literals.clone();
    mixed.headers_mut().insert("big", 5_i64);
    let element = written(&mixed);
    assert!(
        element.contains(r#""_kt": {".shard": "I", ".tenant": "I"}, "#),
        "{element}"
    );
    let plain = FieldTable::from([
        ("a", FieldValue::I64(1)),
        ("b", "x".into()),
        ("c", true.into()),
    ]);
    assert!(!written(&with_headers(plain)).contains("_kt"));
}

#[test]
fn a_note_that_does_not_fit_changes_nothing() {
    let with_note = |note: &str| {
        let element = concat!(
            r#"{"body": "", "headers": {"a": 300, "b": "x", "c": [1], "d": {"e": 1.5, "g": 1.000000001}}, "#,
            r#""properties": {"_kt": NOTE, "body_encoding": null}}"#
        );
        read(element.replace("NOTE", note))
            .envelope
            .headers()
            .clone()
    };
    let plain = with_note("null");
    assert_eq!(plain.get("a"), Some(&FieldValue::I64(300)));
    for note in [
        r#""b""#,
        r#""""#,
        "7",
        r#"["I"]"#,
        r#"{".a": "b"}"#,
        r#"{".a": ""}"#,
        r#"{".a": "é"}"#,
        r#"{".a": "f"}"#,
        r#"{".b": "I"}"#,
        r#"{".b": "T"}"#,
        r#"{".c": "I", "a": "I"}"#,
        r#"{".c": {".e": "f"}}"#,
        r#"{".d": ["f"]}"#,
        r#"{".d": {".g": "f"}}"#,
        r#"{".d": {".e": "f7fc00000"}}"#,
        r#"{"": true, ".z": "I", ".d": {"": true}}"#,
    ] {
        assert_eq!(with_note(note), plain, "{note}");
    }
}

#[test]
fn tables_that_python_would_refuse_are_written_so_that_it_does_not() {
    let form = |value: FieldValue| {
        FieldTable::from([("__type__", "no such type".into()), ("__value__", value)])
    };
    let inner = FieldValue::from(form(FieldValue::I16(1)));
    let longer = FieldTable::from([
        ("__type__", FieldValue::I32(1)),
        ("__value__", FieldValue::I32(2)),
        ("", FieldValue::Void),
    ]);
    for headers in [
        form("x".into()),
        form(inner.clone()),
        FieldTable::from([("list", vec![inner])]),
        longer,
    ] {
        let content = with_headers(headers);
        let element = written(&content);
        assert!(
            is_harmless(&serde_json::from_str(&element).unwrap()),
            "{element}"
        );
        assert_eq!(kept(&read(element).envelope), kept(&content));
    }
}

/// Whether Python's `object_hook` leaves all objects in peace.
fn is_harmless(value: &serde_json::Value) -> bool {
    match value {
        serde_json::Value::Array(values) => values.iter().all(is_harmless),
        serde_json::Value::Object(entries) => {
            let is_form = entries.len() == 2
                && entries.contains_key("__type__")
                && entries.contains_key("__value__");
            !is_form && entries.values().all(is_harmless)
        }
        _ => true,
    }
}

#[test]
fn values_of_python_s_get_the_types_that_are_nearest() {
    let cases = [
        ("5", FieldValue::I64(5)),
        ("-0", FieldValue::I64(0)),
        ("9223372036854775808", "9223372036854775808".into()),
        ("1e2", FieldValue::F64(100.0)),
        ("NaN", FieldValue::F64(f64::NAN)),
        ("-Infinity", FieldValue::F64(f64::NEG_INFINITY)),
        (r#""\ud83d\ude00 \ud83d""#, "\u{1F600} \u{FFFD}".into()),
        (
            r#"{"__type__": "bytes", "__value__": "é"}"#,
            "é".as_bytes().into(),
        ),
        (
            r#"{"__type__": "base64", "__value__": "/w=="}"#,
            b"\xff".into(),
        ),
        (
            r#"{"__type__": "datetime", "__value__": "2026-01-02T03:04:05.678901"}"#,
            Timestamp::from_secs(1_767_323_045).into(),
        ),
        (
            r#"{"__type__": "datetime", "__value__": "2026-01-02T03:04:05+05:30"}"#,
            Timestamp::from_secs(1_767_303_245).into(),
        ),
        (
            r#"{"__type__": "datetime", "__value__": "1969-12-31T23:59:59"}"#,
            "1969-12-31T23:59:59".into(),
        ),
        (
            r#"{"__type__": "decimal", "__value__": "-1.50"}"#,
            FieldValue::Decimal {
                scale: 2,
                value: -150_i32 as u32,
            },
        ),
        (
            r#"{"__type__": "decimal", "__value__": "1E-10"}"#,
            FieldValue::Decimal {
                scale: 10,
                value: 1,
            },
        ),
        (
            r#"{"__type__": "decimal", "__value__": "1.2E+3"}"#,
            FieldValue::Decimal {
                scale: 0,
                value: 1200,
            },
        ),
        (
            r#"{"__type__": "decimal", "__value__": "3000000000"}"#,
            "3000000000".into(),
        ),
        (
            r#"{"__type__": "decimal", "__value__": "NaN"}"#,
            "NaN".into(),
        ),
        (
            r#"{"__type__": "uuid", "__value__": {"hex": "0123456789abcdef0123456789abcdef"}}"#,
            "01234567-89ab-cdef-0123-456789abcdef".into(),
        ),
        (
            r#"{"__type__": "date", "__value__": "2026-01-02"}"#,
            "2026-01-02".into(),
        ),
    ];
    for (json, expected) in cases {
        let element = format!(r#"{{"body": "", "headers": {{"h": {json}}}, "properties": {{}}}}"#);
        assert_eq!(
            read(element).envelope.headers().get("h"),
            Some(&expected),
            "{json}"
        );
    }
}

#[test]
fn times_are_python_s_at_the_borders() {
    for (secs, text) in [
        (0, "1970-01-01T00:00:00"),
        (951_782_399, "2000-02-28T23:59:59"),
        (951_782_400, "2000-02-29T00:00:00"),
        (951_868_800, "2000-03-01T00:00:00"),
        (4_107_542_399, "2100-02-28T23:59:59"),
        (4_107_542_400, "2100-03-01T00:00:00"),
        (253_402_300_799, "9999-12-31T23:59:59"),
    ] {
        let time = Timestamp::from_secs(secs);
        let element = written(&with_headers(FieldTable::from([("t", time)])));
        assert!(element.contains(text), "{element}");
        assert_eq!(super::python::datetime(text), Some(time));
    }
}

#[test]
fn the_marker_tells_failures_and_that_a_message_came_back() {
    let element = written(&message("{}"));
    for (marker, failures, redelivered) in [
        ("\"_kq\":\"0:0:1700000000000:0\",", 0, false),
        ("\"_kq\":\"123:4:0:7\",", 4, true),
        ("\"_kq\":\"123:4:0\",", 0, false),
        ("\"_kq\":\"124:4:0:0\",", 0, false),
        ("\"_kq\":\"123:4:0:0\",\"_kq\":\"nonsense\",", 4, true),
        ("\"_kq\": \"13:4294967295:0:0\", ", u32::MAX, true),
        ("\"_kq\": 5, ", 0, false),
        ("\"_kq\": \"nonsense\", ", 0, false),
    ] {
        let in_front = format!("{{{marker}{}", &element[1..]);
        let marker = marker.trim_end_matches([',', ' ']);
        let at_the_end = format!("{}, {marker}}}", &element[..element.len() - 1]);
        for element in [in_front, at_the_end] {
            let decoded = read(element);
            assert_eq!(
                (decoded.failures, decoded.redelivered),
                (failures, redelivered)
            );
            assert_eq!(kept(&decoded.envelope), kept(&message("{}")));
        }
    }
}

#[test]
fn kombu_s_flag_is_no_header_and_the_user_s_is() {
    let element = |headers: &str, properties: &str, top: &str| {
        read(format!(
            r#"{{"body": "", "headers": {{{headers}}}, "properties": {{{properties}}}{top}}}"#
        ))
    };
    let flag = r#""redelivered": true"#;
    let info = r#""delivery_info": {"exchange": ""}"#;
    let flagged = r#""delivery_info": {"exchange": "", "redelivered": true}"#;
    for (headers, properties, top, redelivered, stays) in [
        ("", info, "", false, false),
        (flag, info, "", false, true),
        (flag, flagged, "", true, false),
        ("", flagged, "", true, false),
        (flag, "", "", true, false),
        ("", info, r#", "redelivered": true"#, true, false),
    ] {
        let decoded = element(headers, properties, top);
        assert_eq!(
            decoded.redelivered, redelivered,
            "{headers} {properties} {top}"
        );
        assert_eq!(decoded.envelope.headers().contains("redelivered"), stays);
    }

    // The user's own one stays, though the message comes back.
    let content = with_headers(FieldTable::from([("redelivered", true)]));
    let element = written(&content);
    assert!(!read(element.clone()).redelivered);
    let back = element.replace(INFO, &format!("{INFO}{flag}, "));
    let decoded = read(back);
    assert!(decoded.redelivered);
    assert_eq!(kept(&decoded.envelope), kept(&content));
}

#[test]
fn as_many_headers_as_fit_are_read_in_one_go() {
    // In an order in which each would be inserted in front of the others: that took a minute.
    let names = (0..200_000).rev().map(|name| format!("\"{name:06}\": 1"));
    let headers = names.collect::<Vec<_>>().join(", ");
    let element = format!(r#"{{"body": "", "headers": {{{headers}}}, "properties": {{}}}}"#);
    assert_eq!(read(element).envelope.headers().len(), 200_000);
}

#[test]
fn the_publish_id_is_the_tag() {
    let tagged = |tag: &str| {
        let element = format!(r#"{{"body": "", "properties": {{"delivery_tag": {tag}}}}}"#);
        read(element).envelope.publish_id()
    };
    assert_eq!(
        tagged(r#""FB6C66A5-5f1e-4dc5-a24c-204a043396f9""#),
        PublishId {
            producer: 0xfb6c_66a5_5f1e_4dc5,
            sequence: 0xa24c_204a_0433_96f9
        }
    );
    assert_eq!(
        came_back(&message("")).envelope.publish_id().origin(),
        ID.origin()
    );
    // One that is no UUID always stands for the same id; where there is none, no two are the same.
    assert_eq!(tagged("\"tag 1\""), tagged("\"tag 1\""));
    assert_ne!(tagged("\"tag 1\""), tagged("\"tag 2\""));
    assert_ne!(tagged("null"), tagged("null"));
}

#[test]
fn what_is_no_envelope_is_delivered_as_it_is() {
    let deep = format!(
        r#"{{"body": "", "properties": {{}}, "x": {}{}}}"#,
        "[".repeat(200),
        "]".repeat(200)
    );
    let broken = format!("{}x", written(&message("{}")));
    for element in [
        "",
        "hello",
        "5",
        "null",
        "[]",
        "{}",
        "\"text\"",
        r#"{"body": ""}"#,
        r#"{"properties": {}}"#,
        r#"{"body": null, "properties": {}}"#,
        r#"{"body": {"a": 1}, "properties": {}}"#,
        r#"{"body": "", "properties": []}"#,
        r#"{"body": "", "properties": {}, "headers": []}"#,
        r#"{"body": "_w==", "properties": {"body_encoding": "base64"}}"#,
        r#"{"body": "", "properties": {"body_encoding": "rot13"}}"#,
        r#"{"body": "", "properties": {}"#,
        deep.as_str(),
        broken.as_str(),
    ] {
        let decoded = read(element.to_owned());
        assert_eq!(decoded.envelope.body(), element.as_bytes(), "{element}");
        assert_eq!(decoded.envelope.content_type(), None);
        assert!(decoded.envelope.headers().is_empty());
        assert_eq!((decoded.failures, decoded.redelivered), (0, false));
    }
    let not_utf8 = b"{\"body\": \"\xff\", \"properties\": {}}";
    assert_eq!(read(&not_utf8[..]).envelope.body(), &not_utf8[..]);
}

#[test]
fn two_raw_elements_have_different_tags_if_they_go_on() {
    let ids = [read("x"), read("x")].map(|decoded| decoded.envelope.publish_id());
    assert_ne!(ids[0], ids[1]);
}

#[test]
fn what_an_envelope_lacks_has_python_s_defaults() {
    let element = r#" {"body": "text", "properties": {"priority": null, "delivery_info": 5}, "headers": null} "#;
    let decoded = read(element);
    let bare = Content::new(Name::EMPTY, Name::EMPTY, Bytes::from_static(b"text"));
    assert_eq!(kept(&decoded.envelope), kept(&bare));
}

#[test]
fn what_is_written_otherwise_is_understood() {
    let element = concat!(
        r#"{"properties":{"priority":"7","expiration":2500,"timestamp":"12","correlation_id":5,"type":null,"#,
        r#""delivery_info":{"routing_key":"old"},"delivery_info":{"exchange":null,"routing_key":"new"},"#,
        r#""delivery_mode":1,"unknown":{"a":[1,{}]}},"\u0062ody":"first","body":"aGk=","x":[],"#,
        r#""properties":{"body_encoding":"base64","priority":"7","expiration":2500,"timestamp":"12","#,
        r#""correlation_id":5,"delivery_info":{"exchange":null,"routing_key":"new"},"delivery_mode":1}}"#
    );
    let mut expected = Content::new(Name::EMPTY, "new".into(), Bytes::from_static(b"hi"));
    expected.set_priority(7);
    expected.set_expiration(Some(Duration::from_millis(2500)));
    expected.set_timestamp(Timestamp::from_secs(12));
    expected.set_correlation_id("5");
    expected.set_delivery_mode(DeliveryMode::Transient);
    assert_eq!(kept(&read(element).envelope), kept(&expected));
}

/// What kombu 5.7.0 and Celery 5.7.0 wrote, with redis-py 8.1.0.
fn captured(element: &'static [u8]) -> Decoded {
    let decoded = decode(&Bytes::from_static(element));
    assert_eq!(decoded.failures, 0);
    decoded
}

/// What kombu writes for `{"a": 1}` at least.
fn captured_plain() -> Content {
    let mut content = message("{\"a\": 1}");
    content.set_priority(0);
    content
}

#[test]
fn a_plain_message_of_python_s() {
    let decoded = captured(include_bytes!("golden/plain.json"));
    assert_eq!(kept(&decoded.envelope), kept(&captured_plain()));
    let id = PublishId {
        producer: 0xa186_0099_ccbc_41be,
        sequence: 0xaf12_8472_8f74_fe1d,
    };
    assert_eq!(decoded.envelope.publish_id(), id);
    assert!(!decoded.redelivered);
}

#[test]
fn a_message_of_python_s_with_all_properties() {
    let decoded = captured(include_bytes!("golden/all-properties.json"));
    let mut expected = message("ünïcode");
    expected.set_content_type("text/plain");
    expected.set_correlation_id("cid");
    expected.set_reply_to("replies");
    expected.set_message_id("mid");
    expected.set_timestamp(Timestamp::from_secs(1_700_000_000));
    expected.set_app_id("app");
    expected.set_kind("kind");
    expected.set_user_id("user");
    expected.set_cluster_id("cluster");
    expected.set_expiration(Some(Duration::from_secs(10)));
    expected.set_delivery_mode(DeliveryMode::Transient);
    expected.set_priority(0);
    *expected.headers_mut() = FieldTable::from([
        ("none", FieldValue::Void),
        ("true", true.into()),
        ("int", FieldValue::I64(7)),
        ("big", "9223372036854775808".into()),
        ("float", FieldValue::F64(1.5)),
        ("nan", FieldValue::F64(f64::NAN)),
        ("text", "ünï\u{1F600}".into()),
        ("list", vec![FieldValue::I64(1), "x".into()].into()),
        ("table", FieldTable::from([("inner", 2_i64)]).into()),
        ("bytes", b"\xff\x00".into()),
        ("utf8", b"text".into()),
        ("time", Timestamp::from_secs(1_767_323_045).into()),
        (
            "decimal",
            FieldValue::Decimal {
                scale: 2,
                value: 1250,
            },
        ),
        ("uuid", "00000000-0000-0000-0000-000000000001".into()),
        ("date", "2026-01-02".into()),
    ]);
    assert_eq!(kept(&decoded.envelope), kept(&expected));
}

#[test]
fn a_compressed_message_of_python_s() {
    let decoded = captured(include_bytes!("golden/msgpack-zlib.json"));
    let mut expected = captured_plain();
    expected.set_content_type("application/x-msgpack");
    expected.set_content_encoding("binary");
    expected.set_body(&b"\x78\x9c\x6b\x5c\x98\xc8\x08\x00\x04\xae\x01\x85"[..]);
    let headers = expected.headers_mut();
    headers.insert("compression", "application/x-gzip");
    assert_eq!(kept(&decoded.envelope), kept(&expected));
}

#[test]
fn a_message_of_python_s_with_a_priority() {
    let decoded = captured(include_bytes!("golden/priority.json"));
    let mut expected = captured_plain();
    expected.set_priority(5);
    assert_eq!(kept(&decoded.envelope), kept(&expected));
}

#[test]
fn a_message_that_python_gave_back() {
    let decoded = captured(include_bytes!("golden/requeued.json"));
    let mut expected = captured_plain();
    expected.headers_mut().insert("h", "v");
    assert_eq!(kept(&decoded.envelope), kept(&expected));
    assert!(decoded.redelivered);
}

#[test]
fn a_message_of_ours_that_python_gave_back() {
    let decoded = captured(include_bytes!("golden/through-python.json"));
    assert_eq!(kept(&decoded.envelope), kept(&everything()));
    assert_eq!(decoded.envelope.publish_id(), ID);
    assert!(decoded.redelivered);
}

#[test]
fn a_task_of_celery_s() {
    let task = captured(include_bytes!("golden/celery-task.json")).envelope;
    let headers = task.headers();
    assert_eq!(headers.len(), 19);
    assert_eq!(headers.get("task"), Some(&"tapp.add".into()));
    assert_eq!(headers.get("retries"), Some(&FieldValue::I64(0)));
    let none = vec![FieldValue::Void, FieldValue::Void];
    assert_eq!(headers.get("timelimit"), Some(&none.into()));
    assert_eq!(headers.get("stamps"), Some(&FieldTable::new().into()));
    let id = headers.get("id").and_then(FieldValue::as_str);
    assert_eq!(task.correlation_id(), id);
    assert_eq!(task.expiration(), Some(Duration::from_secs(60)));
    assert_eq!(task.routing_key(), "celery");
    let body =
        r#"[[2, 3], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]"#;
    assert_eq!(task.body(), body.as_bytes());
}

#[test]
fn a_reply_of_celery_s() {
    let task = captured(include_bytes!("golden/celery-task.json")).envelope;
    let reply = captured(include_bytes!("golden/celery-reply.json")).envelope;
    assert_eq!(reply.correlation_id(), task.correlation_id());
    assert_eq!(Some(reply.routing_key().as_str()), task.reply_to());
    assert_eq!(reply.delivery_mode(), DeliveryMode::Transient);
    let body: serde_json::Value = serde_json::from_slice(reply.body()).unwrap();
    assert_eq!(
        (&body["status"], &body["result"]),
        (&"SUCCESS".into(), &5.into())
    );
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => any::<String>(),
        1 => "[ -~\\PC\"\\\\\u{0}-\u{1f}]{0,40}",
        1 => Just(INFO.to_owned()),
    ]
}

fn header_name() -> impl Strategy<Value = String> {
    prop_oneof![
        2 => text(),
        1 => prop::sample::select(vec![
            "", ".", "__type__", "__value__", "redelivered", "delivery_info", "compression", "_kt",
        ]).prop_map(String::from),
    ]
}

fn field_value() -> impl Strategy<Value = FieldValue> {
    let leaf = prop_oneof![
        Just(FieldValue::Void),
        any::<bool>().prop_map(FieldValue::Bool),
        any::<i8>().prop_map(FieldValue::I8),
        any::<u8>().prop_map(FieldValue::U8),
        any::<i16>().prop_map(FieldValue::I16),
        any::<u16>().prop_map(FieldValue::U16),
        any::<i32>().prop_map(FieldValue::I32),
        any::<u32>().prop_map(FieldValue::U32),
        any::<i64>().prop_map(FieldValue::I64),
        any::<u32>().prop_map(|bits| FieldValue::F32(f32::from_bits(bits))),
        any::<u64>().prop_map(|bits| FieldValue::F64(f64::from_bits(bits))),
        (any::<f32>()).prop_map(FieldValue::F32),
        (any::<f64>()).prop_map(FieldValue::F64),
        (any::<u8>(), any::<u32>()).prop_map(|(scale, value)| FieldValue::Decimal { scale, value }),
        text().prop_map(FieldValue::from),
        any::<Vec<u8>>().prop_map(FieldValue::from),
        text().prop_map(|text| FieldValue::from(text.into_bytes())),
        any::<u64>().prop_map(|secs| Timestamp::from_secs(secs).into()),
        (0..300_000_000_000_u64).prop_map(|secs| Timestamp::from_secs(secs).into()),
    ];
    leaf.prop_recursive(6, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(FieldValue::from),
            prop::collection::vec((header_name(), inner.clone()), 0..6)
                .prop_map(|entries| FieldTable::from_iter(entries).into()),
            (inner.clone(), inner).prop_map(|(one, other)| {
                FieldTable::from([("__type__", one), ("__value__", other)]).into()
            }),
        ]
    })
}

prop_compose! {
    fn content()(
        address in (text(), text()),
        body in prop_oneof![any::<Vec<u8>>(), text().prop_map(String::into_bytes)],
        encoding in prop::option::of(prop::sample::select(vec!["utf-8", "UTF-8", "binary"])),
        headers in prop::collection::vec((header_name(), field_value()), 0..6),
        texts in prop::array::uniform8(prop::option::of(text())),
        transient in any::<bool>(),
        priority in any::<Option<u8>>(),
        expiration in any::<Option<u64>>(),
        timestamp in any::<Option<u64>>(),
    ) -> Content {
        let mut content = Content::new(address.0.into(), address.1.into(), body.into());
        *content.headers_mut() = FieldTable::from_iter(headers);
        if let Some(encoding) = encoding {
            content.set_content_encoding(encoding);
        }
        let setters: [fn(&mut Content, String); 8] = [
            Content::set_content_type,
            Content::set_correlation_id,
            Content::set_reply_to,
            Content::set_message_id,
            Content::set_kind,
            Content::set_user_id,
            Content::set_app_id,
            Content::set_cluster_id,
        ];
        for (set, text) in setters.into_iter().zip(texts) {
            if let Some(text) = text {
                set(&mut content, text);
            }
        }
        if transient {
            content.set_delivery_mode(DeliveryMode::Transient);
        }
        if let Some(priority) = priority {
            content.set_priority(priority);
        }
        content.set_expiration(expiration.map(Duration::from_millis));
        if let Some(secs) = timestamp {
            content.set_timestamp(Timestamp::from_secs(secs));
        }
        content
    }
}

/// How a script or a proxy, or a disk, may change an element.
fn damage(element: &mut Vec<u8>, changes: &[(usize, u8, u8)]) {
    for &(at, byte, kind) in changes {
        if element.is_empty() {
            return;
        }
        let at = at % element.len();
        match kind % 4 {
            0 => element[at] = byte,
            1 => element.insert(at, byte),
            2 => drop(element.remove(at)),
            _ => element.truncate(at),
        }
    }
}

proptest! {
    #[test]
    fn whatever_is_sent_comes_back(
        content in content(),
        id in any::<(u64, u64)>(),
    ) {
        let id = PublishId { producer: id.0, sequence: id.1 };
        let element = encode(&Envelope::new(id, content.clone()));
        let decoded = read(element);
        prop_assert_eq!(kept(&decoded.envelope), kept(&content));
        prop_assert_eq!(decoded.envelope.publish_id(), id);
        prop_assert_eq!((decoded.failures, decoded.redelivered), (0, false));
    }

    #[test]
    fn a_flag_behind_the_last_delivery_info_changes_nothing_else(content in content()) {
        let element = written(&content);
        let (before, after) = element.rsplit_once(INFO).unwrap();
        let decoded = read(format!("{before}{INFO}\"redelivered\": true, {after}"));
        prop_assert!(decoded.redelivered);
        prop_assert_eq!(kept(&decoded.envelope), kept(&content));
    }

    #[test]
    fn any_bytes_are_a_message(element in any::<Vec<u8>>()) {
        let decoded = read(element.clone());
        prop_assert_eq!(decoded.envelope.body(), &element);
    }

    #[test]
    fn a_damaged_element_is_a_message_that_can_go_on(
        content in content(),
        changes in prop::collection::vec(any::<(usize, u8, u8)>(), 1..6),
    ) {
        let mut element = encode(&Envelope::new(ID, content));
        damage(&mut element, &changes);
        let first = read(element).envelope;
        let second = read(encode(&first)).envelope;
        prop_assert_eq!(kept(&second), kept(&first));
        prop_assert_eq!(second.publish_id(), first.publish_id());
    }

    #[test]
    fn what_is_json_is_read_and_what_is_read_is_json(
        text in "([\\[\\]{},:\" ]|[0-9]{1,3}|-|\\.|[eE]|true|false|null|\\\\[\"nu/x]|00e9|\"[ab\\\\]{0,3}\"|\"a\":|\t){1,12}",
    ) {
        let mut reader = Reader::new(&text);
        let is_read = reader.skip().is_ok() && reader.end().is_ok();
        let is_json = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
        prop_assert_eq!(is_read, is_json, "{:?}", text);
    }

    #[test]
    fn strings_are_json_s(text in text()) {
        let mut out = Vec::new();
        super::json::string(&mut out, &text);
        let read: String = serde_json::from_slice(&out).unwrap();
        prop_assert_eq!(read, text);
    }
}
