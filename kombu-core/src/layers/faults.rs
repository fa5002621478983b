use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use futures_core::Stream;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::declare::{Binding, DeclareMode, Exchange, Queue};
use crate::driver::{
    BoxFuture, Capabilities, Confirm, Confirmation, Connection, DeleteQueue, Destination, Layer,
    Op, Outcome, Publisher, QueueInfo, RawDelivery, Settle, Settlement, SubscribeOptions,
    Subscription, Tag,
};
use crate::error::{Error, ErrorKind, Result};
use crate::message::Envelope;
use crate::name::Name;

/// Faults on command, on any transport: what a test of your own error paths needs.
///
/// A clone commands the same connections. Faults lie between the client and the driver, so everything that
/// the client does about them is real.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> kombu::Result<()> {
/// use kombu::{Connection, Event, Exchange, Faults, Queue};
///
/// let faults = Faults::default();
/// let connection = Connection::builder(kombu::registry())
///     .url("memory://faults-example")
///     .layer(faults.clone())
///     .await?;
/// let mut events = connection.events();
/// let mut consumer = connection.consumer(&Queue::new("jobs")).await?;
///
/// faults.cut();
/// while events.next().await != Some(Event::Restored { attempts: 0 }) {}
///
/// connection.producer(Exchange::default()).await?.publish(&1).routing_key("jobs").await?;
/// let delivery = consumer.try_next().await?.expect("the consumer goes on");
/// delivery.ack().await?;
/// # connection.close().await
/// # }
/// ```
#[derive(Clone, Default)]
pub struct Faults(Arc<Commands>);

#[derive(Default)]
struct Commands {
    sessions: Mutex<Vec<Arc<Line>>>,
    refusals: Mutex<VecDeque<ErrorKind>>,
    publishes: Mutex<VecDeque<PublishFault>>,
    controls: Mutex<VecDeque<ControlFault>>,
    silence: watch::Sender<bool>,
    replies_withheld: watch::Sender<bool>,
    delay: Mutex<Duration>,
}

#[derive(Clone, Copy)]
enum PublishFault {
    Nack,
    LoseRequest,
    LoseReply,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ControlFault {
    LoseRequest,
    LoseReply,
}

/// The line to the broker of one session.
#[derive(Default)]
struct Line {
    cut: watch::Sender<bool>,
}

impl Faults {
    /// Cuts every line to the broker: sessions are lost, and what they held goes back.
    pub fn cut(&self) {
        for line in self.0.sessions.lock().drain(..) {
            line.cut.send_replace(true);
        }
    }

    /// Refuses the next attempts to connect, one for each of `kinds`.
    pub fn refuse_connects(&self, kinds: impl IntoIterator<Item = ErrorKind>) {
        self.0.refusals.lock().extend(kinds);
    }

    /// Refuses the next `count` publishes, as a broker does whose queue is full.
    pub fn nack_publishes(&self, count: usize) {
        self.next_publishes(count, PublishFault::Nack);
    }

    /// Cuts the line at each of the next `count` publishes before the broker has the message.
    pub fn lose_requests(&self, count: usize) {
        self.next_publishes(count, PublishFault::LoseRequest);
    }

    /// Cuts the line at each of the next `count` publishes when the broker has the message, before it answers.
    pub fn lose_replies(&self, count: usize) {
        self.next_publishes(count, PublishFault::LoseReply);
    }

    /// Cuts the line at each of the next `count` operations that are neither publishes nor settles, before the
    /// broker has the request.
    pub fn lose_control_requests(&self, count: usize) {
        self.next_controls(count, ControlFault::LoseRequest);
    }

    /// The same when the broker has done what was asked, before it answers.
    pub fn lose_control_replies(&self, count: usize) {
        self.next_controls(count, ControlFault::LoseReply);
    }

    fn next_controls(&self, count: usize, fault: ControlFault) {
        self.0
            .controls
            .lock()
            .extend(std::iter::repeat_n(fault, count));
    }

    /// Withholds the broker's replies to operations that are neither publishes nor settles, until told otherwise.
    /// Requests go through.
    pub fn withhold_replies(&self, withheld: bool) {
        self.0.replies_withheld.send_replace(withheld);
    }

    fn next_publishes(&self, count: usize, fault: PublishFault) {
        self.0
            .publishes
            .lock()
            .extend(std::iter::repeat_n(fault, count));
    }

    /// Delays every publish from now on; zero ends it.
    pub fn delay_publishes(&self, delay: Duration) {
        *self.0.delay.lock() = delay;
    }

    /// Lets nothing through in either direction, as a network that drops every packet, until told otherwise.
    pub fn silence(&self, silent: bool) {
        self.0.silence.send_replace(silent);
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults")
            .field("sessions", &self.0.sessions.lock().len())
            .finish_non_exhaustive()
    }
}

impl Layer for Faults {
    fn wrap(&self, connection: Arc<dyn Connection>) -> Arc<dyn Connection> {
        let line = Arc::new(Line::default());
        self.0.sessions.lock().push(line.clone());
        Arc::new(Faulty {
            inner: connection,
            commands: self.0.clone(),
            line,
        })
    }

    fn before_connect(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async {
            self.0.audible().await;
            match self.0.refusals.lock().pop_front() {
                Some(kind) => Err(Error::new(kind, "refused by an injected fault")),
                None => Ok(()),
            }
        })
    }
}

impl Commands {
    async fn audible(&self) {
        // The sender lives as long as `self`.
        drop(self.silence.subscribe().wait_for(|silent| !silent).await);
    }

    async fn answering(&self) {
        let mut withheld = self.replies_withheld.subscribe();
        drop(withheld.wait_for(|withheld| !withheld).await);
        self.audible().await;
    }
}

impl Line {
    fn is_cut(&self) -> bool {
        *self.cut.borrow()
    }

    fn check(&self) -> Result<()> {
        if self.is_cut() { Err(lost()) } else { Ok(()) }
    }

    async fn until_cut(&self) {
        drop(self.cut.subscribe().wait_for(|cut| *cut).await);
    }
}

fn lost() -> Error {
    Error::new(ErrorKind::ConnectionLost, "cut by an injected fault")
}

/// A session whose line can be cut.
struct Faulty {
    inner: Arc<dyn Connection>,
    commands: Arc<Commands>,
    line: Arc<Line>,
}

impl Faulty {
    /// Does what `work` does, unless the line is cut or silent.
    async fn through<T>(&self, work: impl Future<Output = Result<T>> + Send) -> Result<T> {
        let work = async {
            self.commands.audible().await;
            let fault = self.commands.controls.lock().pop_front();
            if fault == Some(ControlFault::LoseRequest) {
                self.line.cut.send_replace(true);
                return Err(lost());
            }
            let answer = work.await;
            if fault == Some(ControlFault::LoseReply) {
                self.line.cut.send_replace(true);
                return Err(lost());
            }
            self.commands.answering().await;
            answer
        };
        tokio::select! {
            biased;
            () = self.line.until_cut() => Err(lost()),
            answer = work => answer,
        }
    }
}

#[async_trait]
impl Connection for Faulty {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn declare_exchange(&self, exchange: &Exchange, mode: DeclareMode) -> Result<()> {
        self.through(self.inner.declare_exchange(exchange, mode))
            .await
    }

    async fn delete_exchange(&self, name: &Name, if_unused: bool) -> Result<()> {
        self.through(self.inner.delete_exchange(name, if_unused))
            .await
    }

    async fn declare_queue(&self, queue: &Queue, mode: DeclareMode) -> Result<QueueInfo> {
        self.through(self.inner.declare_queue(queue, mode)).await
    }

    async fn delete_queue(&self, name: &Name, options: DeleteQueue) -> Result<u64> {
        self.through(self.inner.delete_queue(name, options)).await
    }

    async fn purge_queue(&self, name: &Name) -> Result<u64> {
        self.through(self.inner.purge_queue(name)).await
    }

    async fn bind(&self, destination: &Destination, binding: &Binding) -> Result<()> {
        self.through(self.inner.bind(destination, binding)).await
    }

    async fn unbind(&self, destination: &Destination, binding: &Binding) -> Result<()> {
        self.through(self.inner.unbind(destination, binding)).await
    }

    async fn queue_info(&self, name: &Name) -> Result<QueueInfo> {
        self.through(self.inner.queue_info(name)).await
    }

    async fn open_publisher(&self) -> Result<Arc<dyn Publisher>> {
        let publisher = self.through(self.inner.open_publisher()).await?;
        Ok(Arc::new(FaultyPublisher {
            inner: publisher,
            commands: self.commands.clone(),
            line: self.line.clone(),
        }))
    }

    async fn open_subscription(
        &self,
        queues: &[Name],
        options: &SubscribeOptions,
    ) -> Result<Box<dyn Subscription>> {
        let subscription = self
            .through(self.inner.open_subscription(queues, options))
            .await?;
        let settler = Arc::new(FaultySettler {
            inner: subscription.settler(),
            line: self.line.clone(),
        });
        Ok(Box::new(FaultySubscription {
            inner: subscription,
            settler,
            line: self.line.clone(),
        }))
    }

    async fn get(
        &self,
        queue: &Name,
        no_ack: bool,
    ) -> Result<Option<(RawDelivery, Arc<dyn Settle>)>> {
        let taken = self.through(self.inner.get(queue, no_ack)).await?;
        Ok(taken.map(|(delivery, settler)| {
            let settler: Arc<dyn Settle> = Arc::new(FaultySettler {
                inner: settler,
                line: self.line.clone(),
            });
            (delivery, settler)
        }))
    }

    fn closed(&self) -> BoxFuture<'static, Error> {
        let (inner, line) = (self.inner.closed(), self.line.clone());
        Box::pin(async move {
            tokio::select! {
                () = line.until_cut() => lost(),
                error = inner => error,
            }
        })
    }

    async fn ping(&self) -> Result<()> {
        self.through(self.inner.ping()).await
    }

    async fn close(&self) -> Result<()> {
        // The broker notices a cut line by itself, and a silent one in the end: either way the session is over.
        self.inner.close().await
    }
}

struct FaultyPublisher {
    inner: Arc<dyn Publisher>,
    commands: Arc<Commands>,
    line: Arc<Line>,
}

impl Publisher for FaultyPublisher {
    fn publish(&self, envelope: &Envelope) -> Op<Result<Confirm>> {
        if let Err(error) = self.line.check() {
            return Op::ready(Err(error));
        }
        let fault = self.commands.publishes.lock().pop_front();
        match fault {
            Some(PublishFault::Nack) => {
                let reason = "refused by an injected fault".to_owned();
                return Op::ready(Ok(Op::ready(Ok(Confirmation::Nacked { reason }))));
            }
            Some(PublishFault::LoseRequest) => {
                self.line.cut.send_replace(true);
                return Op::ready(Err(lost()));
            }
            Some(PublishFault::LoseReply) => {
                let unheard = self.inner.publish(envelope);
                self.line.cut.send_replace(true);
                return Op::pending(async move {
                    // The broker gets on with it, whatever we hear.
                    if let Ok(confirm) = unheard.await {
                        drop(confirm.await);
                    }
                    Err(lost())
                });
            }
            None => {}
        }
        let delay = *self.commands.delay.lock();
        if delay.is_zero() && !*self.commands.silence.borrow() {
            return self.inner.publish(envelope);
        }
        let (inner, envelope) = (self.inner.clone(), envelope.clone());
        let (commands, line) = (self.commands.clone(), self.line.clone());
        Op::pending(async move {
            let later = async {
                tokio::time::sleep(delay).await;
                commands.audible().await;
                inner.publish(&envelope).await
            };
            tokio::select! {
                biased;
                () = line.until_cut() => Err(lost()),
                answer = later => answer,
            }
        })
    }
}

struct FaultySubscription {
    inner: Box<dyn Subscription>,
    settler: Arc<FaultySettler>,
    line: Arc<Line>,
}

impl Stream for FaultySubscription {
    type Item = Result<RawDelivery>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<RawDelivery>>> {
        if self.line.is_cut() {
            return Poll::Ready(None);
        }
        // The end of the inner session wakes the task after a cut.
        Pin::new(&mut self.inner).poll_next(context)
    }
}

impl Subscription for FaultySubscription {
    fn settler(&self) -> Arc<dyn Settle> {
        self.settler.clone()
    }

    fn set_window(&self, window: u32) {
        self.inner.set_window(window);
    }

    fn cancel(self: Box<Self>) -> Op<Result<()>> {
        self.inner.cancel()
    }
}

struct FaultySettler {
    inner: Arc<dyn Settle>,
    line: Arc<Line>,
}

impl Settle for FaultySettler {
    fn settle(&self, tag: Tag, outcome: Outcome) -> Settlement {
        if self.line.is_cut() {
            return Settlement::done(Err(Error::new(
                ErrorKind::SettleLost,
                "the session that delivered this message is gone; the message goes to another consumer",
            )));
        }
        self.inner.settle(tag, outcome)
    }
}
