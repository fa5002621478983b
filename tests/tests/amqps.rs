//! RabbitMQ over TLS: who is trusted, who connects, and what is refused. On a RabbitMQ of its own, with certificates made
//! here.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(not(kombu_test_amqp), allow(dead_code, unused_imports))]

use std::collections::HashMap;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use kombu::amqp::{Amqp, rustls};
use kombu::{Connection, Credentials, ErrorKind, Event, Registry};
use kombu_testkit::brokers::{Certificates, RabbitMq};
use kombu_tests::{Pair, Trust, ask, connect, refused, round_trip};
use rcgen::date_time_ymd;
use tokio_rustls::TlsAcceptor;

/// The only name in the broker's certificate.
const NAME: &str = "broker.example";
/// The user that our certificate names.
const SERVICE: &str = "service";

static TRUST: LazyLock<Trust> = LazyLock::new(|| {
    let trust = Trust::new(concat!(env!("CARGO_TARGET_TMPDIR"), "/amqps"), SERVICE);
    let unknown = trust.clients.certify("nobody", |_| {});
    trust.write_pair("nobody.pem", &unknown);
    trust.write("text.pem", "no certificate");
    trust
});

fn start(certificates_are_asked_for: bool) -> RabbitMq {
    let pair = TRUST.brokers.certify(NAME, |_| {});
    RabbitMq::builder()
        .tls(Certificates {
            authority: TRUST.clients.pem(),
            certificate: pair.certificate,
            key: pair.key,
        })
        .plugin("rabbitmq_auth_mechanism_ssl")
        .config("auth_mechanisms.1 = PLAIN")
        .config("auth_mechanisms.2 = EXTERNAL")
        .config("ssl_cert_login_from = common_name")
        .config("ssl_options.verify = verify_peer")
        .config(&format!(
            "ssl_options.fail_if_no_peer_cert = {certificates_are_asked_for}"
        ))
        .start()
        .unwrap()
}

/// It ends with this process.
static BROKER: LazyLock<RabbitMq> = LazyLock::new(|| {
    let broker = start(false);
    add_user(&broker, SERVICE, "never-used");
    broker
});

fn add_user(broker: &RabbitMq, name: &str, password: &str) {
    broker.ctl(["add_user", name, password]).unwrap();
    let all = ["set_permissions", name, ".*", ".*", ".*"];
    broker.ctl(all).unwrap();
}

/// The broker's URL with TLS, and this in front of its address and behind it.
fn url(user: &str, options: &[(&str, &str)]) -> String {
    let address = BROKER.tls_address().unwrap();
    format!("amqps://{user}{address}/{}", TRUST.query(options))
}

/// With what it takes to trust the broker.
fn trusting(user: &str, options: &[(&str, &str)]) -> String {
    let mut all = vec![("ca_file", "ca.pem"), ("server_name", NAME)];
    all.extend_from_slice(options);
    url(user, &all)
}

/// What the broker says about the connections of this name, when it shows `count` of them.
async fn shown(name: &str, count: usize) -> Vec<HashMap<String, serde_json::Value>> {
    loop {
        let columns =
            "user_provided_name,ssl,auth_mechanism,user,vhost,timeout,frame_max,channel_max";
        let all = ask(
            &BROKER.admin(),
            "GET",
            &format!("connections?columns={columns}"),
        );
        let all: Vec<HashMap<String, serde_json::Value>> = serde_json::from_str(&all).unwrap();
        let ours: Vec<_> = all
            .into_iter()
            .filter(|connection| {
                let given = connection
                    .get("user_provided_name")
                    .and_then(|name| name.as_str());
                // Without statistics yet, only a few columns are there.
                given.is_some_and(|given| given.starts_with(name))
                    && connection.contains_key("timeout")
            })
            .collect();
        if ours.len() >= count {
            return ours;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test with")]
async fn a_broker_whose_authority_is_named_is_trusted_and_every_connection_is_encrypted() {
    for (number, option) in ["ca_file", "extra_ca_file"].into_iter().enumerate() {
        let name = format!("trusted-{number}");
        let url = url(
            "guest:guest@",
            &[
                (option, "ca.pem"),
                ("server_name", NAME),
                ("connection_name", &name),
            ],
        );
        let connection = connect(url).await.unwrap();
        round_trip(&connection).await;
        for connection in shown(&name, 2).await {
            assert_eq!(connection["ssl"], true, "{connection:?}");
            assert_eq!(connection["auth_mechanism"], "PLAIN");
        }
        connection.close().await.unwrap();
    }
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test with")]
async fn a_broker_that_nobody_vouches_for_is_refused() {
    for trust in [
        None,
        Some(("ca_file", "other-ca.pem")),
        Some(("extra_ca_file", "other-ca.pem")),
    ] {
        let options: Vec<_> = trust.into_iter().chain([("server_name", NAME)]).collect();
        let error = refused(url("guest:guest@", &options)).await;
        assert_eq!(error.kind(), ErrorKind::Tls, "{error}");
        assert!(error.to_string().contains("`ca_file`"), "{error}");
    }
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test with")]
async fn a_broker_with_another_name_is_refused_unless_that_name_is_given() {
    // By its address, which the certificate doesn't have.
    for wrong in [
        vec![("ca_file", "ca.pem")],
        vec![("ca_file", "ca.pem"), ("server_name", "other.example")],
    ] {
        let error = refused(url("guest:guest@", &wrong)).await;
        assert_eq!(error.kind(), ErrorKind::Tls, "{error}");
        assert!(error.to_string().contains("`server_name`"), "{error}");
    }
    let connection = connect(trusting("guest:guest@", &[])).await.unwrap();
    connection.close().await.unwrap();
}

const SYSTEM: &str = "KOMBU_TEST_AMQPS_SYSTEM_URL";

/// Says whether connecting works with what the system trusts.
#[test]
fn program() {
    let Ok(url) = std::env::var(SYSTEM) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    match runtime.block_on(async { connect(url).await }) {
        Ok(_) => println!("[connected]"),
        Err(error) => println!("[{:?}]", error.kind()),
    }
}

#[test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test with")]
fn what_the_system_trusts_is_trusted_unless_an_authority_is_named() {
    let ask = |options: &[(&str, &str)], system: &str| {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "program", "--nocapture"])
            .env(SYSTEM, url("guest:guest@", options))
            .env("SSL_CERT_FILE", TRUST.path(system))
            .env_remove("SSL_CERT_DIR")
            .output()
            .unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        let (_, said) = printed.split_once('[').unwrap();
        said.split_once(']').unwrap().0.to_owned()
    };
    let name = ("server_name", NAME);
    assert_eq!(ask(&[name], "ca.pem"), "connected");
    assert_eq!(ask(&[name], "other-ca.pem"), "Tls");
    assert_eq!(
        ask(&[name, ("extra_ca_file", "other-ca.pem")], "ca.pem"),
        "connected"
    );
    assert_eq!(ask(&[name, ("ca_file", "other-ca.pem")], "ca.pem"), "Tls");
    assert_eq!(ask(&[name], "text.pem"), "Config");
}

/// A server whose certificate is this one; counts who comes.
async fn server_with(pair: &Pair) -> (u16, Arc<AtomicUsize>) {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let certificate = CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let came = Arc::new(AtomicUsize::new(0));
    let counting = came.clone();
    tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(Arc::new(config));
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            counting.fetch_add(1, Ordering::SeqCst);
            // A client that goes on would wait for our word.
            if let Ok(stream) = acceptor.accept(stream).await {
                std::mem::forget(stream);
            }
        }
    });
    (port, came)
}

#[tokio::test]
async fn a_certificate_out_of_its_time_is_refused_at_the_first_attempt() {
    let expired = TRUST
        .brokers
        .certify(NAME, |params| params.not_after = date_time_ymd(2020, 1, 1));
    let early = TRUST
        .brokers
        .certify(NAME, |params| params.not_before = date_time_ymd(2999, 1, 1));
    for pair in [expired, early] {
        let (port, came) = server_with(&pair).await;
        let query = TRUST.query(&[("ca_file", "ca.pem"), ("server_name", NAME)]);
        let error = refused(format!("amqps://127.0.0.1:{port}/{query}")).await;
        assert_eq!(error.kind(), ErrorKind::Tls, "{error}");
        assert_eq!(came.load(Ordering::SeqCst), 1);
    }
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test with")]
async fn our_certificate_says_who_we_are() {
    for (number, own) in [
        vec![("cert_file", "ours.pem"), ("key_file", "ours.key")],
        vec![("cert_file", "both.pem")],
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("external-{number}");
        let mut options = vec![
            ("auth_mechanism", "external"),
            ("connection_name", name.as_str()),
        ];
        options.extend(own);
        let connection = connect(trusting("", &options)).await.unwrap();
        round_trip(&connection).await;
        for connection in shown(&name, 2).await {
            assert_eq!(connection["user"], SERVICE);
            assert_eq!(connection["auth_mechanism"], "EXTERNAL");
        }
        connection.close().await.unwrap();
    }
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test with")]
async fn a_certificate_of_an_unknown_user_is_refused_as_a_wrong_password_is() {
    let options = [("auth_mechanism", "external"), ("cert_file", "nobody.pem")];
    let error = refused(trusting("", &options)).await;
    assert_eq!(error.kind(), ErrorKind::Credentials, "{error}");
    assert!(error.to_string().contains("certificate"), "{error}");
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test with")]
async fn a_certificate_that_the_broker_does_not_trust_is_refused() {
    for _ in 0..10 {
        let error = refused(trusting("guest:guest@", &[("cert_file", "foreign.pem")])).await;
        assert_eq!(error.kind(), ErrorKind::Tls, "{error}");
        assert!(error.to_string().contains("`cert_file`"), "{error}");
    }
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test with")]
async fn a_broker_that_asks_for_a_certificate_gets_one_or_refuses() {
    let strict = start(true);
    let at = |options: &[(&str, &str)]| {
        let mut all = vec![("ca_file", "ca.pem"), ("server_name", NAME)];
        all.extend_from_slice(options);
        let address = strict.tls_address().unwrap();
        format!("amqps://guest:guest@{address}/{}", TRUST.query(&all))
    };
    for _ in 0..10 {
        let error = refused(at(&[])).await;
        assert_eq!(error.kind(), ErrorKind::Tls, "{error}");
    }
    let connection = connect(at(&[("cert_file", "both.pem")])).await.unwrap();
    round_trip(&connection).await;
    connection.close().await.unwrap();
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test with")]
async fn a_mechanism_that_the_broker_does_not_offer_is_refused() {
    let pair = TRUST.brokers.certify(NAME, |_| {});
    let certificates = Certificates {
        authority: TRUST.clients.pem(),
        certificate: pair.certificate,
        key: pair.key,
    };
    let plain = RabbitMq::builder().tls(certificates).start().unwrap();
    let query = TRUST.query(&[
        ("ca_file", "ca.pem"),
        ("server_name", NAME),
        ("cert_file", "both.pem"),
        ("auth_mechanism", "external"),
    ]);
    let error = refused(format!("amqps://{}/{query}", plain.tls_address().unwrap())).await;
    assert_eq!(error.kind(), ErrorKind::Credentials, "{error}");
    assert!(
        error.to_string().contains("rabbitmq_auth_mechanism_ssl"),
        "{error}"
    );
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test with")]
async fn neither_side_is_spoken_to_without_encryption_when_it_was_asked_for() {
    let plain = BROKER.address();
    let query = TRUST.query(&[("ca_file", "ca.pem"), ("server_name", NAME)]);
    let error = refused(format!("amqps://guest:guest@{plain}/{query}")).await;
    assert_eq!(error.kind(), ErrorKind::Tls, "{error}");
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test with")]
async fn wrong_passwords_and_missing_virtual_hosts_are_refused_over_tls_too() {
    let error = refused(trusting("guest:a-secret@", &[])).await;
    assert_eq!(error.kind(), ErrorKind::Credentials, "{error}");
    assert!(
        !format!("{error} {error:?}").contains("a-secret"),
        "{error:?}"
    );
    let missing = trusting("guest:guest@", &[]).replace("/?", "/missing?");
    let error = refused(missing).await;
    assert_eq!(error.kind(), ErrorKind::Credentials, "{error}");
    assert!(error.to_string().contains("missing"), "{error}");
}

#[tokio::test]
async fn options_that_would_have_no_effect_are_refused() {
    for (url, wanted) in [
        ("amqp://h/?ca_file=ca.pem", "write `amqps://`"),
        ("amqp://h/?server_name=n", "write `amqps://`"),
        ("amqp://h/?cert_file=c.pem", "write `amqps://`"),
        ("amqp://h/?auth_mechanism=external", "write `amqps://`"),
        ("amqps://h/?auth_mechanism=external", "`cert_file`"),
        (
            "amqps://u@h/?auth_mechanism=external&cert_file=c.pem",
            "leave user and password out",
        ),
        (
            "amqps://h/?auth_mechanism=extern",
            "did you mean `external`",
        ),
        ("amqps://h/?key_file=k.pem", "`cert_file`"),
        (
            "amqps://h/?ca_file=a.pem&extra_ca_file=b.pem",
            "`extra_ca_file`",
        ),
        ("amqps://h/?verify=verify_none", "`verify` is unknown"),
        ("amqps://h/?ca_file=/nowhere/ca.pem", "`/nowhere/ca.pem`"),
        (
            "amqps://h/?ca_file=text.pem",
            "text.pem`: there is none in PEM",
        ),
        (
            "amqps://h/?ca_file=ca.pem&cert_file=ours.pem",
            "private key",
        ),
        (
            "amqps://h/?ca_file=ca.pem&cert_file=nobody.pem&key_file=ours.key",
            "don't go together",
        ),
    ] {
        let mut filled = url.to_owned();
        for name in ["text.pem", "ca.pem", "ours.pem", "nobody.pem", "ours.key"] {
            let path = TRUST.path(name).display().to_string();
            filled = filled.replace(&format!("={name}"), &format!("={path}"));
        }
        let error = refused(filled).await;
        assert_eq!(error.kind(), ErrorKind::Config, "{url}: {error}");
        assert!(error.to_string().contains(wanted), "{url}: {error}");
    }
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test with")]
async fn a_program_can_bring_a_tls_configuration_of_its_own() {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    let mut roots = rustls::RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(TRUST.brokers.pem().as_bytes()).unwrap();
    roots.add(authority).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let registry = Registry::new().with(Amqp.with_tls_config(config));
    let builder = |options: &[(&str, &str)]| {
        Connection::builder(registry.clone()).url(url("guest:guest@", options))
    };
    let connection = builder(&[("server_name", NAME)]).await.unwrap();
    round_trip(&connection).await;
    connection.close().await.unwrap();
    let error = builder(&[]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Tls, "{error}");
    let error = builder(&[("ca_file", "ca.pem")]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test with")]
async fn what_was_negotiated_and_the_name_are_what_the_url_says() {
    BROKER.ctl(["add_vhost", "a/b c%"]).unwrap();
    let guest = ["set_permissions", "-p", "a/b c%", "guest", ".*", ".*", ".*"];
    BROKER.ctl(guest).unwrap();
    let plain = BROKER.address();
    let options = "heartbeat=7&frame_max=8192&channel_max=31&connection_name=nego%20%C3%A4";
    let url = format!("amqp://guest:guest@{plain}/a%2Fb%20c%25?{options}");
    let connection = connect(url).await.unwrap();
    round_trip(&connection).await;
    for connection in shown("nego ä", 2).await {
        assert_eq!(connection["vhost"], "a/b c%");
        assert_eq!(connection["timeout"], 7);
        assert_eq!(connection["frame_max"], 8192);
        assert_eq!(connection["channel_max"], 31);
    }
    connection.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test with")]
async fn credentials_are_asked_for_at_each_attempt_and_rotated_ones_are_found() {
    add_user(&BROKER, "rotating", "first");
    let password = Arc::new(Mutex::new("first"));
    let current = password.clone();
    let connection = connect(trusting("", &[]))
        .credentials(move || {
            let password = *current.lock().unwrap();
            async move { Ok(Credentials::new("rotating", password)) }
        })
        .await
        .unwrap();
    let mut events = connection.events();
    // Publishers have a connection of their own, and the password that the session began with is out of date by now.
    BROKER
        .ctl(["change_password", "rotating", "second"])
        .unwrap();
    *password.lock().unwrap() = "second";
    round_trip(&connection).await;
    BROKER
        .ctl(["change_password", "rotating", "third"])
        .unwrap();
    *password.lock().unwrap() = "third";
    BROKER
        .ctl(["close_all_user_connections", "rotating", "the test"])
        .unwrap();
    for _ in 0..2 {
        while !matches!(events.next().await.unwrap(), Event::Restored { .. }) {}
    }
    round_trip(&connection).await;
    connection.close().await.unwrap();
}
