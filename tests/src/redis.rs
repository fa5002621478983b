use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kombu::Registry;
use kombu_testkit::brokers::Redis;
use kombu_testkit::{Broker, Harness, table};
use serde_json::Value;
use url::Url;

/// Removes all keys that begin with its argument.
const FORGET: &str = "for _, key in ipairs(redis.call('KEYS', ARGV[1] .. '*')) do redis.call('DEL', key) end return 1";

/// A prefix of its own for each case, on the Redis of `KOMBU_TEST_REDIS_URL`.
#[derive(Clone, Debug)]
pub struct RedisHarness {
    url: Url,
}

impl RedisHarness {
    /// The harness.
    ///
    /// # Panics
    ///
    /// If the variable isn't set.
    pub fn new() -> Self {
        let Ok(url) = std::env::var("KOMBU_TEST_REDIS_URL") else {
            panic!("KOMBU_TEST_REDIS_URL isn't set: it says where Redis is");
        };
        RedisHarness {
            url: Url::parse(&url).expect("KOMBU_TEST_REDIS_URL is a URL"),
        }
    }
}

impl Default for RedisHarness {
    fn default() -> Self {
        Self::new()
    }
}

impl Harness for RedisHarness {
    fn name(&self) -> &str {
        "redis"
    }

    fn registry(&self) -> Registry {
        Registry::new().with(kombu::redis::Redis)
    }

    async fn broker(&self) -> Broker {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let prefix = format!(
            "kombu-{}-{}.",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let mut url = self.url.clone();
        url.query_pairs_mut().append_pair("prefix", &prefix);
        Broker::new(self.registry(), url)
            .with_lag(Duration::from_millis(400))
            .with_freedoms(table::freedoms("redis"))
            .keep(Prefix {
                url: self.url.clone(),
                prefix,
            })
    }
}

/// All keys that begin with it are deleted when the case is over.
struct Prefix {
    url: Url,
    prefix: String,
}

impl Drop for Prefix {
    fn drop(&mut self) {
        redis_command(&self.url, &["EVAL", FORGET, "0", &self.prefix]);
    }
}

/// Sends one command, and returns the first line of the answer.
///
/// # Panics
///
/// If the server isn't there, or refuses.
pub fn redis_command(url: &Url, command: &[&str]) -> String {
    let host = url.host_str().unwrap_or("localhost");
    let port = url.port().unwrap_or(6379);
    let admin = RedisAdmin {
        address: format!("{host}:{port}"),
    };
    admin.ask(command.iter().copied())
}

/// Whoever works on a Redis by hand.
#[derive(Clone, Debug)]
pub struct RedisAdmin {
    address: String,
}

impl RedisAdmin {
    /// That of a Redis of our own.
    pub fn of(redis: &Redis) -> Self {
        Self::at(redis.address())
    }

    /// That of what is at `host:port`.
    pub fn at(address: impl Into<String>) -> Self {
        RedisAdmin {
            address: address.into(),
        }
    }

    /// Sends one command, and returns the first line of the answer.
    ///
    /// # Panics
    ///
    /// If the server isn't there, or refuses.
    pub fn ask<A: AsRef<[u8]>>(&self, command: impl IntoIterator<Item = A>) -> String {
        self.send(command).0
    }

    /// Sends one command, and returns the text that is the answer.
    ///
    /// # Panics
    ///
    /// If the server isn't there, refuses, or answers something else.
    pub fn text<A: AsRef<[u8]>>(&self, command: impl IntoIterator<Item = A>) -> String {
        let (first, mut rest) = self.send(command);
        let length = first
            .strip_prefix('$')
            .and_then(|length| length.parse().ok());
        let mut text = vec![0; length.expect("the length of a text")];
        rest.read_exact(&mut text).expect("all of it");
        String::from_utf8(text).expect("a text")
    }

    fn send<A: AsRef<[u8]>>(
        &self,
        command: impl IntoIterator<Item = A>,
    ) -> (String, BufReader<TcpStream>) {
        let parts: Vec<A> = command.into_iter().collect();
        let mut request = format!("*{}\r\n", parts.len()).into_bytes();
        for part in &parts {
            let part = part.as_ref();
            request.extend(format!("${}\r\n", part.len()).into_bytes());
            request.extend_from_slice(part);
            request.extend_from_slice(b"\r\n");
        }
        let mut stream = TcpStream::connect(&self.address).expect("Redis is there");
        stream.write_all(&request).expect("it takes a command");
        let mut answer = String::new();
        let mut stream = BufReader::new(stream);
        stream.read_line(&mut answer).expect("it answers");
        assert!(!answer.starts_with('-'), "{answer}");
        (answer.trim_end().to_owned(), stream)
    }
}

/// A connection of its own, without any of our library.
#[derive(Debug)]
pub struct RawRedis {
    stream: BufReader<TcpStream>,
}

impl RawRedis {
    /// Connects.
    ///
    /// # Panics
    ///
    /// If the server isn't there.
    pub fn connect(url: &Url) -> Self {
        let address = (
            url.host_str().unwrap_or("localhost"),
            url.port().unwrap_or(6379),
        );
        let stream = TcpStream::connect(address).expect("Redis is there");
        stream.set_nodelay(true).expect("a socket has the option");
        RawRedis {
            stream: BufReader::new(stream),
        }
    }

    /// Sends a command, and returns its answer.
    ///
    /// # Panics
    ///
    /// If the server refuses, or answers what isn't text.
    pub fn ask(&mut self, command: &[&str]) -> Value {
        let mut request = format!("*{}\r\n", command.len());
        for part in command {
            request += &format!("${}\r\n{part}\r\n", part.len());
        }
        let stream = self.stream.get_mut();
        stream
            .write_all(request.as_bytes())
            .expect("it takes a command");
        self.answer(command[0])
    }

    fn answer(&mut self, command: &str) -> Value {
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("it answers");
        let (kind, rest) = line.trim_end().split_at(1);
        let number = || rest.parse::<i64>().expect("a number");
        match kind {
            "+" => Value::from(rest),
            ":" => Value::from(number()),
            "$" => {
                let Ok(length) = usize::try_from(number()) else {
                    return Value::Null;
                };
                let mut text = vec![0; length + 2];
                self.stream.read_exact(&mut text).expect("it answers");
                text.truncate(length);
                Value::from(String::from_utf8(text).expect("UTF-8"))
            }
            "*" => (0..number()).map(|_| self.answer(command)).collect(),
            _ => panic!("{command}: {line}"),
        }
    }
}
