//! Some consumers are served before others.

use kombu_core::driver::Feature;
use kombu_core::{Connection, Consumer, ErrorKind, OpenConsumer, Queue};

use super::{has_consumer, until_heard};
use crate::Broker;
use crate::cases::publish;
use crate::expect::{assert_refused, assert_unsupported, collect, collect_one, texts};

fn open(connection: &Connection, priority: i32) -> OpenConsumer {
    let open = connection.consumer(&Queue::new("jobs"));
    open.prefetch(2).priority(priority)
}

async fn receive(consumer: &mut Consumer, text: &str) {
    let delivery = collect_one(consumer).await;
    assert_eq!(texts([&delivery]), [text]);
    delivery.ack().await.unwrap();
}

/// Whoever came first; the others get what it has no room for.
pub async fn the_higher_one_is_served_first_while_it_has_room(broker: &Broker) {
    let connection = broker.connect().await;
    let opened = has_consumer(&connection, &[Feature::ConsumerPriority], || {
        open(&connection, -1)
    });
    let Some(mut low) = opened.await else {
        return;
    };
    let mut high = open(&connection, 10).await.unwrap();
    publish(&connection, "jobs", ["0", "1"]).await;
    broker.assert_silent(&mut low).await;
    let held = collect(&mut high, 2).await;
    assert_eq!(texts(&held), ["0", "1"]);
    publish(&connection, "jobs", ["2"]).await;
    receive(&mut low, "2").await;
    for delivery in held {
        delivery.ack().confirmed().await.unwrap();
    }
    until_heard(broker).await;
    publish(&connection, "jobs", ["3"]).await;
    broker.assert_silent(&mut low).await;
    receive(&mut high, "3").await;
}

/// It has room and is busy elsewhere: what it is sent waits for it.
pub async fn the_higher_one_need_not_wait_to_be_served_first(broker: &Broker) {
    let connection = broker.connect().await;
    let opened = has_consumer(&connection, &[Feature::ConsumerPriority], || {
        open(&connection, -1)
    });
    let Some(mut low) = opened.await else {
        return;
    };
    let mut high = open(&connection, 10).prefetch(1).await.unwrap();
    for text in ["0", "1", "2"] {
        publish(&connection, "jobs", [text]).await;
        broker.assert_silent(&mut low).await;
        let delivery = collect_one(&mut high).await;
        assert_eq!(texts([&delivery]), [text]);
        delivery.ack().confirmed().await.unwrap();
        until_heard(broker).await;
    }
}

/// It has no room for the time being.
pub async fn a_higher_one_that_is_paused_leaves_all_to_the_lower_one(broker: &Broker) {
    let connection = broker.connect().await;
    let opened = has_consumer(&connection, &[Feature::ConsumerPriority], || {
        open(&connection, -1)
    });
    let Some(mut low) = opened.await else {
        return;
    };
    let mut high = open(&connection, 10).await.unwrap();
    publish(&connection, "jobs", ["0", "1"]).await;
    let first = collect_one(&mut high).await;
    broker.assert_silent(&mut low).await;
    high.pause();
    receive(&mut low, "1").await;
    publish(&connection, "jobs", ["2"]).await;
    receive(&mut low, "2").await;
    high.resume();
    first.ack().confirmed().await.unwrap();
    until_heard(broker).await;
    publish(&connection, "jobs", ["3"]).await;
    broker.assert_silent(&mut low).await;
    receive(&mut high, "3").await;
}

/// Its consumer argument is the default, and a consumer can say otherwise.
pub async fn a_queue_can_say_it_and_a_consumer_decides(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs").consumer_argument("x-priority", 5);
    let opened = has_consumer(&connection, &[Feature::ConsumerPriority], || {
        connection.consumer(&jobs).prefetch(1)
    });
    let Some(mut five) = opened.await else {
        return;
    };
    let mut four = open(&connection, 4).await.unwrap();
    let mut six = connection.consumer(&jobs).priority(6).await.unwrap();
    publish(&connection, "jobs", ["first"]).await;
    broker.assert_silent(&mut four).await;
    broker.assert_silent(&mut five).await;
    receive(&mut six, "first").await;
    six.cancel().await.unwrap();
    publish(&connection, "jobs", ["second"]).await;
    broker.assert_silent(&mut four).await;
    receive(&mut five, "second").await;
}

/// As with `no_ack`: they have to agree.
pub async fn queues_that_disagree_leave_it_at_zero(broker: &Broker) {
    let connection = broker.connect().await;
    let queues = [
        Queue::new("jobs").consumer_argument("x-priority", 5),
        Queue::new("others"),
    ];
    let mut zero = connection.consumer(&queues).prefetch(1).await.unwrap();
    let opened = has_higher(&connection).await;
    let Some(mut one) = opened else {
        return;
    };
    publish(&connection, "jobs", ["work"]).await;
    broker.assert_silent(&mut zero).await;
    receive(&mut one, "work").await;
}

async fn has_higher(connection: &Connection) -> Option<Consumer> {
    let opened = open(connection, 1).await;
    if connection.capabilities().has(Feature::ConsumerPriority) {
        return Some(opened.unwrap());
    }
    assert_unsupported(opened);
    None
}

/// Refused, on every transport, before anything is declared.
pub async fn a_priority_that_is_no_number_is_refused(broker: &Broker) {
    let connection = broker.connect().await;
    for wrong in [
        Queue::new("jobs").consumer_argument("x-priority", "high"),
        Queue::new("jobs").consumer_argument("x-priority", i64::MAX),
    ] {
        let error = assert_refused(connection.consumer(&wrong).await, ErrorKind::Config, None);
        for part in ["`jobs`", "x-priority"] {
            assert!(error.to_string().contains(part), "{error}");
        }
        let info = connection.queue_info("jobs").await;
        assert_refused(info, ErrorKind::NotFound, 404);
    }
}
