//! Who may come in to NATS, and over which line: each kind of access on a server of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(not(kombu_test_nats), allow(dead_code, unused_imports))]

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kombu::nats::{Nats, rustls};
use kombu::{
    Connection, ConnectionBuilder, Credentials, Deadlines, Error, ErrorKind, Event, Exchange,
    Queue, Registry, RetryPolicy,
};
use kombu_testkit::brokers;
use kombu_testkit::expect::collect_one;
use kombu_tests::Authority;
use nkeys::KeyPair;
use serde_json::{Value, json};

/// The name in the servers' certificates.
const HOST: &str = "localhost";

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
        let (servers, clients) = (
            Authority::new("the servers' authority"),
            Authority::new("the clients' authority"),
        );
        let pair = servers.certify(HOST, |_| {});
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
