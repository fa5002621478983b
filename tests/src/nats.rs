use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kombu::Registry;
use kombu_testkit::brokers::Nats;
use kombu_testkit::{Broker, Harness, table};
use serde_json::Value;
use url::Url;

/// A prefix of its own for each case, on the NATS of `KOMBU_TEST_NATS_URL`.
#[derive(Clone, Debug)]
pub struct NatsHarness {
    url: Url,
    is_in_memory: bool,
}

impl NatsHarness {
    /// The harness.
    ///
    /// # Panics
    ///
    /// If the variable isn't set.
    pub fn new() -> Self {
        let Ok(url) = std::env::var("KOMBU_TEST_NATS_URL") else {
            panic!("KOMBU_TEST_NATS_URL isn't set: it says where NATS is");
        };
        NatsHarness {
            url: Url::parse(&url).expect("KOMBU_TEST_NATS_URL is a URL"),
            is_in_memory: false,
        }
    }

    /// The same with durable queues in the server's memory.
    pub fn in_memory() -> Self {
        NatsHarness {
            is_in_memory: true,
            ..Self::new()
        }
    }
}

impl Default for NatsHarness {
    fn default() -> Self {
        Self::new()
    }
}

impl Harness for NatsHarness {
    fn name(&self) -> &str {
        "nats"
    }

    fn registry(&self) -> Registry {
        Registry::new().with(kombu::nats::Nats)
    }

    async fn broker(&self) -> Broker {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let prefix = format!(
            "kombu-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let mut url = self.url.clone();
        url.query_pairs_mut().append_pair("prefix", &prefix);
        if self.is_in_memory {
            url.query_pairs_mut().append_pair("storage", "memory");
        }
        Broker::new(self.registry(), url)
            .with_lag(Duration::from_millis(400))
            .with_freedoms(table::freedoms("nats"))
            .keep(Prefix {
                url: self.url.clone(),
                prefix,
            })
    }
}

/// All streams whose names begin with it are deleted when the case is over.
struct Prefix {
    url: Url,
    prefix: String,
}

impl Drop for Prefix {
    fn drop(&mut self) {
        let mut line = NatsLine::open(&self.url);
        let names = line.request("$JS.API.STREAM.NAMES", "{}");
        let names = names["streams"].as_array().cloned().unwrap_or_default();
        let own = [format!("{}-", self.prefix), format!("KV_{}_", self.prefix)];
        for name in names.iter().filter_map(Value::as_str) {
            if own.iter().any(|own| name.starts_with(own.as_str())) {
                line.request(&format!("$JS.API.STREAM.DELETE.{name}"), "");
            }
        }
    }
}

/// A connection to a NATS server that knows nothing of kombu.
#[derive(Debug)]
pub struct NatsLine {
    stream: BufReader<TcpStream>,
}

impl NatsLine {
    /// Connects.
    ///
    /// # Panics
    ///
    /// If there is no server.
    pub fn open(url: &Url) -> Self {
        let address = format!(
            "{}:{}",
            url.host_str().expect("a URL with a host"),
            url.port().unwrap_or(4222)
        );
        let stream = TcpStream::connect(address).expect("NATS is there");
        let mut line = NatsLine {
            stream: BufReader::new(stream),
        };
        line.send("CONNECT {\"verbose\":false,\"pedantic\":false}\r\n");
        line
    }

    fn send(&mut self, text: &str) {
        let stream = self.stream.get_mut();
        stream.write_all(text.as_bytes()).expect("NATS is there");
    }

    /// Connects to where a queue is. Answers the name of its stream as well.
    ///
    /// # Panics
    ///
    /// If there is no server, or no such queue.
    pub fn to_stream_of(nats: &Nats, queue: &str) -> (Self, String) {
        let url = Url::parse(&nats.url()).expect("a URL");
        let mut line = NatsLine::open(&url);
        let subject = format!(r#"{{"subject":"kombu.q.{queue}.*"}}"#);
        let names = line.request("$JS.API.STREAM.NAMES", &subject);
        let name = names["streams"][0].as_str().expect("a queue").to_owned();
        (line, name)
    }

    /// Asks, and answers what comes back as JSON.
    ///
    /// # Panics
    ///
    /// If nothing does.
    pub fn request(&mut self, subject: &str, body: &str) -> Value {
        let inbox = format!("answers{}", fastrand_id());
        self.send(&format!(
            "SUB {inbox} 2\r\nPUB {subject} {inbox} {}\r\n{body}\r\n",
            body.len()
        ));
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).expect("NATS answers");
            if line.starts_with("PING") {
                self.send("PONG\r\n");
            }
            if line.starts_with("MSG ") {
                let length = line.trim().rsplit(' ').next().and_then(|n| n.parse().ok());
                let mut body = vec![0; length.unwrap_or(0) + 2];
                self.stream.read_exact(&mut body).expect("NATS answers");
                self.send("UNSUB 2\r\n");
                return serde_json::from_slice(&body).unwrap_or_default();
            }
        }
    }
}

fn fastrand_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    (u64::from(std::process::id()) << 32) + NEXT.fetch_add(1, Ordering::Relaxed)
}
