use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use kombu::{Connection, ConnectionBuilder, Error, Exchange, Queue};

use crate::{Authority, Pair};

/// Who may certify what, and the files that URLs name. They are left behind with the other files of the test run.
#[derive(Debug)]
pub struct Trust {
    /// Certifies brokers; its certificate is the file `ca.pem`, and that of another authority `other-ca.pem`.
    pub brokers: Authority,
    /// Certifies clients. One of them, by the name that [`Trust::new`] was given, is in the files `ours.pem`, `ours.key` and
    /// `both.pem`; in `foreign.pem` is one of the same name that brokers have no reason to trust.
    pub clients: Authority,
    folder: PathBuf,
}

impl Trust {
    /// Makes them, with files in this folder.
    ///
    /// # Panics
    ///
    /// If there is no randomness, or the files can't be written.
    pub fn new(folder: impl Into<PathBuf>, client: &str) -> Self {
        let folder = folder.into();
        std::fs::create_dir_all(&folder).expect("the folder can be made");
        let trust = Trust {
            brokers: Authority::new("the brokers' authority"),
            clients: Authority::new("the clients' authority"),
            folder,
        };
        trust.write("ca.pem", &trust.brokers.pem());
        trust.write("other-ca.pem", &Authority::new("somebody else").pem());
        let ours = trust.clients.certify(client, |_| {});
        trust.write("ours.pem", &ours.certificate);
        trust.write("ours.key", &ours.key);
        trust.write_pair("both.pem", &ours);
        trust.write_pair("foreign.pem", &trust.brokers.certify(client, |_| {}));
        trust
    }

    /// Writes a file.
    ///
    /// # Panics
    ///
    /// If it can't be written.
    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("the file can be written");
    }

    /// Writes a certificate and its key into one file.
    ///
    /// # Panics
    ///
    /// If it can't be written.
    pub fn write_pair(&self, name: &str, pair: &Pair) {
        self.write(name, &format!("{}{}", pair.certificate, pair.key));
    }

    /// Where a file is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{}-{name}", std::process::id()))
    }

    /// What stands behind a URL with these options, where names of files become paths.
    pub fn query(&self, options: &[(&str, &str)]) -> String {
        let mut query = String::from("?");
        for (key, value) in options {
            let value = match value.ends_with(".pem") || value.ends_with(".key") {
                true => self.path(value).display().to_string(),
                false => (*value).to_owned(),
            };
            write!(query, "{key}={value}&").expect("a string takes everything");
        }
        query
    }
}

/// Connects with every transport there is.
pub fn connect(url: impl Into<String>) -> ConnectionBuilder {
    Connection::builder(kombu::registry()).url(url)
}

/// Why connecting fails: for good, and not because time ran out.
///
/// # Panics
///
/// If it doesn't.
pub async fn refused(url: impl Into<String>) -> Error {
    let begin = Instant::now();
    let error = connect(url).await.expect_err("it is refused");
    assert!(begin.elapsed() < Duration::from_secs(8), "{error}");
    assert!(!error.is_transient(), "{error}");
    error
}

/// Sends a message there and back.
///
/// # Panics
///
/// If it doesn't come as it was.
pub async fn round_trip(connection: &Connection) {
    let queue = Queue::new(format!("round-trip-{}", fastrand::u64(..))).exclusive(true);
    let consumer = connection.consumer(&queue).await;
    let mut consumer = consumer.expect("the queue can be consumed");
    let producer = connection.producer(Exchange::default()).await;
    let body = vec![7; 300_000];
    let publish = producer
        .expect("a producer is opened")
        .publish_bytes(body.clone())
        .routing_key(queue.name().clone())
        .await;
    publish.expect("it is published");
    let delivery = consumer.try_next().await.expect("the consumer is open");
    let delivery = delivery.expect("a message arrives");
    assert_eq!(delivery.body(), &body);
    delivery.ack().await.expect("it is acked");
}
