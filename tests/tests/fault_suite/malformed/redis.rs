//! What a foreign program may write to Redis: elements of the lists of a queue, as Python's kombu has them.

use fastrand::Rng;
use kombu_tests::RedisAdmin;
use serde_json::{Map, Value, json};

use super::bodies;

/// One element, and the list that it goes to.
pub(super) struct Entry {
    list: &'static str,
    element: Vec<u8>,
}

/// Those of the queue: Python's four steps of priority.
const LISTS: [&str; 4] = ["jobs", "jobs\x06\x163", "jobs\x06\x166", "jobs\x06\x169"];

const MARKERS: [&str; 16] = [
    "",
    "soon",
    "0:0:0:0",
    "0:0:1:0",
    "0:999999999:0:0",
    "0:0:999999999999999:999999999999999",
    "170:3:0:0",
    "0070:0:0:0",
    "00:0:0:0",
    "9999999999999993:0:0:0",
    "9999999999999999:0:0:0",
    "99999999999999999999990:0:0:0",
    "0:99999999999999999999:0:0",
    "-1:-1:-1:-1",
    "0:0:0",
    "0:0:0:0:0",
];

pub(super) fn entry(rng: &mut Rng, token: &str) -> Entry {
    let mut element = match rng.u8(..10) {
        // No envelope at all.
        0 => bodies::any(rng, token).bytes,
        1 => format!("\"{token}\"").into_bytes(),
        _ => envelope(rng, token),
    };
    for _ in 0..[0, 0, 0, 0, 0, 1, 8][rng.usize(..7)] {
        let at = rng.usize(..=element.len());
        match rng.u8(..4) {
            0 => element.truncate(at.max(element.len() / 2)),
            1 => element.insert(at, rng.u8(..)),
            2 => element.insert(at, *rng.choice(b"{}[]\":,\\u\xff\x00").unwrap()),
            _ => {
                if let Some(byte) = element.get_mut(at) {
                    *byte ^= 1 << rng.u8(..8);
                }
            }
        }
    }
    if rng.u8(..3) == 0 {
        let name = rng.choice(["_kq", "_kr", "_kx"]).unwrap();
        let marker = rng.choice(MARKERS).unwrap();
        let rest = element.strip_prefix(b"{").unwrap_or(&element);
        element = [format!("{{\"{name}\":\"{marker}\",").as_bytes(), rest].concat();
    }
    Entry {
        list: rng.choice(LISTS).unwrap(),
        element,
    }
}

/// One of Python's, with some of its fields missing, doubled, or of another type.
fn envelope(rng: &mut Rng, token: &str) -> Vec<u8> {
    let body = bodies::any(rng, token);
    let lossy = |bytes: &Option<Vec<u8>>| match bytes {
        Some(bytes) => Value::from(String::from_utf8_lossy(bytes)),
        None => Value::Null,
    };
    let is_text = rng.bool();
    let text = match is_text {
        true => String::from_utf8_lossy(&body.bytes).into_owned(),
        false => base64(&body.bytes),
    };
    let mut headers = json!({"entry": token, "compression": lossy(&body.compression)});
    let mut properties = json!({
        "correlation_id": token,
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": "jobs"},
        "priority": 0,
        "body_encoding": if is_text { "utf-8" } else { "base64" },
        "delivery_tag": token,
    });
    for _ in 0..rng.usize(..3) {
        let names = [
            "x-death",
            "x-first-death-reason",
            "redelivered",
            "id",
            "__type__",
            "BCC",
        ];
        headers[*rng.choice(&names).unwrap()] = wrong(rng, 0);
    }
    for _ in 0..rng.usize(..3) {
        let names = [
            "correlation_id",
            "reply_to",
            "message_id",
            "timestamp",
            "app_id",
            "type",
            "user_id",
            "_kt",
            "_kbcc",
            "expiration",
            "delivery_mode",
            "delivery_info",
            "priority",
            "body_encoding",
            "delivery_tag",
        ];
        properties[*rng.choice(&names).unwrap()] = wrong(rng, 0);
    }
    let mut envelope = json!({
        "body": text,
        "content-encoding": lossy(&body.content_encoding),
        "content-type": lossy(&body.content_type),
        "headers": headers,
        "properties": properties,
    });
    let names = [
        "body",
        "content-encoding",
        "content-type",
        "headers",
        "properties",
        "redelivered",
    ];
    match rng.u8(..8) {
        0 => envelope[*rng.choice(&names).unwrap()] = wrong(rng, 0),
        1 => drop(
            envelope
                .as_object_mut()
                .and_then(|all| all.remove(*rng.choice(&names).unwrap())),
        ),
        _ => {}
    }
    let mut text = envelope.to_string();
    match rng.u8(..12) {
        // The same again, with something else in it.
        0 => {
            let name = rng.choice(names).unwrap();
            let value = wrong(rng, 0);
            text.pop();
            text.push_str(&format!(",\"{name}\":{value}}}"));
        }
        1 => {
            text = text.replacen(
                "\"headers\":{",
                &format!("\"headers\":{{\"deep\":{},", deep(rng)),
                1,
            )
        }
        2 => text = text.replacen(":2,", ":-1e999,", 1),
        3 => text = text.replacen(token, "\\ud800\\u0000", 1),
        _ => {}
    }
    text.into_bytes()
}

fn deep(rng: &mut Rng) -> String {
    let depth = rng.usize(1..20_000);
    "[".repeat(depth) + &"]".repeat(depth)
}

fn wrong(rng: &mut Rng, depth: usize) -> Value {
    match rng.u8(..if depth < 3 { 14 } else { 10 }) {
        0 => Value::Null,
        1 => json!(rng.bool()),
        2 => json!(-1),
        3 => json!(u64::MAX),
        4 => json!(1e300),
        5 => json!("soon"),
        6 => json!(""),
        7 => json!("base64"),
        8 => json!("-1"),
        9 => json!("99999999999999999999999"),
        10 => (0..rng.u8(..3)).map(|_| wrong(rng, depth + 1)).collect(),
        11 => {
            let kinds = [
                "bytes", "datetime", "decimal", "date", "time", "uuid", "none",
            ];
            json!({"__type__": rng.choice(kinds), "__value__": wrong(rng, depth + 1)})
        }
        _ => {
            let names = [
                "count",
                "queue",
                "exchange",
                "routing_key",
                "redelivered",
                "x-death",
                "",
            ];
            let fields = (0..rng.u8(..3)).map(|_| {
                let name = rng.choice(names).unwrap_or_default();
                (name.to_owned(), wrong(rng, depth + 1))
            });
            Value::Object(fields.collect::<Map<_, _>>())
        }
    }
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

impl Entry {
    pub(super) fn shown(&self) -> String {
        format!("{:?}: {}", self.list, bodies::shown(&self.element))
    }

    pub(super) fn write(&self, admin: &RedisAdmin) {
        admin.ask([&b"LPUSH"[..], self.list.as_bytes(), &self.element]);
    }
}
