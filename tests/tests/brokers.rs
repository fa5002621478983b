//! The brokers that tests start for themselves: they answer, end, come back with what they had or without, and leave
//! nothing behind.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(
    not(all(kombu_test_amqp, kombu_test_redis, kombu_test_nats)),
    allow(dead_code, unused_imports)
)]

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kombu::{Connection, Credentials, Exchange, Queue, Registry};
use kombu_testkit::brokers::{Certificates, Data, Nats, RabbitMq, Redis};
use kombu_testkit::faults::Victim;

/// Longer than a broker that runs ever takes to answer.
const SILENCE: Duration = Duration::from_millis(300);

/// A client of a protocol of lines.
struct Lines<S>(BufReader<S>);

impl Lines<TcpStream> {
    fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).expect("it takes connections");
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        Lines(BufReader::new(stream))
    }

    /// Whether it says nothing for a while.
    fn is_silent(&mut self) -> bool {
        let stream = self.0.get_ref();
        stream.set_read_timeout(Some(SILENCE)).unwrap();
        let error = self.0.fill_buf().err();
        self.0
            .get_ref()
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        error.is_some_and(|error| error.kind() == ErrorKind::WouldBlock)
    }
}

impl<S: Read + Write> Lines<S> {
    fn send(&mut self, line: &str) {
        let stream = self.0.get_mut();
        stream.write_all(format!("{line}\r\n").as_bytes()).unwrap();
    }

    fn receive(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("a line");
        line.trim_end().to_owned()
    }

    fn ask(&mut self, line: &str) -> String {
        self.send(line);
        self.receive()
    }

    fn skip_to(&mut self, start: &str) -> String {
        loop {
            let line = self.receive();
            assert!(!line.is_empty(), "it ended before `{start}`");
            if line.starts_with(start) {
                return line;
            }
        }
    }
}

fn redis(redis: &Redis) -> Lines<TcpStream> {
    Lines::connect(&redis.address())
}

#[test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
fn redis_keeps_what_it_stored_over_a_crash_unless_it_is_erased() {
    let mut broker = Redis::builder().persistent().start().unwrap();
    let address = broker.address();
    assert_eq!(redis(&broker).ask("SET colour green"), "+OK");

    broker.kill().unwrap();
    assert_eq!(broker.pid(), None);
    assert!(TcpStream::connect(&address).is_err());
    broker.restart(Data::Keep).unwrap();
    assert_eq!(broker.address(), address);
    assert_eq!(redis(&broker).ask("EXISTS colour"), ":1");

    broker.stop().unwrap();
    broker.restart(Data::Keep).unwrap();
    assert_eq!(redis(&broker).ask("EXISTS colour"), ":1");

    broker.restart(Data::Erase).unwrap();
    assert_eq!(redis(&broker).ask("EXISTS colour"), ":0");
}

#[test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
fn redis_stores_nothing_unless_asked() {
    let mut broker = Redis::start().unwrap();
    assert_eq!(redis(&broker).ask("SET colour green"), "+OK");
    broker.restart(Data::Keep).unwrap();
    assert_eq!(redis(&broker).ask("EXISTS colour"), ":0");
}

#[test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
fn a_paused_broker_is_there_and_silent() {
    let broker = Redis::start().unwrap();
    let mut client = redis(&broker);
    assert_eq!(client.ask("PING"), "+PONG");
    broker.pause().unwrap();
    client.send("PING");
    assert!(client.is_silent());
    let mut late = redis(&broker);
    late.send("PING");
    assert!(late.is_silent());
    broker.resume().unwrap();
    assert_eq!(
        (client.receive(), late.receive()),
        ("+PONG".into(), "+PONG".into())
    );
}

#[test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
fn a_paused_broker_can_be_stopped() {
    let mut broker = Redis::start().unwrap();
    broker.pause().unwrap();
    broker.stop().unwrap();
    assert!(broker.pause().is_err());
}

#[test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
fn redis_asks_for_a_password_and_has_users() {
    let broker = Redis::builder()
        .password("a-secret")
        .config("user alice on >another ~* +@all")
        .start()
        .unwrap();
    let mut client = redis(&broker);
    assert!(client.ask("PING").starts_with("-NOAUTH"));
    assert!(client.ask("AUTH wrong").starts_with("-WRONGPASS"));
    assert_eq!(client.ask("AUTH a-secret"), "+OK");
    assert_eq!(client.ask("AUTH alice another"), "+OK");
    assert!(broker.url().contains(":a-secret@"));
    assert!(!format!("{broker:?}").contains("a-secret"));
}

#[test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
fn redis_listens_on_a_unix_socket() {
    let broker = Redis::builder().unix_socket().start().unwrap();
    let socket = UnixStream::connect(broker.unix_socket().unwrap()).unwrap();
    assert_eq!(Lines(BufReader::new(socket)).ask("PING"), "+PONG");
    assert_eq!(Redis::start().unwrap().unix_socket(), None);
}

/// One that has introduced itself, and answers each command.
fn nats(broker: &Nats, options: &str) -> Lines<TcpStream> {
    let mut client = Lines::connect(&broker.address());
    assert!(client.receive().contains(r#""jetstream":true"#));
    client.send(&format!(r#"CONNECT {{"verbose":true{options}}}"#));
    client
}

/// Asks JetStream, and returns its answer.
fn jetstream(client: &mut Lines<TcpStream>, subject: &str, body: &str) -> String {
    assert_eq!(client.ask("SUB answers 1"), "+OK");
    client.send(&format!("PUB {subject} answers {}\r\n{body}", body.len()));
    client.skip_to("MSG answers");
    let answer = client.receive();
    client.send("UNSUB 1");
    client.skip_to("+OK");
    answer
}

fn count(broker: &Nats) -> Option<u64> {
    let mut client = nats(broker, "");
    assert_eq!(client.receive(), "+OK");
    let answer = jetstream(&mut client, "$JS.API.STREAM.INFO.jobs", "");
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    answer["state"]["messages"].as_u64()
}

#[test]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test with")]
fn nats_keeps_what_it_stored_over_a_crash_unless_it_is_erased() {
    let mut broker = Nats::start().unwrap();
    let mut client = nats(&broker, "");
    assert_eq!(client.receive(), "+OK");
    let stream = r#"{"name":"jobs","subjects":["jobs"],"storage":"file"}"#;
    let made = jetstream(&mut client, "$JS.API.STREAM.CREATE.jobs", stream);
    assert!(!made.contains("error"), "{made}");
    let stored = jetstream(&mut client, "jobs", "one");
    assert!(stored.contains(r#""seq":1"#), "{stored}");

    broker.kill().unwrap();
    broker.restart(Data::Keep).unwrap();
    assert_eq!(count(&broker), Some(1));
    broker.restart(Data::Keep).unwrap();
    assert_eq!(count(&broker), Some(1));
    broker.restart(Data::Erase).unwrap();
    assert_eq!(count(&broker), None);
}

#[test]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test with")]
fn an_account_of_nats_is_changed_while_the_server_runs() {
    let mut broker = Nats::builder().account().start().unwrap();
    let stream = r#"{"name":"jobs","subjects":["jobs"],"storage":"file"}"#;
    broker.ask("$JS.API.STREAM.CREATE.jobs", stream).unwrap();
    assert_eq!(broker.ask("jobs", "one").unwrap()["seq"], 1);

    broker.limit_room(Some(1)).unwrap();
    let refused = broker.ask("jobs", "two").unwrap();
    assert_eq!(refused["error"]["err_code"], 10002, "{refused}");
    broker.limit_room(None).unwrap();
    let stored = broker.ask("jobs", "two").unwrap();
    assert!(stored["error"].is_null(), "{stored}");

    let as_alice = r#","user":"alice","pass":"a-secret""#;
    assert!(nats(&broker, as_alice).receive().starts_with("-ERR"));
    broker.set_user("alice", "a-secret").unwrap();
    let mut alice = nats(&broker, as_alice);
    let mut nobody = nats(&broker, "");
    for client in [&mut alice, &mut nobody] {
        assert_eq!(client.receive(), "+OK");
    }
    let connections = broker.monitored("/varz").unwrap()["connections"].as_u64();
    assert!(connections.unwrap() >= 2, "{connections:?}");
    broker.disconnect().unwrap();
    nobody.skip_to("-ERR");
    assert_eq!(nats(&broker, "").receive(), "+OK");
    broker.set_user("alice", "another").unwrap();
    alice.skip_to("-ERR");
    assert!(nats(&broker, as_alice).receive().starts_with("-ERR"));

    let refused = Nats::start().unwrap().set_user("alice", "a-secret");
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test with")]
fn nats_lets_in_whom_it_was_told_to() {
    let with_user = Nats::builder().user("alice", "a-secret").start().unwrap();
    assert!(nats(&with_user, "").receive().starts_with("-ERR"));
    let known = r#","user":"alice","pass":"a-secret""#;
    assert_eq!(nats(&with_user, known).receive(), "+OK");
    assert!(with_user.url().contains("alice:a-secret@"));

    let with_token = Nats::builder().token("a-secret").start().unwrap();
    assert!(nats(&with_token, "").receive().starts_with("-ERR"));
    let known = r#","auth_token":"a-secret""#;
    assert_eq!(nats(&with_token, known).receive(), "+OK");
    for broker in [with_user, with_token] {
        assert!(!format!("{broker:?}").contains("a-secret"));
    }
}

async fn connect(url: String) -> Connection {
    let registry = Registry::new().with(kombu::amqp::Amqp);
    Connection::builder(registry).url(url).await.unwrap()
}

async fn ready(broker: &RabbitMq) -> Option<u64> {
    let connection = connect(broker.url()).await;
    let ready = connection.queue_info("jobs").await;
    connection.close().await.unwrap();
    ready.ok().map(|info| info.ready)
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test with")]
async fn rabbitmq_keeps_what_it_stored_over_a_crash_unless_it_is_erased() {
    let mut broker = RabbitMq::start().unwrap();
    let connection = connect(broker.url()).await;
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    connection.close().await.unwrap();
    // It confirms messages when they are on disk; declarations get there later, and when it stops.
    broker.restart(Data::Keep).unwrap();
    let connection = connect(broker.url()).await;
    let producer = connection.producer(Exchange::default()).await.unwrap();
    producer.publish(&7).routing_key("jobs").await.unwrap();
    connection.close().await.unwrap();

    broker.kill().unwrap();
    broker.restart(Data::Keep).unwrap();
    assert_eq!(ready(&broker).await, Some(1));
    broker.restart(Data::Erase).unwrap();
    assert_eq!(ready(&broker).await, None);
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test with")]
async fn rabbitmq_is_configured_and_controlled() {
    let broker = RabbitMq::builder()
        .config("consumer_timeout = 123456")
        .plugin("rabbitmq_auth_mechanism_ssl")
        .start()
        .unwrap();
    let timeout = broker.ctl(["eval", "application:get_env(rabbit, consumer_timeout)."]);
    assert!(timeout.unwrap().contains("123456"));
    let mechanisms = broker.ctl(["eval", "application:which_applications()."]);
    assert!(mechanisms.unwrap().contains("rabbitmq_auth_mechanism_ssl"));
    let error = broker.ctl(["set_vm_memory_high_watermark", "much"]);
    assert!(error.unwrap_err().to_string().contains("much"));
    let sum = broker.eval("lists:sum([1, 2]).");
    assert_eq!(sum.unwrap().trim(), "3");
    for (fails, why) in [
        ("lists:sum([much]).", "much"),
        ("file:read_file(\"/nowhere\").", "enoent"),
    ] {
        let error = broker.eval(fails).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test with")]
async fn rabbitmq_has_users_whatever_is_in_their_passwords() {
    let mut broker = RabbitMq::start().unwrap();
    let connect = async |broker: &RabbitMq, password: &str| {
        let password = password.to_owned();
        let builder = Connection::builder(kombu::registry()).url(broker.url());
        let user = builder.credentials(move || {
            let password = password.clone();
            async move { Ok(Credentials::new("alice", password)) }
        });
        user.await
    };
    for password in ["\"quoted\"", "back\\slash", "gehéim", "two\nlines", "<<>>"] {
        broker.set_user("alice", password).unwrap();
        connect(&broker, password)
            .await
            .unwrap()
            .close()
            .await
            .unwrap();
        let refused = connect(&broker, "another").await.unwrap_err();
        assert_eq!(refused.kind(), kombu::ErrorKind::Credentials, "{refused}");
    }
}

#[test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test with")]
fn rabbitmq_says_why_it_refuses_a_user_without_the_password() {
    let validator = "credential_validator";
    let mut broker = RabbitMq::builder()
        .config(&format!(
            "{validator}.validation_backend = rabbit_{validator}_min_password_length"
        ))
        // `guest` has as many.
        .config(&format!("{validator}.min_length = 5"))
        .start()
        .unwrap();
    // Nobody of this name is there the first time.
    for _ in 0..2 {
        let error = broker.set_user("alice", "s-ec").unwrap_err().to_string();
        assert!(error.contains("minimum"), "{error}");
        for secret in ["s-ec", "115,45,101,99"] {
            assert!(!error.contains(secret), "{error}");
        }
        broker.set_user("alice", "a-secret").unwrap();
    }
}

#[test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test with")]
fn rabbitmq_listens_for_tls_if_it_has_certificates() {
    // Nobody shakes hands here: what is in them doesn't matter.
    let certificates = Certificates {
        authority: "authority".into(),
        certificate: "certificate".into(),
        key: "key".into(),
    };
    let broker = RabbitMq::builder().tls(certificates).start().unwrap();
    let address = broker.tls_address().unwrap();
    TcpStream::connect(&address).unwrap();
    let port = address.rsplit(':').next().unwrap();
    let listeners = broker.ctl(["status"]).unwrap();
    let line = listeners.lines().find(|line| line.contains(port));
    assert!(line.unwrap().contains("amqp/ssl"), "{listeners}");
}

#[test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
fn what_was_started_ends_with_a_process_that_is_killed() {
    let program = env!("CARGO_BIN_EXE_private_broker");
    let mut child = Command::new(program)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
    let address = output.next().unwrap().unwrap();
    let socket = PathBuf::from(output.next().unwrap().unwrap());
    let mut client = Lines::connect(&address);
    assert_eq!(client.ask("PING"), "+PONG");
    assert!(socket.exists());
    child.kill().unwrap();
    child.wait().unwrap();
    // The connection ends with the broker.
    assert_eq!(client.receive(), "");
    let deadline = Instant::now() + Duration::from_secs(30);
    let folder = socket.parent().unwrap();
    while folder.exists() {
        assert!(Instant::now() < deadline, "{} stayed", folder.display());
        std::thread::sleep(Duration::from_millis(10));
    }
}
