//! Mailboxes and broadcast queues whose sessions are lost.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use kombu::handler::{Exit, Router};
use kombu::mailbox::Mailbox;
use kombu::{Connection, Event, Exchange, Faults, Queue};

const PATIENCE: Duration = Duration::from_secs(60);

async fn connect(url: &str, faults: &Faults) -> Connection {
    let builder = Connection::builder(kombu::registry()).url(url);
    builder.layer(faults.clone()).await.unwrap()
}

/// Cuts, and waits until the next session is there.
async fn cut(connection: &Connection, faults: &Faults) {
    let mut events = connection.events();
    faults.cut();
    loop {
        if let Event::Restored { .. } = events.next().await.unwrap() {
            return;
        }
    }
}

/// Whether its own session is lost, or that of whoever commands it.
#[tokio::test(start_paused = true)]
async fn a_node_is_commanded_across_sessions() {
    let (here, there) = (Faults::default(), Faults::default());
    let node = connect("memory://mailbox-cut", &here).await;
    let commander = connect("memory://mailbox-cut", &there).await;
    let mailbox = Mailbox::new("workers");
    let router = Router::new().on("ping", async || "pong");
    let running = mailbox.node(&node, "here", router).await.unwrap();
    let running = tokio::spawn(running.run());
    let mut nodes = mailbox.nodes(&commander).await.unwrap();
    for lost in [None, Some((&node, &here)), Some((&commander, &there))] {
        if let Some((connection, faults)) = lost {
            cut(connection, faults).await;
        }
        let call = nodes.call::<_, String>("ping", &()).to(["here"]);
        let replies = call.timeout(PATIENCE).await.unwrap();
        assert_eq!(replies[0].result.as_deref(), Ok("pong"));
    }
    node.close().await.unwrap();
    running.await.unwrap().unwrap();
}

/// What is published while its consumer has no session is lost, as it was nobody's; what comes later isn't.
#[tokio::test(start_paused = true)]
async fn a_broadcast_queue_is_there_again_after_a_cut() {
    let faults = Faults::default();
    let connection = connect("memory://broadcast-cut", &faults).await;
    let mut consumer = connection
        .consumer(&Queue::broadcast("news"))
        .await
        .unwrap();
    let producer = connection.producer(Exchange::fanout("news")).await.unwrap();
    for text in ["before", "after"] {
        producer.publish(text).await.unwrap();
        let mut values = consumer.values::<String>();
        let (heard, delivery) = values.try_next().await.unwrap().unwrap();
        assert_eq!(heard, text);
        delivery.ack().await.unwrap();
        cut(&connection, &faults).await;
    }
}

/// One that lost its session is the same connection, and comes back to its pool.
#[tokio::test(start_paused = true)]
async fn a_pooled_connection_survives_a_cut() {
    let faults = Faults::default();
    let layer = faults.clone();
    let pools =
        kombu::Pools::built_by(move || Connection::builder(kombu::registry()).layer(layer.clone()));
    let pools = pools.limit(1);
    let one = pools.acquire("memory://pool-cut").await.unwrap();
    cut(&one, &faults).await;
    drop(one);
    let again = pools.try_acquire("memory://pool-cut").await.unwrap();
    assert_eq!(again.health().sessions, 2);
    drop(again);
    pools.close_idle().await.unwrap();
    let fresh = pools.acquire("memory://pool-cut").await.unwrap();
    assert_eq!(fresh.health().sessions, 1);
}

/// It may finish, unless it never does.
#[tokio::test(start_paused = true)]
async fn a_node_that_is_stopped_waits_for_its_handler_for_a_while() {
    for (seconds, finishes) in [(20, true), (40, false)] {
        let connection = kombu::connect("memory://").await.unwrap();
        let mailbox = Mailbox::new("workers");
        let (begun, mut begins) = tokio::sync::mpsc::channel(1);
        let (done, mut is_done) = tokio::sync::mpsc::channel(1);
        let slow = async move || {
            begun.send(()).await.unwrap();
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            done.send(()).await.unwrap();
        };
        let router = Router::new().on("slow", slow);
        let node = mailbox.node(&connection, "here", router).await.unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let running = tokio::spawn(node.run_until(async { drop(stopped.await) }));
        let mut nodes = mailbox.nodes(&connection).await.unwrap();
        let call = nodes.call::<_, ()>("slow", &()).to(["here"]);
        let (replies, ()) = tokio::join!(call.timeout(PATIENCE), async {
            begins.recv().await.unwrap();
            drop(stop);
            assert_eq!(running.await.unwrap().unwrap(), Exit::Stopped);
            assert_eq!(is_done.recv().await.is_some(), finishes);
        });
        // Whoever waits for it is told either way.
        assert_eq!(replies.unwrap()[0].result.is_ok(), finishes);
    }
}
