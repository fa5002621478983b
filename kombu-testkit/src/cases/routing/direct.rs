//! A direct exchange sends to the bindings whose key equals the routing key.

use kombu_core::{Exchange, Queue};

use super::{bodies, publish_key};
use crate::Broker;

/// Equal means equal: no prefixes, no case folding.
pub async fn a_message_goes_to_the_queues_whose_binding_key_equals_its_own(broker: &Broker) {
    let connection = broker.connect().await;
    let media = Exchange::direct("media");
    for (queue, key) in [
        ("videos", "video"),
        ("photos", "photo"),
        ("also-videos", "video"),
    ] {
        let queue = Queue::new(queue).bind(&media, key);
        connection.declare_queue(&queue).await.unwrap();
    }
    let producer = connection.producer(&media).await.unwrap();
    for (key, routed) in [
        ("video", true),
        ("photo", true),
        ("Video", false),
        ("video.new", false),
        ("vide", false),
        ("", false),
    ] {
        assert_eq!(publish_key(&producer, key).await.routed, routed, "`{key}`");
    }
    assert_eq!(bodies(&connection, "videos").await, ["video"]);
    assert_eq!(bodies(&connection, "also-videos").await, ["video"]);
    assert_eq!(bodies(&connection, "photos").await, ["photo"]);
}

/// What would be a pattern on a topic exchange is a plain key here.
pub async fn wildcards_have_no_meaning(broker: &Broker) {
    let connection = broker.connect().await;
    let media = Exchange::direct("media");
    let queue = Queue::new("literal")
        .bind(&media, "#")
        .bind(&media, "video.*");
    connection.declare_queue(&queue).await.unwrap();
    let producer = connection.producer(&media).await.unwrap();
    for key in ["video", "video.new", "#", "video.*"] {
        publish_key(&producer, key).await;
    }
    assert_eq!(bodies(&connection, "literal").await, ["#", "video.*"]);
}

/// A queue with several bindings gets what any of them matches.
pub async fn a_queue_may_have_several_keys(broker: &Broker) {
    let connection = broker.connect().await;
    let media = Exchange::direct("media");
    let queue = Queue::new("both")
        .bind(&media, "video")
        .bind(&media, "photo");
    connection.declare_queue(&queue).await.unwrap();
    let producer = connection.producer(&media).await.unwrap();
    for key in ["video", "sound", "photo"] {
        publish_key(&producer, key).await;
    }
    assert_eq!(bodies(&connection, "both").await, ["video", "photo"]);
}

/// The routing key of a message that sets none is empty, and matches a binding with the empty key only.
pub async fn a_message_without_a_key_matches_the_empty_key_only(broker: &Broker) {
    let connection = broker.connect().await;
    let media = Exchange::direct("media");
    for (queue, key) in [("empty", ""), ("videos", "video")] {
        let queue = Queue::new(queue).bind(&media, key);
        connection.declare_queue(&queue).await.unwrap();
    }
    let producer = connection.producer(&media).await.unwrap();
    producer.publish_text("keyless").await.unwrap();
    assert_eq!(bodies(&connection, "empty").await, ["keyless"]);
    assert_eq!(bodies(&connection, "videos").await, [""; 0]);
}

/// Keys are bytes of UTF-8, as long as AMQP carries them: 255.
pub async fn keys_of_255_bytes_and_beyond_ascii_are_matched_whole(broker: &Broker) {
    let connection = broker.connect().await;
    let media = Exchange::direct("media");
    let longest = "k".repeat(255);
    let almost = format!("{}l", "k".repeat(254));
    let queue = Queue::new("matched")
        .bind(&media, &longest)
        .bind(&media, "ключ.鍵");
    connection.declare_queue(&queue).await.unwrap();
    let producer = connection.producer(&media).await.unwrap();
    for key in [longest.as_str(), &almost, "ключ.鍵", "ключ"] {
        publish_key(&producer, key).await;
    }
    assert_eq!(bodies(&connection, "matched").await, [&longest, "ключ.鍵"]);
}
