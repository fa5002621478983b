//! An attempt to connect that is given up ends. This test is alone in its program: it counts threads.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg(target_os = "linux")]

use std::time::Duration;

#[tokio::test]
async fn an_attempt_that_is_given_up_leaves_nothing_behind() {
    let threads = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let names = tasks
            .filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok());
        names.filter(|name| name.starts_with("lapin")).count()
    };
    // It takes connections, and says nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let before = threads();
    for _ in 0..3 {
        let connecting = tokio::time::timeout(
            Duration::from_millis(200),
            kombu::connect(format!("amqp://{address}")),
        );
        connecting.await.unwrap_err();
        let (mut peer, _) = silent.accept().await.unwrap();
        // The other end is closed.
        let mut greeting = Vec::new();
        let end = tokio::io::AsyncReadExt::read_to_end(&mut peer, &mut greeting);
        let end = tokio::time::timeout(Duration::from_secs(30), end).await;
        end.expect("it stays open").unwrap();
        assert!(greeting.starts_with(b"AMQP"));
    }
    while threads() > before {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
