//! A password in an `amqp://` URL stays there, whatever lapin writes down. This test is alone in its program: lapin has
//! threads of its own, so the subscriber is everybody's.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(not(kombu_test_amqp), allow(dead_code, unused_imports))]

use kombu::{Connection, Credentials, ErrorKind};
use kombu_tests::Captured;

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn no_output_tells_a_password_that_is_sent() {
    const SECRET: &str = "Xk7-tell-nobody";
    let captured = Captured::default();
    tracing::subscriber::set_global_default(captured.clone()).unwrap();
    let url = std::env::var("KOMBU_TEST_AMQP_URL").unwrap();
    let in_url = Connection::builder(kombu::registry())
        .url(url.replace("guest:guest@", &format!("guest:{SECRET}@")));
    let provided = Connection::builder(kombu::registry())
        .url(url)
        .credentials(async || Ok(Credentials::new("guest", SECRET)));
    let mut shown = Vec::new();
    for builder in [in_url, provided] {
        shown.push(format!("{builder:?}"));
        let error = builder.await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Credentials);
        shown.push(format!("{error} {error:?}"));
    }
    let captured = captured.text();
    assert!(captured.contains("StartOk"), "{captured}");
    shown.push(captured);
    for text in shown {
        assert!(!text.contains(SECRET), "{text}");
    }
}
