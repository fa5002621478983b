//! Commands to processes by name, and their replies.

use std::time::Duration;

use kombu_core::driver::Feature;
use kombu_core::handler::{Exit, Outcome, Router};
use kombu_core::mailbox::{Arguments, Mailbox, Nodes, Reply};
use kombu_core::{Connection, ErrorKind, Name};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinHandle;

use crate::Broker;
use crate::cases::handling::{PATIENCE, log, soon};
use crate::expect::assert_refused;

#[derive(Serialize, Deserialize)]
struct Add {
    x: i64,
    y: i64,
}

async fn add(Arguments(Add { x, y }): Arguments<Add>) -> i64 {
    x + y
}

fn router(seen: UnboundedSender<Name>, name: &Name) -> Router {
    let name = name.clone();
    let note = async move || {
        seen.send(name).unwrap();
    };
    Router::new()
        .on("add", add)
        .on("note", note)
        .on("fail", async || Err::<(), _>("out of paper"))
        .on("panic", async || {
            if true {
                panic!("on fire");
            }
        })
        .on("stop", async || Outcome::Quit)
}

type Running = JoinHandle<kombu_core::Result<Exit>>;

async fn start(
    mailbox: &Mailbox,
    connection: &Connection,
    name: &str,
    seen: &UnboundedSender<Name>,
) -> Running {
    let name = Name::from(name);
    let router = router(seen.clone(), &name);
    let node = mailbox.node(connection, name, router).await.unwrap();
    tokio::spawn(node.run())
}

/// Two nodes and whoever commands them, each on a connection of their own.
async fn workers(mailbox: &Mailbox, broker: &Broker, seen: &UnboundedSender<Name>) -> Nodes {
    for name in ["left", "right"] {
        let connection = broker.connect().await;
        start(mailbox, &connection, name, seen).await;
    }
    mailbox.nodes(&broker.connect().await).await.unwrap()
}

fn names<T>(replies: &[Reply<T>]) -> Vec<&str> {
    let mut names: Vec<_> = replies.iter().map(|reply| reply.node.as_str()).collect();
    names.sort_unstable();
    names
}

const TWO_AND_THREE: Add = Add { x: 2, y: 3 };

/// Those that were named, and nobody else; then all of them.
pub async fn nodes_reply_to_a_call(broker: &Broker) {
    let (seen, _log) = log();
    for mailbox in [Mailbox::new("workers"), Mailbox::new("others").fanout()] {
        let mut nodes = workers(&mailbox, broker, &seen).await;
        let call = nodes.call::<_, i64>("add", &TWO_AND_THREE);
        let replies = call.to(["left"]).timeout(PATIENCE).await.unwrap();
        assert_eq!(names(&replies), ["left"]);
        assert_eq!(replies[0].result, Ok(5));
        let call = nodes.call::<_, i64>("add", &TWO_AND_THREE);
        let replies = call.limit(2).timeout(PATIENCE).await.unwrap();
        assert_eq!(names(&replies), ["left", "right"]);
        assert!(replies.iter().all(|reply| reply.result == Ok(5)));
    }
}

/// By their names, by a pattern, or everybody.
pub async fn nodes_are_chosen_by_name_or_pattern(broker: &Broker) {
    let (seen, mut log) = log();
    let mut nodes = workers(&Mailbox::new("workers"), broker, &seen).await;
    nodes.cast("note", &()).to(["right"]).await.unwrap();
    assert_eq!(log.next().await, "right");
    nodes.cast("note", &()).matching("l??t*").await.unwrap();
    assert_eq!(log.next().await, "left");
    nodes.cast("note", &()).await.unwrap();
    let mut all = [log.next().await, log.next().await];
    all.sort();
    assert_eq!(all, ["left", "right"]);
    assert!(log.is_empty());
}

/// Errors, panics, methods that nobody knows and arguments that don't fit are told, and the node goes on.
pub async fn what_fails_on_a_node_is_its_reply(broker: &Broker) {
    let (seen, _log) = log();
    let mut nodes = workers(&Mailbox::new("workers"), broker, &seen).await;
    for (method, expected) in [
        ("fail", "out of paper"),
        ("panic", "on fire"),
        ("nonsense", "nonsense"),
        ("add", "can't be decoded"),
    ] {
        let call = nodes.call::<_, i64>(method, &["no arguments"; 0]);
        let replies = call.to(["left"]).timeout(PATIENCE).await.unwrap();
        let told = replies[0].result.clone().unwrap_err();
        assert!(told.contains(expected), "{method}: {told}");
    }
    let call = nodes.call::<_, i64>("add", &TWO_AND_THREE);
    let replies = call.to(["left"]).timeout(PATIENCE).await.unwrap();
    assert_eq!(replies[0].result, Ok(5));
}

/// Nobody has to be there, and what comes too late is nobody's.
pub async fn a_call_without_replies_ends_in_time(broker: &Broker) {
    let connection = broker.connect().await;
    let mailbox = Mailbox::new("workers");
    let mut nodes = mailbox.nodes(&connection).await.unwrap();
    let call = nodes.call::<_, i64>("add", &TWO_AND_THREE);
    let replies = call.timeout(Duration::from_millis(50)).await.unwrap();
    assert!(replies.is_empty());
    nodes.cast("add", &TWO_AND_THREE).await.unwrap();
    let (seen, _log) = log();
    start(&mailbox, &connection, "left", &seen).await;
    let call = nodes.call::<_, i64>("add", &Add { x: 1, y: 1 });
    let replies = call.to(["left"]).timeout(PATIENCE).await.unwrap();
    assert_eq!(replies[0].result, Ok(2));
}

/// A message that is none ends no node, and a command can.
pub async fn a_node_ends_when_it_is_told_and_not_before(broker: &Broker) {
    let connection = broker.connect().await;
    let mailbox = Mailbox::new("workers");
    let (seen, _log) = log();
    let running = start(&mailbox, &connection, "left", &seen).await;
    let producer = connection.producer(mailbox.exchange()).await.unwrap();
    producer.publish("no command").await.unwrap();
    producer.publish_bytes(vec![255]).await.unwrap();
    let mut nodes = mailbox.nodes(&connection).await.unwrap();
    let stop = nodes.call::<_, ()>("stop", &()).to(["left"]);
    assert_eq!(names(&stop.timeout(PATIENCE).await.unwrap()), ["left"]);
    assert_eq!(soon(running).await.unwrap().unwrap(), Exit::Quit);
}

/// Another connection can't have it as long as it is there, where a queue can belong to one.
pub async fn a_name_is_one_nodes_alone(broker: &Broker) {
    let (here, there) = (broker.connect().await, broker.connect().await);
    let mailbox = Mailbox::new("workers");
    let (seen, _log) = log();
    let running = start(&mailbox, &here, "left", &seen).await;
    let second = mailbox.node(&there, "left", Router::new()).await;
    if here.capabilities().has(Feature::ExclusiveQueue) {
        assert_refused(second, ErrorKind::ResourceLocked, 405);
    } else {
        drop(second.unwrap());
    }
    assert!(!running.is_finished());
}
