//! Consumers that are exclusive, come before others or wait for others, as a transport sees them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use kombu::driver::{
    self, DeleteQueue, Outcome, RawDelivery, Received, SubscribeOptions, Subscription, Tag, Target,
    Transport,
};
use kombu::memory::Memory;
use kombu::{Connection, ErrorKind, Exchange, Name, Overflow, Queue};

const JOBS: Name = Name::from_static("jobs");

fn delivery(received: Received) -> RawDelivery {
    match received {
        Received::Delivery(delivery) => delivery,
        Received::Cancelled { queue } => panic!("queue {queue} is gone"),
    }
}

/// A broker with a queue `jobs`.
struct Broker {
    url: String,
    connection: Connection,
}

impl Broker {
    async fn with(queue: &Queue) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let url = format!("memory://kinds-of-consumers-{number}");
        let connection = kombu::connect(&url).await.unwrap();
        connection.declare_queue(queue).await.unwrap();
        Broker { url, connection }
    }

    /// A connection of the driver's, without the client in front of it.
    async fn driver(&self) -> Arc<dyn driver::Connection> {
        let target = Target::new(self.url.parse().unwrap());
        Memory.connect(&target).await.unwrap()
    }

    async fn publish(&self, texts: &[&str]) {
        let producer = self.connection.producer(Exchange::default()).await.unwrap();
        for text in texts {
            let publish = producer.publish_text(*text).routing_key("jobs");
            publish.await.unwrap();
        }
    }

    async fn counts(&self) -> (u64, u64) {
        let info = self.connection.queue_info("jobs").await.unwrap();
        (info.ready, info.unsettled.unwrap())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        kombu::memory::remove(self.url.trim_start_matches("memory://"));
    }
}

struct Counting(AtomicU64);

impl Wake for Counting {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A subscription and what it handed out, in the order in which it did.
struct Reader {
    subscription: Box<dyn Subscription>,
    wakes: Arc<Counting>,
    held: Vec<RawDelivery>,
}

impl Reader {
    async fn open(
        connection: &Arc<dyn driver::Connection>,
        options: SubscribeOptions,
    ) -> kombu::Result<Self> {
        let subscription = connection.open_subscription(&[JOBS], &options).await?;
        Ok(Reader {
            subscription,
            wakes: Arc::new(Counting(AtomicU64::new(0))),
            held: Vec::new(),
        })
    }

    /// Asks once, without waiting.
    fn next(&mut self) -> Option<String> {
        let waker = Waker::from(self.wakes.clone());
        let mut context = Context::from_waker(&waker);
        match Pin::new(&mut self.subscription).poll_next(&mut context) {
            Poll::Pending => None,
            Poll::Ready(item) => {
                let delivery = delivery(item.expect("it goes on").unwrap());
                let text = String::from_utf8(delivery.envelope.body().to_vec()).unwrap();
                self.held.push(delivery);
                Some(text)
            }
        }
    }

    /// Everything that there is for it now.
    fn all(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.next()).collect()
    }

    fn wakes(&self) -> u64 {
        self.wakes.0.load(Ordering::Relaxed)
    }

    /// Settles the oldest that it has.
    fn settle(&mut self, outcome: Outcome) {
        let delivery = self.held.remove(0);
        let tag = Tag {
            queue: delivery.queue,
            id: delivery.id,
        };
        let settlement = self.subscription.settler().settle(tag, outcome);
        settlement.queued.unwrap();
    }
}

fn window(deliveries: u32) -> SubscribeOptions {
    SubscribeOptions::new(deliveries)
}

fn assert_access_refused(opened: kombu::Result<Reader>) {
    let error = opened.map(drop).unwrap_err();
    assert_eq!(
        (error.kind(), error.code()),
        (ErrorKind::AccessRefused, Some(403)),
        "{error}"
    );
}

#[tokio::test]
async fn nobody_else_consumes_beside_an_exclusive_consumer() {
    let broker = Broker::with(&Queue::new("jobs")).await;
    let (one, other) = (broker.driver().await, broker.driver().await);
    let exclusive = Reader::open(&one, window(1).exclusive(true)).await.unwrap();
    for connection in [&one, &other] {
        assert_access_refused(Reader::open(connection, window(1)).await);
        assert_access_refused(Reader::open(connection, window(1).exclusive(true)).await);
    }
    let info = broker.connection.queue_info("jobs").await.unwrap();
    assert_eq!(info.consumers, 1);
    exclusive.subscription.cancel().await.unwrap();
    Reader::open(&other, window(1)).await.unwrap();
}

#[tokio::test]
async fn an_exclusive_consumer_has_to_be_the_first() {
    let broker = Broker::with(&Queue::new("jobs")).await;
    let driver = broker.driver().await;
    let shared = Reader::open(&driver, window(1)).await.unwrap();
    assert_access_refused(Reader::open(&driver, window(1).exclusive(true)).await);
    // The one that was refused left nothing behind.
    Reader::open(&driver, window(1)).await.unwrap();
    drop(shared);
    let mut exclusive = Reader::open(&driver, window(1).exclusive(true))
        .await
        .unwrap();
    broker.publish(&["0"]).await;
    assert_eq!(exclusive.next().unwrap(), "0");
}

#[tokio::test]
async fn an_exclusive_consumer_ends_with_its_session() {
    let broker = Broker::with(&Queue::new("jobs")).await;
    let (one, other) = (broker.driver().await, broker.driver().await);
    let exclusive = Reader::open(&one, window(1).exclusive(true)).await.unwrap();
    one.close().await.unwrap();
    Reader::open(&other, window(1)).await.unwrap();
    drop(exclusive);
}

#[tokio::test]
async fn an_exclusive_consumer_keeps_away_consumers_only() {
    let broker = Broker::with(&Queue::new("jobs")).await;
    let driver = broker.driver().await;
    let exclusive = Reader::open(&driver, window(1).exclusive(true))
        .await
        .unwrap();
    broker.publish(&["0"]).await;
    let taken = broker.connection.get("jobs").await.unwrap().unwrap();
    taken.ack().await.unwrap();
    assert_eq!(broker.connection.purge("jobs").await.unwrap(), 0);
    drop(exclusive);
}

#[tokio::test]
async fn a_consumer_of_several_queues_that_is_refused_by_one_consumes_none() {
    let broker = Broker::with(&Queue::new("jobs")).await;
    let other = Queue::new("other");
    broker.connection.declare_queue(&other).await.unwrap();
    let driver = broker.driver().await;
    let exclusive = Reader::open(&driver, window(1).exclusive(true))
        .await
        .unwrap();
    let queues = [Name::from_static("other"), JOBS];
    let refused = driver.open_subscription(&queues, &window(1)).await;
    assert_eq!(
        refused.map(drop).unwrap_err().kind(),
        ErrorKind::AccessRefused
    );
    let info = broker.connection.queue_info("other").await.unwrap();
    assert_eq!(info.consumers, 0);
    drop(exclusive);
}

#[tokio::test]
async fn a_queue_with_a_single_active_consumer_has_no_exclusive_one() {
    let broker = Broker::with(&Queue::new("jobs").single_active_consumer(true)).await;
    let driver = broker.driver().await;
    assert_access_refused(Reader::open(&driver, window(1).exclusive(true)).await);
    Reader::open(&driver, window(1)).await.unwrap();
}

#[tokio::test]
async fn a_consumer_of_a_higher_priority_is_served_first_while_it_has_room() {
    let broker = Broker::with(&Queue::new("jobs")).await;
    let driver = broker.driver().await;
    let mut low = Reader::open(&driver, window(3)).await.unwrap();
    let mut high = Reader::open(&driver, window(2).priority(1)).await.unwrap();
    assert_eq!((low.next(), high.next()), (None, None));
    broker.publish(&["0", "1", "2", "3"]).await;
    // Whoever asks first: what the other has room for is left.
    assert_eq!(low.all().len(), 2);
    assert_eq!(high.all().len(), 2);
    assert_eq!(broker.counts().await, (0, 4));
    // One more place in each window: the higher one's is taken first.
    low.settle(Outcome::Ack);
    high.settle(Outcome::Ack);
    assert_eq!(high.next(), None);
    broker.publish(&["4"]).await;
    assert_eq!(low.next(), None);
    assert_eq!(high.next().unwrap(), "4");
    broker.publish(&["5"]).await;
    assert_eq!(high.next(), None);
    assert_eq!(low.next().unwrap(), "5");
}

#[tokio::test]
async fn a_consumer_that_does_not_ask_keeps_no_more_from_others_than_it_has_room_for() {
    let broker = Broker::with(&Queue::new("jobs")).await;
    let driver = broker.driver().await;
    let mut high = Reader::open(&driver, window(2).priority(1)).await.unwrap();
    let mut low = Reader::open(&driver, window(0)).await.unwrap();
    // From here on, it does something else.
    assert_eq!(high.next(), None);
    broker.publish(&["0", "1"]).await;
    assert_eq!(low.next(), None);
    broker.publish(&["2", "3", "4"]).await;
    assert_eq!(low.all().len(), 3);
    assert_eq!(high.all().len(), 2);
}

#[tokio::test]
async fn a_consumer_that_waits_is_woken_when_the_one_before_it_is_full() {
    let broker = Broker::with(&Queue::new("jobs")).await;
    let driver = broker.driver().await;
    let mut high = Reader::open(&driver, window(2).priority(1)).await.unwrap();
    let mut low = Reader::open(&driver, window(2)).await.unwrap();
    assert_eq!((high.next(), low.next()), (None, None));
    broker.publish(&["0", "1"]).await;
    assert_eq!(low.next(), None);
    // It has room for one only now.
    high.subscription.set_window(1);
    let before = low.wakes();
    assert_eq!(high.next().unwrap(), "0");
    assert!(low.wakes() > before);
    assert_eq!(low.next().unwrap(), "1");
}

#[tokio::test]
async fn a_consumer_that_waits_is_woken_when_the_one_before_it_goes() {
    let broker = Broker::with(&Queue::new("jobs")).await;
    let driver = broker.driver().await;
    let mut high = Reader::open(&driver, window(2).priority(1)).await.unwrap();
    let mut low = Reader::open(&driver, window(2)).await.unwrap();
    assert_eq!((high.next(), low.next()), (None, None));
    broker.publish(&["0"]).await;
    assert_eq!(low.next(), None);
    let before = low.wakes();
    high.subscription.cancel().await.unwrap();
    assert!(low.wakes() > before);
    assert_eq!(low.next().unwrap(), "0");
}

#[tokio::test]
async fn several_priorities_are_served_one_after_the_other() {
    let broker = Broker::with(&Queue::new("jobs")).await;
    let driver = broker.driver().await;
    let mut readers = Vec::new();
    for priority in [0, -5, 10] {
        let options = window(1).priority(priority);
        let mut reader = Reader::open(&driver, options).await.unwrap();
        assert_eq!(reader.next(), None);
        readers.push(reader);
    }
    let mut served = Vec::new();
    for text in ["first", "second", "third"] {
        broker.publish(&[text]).await;
        for (index, reader) in readers.iter_mut().enumerate() {
            served.extend(reader.next().map(|text| (index, text)));
        }
    }
    let expected = [(2, "first"), (0, "second"), (1, "third")];
    assert_eq!(
        served,
        expected.map(|(index, text)| (index, text.to_owned()))
    );
}

#[tokio::test]
async fn consumers_of_one_priority_are_equals() {
    let broker = Broker::with(&Queue::new("jobs")).await;
    let driver = broker.driver().await;
    let mut one = Reader::open(&driver, window(4).priority(7)).await.unwrap();
    let mut other = Reader::open(&driver, window(4).priority(7)).await.unwrap();
    assert_eq!((one.next(), other.next()), (None, None));
    broker.publish(&["0"]).await;
    assert_eq!(other.next().unwrap(), "0");
    broker.publish(&["1"]).await;
    assert_eq!(one.next().unwrap(), "1");
}

#[tokio::test]
async fn a_single_get_waits_for_no_consumer() {
    let broker = Broker::with(&Queue::new("jobs")).await;
    let driver = broker.driver().await;
    let mut low = Reader::open(&driver, window(1)).await.unwrap();
    let mut high = Reader::open(&driver, window(1).priority(1)).await.unwrap();
    assert_eq!((low.next(), high.next()), (None, None));
    broker.publish(&["0"]).await;
    let taken = broker.connection.get("jobs").await.unwrap().unwrap();
    assert_eq!(taken.body(), "0");
    taken.ack().await.unwrap();
}

#[tokio::test]
async fn nobody_takes_over_from_the_single_active_consumer() {
    let broker = Broker::with(&Queue::new("jobs").single_active_consumer(true)).await;
    let driver = broker.driver().await;
    let mut active = Reader::open(&driver, window(1)).await.unwrap();
    let mut next = Vec::new();
    for priority in [1, 5, 5] {
        let options = window(1).priority(priority);
        next.push(Reader::open(&driver, options).await.unwrap());
    }
    broker.publish(&["0", "1", "2", "3"]).await;
    assert!(next.iter_mut().all(|reader| reader.next().is_none()));
    assert_eq!(active.next().unwrap(), "0");
    assert!(next.iter_mut().all(|reader| reader.next().is_none()));
    active.subscription.cancel().await.unwrap();
    // Then the one of the highest priority does, and of two, the one that came first.
    for (index, text) in [(1, "1"), (1, "2"), (0, "3")] {
        let mut active = next.remove(index);
        assert!(next.iter_mut().all(|reader| reader.next().is_none()));
        assert_eq!(active.next().unwrap(), text);
        active.subscription.cancel().await.unwrap();
    }
    // What they have is still theirs.
    assert_eq!(broker.counts().await, (0, 4));
}

#[tokio::test]
async fn the_next_active_consumer_is_woken() {
    let broker = Broker::with(&Queue::new("jobs").single_active_consumer(true)).await;
    let driver = broker.driver().await;
    let active = Reader::open(&driver, window(1)).await.unwrap();
    let mut next = Reader::open(&driver, window(1)).await.unwrap();
    broker.publish(&["0"]).await;
    assert_eq!(next.next(), None);
    let waiting = tokio::spawn(async move {
        let delivery = delivery(next.subscription.next().await.unwrap().unwrap());
        delivery.envelope.body().clone()
    });
    tokio::task::yield_now().await;
    active.subscription.cancel().await.unwrap();
    assert_eq!(waiting.await.unwrap(), "0");
}

#[tokio::test]
async fn a_time_of_zero_is_enough_for_as_many_as_there_is_room_for() {
    let broker = Broker::with(&Queue::new("jobs").message_ttl(Duration::ZERO)).await;
    let driver = broker.driver().await;
    let mut reader = Reader::open(&driver, window(2)).await.unwrap();
    assert_eq!(reader.next(), None);
    broker.publish(&["0", "1", "2", "3"]).await;
    assert_eq!(reader.all(), ["0", "1"]);
    // Its window is full: nobody waits.
    broker.publish(&["4"]).await;
    reader.settle(Outcome::Ack);
    assert_eq!(reader.next(), None);
    assert_eq!(broker.counts().await, (0, 1));
}

#[tokio::test]
async fn what_was_kept_for_a_consumer_goes_with_it() {
    let late = Queue::new("late");
    let jobs = Queue::new("jobs").message_ttl(Duration::ZERO);
    let jobs = jobs
        .dead_letter_exchange("")
        .dead_letter_routing_key("late");
    let broker = Broker::with(&jobs).await;
    broker.connection.declare_queue(&late).await.unwrap();
    let driver = broker.driver().await;
    let mut reader = Reader::open(&driver, window(1)).await.unwrap();
    assert_eq!(reader.next(), None);
    broker.publish(&["0"]).await;
    assert_eq!(broker.counts().await, (1, 0));
    reader.subscription.cancel().await.unwrap();
    assert_eq!(broker.counts().await, (0, 0));
    let letter = broker.connection.get("late").await.unwrap().unwrap();
    assert_eq!(letter.body(), "0");
    letter.ack().await.unwrap();
}

#[tokio::test]
async fn what_was_kept_for_one_consumer_is_kept_for_the_others() {
    let broker = Broker::with(&Queue::new("jobs").message_ttl(Duration::ZERO)).await;
    let driver = broker.driver().await;
    let mut one = Reader::open(&driver, window(1)).await.unwrap();
    let mut other = Reader::open(&driver, window(1)).await.unwrap();
    assert_eq!((one.next(), other.next()), (None, None));
    broker.publish(&["0"]).await;
    one.subscription.cancel().await.unwrap();
    assert_eq!(broker.counts().await, (1, 0));
    assert_eq!(other.all(), ["0"]);
}

#[tokio::test]
async fn the_room_of_those_who_wait_for_the_active_consumer_is_no_room() {
    let jobs = Queue::new("jobs").single_active_consumer(true);
    let broker = Broker::with(&jobs.message_ttl(Duration::ZERO)).await;
    let driver = broker.driver().await;
    let mut active = Reader::open(&driver, window(1)).await.unwrap();
    let mut waiting = Reader::open(&driver, window(5)).await.unwrap();
    assert_eq!((active.next(), waiting.next()), (None, None));
    broker.publish(&["0", "1"]).await;
    assert_eq!(active.all(), ["0"]);
    assert_eq!(broker.counts().await, (0, 1));
}

#[tokio::test]
async fn what_a_consumer_has_room_for_is_not_dropped() {
    let broker = Broker::with(&Queue::new("jobs").max_length(1)).await;
    let driver = broker.driver().await;
    let mut reader = Reader::open(&driver, window(2)).await.unwrap();
    assert_eq!(reader.next(), None);
    // Two are as good as delivered, one stays, and the oldest of the others makes room.
    broker.publish(&["0", "1", "2", "3"]).await;
    assert_eq!(reader.all(), ["0", "1"]);
    assert_eq!(broker.counts().await, (1, 2));
    reader.settle(Outcome::Ack);
    assert_eq!(reader.all(), ["3"]);
}

#[tokio::test]
async fn the_bytes_that_a_consumer_has_room_for_are_not_dropped() {
    let broker = Broker::with(&Queue::new("jobs").max_length_bytes(4)).await;
    let driver = broker.driver().await;
    let mut reader = Reader::open(&driver, window(2)).await.unwrap();
    assert_eq!(reader.next(), None);
    broker.publish(&["aaaaaa", "bb", "cc", "ddd"]).await;
    assert_eq!(reader.all(), ["aaaaaa", "bb"]);
    assert_eq!(broker.counts().await, (1, 2));
    reader.settle(Outcome::Ack);
    assert_eq!(reader.all(), ["ddd"]);
}

#[tokio::test]
async fn what_a_consumer_has_room_for_keeps_nobody_out() {
    let jobs = Queue::new("jobs").max_length(1);
    let broker = Broker::with(&jobs.overflow(Overflow::RejectPublish)).await;
    let driver = broker.driver().await;
    let mut reader = Reader::open(&driver, window(2)).await.unwrap();
    assert_eq!(reader.next(), None);
    broker.publish(&["0", "1", "2"]).await;
    let producer = broker
        .connection
        .producer(Exchange::default())
        .await
        .unwrap();
    let refused = producer.publish_text("3").routing_key("jobs").await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Nacked);
    assert_eq!(reader.all(), ["0", "1"]);
    assert_eq!(broker.counts().await, (1, 2));
}

#[tokio::test]
async fn a_consumer_that_goes_leaves_no_more_than_the_limit() {
    let broker = Broker::with(&Queue::new("jobs").max_length(1)).await;
    let driver = broker.driver().await;
    let mut reader = Reader::open(&driver, window(5)).await.unwrap();
    assert_eq!(reader.next(), None);
    broker.publish(&["0", "1", "2"]).await;
    assert_eq!(broker.counts().await, (3, 0));
    reader.subscription.cancel().await.unwrap();
    assert_eq!(broker.counts().await, (1, 0));
    let left = broker.connection.get("jobs").await.unwrap().unwrap();
    assert_eq!(left.body(), "2");
    left.ack().await.unwrap();
}

#[tokio::test]
async fn a_window_over_several_queues_makes_room_once() {
    let broker = Broker::with(&Queue::new("jobs").max_length(1)).await;
    let other = Queue::new("other").max_length(1);
    broker.connection.declare_queue(&other).await.unwrap();
    let driver = broker.driver().await;
    let queues = [JOBS, Name::from_static("other")];
    let subscription = driver.open_subscription(&queues, &window(1)).await;
    let mut reader = Reader {
        subscription: subscription.unwrap(),
        wakes: Arc::new(Counting(AtomicU64::new(0))),
        held: Vec::new(),
    };
    assert_eq!(reader.next(), None);
    let producer = broker
        .connection
        .producer(Exchange::default())
        .await
        .unwrap();
    for queue in ["jobs", "other"] {
        for text in ["0", "1"] {
            let publish = producer.publish_text(text).routing_key(queue);
            publish.await.unwrap();
        }
    }
    // The place went to one of them; in the other one, only the newest is left.
    assert_eq!(reader.all(), ["0"]);
    let mut left = Vec::new();
    for queue in ["jobs", "other"] {
        while let Some(delivery) = broker.connection.get(queue).await.unwrap() {
            left.push(delivery.body().clone());
            delivery.ack().await.unwrap();
        }
    }
    assert_eq!(left, ["1", "1"]);
}

#[tokio::test]
async fn a_queue_that_is_in_use_is_not_deleted_as_unused() {
    let broker = Broker::with(&Queue::new("jobs")).await;
    let driver = broker.driver().await;
    let reader = Reader::open(&driver, window(1)).await.unwrap();
    let unused = DeleteQueue::new(true, false);
    let refused = driver.delete_queue(&JOBS, unused).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::PreconditionFailed);
    drop(reader);
    assert_eq!(driver.delete_queue(&JOBS, unused).await.unwrap(), 0);
}
