//! Commands to processes by name, and their replies.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kombu_core::driver::Feature;
use kombu_core::handler::{Exit, Outcome, Payload, Reply as Answer, Router};
use kombu_core::mailbox::{Arguments, Mailbox, Nodes, Reply};
use kombu_core::{Connection, Delivery, ErrorKind, Name};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;
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

/// A value of another type, or a map that has more than an `error`: nobody has gone.
pub async fn what_a_node_says_is_told_whatever_it_is(broker: &Broker) {
    let connection = broker.connect().await;
    let mailbox = Mailbox::new("workers");
    let told = || BTreeMap::from([("error", "none"), ("state", "up")]);
    let router = Router::new().on("state", async move || Answer(told()));
    let node = mailbox.node(&connection, "left", router).await.unwrap();
    tokio::spawn(node.run());
    let mut nodes = mailbox.nodes(&connection).await.unwrap();
    let call = nodes.call::<_, BTreeMap<String, String>>("state", &());
    let replies = call.to(["left"]).timeout(PATIENCE).await.unwrap();
    assert_eq!(replies[0].result.as_ref().unwrap()["state"], "up");
    let call = nodes.call::<_, i64>("state", &()).to(["left"]);
    let replies = call.timeout(PATIENCE).await.unwrap();
    let wrong = replies[0].result.as_ref().unwrap_err();
    assert!(wrong.starts_with("malformed reply"), "{wrong}");
}

/// Not everybody: nothing is sent.
pub async fn a_list_without_names_means_nobody(broker: &Broker) {
    let (seen, mut log) = log();
    let mut nodes = workers(&Mailbox::new("workers"), broker, &seen).await;
    let nobody = Vec::<String>::new;
    nodes.cast("stop", &()).to(nobody()).await.unwrap();
    let call = nodes.call::<_, i64>("add", &TWO_AND_THREE).to(nobody());
    assert!(call.await.unwrap().is_empty());
    let call = nodes.call::<_, ()>("note", &()).limit(2);
    // As long as it can be.
    let replies = call.timeout(Duration::MAX).await.unwrap();
    assert_eq!(names(&replies), ["left", "right"]);
    log.next().await;
}

/// It opens another one.
pub async fn a_call_survives_the_end_of_its_reply_queue(broker: &Broker) {
    let connection = broker.connect().await;
    let mailbox = Mailbox::new("workers");
    let mut nodes = mailbox.nodes(&connection).await.unwrap();
    let queues = Arc::new(Mutex::new(Vec::new()));
    let router = {
        let queues = queues.clone();
        Router::new().on("whither", async move |Payload(command): Payload<Value>| {
            let key = command["reply_to"]["routing_key"].as_str().unwrap();
            queues
                .lock()
                .unwrap()
                .push(format!("{key}.reply.workers.pidbox"));
        })
    };
    let node = mailbox.node(&connection, "left", router).await.unwrap();
    tokio::spawn(node.run());
    let call = nodes.call::<_, ()>("whither", &()).to(["left"]);
    assert_eq!(call.timeout(PATIENCE).await.unwrap().len(), 1);
    let queue = queues.lock().unwrap()[0].clone();
    connection.delete_queue(&queue).await.unwrap();
    let call = nodes.call::<_, ()>("whither", &()).to(["left"]);
    let ended = call.timeout(PATIENCE).await;
    assert_refused(ended, ErrorKind::ConsumerCancelled, None);
    let call = nodes.call::<_, ()>("whither", &()).to(["left"]);
    assert_eq!(call.timeout(PATIENCE).await.unwrap().len(), 1);
}

/// That it took too long is its reply, and the next command is handled.
pub async fn a_handler_that_never_returns_is_cancelled(broker: &Broker) {
    let connection = broker.connect().await;
    let mailbox = Mailbox::new("workers");
    let router = Router::new()
        .on("add", add)
        .on("hang", async || std::future::pending::<()>().await);
    let node = mailbox.node(&connection, "left", router).await.unwrap();
    let node = node.max_processing_time(Duration::from_millis(100));
    tokio::spawn(node.run());
    let mut nodes = mailbox.nodes(&connection).await.unwrap();
    let call = nodes.call::<_, ()>("hang", &()).to(["left"]);
    let replies = call.timeout(PATIENCE).await.unwrap();
    let told = replies[0].result.as_ref().unwrap_err();
    assert!(told.contains("took too long"), "{told}");
    let call = nodes.call::<_, i64>("add", &TWO_AND_THREE).to(["left"]);
    let replies = call.timeout(PATIENCE).await.unwrap();
    assert_eq!(replies[0].result, Ok(5));
}

/// The next call's replies are its own.
pub async fn a_reply_that_comes_too_late_is_nobodys(broker: &Broker) {
    let connection = broker.connect().await;
    let mailbox = Mailbox::new("workers");
    let (go_on, goes_on) = watch::channel(false);
    let late = async move || {
        goes_on.clone().wait_for(|go_on| *go_on).await.unwrap();
        7
    };
    let router = Router::new().on("late", late).on("add", add);
    let node = mailbox.node(&connection, "left", router).await.unwrap();
    tokio::spawn(node.run());
    let mut nodes = mailbox.nodes(&connection).await.unwrap();
    let call = nodes.call::<_, i64>("late", &()).to(["left"]);
    let replies = call.timeout(Duration::from_millis(20)).await.unwrap();
    assert!(replies.is_empty());
    go_on.send_replace(true);
    let call = nodes.call::<_, i64>("add", &TWO_AND_THREE).to(["left"]);
    let replies = call.timeout(PATIENCE).await.unwrap();
    assert_eq!(replies[0].result, Ok(5));
}

/// Nobody has to be there.
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
    let router = Router::new().on("take", async |_: Delivery| ());
    let takes = mailbox.node(&there, "right", router).await;
    assert_refused(takes, ErrorKind::Config, None);
}
