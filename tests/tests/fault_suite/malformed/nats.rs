//! What a foreign program may write to NATS: lines of headers, and subjects.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use fastrand::Rng;

use super::bodies;

const PATIENCE: Duration = Duration::from_secs(20);

/// One publish. Without headers, the body is all.
pub(super) struct Entry {
    subject: &'static str,
    headers: Vec<u8>,
    body: Vec<u8>,
}

/// Headers that somebody reads, but for those by which the server decides.
const NAMES: [&str; 20] = [
    "Kombu-Publish",
    "Kombu-Exchange",
    "Kombu-Key",
    "Kombu-Priority",
    "Kombu-Transient",
    "Kombu-Expiration",
    "Kombu-Timestamp",
    "Kombu-More",
    "Kombu-Due",
    "Kombu-To",
    "Kombu-Death",
    "Kombu-Message-Id",
    "Kombu-Reply-To",
    "Kombu-Type",
    "Kombu-Nonsense",
    "KOMBU-KEY",
    "compression",
    "x-death",
    "Status",
    "Description",
];

const VALUES: [&str; 19] = [
    "",
    "soon",
    "-1",
    "0",
    "1",
    "255",
    "256",
    "1e3",
    "18446744073709551615",
    "99999999999999999999999",
    "a-b",
    "ffffffffffffffff-ffffffffffffffff",
    "{}",
    "[1]",
    "{\"headers\":7}",
    "{\"headers\":{\"x-death\":{\"I64\":3}},\"texts\":{\"Kombu-Key\":\"k\",\"none\":\"\"},\"hidden_keys\":[\"\"]}",
    "{\"texts\":{\"Kombu-Message-Id\":\"\\u0000\"},\"key\":\"\\ud800\"}",
    "kombu.q.jobs.0",
    "caf\u{e9} \u{fffd}",
];

/// Those of the queue, one that it doesn't have, and what is no level.
const SUBJECTS: [&str; 4] = [
    "kombu.q.jobs.0",
    "kombu.q.jobs.9",
    "kombu.q.jobs.77",
    "kombu.q.jobs.none",
];

pub(super) fn entry(rng: &mut Rng, token: &str) -> Entry {
    let body = bodies::any(rng, token);
    let mut headers = Vec::new();
    let mut line = |name: &str, value: &[u8]| {
        // What isn't UTF-8 ends whoever pulls it: that takes a minute, and has a test of its own in `nats_lines.rs`.
        let value = String::from_utf8_lossy(value);
        headers.extend(format!("{name}: {value}\r\n").into_bytes());
    };
    let is_bare = rng.u8(..8) == 0;
    if !is_bare {
        line("entry", token.as_bytes());
        for (name, value) in [
            ("Content-Type", &body.content_type),
            ("Content-Encoding", &body.content_encoding),
            ("compression", &body.compression),
        ] {
            if let Some(value) = value {
                line(name, value);
            }
        }
        for _ in 0..rng.usize(..4) {
            let name = rng.choice(NAMES).unwrap();
            for _ in 0..rng.usize(1..3) {
                line(name, rng.choice(VALUES).unwrap().as_bytes());
            }
        }
        if rng.u8(..20) == 0 {
            let deep = "[".repeat(rng.usize(1..20_000));
            line(
                "Kombu-More",
                format!("{{\"headers\":{{\"deep\":{deep}").as_bytes(),
            );
        }
        if rng.u8(..20) == 0 {
            line(&"long".repeat(rng.usize(1..500)), b"");
        }
        if rng.u8(..4) == 0 {
            line("Nats-Msg-Id", format!("{token} \u{e9}").as_bytes());
        }
    }
    Entry {
        subject: rng.choice(SUBJECTS).unwrap(),
        headers,
        body: body.bytes,
    }
}

impl Entry {
    pub(super) fn shown(&self) -> String {
        let (headers, body) = (bodies::shown(&self.headers), bodies::shown(&self.body));
        format!("{}, headers {headers}, body {body}", self.subject)
    }
}

/// A connection of its own, which asks the stream for its answers.
pub(super) struct Line(BufReader<TcpStream>);

impl Line {
    pub(super) fn open(url: &str) -> Self {
        let url = url::Url::parse(url).unwrap();
        let address = (url.host_str().unwrap(), url.port().unwrap());
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut line = Line(BufReader::new(stream));
        let (user, password) = (url.username(), url.password().unwrap_or_default());
        let options =
            format!(r#"{{"verbose":false,"headers":true,"user":"{user}","pass":"{password}"}}"#);
        line.send(format!("CONNECT {options}\r\nSUB answers 1\r\n").as_bytes());
        line
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).unwrap();
    }

    /// Whether the stream takes it.
    pub(super) fn write(&mut self, entry: &Entry) -> bool {
        let (subject, body) = (entry.subject, &entry.body);
        let (begin, headers) = match entry.headers.is_empty() {
            true => (
                format!("PUB {subject} answers {}\r\n", body.len()),
                Vec::new(),
            ),
            false => {
                let headers = [b"NATS/1.0\r\n", &entry.headers[..], b"\r\n"].concat();
                let (length, all) = (headers.len(), headers.len() + body.len());
                (
                    format!("HPUB {subject} answers {length} {all}\r\n"),
                    headers,
                )
            }
        };
        self.send(&[begin.as_bytes(), &headers, body, b"\r\n"].concat());
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).expect("NATS answers");
            if line.starts_with("PING") {
                self.send(b"PONG\r\n");
            }
            assert!(!line.starts_with("-ERR"), "{line}");
            if line.starts_with("MSG ") {
                let length: usize = line.trim().rsplit(' ').next().unwrap().parse().unwrap();
                let mut answer = vec![0; length + 2];
                self.0.read_exact(&mut answer).expect("NATS answers");
                return !String::from_utf8_lossy(&answer).contains("error");
            }
        }
    }
}
