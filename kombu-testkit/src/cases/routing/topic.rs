//! A topic exchange matches patterns of words between dots, in RabbitMQ's reading of the empty key and of empty
//! words: `""` has no word, `.` has two empty ones, and `*` takes an empty word too.

use kombu_core::{Exchange, Queue};

use super::{bodies, publish_key};
use crate::Broker;

/// Keys in which the readings of a pattern differ.
const KEYS: [&str; 8] = ["", "a", "a.b", ".", "a.", ".a", "a..b", "a.x.y.b"];

/// Publishes one message for each of [`KEYS`]: those of `matched` arrive, in order, and no other does.
async fn assert_matches(broker: &Broker, pattern: &str, matched: &[&str]) {
    let connection = broker.connect().await;
    let keys = Exchange::topic("keys");
    let queue = Queue::new("matched").bind(&keys, pattern);
    connection.declare_queue(&queue).await.unwrap();
    let producer = connection.producer(&keys).await.unwrap();
    for key in KEYS {
        let routed = publish_key(&producer, key).await.routed;
        assert_eq!(routed, matched.contains(&key), "`{pattern}` and `{key}`");
    }
    assert_eq!(bodies(&connection, "matched").await, matched, "`{pattern}`");
}

/// The pattern `#`.
pub async fn hash_matches_every_key(broker: &Broker) {
    assert_matches(broker, "#", &KEYS).await;
}

/// The pattern `*`.
pub async fn star_matches_exactly_one_word(broker: &Broker) {
    assert_matches(broker, "*", &["a"]).await;
}

/// The pattern `a.#`.
pub async fn hash_at_the_end_takes_any_number_of_words(broker: &Broker) {
    assert_matches(broker, "a.#", &["a", "a.b", "a.", "a..b", "a.x.y.b"]).await;
}

/// The pattern `#.a`.
pub async fn hash_at_the_start_takes_any_number_of_words(broker: &Broker) {
    assert_matches(broker, "#.a", &["a", ".a"]).await;
}

/// The pattern `*.*`.
pub async fn two_stars_match_exactly_two_words_empty_ones_too(broker: &Broker) {
    assert_matches(broker, "*.*", &["a.b", ".", "a.", ".a"]).await;
}

/// The pattern `a.*`.
pub async fn star_at_the_end_takes_one_word_even_an_empty_one(broker: &Broker) {
    assert_matches(broker, "a.*", &["a.b", "a."]).await;
}

/// The pattern `#.#`.
pub async fn two_hashes_match_every_key(broker: &Broker) {
    assert_matches(broker, "#.#", &KEYS).await;
}

/// The pattern `*.#`.
pub async fn star_and_hash_match_every_key_with_a_word(broker: &Broker) {
    assert_matches(broker, "*.#", &KEYS[1..]).await;
}

/// The pattern `""`.
pub async fn an_empty_pattern_matches_the_empty_key_only(broker: &Broker) {
    assert_matches(broker, "", &[""]).await;
}

/// The pattern `a..b`.
pub async fn an_empty_word_in_a_pattern_is_a_word(broker: &Broker) {
    assert_matches(broker, "a..b", &["a..b"]).await;
}

/// The pattern `a.*.b`.
pub async fn star_in_the_middle_takes_one_word_even_an_empty_one(broker: &Broker) {
    assert_matches(broker, "a.*.b", &["a..b"]).await;
}

/// The pattern `a.#.b`.
pub async fn hash_in_the_middle_takes_any_number_of_words(broker: &Broker) {
    assert_matches(broker, "a.#.b", &["a.b", "a..b", "a.x.y.b"]).await;
}

/// `*.stock.#`, the example that messaging manuals have.
pub async fn star_stock_hash_matches_as_in_the_manuals(broker: &Broker) {
    let connection = broker.connect().await;
    let prices = Exchange::topic("prices");
    let queue = Queue::new("stock").bind(&prices, "*.stock.#");
    connection.declare_queue(&queue).await.unwrap();
    let producer = connection.producer(&prices).await.unwrap();
    for key in [
        "usd.stock",
        "eur.stock.db",
        "stock.nasdaq",
        "usd.bond",
        "a.b.stock",
    ] {
        publish_key(&producer, key).await;
    }
    assert_eq!(
        bodies(&connection, "stock").await,
        ["usd.stock", "eur.stock.db"]
    );
}

/// Words are compared whole, and by their case.
pub async fn a_part_of_a_word_is_not_the_word(broker: &Broker) {
    let connection = broker.connect().await;
    let media = Exchange::topic("media");
    let queue = Queue::new("videos")
        .bind(&media, "video.*")
        .bind(&media, "vid*.#");
    connection.declare_queue(&queue).await.unwrap();
    let producer = connection.producer(&media).await.unwrap();
    for key in [
        "video.new",
        "videos.new",
        "Video.new",
        "vide.new",
        "vid*.new",
    ] {
        publish_key(&producer, key).await;
    }
    assert_eq!(
        bodies(&connection, "videos").await,
        ["video.new", "vid*.new"]
    );
}

/// Many patterns on one exchange don't get into each other's way, and one queue gets one copy.
pub async fn each_pattern_of_an_exchange_matches_for_itself(broker: &Broker) {
    let connection = broker.connect().await;
    let keys = Exchange::topic("keys");
    let expected: [(&str, &str, &[&str]); 4] = [
        ("exact", "a.b", &["a.b"]),
        ("star", "a.*", &["a.b", "a."]),
        ("hash", "#.b", &["a.b", "a..b", "a.x.y.b"]),
        ("all", "#", &KEYS),
    ];
    let mut every = Queue::new("every");
    for (queue, pattern, _) in expected {
        connection
            .declare_queue(&Queue::new(queue).bind(&keys, pattern))
            .await
            .unwrap();
        every = every.bind(&keys, pattern);
    }
    connection.declare_queue(&every).await.unwrap();
    let producer = connection.producer(&keys).await.unwrap();
    for key in KEYS {
        publish_key(&producer, key).await;
    }
    for (queue, pattern, matched) in expected {
        assert_eq!(bodies(&connection, queue).await, matched, "`{pattern}`");
    }
    assert_eq!(bodies(&connection, "every").await, KEYS);
}
