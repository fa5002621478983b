//! A cut in each phase of each operation, and handles that outlive their connection or their
//! runtime.

// A test says no by panicking, in its helpers too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fmt::Debug;
use std::future::IntoFuture;
use std::time::Duration;

use kombu::{Binding, Connection, Error, ErrorKind, Event, Exchange, Faults, Queue, Result};

/// Longer than anything here may take, and shorter than any deadline of an operation.
const GUARD: Duration = Duration::from_secs(10);

async fn in_time<T>(what: &str, operation: impl IntoFuture<Output = T>) -> T {
    match tokio::time::timeout(GUARD, operation.into_future()).await {
        Ok(output) => output,
        Err(_) => panic!("{what} hangs"),
    }
}

async fn connect(url: &str, faults: &Faults) -> Connection {
    Connection::builder(kombu::registry())
        .url(url)
        .layer(faults.clone())
        .await
        .unwrap()
}

/// Where an operation is when the line is cut.
#[derive(Clone, Copy, Debug)]
enum Phase {
    BeforeTheRequest,
    BeforeTheReply,
    /// Some attempts to connect fail before one succeeds.
    WithoutAConnection,
}

const PHASES: [Phase; 3] = [
    Phase::BeforeTheRequest,
    Phase::BeforeTheReply,
    Phase::WithoutAConnection,
];

/// Runs a control operation through a cut in each phase, on a queue `jobs` with two messages that is bound to
/// the topic exchange `media`.
async fn through_cuts<T: Debug>(
    operation: &str,
    run: impl AsyncFn(&Connection) -> Result<T>,
    check: impl AsyncFn(T, &Connection),
) {
    for phase in PHASES {
        let name = format!("phases-{operation}-{phase:?}").to_lowercase();
        let url = format!("memory://{name}");
        let faults = Faults::default();
        let connection = connect(&url, &faults).await;
        let observer = kombu::connect(&url).await.unwrap();
        let media = Exchange::topic("media");
        let jobs = Queue::new("jobs").bind(&media, "job.#");
        observer.declare_queue(&jobs).await.unwrap();
        let producer = observer.producer(&media).await.unwrap();
        for number in 0..2 {
            producer
                .publish(&number)
                .routing_key("job.new")
                .await
                .unwrap();
        }
        let mut events = connection.events();
        match phase {
            Phase::BeforeTheRequest => faults.lose_control_requests(1),
            Phase::BeforeTheReply => faults.lose_control_replies(1),
            Phase::WithoutAConnection => {
                faults.refuse_connects([ErrorKind::ConnectionLost; 3]);
                faults.cut();
            }
        }
        let answer = in_time(&name, run(&connection)).await;
        let answer = answer.unwrap_or_else(|error| panic!("{name}: {error}"));
        check(answer, &observer).await;
        let lost = in_time(&name, events.next()).await;
        assert!(matches!(lost, Some(Event::Lost { .. })), "{name}: {lost:?}");
        let nowhere = connection.queue_info("nowhere").await.unwrap_err();
        assert_eq!(nowhere.kind(), ErrorKind::NotFound);
        connection.close().await.unwrap();
        kombu::memory::remove(&name);
    }
}

#[tokio::test(start_paused = true)]
async fn declarations_bindings_and_deletions_survive_a_cut_in_each_phase() {
    let other = Queue::new("second").bind(Exchange::topic("media"), "second.#");
    through_cuts(
        "declare",
        async |connection| connection.declare_queue(&other).await,
        async |info, observer| {
            assert_eq!(info.ready, 0);
            let media = observer.producer(Exchange::topic("media")).await.unwrap();
            let published = media.publish(&1).routing_key("second.one").await.unwrap();
            assert!(published.routed);
        },
    )
    .await;
    let binding = Binding::new(Exchange::topic("media"), "bound.#");
    through_cuts(
        "bind",
        async |connection| connection.bind_queue("jobs", &binding).await,
        async |(), observer| {
            let media = observer.producer(Exchange::topic("media")).await.unwrap();
            assert!(
                media
                    .publish(&1)
                    .routing_key("bound.a")
                    .await
                    .unwrap()
                    .routed
            );
        },
    )
    .await;
    let binding = Binding::new(Exchange::topic("media"), "job.#");
    through_cuts(
        "unbind",
        async |connection| connection.unbind_queue("jobs", &binding).await,
        async |(), observer| {
            let media = observer.producer(Exchange::topic("media")).await.unwrap();
            assert!(!media.publish(&1).routing_key("job.a").await.unwrap().routed);
        },
    )
    .await;
    through_cuts(
        "delete",
        async |connection| connection.delete_queue("jobs").await,
        async |_, observer| {
            let error = observer.queue_info("jobs").await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound);
        },
    )
    .await;
    through_cuts(
        "purge",
        async |connection| connection.purge("jobs").await,
        async |_, observer| {
            assert_eq!(observer.queue_info("jobs").await.unwrap().ready, 0);
        },
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_get_and_a_consumer_get_the_first_message_after_a_cut_in_each_phase() {
    through_cuts(
        "get",
        async |connection| connection.get("jobs").await,
        async |delivery, observer| {
            let delivery = delivery.unwrap();
            assert_eq!(delivery.decode::<u32>().unwrap(), 0);
            delivery.ack().confirmed().await.unwrap();
            let info = observer.queue_info("jobs").await.unwrap();
            assert_eq!((info.ready, info.unsettled), (1, Some(0)));
        },
    )
    .await;
    through_cuts(
        "consume",
        async |connection| {
            let queue = Queue::new("jobs");
            let mut consumer = connection.consumer(&queue).prefetch(1).await?;
            let delivery = consumer.try_next().await?;
            Ok((delivery, consumer))
        },
        async |(delivery, consumer), observer| {
            delivery.unwrap().ack().confirmed().await.unwrap();
            consumer.cancel().await.unwrap();
            let info = observer.queue_info("jobs").await.unwrap();
            let counts = (info.ready, info.unsettled, info.consumers);
            assert_eq!(counts, (1, Some(0), 0));
        },
    )
    .await;
    through_cuts(
        "producer",
        async |connection| {
            let producer = connection.producer(Exchange::topic("media")).await?;
            producer.publish(&7).routing_key("job.more").await
        },
        async |published, observer| {
            assert!(published.routed);
            assert_eq!(observer.queue_info("jobs").await.unwrap().ready, 3);
        },
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn handles_that_are_used_after_close_answer_that_it_is_closed() {
    let faults = Faults::default();
    let connection = connect("memory://phases-closed", &faults).await;
    let queue = Queue::new("jobs");
    let mut consumer = connection.consumer(&queue).await.unwrap();
    let producer = connection.producer(Exchange::default()).routing_key("jobs");
    let producer = producer.await.unwrap();
    producer.publish(&1).await.unwrap();
    let delivery = consumer.try_next().await.unwrap().unwrap();
    connection.close().await.unwrap();

    fn closed<T: Debug>(what: &str, answer: Result<T>) {
        assert_eq!(answer.unwrap_err().kind(), ErrorKind::Closed, "{what}");
    }
    closed("publish", in_time("publish", producer.publish(&2)).await);
    for receipt in [in_time("send", producer.publish(&2).send()).await] {
        match receipt {
            Ok(receipt) => closed("receipt", in_time("receipt", receipt).await),
            Err(error) => closed("send", Err::<(), Error>(error)),
        }
    }
    for answer in in_time("batch", producer.batch([producer.publish(&2)])).await {
        closed("batch", answer);
    }
    closed("get", in_time("get", connection.get("jobs")).await);
    closed(
        "declare",
        in_time("declare", connection.declare_queue(&queue)).await,
    );
    let binding = Binding::new(Exchange::topic("amq.topic"), "a");
    closed(
        "bind",
        in_time("bind", connection.bind_queue("jobs", &binding)).await,
    );
    closed(
        "delete",
        in_time("delete", connection.delete_queue("jobs")).await,
    );
    closed("purge", in_time("purge", connection.purge("jobs")).await);
    closed(
        "consumer",
        in_time("consumer", connection.consumer(&queue)).await,
    );
    let again = connection.producer(Exchange::default());
    closed("producer", in_time("producer", again).await);
    let settled = in_time("ack", delivery.ack().confirmed()).await;
    assert_eq!(settled.unwrap_err().kind(), ErrorKind::SettleLost);
    assert!(in_time("next", consumer.next()).await.is_none());
    in_time("cancel", consumer.cancel()).await.unwrap();
    in_time("close", connection.close()).await.unwrap();
    kombu::memory::remove("phases-closed");
}

/// What ran in the first runtime is gone: either it isn't needed, or the answer says what is missing.
#[test]
fn handles_that_outlive_their_runtime_work_or_say_why_not() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().start_paused(true).build().unwrap()
    };
    let faults = Faults::default();
    let first = runtime();
    let (connection, producer, mut consumer) = first.block_on(async {
        let connection = connect("memory://phases-runtime", &faults).await;
        let consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
        let open = connection.producer(Exchange::default()).routing_key("jobs");
        let producer = open.await.unwrap();
        (connection, producer, consumer)
    });
    drop(first);
    faults.cut();
    runtime().block_on(async {
        let error = in_time("publish", producer.publish(&1)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionLost);
        assert!(error.to_string().contains("runtime"), "{error}");
        let error = in_time("get", connection.get("jobs")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionLost);
        let ended = in_time("next", consumer.next()).await.unwrap();
        assert_eq!(ended.unwrap_err().kind(), ErrorKind::ConnectionLost);
        in_time("cancel", consumer.cancel()).await.unwrap();
        in_time("close", connection.close()).await.unwrap();
    });
    kombu::memory::remove("phases-runtime");
}
