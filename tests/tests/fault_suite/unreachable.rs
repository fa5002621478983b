//! A network that swallows everything and goes on doing so: nobody says that the connection is gone.

use std::future::IntoFuture;
use std::time::Duration;

use futures_util::future::join_all;
use kombu::{Consumer, Delivery, ErrorKind, Event, Events, Exchange, Producer, Queue};
use kombu_testkit::expect::collect_one;
use kombu_testkit::faults::{Breakable, Fault, Row};
use kombu_testkit::history::Recorder;
use tokio::time::{sleep, timeout};

use crate::stand::{self, count, ends, heal, inflict};

const PATIENCE: Duration = Duration::from_secs(60);
/// What is published while nobody answers, and how often.
const BESIDE: u64 = u64::MAX;
const PAUSE: Duration = Duration::from_millis(5);

/// Whatever a connection is used for, it says in time that it is lost: also if nobody sends anything.
pub(crate) async fn is_noticed(broker: &mut Breakable) {
    let times = count(2, 20);
    let recorder = Recorder::new();
    let queue = Queue::new("jobs");
    let names = ["producer only", "consumer only", "idle"];
    let [producing, consuming, idle] =
        [broker.builder(), broker.builder(), broker.builder()].map(IntoFuture::into_future);
    let connecting = async { tokio::try_join!(producing, consuming, idle) };
    let (producing, consuming, idle) = ends("connecting", connecting).await.unwrap();
    let consumer = ends("opening a consumer", consuming.consumer(&queue)).await;
    let mut consumer = consumer.unwrap();
    let producer = producing.producer(Exchange::default());
    let producer = ends("opening a producer", producer.routing_key("jobs")).await;
    let producer = producer.unwrap();
    let mut all = [&producing, &consuming, &idle].map(|connection| connection.events());
    for number in 0..times {
        // The consumer has it all along.
        let held = held(&producer, &mut consumer, number);
        let held = ends("a message on its way to the consumer", held).await;
        inflict(broker, &recorder, Fault::Blackhole).await;
        let noticing = std::iter::zip(names, &mut all).map(|(name, events)| {
            let lost = async {
                until(events, |event| matches!(event, Event::Lost { .. })).await;
                Ok(())
            };
            recorder.call(name, 2 * Breakable::LIVENESS, lost)
        });
        let mut receipts = Vec::new();
        let publishing = async {
            loop {
                receipts.push(producer.publish(&BESIDE).send().await.unwrap());
                sleep(PAUSE).await;
            }
        };
        tokio::select! {
            _ = publishing => {}
            _ = join_all(noticing) => {}
        }
        heal(broker, &recorder).await;
        join_all(all.iter_mut().map(restored)).await;
        for answer in ends("a publish into the silence", join_all(receipts)).await {
            answer.unwrap();
        }
        let acked = ends("the ack of what was held", held.ack().confirmed()).await;
        let lost = acked.unwrap_err();
        assert_eq!(lost.kind(), ErrorKind::SettleLost, "{lost}");
    }
    for connection in [producing, consuming, idle] {
        ends("closing", connection.close()).await.unwrap();
    }
    let history = recorder.history();
    let (name, fault) = (broker.name(), "blackholed, until it is noticed");
    let tried = times * names.len() as u64;
    let allowed = Duration::from_millis(250);
    let row = Row::of(name, fault, tried, &history, PATIENCE, allowed);
    stand::report(vec![row], &history);
}

/// Publishes it, and acks everything that comes before it.
async fn held(producer: &Producer, consumer: &mut Consumer, number: u64) -> Delivery {
    producer.publish(&number).await.unwrap();
    loop {
        let (found, delivery) = collect_one(consumer).await.take::<u64>().unwrap();
        if found == number {
            return delivery;
        }
        delivery.ack().confirmed().await.unwrap();
    }
}

async fn until(events: &mut Events, is_it: impl Fn(&Event) -> bool) {
    while !is_it(&events.next().await.unwrap()) {}
}

/// It is noticed by now, or never.
async fn restored(events: &mut Events) {
    let restored = until(events, |event| matches!(event, Event::Restored { .. }));
    timeout(PATIENCE, restored).await.expect("it is restored");
}
