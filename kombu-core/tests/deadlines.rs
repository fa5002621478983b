//! Brokers that take what is sent and never answer: every operation ends all the same, and says what it waited for.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fmt::Debug;
use std::future::{IntoFuture, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use futures_core::Stream;
use futures_util::FutureExt;
use kombu::declare::{Binding, DeclareMode, Exchange, Queue};
use kombu::driver::{
    self, BoxFuture, Capabilities, DeleteQueue, Destination, Layer, Op, Publisher, QueueInfo,
    RawDelivery, SessionLayer, Settle, SubscribeOptions, Subscription, Target, Transport,
};
use kombu::memory::Memory;
use kombu::postage;
use kombu::{
    Connection, ConnectionBuilder, Deadlines, ErrorKind, Event, Faults, Name, Registry, Result,
};
use tokio::sync::Notify;
use tokio::time::Instant;

/// Deadlines under which a session that says nothing is not lost: what waits has to end by itself.
fn patient() -> Deadlines {
    let mut deadlines = Deadlines::default();
    deadlines.liveness = Duration::from_secs(3600);
    deadlines
}

fn builder(name: &str, faults: &Faults) -> ConnectionBuilder {
    Connection::builder(kombu::registry())
        .url(format!("memory://deadlines-{name}"))
        .deadlines(patient())
        .layer(faults.clone())
}

/// Waits for an operation that has to time out, after exactly 30 s, and to say this.
async fn times_out<T: Debug>(says: &[&str], operation: impl IntoFuture<Output = Result<T>>) {
    let begin = Instant::now();
    let limit = Duration::from_secs(300);
    let answer = tokio::time::timeout(limit, operation.into_future()).await;
    let error = answer
        .unwrap_or_else(|_| panic!("hangs: {says:?}"))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert_eq!(begin.elapsed().as_secs(), 30, "{error}");
    for word in says {
        assert!(error.to_string().contains(word), "{word} in: {error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_settle_that_is_never_confirmed_ends_by_its_deadline_and_says_that_it_was_queued() {
    let faults = Faults::default();
    let connection = builder("settle", &faults).await.unwrap();
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    let producer = connection.producer(Exchange::default()).await.unwrap();
    for number in 0..2 {
        producer.publish(&number).routing_key("jobs").await.unwrap();
    }
    let first = consumer.try_next().await.unwrap().unwrap();
    let second = consumer.try_next().await.unwrap().unwrap();
    faults.silence(true);
    let says = ["settle", "30s", "confirm", "ack", "`jobs`", "was queued"];
    times_out(&says, first.ack().confirmed()).await;
    // Without the confirm, there is nothing to wait for.
    second.reject().await.unwrap();
    faults.silence(false);
    let info = connection.queue_info("jobs").await.unwrap();
    assert_eq!((info.ready, info.unsettled), (0, Some(0)));
}

#[tokio::test(start_paused = true)]
async fn every_request_ends_by_its_deadline_and_says_what_it_waited_for() {
    let faults = Faults::default();
    let connection = builder("requests", &faults).await.unwrap();
    let media = Exchange::topic("media");
    let jobs = Queue::new("jobs").bind(&media, "jobs");
    let binding = Binding::new(&media, "more");
    connection.declare_queue(&jobs).await.unwrap();
    faults.withhold_replies(true);

    let answer = "waiting for the broker's answer";
    // Its first part is the exchange that it is bound to.
    times_out(
        &["declare exchange", answer],
        connection.declare_queue(&jobs),
    )
    .await;
    let unbound = Queue::new("unbound");
    let declare = connection.declare_queue(&unbound);
    times_out(&["declare queue", answer], declare).await;
    let exchange = connection.declare_exchange(&media);
    times_out(&["declare exchange", answer], exchange).await;
    let bind = connection.bind_queue("jobs", &binding);
    times_out(&["bind", answer], bind).await;
    let unbind = connection.unbind_queue("jobs", &binding);
    times_out(&["unbind", answer], unbind).await;
    times_out(&["get", answer], connection.get("jobs")).await;
    times_out(&["queue info", answer], connection.queue_info("jobs")).await;
    times_out(&["purge", answer], connection.purge("jobs")).await;
    times_out(&["declare exchange", answer], connection.producer(&media)).await;
    let direct = connection.producer(Exchange::default());
    times_out(&["open producer", answer], direct).await;
    times_out(&["declare exchange", answer], connection.consumer(&jobs)).await;
    let undeclared = jobs.clone().no_declare();
    let subscribe = connection.consumer(&undeclared);
    times_out(&["subscribe", answer], subscribe).await;
    times_out(&["delete queue", answer], connection.delete_queue("jobs")).await;
    let delete = connection.delete_exchange("media");
    times_out(&["delete exchange", answer], delete).await;
}

/// Answers everything that isn't a publish or a settle, after a while.
struct Slow(Duration);

impl Layer for Slow {
    fn session(&self, _: &dyn driver::Connection) -> Arc<dyn SessionLayer> {
        Arc::new(Slow(self.0))
    }
}

impl SessionLayer for Slow {
    fn control<'a>(
        &'a self,
        _: driver::Operation<'a>,
        next: BoxFuture<'a, Result<()>>,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async {
            tokio::time::sleep(self.0).await;
            next.await
        })
    }
}

#[tokio::test(start_paused = true)]
async fn an_operation_of_several_requests_has_one_deadline() {
    let open = Connection::builder(kombu::registry())
        .url("memory://")
        .deadlines(patient())
        .layer(Slow(Duration::from_secs(16)));
    let connection = open.await.unwrap();
    let media = Exchange::topic("media");
    let jobs = Queue::new("jobs").bind(&media, "jobs");
    times_out(&["declare queue"], connection.declare_queue(&jobs)).await;
    times_out(&["subscribe"], connection.consumer(&Queue::new("one"))).await;
    times_out(&["open producer"], connection.producer(&media)).await;
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_is_not_subscribed_again_ends_by_its_deadline() {
    let faults = Faults::default();
    let connection = builder("resubscribe", &faults).await.unwrap();
    let other = kombu::connect("memory://deadlines-resubscribe")
        .await
        .unwrap();
    other.declare_queue(&Queue::new("jobs")).await.unwrap();
    let queue = Queue::new("jobs").no_declare();
    let mut consumer = connection.consumer(&queue).await.unwrap();
    let mut events = connection.events();
    faults.withhold_replies(true);
    faults.cut();
    while !matches!(events.next().await, Some(Event::Restored { .. })) {}
    let says = ["consume", "subscribe", "`jobs`", "again"];
    times_out(&says, consumer.try_next()).await;
    assert!(consumer.next().await.is_none());
}

/// A broker that never answers the end of a consumer.
struct KeepsConsumers;

impl Layer for KeepsConsumers {
    fn session(&self, _: &dyn driver::Connection) -> Arc<dyn SessionLayer> {
        Arc::new(KeepsConsumers)
    }
}

impl SessionLayer for KeepsConsumers {
    fn subscription(&self, next: Box<dyn Subscription>) -> Box<dyn Subscription> {
        Box::new(NeverCancelled(next))
    }
}

struct NeverCancelled(Box<dyn Subscription>);

impl Stream for NeverCancelled {
    type Item = Result<driver::Received>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.0).poll_next(context)
    }
}

impl Subscription for NeverCancelled {
    fn settler(&self) -> Arc<dyn Settle> {
        self.0.settler()
    }

    fn set_window(&self, window: u32) {
        self.0.set_window(window);
    }

    fn pause(&mut self, paused: bool) {
        self.0.pause(paused);
    }

    fn add(&mut self, queue: &Name) -> driver::BoxFuture<'_, Result<u16>> {
        self.0.add(queue)
    }

    fn remove(&mut self, queue: u16) -> Op<Result<()>> {
        self.0.remove(queue)
    }

    fn cancel(self: Box<Self>) -> Op<Result<()>> {
        Op::pending(pending())
    }
}

#[tokio::test(start_paused = true)]
async fn cancelling_a_consumer_ends_by_its_deadline() {
    let open = Connection::builder(kombu::registry())
        .url("memory://")
        .deadlines(patient())
        .layer(KeepsConsumers);
    let connection = open.await.unwrap();
    let consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    let says = ["cancel consumer", "end the consumer", "`jobs`"];
    times_out(&says, consumer.cancel()).await;
}

/// `memory://`, whose sessions don't answer when they are closed until somebody abandons them. As on a dead line, nothing else says
/// that they have ended.
struct NeverCloses;

#[async_trait]
impl Transport for NeverCloses {
    fn name(&self) -> &'static str {
        "never-closes"
    }

    fn schemes(&self) -> &'static [&'static str] {
        &["never-closes"]
    }

    fn capabilities(&self) -> Capabilities {
        Memory.capabilities()
    }

    async fn connect(&self, target: &Target) -> Result<Arc<dyn driver::Connection>> {
        let session = Memory.connect(target).await?;
        Ok(Arc::new(NeverClosed(session, Notify::new())))
    }
}

struct NeverClosed(Arc<dyn driver::Connection>, Notify);

#[async_trait]
impl driver::Connection for NeverClosed {
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    async fn declare_exchange(&self, exchange: &Exchange, mode: DeclareMode) -> Result<()> {
        self.0.declare_exchange(exchange, mode).await
    }

    async fn delete_exchange(&self, name: &Name, if_unused: bool) -> Result<()> {
        self.0.delete_exchange(name, if_unused).await
    }

    async fn declare_queue(&self, queue: &Queue, mode: DeclareMode) -> Result<QueueInfo> {
        self.0.declare_queue(queue, mode).await
    }

    async fn delete_queue(&self, name: &Name, options: DeleteQueue) -> Result<u64> {
        self.0.delete_queue(name, options).await
    }

    async fn purge_queue(&self, name: &Name) -> Result<u64> {
        self.0.purge_queue(name).await
    }

    async fn bind(&self, destination: &Destination, binding: &Binding) -> Result<()> {
        self.0.bind(destination, binding).await
    }

    async fn unbind(&self, destination: &Destination, binding: &Binding) -> Result<()> {
        self.0.unbind(destination, binding).await
    }

    async fn queue_info(&self, name: &Name) -> Result<QueueInfo> {
        self.0.queue_info(name).await
    }

    async fn open_publisher(&self) -> Result<Arc<dyn Publisher>> {
        self.0.open_publisher().await
    }

    async fn open_subscription(
        &self,
        queues: &[Name],
        options: &SubscribeOptions,
    ) -> Result<Box<dyn Subscription>> {
        self.0.open_subscription(queues, options).await
    }

    async fn get(
        &self,
        queue: &Name,
        no_ack: bool,
    ) -> Result<Option<(RawDelivery, Arc<dyn Settle>)>> {
        self.0.get(queue, no_ack).await
    }

    fn closed(&self) -> BoxFuture<'static, kombu::Error> {
        self.0.closed()
    }

    async fn ping(&self) -> Result<()> {
        self.0.ping().await
    }

    async fn close(&self) -> Result<()> {
        self.1.notified().await;
        Ok(())
    }

    fn abandon(&self) {
        self.1.notify_waiters();
    }
}

fn never_closes(name: &str, faults: &Faults) -> ConnectionBuilder {
    Connection::builder(Registry::new().with(NeverCloses))
        .url(format!("never-closes://{name}"))
        .layer(faults.clone())
}

#[tokio::test(start_paused = true)]
async fn closing_ends_by_its_deadline_and_lets_the_session_go() {
    let faults = Faults::default();
    let tasks = tokio::runtime::Handle::current().metrics();
    let before = tasks.num_alive_tasks();
    let connection = never_closes("close", &faults).await.unwrap();
    assert!(tasks.num_alive_tasks() > before);
    times_out(&["close", "waiting for the broker"], connection.close()).await;
    // The supervisor tries it as well, and gives up at the same time.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(tasks.num_alive_tasks(), before);
    connection.close().await.unwrap();
    let closed = connection.queue_info("jobs").await.unwrap_err();
    assert_eq!(closed.kind(), ErrorKind::Closed);

    let connection = never_closes("drain", &faults).await.unwrap();
    let report = connection.drain(Duration::MAX).await.unwrap();
    assert!(!report.closed, "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn a_drain_counts_each_delivery_once_though_closing_takes_long() {
    let connection = never_closes("drained", &Faults::default()).await.unwrap();
    let mut consumer = connection.consumer(&Queue::new("q")).await.unwrap();
    let producer = connection.producer(Exchange::default()).routing_key("q");
    producer.await.unwrap().publish_text("late").await.unwrap();
    let delivery = consumer.try_next().await.unwrap().unwrap();
    let grace = Deadlines::default().settle / 2;
    let settling = tokio::spawn(async move {
        tokio::time::sleep(grace * 2).await;
        drop(delivery);
    });
    let report = connection.drain(grace).await.unwrap();
    assert!(!report.closed, "{report:?}");
    settling.await.unwrap();
    assert_eq!((report.settled, report.unsettled), (0, 1));
}

/// As on a machine that is busy with something else when the time is over.
#[tokio::test(start_paused = true)]
async fn closing_has_timed_out_if_somebody_else_was_the_first_to_give_up() {
    let connection = never_closes("busy", &Faults::default()).await.unwrap();
    let mut closing = std::pin::pin!(connection.close());
    assert!(closing.as_mut().now_or_never().is_none());
    tokio::time::sleep(Deadlines::default().settle * 2).await;
    let late = closing.now_or_never().expect("its time is over");
    assert_eq!(late.unwrap_err().kind(), ErrorKind::Timeout);
}

#[tokio::test(start_paused = true)]
async fn a_lost_session_that_does_not_close_holds_up_the_next_one_for_the_liveness_at_most() {
    let faults = Faults::default();
    let connection = never_closes("lost", &faults).await.unwrap();
    let mut events = connection.events();
    let begin = Instant::now();
    faults.cut();
    let restored = async { while !matches!(events.next().await, Some(Event::Restored { .. })) {} };
    let limit = Duration::from_secs(300);
    tokio::time::timeout(limit, restored).await.unwrap();
    assert!(begin.elapsed() <= Duration::from_secs(10));
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn connecting_is_tried_until_just_before_its_deadline() {
    let limit = Duration::from_secs(10);
    let faults = Faults::default();
    faults.outage(true);
    let begin = Instant::now();
    let connecting = tokio::spawn(builder("late", &faults).into_future());
    // The broker is back when a whole pause wouldn't fit in any more.
    tokio::time::sleep(limit - Duration::from_millis(300)).await;
    faults.outage(false);
    connecting.await.unwrap().unwrap();
    assert!(begin.elapsed() < limit);

    faults.outage(true);
    let begin = Instant::now();
    let error = builder("never", &faults).await.unwrap_err();
    assert!(error.to_string().contains("within 10s"), "{error}");
    assert!(begin.elapsed() > limit - Duration::from_millis(100));
    assert!(begin.elapsed() < limit);
}

/// The callers of a connection share what answers come to, and the first one opens it.
#[tokio::test(start_paused = true)]
async fn callers_that_wait_for_each_other_end_by_their_own_deadlines() {
    let faults = Faults::default();
    let connection = builder("callers", &faults).await.unwrap();
    faults.withhold_replies(true);
    let says = ["open ", "30s", "waiting for"];
    let open = || times_out(&says, connection.caller(Exchange::default()));
    tokio::join!(open(), open(), open());
    faults.withhold_replies(false);
    connection.caller(Exchange::default()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn answers_that_wait_for_each_other_end_by_their_own_deadlines() {
    let faults = Faults::default();
    let connection = builder("answers", &faults).await.unwrap();
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    let producer = connection.producer(Exchange::default()).await.unwrap();
    for number in 0..3 {
        let publish = producer.publish(&number).routing_key("jobs");
        publish.reply_to("nowhere").await.unwrap();
    }
    let mut questions = Vec::new();
    for _ in 0..3 {
        questions.push(consumer.try_next().await.unwrap().unwrap());
    }
    faults.withhold_replies(true);
    let says = ["30s", "waiting for"];
    let answer = |question: usize| times_out(&says, questions[question].reply(&question));
    tokio::join!(answer(0), answer(1), answer(2));
}

#[tokio::test(start_paused = true)]
async fn calls_of_postage_that_wait_for_each_other_end_by_their_own_deadlines() {
    let faults = Faults::default();
    let connection = builder("postage", &faults).await.unwrap();
    let producer = postage::Producer::open(&connection).to(Exchange::default(), "jobs");
    let producer = producer.await.unwrap();
    faults.withhold_replies(true);
    let says = ["open ", "30s", "waiting for"];
    let call = || times_out(&says, producer.rpc::<_, ()>("do", 1));
    tokio::join!(call(), call(), call());
}
