use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kombu::Registry;
use kombu_testkit::{Broker, Harness, table};
use url::Url;

/// A virtual host for each case, on the RabbitMQ of `KOMBU_TEST_AMQP_URL`, made and removed through its management
/// interface at `KOMBU_TEST_AMQP_ADMIN` (`host:port`).
#[derive(Clone, Debug)]
pub struct AmqpHarness {
    url: Url,
    admin: String,
}

impl AmqpHarness {
    /// The harness.
    ///
    /// # Panics
    ///
    /// If the variables aren't set.
    pub fn new() -> Self {
        let variable = |name: &str| match std::env::var(name) {
            Ok(value) => value,
            Err(_) => panic!("{name} isn't set: it says where RabbitMQ is"),
        };
        let url =
            Url::parse(&variable("KOMBU_TEST_AMQP_URL")).expect("KOMBU_TEST_AMQP_URL is a URL");
        AmqpHarness {
            url,
            admin: variable("KOMBU_TEST_AMQP_ADMIN"),
        }
    }
}

impl AmqpHarness {
    /// Has the broker close every connection whose name starts with `name`, as soon as it shows one.
    pub async fn close_connections(&self, name: &str) {
        loop {
            let found = ask(
                &self.admin,
                "GET",
                "connections?columns=name,user_provided_name",
            );
            let connections: Vec<HashMap<String, String>> =
                serde_json::from_str(&found).unwrap_or_default();
            let ours: Vec<_> = connections
                .iter()
                .filter(|connection| {
                    let given = connection.get("user_provided_name");
                    given.is_some_and(|given| given.starts_with(name))
                })
                .filter_map(|connection| connection.get("name"))
                .collect();
            for connection in &ours {
                let encoded = connection.replace(' ', "%20").replace('>', "%3E");
                ask(&self.admin, "DELETE", &format!("connections/{encoded}"));
            }
            if !ours.is_empty() {
                return;
            }
            // Its statistics come every few seconds.
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

impl AmqpHarness {
    /// Waits until the connections to a virtual host show so many channels together.
    ///
    /// # Panics
    ///
    /// If they don't for 30 s.
    pub async fn until_channels(&self, broker: &Broker, expected: RangeInclusive<usize>) {
        let url = Url::parse(broker.url()).expect("a broker has a URL");
        let virtual_host = url.path().trim_start_matches('/');
        let path = format!("vhosts/{virtual_host}/channels?columns=number");
        let begin = Instant::now();
        loop {
            let found = ask(&self.admin, "GET", &path);
            let channels: Vec<serde_json::Value> = serde_json::from_str(&found).unwrap_or_default();
            if expected.contains(&channels.len()) {
                return;
            }
            let waited = begin.elapsed();
            assert!(
                waited.as_secs() < 30,
                "there are {} channels",
                channels.len()
            );
            // Its statistics come every few seconds.
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

impl AmqpHarness {
    /// Makes a user who may configure, write and read in a virtual host what these patterns match, and answers the URL that
    /// it connects with. Users aren't removed: the broker is for tests.
    ///
    /// # Panics
    ///
    /// If the management interface doesn't answer, or refuses.
    pub fn user(&self, broker: &Broker, permissions: [&str; 3]) -> String {
        let mut url = Url::parse(broker.url()).expect("a broker has a URL");
        let virtual_host = url.path().trim_start_matches('/').to_owned();
        let name = format!("user-of-{virtual_host}");
        self.put(&format!("users/{name}"), r#"{"password":"word","tags":""}"#);
        let [configure, write, read] = permissions;
        let permissions =
            serde_json::json!({ "configure": configure, "write": write, "read": read });
        let path = format!("permissions/{virtual_host}/{name}");
        self.put(&path, &permissions.to_string());
        url.set_username(&name).expect("a URL with a host");
        url.set_password(Some("word")).expect("a URL with a host");
        url.into()
    }

    /// Lets that user publish to a topic exchange with these keys only.
    ///
    /// # Panics
    ///
    /// If the management interface doesn't answer, or refuses.
    pub fn permit_keys(&self, broker: &Broker, exchange: &str, keys: &str) {
        let url = Url::parse(broker.url()).expect("a broker has a URL");
        let virtual_host = url.path().trim_start_matches('/');
        let permissions = serde_json::json!({ "exchange": exchange, "write": keys, "read": ".*" });
        let path = format!("topic-permissions/{virtual_host}/user-of-{virtual_host}");
        self.put(&path, &permissions.to_string());
    }

    /// Has the broker take so many connections to this virtual host at most.
    ///
    /// # Panics
    ///
    /// If the management interface doesn't answer, or refuses.
    pub fn limit_connections(&self, broker: &Broker, most: u32) {
        let url = Url::parse(broker.url()).expect("a broker has a URL");
        let virtual_host = url.path().trim_start_matches('/');
        let path = format!("vhost-limits/{virtual_host}/max-connections");
        self.put(&path, &serde_json::json!({ "value": most }).to_string());
    }

    fn put(&self, path: &str, body: &str) {
        send(&self.admin, "PUT", path, body);
    }

    /// Declares a queue as other programs do; `declaration` is what the management interface takes.
    ///
    /// # Panics
    ///
    /// If the broker refuses it.
    pub fn declare_queue(&self, broker: &Broker, queue: &str, declaration: &str) {
        let url = Url::parse(broker.url()).expect("a broker has a URL");
        let path = format!("queues{}/{queue}", url.path());
        send(&self.admin, "PUT", &path, declaration);
    }
}

impl Default for AmqpHarness {
    fn default() -> Self {
        Self::new()
    }
}

impl Harness for AmqpHarness {
    fn name(&self) -> &str {
        "amqp"
    }

    fn registry(&self) -> Registry {
        Registry::new().with(kombu::amqp::Amqp)
    }

    async fn broker(&self) -> Broker {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!(
            "kombu-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        request(&self.admin, "PUT", &name);
        let mut url = self.url.clone();
        url.set_path(&name);
        Broker::new(self.registry(), url)
            .with_lag(Duration::from_millis(400))
            .with_freedoms(table::freedoms("amqp"))
            .keep(VirtualHost {
                admin: self.admin.clone(),
                name,
            })
    }
}

/// Deleted with all that is in it when the case is over.
struct VirtualHost {
    admin: String,
    name: String,
}

impl Drop for VirtualHost {
    fn drop(&mut self) {
        request(&self.admin, "DELETE", &self.name);
    }
}

/// Asks the management interface for something about a virtual host.
fn request(admin: &str, method: &str, virtual_host: &str) {
    ask(admin, method, &format!("vhosts/{virtual_host}"));
}

/// Asks a management interface (`host:port`), and returns the body of its answer.
///
/// # Panics
///
/// If it doesn't answer, or refuses.
pub fn ask(admin: &str, method: &str, path: &str) -> String {
    send(admin, method, path, "")
}

/// The same with a body in JSON.
fn send(admin: &str, method: &str, path: &str, body: &str) -> String {
    let length = body.len();
    let mut stream = TcpStream::connect(admin).expect("the management interface is there");
    // `guest:guest`, which RabbitMQ accepts from the same machine.
    let request = format!(
        "{method} /api/{path} HTTP/1.0\r\nHost: {admin}\r\nAuthorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    stream
        .write_all(request.as_bytes())
        .expect("it takes a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    let status = answer.split(' ').nth(1).unwrap_or_default();
    assert!(status.starts_with('2'), "{method} of {path}: {answer}");
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body);
    body.unwrap_or_default().to_owned()
}
