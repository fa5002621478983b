//! One message to several exchanges, or with several keys.

use std::collections::BTreeMap;

use kombu_core::{Connection, ErrorKind, Exchange, Queue};

use super::{from_inbox, to_inbox};
use crate::Broker;
use crate::expect::{assert_refused, drain, texts};

/// Two exchanges with a queue each, which gets everything.
async fn two_ways(connection: &Connection) -> [Exchange; 2] {
    let exchanges = [Exchange::topic("left"), Exchange::fanout("right")];
    for exchange in &exchanges {
        let queue = Queue::new(exchange.name()).bind(exchange, "#");
        connection.declare_queue(&queue).await.unwrap();
    }
    exchanges
}

/// A copy at each, with its own exchange and key, and everything else alike.
pub async fn every_destination_gets_a_copy(broker: &Broker) {
    let connection = broker.connect().await;
    let [left, right] = two_ways(&connection).await;
    let producer = to_inbox(&connection).await;
    let results = producer
        .publish(&7)
        .header("tenant", 3)
        .destinations([(&left, "a.b"), (&right, ""), (&left, "c")])
        .priority(2)
        .message_id("m-1")
        .await;
    assert_eq!(results.len(), 3);
    for result in results {
        let published = result.unwrap();
        assert!(published.routed && !published.resent);
        assert_eq!(published.message_id.as_deref(), Some("m-1"));
    }
    let mut found = Vec::new();
    for queue in ["left", "right"] {
        for message in drain(&connection, queue).await {
            assert_eq!(message.decode::<u32>().unwrap(), 7);
            assert_eq!(message.priority(), Some(2));
            let tenant = message
                .headers()
                .get("tenant")
                .and_then(|tenant| tenant.as_i64());
            assert_eq!(tenant, Some(3));
            found.push(format!("{} {}", message.exchange(), message.routing_key()));
        }
    }
    assert_eq!(found, ["left a.b", "left c", "right "]);
}

/// The explicit list wins, whichever comes first.
pub async fn a_list_wins_over_exchange_and_key(broker: &Broker) {
    let connection = broker.connect().await;
    let [left, right] = two_ways(&connection).await;
    let producer = to_inbox(&connection).await;
    for results in [
        producer
            .publish_text("first")
            .exchange(&right)
            .routing_key("inbox")
            .destinations([(&left, "key")])
            .await,
        producer
            .publish_text("second")
            .destinations([(&left, "key")])
            .exchange(&right)
            .routing_key("inbox")
            .await,
    ] {
        assert!(results.into_iter().all(|result| result.is_ok()));
    }
    assert_eq!(
        texts(&drain(&connection, "left").await),
        ["first", "second"]
    );
    assert_eq!(drain(&connection, "right").await.len(), 0);
    assert_eq!(drain(&connection, "inbox").await.len(), 0);
}

/// In the order of the list; one that fails keeps none of the others.
pub async fn each_destination_has_an_answer_of_its_own(broker: &Broker) {
    let connection = broker.connect().await;
    let [left, right] = two_ways(&connection).await;
    let producer = to_inbox(&connection).await;
    let missing = Exchange::topic("missing");
    let nobody = Exchange::direct("nobody");
    connection.declare_exchange(&nobody).await.unwrap();
    let results = producer
        .publish_text("news")
        .destinations([
            (&left, "key"),
            (&missing, "key"),
            (&nobody, "key"),
            (&right, "key"),
        ])
        .await;
    let [first, second, third, last] = results.try_into().unwrap();
    assert!(first.unwrap().routed);
    assert_refused(second, ErrorKind::NotFound, 404);
    let error = assert_refused(third, ErrorKind::Unroutable, 312);
    assert_eq!(error.operation(), Some("publish"));
    assert!(last.unwrap().routed);
    for queue in ["left", "right"] {
        assert_eq!(texts(&drain(&connection, queue).await), ["news"]);
    }
}

/// The message's or the producer's wish holds for all, else each exchange brings its own rule.
pub async fn whether_unroutable_is_an_error_follows_each_exchange(broker: &Broker) {
    let connection = broker.connect().await;
    let (direct, fanout) = (Exchange::direct("direct"), Exchange::fanout("fanout"));
    for exchange in [&direct, &fanout] {
        connection.declare_exchange(exchange).await.unwrap();
    }
    let producer = to_inbox(&connection).await;
    let routed = async |mandatory: Option<bool>| {
        let publish = producer.publish_text("nobody");
        let publish = match mandatory {
            None => publish,
            Some(true) => publish.mandatory(),
            Some(false) => publish.allow_unroutable(),
        };
        let results = publish.destinations([(&direct, "key"), (&fanout, "key")]);
        let results = results.await.into_iter();
        results
            .map(|result| result.map_err(|error| error.kind()))
            .map(|result| result.map(|published| published.routed))
            .collect::<Vec<_>>()
    };
    let refused = Err(ErrorKind::Unroutable);
    assert_eq!(routed(None).await, [refused, Ok(false)]);
    assert_eq!(routed(Some(true)).await, [refused, refused]);
    assert_eq!(routed(Some(false)).await, [Ok(false), Ok(false)]);
}

/// What can't be encoded, or is too large, is sent nowhere, and each answer says so.
pub async fn a_message_that_can_not_be_sent_is_refused_for_each(broker: &Broker) {
    let connection = broker.connect().await;
    let [left, right] = two_ways(&connection).await;
    let producer = to_inbox(&connection).await;
    let key = "k".repeat(256);
    for (results, kind) in [
        (
            producer
                .publish(&BTreeMap::from([(vec![1, 2], 3)]))
                .destinations([(&left, "key"), (&right, "key")])
                .await,
            [Some(ErrorKind::Encode); 2],
        ),
        (
            producer
                .publish_text("late")
                .serializer("jsno")
                .destinations([(&left, "key"), (&right, "key")])
                .await,
            [Some(ErrorKind::UnknownSerializer); 2],
        ),
        (
            producer
                .publish_text("long")
                .destinations([(&left, key.as_str()), (&right, "key")])
                .await,
            [Some(ErrorKind::InvalidName), None],
        ),
    ] {
        let kinds: Vec<_> = results
            .iter()
            .map(|result| result.as_ref().err().map(|error| error.kind()))
            .collect();
        assert_eq!(kinds, kind);
    }
    assert_eq!(drain(&connection, "left").await.len(), 0);
    assert_eq!(texts(&drain(&connection, "right").await), ["long"]);
}

/// No destination, no answer.
pub async fn an_empty_list_publishes_nothing(broker: &Broker) {
    let connection = broker.connect().await;
    let producer = to_inbox(&connection).await;
    let nowhere: [(Exchange, &str); 0] = [];
    assert_eq!(
        producer
            .publish_text("no")
            .destinations(nowhere)
            .await
            .len(),
        0
    );
    assert_eq!(drain(&connection, "inbox").await.len(), 0);
}

/// Any pairs will do: owned or borrowed, of a vector or a map.
pub async fn any_list_of_pairs_is_taken(broker: &Broker) {
    let connection = broker.connect().await;
    let producer = to_inbox(&connection).await;
    let default = Exchange::default();
    let owned = vec![(Exchange::default(), String::from("inbox"))];
    let mapped = BTreeMap::from([("inbox", &default)]);
    let results = [
        producer.publish_text("owned").destinations(owned).await,
        producer
            .publish_text("mapped")
            .destinations(mapped.into_iter().map(|(key, exchange)| (exchange, key)))
            .await,
    ];
    assert!(results.into_iter().flatten().all(|result| result.is_ok()));
    assert_eq!(
        texts(&drain(&connection, "inbox").await),
        ["owned", "mapped"]
    );
}

/// Declared when the producer is opened; used by what says nothing itself, and by nothing else.
pub async fn a_producer_may_have_destinations_of_its_own(broker: &Broker) {
    let connection = broker.connect().await;
    let (news, archive) = (Exchange::topic("news"), Exchange::fanout("archive"));
    let producer = connection
        .producer(&news)
        .destinations([(&news, "first"), (&archive, "second")])
        .await
        .unwrap();
    for exchange in [&news, &archive] {
        let found = connection
            .declare_exchange(&exchange.clone().passive())
            .await;
        found.unwrap();
    }
    let inbox = Queue::new("inbox").bind(&news, "#").bind(&archive, "");
    connection.declare_queue(&inbox).await.unwrap();
    let received = async || {
        let mut keys = Vec::new();
        for message in drain(&connection, "inbox").await {
            keys.push(format!("{} {}", message.exchange(), message.routing_key()));
        }
        keys.sort();
        keys
    };
    assert!(producer.publish_text("by default").await.unwrap().routed);
    assert_eq!(received().await, ["archive second", "news first"]);
    producer
        .publish_text("own key")
        .routing_key("own")
        .await
        .unwrap();
    assert_eq!(received().await, ["news own"]);
    producer
        .publish_text("own exchange")
        .exchange(&archive)
        .await
        .unwrap();
    assert_eq!(received().await, ["archive "]);
    let results = producer
        .publish_text("own list")
        .destinations([(&archive, "third")])
        .await;
    assert_eq!(results.len(), 1);
    assert_eq!(received().await, ["archive third"]);
    let receipt = producer.publish_text("sent").send().await.unwrap();
    assert!(receipt.await.unwrap().routed);
    let batch = producer.batch([producer.publish_text("one"), producer.publish_text("two")]);
    assert!(batch.await.into_iter().all(|result| result.is_ok()));
    assert_eq!(received().await.len(), 6);
}

/// As one publish: an error if one of them failed, which says that others have it.
pub async fn a_producers_destinations_are_answered_together(broker: &Broker) {
    let connection = broker.connect().await;
    to_inbox(&connection).await;
    let (default, news) = (Exchange::default(), Exchange::topic("news"));
    let open = connection.producer(&news);
    let partly = open.destinations([(&default, "inbox"), (&default, "nowhere"), (&news, "key")]);
    let partly = partly.await.unwrap();
    let error = assert_refused(
        partly.publish_text("partly").await,
        ErrorKind::Unroutable,
        312,
    );
    for part in ["1 of 3", "`nowhere`"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    assert!(error.may_have_been_stored());
    let delivery = from_inbox(&connection).await;
    assert_eq!(delivery.body(), "partly");
    delivery.ack().await.unwrap();
    let nowhere = connection
        .producer(&default)
        .destinations([(&default, "nowhere"), (&default, "nobody")])
        .await
        .unwrap();
    let error = assert_refused(nowhere.publish_text("no").await, ErrorKind::Unroutable, 312);
    assert!(!error.may_have_been_stored());
    let published = nowhere.publish_text("no").allow_unroutable().await.unwrap();
    assert!(!published.routed);
}

/// The first one that is refused is the error, and there is no producer.
pub async fn a_producer_whose_destination_can_not_be_declared_is_refused(broker: &Broker) {
    let connection = broker.connect().await;
    let open = connection.producer(Exchange::topic("news"));
    let opened = open.destinations([(Exchange::fanout("missing").passive(), "key")]);
    let error = assert_refused(opened.await, ErrorKind::NotFound, 404);
    assert!(error.to_string().contains("`missing`"), "{error}");
}
