//! OCCO's three objects, from one configuration.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::future::join;
use kombu_core::call::Failure;
use kombu_core::driver::Feature;
use kombu_core::handler::{Exit, IntoReaction, Outcome, Payload, Reply};
use kombu_core::occo::{Config, EventDrivenConsumer};
use kombu_core::{CallError, Connection, Error, ErrorKind, Message, Result};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::Broker;
use crate::cases::handling::{PATIENCE, log, soon, until};
use crate::expect::{assert_refused, assert_unsupported};

fn config(broker: &Broker) -> Config {
    Config {
        url: Some(broker.url().to_owned()),
        routing_key: Some("test".to_owned()),
        queue: Some("test".to_owned()),
        ..Config::default()
    }
}

/// Twice the number; negative ones can't be, and others fail for now.
async fn core_func(Payload(number): Payload<i64>) -> std::result::Result<Reply<i64>, Failure> {
    match number {
        0 => Err(Failure::transient(503, "later")),
        403 => Err(Failure::application("Forbidden", "not you").payload("no entry")),
        ..0 => Err(Failure::critical(400, "negative")),
        _ => Ok(Reply(number * 2)),
    }
}

/// A consumer that runs, and what ends it.
fn run(consumer: EventDrivenConsumer) -> (JoinHandle<Result<Exit>>, oneshot::Sender<()>) {
    let (cancel, cancelled) = oneshot::channel::<()>();
    let cancelled = async { drop(cancelled.await) };
    let consuming = consumer.start_consuming_until(cancelled);
    (tokio::spawn(consuming), cancel)
}

/// What it returns is the result of a call; a message has none.
pub async fn one_function_processes_messages_and_calls(broker: &Broker) {
    let config = config(broker);
    let (seen, mut log) = log();
    let noting = async move |Payload(number): Payload<i64>| {
        seen.send(number).unwrap();
        Reply(number * 2)
    };
    let consumer = config.event_driven_consumer(broker.registry(), noting);
    let (_running, _cancel) = run(consumer.await.unwrap());
    let calls = config.rpc_producer(broker.registry()).await.unwrap();
    let calls = calls.with_timeout(PATIENCE);
    assert_eq!(calls.push_message::<_, i64>(&4).await.unwrap(), 8);
    assert_eq!(log.next().await, 4);
    let messages = config.asynchronous_producer(broker.registry());
    messages.await.unwrap().push_message(&5).await.unwrap();
    assert_eq!(log.next().await, 5);
}

/// Whether to ask again, and whose fault it is; the consumer goes on.
pub async fn what_a_call_fails_with_is_told_apart(broker: &Broker) {
    let config = config(broker);
    let consumer = config.event_driven_consumer(broker.registry(), core_func);
    let (_running, _cancel) = run(consumer.await.unwrap());
    let calls = config.rpc_producer(broker.registry()).await.unwrap();
    let calls = calls.with_timeout(PATIENCE);
    let critical = calls.push_message::<_, i64>(&-1).await.unwrap_err();
    assert!(
        matches!(critical, CallError::Critical { code: 400, .. }),
        "{critical:?}"
    );
    assert!(!critical.is_retryable());
    let transient = calls.push_message::<_, i64>(&0).await.unwrap_err();
    assert!(
        matches!(transient, CallError::Transient { code: 503, .. }),
        "{transient:?}"
    );
    assert!(transient.is_retryable());
    let forbidden = calls.push_message::<_, i64>(&403).await.unwrap_err();
    let CallError::Application {
        name,
        payload: Some(payload),
        ..
    } = forbidden
    else {
        panic!("{forbidden:?}");
    };
    assert_eq!(name, "Forbidden");
    assert_eq!(payload.decode::<String>().unwrap(), "no entry");
    assert_eq!(calls.push_message::<_, i64>(&1).await.unwrap(), 2);
}

/// It is held, and the consumer goes on; when that ends, somebody else may have it.
pub async fn what_cannot_be_processed_ends_no_consumer(broker: &Broker) {
    let config = config(broker);
    let (seen, mut log) = log();
    let noting = async move |Payload(number): Payload<i64>| {
        seen.send(number).unwrap();
    };
    let consumer = config.event_driven_consumer(broker.registry(), noting);
    let (running, cancel) = run(consumer.await.unwrap());
    let messages = config.asynchronous_producer(broker.registry());
    let messages = messages.await.unwrap();
    for wrong in ["no", "number", "at all"] {
        messages.push_message(wrong).await.unwrap();
    }
    messages.push_message(&5).await.unwrap();
    assert_eq!(log.next().await, 5);
    drop(cancel);
    assert_eq!(soon(running).await.unwrap().unwrap(), Exit::Stopped);
    broker
        .assert_counts(messages.connection(), "test", 3, 0)
        .await;
}

/// Of messages and of calls; whoever reads them finds out by himself.
pub async fn a_configuration_has_a_serializer(broker: &Broker) {
    let mut config = config(broker);
    config.serializer = Some("msgpack".to_owned());
    let (seen, mut log) = log();
    let noting = async move |message: Message, Payload(number): Payload<i64>| {
        let content_type = message.content_type().map(str::to_owned);
        seen.send((content_type, number)).unwrap();
        Reply(number * 2)
    };
    let consumer = config.event_driven_consumer(broker.registry(), noting);
    let (_running, _cancel) = run(consumer.await.unwrap());
    let messages = config.asynchronous_producer(broker.registry());
    messages.await.unwrap().push_message(&5).await.unwrap();
    let msgpack = || Some("application/x-msgpack".to_owned());
    assert_eq!(log.next().await, (msgpack(), 5));
    let calls = config.rpc_producer(broker.registry()).await.unwrap();
    let calls = calls.with_timeout(PATIENCE);
    assert_eq!(calls.push_message::<_, i64>(&4).await.unwrap(), 8);
    assert_eq!(log.next().await, (msgpack(), 4));
}

/// They wait for a consumer that comes later; each goes by its own key, or by that of the configuration, or nowhere.
pub async fn a_message_goes_by_its_key_and_waits_for_its_consumer(broker: &Broker) {
    let mut config = config(broker);
    let messages = config
        .asynchronous_producer(broker.registry())
        .await
        .unwrap();
    for number in 0..3 {
        messages.push_message(&number).await.unwrap();
    }
    messages.push_message_to("other", &7).await.unwrap();
    for (queue, count) in [("test", 3), ("other", 1)] {
        broker
            .assert_counts(messages.connection(), queue, count, 0)
            .await;
    }
    config.routing_key = None;
    let keyless = config
        .asynchronous_producer(broker.registry())
        .await
        .unwrap();
    let error = keyless.push_message(&1).await;
    let error = assert_refused(error, ErrorKind::Config, None);
    assert!(
        error.to_string().contains("routing key is mandatory"),
        "{error}"
    );
    messages.connection().close().await.unwrap();
    assert_refused(messages.push_message(&1).await, ErrorKind::Closed, None);
}

/// It goes with its last consumer, and is there again for the next message.
pub async fn a_queue_that_has_gone_is_declared_again(broker: &Broker) {
    let mut config = config(broker);
    config.auto_delete = true;
    let messages = config.asynchronous_producer(broker.registry());
    let messages = messages.await.unwrap();
    let connection = messages.connection();
    if !connection.capabilities().has(Feature::AutoDelete) {
        assert_unsupported(messages.push_message(&1).await);
        return;
    }
    let calls = config.rpc_producer(broker.registry()).await.unwrap();
    for round in 0..2 {
        messages.push_message(&round).await.unwrap();
        broker.assert_counts(connection, "test", 1, 0).await;
        connection.delete_queue("test").await.unwrap();
        let call = calls.push_message::<_, i64>(&round);
        let asked = tokio::select! {
            answer = call => panic!("nobody answers: {answer:?}"),
            () = until(async || is_asked(connection).await) => connection.get("test").await,
        };
        asked.unwrap().unwrap().ack().await.unwrap();
        connection.delete_queue("test").await.unwrap();
    }
}

async fn is_asked(connection: &Connection) -> bool {
    let info = connection.queue_info("test").await;
    info.is_ok_and(|info| info.ready == 1)
}

/// A file that names the broker by its parts, in place of a URL.
pub async fn a_configuration_may_name_the_broker_by_its_parts(broker: &Broker) {
    let connection = broker.connect().await;
    let url = connection.target().url();
    let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let config = Config {
        url: None,
        protocol: text(url.scheme()),
        host: url.host_str().and_then(text),
        port: url.port(),
        vhost: text(connection.target().virtual_host()),
        user: text(url.username()),
        password: url.password().and_then(text),
        ..config(broker)
    };
    let messages = config.asynchronous_producer(broker.registry());
    messages.await.unwrap().push_message(&1).await.unwrap();
    broker.assert_counts(&connection, "test", 1, 0).await;
}

/// Through an exchange of its own.
pub async fn an_exchange_routes_to_the_consumers_queue(broker: &Broker) {
    let mut config = config(broker);
    config.exchange = "occo".to_owned();
    config.queue = Some("work".to_owned());
    let consumer = config.event_driven_consumer(broker.registry(), core_func);
    let (_running, _cancel) = run(consumer.await.unwrap());
    let calls = config.rpc_producer(broker.registry()).await.unwrap();
    let calls = calls.with_timeout(PATIENCE);
    assert_eq!(calls.push_message::<_, i64>(&4).await.unwrap(), 8);
}

/// The message that is being processed is finished, and the others stay.
pub async fn a_consumer_that_is_cancelled_finishes_its_message(broker: &Broker) {
    let config = config(broker);
    let (begun, mut log) = log();
    let (go_on, gone_on) = mpsc::channel::<()>(1);
    let gone_on = std::sync::Arc::new(tokio::sync::Mutex::new(gone_on));
    let slow = async move || {
        begun.send(()).unwrap();
        gone_on.lock().await.recv().await;
    };
    let messages = config
        .asynchronous_producer(broker.registry())
        .await
        .unwrap();
    for number in 0..2 {
        messages.push_message(&number).await.unwrap();
    }
    let consumer = config.event_driven_consumer(broker.registry(), slow);
    let (running, cancel) = run(consumer.await.unwrap());
    log.next().await;
    drop(cancel);
    go_on.send(()).await.unwrap();
    assert_eq!(soon(running).await.unwrap().unwrap(), Exit::Stopped);
    broker
        .assert_counts(messages.connection(), "test", 1, 0)
        .await;
}

/// Each once, what can't be processed and what is released included; calls are answered. Nothing is waited for.
pub async fn what_is_there_is_processed_in_one_go(broker: &Broker) {
    let config = config(broker);
    let (seen, mut log) = log();
    let noting = async move |Payload(number): Payload<i64>| {
        seen.send(number).unwrap();
        match number {
            0 => Outcome::Release.into_reaction(),
            _ => Reply(number * 2).into_reaction(),
        }
    };
    let consumer = config.event_driven_consumer(broker.registry(), noting);
    let consumer = consumer.await.unwrap();
    assert_eq!(consumer.process_available().await.unwrap(), 0);
    let messages = config.asynchronous_producer(broker.registry());
    let messages = messages.await.unwrap();
    messages.push_message("no number").await.unwrap();
    messages.push_message(&0).await.unwrap();
    let calls = config.rpc_producer(broker.registry()).await.unwrap();
    let calls = calls.with_timeout(PATIENCE);
    let process = async {
        broker
            .assert_counts(messages.connection(), "test", 3, 0)
            .await;
        assert_eq!(consumer.process_available().await.unwrap(), 3);
    };
    let (answer, ()) = join(calls.push_message::<_, i64>(&4), process).await;
    assert_eq!(answer.unwrap(), 8);
    assert_eq!([log.next().await, log.next().await], [0, 4]);
    broker
        .assert_counts(messages.connection(), "test", 2, 0)
        .await;
}

/// Somebody else may try: it comes again.
pub async fn a_message_that_is_not_finalized_comes_again(broker: &Broker) {
    let config = config(broker);
    let (seen, mut log) = log();
    let tries = AtomicU32::new(0);
    let tries = Arc::new(tries);
    let aborted = async move || {
        let outcome = match tries.fetch_add(1, Ordering::Relaxed) {
            0 => Outcome::Release,
            _ => Outcome::Ack,
        };
        seen.send(outcome).unwrap();
        outcome
    };
    let messages = config
        .asynchronous_producer(broker.registry())
        .await
        .unwrap();
    messages.push_message(&1).await.unwrap();
    let consumer = config.event_driven_consumer(broker.registry(), aborted);
    let (_running, _cancel) = run(consumer.await.unwrap());
    assert_eq!(log.next().await, Outcome::Release);
    assert_eq!(log.next().await, Outcome::Ack);
    broker
        .assert_counts(messages.connection(), "test", 0, 0)
        .await;
}

/// Before anything is connected.
pub async fn a_configuration_that_lacks_something_is_refused(broker: &Broker) {
    let registry = broker.registry();
    let nothing = Config::default().asynchronous_producer(registry).await;
    let error = assert_refused(nothing.map(drop), ErrorKind::Config, None);
    assert!(error.to_string().contains("missing protocol"), "{error}");
    let unknown = Config::new("carrier-pigeon").rpc_producer(registry).await;
    let error: Error = assert_refused(unknown.map(drop), ErrorKind::UnknownScheme, None);
    for scheme in registry.schemes() {
        assert!(error.to_string().contains(scheme), "{error}");
    }
    let mut config = config(broker);
    config.queue = None;
    let consumer = config.event_driven_consumer(registry, core_func).await;
    assert_refused(consumer.map(drop), ErrorKind::Config, None);
}
