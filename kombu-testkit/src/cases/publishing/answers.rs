//! What a publish answers when it was routed, when it wasn't, and when it can't be.

use kombu_core::{ErrorKind, Exchange, Queue};

use super::{from_inbox, to_inbox};
use crate::Broker;
use crate::expect::{assert_refused, drain, texts};

/// Stored, sent once.
pub async fn a_routed_message_says_so(broker: &Broker) {
    let connection = broker.connect().await;
    let producer = to_inbox(&connection).await;
    let published = producer.publish_text("hello").await.unwrap();
    assert!(published.routed);
    assert!(!published.resent);
    assert_eq!(published.message_id, None);
}

/// When the publish was answered, the message is there.
pub async fn an_answered_message_is_in_its_queue(broker: &Broker) {
    let (sender, receiver) = (broker.connect().await, broker.connect().await);
    let producer = to_inbox(&sender).await;
    for round in 0..20 {
        producer.publish(&round).await.unwrap();
        let delivery = from_inbox(&receiver).await;
        assert_eq!(delivery.decode::<i32>().unwrap(), round);
        delivery.ack().await.unwrap();
    }
}

/// The id that the publisher chose, as it chose it.
pub async fn the_message_id_is_echoed(broker: &Broker) {
    let connection = broker.connect().await;
    let producer = to_inbox(&connection).await;
    let published = producer
        .publish_text("hello")
        .message_id("m-1")
        .await
        .unwrap();
    assert_eq!(published.message_id.as_deref(), Some("m-1"));
    let nowhere = producer
        .publish_text("hello")
        .routing_key("nowhere")
        .allow_unroutable();
    let published = nowhere.message_id("m-2").await.unwrap();
    assert_eq!(published.message_id.as_deref(), Some("m-2"));
}

/// On topic, headers and fanout exchanges, publishing to nobody is normal.
pub async fn where_receivers_choose_an_unroutable_message_is_no_error(broker: &Broker) {
    let connection = broker.connect().await;
    for exchange in [
        Exchange::topic("topic"),
        Exchange::headers("headers"),
        Exchange::fanout("fanout"),
    ] {
        let producer = connection.producer(&exchange).await.unwrap();
        let published = producer
            .publish_text("nobody")
            .routing_key("key")
            .await
            .unwrap();
        assert!(!published.routed, "{}", exchange.name());
    }
}

/// On direct exchanges and the default one, the key names the receiver: 312, with the way out.
pub async fn where_the_key_names_the_receiver_an_unroutable_message_is_an_error(broker: &Broker) {
    let connection = broker.connect().await;
    for exchange in [Exchange::direct("direct"), Exchange::default()] {
        let producer = connection.producer(&exchange).await.unwrap();
        let published = producer.publish_text("nobody").routing_key("key").await;
        let error = assert_refused(published, ErrorKind::Unroutable, 312);
        assert!(error.to_string().contains("`key`"), "{error}");
        assert_eq!(error.operation(), Some("publish"));
        assert!(!error.may_have_been_stored());
        assert!(!error.is_transient());
    }
}

/// Until there is a queue, and no longer.
pub async fn a_mandatory_message_is_returned_until_a_queue_is_bound(broker: &Broker) {
    let connection = broker.connect().await;
    let media = Exchange::topic("media");
    let producer = connection.producer(&media).await.unwrap();
    let publish = async || {
        producer
            .publish_text("new")
            .routing_key("video.new")
            .mandatory()
            .await
    };
    assert_refused(publish().await, ErrorKind::Unroutable, 312);
    connection
        .declare_queue(&Queue::new("videos").bind(&media, "video.#"))
        .await
        .unwrap();
    assert!(publish().await.unwrap().routed);
    connection.delete_queue("videos").await.unwrap();
    assert_refused(publish().await, ErrorKind::Unroutable, 312);
}

/// The answer then says that nobody has it.
pub async fn allow_unroutable_turns_the_error_off(broker: &Broker) {
    let connection = broker.connect().await;
    for exchange in [Exchange::direct("direct"), Exchange::default()] {
        let producer = connection.producer(&exchange).await.unwrap();
        let publish = producer.publish_text("nobody").routing_key("nobody");
        assert!(!publish.allow_unroutable().await.unwrap().routed);
    }
}

/// For all of its messages, unless one says otherwise.
pub async fn a_producer_can_decide_for_its_messages(broker: &Broker) {
    let connection = broker.connect().await;
    let strict = connection
        .producer(Exchange::fanout("news"))
        .mandatory(true)
        .await
        .unwrap();
    assert_refused(
        strict.publish_text("nobody").await,
        ErrorKind::Unroutable,
        312,
    );
    assert!(
        !strict
            .publish_text("nobody")
            .allow_unroutable()
            .await
            .unwrap()
            .routed
    );
    let lenient = connection
        .producer(Exchange::default())
        .mandatory(false)
        .await
        .unwrap();
    let publish = || lenient.publish_text("nobody").routing_key("nobody");
    assert!(!publish().await.unwrap().routed);
    assert_refused(publish().mandatory().await, ErrorKind::Unroutable, 312);
}

/// Whether an unroutable message is an error follows the exchange that it is sent to.
pub async fn another_exchange_brings_its_own_rule(broker: &Broker) {
    let connection = broker.connect().await;
    let (direct, fanout) = (Exchange::direct("direct"), Exchange::fanout("fanout"));
    connection.declare_exchange(&direct).await.unwrap();
    let producer = connection.producer(&fanout).await.unwrap();
    let published = producer.publish_text("nobody").exchange(&direct).await;
    assert_refused(published, ErrorKind::Unroutable, 312);
    let producer = connection.producer(&direct).await.unwrap();
    assert!(
        !producer
            .publish_text("nobody")
            .exchange(&fanout)
            .await
            .unwrap()
            .routed
    );
}

/// Publishers may not, bindings or not, and mandatory or not.
pub async fn publishing_to_an_internal_exchange_is_refused(broker: &Broker) {
    let connection = broker.connect().await;
    let bound = Exchange::fanout("bound").internal(true);
    let unbound = Exchange::fanout("unbound").internal(true);
    connection
        .declare_queue(&Queue::new("behind").bind(&bound, ""))
        .await
        .unwrap();
    for exchange in [&bound, &unbound] {
        let producer = connection.producer(exchange).await.unwrap();
        for publish in [
            producer.publish_text("no"),
            producer.publish_text("no").mandatory(),
        ] {
            let error = assert_refused(publish.await, ErrorKind::AccessRefused, 403);
            assert!(
                error.to_string().contains(exchange.name().as_str()),
                "{error}"
            );
        }
    }
    assert_eq!(drain(&connection, "behind").await.len(), 0);
    let producer = to_inbox(&connection).await;
    producer.publish_text("goes on").await.unwrap();
    assert_eq!(texts(&drain(&connection, "inbox").await), ["goes on"]);
}

/// The same producer, before and after: nothing of the refusal is remembered.
pub async fn an_exchange_that_is_no_longer_internal_is_published_to(broker: &Broker) {
    let (owner, user) = (broker.connect().await, broker.connect().await);
    let inner = Exchange::fanout("inner").internal(true);
    let inbox = Queue::new("inbox");
    owner
        .declare_queue(&inbox.clone().bind(&inner, ""))
        .await
        .unwrap();
    let producer = user.producer(inner.clone().no_declare()).await.unwrap();
    let published = producer.publish_text("early").await;
    assert_refused(published, ErrorKind::AccessRefused, 403);
    owner.delete_exchange(&inner).await.unwrap();
    owner
        .declare_queue(&inbox.bind(inner.internal(false), ""))
        .await
        .unwrap();
    assert!(producer.publish_text("late").await.unwrap().routed);
    assert_eq!(texts(&drain(&owner, "inbox").await), ["late"]);
}

/// Making the future publishes nothing.
pub async fn nothing_is_published_before_it_is_awaited(broker: &Broker) {
    let connection = broker.connect().await;
    let producer = to_inbox(&connection).await;
    let first = producer.publish_text("first");
    drop(producer.publish_text("never"));
    producer.publish_text("second").await.unwrap();
    first.await.unwrap();
    assert_eq!(
        texts(&drain(&connection, "inbox").await),
        ["second", "first"]
    );
}
