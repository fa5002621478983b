//! What is refused before a broker is asked, with an error that names the thing and the way out, and no secrets.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use kombu::memory::Memory;
use kombu::{Binding, Connection, Error, ErrorKind, Exchange, Queue, Registry};

const SECRET: &str = "correct-horse";

async fn refused(registry: Registry, url: &str) -> Error {
    let error = Connection::builder(registry).url(url).await.unwrap_err();
    assert_eq!(error.operation(), Some("connect"), "{error}");
    error
}

fn assert_says(error: &Error, kind: ErrorKind, parts: &[&str]) {
    assert_eq!(error.kind(), kind, "{error}");
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "`{part}` is missing in: {text}");
    }
}

fn assert_no_secret(shown: impl std::fmt::Debug) {
    let text = format!("{shown:?} {shown:#?}");
    assert!(!text.contains(SECRET), "{text}");
}

fn assert_error_has_no_secret(error: &Error) {
    assert_no_secret(error);
    assert!(!error.to_string().contains(SECRET), "{error}");
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        assert!(!error.to_string().contains(SECRET), "{error}");
        assert_no_secret(error);
        source = error.source();
    }
}

#[tokio::test]
async fn an_unknown_scheme_lists_those_that_there_are() {
    let error = refused(Registry::new().with(Memory), "carrier-pigeon://loft").await;
    assert_says(
        &error,
        ErrorKind::UnknownScheme,
        &["`carrier-pigeon://`", "available: memory"],
    );
    let error = kombu::connect("carrier-pigeon://loft").await.unwrap_err();
    assert_says(
        &error,
        ErrorKind::UnknownScheme,
        &["`carrier-pigeon://`", "available: amqp, amqps, memory"],
    );
}

#[tokio::test]
async fn a_scheme_that_was_left_out_names_the_feature_that_adds_it() {
    let registry = Registry::new().with(Memory).without("pigeon", "birds");
    let error = refused(registry.clone(), "pigeon://loft").await;
    assert_says(
        &error,
        ErrorKind::UnknownScheme,
        &["`pigeon://`", "cargo feature `birds`", "memory"],
    );
    let error = refused(Registry::new().without("memory", "memory"), "memory://").await;
    assert_says(
        &error,
        ErrorKind::UnknownScheme,
        &["cargo feature `memory`", "none is registered"],
    );
}

#[tokio::test]
async fn a_transport_that_is_there_is_not_reported_as_left_out() {
    for registry in [
        Registry::new().without("memory", "memory").with(Memory),
        Registry::new().with(Memory).without("memory", "memory"),
    ] {
        assert_eq!(registry.schemes(), ["memory"]);
        let connection = Connection::builder(registry)
            .url("memory://")
            .await
            .unwrap();
        connection.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_scheme_with_a_typing_mistake_is_corrected() {
    let error = refused(kombu::registry(), "memori://").await;
    assert_says(&error, ErrorKind::UnknownScheme, &["did you mean `memory`"]);
}

#[tokio::test]
async fn an_empty_registry_says_so() {
    let error = refused(Registry::new(), "memory://").await;
    assert_says(&error, ErrorKind::UnknownScheme, &["none is registered"]);
}

#[tokio::test]
async fn a_url_without_a_scheme_is_refused_with_an_example() {
    for url in ["localhost", "", "/queue", "user@host"] {
        let error = refused(kombu::registry(), url).await;
        assert_says(&error, ErrorKind::Config, &["malformed URL", "`memory://`"]);
    }
}

#[tokio::test]
async fn a_url_without_slashes_does_not_lead_to_this_host() {
    for url in ["memory:prod.example.com", "memory:guest:a-secret@prod"] {
        let error = refused(kombu::registry(), url).await;
        assert_says(&error, ErrorKind::Config, &["malformed URL", "`//`"]);
        assert!(!format!("{error:?}").contains("a-secret"), "{error:?}");
    }
}

#[tokio::test]
async fn what_a_question_mark_in_a_password_cuts_off_is_not_shown() {
    for url in [
        "memory://a?secret:x@host",
        "memory://token?secret@host:1",
        "memory://a?secret&x@host",
        "memory://user:12?secret=1@host",
    ] {
        let error = refused(kombu::registry(), url).await;
        assert_says(&error, ErrorKind::Config, &["`memory` URL", "`%3F`"]);
        assert!(!format!("{error:?}").contains("secret"), "{error:?}");
    }
}

#[tokio::test]
async fn a_malformed_url_is_refused() {
    for url in ["memory://host:port", "memory://[::1", "memory://host:99999"] {
        let error = refused(kombu::registry(), url).await;
        assert_says(&error, ErrorKind::Config, &["malformed URL"]);
    }
}

#[tokio::test]
async fn a_builder_without_a_url_is_refused() {
    let error = Connection::builder(kombu::registry()).await.unwrap_err();
    assert_says(&error, ErrorKind::Config, &["no URL"]);
}

#[tokio::test]
async fn an_unknown_option_is_refused_with_the_nearest_known_one() {
    let error = refused(kombu::registry(), "memory://?max_mesage_size=1").await;
    let parts = [
        "`memory` URL",
        "`max_mesage_size`",
        "did you mean `max_message_size`",
    ];
    assert_says(&error, ErrorKind::Config, &parts);
    let error = refused(kombu::registry(), "memory://?heartbeat=1").await;
    assert_says(
        &error,
        ErrorKind::Config,
        &["`heartbeat`", "max_message_size"],
    );
}

#[tokio::test]
async fn an_option_with_a_value_that_does_not_fit_is_refused() {
    for value in ["large", "-1", "1.5", ""] {
        let url = format!("memory://?max_message_size={value}");
        let error = refused(kombu::registry(), &url).await;
        assert_says(
            &error,
            ErrorKind::Config,
            &["`max_message_size`", "whole number"],
        );
    }
    for value in ["0", "4095", "1048577", "4294967295"] {
        let url = format!("amqp://localhost:1?frame_max={value}");
        let error = refused(kombu::registry(), &url).await;
        assert_says(
            &error,
            ErrorKind::Config,
            &["`frame_max`", "4096 to 1048576"],
        );
    }
    let error = refused(
        kombu::registry(),
        "memory://?max_message_size=1&max_message_size=2",
    )
    .await;
    assert_says(&error, ErrorKind::Config, &["max_message_size"]);
}

#[tokio::test]
async fn an_option_of_the_url_takes_effect() {
    let connection = kombu::connect("memory://?max_message_size=4")
        .await
        .unwrap();
    assert_eq!(connection.capabilities().max_message_size(), 4);
    let producer = connection.producer(Exchange::fanout("news")).await.unwrap();
    producer.publish_text("fits").await.unwrap();
    let error = producer.publish_text("large").await.unwrap_err();
    assert_says(&error, ErrorKind::TooLarge, &["5 bytes", "limit is 4"]);
}

#[tokio::test]
async fn a_password_is_shown_by_nothing_that_holds_it() {
    let url = format!("memory://user:{SECRET}@passwords/vhost");
    let builder = Connection::builder(kombu::registry()).url(&url);
    assert_no_secret(&builder);
    let connection = builder.await.unwrap();
    assert_no_secret(&connection);
    assert_no_secret(kombu::registry());
    let queue = Queue::new("jobs");
    assert_no_secret(connection.consumer(&queue));
    assert_no_secret(connection.producer(Exchange::default()));
    assert_no_secret(connection.delete_queue("jobs"));
    assert_no_secret(connection.consumer(&queue).await.unwrap());
    let producer = connection.producer(Exchange::default()).await.unwrap();
    assert_no_secret(&producer);
    assert_no_secret(producer.publish_text("hello"));
    assert_error_has_no_secret(&connection.get("nowhere").await.unwrap_err());
    connection.close().await.unwrap();
    assert_error_has_no_secret(&connection.get("jobs").await.unwrap_err());
    assert_no_secret(&connection);
    kombu::memory::remove("passwords");
}

#[tokio::test]
async fn a_password_is_shown_by_no_error_about_its_url() {
    for url in [
        format!("pigeon://user:{SECRET}@loft"),
        format!("memory://user:{SECRET}@host:port"),
        format!("memory://user:{SECRET}@[::1"),
        format!("user:{SECRET}@host"),
        format!("//user:{SECRET}@host"),
        format!("memory://user:{SECRET}@host?max_mesage_size=1"),
        format!("memory://host?max_message_size={SECRET}"),
        format!("memory://host?password={SECRET}"),
    ] {
        let builder = Connection::builder(kombu::registry()).url(&url);
        assert_no_secret(&builder);
        assert_error_has_no_secret(&builder.await.unwrap_err());
    }
}

#[tokio::test]
async fn a_password_in_a_query_is_shown_by_nothing() {
    let url = url_of(&format!("memory://user@host/vhost?password={SECRET}"));
    assert_no_secret(kombu::driver::Target::new(url.clone()));
    assert!(!kombu::driver::Target::new(url).to_string().contains(SECRET));
}

fn url_of(text: &str) -> url::Url {
    url::Url::parse(text).unwrap()
}

#[tokio::test]
async fn an_unknown_serializer_lists_those_that_there_are() {
    let connection = kombu::connect("memory://").await.unwrap();
    let open = connection.producer(Exchange::default()).serializer("jsno");
    let error = open.await.unwrap_err();
    assert_eq!(error.operation(), Some("open producer"));
    let parts = ["jsno", "json", "msgpack", "yaml", "raw"];
    assert_says(&error, ErrorKind::UnknownSerializer, &parts);
}

#[tokio::test]
async fn names_of_more_than_255_bytes_are_refused() {
    let connection = kombu::connect("memory://").await.unwrap();
    let long = "n".repeat(256);
    // 86 letters of 3 bytes each are too long as well.
    let wide = "鍵".repeat(86);
    for name in [&long, &wide] {
        let queue = connection
            .declare_queue(&Queue::new(name))
            .await
            .unwrap_err();
        assert_says(
            &queue,
            ErrorKind::InvalidName,
            &["queue name", "at most 255"],
        );
        let exchange = connection
            .declare_exchange(&Exchange::topic(name))
            .await
            .unwrap_err();
        assert_says(
            &exchange,
            ErrorKind::InvalidName,
            &["exchange name", "at most 255"],
        );
        let bound = Queue::new("jobs").bind(Exchange::topic("media"), name);
        let binding = connection.declare_queue(&bound).await.unwrap_err();
        assert_says(
            &binding,
            ErrorKind::InvalidName,
            &["routing key", "at most 255"],
        );
        let binding = Binding::new(Exchange::topic("media"), name);
        let binding = connection.bind_queue("jobs", &binding).await.unwrap_err();
        assert_says(
            &binding,
            ErrorKind::InvalidName,
            &["routing key", "at most 255"],
        );
        let dead = Queue::new("jobs").dead_letter_exchange(name);
        let dead = connection.declare_queue(&dead).await.unwrap_err();
        assert_says(
            &dead,
            ErrorKind::InvalidName,
            &["dead-letter exchange", "at most 255"],
        );
        let kind = Exchange::custom(name, "media");
        let kind = connection.declare_exchange(&kind).await.unwrap_err();
        assert_says(
            &kind,
            ErrorKind::InvalidName,
            &["exchange type", "at most 255"],
        );
        let consumer = connection.consumer(&Queue::new(name)).await.unwrap_err();
        assert_says(
            &consumer,
            ErrorKind::InvalidName,
            &["queue name", "at most 255"],
        );
        let producer = connection
            .producer(Exchange::topic(name))
            .await
            .unwrap_err();
        assert_says(
            &producer,
            ErrorKind::InvalidName,
            &["exchange name", "at most 255"],
        );
    }
}

#[tokio::test]
async fn properties_of_more_than_255_bytes_are_refused_by_name() {
    let connection = kombu::connect("memory://").await.unwrap();
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let producer = connection
        .producer(Exchange::default())
        .routing_key("jobs")
        .await
        .unwrap();
    let long = "n".repeat(256);
    let publish = || producer.publish_text("text");
    for (property, publish) in [
        ("routing key", publish().routing_key(&long)),
        ("correlation_id", publish().correlation_id(&long)),
        ("reply_to", publish().reply_to(&long)),
        ("message_id", publish().message_id(&long)),
        ("type", publish().kind(&long)),
        ("user_id", publish().user_id(&long)),
        ("app_id", publish().app_id(&long)),
        ("cluster_id", publish().cluster_id(&long)),
        ("content_type", publish().content_type(&long)),
        ("content_encoding", publish().content_encoding(&long)),
        ("exchange name", publish().exchange(&Exchange::topic(&long))),
        ("field name", publish().header(&long, 1)),
    ] {
        let error = publish.await.unwrap_err();
        assert_says(&error, ErrorKind::InvalidName, &[property, "at most 255"]);
    }
    assert_eq!(connection.queue_info("jobs").await.unwrap().ready, 0);
}

#[tokio::test]
async fn names_of_255_bytes_are_accepted() {
    let connection = kombu::connect("memory://").await.unwrap();
    let longest = "n".repeat(255);
    let media = Exchange::topic(&longest);
    let queue = Queue::new(&longest).bind(&media, &longest);
    connection.declare_queue(&queue).await.unwrap();
    let producer = connection
        .producer(&media)
        .routing_key(&longest)
        .await
        .unwrap();
    let publish = producer
        .publish_text("text")
        .message_id(&longest)
        .header(&longest, 1);
    assert!(publish.await.unwrap().routed);
}

#[tokio::test]
async fn a_value_that_can_not_be_encoded_is_refused_by_serializer() {
    let connection = kombu::connect("memory://").await.unwrap();
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let producer = connection
        .producer(Exchange::default())
        .routing_key("jobs")
        .await
        .unwrap();
    let unwritable = BTreeMap::from([(vec![1], 1)]);
    let error = producer.publish(&unwritable).await.unwrap_err();
    assert_says(&error, ErrorKind::Encode, &["json"]);
    assert!(std::error::Error::source(&error).is_some());
    let error = producer.publish(&7).serializer("raw").await.unwrap_err();
    assert_says(&error, ErrorKind::Encode, &["raw"]);
    assert_eq!(connection.queue_info("jobs").await.unwrap().ready, 0);
    producer
        .publish(&unwritable)
        .serializer("msgpack")
        .await
        .unwrap();
}

/// RabbitMQ does something at these; here they would be accepted and do nothing.
#[tokio::test]
async fn arguments_that_nothing_is_done_at_are_refused_by_name() {
    let registry = kombu::registry().with(kombu_testkit::awkward::Awkward::default());
    for url in ["memory://", "awkward://arguments"] {
        let connection = Connection::builder(registry.clone()).url(url);
        let connection = connection.await.unwrap();
        for (argument, value) in [
            ("x-queue-type", "stream"),
            ("x-queue-type", "nonsense"),
            ("x-dead-letter-strategy", "at-least-once"),
        ] {
            let queue = Queue::new("jobs").argument(argument, value);
            let error = connection.declare_queue(&queue).await.unwrap_err();
            let parts = ["`jobs`", argument, value];
            assert_says(&error, ErrorKind::Unsupported, &parts);
            let missing = connection.queue_info("jobs").await.unwrap_err();
            assert_eq!(missing.kind(), ErrorKind::NotFound);
        }
        for hint in [
            Queue::new("quorum").quorum(),
            Queue::new("classic").argument("x-queue-type", "classic"),
            Queue::new("once").argument("x-dead-letter-strategy", "at-most-once"),
            Queue::new("lazy").argument("x-queue-mode", "lazy"),
            Queue::new("mine").argument("x-of-mine", 1),
        ] {
            connection.declare_queue(&hint).await.unwrap();
        }
    }
}
