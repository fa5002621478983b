//! What a foreign program may write to RabbitMQ: frames, made by hand.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use fastrand::Rng;

use super::bodies::{self, Body};

/// The exchange that takes entries to the queue whatever their key.
pub(super) const FANOUT: &str = "foreign";
const QUEUE: &[u8] = b"jobs";
const LARGEST: usize = 100_000;
const PATIENCE: Duration = Duration::from_secs(20);

/// One publish: where to, and the properties and the body of the message.
pub(super) struct Entry {
    exchange: &'static str,
    key: Vec<u8>,
    properties: Vec<u8>,
    body: Vec<u8>,
}

/// Bit of a property, and whether it is a short text.
const TEXTS: [u16; 7] = [10, 9, 7, 5, 3, 2, 8];
const REPLY_TO: u16 = 9;
const EXPIRATION: u16 = 8;

const DEATHS: &[u8] = b"x-death";

/// Headers that somebody reads: the broker, this library, or those of other languages.
const NAMES: [&[u8]; 18] = [
    DEATHS,
    b"x-first-death-reason",
    b"x-delivery-count",
    b"x-kombu-failures",
    b"x-kombu-exchange",
    b"x-kombu-user-id",
    b"x-kombu-before",
    b"x-kombu-origin",
    b"x-kombu-publish",
    b"x-kombu-delay-to",
    b"x-kombu-retry-to",
    b"compression",
    b"x-match",
    b"id",
    b"task",
    b"",
    b"pr\xe9nom",
    b"\xff\xfe\xc3",
];

/// A header that RabbitMQ refuses if it is no array. That takes another connection, so there are few.
const REFUSED: &[u8] = b"BCC";

pub(super) fn entry(rng: &mut Rng, token: &str) -> Entry {
    let body = bodies::any(rng, token);
    let mut fields: Vec<(u16, Vec<u8>)> = Vec::new();
    if let Some(kind) = &body.content_type {
        fields.push((15, short(kind)));
    }
    if let Some(encoding) = &body.content_encoding {
        fields.push((14, short(encoding)));
    }
    let headers = headers(rng, token, &body);
    let has_died = headers.windows(DEATHS.len()).any(|name| name == DEATHS);
    fields.push((13, long(&headers)));
    if rng.bool() {
        // What is persistent is confirmed late.
        fields.push((12, vec![if rng.u8(..8) == 0 { 2 } else { 1 }]));
    }
    if rng.bool() {
        fields.push((11, vec![*rng.choice(&[0, 9, 10, 255]).unwrap()]));
    }
    for bit in TEXTS {
        // Where RabbitMQ by itself counts one more death in what is no list of tables, its queue ends.
        if rng.u8(..4) > 0 || bit == EXPIRATION && has_died {
            continue;
        }
        let text = match bit {
            // Somebody who can't be answered, and numbers that the broker takes.
            REPLY_TO => rng.choice([&b"nobody"[..], b"", b"amq.rabbitmq.reply-to.x"]),
            EXPIRATION => rng.choice([&b"0"[..], b"1", b"60000", b"4294967295"]),
            _ => rng.choice([&b""[..], b"text", b"caf\xe9", b"\xff\xff", &[b'x'; 255]]),
        };
        fields.push((bit, short(text.unwrap())));
    }
    if rng.bool() {
        fields.push((6, rng.u64(..).to_be_bytes().to_vec()));
    }
    fields.sort_by_key(|(bit, _)| std::cmp::Reverse(*bit));
    let flags = fields
        .iter()
        .fold(0, |flags, (bit, _)| flags | 1_u16 << bit);
    let mut properties = flags.to_be_bytes().to_vec();
    properties.extend(fields.into_iter().flat_map(|(_, field)| field));
    let keys = [&b""[..], b"key", b"caf\xe9", b"\xff\xc3", &[0xE9; 255]];
    let (exchange, key) = match rng.bool() {
        true => ("", QUEUE),
        false => (FANOUT, *rng.choice(&keys).unwrap()),
    };
    Entry {
        exchange,
        key: key.to_vec(),
        properties,
        body: body.bytes,
    }
}

fn headers(rng: &mut Rng, token: &str, body: &Body) -> Vec<u8> {
    let mut headers = [short(b"entry"), text(token.as_bytes())].concat();
    if let Some(compression) = &body.compression {
        headers.extend([short(b"compression"), text(compression)].concat());
    }
    let mut has_died = false;
    for _ in 0..rng.usize(..4) {
        let name = rng.choice(NAMES).unwrap();
        // Of two, RabbitMQ counts in the first, and the last is read.
        if name == DEATHS && std::mem::replace(&mut has_died, true) {
            continue;
        }
        headers.extend(short(name));
        headers.extend(value(rng, 0));
    }
    if rng.u8(..40) == 0 {
        headers.extend([short(REFUSED), text(b"nobody")].concat());
    }
    if rng.u8(..20) == 0 {
        headers.extend(short(b"deep"));
        headers.extend(deep(rng.usize(1..10_000)));
    }
    headers
}

/// Arrays in arrays: the innermost has nothing.
fn deep(depth: usize) -> Vec<u8> {
    const EACH: usize = 5;
    let lengths = (0..depth).rev().map(|inner| (inner * EACH) as u32);
    let levels = lengths.flat_map(|length| {
        let [a, b, c, d] = length.to_be_bytes();
        [b'A', a, b, c, d]
    });
    levels.collect()
}

fn value(rng: &mut Rng, depth: usize) -> Vec<u8> {
    let number = rng.choice([0, 1, -1, i64::MIN, i64::MAX, 1 << 32]).unwrap();
    let bytes = number.to_be_bytes();
    match rng.u8(..if depth < 3 { 16 } else { 14 }) {
        0 => vec![b't', rng.u8(..)],
        1 => vec![b'b', rng.u8(..)],
        2 => vec![b'B', rng.u8(..)],
        3 => [b"s", &bytes[6..]].concat(),
        4 => [b"u", &bytes[6..]].concat(),
        5 => [b"I", &bytes[4..]].concat(),
        6 => [b"i", &bytes[4..]].concat(),
        7 => [b"l", &bytes[..]].concat(),
        8 => [b"T", &bytes[..]].concat(),
        9 => [b"d", &f64::MAX.to_be_bytes()[..]].concat(),
        10 => vec![b'D', 255, 255, 255, 255, 255],
        11 => text(
            rng.choice([&b""[..], b"soon", b"jobs", b"\xff\xfe", b"rejected"])
                .unwrap(),
        ),
        12 => [b"x", &long(b"\0\xff")[..]].concat(),
        13 => vec![b'V'],
        14 => [
            b"A",
            &long(
                &(0..rng.u8(..3))
                    .flat_map(|_| value(rng, depth + 1))
                    .collect::<Vec<_>>(),
            )[..],
        ]
        .concat(),
        _ => {
            let names = [&b"count"[..], b"queue", b"reason", b"count", b"\xff", b""];
            let fields = (0..rng.u8(..4)).flat_map(|_| {
                let name = short(rng.choice(names).unwrap());
                [name, value(rng, depth + 1)].concat()
            });
            [b"F", &long(&fields.collect::<Vec<_>>())[..]].concat()
        }
    }
}

fn text(text: &[u8]) -> Vec<u8> {
    [b"S", &long(text)[..]].concat()
}

fn short(text: &[u8]) -> Vec<u8> {
    [&[text.len() as u8], text].concat()
}

fn long(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_be_bytes(), bytes].concat()
}

impl Entry {
    pub(super) fn shown(&self) -> String {
        format!(
            "exchange {:?}, key {}, properties {}, body {}",
            self.exchange,
            self.key.escape_ascii(),
            bodies::shown(&self.properties),
            bodies::shown(&self.body)
        )
    }
}

/// A connection of its own, with one channel in confirm mode.
pub(super) struct Line {
    address: String,
    stream: TcpStream,
}

impl Line {
    pub(super) fn open(address: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut line = Line {
            address: address.to_owned(),
            stream,
        };
        line.stream.write_all(b"AMQP\0\0\x09\x01").unwrap();
        let start_ok = [
            long(b""),
            short(b"PLAIN"),
            long(b"\0guest\0guest"),
            short(b"en_US"),
        ];
        line.send(0, [0, 10, 0, 11], &start_ok.concat());
        line.until([0, 10, 0, 30]);
        // Up to 7 channels, frames of 128 KiB, no heartbeat.
        line.send(0, [0, 10, 0, 31], &[0, 7, 0, 2, 0, 0, 0, 0]);
        line.send(0, [0, 10, 0, 40], &[&short(b"/")[..], &[0, 0]].concat());
        line.until([0, 10, 0, 41]);
        line.send(1, [0, 20, 0, 10], &[0]);
        line.until([0, 20, 0, 11]);
        line.send(1, [0, 85, 0, 10], &[0]);
        line.until([0, 85, 0, 11]);
        line
    }

    fn send(&mut self, channel: u8, method: [u8; 4], arguments: &[u8]) {
        self.frame(1, channel, &[&method[..], arguments].concat());
    }

    fn frame(&mut self, kind: u8, channel: u8, payload: &[u8]) {
        let frame = [&[kind, 0, channel], &long(payload)[..], &[0xCE]].concat();
        self.stream.write_all(&frame).unwrap();
    }

    /// Waits for a method; false if the broker closes something instead.
    fn until(&mut self, method: [u8; 4]) -> bool {
        loop {
            let mut begin = [0; 7];
            self.stream
                .read_exact(&mut begin)
                .expect("RabbitMQ answers");
            let length = u32::from_be_bytes(*begin.last_chunk().unwrap());
            let mut payload = vec![0; length as usize + 1];
            self.stream
                .read_exact(&mut payload)
                .expect("RabbitMQ answers");
            match payload.first_chunk() {
                Some(found) if *found == method => return true,
                Some([0, 10, 0, 50] | [0, 20, 0, 40]) => return false,
                _ => {}
            }
        }
    }

    /// Whether the broker takes it.
    pub(super) fn write(&mut self, entry: &Entry) -> bool {
        let publish = [
            &[0, 0],
            &short(entry.exchange.as_bytes())[..],
            &short(&entry.key),
            &[0],
        ];
        self.send(1, [0, 60, 0, 40], &publish.concat());
        let length = (entry.body.len() as u64).to_be_bytes();
        let header = [&[0, 60, 0, 0], &length[..], &entry.properties].concat();
        self.frame(2, 1, &header);
        for part in entry.body.chunks(LARGEST) {
            self.frame(3, 1, part);
        }
        let is_taken = self.until([0, 60, 0, 80]);
        if !is_taken {
            *self = Line::open(&self.address);
        }
        is_taken
    }
}
