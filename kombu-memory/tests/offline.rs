//! No network is needed. Alone in its program: other tests' runtimes open sockets of their own.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use kombu::{Exchange, Queue};

/// What this process has open that is a socket.
fn sockets() -> Vec<std::path::PathBuf> {
    let open = std::fs::read_dir("/proc/self/fd").unwrap();
    let mut sockets: Vec<_> = open
        .filter_map(|file| std::fs::read_link(file.unwrap().path()).ok())
        .filter(|target| target.to_string_lossy().starts_with("socket:"))
        .collect();
    sockets.sort();
    sockets
}

#[tokio::test]
async fn no_socket_is_opened() {
    let before = sockets();
    let connection = kombu::connect("memory://offline").await.unwrap();
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    let producer = connection.producer(Exchange::default()).await.unwrap();
    producer.publish(&1).routing_key("jobs").await.unwrap();
    let delivery = consumer.try_next().await.unwrap().unwrap();
    assert_eq!(sockets(), before);
    delivery.ack().await.unwrap();
}
