//! What was declared with NATS and deleted is forgotten in the end: whoever connects doesn't read it for ever.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use kombu::{Binding, Connection, ErrorKind, Exchange, Queue};
use kombu_testkit::brokers::Nats;
use kombu_tests::{NatsFilter, NatsLine};
use tokio::time::timeout;
use url::Url;

/// As many marks as there may be, with those that come until one of the sessions looks.
const MOST: u64 = 1_150;

const QUEUES: usize = 20;

/// Where declarations are asked for.
const READS: &str = "STREAM.MSG.GET.KV_kombu_topology";

/// They are removed while nobody waits for it.
const SOON: Duration = Duration::from_secs(10);

/// Deletes many exchanges that it has declared.
async fn churn(connection: &Connection) {
    for some in 0..24 {
        let all = (0..50).map(|number| async move {
            let exchange = Exchange::fanout(format!("temporary-{some}-{number}"));
            connection.declare_exchange(&exchange).await?;
            connection.delete_exchange(exchange.name()).await
        });
        try_join_all(all).await.unwrap();
    }
}

fn queue(number: usize) -> Queue {
    Queue::new(format!("queue-{number}"))
}

/// Declares some queues, and deletes every other one.
async fn declare(connection: &Connection) {
    for number in 0..QUEUES {
        let queue = queue(number);
        connection.declare_queue(&queue).await.unwrap();
        if number.is_multiple_of(2) {
            connection.delete_queue(queue.name()).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn what_was_deleted_is_forgotten_and_nobody_misses_that_it_was() {
    let nats = Nats::start().unwrap();
    let filter = NatsFilter::start(nats.address().to_string()).await;
    let idle = kombu::connect(filter.url()).await.unwrap();
    let [busy, one, other] = try_join_all([(); 3].map(|()| kombu::connect(nats.url())))
        .await
        .unwrap()
        .try_into()
        .unwrap();
    let (news, old) = (Exchange::topic("news"), Queue::new("old"));
    idle.declare_exchange(&news).await.unwrap();
    idle.declare_queue(&old).await.unwrap();
    let binding = Binding::new(&news, "#");
    idle.bind_queue(old.name(), &binding).await.unwrap();
    let producer = idle.producer(news).routing_key("a").await.unwrap();
    producer.publish_text("before").await.unwrap();

    declare(&other).await;
    // Sessions read on now and then, and this one reads nothing from here on.
    filter.refuse(READS);
    other.unbind_queue(old.name(), &binding).await.unwrap();
    let (done, mut is_done) = tokio::sync::oneshot::channel::<()>();
    let looking = async {
        // Reads on all the time, while others remove what it is about to read.
        while is_done.try_recv().is_err() {
            let looked = busy.queue_info(queue(0).name()).await;
            assert_eq!(looked.unwrap_err().kind(), ErrorKind::NotFound);
        }
    };
    let churning = async {
        churn(&one).await;
        done.send(()).unwrap();
    };
    tokio::join!(looking, churning);

    let url = Url::parse(&nats.url()).unwrap();
    let mut line = NatsLine::open(&url);
    let are_removed = async {
        loop {
            let info = line.request("$JS.API.STREAM.INFO.KV_kombu_topology", "");
            if info["state"]["messages"].as_u64().unwrap() < MOST {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    let removed = timeout(SOON, are_removed).await;
    removed.expect("the older half of the marks goes");

    filter.heal();
    let published = producer.publish_text("after").await.unwrap();
    assert!(!published.routed);
    let late = kombu::connect(nats.url()).await.unwrap();
    for connection in [&idle, &busy, &one, &other, &late] {
        let looks = (0..QUEUES).map(|number| async move {
            let looked = connection.queue_info(queue(number).name()).await;
            let found = looked.map(drop).map_err(|error| error.kind());
            let expected = match number.is_multiple_of(2) {
                true => Err(ErrorKind::NotFound),
                false => Ok(()),
            };
            assert_eq!(found, expected, "queue {number}");
        });
        join_all(looks).await;
    }
    late.bind_queue(old.name(), &binding).await.unwrap();
    producer.publish_text("again").await.unwrap();
    for text in ["before", "again"] {
        let delivery = late.get(old.name()).await.unwrap().unwrap();
        assert_eq!(&delivery.body()[..], text.as_bytes());
        delivery.ack().confirmed().await.unwrap();
    }
    assert!(late.get(old.name()).await.unwrap().is_none());
}

/// The server ends what others are reading when something is purged, as with each queue that is deleted.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn a_session_that_begins_while_a_queue_is_deleted_knows_all_that_is_declared() {
    const LOOKS: &str = "CONSUMER.CREATE.KV_kombu_topology";
    let nats = Nats::start().unwrap();
    let near = kombu::connect(nats.url()).await.unwrap();
    // More than are asked for one by one.
    let declaring = (0..200).map(|number| {
        let exchange = Exchange::fanout(format!("exchange-{number}"));
        let near = &near;
        async move { near.declare_exchange(&exchange).await }
    });
    try_join_all(declaring).await.unwrap();
    near.declare_queue(&queue(0)).await.unwrap();
    near.declare_queue(&queue(1)).await.unwrap();

    let filter = NatsFilter::start(nats.address().to_string()).await;
    // It begins to read, and goes on when the queue is gone.
    filter.delay(LOOKS, Duration::from_secs(1));
    let url = filter.url();
    let beginning = tokio::spawn(async move {
        let connection = kombu::connect(url).await?;
        connection.queue_info(queue(1).name()).await
    });
    filter.until(LOOKS, 1).await;
    near.delete_queue(queue(0).name()).await.unwrap();
    let info = beginning.await.unwrap().unwrap();
    assert_eq!(info.ready, 0);
}
