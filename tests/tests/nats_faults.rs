//! What a session with NATS does when the server, or something on it, goes away.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use kombu::{
    Binding, Connection, DeclareMode, ErrorKind, Event, Events, Exchange, Faults, Overflow, Queue,
    RetryPolicy,
};
use kombu_testkit::brokers::{Data, Nats};
use kombu_testkit::expect::{collect, collect_one, drain, texts};
use kombu_testkit::proxy::{Direction, Proxy};
use kombu_tests::{NatsFilter, NatsLine};
use url::Url;

/// How soon something is put right: twice the longest silence of a pull, and a pause.
const SOON: Duration = Duration::from_secs(5);
/// Longer than what is due takes.
const LONG: Duration = Duration::from_secs(60);
/// How many ways there are to publish, and how late one of them is.
const WAYS: u64 = 6;
const DELAY: Duration = Duration::from_secs(3);

async fn connect(url: &str) -> Connection {
    kombu::connect(url).await.unwrap()
}

/// How often something is tried: as the environment says, or as often as here.
fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect(name))
}

/// What is said to have been put right.
async fn repaired(events: &mut Events) -> (String, String) {
    let wait = async {
        loop {
            if let Event::Repaired { queue, reason } = events.next().await.unwrap() {
                return (queue.to_string(), reason);
            }
        }
    };
    tokio::time::timeout(SOON, wait).await.expect("an event")
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn what_was_confirmed_survives_a_killed_server_and_consumers_go_on() {
    let mut nats = Nats::start().unwrap();
    let connection = connect(&nats.url()).await;
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key("jobs").await.unwrap();
    connection.declare_queue(&Queue::new("kept")).await.unwrap();
    for number in 0..100 {
        let text = number.to_string();
        producer
            .publish_text(text)
            .routing_key("kept")
            .await
            .unwrap();
    }
    nats.kill().unwrap();
    nats.restart(Data::Keep).unwrap();
    producer.publish_text("after").await.unwrap();
    let delivery = collect_one(&mut consumer).await;
    assert_eq!(delivery.body(), "after");
    delivery.ack().confirmed().await.unwrap();
    let kept = texts(&drain(&connection, "kept").await);
    assert_eq!(
        kept,
        (0..100)
            .map(|number| number.to_string())
            .collect::<Vec<_>>()
    );
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn what_a_lost_session_held_is_given_back_by_the_next() {
    let mut nats = Nats::start().unwrap();
    let connection = connect(&nats.url()).await;
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key("jobs").await.unwrap();
    for text in ["0", "1", "2"] {
        producer.publish_text(text).await.unwrap();
    }
    let held = collect(&mut consumer, 3).await;
    nats.kill().unwrap();
    nats.restart(Data::Keep).unwrap();
    // Long before the server takes them for abandoned.
    let again = tokio::time::timeout(Duration::from_secs(15), collect(&mut consumer, 3));
    let again = again.await.unwrap();
    assert_eq!(texts(&again), ["0", "1", "2"]);
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn a_stream_that_vanished_is_made_again_and_its_consumer_goes_on() {
    let nats = Nats::start().unwrap();
    let connection = connect(&nats.url()).await;
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    let mut events = connection.events();
    let (mut line, name) = NatsLine::to_stream_of(&nats, "jobs");
    line.request(&format!("$JS.API.STREAM.DELETE.{name}"), "");
    let next = tokio::spawn(async move { collect_one(&mut consumer).await.body().clone() });
    // Though nobody publishes.
    let (queue, reason) = repaired(&mut events).await;
    assert_eq!(queue, "jobs");
    assert!(reason.contains("stream was gone"), "{reason}");
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key("jobs").await.unwrap();
    producer.publish_text("after").await.unwrap();
    assert_eq!(next.await.unwrap(), "after");
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn a_publish_makes_a_stream_again_that_vanished() {
    let nats = Nats::start().unwrap();
    let connection = connect(&nats.url()).await;
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let (mut line, name) = NatsLine::to_stream_of(&nats, "jobs");
    line.request(&format!("$JS.API.STREAM.DELETE.{name}"), "");
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key("jobs").await.unwrap();
    producer.publish_text("after").await.unwrap();
    assert_eq!(texts(&drain(&connection, "jobs").await), ["after"]);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn a_durable_consumer_that_vanished_is_made_again_and_nothing_is_lost() {
    let nats = Nats::start().unwrap();
    let connection = connect(&nats.url()).await;
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    let mut events = connection.events();
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key("jobs").await.unwrap();
    let (mut line, name) = NatsLine::to_stream_of(&nats, "jobs");
    line.request(&format!("$JS.API.CONSUMER.DELETE.{name}.c0"), "");
    producer.publish_text("0").await.unwrap();
    let delivery = tokio::time::timeout(SOON, collect_one(&mut consumer)).await;
    let delivery = delivery.expect("consumption goes on");
    assert_eq!(delivery.body(), "0");
    delivery.ack().confirmed().await.unwrap();
    let (queue, reason) = repaired(&mut events).await;
    assert_eq!(queue, "jobs");
    assert!(reason.contains("consumer was gone"), "{reason}");
    // A single get finds out as well.
    consumer.cancel().await.unwrap();
    producer.publish_text("1").await.unwrap();
    line.request(&format!("$JS.API.CONSUMER.DELETE.{name}.c0"), "");
    let delivery = connection.get("jobs").await.unwrap().unwrap();
    assert_eq!(delivery.body(), "1");
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn consumption_goes_on_after_a_server_was_silent() {
    let nats = Nats::start().unwrap();
    let connection = connect(&nats.url()).await;
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key("jobs").await.unwrap();
    nats.pause().unwrap();
    let other = producer.clone();
    let publish = tokio::spawn(async move { other.publish_text("0").await.map(drop) });
    tokio::time::sleep(Duration::from_secs(4)).await;
    nats.resume().unwrap();
    let delivery = tokio::time::timeout(2 * SOON, collect_one(&mut consumer)).await;
    assert_eq!(delivery.expect("consumption goes on").body(), "0");
    publish.await.unwrap().unwrap();
}

/// A consumer that waits finds its queue in this state for a while, and all of it is there.
async fn goes_on_after(state: impl FnOnce(&NatsFilter, &str)) {
    let nats = Nats::start().unwrap();
    let filter = NatsFilter::start(nats.address()).await;
    let connection = connect(&filter.url()).await;
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    let mut events = connection.events();
    let other = connect(&nats.url()).await;
    let producer = other.producer(Exchange::default());
    let producer = producer.routing_key("jobs").await.unwrap();
    let next = tokio::spawn(async move {
        let delivery = collect_one(&mut consumer).await;
        (delivery, consumer)
    });
    const PULL: &str = "CONSUMER.MSG.NEXT.kombu-q-jobs-";
    let before = filter.count(PULL);
    state(&filter, PULL);
    filter.until(PULL, before + 1).await;
    filter.heal();
    let (queue, reason) = repaired(&mut events).await;
    assert_eq!(queue, "jobs");
    assert!(reason.contains("didn't answer"), "{reason}");
    producer.publish_text("after").await.unwrap();
    let next = tokio::time::timeout(SOON, next).await;
    let (delivery, _consumer) = next.expect("consumption goes on").unwrap();
    assert_eq!(delivery.body(), "after");
    assert!(!delivery.redelivered());
    delivery.ack().confirmed().await.unwrap();
    connection.close().await.unwrap();
    while let Some(event) = events.next().await {
        assert!(!matches!(event, Event::Lost { .. }), "{event:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn consumption_goes_on_after_a_queue_was_silent_and_an_event_says_so() {
    goes_on_after(NatsFilter::mute).await;
}

/// It has no leader.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn consumption_goes_on_after_nobody_was_at_a_queue_and_an_event_says_so() {
    goes_on_after(NatsFilter::refuse).await;
}

/// Whoever listens at the port of a server that is gone hears nobody: the client of the lost session doesn't come back.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn no_byte_of_an_old_session_reaches_a_restarted_server() {
    let mut nats = Nats::start().unwrap();
    let connection = Connection::builder(kombu::registry())
        .url(nats.url())
        .retry(RetryPolicy::default().max_attempts(1))
        .await
        .unwrap();
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key("jobs").await.unwrap();
    for text in ["0", "1"] {
        producer.publish_text(text).await.unwrap();
    }
    let mut held = collect(&mut consumer, 2).await;
    let mut events = connection.events();
    nats.kill().unwrap();
    // The next session would call here as well.
    while !matches!(events.next().await.unwrap(), Event::GivenUp { .. }) {}
    let listener = tokio::net::TcpListener::bind(nats.address()).await.unwrap();
    let settled = held.remove(0).ack().confirmed().await;
    assert_eq!(settled.unwrap_err().kind(), ErrorKind::SettleLost);
    drop(held);
    assert!(producer.publish_text("2").await.is_err());
    let called = tokio::time::timeout(Duration::from_secs(2), listener.accept()).await;
    assert!(called.is_err(), "somebody called: {called:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn what_the_server_would_not_take_is_refused_before_it_is_sent() {
    let nats = Nats::builder().config("max_payload: 64KB").start().unwrap();
    let connection = connect(&nats.url()).await;
    let mut events = connection.events();
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key("jobs").await.unwrap();
    let limit = connection.capabilities().max_message_size();
    assert_eq!(limit, 48 << 10);
    let error = producer.publish_bytes(vec![0; limit + 1]).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::TooLarge);
    // With its headers it is more than the server takes.
    let headers = "h".repeat(20 << 10);
    let error = producer.publish_bytes(vec![0; limit]).header("h", headers);
    assert_eq!(error.await.unwrap_err().kind(), ErrorKind::TooLarge);
    producer.publish_bytes(vec![0; limit]).await.unwrap();
    assert_eq!(drain(&connection, "jobs").await.len(), 1);
    connection.close().await.unwrap();
    while let Some(event) = events.next().await {
        assert!(!matches!(event, Event::Lost { .. }), "{event:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn two_publishes_with_one_message_id_are_both_stored() {
    let nats = Nats::start().unwrap();
    let connection = connect(&nats.url()).await;
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key("jobs").await.unwrap();
    for _ in 0..2 {
        producer
            .publish_text("same")
            .message_id("same")
            .await
            .unwrap();
    }
    assert_eq!(texts(&drain(&connection, "jobs").await), ["same", "same"]);
}

/// The other connection hears of everything 2 ms late.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn a_bind_or_unbind_on_one_connection_counts_for_the_next_publish_on_another() {
    let nats = Nats::start().unwrap();
    let proxy = Proxy::start(nats.address()).await.unwrap();
    proxy.delay(Direction::ToClient, Duration::from_millis(2));
    let connection = connect(&nats.url()).await;
    let other = connect(&format!("nats://{}", proxy.address())).await;
    let news = Exchange::fanout("news");
    let media = Exchange::topic("media");
    let (first, behind) = (Exchange::direct("first"), Exchange::topic("behind"));
    for exchange in [&news, &media, &first, &behind] {
        connection.declare_exchange(exchange).await.unwrap();
    }
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    connection.declare_queue(&Queue::new("kept")).await.unwrap();
    let to_kept = Binding::new(behind.clone(), "job.#");
    connection.bind_queue("kept", &to_kept).await.unwrap();
    let far = Exchange::fanout("far");
    connection.declare_exchange(&far).await.unwrap();
    let to_behind = Binding::new(far.clone(), "");
    let bound = connection.bind_exchange("behind", &to_behind);
    bound.await.unwrap();
    let producers = [
        other.producer(&news),
        other.producer(&media).routing_key("job.new"),
        other.producer(&first).routing_key("job.new"),
        other.producer(&far).routing_key("task.new"),
    ];
    let mut ways = Vec::new();
    for producer in producers {
        ways.push(producer.await.unwrap());
    }
    let tries = number("KOMBU_TEST_NATS_BINDS", 300);
    let mut to_jobs = 0;
    for number in 0..tries {
        let way = (number % 4) as usize;
        let binding = match way {
            0 => Binding::new(news.clone(), ""),
            1 => Binding::new(media.clone(), "job.*"),
            2 => Binding::new(first.clone(), "job.new"),
            // Where it leads to beyond another exchange.
            _ => Binding::new(behind.clone(), "task.#"),
        };
        match way {
            2 => connection.bind_exchange("behind", &binding).await.unwrap(),
            _ => connection.bind_queue("jobs", &binding).await.unwrap(),
        }
        let publish = async |text| {
            let publish = ways[way].publish_text(text).allow_unroutable();
            publish.await.unwrap().routed
        };
        assert!(publish("bound").await, "{number}");
        match way {
            2 => connection
                .unbind_exchange("behind", &binding)
                .await
                .unwrap(),
            _ => connection.unbind_queue("jobs", &binding).await.unwrap(),
        }
        assert!(!publish("unbound").await, "{number}");
        to_jobs += u64::from(way != 2);
    }
    assert_eq!(connection.purge("jobs").await.unwrap(), to_jobs);
    assert_eq!(connection.purge("kept").await.unwrap(), tries - to_jobs);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn a_publish_that_is_repeated_after_a_lost_answer_is_stored_once() {
    let nats = Nats::start().unwrap();
    let proxy = Proxy::start(nats.address()).await.unwrap();
    let connection = Connection::builder(kombu::registry())
        .url(format!("nats://{}", proxy.address()))
        .retry(RetryPolicy::default().longest_pause(Duration::from_millis(20)))
        .await
        .unwrap();
    let answers = number("KOMBU_TEST_NATS_LOST_ANSWERS", 60);
    let each = answers.div_ceil(WAYS);
    let news = Exchange::fanout("news");
    let limited = |name, overflow| Queue::new(name).max_length(each).overflow(overflow);
    for queue in [
        Queue::new("jobs"),
        Queue::new("one").bind(&news, ""),
        Queue::new("other").bind(&news, ""),
        Queue::new("later"),
        limited("refusing", Overflow::RejectPublish),
        limited("dropping", Overflow::DropHead),
        Queue::new("levels").max_priority(2),
    ] {
        connection.declare_queue(&queue).await.unwrap();
    }
    let direct = connection.producer(Exchange::default()).await.unwrap();
    let fanout = connection.producer(&news).await.unwrap();
    for answer in 0..answers {
        let text = format!("lost-{answer:06}");
        // The server has it when its answer is lost.
        proxy.lose_reply_to(&text);
        let publish = match answer / each {
            0 => direct.publish_text(text).routing_key("jobs"),
            1 => fanout.publish_text(text),
            2 => direct.publish_text(text).routing_key("refusing"),
            3 => direct.publish_text(text).routing_key("dropping"),
            4 => {
                let publish = direct.publish_text(text).routing_key("levels");
                publish.priority((answer % 3) as u8)
            }
            // The last ones: none is due while lines are cut, or it would come again when its holder is taken for dead.
            _ => direct.publish_text(text).routing_key("later").delay(DELAY),
        };
        assert!(publish.await.unwrap().resent, "{answer}");
    }
    assert_eq!(proxy.counts().cuts, answers);
    // What is delayed lies there until it is in its queue.
    let all_are_due = async {
        let delayed = |info: serde_json::Value| info["state"]["messages"].as_u64();
        let look = || nats.ask("$JS.API.STREAM.INFO.kombu-later", "").unwrap();
        while delayed(look()) != Some(0) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let due = tokio::time::timeout(LONG, all_are_due).await;
    due.expect("what is delayed is moved");
    for (way, queues) in [
        (0, &["jobs"][..]),
        (1, &["one", "other"]),
        (2, &["refusing"]),
        (3, &["dropping"]),
        (4, &["levels"]),
        (5, &["later"]),
    ] {
        let sent = (0..answers).filter(|answer| answer / each == way);
        let sent: Vec<_> = sent.map(|answer| format!("lost-{answer:06}")).collect();
        for queue in queues {
            let mut stored = texts(&drain(&connection, *queue).await);
            // They come by priority, and the delayed ones when they are due.
            if way >= 4 {
                stored.sort();
            }
            assert_eq!(stored, sent, "{queue}");
        }
    }
}

/// One look at the newest declarations is for all that wait for it.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn a_burst_of_publishes_asks_for_the_newest_declarations_a_few_times() {
    const READS: &str = "$JS.API.STREAM.MSG.GET.KV_kombu_topology";
    let nats = Nats::start().unwrap();
    let filter = NatsFilter::start(nats.address()).await;
    let connection = connect(&filter.url()).await;
    let news = Exchange::topic("news");
    let jobs = Queue::new("jobs").bind(&news, "job.#");
    connection.declare_queue(&jobs).await.unwrap();
    let producer = connection.producer(&news).routing_key("job.new");
    let producer = producer.await.unwrap();
    // However fast the server is, so many come while one look is under way.
    filter.delay(READS, Duration::from_millis(100));
    let before = filter.count(READS);
    let mut receipts = Vec::new();
    for number in 0..1000_u32 {
        let publish = producer.publish_text(number.to_string());
        receipts.push(publish.send().await.unwrap());
    }
    for receipt in receipts {
        assert!(receipt.await.unwrap().routed);
    }
    let reads = filter.count(READS) - before;
    assert!((1..50).contains(&reads), "{reads}");
    filter.heal();
    assert_eq!(connection.purge("jobs").await.unwrap(), 1000);
}

/// Those that lie in the server's memory are empty when it has begun again, and can be used all the same.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn queues_lie_where_the_url_says() {
    let mut nats = Nats::start().unwrap();
    let on_disk = connect(&nats.url()).await;
    let in_memory = connect(&format!("{}?storage=memory", nats.url())).await;
    let kept = Queue::new("kept");
    let forgotten = Queue::new("forgotten").max_priority(1);
    let transient = Queue::new("transient").durable(false);
    for queue in [&kept, &transient] {
        on_disk.declare_queue(queue).await.unwrap();
    }
    in_memory.declare_queue(&forgotten).await.unwrap();
    let storage = |queue| {
        let (mut line, name) = NatsLine::to_stream_of(&nats, queue);
        let info = line.request(&format!("$JS.API.STREAM.INFO.{name}"), "");
        info["config"]["storage"].as_str().unwrap().to_owned()
    };
    assert_eq!(storage("kept"), "file");
    assert_eq!(storage("transient"), "memory");
    assert_eq!(storage("forgotten"), "memory");
    drop(on_disk);
    let producer = in_memory.producer(Exchange::default()).await.unwrap();
    for queue in ["kept", "forgotten"] {
        let publish = producer.publish_text("before").routing_key(queue);
        publish.await.unwrap();
    }
    nats.stop().unwrap();
    nats.restart(Data::Keep).unwrap();
    assert_eq!(in_memory.queue_info("forgotten").await.unwrap().ready, 0);
    assert!(in_memory.get("forgotten").await.unwrap().is_none());
    for queue in ["kept", "forgotten"] {
        let publish = producer.publish_text("after").routing_key(queue);
        publish.await.unwrap();
    }
    let kept = texts(&drain(&in_memory, "kept").await);
    assert_eq!(kept, ["before", "after"]);
    let mut consumer = in_memory.consumer(&forgotten).await.unwrap();
    let delivery = collect_one(&mut consumer).await;
    assert_eq!(delivery.body(), "after");
    delivery.ack().confirmed().await.unwrap();
    let (mut line, name) = NatsLine::to_stream_of(&nats, "forgotten");
    let info = line.request(&format!("$JS.API.STREAM.INFO.{name}"), "");
    assert_eq!(info["config"]["storage"], "memory");
}

/// Though it had not yet written down everything that it had removed.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn a_killed_server_leaves_nothing_that_counts_and_is_never_delivered() {
    let mut nats = Nats::start().unwrap();
    let connection = connect(&nats.url()).await;
    let limited = Queue::new("limited")
        .max_length(1000)
        .overflow(Overflow::RejectPublish);
    let levels = Queue::new("levels").max_priority(2);
    for queue in [&limited, &levels] {
        connection.declare_queue(queue).await.unwrap();
    }
    let producer = connection.producer(Exchange::default()).await.unwrap();
    for name in ["limited", "levels"] {
        let mut receipts = Vec::new();
        for number in 0..1000_u32 {
            let publish = producer.publish_text(number.to_string()).routing_key(name);
            let publish = publish.priority((number % 3) as u8);
            receipts.push(publish.send().await.unwrap());
        }
        for receipt in receipts {
            receipt.await.unwrap();
        }
        let mut consumer = connection
            .consumer(&Queue::new(name))
            .declare(DeclareMode::Never)
            .prefetch(900)
            .await
            .unwrap();
        let mut held = collect(&mut consumer, 900).await;
        let last = held.pop().unwrap();
        for delivery in held {
            delivery.ack().await.unwrap();
        }
        last.ack().confirmed().await.unwrap();
        consumer.cancel().await.unwrap();
    }
    nats.kill().unwrap();
    nats.restart(Data::Keep).unwrap();
    // Acknowledgements of the last second may be forgotten, and their messages come again.
    let empty = async {
        for name in ["limited", "levels"] {
            let (mut line, stream) = NatsLine::to_stream_of(&nats, name);
            loop {
                while let Some(delivery) = connection.get(name).await.unwrap() {
                    delivery.ack().confirmed().await.unwrap();
                }
                let info = line.request(&format!("$JS.API.STREAM.INFO.{stream}"), "");
                // Also what the server counts as unsettled of what it forgot is cleared by and by.
                let counted = connection.queue_info(name).await.unwrap();
                if info["state"]["messages"] == 0
                    && (counted.ready, counted.unsettled) == (0, Some(0))
                {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    };
    let patience = Duration::from_secs(100);
    tokio::time::timeout(patience, empty)
        .await
        .expect("nothing stays");
    for number in 0..1000 {
        let publish = producer.publish_text(number.to_string());
        publish.routing_key("limited").await.unwrap();
    }
}

/// A server may have a message that nobody gets any more, as one does that was killed and has forgotten its acknowledgement. It is
/// cleared when the server has begun, and what somebody holds behind it is not.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn what_is_held_comes_again_though_something_in_front_of_it_was_cleared() {
    let mut nats = Nats::start().unwrap();
    let connection = connect(&nats.url()).await;
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let (mut line, stream) = NatsLine::to_stream_of(&nats, "jobs");
    for body in ["0", "1", "2", "3"] {
        line.request("kombu.q.jobs.0", body);
    }
    let pull = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.c0");
    assert_eq!(line.request(&pull, ""), 0);
    assert_eq!(line.request(&pull, ""), 1);
    // This takes the first one away, and makes 2.9 forget that the second one is unsettled.
    let purge = r#"{"filter":"kombu.q.jobs.0","seq":2}"#;
    line.request(&format!("$JS.API.STREAM.PURGE.{stream}"), purge);
    assert_eq!(line.request(&pull, ""), 2);
    line.request(&format!("$JS.ACK.{stream}.c0.1.3.3.0.0"), "+ACK");
    assert_eq!(line.request(&pull, ""), 3);
    nats.stop().unwrap();
    nats.restart(Data::Keep).unwrap();
    // It is held.
    assert!(connection.get("jobs").await.unwrap().is_none());
    let again = async {
        loop {
            match connection.get("jobs").await.unwrap() {
                Some(delivery) if delivery.body() == "3" => return delivery,
                // Later servers don't forget it.
                Some(delivery) => {
                    assert_eq!(delivery.body(), "1");
                    delivery.ack().confirmed().await.unwrap();
                }
                None => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    };
    let delivery = tokio::time::timeout(Duration::from_secs(40), again).await;
    let delivery = delivery.expect("it comes again");
    delivery.ack().confirmed().await.unwrap();
    let mut line = NatsLine::open(&Url::parse(&nats.url()).unwrap());
    let info = line.request(&format!("$JS.API.STREAM.INFO.{stream}"), "");
    assert_eq!(info["state"]["messages"], 0);
}

/// Those that the next session doesn't find it declares again, and the messages are those of the queue that was there.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn messages_stay_when_all_declarations_are_gone() {
    let nats = Nats::start().unwrap();
    let connection = connect(&nats.url()).await;
    let jobs = Queue::new("jobs").bind(Exchange::topic("news"), "#");
    connection.declare_queue(&jobs).await.unwrap();
    let producer = connection.producer(Exchange::topic("news")).await.unwrap();
    for text in ["0", "1", "2"] {
        producer.publish_text(text).await.unwrap();
    }
    let mut events = connection.events();
    let mut line = NatsLine::open(&Url::parse(&nats.url()).unwrap());
    line.request("$JS.API.STREAM.DELETE.KV_kombu_topology", "");
    // It is found out by whoever needs them.
    producer.publish_text("3").await.unwrap();
    let kept = texts(&drain(&connection, "jobs").await);
    assert_eq!(kept, ["0", "1", "2", "3"]);
    while !matches!(events.next().await.unwrap(), Event::Restored { .. }) {}
}

/// It is moved to its queue by whoever is there, also before the queue is declared again.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn what_is_delayed_stays_when_all_declarations_are_gone() {
    let nats = Nats::start().unwrap();
    let connection = connect(&nats.url()).await;
    let jobs = Queue::new("jobs");
    connection.declare_queue(&jobs).await.unwrap();
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key("jobs").await.unwrap();
    let delay = Duration::from_secs(1);
    producer.publish_text("0").delay(delay).await.unwrap();
    connection.close().await.unwrap();
    let mut line = NatsLine::open(&Url::parse(&nats.url()).unwrap());
    line.request("$JS.API.STREAM.DELETE.KV_kombu_topology", "");

    let connection = connect(&nats.url()).await;
    let handed_out = async {
        loop {
            let subject = "$JS.API.CONSUMER.INFO.kombu-later.c0";
            let info = nats.ask(subject, "").unwrap();
            // It is looked at before it is due, when it is, and again.
            if info["delivered"]["consumer_seq"].as_u64() >= Some(3) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let handed_out = tokio::time::timeout(Duration::from_secs(20), handed_out);
    handed_out.await.expect("it is due, and tried again");
    let mut consumer = connection.consumer(&jobs).await.unwrap();
    let delivery = collect_one(&mut consumer).await;
    assert_eq!(delivery.body(), "0");
    delivery.ack().confirmed().await.unwrap();
}

/// Though its name fits.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn another_programs_stream_is_left_alone() {
    let nats = Nats::start().unwrap();
    let mut line = NatsLine::open(&Url::parse(&nats.url()).unwrap());
    let config = r#"{"name":"audit","subjects":["kombu.q.jobs.*"]}"#;
    line.request("$JS.API.STREAM.CREATE.audit", config);
    let connection = connect(&nats.url()).await;
    let error = connection.declare_queue(&Queue::new("jobs")).await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PreconditionFailed, "{error}");
    assert!(error.to_string().contains("`audit`"), "{error}");
    let info = line.request("$JS.API.STREAM.INFO.audit", "");
    assert_eq!(info["config"]["name"], "audit");
}

/// The name of a queue that was deleted, whose stream somebody failed to delete, is for a new one.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn what_was_deleted_does_not_come_again() {
    let nats = Nats::start().unwrap();
    let connection = connect(&nats.url()).await;
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let (mut line, name) = NatsLine::to_stream_of(&nats, "jobs");
    let config = line.request(&format!("$JS.API.STREAM.INFO.{name}"), "")["config"].to_string();
    connection.delete_queue("jobs").await.unwrap();
    line.request(&format!("$JS.API.STREAM.CREATE.{name}"), &config);
    line.request("kombu.q.jobs.0", "old");
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    assert_eq!(connection.queue_info("jobs").await.unwrap().ready, 0);
}

/// What they declare is none of its business.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn a_publish_gets_through_though_others_go_on_declaring() {
    let nats = Nats::start().unwrap();
    let connection = connect(&nats.url()).await;
    let news = Exchange::topic("news");
    let jobs = Queue::new("jobs").bind(&news, "#");
    connection.declare_queue(&jobs).await.unwrap();
    let producer = connection.producer(&news).await.unwrap();
    let proxy = Proxy::start(nats.address()).await.unwrap();
    // Whoever had to route anew would never be in time.
    let slow = connect(&format!("nats://{}", proxy.address())).await;
    let late = slow.producer(&news).await.unwrap();
    late.publish_text("0").await.unwrap();
    proxy.delay(Direction::ToClient, Duration::from_millis(50));
    let other = connect(&nats.url()).await;
    let declaring = tokio::spawn(async move {
        other.declare_exchange(&Exchange::direct("other")).await?;
        other.declare_queue(&Queue::new("others")).await?;
        for number in 0_u64.. {
            let binding = Binding::new(Exchange::direct("other"), (number % 2).to_string());
            other.bind_queue("others", &binding).await?;
            other.unbind_queue("others", &binding).await?;
        }
        kombu::Result::Ok(())
    });
    for number in 1..=3 {
        let publish = late.publish_text(number.to_string());
        let published = tokio::time::timeout(Duration::from_secs(2), publish).await;
        assert!(published.expect("it gets through").unwrap().routed);
    }
    declaring.abort();
    producer.publish_text("4").await.unwrap();
    assert_eq!(connection.purge("jobs").await.unwrap(), 5);
}

/// How many sessions the server knows.
fn sessions(nats: &Nats) -> usize {
    let filter = r#"{"subjects_filter":"$KV.kombu_sessions.s.*"}"#;
    let bucket = nats.ask("$JS.API.STREAM.INFO.KV_kombu_sessions", filter);
    let subjects = &bucket.unwrap()["state"]["subjects"];
    subjects.as_object().map_or(0, serde_json::Map::len)
}

/// Waits until the only session has none in a full account: 2.9 forgets what was written at a key that it refuses.
async fn until_its_sign_is_gone(nats: &Nats) {
    let version = nats.monitored("/varz").unwrap()["version"].clone();
    if !version.as_str().unwrap().starts_with("2.9.") {
        return;
    }
    let sign_of_life = async {
        while sessions(nats) == 1 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let refused = tokio::time::timeout(Duration::from_secs(20), sign_of_life);
    refused.await.expect("a sign of life is refused");
}

/// A server whose account is full forgets what was written at the key that it refuses.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn a_full_account_costs_no_session_and_what_is_there_can_be_consumed() {
    let mut nats = Nats::builder().account().start().unwrap();
    let connection = connect(&nats.url()).await;
    let media = Exchange::topic("media");
    let videos = Queue::new("videos").bind(&media, "#");
    let mut consumer = connection.consumer(&videos).await.unwrap();
    let producer = connection.producer(&media).await.unwrap();
    producer.publish_text("before").await.unwrap();
    assert_eq!(sessions(&nats), 1);

    nats.limit_room(Some(1)).unwrap();
    let refused = producer.publish_text("meanwhile").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Backpressure, "{refused}");
    let refused = connection.declare_queue(&Queue::new("other")).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Backpressure);
    until_its_sign_is_gone(&nats).await;
    let delivery = collect_one(&mut consumer).await;
    assert_eq!(delivery.body(), "before");
    delivery.ack().confirmed().await.unwrap();

    nats.limit_room(None).unwrap();
    producer.publish_text("after").await.unwrap();
    let delivery = collect_one(&mut consumer).await;
    assert_eq!(delivery.body(), "after");
    delivery.ack().confirmed().await.unwrap();
    connection
        .declare_queue(&Queue::new("other"))
        .await
        .unwrap();
    let sign_of_life = async {
        while sessions(&nats) == 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let given = tokio::time::timeout(SOON, sign_of_life).await;
    given.expect("it says again that it lives");
    assert_eq!(connection.health().sessions, 1);
}

/// Nothing is left that would say that it lived: the next one has to end it all the same.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn a_session_that_is_lost_in_a_full_account_is_not_in_the_way_of_the_next() {
    let mut nats = Nats::builder().account().start().unwrap();
    let faults = Faults::default();
    let connection = Connection::builder(kombu::registry()).url(nats.url());
    let connection = connection.layer(faults.clone()).await.unwrap();
    let jobs = Queue::new("jobs");
    let consumer = connection.consumer(&jobs).exclusive(true);
    let mut consumer = consumer.await.unwrap();
    nats.limit_room(Some(1)).unwrap();
    until_its_sign_is_gone(&nats).await;
    faults.cut();
    nats.limit_room(None).unwrap();
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key("jobs").await.unwrap();
    producer.publish_text("after").await.unwrap();
    let delivery = collect_one(&mut consumer).await;
    assert_eq!(delivery.body(), "after");
    delivery.ack().confirmed().await.unwrap();
}
