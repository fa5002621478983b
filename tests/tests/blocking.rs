//! Programs without tasks, on every transport.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::thread;
use std::time::Duration;

use kombu::blocking::{self, Wait};
use kombu::handler::{Exit, Payload, Reply, Router};
use kombu::{ErrorKind, Exchange, Queue};
use kombu_testkit::Harness;
use kombu_tests::{AmqpHarness, MemoryHarness, NatsHarness, RedisHarness};

const PATIENCE: Duration = Duration::from_secs(20);

/// Runs a program that knows of no runtime, at a broker of its own.
async fn at(harness: impl Harness, program: impl FnOnce(&str) + Send + 'static) {
    let broker = harness.broker().await;
    let url = broker.url().to_owned();
    let (done, is_done) = tokio::sync::oneshot::channel();
    let thread = thread::spawn(move || {
        program(&url);
        // The test is over if nobody waits any more.
        let _ = done.send(());
    });
    if is_done.await.is_err() {
        std::panic::resume_unwind(thread.join().unwrap_err());
    }
    harness.clean_up(broker).await;
}

fn publishes_consumes_and_calls(url: &str) {
    let connection = blocking::connect(url).unwrap();
    let jobs = Queue::new("jobs");
    let mut consumer = connection.consumer(&jobs).prefetch(2).wait().unwrap();
    assert!(
        consumer
            .try_next()
            .wait_for(Duration::from_millis(20))
            .is_none()
    );
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key("jobs").wait().unwrap();
    for job in 0..4 {
        assert!(producer.publish(&job).wait().unwrap().routed);
    }
    let receipt = producer.publish(&4).send().wait().unwrap();
    assert!(receipt.wait().unwrap().routed);
    let jobs = blocking::each(consumer.values::<u32>().limit(5));
    for (expected, next) in (0..).zip(jobs) {
        let (job, delivery) = next.unwrap();
        assert_eq!(job, expected);
        delivery.ack().wait().unwrap();
    }
    let unroutable = producer.publish(&1).routing_key("nowhere").wait();
    assert_eq!(unroutable.unwrap_err().kind(), ErrorKind::Unroutable);

    let questions = Queue::new("questions");
    connection.declare_queue(&questions).wait().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = {
        let double = async |Payload(number): Payload<i64>| Reply(number * 2);
        let serve = connection.serve(Router::new().fallback(double));
        let serve = serve
            .queues(&questions)
            .run_until(async { drop(stopped.await) });
        thread::spawn(move || serve.wait())
    };
    let caller = connection.caller(Exchange::default());
    let caller = caller
        .routing_key("questions")
        .timeout(PATIENCE)
        .wait()
        .unwrap();
    let callers = (0..4_i64).map(|number| {
        let caller = caller.clone();
        thread::spawn(move || caller.call::<_, i64>(&number).wait())
    });
    for (number, call) in (0..).zip(callers.collect::<Vec<_>>()) {
        assert_eq!(call.join().unwrap().unwrap(), number * 2);
    }
    drop(stop);
    assert_eq!(server.join().unwrap().unwrap(), Exit::Stopped);
    connection.close().wait().unwrap();
    assert!(blocking::each(consumer).next().is_none());
}

#[tokio::test]
async fn a_program_without_tasks_publishes_consumes_and_calls_on_memory() {
    at(MemoryHarness::new(), publishes_consumes_and_calls).await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn a_program_without_tasks_publishes_consumes_and_calls_on_rabbitmq() {
    at(AmqpHarness::new(), publishes_consumes_and_calls).await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test against")]
async fn a_program_without_tasks_publishes_consumes_and_calls_on_redis() {
    at(RedisHarness::new(), publishes_consumes_and_calls).await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn a_program_without_tasks_publishes_consumes_and_calls_on_nats() {
    at(NatsHarness::new(), publishes_consumes_and_calls).await;
}

/// Each of them, for another one: all are on the runtime that every connection of a blocking program has.
fn handlers_wait_for_handlers(url: &str) {
    let connection = blocking::connect(url).unwrap();
    let queues = ["first", "second", "last"];
    for queue in queues {
        connection.declare_queue(&Queue::new(queue)).wait().unwrap();
    }
    let caller = connection.caller(Exchange::default());
    let caller = caller.timeout(PATIENCE).max_retries(0).wait().unwrap();
    let mut next = Some("last");
    for queue in ["second", "first"] {
        let (caller, next) = (caller.clone(), next.replace(queue).unwrap());
        let asking = async move |Payload(number): Payload<i64>| {
            let next_number = number + 1;
            let call = caller.call::<_, i64>(&next_number).routing_key(next);
            call.wait().map(Reply)
        };
        let serve = connection.serve(Router::new().fallback(asking));
        let serve = serve.queues(&Queue::new(queue));
        thread::spawn(move || serve.run().wait());
    }
    let slow = async |Payload(number): Payload<i64>| {
        tokio::time::sleep(Duration::from_millis(5)).wait();
        Reply(number * 2)
    };
    let serve = connection.serve(Router::new().fallback(slow));
    let serve = serve.queues(&Queue::new("last"));
    thread::spawn(move || serve.run().wait());
    let call = caller.call::<_, i64>(&5).routing_key("first");
    let answer = call.wait_for(PATIENCE).expect("an answer in time");
    assert_eq!(answer.unwrap(), 14);
    connection.close().wait().unwrap();
}

/// It is one of those that do what takes long.
#[test]
fn a_runtime_of_one_thread_may_wait_on_a_thread_of_ours() {
    let waiting = async {
        let on_one_thread = || {
            let runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = { runtime }.enable_all().build().unwrap();
            runtime.block_on(async {
                let connection = blocking::connect("memory://").unwrap();
                let jobs = Queue::new("jobs");
                let mut consumer = connection.consumer(&jobs).wait().unwrap();
                let nothing = consumer.try_next().wait_for(Duration::from_millis(1));
                assert!(nothing.is_none());
                connection.close().wait().unwrap();
            });
        };
        tokio::task::spawn_blocking(on_one_thread).await.unwrap();
    };
    waiting.wait();
}

#[tokio::test]
async fn handlers_of_a_program_without_tasks_may_wait_on_memory() {
    at(MemoryHarness::new(), handlers_wait_for_handlers).await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn handlers_of_a_program_without_tasks_may_wait_on_rabbitmq() {
    at(AmqpHarness::new(), handlers_wait_for_handlers).await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test against")]
async fn handlers_of_a_program_without_tasks_may_wait_on_redis() {
    at(RedisHarness::new(), handlers_wait_for_handlers).await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn handlers_of_a_program_without_tasks_may_wait_on_nats() {
    at(NatsHarness::new(), handlers_wait_for_handlers).await;
}

/// It holds up its thread, and that is all: nothing panics, and nothing waits for ever, however much is waited for.
#[tokio::test(flavor = "current_thread")]
async fn waiting_within_a_task_ends() {
    let connection = blocking::connect("memory://").unwrap();
    let producer = connection.producer(Exchange::default()).wait().unwrap();
    connection.declare_queue(&Queue::new("q")).wait().unwrap();
    for number in 0..1_000 {
        let publish = producer.publish(&number).routing_key("q");
        publish.wait().unwrap();
    }
    let late = tokio::time::sleep(PATIENCE).wait_for(Duration::from_millis(5));
    assert!(late.is_none());
    assert_eq!(connection.queue_info("q").await.unwrap().ready, 1_000);
}

#[test]
fn what_cannot_be_connected_is_an_error() {
    let refused = blocking::connect("carrier-pigeon://").unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::UnknownScheme);
}
