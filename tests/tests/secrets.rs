//! A password in a URL stays there. This test is alone in its program: whether an event is written down is
//! remembered for all threads.

// A test says no by panicking, in its helpers too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use kombu::{Connection, Credentials, ErrorKind, Exchange, Faults, Queue};
use kombu_tests::Captured;

#[tokio::test(start_paused = true)]
async fn no_output_tells_the_password_of_the_url() {
    const SECRET: &str = "Xk7-tell-nobody";
    // As it is in a URL, and as a provider of credentials gives it.
    const ENCODED: &str = "Yk8%2Fkeep%40to-yourself";
    const DECODED: &str = "Yk8/keep@to-yourself";
    const PROVIDED: &str = "Zk9-for-the-broker-only";
    let captured = Captured::default();
    let _guard = tracing::subscriber::set_default(captured.clone());
    let url = format!("memory://user:{SECRET}@phases-secret/host?max_message_size=100000");
    let faults = Faults::default();
    let connection = Connection::builder(kombu::registry())
        .url(&url)
        .layer(faults.clone())
        .await
        .unwrap();
    let mut events = connection.events();
    let mut shown = Vec::new();
    let mut consumer = connection
        .consumer(&Queue::new("jobs"))
        .prefetch(2)
        .await
        .unwrap();
    let producer = connection.producer(Exchange::default()).routing_key("jobs");
    let producer = producer.await.unwrap();
    faults.refuse_connects([ErrorKind::ConnectionLost, ErrorKind::Credentials]);
    faults.lose_replies(1);
    producer.publish(&1).await.unwrap();
    drop(consumer.try_next().await.unwrap());
    shown.push(format!("{consumer:?} {producer:?} {connection:?}"));
    while !shown.iter().any(|shown| shown.contains("Restored")) {
        shown.push(format!("{:?}", events.next().await.unwrap()));
    }
    shown.push(format!("{:?}", connection.health()));
    shown.push(connection.get("nowhere").await.unwrap_err().to_string());
    connection.close().await.unwrap();
    shown.push(format!("{:?}", connection.get("jobs").await.unwrap_err()));
    let asked = Connection::builder(kombu::registry())
        .url(format!("memory://user:{ENCODED}@phases-secret"))
        .credentials(|| async { Ok(Credentials::new("user", PROVIDED)) });
    shown.push(format!("{asked:?}"));
    let asked = asked.await.unwrap();
    shown.push(format!("{asked:?} {} {:?}", asked.target(), asked.target()));
    for wrong in [
        format!("nothing://user:{SECRET}@host/"),
        format!("memory://user:{SECRET}@host/?max_mesage_size=1"),
        format!("memory://user:{SECRET}@host:99999/"),
        format!("nothing://user:{ENCODED}@host/"),
        format!("memory://user:{ENCODED}@host:99999/"),
        format!("memory://host/?password={SECRET}"),
        format!("memory://host/?password={ENCODED}&like=nothing"),
        format!("memory://host/?max_message_size={SECRET}"),
        format!("memory://host/?like={ENCODED}"),
    ] {
        let builder = Connection::builder(kombu::registry()).url(wrong);
        shown.push(format!("{builder:?}"));
        let error = builder.await.unwrap_err();
        shown.push(format!("{error} {error:?}"));
    }
    let captured = captured.text();
    for said in [
        "connected",
        "connection lost",
        "connection restored",
        "released",
    ] {
        assert!(captured.contains(said), "`{said}` isn't in:\n{captured}");
    }
    shown.push(captured);
    for text in shown {
        for secret in [SECRET, ENCODED, DECODED, PROVIDED] {
            assert!(!text.contains(secret), "{text}");
        }
    }
    kombu::memory::remove("phases-secret");
}
