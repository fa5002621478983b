//! Bodies are compressed when asked for, and the header `compression` says so, as Python kombu has it.

use kombu_core::driver::Feature;
use kombu_core::serializers::{BoxError, ByteStage, Stage};
use kombu_core::{Connection, DeclareMode, ErrorKind, Exchange, FieldValue, Queue};

use super::producer_to;
use crate::Broker;
use crate::expect::{assert_refused, assert_unsupported, collect_one, drain};

/// Every compression that is built in, by name, with what its header says.
fn all() -> Vec<(&'static str, &'static str)> {
    vec![
        ("zlib", "application/x-gzip"),
        ("bzip2", "application/x-bz2"),
        #[cfg(feature = "zstd")]
        ("zstd", "application/zstd"),
    ]
}

/// What gets shorter.
fn words() -> Vec<String> {
    (0..1000).map(|number| format!("word {number}")).collect()
}

/// A body as another program would have compressed it.
fn compressed(connection: &Connection, name: &str, body: &[u8]) -> Vec<u8> {
    let stage = connection.serializers().stages().by_name(name).unwrap();
    stage.encode(body).unwrap().to_vec()
}

fn header(content: &kombu_core::message::Content) -> Option<&str> {
    content
        .headers()
        .get("compression")
        .and_then(FieldValue::as_str)
}

/// The consumer was told nothing of it; the body gets shorter on the wire.
pub async fn what_is_compressed_is_decompressed_by_its_header(broker: &Broker) {
    let connection = broker.connect().await;
    let inbox = Queue::new("inbox");
    let plain = producer_to(&connection, &inbox).await;
    let mut consumer = connection.consumer(&inbox).await.unwrap();
    plain.publish(&words()).await.unwrap();
    let delivery = collect_one(&mut consumer).await;
    assert_eq!(header(&delivery), None);
    let whole = delivery.body().len();
    delivery.ack().await.unwrap();

    for (name, content_type) in all() {
        let open = connection.producer(Exchange::default()).compression(name);
        let producer = open.routing_key("inbox").await.unwrap();
        producer.publish(&words()).await.unwrap();
        let delivery = collect_one(&mut consumer).await;
        assert_eq!(header(&delivery), Some(content_type));
        assert_eq!(delivery.content_type(), Some("application/json"));
        assert!(delivery.body().len() < whole / 2, "{name}");
        let (received, delivery) = delivery.take::<Vec<String>>().unwrap();
        assert_eq!(received, words(), "{name}");
        delivery.ack().await.unwrap();
    }
}

/// By another name than its producer, or not at all.
pub async fn a_message_can_be_compressed_otherwise_than_its_producer_says(broker: &Broker) {
    let connection = broker.connect().await;
    let inbox = Queue::new("inbox");
    connection.declare_queue(&inbox).await.unwrap();
    let open = connection.producer(Exchange::default()).compression("zlib");
    let producer = open.routing_key("inbox").await.unwrap();
    let plain = producer_to(&connection, &inbox).await;
    for (publish, expected) in [
        (producer.publish(&7), Some("application/x-gzip")),
        (
            producer.publish(&7).compression("bzip2"),
            Some("application/x-bz2"),
        ),
        (producer.publish(&7).uncompressed(), None),
        (
            producer.publish(&7).header("compression", "mine"),
            Some("application/x-gzip"),
        ),
        (plain.publish(&7), None),
        (
            plain.publish(&7).compression("gzip"),
            Some("application/x-gzip"),
        ),
    ] {
        publish.await.unwrap();
        let delivery = connection.get("inbox").await.unwrap().unwrap();
        assert_eq!(header(&delivery), expected);
        assert_eq!(delivery.body() == "7", expected.is_none());
        assert_eq!(delivery.decode::<u32>().unwrap(), 7);
        delivery.ack().await.unwrap();
    }
}

/// Also those that no serializer knows.
pub async fn bytes_and_text_are_compressed_too(broker: &Broker) {
    let connection = broker.connect().await;
    let inbox = Queue::new("inbox");
    let producer = producer_to(&connection, &inbox).await;
    let text = "all is well\n".repeat(100);
    for (name, _) in all() {
        producer
            .publish_text(&text)
            .compression(name)
            .await
            .unwrap();
        let delivery = connection.get("inbox").await.unwrap().unwrap();
        assert!(delivery.body().len() < text.len() / 2, "{name}");
        assert_eq!(delivery.decode::<&str>().unwrap(), text);
        delivery.ack().await.unwrap();

        let image = producer
            .publish_bytes(text.clone())
            .content_type("image/bmp");
        image.compression(name).await.unwrap();
        let delivery = connection.get("inbox").await.unwrap().unwrap();
        assert!(delivery.body().len() < text.len() / 2, "{name}");
        assert_eq!(delivery.plain_body().unwrap(), &text);
        let (message, acker) = delivery.split();
        acker.ack().await.unwrap();
        assert_eq!(message.clone().plain_body().unwrap(), &text);
    }
}

/// It is decompressed once, and kept as long as the message.
pub async fn a_value_can_borrow_from_a_compressed_body(broker: &Broker) {
    let connection = broker.connect().await;
    let inbox = Queue::new("inbox");
    let producer = producer_to(&connection, &inbox).await;
    let publish = producer.publish("borrowed").compression("zlib");
    publish.await.unwrap();
    let delivery = connection.get("inbox").await.unwrap().unwrap();
    let before = delivery.decode::<&str>().unwrap().as_ptr();
    let (message, acker) = delivery.split();
    acker.ack().await.unwrap();
    let text: &str = message.decode().unwrap();
    assert_eq!(text, "borrowed");
    assert_eq!(text.as_ptr(), before);
    let body = message.plain_body().unwrap();
    assert_eq!(body, "\"borrowed\"");
    assert!(body.as_ptr_range().contains(&before));
}

/// What no compression is named is found before the broker hears of it.
pub async fn an_unknown_compression_is_refused_before_anything_is_sent(broker: &Broker) {
    let connection = broker.connect().await;
    let inbox = Queue::new("inbox");
    let producer = producer_to(&connection, &inbox).await;
    let publish = producer.publish(&7).compression("zlibb").await;
    let error = assert_refused(publish, ErrorKind::UnknownSerializer, None);
    assert!(
        error.to_string().ends_with("did you mean `zlib`?"),
        "{error}"
    );
    assert!(!error.may_have_been_stored());
    let open = connection.producer(Exchange::topic("media"));
    let error = assert_refused(
        open.compression("lzma").await,
        ErrorKind::UnknownSerializer,
        None,
    );
    assert!(error.to_string().contains("zlib, bzip2"), "{error}");
    let verified = connection
        .producer(Exchange::topic("media"))
        .declare(DeclareMode::Verify);
    assert_refused(verified.await, ErrorKind::NotFound, 404);
    broker.assert_counts(&connection, "inbox", 0, 0).await;
}

/// Somebody else's compression: the body is there as it came, and the message isn't lost.
pub async fn a_message_in_an_unknown_compression_is_undecodable(broker: &Broker) {
    let connection = broker.connect().await;
    let inbox = Queue::new("inbox");
    let producer = producer_to(&connection, &inbox).await;
    let mut consumer = connection.consumer(&inbox).await.unwrap();
    for value in [FieldValue::from("application/x-lzma"), FieldValue::I32(7)] {
        let publish = producer.publish(&7).header("compression", value);
        publish.await.unwrap();
        let delivery = collect_one(&mut consumer).await;
        assert_eq!(delivery.body(), "7");
        assert_refused(delivery.plain_body(), ErrorKind::UnknownSerializer, None);
        let error = assert_refused(delivery.take::<u32>(), ErrorKind::UnknownSerializer, None);
        assert!(error.to_string().contains("compression"), "{error}");
        drop(error);
    }
    broker.assert_silent(&mut consumer).await;
    broker.assert_counts(&connection, "inbox", 0, 2).await;
    consumer.cancel().await.unwrap();
    broker.assert_counts(&connection, "inbox", 2, 0).await;
}

/// A header that says nothing is none.
pub async fn an_empty_compression_header_means_none(broker: &Broker) {
    let connection = broker.connect().await;
    let inbox = Queue::new("inbox");
    let producer = producer_to(&connection, &inbox).await;
    for value in [FieldValue::from(""), FieldValue::Void] {
        let publish = producer.publish(&7).header("compression", value);
        publish.await.unwrap();
        let delivery = connection.get("inbox").await.unwrap().unwrap();
        assert_eq!(delivery.decode::<u32>().unwrap(), 7);
        delivery.ack().await.unwrap();
    }
}

/// Cut off, followed by something, or no stream at all.
pub async fn a_corrupt_stream_is_undecodable(broker: &Broker) {
    let connection = broker.connect().await;
    let inbox = Queue::new("inbox");
    let producer = producer_to(&connection, &inbox).await;
    let mut consumer = connection.consumer(&inbox).await.unwrap();
    let mut held = 0;
    for (name, content_type) in all() {
        let whole = compressed(&connection, name, b"\"body\"");
        let cut = whole[..whole.len() - 1].to_vec();
        let longer = [&whole[..], b"!"].concat();
        let twice = [&whole[..], &whole[..]].concat();
        for body in [cut, longer, twice, b"\"body\"".to_vec(), Vec::new()] {
            let publish = producer.publish_bytes(body.clone());
            let publish = publish.content_type("application/json");
            publish.header("compression", content_type).await.unwrap();
            let delivery = collect_one(&mut consumer).await;
            assert_eq!(delivery.body(), &body);
            assert_refused(delivery.take::<String>(), ErrorKind::Undecodable, None);
            held += 1;
        }
    }
    broker.assert_silent(&mut consumer).await;
    broker.assert_counts(&connection, "inbox", 0, held).await;
    drop(consumer);
    broker.assert_counts(&connection, "inbox", held, 0).await;
}

/// A small body that comes to much is undecodable; up to the limit, one isn't.
pub async fn a_body_that_comes_to_more_than_the_limit_is_refused(broker: &Broker) {
    const LIMIT: usize = 100_000;
    let open = broker.connection().max_decompressed_size(LIMIT);
    let connection = open.await.unwrap();
    let inbox = Queue::new("inbox");
    let producer = producer_to(&connection, &inbox).await;
    for (name, _) in all() {
        for size in [LIMIT, LIMIT + 1, 100 * LIMIT] {
            let publish = producer.publish_bytes(vec![0; size]);
            publish.compression(name).await.unwrap();
            let delivery = connection.get("inbox").await.unwrap().unwrap();
            assert!(delivery.body().len() < LIMIT / 2);
            let decoded = delivery.decode::<&[u8]>();
            if size <= LIMIT {
                assert_eq!(decoded.unwrap().len(), size);
            } else {
                let error = assert_refused(decoded, ErrorKind::Undecodable, None);
                let text = error.to_string();
                assert!(text.contains("`max_decompressed_size`"), "{text}");
                assert!(text.contains("100000 bytes"), "{text}");
            }
            delivery.ack().await.unwrap();
        }
    }
}

/// What is sent is measured, not what it was made of.
pub async fn the_largest_message_is_measured_compressed(broker: &Broker) {
    let connection = broker.connection().max_message_size(1_000).await.unwrap();
    let inbox = Queue::new("inbox");
    let producer = producer_to(&connection, &inbox).await;
    let body = vec![b'x'; 100_000];
    let plain = producer.publish_bytes(body.clone()).await;
    assert_refused(plain, ErrorKind::TooLarge, 311);
    for (name, _) in all() {
        let publish = producer.publish_bytes(body.clone());
        publish.compression(name).await.unwrap();
    }
    let messages = drain(&connection, "inbox").await;
    assert_eq!(messages.len(), all().len());
    for message in messages {
        assert_eq!(message.decode::<&[u8]>().unwrap(), body);
    }
}

/// The letter is as compressed as the message was.
pub async fn a_dead_letter_stays_compressed(broker: &Broker) {
    let connection = broker.connect().await;
    let inbox = Queue::new("inbox")
        .dead_letter_exchange("")
        .dead_letter_routing_key("dead");
    if !connection.capabilities().has(Feature::DeadLetter) {
        assert_unsupported(connection.declare_queue(&inbox).await);
        return;
    }
    let mut dead = connection.consumer(&Queue::new("dead")).await.unwrap();
    let producer = producer_to(&connection, &inbox).await;
    let words = words();
    let publish = producer.publish(&words).compression("zlib");
    publish.await.unwrap();
    let delivery = connection.get("inbox").await.unwrap().unwrap();
    let body = delivery.body().clone();
    assert_eq!(delivery.decode::<Vec<String>>().unwrap(), words);
    delivery.reject().await.unwrap();
    let letter = collect_one(&mut dead).await;
    assert_eq!(letter.body(), &body);
    assert_eq!(header(&letter), Some("application/x-gzip"));
    assert_eq!(letter.decode::<Vec<String>>().unwrap(), words);
    letter.ack().await.unwrap();
}

struct Backwards;

impl ByteStage for Backwards {
    fn encode(&self, body: &[u8]) -> Result<Vec<u8>, BoxError> {
        match body.contains(&b'!') {
            true => Err("it must not be shouted".into()),
            false => Ok(body.iter().rev().copied().collect()),
        }
    }

    fn decode(&self, body: &[u8], _limit: usize) -> Result<Vec<u8>, BoxError> {
        self.encode(body)
    }
}

/// A stage of one's own, on both sides, also if it comes after the consumer.
pub async fn a_stage_that_is_registered_later_is_found(broker: &Broker) {
    let connection = broker.connect().await;
    let inbox = Queue::new("inbox");
    let mut consumer = connection.consumer(&inbox).await.unwrap();
    let backwards = Stage::new("backwards", "application/x-backwards", Backwards);
    let stages = connection.serializers().stages();
    stages.register(backwards.unwrap());
    let producer = producer_to(&connection, &inbox).await;
    let publish = producer.publish("abc").compression("backwards");
    publish.await.unwrap();
    let delivery = collect_one(&mut consumer).await;
    assert_eq!(delivery.body(), "\"cba\"");
    assert_eq!(header(&delivery), Some("application/x-backwards"));
    assert_eq!(delivery.decode::<&str>().unwrap(), "abc");
    delivery.ack().await.unwrap();

    let refused = producer.publish("abc!").compression("backwards").await;
    assert_refused(refused, ErrorKind::Encode, None);
    broker.assert_counts(&connection, "inbox", 0, 0).await;
}
