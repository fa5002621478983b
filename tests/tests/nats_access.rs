//! Who may come in to NATS, and over which line: each kind of access on a server of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(not(kombu_test_nats), allow(dead_code, unused_imports))]

use std::future::IntoFuture;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::future::join_all;
use kombu::nats::{Nats, rustls};
use kombu::{
    Connection, ConnectionBuilder, Credentials, Deadlines, Error, ErrorKind, Event, Exchange,
    Queue, Registry, RetryPolicy,
};
use kombu_testkit::brokers;
use kombu_testkit::expect::{assert_refused, collect_one, texts};
use kombu_tests::{Authority, Captured};
use nkeys::KeyPair;
use serde_json::{Value, json};

/// The name in the servers' certificates.
const HOST: &str = "localhost";
/// How soon a user hears of what isn't allowed.
const AT_ONCE: Duration = Duration::from_secs(5);

fn connect(url: impl Into<String>) -> ConnectionBuilder {
    let retry = RetryPolicy::default().longest_pause(Duration::from_millis(100));
    Connection::builder(kombu::registry()).url(url).retry(retry)
}

fn soon(connect: Duration) -> Deadlines {
    let mut deadlines = Deadlines::default();
    deadlines.connect = connect;
    deadlines
}

/// Connecting fails for good, and not because time ran out; nothing tells the secret.
async fn refused(url: &str, kind: ErrorKind) -> Error {
    let begin = Instant::now();
    let error = connect(url).await.unwrap_err();
    assert!(begin.elapsed() < Duration::from_secs(8), "{error}");
    assert_eq!(error.kind(), kind, "{error}");
    let shown = format!("{error} {error:?} {:?}", connect(url));
    assert!(!shown.contains("secret"), "{shown}");
    error
}

async fn round_trip(connection: &Connection) {
    let queue = Queue::new(format!("round-trip-{}", fastrand::u64(..))).exclusive(true);
    let mut consumer = connection.consumer(&queue).await.unwrap();
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key(queue.name().clone()).await.unwrap();
    producer.publish(&1).await.unwrap();
    let delivery = collect_one(&mut consumer).await;
    delivery.ack().confirmed().await.unwrap();
}

async fn let_in(url: &str) {
    let connection = connect(url).await.unwrap();
    let shown = format!("{connection:?} {}", connection.target());
    assert!(!shown.contains("secret"), "{shown}");
    round_trip(&connection).await;
    connection.close().await.unwrap();
}

fn file(name: &str, text: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("nats_access");
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join(format!("{}-{name}", std::process::id()));
    std::fs::write(&path, text).unwrap();
    path
}

#[tokio::test]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test with")]
async fn a_user_with_the_password_is_let_in() {
    let nats = brokers::Nats::builder()
        .user("alice", "a%41-secret@home")
        .start()
        .unwrap();
    let at = nats.address();
    let_in(&format!("nats://alice:a%2541-secret%40home@{at}")).await;
    for user in ["", "alice:wrong-secret@", "bob:a-secret@", "secret@"] {
        refused(&format!("nats://{user}{at}"), ErrorKind::Credentials).await;
    }
    let provided = connect(format!("nats://{at}"))
        .credentials(|| async { Ok(Credentials::new("alice", "a%41-secret@home")) });
    provided.await.unwrap().close().await.unwrap();
}

#[tokio::test]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test with")]
async fn whoever_has_the_token_is_let_in() {
    let nats = brokers::Nats::builder()
        .token("a-secret-token")
        .start()
        .unwrap();
    let at = nats.address();
    let_in(&format!("nats://a-secret-token@{at}")).await;
    let_in(&format!("nats://:a-secret-token@{at}")).await;
    refused(&format!("nats://{at}"), ErrorKind::Credentials).await;
    refused(&format!("nats://other-secret@{at}"), ErrorKind::Credentials).await;
    let provided = connect(format!("nats://{at}"))
        .credentials(|| async { Ok(Credentials::new("", "a-secret-token")) });
    provided.await.unwrap().close().await.unwrap();
}

#[tokio::test]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test with")]
async fn whoever_signs_with_an_nkey_is_let_in() {
    let (own, other) = (KeyPair::new_user(), KeyPair::new_user());
    let users = format!(
        "authorization {{ users: [{{ nkey: {} }}] }}",
        own.public_key()
    );
    let nats = brokers::Nats::builder().config(&users).start().unwrap();
    let at = nats.address();
    let seed = own.seed().unwrap();
    let_in(&format!("nats://{at}?nkey={seed}")).await;
    let path = file("own.nk", &format!("{seed}\n"));
    let_in(&format!("nats://{at}?nkey_file={}", path.display())).await;
    let seed = other.seed().unwrap();
    let error = refused(&format!("nats://{at}?nkey={seed}"), ErrorKind::Credentials).await;
    assert!(!format!("{error:?}").contains(&seed));
    refused(
        &format!("nats://{at}?nkey_file=/nowhere"),
        ErrorKind::Config,
    )
    .await;
    refused(&format!("nats://{at}?nkey=no-seed"), ErrorKind::Credentials).await;
}

/// A JWT as NATS has them.
fn token(issuer: &KeyPair, subject: &KeyPair, name: &str, nats: Value) -> String {
    let encode = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let head = encode(json!({ "typ": "JWT", "alg": "ed25519-nkey" }));
    let claims = encode(json!({
        "jti": name,
        "iat": 1_700_000_000,
        "iss": issuer.public_key(),
        "name": name,
        "sub": subject.public_key(),
        "nats": nats,
    }));
    let signed = format!("{head}.{claims}");
    let signature = URL_SAFE_NO_PAD.encode(issuer.sign(signed.as_bytes()).unwrap());
    format!("{signed}.{signature}")
}

fn credentials(account: &KeyPair, user: &KeyPair) -> String {
    let all = json!({ "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1 });
    format!(
        "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
        token(account, user, "alice", all),
        user.seed().unwrap()
    )
}

#[tokio::test]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test with")]
async fn whoever_has_the_file_of_credentials_is_let_in() {
    let (operator, system, account) = (
        KeyPair::new_operator(),
        KeyPair::new_account(),
        KeyPair::new_account(),
    );
    let limits = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
        "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1,
    });
    let of_account = json!({ "type": "account", "version": 2, "limits": limits });
    let mut of_system = of_account.clone();
    for key in ["mem_storage", "disk_storage", "streams", "consumer"] {
        of_system["limits"][key] = json!(0);
    }
    let config = format!(
        "operator: {}\nsystem_account: {}\nresolver: MEMORY\nresolver_preload: {{\n{}: {}\n{}: {}\n}}",
        token(
            &operator,
            &operator,
            "operator",
            json!({ "type": "operator", "version": 2 })
        ),
        system.public_key(),
        system.public_key(),
        token(&operator, &system, "system", of_system),
        account.public_key(),
        token(&operator, &account, "account", of_account),
    );
    let nats = brokers::Nats::builder().config(&config).start().unwrap();
    let at = nats.address();
    let path = file("alice.creds", &credentials(&account, &KeyPair::new_user()));
    let url = format!("nats://{at}?credentials_file={}", path.display());
    let_in(&url).await;
    // It is read at each attempt.
    let stranger = credentials(&KeyPair::new_account(), &KeyPair::new_user());
    std::fs::write(&path, stranger).unwrap();
    refused(&url, ErrorKind::Credentials).await;
    std::fs::write(&path, "nothing").unwrap();
    refused(&url, ErrorKind::Config).await;
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test with")]
async fn credentials_are_asked_for_at_each_attempt() {
    let mut nats = brokers::Nats::builder()
        .user("alice", "a-secret")
        .start()
        .unwrap();
    let asked = Arc::new(Mutex::new(0));
    let count = asked.clone();
    // Those of the URL don't count.
    let connection = connect(format!("nats://alice:wrong-secret@{}", nats.address()))
        .credentials(move || {
            *count.lock().unwrap() += 1;
            async { Ok(Credentials::new("alice", "a-secret")) }
        })
        .await
        .unwrap();
    let mut events = connection.events();
    nats.restart(brokers::Data::Keep).unwrap();
    while !matches!(events.next().await.unwrap(), Event::Restored { .. }) {}
    round_trip(&connection).await;
    assert!(*asked.lock().unwrap() >= 2);
    connection.close().await.unwrap();
}

#[tokio::test]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test with")]
async fn of_several_servers_one_that_is_there_is_taken() {
    let (gone, nats) = (
        brokers::Nats::start().unwrap(),
        brokers::Nats::start().unwrap(),
    );
    let dead = gone.address();
    drop(gone);
    for _ in 0..4 {
        let_in(&format!("nats://{dead},{},{dead}", nats.address())).await;
    }
    let nobody = connect(format!("nats://{dead},{dead}"))
        .deadlines(soon(Duration::from_secs(1)))
        .await
        .unwrap_err();
    assert!(nobody.is_transient(), "{nobody}");
}

/// A machine that lost its power doesn't refuse anybody.
#[tokio::test]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test with")]
async fn of_several_servers_those_that_are_silent_are_not_waited_for() {
    let nats = brokers::Nats::start().unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = silent.local_addr().unwrap();
    let url = format!("nats://{silent},{},{silent}", nats.address());
    for _ in 0..8 {
        let connecting = connect(&url).deadlines(soon(Duration::from_secs(5)));
        round_trip(&connecting.await.unwrap()).await;
    }
}

#[tokio::test]
async fn options_that_mean_nothing_are_refused() {
    for (url, said) in [
        ("nats://host?prefixx=a", "did you mean `prefix`"),
        (
            "nats://host?replicas=6",
            "`replicas` is a number from 1 to 5",
        ),
        ("nats://host?replicas=many", "`replicas`"),
        ("nats://host?prefix=a.b", "`prefix` has 1 to 64"),
        ("nats://host?domain=a.b", "`domain`"),
        ("nats://host?storage=tape", "`storage`"),
        ("nats://host/jobs", "a virtual host is a `prefix`"),
        ("nats://host?ca_file=a", "write `tls://`"),
        ("tls://host?key_file=a", "`cert_file`"),
        ("tls://host?ca_file=a&extra_ca_file=b", "in place of"),
        ("nats://token@host?nkey_file=a", "said twice"),
        ("nats://host?nkey=a&credentials_file=b", "said twice"),
    ] {
        let error = refused(url, ErrorKind::Config).await;
        assert!(error.to_string().contains(said), "{url}: {error}");
    }
}

struct Tls {
    nats: brokers::Nats,
    authority: PathBuf,
    ours: PathBuf,
}

impl Tls {
    fn start(more: &str) -> Self {
        Tls::with_certificate(more, |_| {})
    }

    fn with_certificate(more: &str, change: impl FnOnce(&mut rcgen::CertificateParams)) -> Self {
        let (servers, clients) = (
            Authority::new("the servers' authority"),
            Authority::new("the clients' authority"),
        );
        let pair = servers.certify(HOST, change);
        let ours = clients.certify("service", |_| {});
        let config = format!(
            "tls {{ cert_file: \"{{folder}}/server.pem\", key_file: \"{{folder}}/server.key\", \
             ca_file: \"{{folder}}/clients.pem\", {more} }}"
        );
        let nats = brokers::Nats::builder()
            .file("server.pem", pair.certificate)
            .file("server.key", pair.key)
            .file("clients.pem", clients.pem())
            .config(&config);
        let id = fastrand::u64(..);
        let path = |name: &str, text: &str| file(&format!("{id}-{name}"), text);
        Tls {
            nats: nats.start().unwrap(),
            authority: path("ca.pem", &servers.pem()),
            ours: path("ours.pem", &format!("{}{}", ours.certificate, ours.key)),
        }
    }

    fn at(&self) -> String {
        self.nats.address().replace("127.0.0.1", HOST)
    }
}

#[tokio::test]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test with")]
async fn a_server_is_spoken_to_by_tls_if_its_authority_is_trusted() {
    let server = Tls::start("");
    let (at, ca) = (server.at(), server.authority.display());
    let_in(&format!("tls://{at}?ca_file={ca}")).await;
    let_in(&format!("tls://{at}?extra_ca_file={ca}")).await;
    let stranger = file("stranger.pem", &Authority::new("somebody else").pem());
    let stranger = stranger.display();
    refused(&format!("tls://{at}?ca_file={stranger}"), ErrorKind::Tls).await;
    // The certificate is for another name.
    let by_number = server.nats.address();
    refused(&format!("tls://{by_number}?ca_file={ca}"), ErrorKind::Tls).await;
    let error = refused(&format!("nats://{at}"), ErrorKind::Tls).await;
    assert!(error.to_string().contains("write `tls://`"), "{error}");
}

#[tokio::test]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test with")]
async fn a_certificate_that_is_not_to_be_trusted_is_refused_at_the_first_attempt() {
    use kombu_testkit::proxy::Proxy;
    use rcgen::date_time_ymd;

    let expired = Tls::with_certificate("", |params| params.not_after = date_time_ymd(2020, 1, 1));
    let early = Tls::with_certificate("", |params| params.not_before = date_time_ymd(2999, 1, 1));
    let fine = Tls::start("");
    let cases = [
        (&expired, &expired.authority),
        (&early, &early.authority),
        (&fine, &early.authority),
    ];
    for (server, authority) in cases {
        let proxy = Proxy::start(server.nats.address()).await.unwrap();
        let (port, ca) = (proxy.address().port(), authority.display());
        let url = format!("tls://{HOST}:{port}?ca_file={ca}");
        refused(&url, ErrorKind::Tls).await;
        assert_eq!(proxy.counts().accepted, 1);
    }
}

#[tokio::test]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test with")]
async fn a_server_that_asks_for_a_certificate_gets_ours() {
    let server = Tls::start("verify: true");
    let (at, ca) = (server.at(), server.authority.display());
    let ours = server.ours.display();
    let_in(&format!("tls://{at}?ca_file={ca}&cert_file={ours}")).await;
    let error = connect(format!("tls://{at}?ca_file={ca}"))
        .deadlines(soon(Duration::from_secs(2)))
        .await
        .unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::Tls | ErrorKind::ConnectionLost),
        "{error}"
    );
}

#[tokio::test]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test with")]
async fn a_server_without_tls_is_not_spoken_to_in_the_clear() {
    let nats = brokers::Nats::start().unwrap();
    let at = nats.address();
    let authority = file("any.pem", &Authority::new("any").pem());
    let error = connect(format!("tls://{at}?ca_file={}", authority.display()))
        .deadlines(soon(Duration::from_secs(2)))
        .await
        .unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::Tls | ErrorKind::ConnectionLost),
        "{error}"
    );
}

#[tokio::test]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test with")]
async fn a_program_can_bring_a_tls_configuration_of_its_own() {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;

    let server = Tls::start("");
    let mut roots = rustls::RootCertStore::empty();
    let certificate = CertificateDer::from_pem_file(&server.authority).unwrap();
    roots.add(certificate).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let registry = || Registry::new().with(Nats.with_tls_config(config.clone()));
    let url = format!("tls://{}", server.at());
    let connection = Connection::builder(registry()).url(&url).await.unwrap();
    round_trip(&connection).await;
    connection.close().await.unwrap();
    let url = format!("{url}?ca_file=a");
    let error = Connection::builder(registry()).url(&url).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test with")]
async fn a_hub_is_used_through_a_leaf_node_that_has_a_domain_of_its_own() {
    let [hub, leaf] = brokers::Nats::start_with_leaf().unwrap();
    let mut connections = Vec::new();
    for nats in [&leaf, &hub] {
        let url = format!("nats://{}?domain=hub", nats.address());
        connections.push(connect(url).await.unwrap());
    }
    for (near, far) in [(0, 1), (1, 0), (0, 0)] {
        let (near, far) = (&connections[near], &connections[far]);
        let dead = Queue::new("dead");
        near.declare_queue(&dead).await.unwrap();
        let jobs = Queue::new("jobs")
            .bind(Exchange::topic("work"), "job.#")
            .dead_letter_exchange("")
            .dead_letter_routing_key("dead")
            .max_length(2);
        let mut consumer = near.consumer(&jobs).prefetch(1).await.unwrap();
        let work = far.producer(Exchange::topic("work")).routing_key("job.new");
        let work = work.await.unwrap();
        work.publish_text("through a binding").await.unwrap();
        let delivery = collect_one(&mut consumer).await;
        delivery.ack().confirmed().await.unwrap();
        let direct = far.producer(Exchange::default()).routing_key("jobs");
        let direct = direct.await.unwrap();
        let delay = Duration::from_millis(50);
        direct.publish_text("delayed").delay(delay).await.unwrap();
        let delivery = collect_one(&mut consumer).await;
        delivery.release().confirmed().await.unwrap();
        let delivery = collect_one(&mut consumer).await;
        assert_eq!(texts([&delivery]), ["delayed"]);
        delivery.reject().confirmed().await.unwrap();
        consumer.cancel().await.unwrap();
        let letter = far.get("dead").await.unwrap().unwrap();
        letter.ack().confirmed().await.unwrap();
        direct.publish_text("purged").await.unwrap();
        assert_eq!(near.purge("jobs").await.unwrap(), 1);
        far.delete_queue("jobs").await.unwrap();
    }
    let streams = |nats: &brokers::Nats| nats.ask("$JS.API.STREAM.NAMES", "{}").unwrap();
    let there = streams(&hub);
    assert!(there.to_string().contains("KV_kombu_topology"), "{there}");
    let there = streams(&leaf);
    assert_eq!(there["total"], 0, "{there}");
    for connection in connections {
        connection.close().await.unwrap();
    }
}

/// What a user may need, by the documentation of the transport.
const PUBLISH: &[&str] = &[
    "_INBOX.>",
    "$JS.API.>",
    "$JS.ACK.>",
    "$KV.kombu_topology.>",
    "$KV.kombu_sessions.>",
    "kombu.bell.*",
    "kombu.held",
    "kombu.new.*",
    "kombu.delayed",
    "kombu.q.>",
    "kombu.later.*",
];
const SUBSCRIBE: &[&str] = &[
    "_INBOX.>",
    "kombu.bell.*",
    "kombu.held",
    "kombu.new.*",
    "kombu.delayed",
];

fn user(name: &str, publish: &[&str], subscribe: &[&str]) -> String {
    format!(
        "{{ user: \"{name}\", password: \"secret\", \
         permissions: {{ publish: {publish:?}, subscribe: {subscribe:?} }} }}"
    )
}

fn with_users(users: &[String]) -> brokers::Nats {
    let users = format!("authorization {{ users: [{}] }}", users.join(", "));
    brokers::Nats::builder().config(&users).start().unwrap()
}

/// Does a bit of everything.
async fn use_all(url: &str) -> kombu::Result<()> {
    let connection = connect(url).await?;
    connection.declare_queue(&Queue::new("dead")).await?;
    let jobs = Queue::new("jobs")
        .bind(Exchange::topic("work"), "job.#")
        .dead_letter_exchange("")
        .dead_letter_routing_key("dead");
    let mut consumer = connection.consumer(&jobs).prefetch(1).await?;
    let work = connection.producer(Exchange::topic("work"));
    let work = work.routing_key("job.new").await?;
    work.publish_text("acknowledged").await?;
    collect_one(&mut consumer).await.ack().confirmed().await?;
    let delay = Duration::from_millis(50);
    work.publish_text("dead").delay(delay).await?;
    let delivery = collect_one(&mut consumer).await;
    delivery.release().confirmed().await?;
    let delivery = collect_one(&mut consumer).await;
    delivery.reject().confirmed().await?;
    let caller = connection.caller(Exchange::default()).routing_key("jobs");
    let caller = caller.await?;
    let asking = tokio::spawn(async move { caller.call::<_, i64>("what?").await });
    let question = collect_one(&mut consumer).await;
    question.reply(&42).await?;
    question.ack().confirmed().await?;
    assert_eq!(asking.await.unwrap().unwrap(), 42);
    consumer.cancel().await?;
    let letter = connection.get("dead").await?.unwrap();
    assert_eq!(texts([&letter]), ["dead"]);
    letter.ack().confirmed().await?;
    work.publish_text("purged").await?;
    assert_eq!(connection.queue_info("jobs").await?.ready, 1);
    assert_eq!(connection.purge("jobs").await?, 1);
    connection.delete_queue("jobs").await?;
    connection.close().await
}

#[tokio::test]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test with")]
async fn a_user_needs_the_permissions_that_are_documented_and_no_others() {
    let documented = include_str!("../../kombu-nats/src/lib.rs");
    for subject in PUBLISH.iter().chain(SUBSCRIBE) {
        assert!(documented.contains(&format!("`{subject}`")), "{subject}");
    }
    let nats = with_users(&[user("alice", PUBLISH, SUBSCRIBE)]);
    let said = Captured::default();
    let _guard = tracing::subscriber::set_default(said.clone());
    let url = format!("nats://alice:secret@{}", nats.address());
    use_all(&url).await.unwrap();
    let said = said.text();
    assert!(said.contains("connected successfully"), "{said}");
    assert!(!said.contains("Permissions Violation"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test with")]
async fn whoever_lacks_a_permission_is_told_which() {
    let (mut users, mut lacking) = (Vec::new(), Vec::new());
    let without = |all: &[&'static str], one| -> Vec<_> {
        let rest = all.iter().copied().filter(|subject| *subject != one);
        rest.collect()
    };
    // Without that, something may be late, and nothing fails.
    for subject in without(PUBLISH, "kombu.delayed") {
        let name = format!("user{}", users.len());
        users.push(user(&name, &without(PUBLISH, subject), SUBSCRIBE));
        lacking.push((name, "publish", subject));
    }
    for subject in SUBSCRIBE {
        let name = format!("user{}", users.len());
        users.push(user(&name, PUBLISH, &without(SUBSCRIBE, subject)));
        lacking.push((name, "subscribe", *subject));
    }
    let nats = with_users(&users);
    for (name, what, subject) in lacking {
        let begin = Instant::now();
        let url = format!("nats://{name}:secret@{}", nats.address());
        let error = use_all(&url).await.expect_err(subject);
        assert_eq!(error.kind(), ErrorKind::AccessRefused, "{subject}: {error}");
        let named = format!("{what} to `{}", subject.trim_end_matches(['*', '>']));
        assert!(error.to_string().contains(&named), "{subject}: {error}");
        assert!(begin.elapsed() < AT_ONCE, "{subject}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test with")]
async fn whoever_may_not_publish_to_a_queue_is_told_at_once() {
    let denied = r#"["kombu.q.forbidden.*", "$JS.API.STREAM.DELETE.*"]"#;
    let users = format!(
        "authorization {{ users: [{{ user: alice, password: secret, \
         permissions: {{ publish: {{ allow: [\">\"], deny: {denied} }} }} }}] }}"
    );
    for domain in ["", "?domain=hub"] {
        let nats = brokers::Nats::builder().domain("hub").config(&users);
        let nats = nats.start().unwrap();
        let url = format!("nats://alice:secret@{}{domain}", nats.address());
        let connection = connect(url).await.unwrap();
        for name in ["allowed", "forbidden"] {
            connection.declare_queue(&Queue::new(name)).await.unwrap();
        }
        let producer = connection.producer(Exchange::default()).await.unwrap();
        let begin = Instant::now();
        let publishing = (0..200).map(|number| {
            let name = ["allowed", "forbidden"][number % 2];
            producer.publish(&number).routing_key(name).into_future()
        });
        for (number, published) in join_all(publishing).await.into_iter().enumerate() {
            match number % 2 {
                0 => drop(published.unwrap()),
                _ => {
                    let error = published.unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::AccessRefused, "{error}");
                    let text = error.to_string();
                    assert!(text.contains("`kombu.q.forbidden.0`"), "{error}");
                    assert!(!error.may_have_been_stored(), "{error}");
                }
            }
        }
        let deleted = connection.delete_queue("forbidden").await;
        assert_refused(deleted, ErrorKind::AccessRefused, 403);
        assert!(begin.elapsed() < AT_ONCE);
        assert_eq!(connection.queue_info("allowed").await.unwrap().ready, 100);
        connection.close().await.unwrap();
    }
}
