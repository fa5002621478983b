//! Bindings come and go at any time, and a queue gets one copy however many of them match.

use kombu_core::{Binding, ErrorKind, Exchange, Queue};

use super::{bodies, publish_key};
use crate::Broker;
use crate::expect::assert_refused;

/// Two patterns of one queue match: one copy.
pub async fn a_queue_with_two_matching_bindings_gets_one_copy(broker: &Broker) {
    let connection = broker.connect().await;
    let media = Exchange::topic("media");
    let queue = Queue::new("videos")
        .bind(&media, "video.#")
        .bind(&media, "#.new");
    connection.declare_queue(&queue).await.unwrap();
    let producer = connection.producer(&media).await.unwrap();
    publish_key(&producer, "video.new").await;
    assert_eq!(bodies(&connection, "videos").await, ["video.new"]);
}

/// Publishing before, between and after gives exactly the middle one.
pub async fn a_message_comes_through_between_bind_and_unbind_only(broker: &Broker) {
    let connection = broker.connect().await;
    let media = Exchange::direct("media");
    connection
        .declare_queue(&Queue::new("videos"))
        .await
        .unwrap();
    let producer = connection
        .producer(&media)
        .routing_key("video")
        .await
        .unwrap();
    let binding = Binding::new(&media, "video");
    let publish = async |text: &str| {
        let publish = producer.publish_text(text).allow_unroutable();
        publish.await.unwrap().routed
    };
    assert!(!publish("before").await);
    connection.bind_queue("videos", &binding).await.unwrap();
    assert!(publish("between").await);
    connection.unbind_queue("videos", &binding).await.unwrap();
    assert!(!publish("after").await);
    assert_eq!(bodies(&connection, "videos").await, ["between"]);
}

/// The same binding made twice is one, and one unbind removes it.
pub async fn an_equal_binding_is_there_once(broker: &Broker) {
    let connection = broker.connect().await;
    let media = Exchange::direct("media");
    connection
        .declare_queue(&Queue::new("videos").bind(&media, "video"))
        .await
        .unwrap();
    let binding = Binding::new(&media, "video");
    connection.bind_queue("videos", &binding).await.unwrap();
    connection.unbind_queue("videos", &binding).await.unwrap();
    let producer = connection.producer(&media).await.unwrap();
    assert!(!publish_key(&producer, "video").await.routed);
}

/// One key of a queue goes, the other one stays.
pub async fn unbinding_one_key_leaves_the_others(broker: &Broker) {
    let connection = broker.connect().await;
    let media = Exchange::topic("media");
    let queue = Queue::new("both")
        .bind(&media, "video.#")
        .bind(&media, "photo.#");
    connection.declare_queue(&queue).await.unwrap();
    connection
        .unbind_queue("both", &Binding::new(&media, "video.#"))
        .await
        .unwrap();
    let producer = connection.producer(&media).await.unwrap();
    for key in ["video.new", "photo.new"] {
        publish_key(&producer, key).await;
    }
    assert_eq!(bodies(&connection, "both").await, ["photo.new"]);
}

/// A publish that begins after a bind or unbind was answered honours it, on whichever connection that was.
pub async fn the_next_publish_on_another_connection_honours_a_change(broker: &Broker) {
    let (changing, publishing) = (broker.connect().await, broker.connect().await);
    let media = Exchange::topic("media");
    changing.declare_queue(&Queue::new("videos")).await.unwrap();
    let producer = publishing
        .producer(&media)
        .routing_key("video.new")
        .await
        .unwrap();
    let binding = Binding::new(&media, "video.#");
    let mut expected = Vec::new();
    for round in 0..100 {
        let bound = format!("bound {round}");
        changing.bind_queue("videos", &binding).await.unwrap();
        assert!(
            producer.publish_text(&bound).await.unwrap().routed,
            "{bound}"
        );
        changing.unbind_queue("videos", &binding).await.unwrap();
        let unbound = format!("unbound {round}");
        assert!(
            !producer.publish_text(&unbound).await.unwrap().routed,
            "{unbound}"
        );
        expected.push(bound);
    }
    assert_eq!(bodies(&changing, "videos").await, expected);
}

/// A consumer that is running receives through a binding that comes later.
pub async fn a_running_consumer_receives_through_a_new_binding(broker: &Broker) {
    let connection = broker.connect().await;
    let other = broker.connect().await;
    let media = Exchange::topic("media");
    let mut consumer = connection.consumer(&Queue::new("videos")).await.unwrap();
    let producer = other.producer(&media).await.unwrap();
    assert!(!publish_key(&producer, "video.early").await.routed);
    other
        .bind_queue("videos", &Binding::new(&media, "video.#"))
        .await
        .unwrap();
    publish_key(&producer, "video.late").await;
    let delivery = crate::expect::collect_one(&mut consumer).await;
    assert_eq!(delivery.body(), "video.late");
    delivery.ack().await.unwrap();
}

/// A queue that is declared again starts without the bindings that it had.
pub async fn deleting_a_queue_removes_its_bindings(broker: &Broker) {
    let connection = broker.connect().await;
    let media = Exchange::direct("media");
    connection
        .declare_queue(&Queue::new("videos").bind(&media, "video"))
        .await
        .unwrap();
    connection.delete_queue("videos").await.unwrap();
    connection
        .declare_queue(&Queue::new("videos"))
        .await
        .unwrap();
    let producer = connection.producer(&media).await.unwrap();
    assert!(!publish_key(&producer, "video").await.routed);
}

/// An exchange that is declared again starts without the bindings that it had.
pub async fn deleting_an_exchange_removes_its_bindings(broker: &Broker) {
    let connection = broker.connect().await;
    let media = Exchange::direct("media");
    connection
        .declare_queue(&Queue::new("videos").bind(&media, "video"))
        .await
        .unwrap();
    connection.delete_exchange("media").await.unwrap();
    let producer = connection.producer(&media).await.unwrap();
    assert!(!publish_key(&producer, "video").await.routed);
}

/// Declarations go with what names them: producer, consumer and queue all have the exchange made.
pub async fn an_exchange_is_declared_with_the_queue_that_is_bound_to_it(broker: &Broker) {
    let connection = broker.connect().await;
    let media = Exchange::topic("media");
    let missing = connection.declare_exchange(&media.clone().passive()).await;
    assert_refused(missing, ErrorKind::NotFound, 404);
    connection
        .declare_queue(&Queue::new("videos").bind(&media, "#"))
        .await
        .unwrap();
    connection.declare_exchange(&media.passive()).await.unwrap();
}
