//! Redis and Sentinels over TLS: who is trusted, who connects, and what is refused. On a Redis of its own, with certificates
//! made here.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(not(kombu_test_redis), allow(dead_code, unused_imports))]

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use kombu::redis::{Redis, rustls};
use kombu::{Connection, Deadlines, ErrorKind, Registry};
use kombu_testkit::brokers::{self, Certificates, Sentinel};
use kombu_tests::{RedisAdmin, Trust, connect, refused, round_trip};
use rcgen::{CertificateParams, date_time_ymd};

/// The only name in the server's certificate.
const NAME: &str = "redis.example";

static TRUST: LazyLock<Trust> =
    LazyLock::new(|| Trust::new(concat!(env!("CARGO_TARGET_TMPDIR"), "/rediss"), "service"));

fn certificates(change: impl FnOnce(&mut CertificateParams)) -> Certificates {
    let pair = TRUST.brokers.certify(NAME, change);
    Certificates {
        authority: TRUST.clients.pem(),
        certificate: pair.certificate,
        key: pair.key,
    }
}

fn start(change: impl FnOnce(&mut CertificateParams)) -> brokers::Redis {
    brokers::Redis::builder()
        .tls(certificates(change))
        .config("tls-auth-clients no")
        .config("user alice on >a-secret ~* &* +@all")
        .start()
        .unwrap()
}

/// It ends with this process.
static SERVER: LazyLock<brokers::Redis> = LazyLock::new(|| start(|_| {}));

fn at(redis: &brokers::Redis, user: &str, options: &[(&str, &str)]) -> String {
    let address = redis.tls_address().unwrap();
    format!("rediss://{user}{address}/{}", TRUST.query(options))
}

/// With what it takes to trust the server.
fn trusting<'a>(options: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [&[("ca_file", "ca.pem"), ("server_name", NAME)], options].concat()
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn a_server_whose_authority_is_named_is_trusted() {
    for option in ["ca_file", "extra_ca_file"] {
        let options = [(option, "ca.pem"), ("server_name", NAME)];
        let connection = connect(at(&SERVER, "", &options)).await.unwrap();
        round_trip(&connection).await;
        connection.close().await.unwrap();
    }
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn a_server_that_nobody_vouches_for_is_refused() {
    for trust in [
        None,
        Some(("ca_file", "other-ca.pem")),
        Some(("extra_ca_file", "other-ca.pem")),
    ] {
        let options: Vec<_> = trust.into_iter().chain([("server_name", NAME)]).collect();
        let error = refused(at(&SERVER, "", &options)).await;
        assert_eq!(error.kind(), ErrorKind::Tls, "{error}");
        assert!(error.to_string().contains("`ca_file`"), "{error}");
    }
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn a_server_with_another_name_is_refused() {
    // By its address, which the certificate doesn't have.
    for wrong in [
        vec![("ca_file", "ca.pem")],
        vec![("ca_file", "ca.pem"), ("server_name", "other.example")],
    ] {
        let error = refused(at(&SERVER, "", &wrong)).await;
        assert_eq!(error.kind(), ErrorKind::Tls, "{error}");
        assert!(error.to_string().contains("`server_name`"), "{error}");
    }
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn a_certificate_out_of_its_time_is_refused() {
    let expired = start(|params| params.not_after = date_time_ymd(2020, 1, 1));
    let early = start(|params| params.not_before = date_time_ymd(2999, 1, 1));
    for server in [expired, early] {
        let error = refused(at(&server, "", &trusting(&[]))).await;
        assert_eq!(error.kind(), ErrorKind::Tls, "{error}");
    }
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn a_server_that_asks_for_a_certificate_gets_one_or_refuses() {
    let strict = brokers::Redis::builder()
        .tls(certificates(|_| {}))
        .config("tls-auth-clients yes")
        .start()
        .unwrap();
    for _ in 0..10 {
        for own in [&[][..], &[("cert_file", "foreign.pem")]] {
            let error = refused(at(&strict, "", &trusting(own))).await;
            assert_eq!(error.kind(), ErrorKind::Tls, "{error}");
            assert!(error.to_string().contains("`cert_file`"), "{error}");
        }
    }
    for own in [
        &[("cert_file", "both.pem")][..],
        &[("cert_file", "ours.pem"), ("key_file", "ours.key")],
    ] {
        let connection = connect(at(&strict, "", &trusting(own))).await.unwrap();
        round_trip(&connection).await;
        connection.close().await.unwrap();
    }
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn users_are_asked_for_their_passwords_over_tls_too() {
    let url = at(&SERVER, "alice:a-secret@", &trusting(&[]));
    connect(url).await.unwrap().close().await.unwrap();
    let error = refused(at(&SERVER, "alice:wrong-secret@", &trusting(&[]))).await;
    assert_eq!(error.kind(), ErrorKind::Credentials, "{error}");
    let shown = format!("{error} {error:?}");
    assert!(!shown.contains("wrong-secret"), "{shown}");
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn neither_side_is_spoken_to_without_encryption_when_it_was_asked_for() {
    let plain = SERVER.address();
    let query = TRUST.query(&trusting(&[]));
    let mut deadlines = Deadlines::default();
    deadlines.connect = Duration::from_secs(2);
    let connected = connect(format!("rediss://{plain}/{query}"))
        .deadlines(deadlines)
        .await;
    // Redis waits for the end of what it takes for a line.
    let error = connected.unwrap_err();
    let expected = [ErrorKind::Tls, ErrorKind::Timeout];
    assert!(expected.contains(&error.kind()), "{error}");
    let encrypted = SERVER.tls_address().unwrap();
    let connected = connect(format!("redis://{encrypted}"))
        .deadlines(deadlines)
        .await;
    connected.unwrap_err();
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn sentinels_and_the_master_that_they_name_are_spoken_to_with_encryption() {
    let tls_address = SERVER.tls_address().unwrap();
    let port = tls_address.rsplit(':').next().unwrap().parse().unwrap();
    let sentinel = Sentinel::of("main", port)
        .tls(certificates(|_| {}))
        .config("tls-auth-clients no")
        .start()
        .unwrap();
    let at = |address: String, options: &[(&str, &str)]| {
        let query = TRUST.query(options);
        format!("rediss+sentinel://{address}/main{query}")
    };
    let url = at(sentinel.tls_address().unwrap(), &trusting(&[]));
    let connection = connect(url).await.unwrap();
    round_trip(&connection).await;
    connection.close().await.unwrap();
    let url = at(
        sentinel.tls_address().unwrap(),
        &[("ca_file", "other-ca.pem"), ("server_name", NAME)],
    );
    let error = refused(url).await;
    assert_eq!(error.kind(), ErrorKind::Tls, "{error}");
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
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
    let registry = Registry::new().with(Redis.with_tls_config(config));
    let builder = |options: &[(&str, &str)]| {
        Connection::builder(registry.clone()).url(at(&SERVER, "", options))
    };
    let connection = builder(&[("server_name", NAME)]).await.unwrap();
    round_trip(&connection).await;
    connection.close().await.unwrap();
    let error = builder(&[]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Tls, "{error}");
    let error = builder(&[("ca_file", "ca.pem")]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn an_encrypted_connection_that_is_cut_comes_back_encrypted() {
    let server = start(|_| {});
    let url = at(&server, "alice:a-secret@", &trusting(&[]));
    let connection = connect(url).await.unwrap();
    let mut events = connection.events();
    RedisAdmin::of(&server).ask(["CLIENT", "KILL", "USER", "alice"]);
    while !matches!(events.next().await.unwrap(), kombu::Event::Restored { .. }) {}
    round_trip(&connection).await;
    connection.close().await.unwrap();
}
