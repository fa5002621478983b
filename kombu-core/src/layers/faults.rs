use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use futures_util::stream;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::driver::{
    BoxFuture, Confirm, Confirmation, Connection, Layer, Notice, Notices, Op, Operation, Outcome,
    Publisher, Received, SessionLayer, Settle, Settlement, Subscription, Tag,
};
use crate::error::{Error, ErrorKind, Result};
use crate::message::Envelope;
use crate::name::Name;
use crate::watched::Watched;

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
    lines: Mutex<Vec<Weak<Line>>>,
    refusals: Mutex<VecDeque<ErrorKind>>,
    down: AtomicBool,
    publishes: Mutex<VecDeque<PublishFault>>,
    controls: Mutex<VecDeque<ControlFault>>,
    silence: Watched<bool>,
    replies_withheld: Watched<bool>,
    blocked: watch::Sender<Option<String>>,
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

impl Faults {
    /// Cuts every line to the broker: sessions are lost, and what they held goes back.
    pub fn cut(&self) {
        let lines = std::mem::take(&mut *self.0.lines.lock());
        for line in lines.iter().filter_map(Weak::upgrade) {
            line.cut();
        }
    }

    /// Refuses the next attempts to connect, one for each of `kinds`.
    pub fn refuse_connects(&self, kinds: impl IntoIterator<Item = ErrorKind>) {
        self.0.refusals.lock().extend(kinds);
    }

    /// Cuts every line and refuses every attempt to connect until told otherwise, as a broker that isn't running.
    pub fn outage(&self, down: bool) {
        self.0.down.store(down, Ordering::Release);
        if down {
            self.cut();
        }
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
        self.0.replies_withheld.set(withheld);
    }

    fn next_publishes(&self, count: usize, fault: PublishFault) {
        self.0
            .publishes
            .lock()
            .extend(std::iter::repeat_n(fault, count));
    }

    /// Delays every publish from now on; zero ends it. The order stays: what comes later waits for what came before.
    pub fn delay_publishes(&self, delay: Duration) {
        *self.0.delay.lock() = delay;
    }

    /// Lets nothing through in either direction, as a network that drops every packet, until told otherwise. Then
    /// what waited goes on its way.
    pub fn silence(&self, silent: bool) {
        self.0.silence.set(silent);
        if !silent {
            let lines = self.0.lines.lock().clone();
            for line in lines.iter().filter_map(Weak::upgrade) {
                line.settle_waiting();
            }
        }
    }

    /// Takes no publishes and says why, as a broker does that is short of memory, until
    /// [`unblock`](Faults::unblock). Everything else goes on.
    pub fn block(&self, reason: impl Into<String>) {
        self.0.blocked.send_replace(Some(reason.into()));
    }

    /// Takes publishes again, those that waited first.
    pub fn unblock(&self) {
        self.0.blocked.send_replace(None);
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults")
            .field("lines", &self.0.lines.lock().len())
            .finish_non_exhaustive()
    }
}

impl Layer for Faults {
    fn session(&self, _: &dyn Connection) -> Arc<dyn SessionLayer> {
        let line = Arc::new(Line::default());
        let mut lines = self.0.lines.lock();
        lines.retain(|line| line.strong_count() > 0);
        lines.push(Arc::downgrade(&line));
        Arc::new(Session {
            commands: self.0.clone(),
            line,
        })
    }

    fn before_connect(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async {
            self.0.audible().await;
            if self.0.down.load(Ordering::Acquire) {
                return Err(Error::new(
                    ErrorKind::ConnectionLost,
                    "the broker is down by an injected fault",
                ));
            }
            match self.0.refusals.lock().pop_front() {
                Some(kind) => Err(Error::new(kind, "refused by an injected fault")),
                None => Ok(()),
            }
        })
    }
}

// The senders live as long as `self`.
impl Commands {
    fn is_silent(&self) -> bool {
        *self.silence.get()
    }

    async fn audible(&self) {
        self.silence.until(|silent| (!silent).then_some(())).await;
    }

    async fn answering(&self) {
        let withheld = &self.replies_withheld;
        withheld.until(|withheld| (!withheld).then_some(())).await;
        self.audible().await;
    }

    /// Whether publishes go through at once.
    fn takes_publishes(&self) -> bool {
        self.delay.lock().is_zero() && !self.is_silent() && self.blocked.borrow().is_none()
    }

    async fn taking_publishes(&self) {
        loop {
            let mut blocked = self.blocked.subscribe();
            drop(blocked.wait_for(Option::is_none).await);
            self.audible().await;
            if self.blocked.borrow().is_none() {
                return;
            }
        }
    }
}

/// The line to the broker of one session.
#[derive(Default)]
struct Line {
    cut: Watched<bool>,
    /// Settles on their way while the line is silent.
    settles: Mutex<VecDeque<WaitingSettle>>,
}

struct WaitingSettle {
    settler: Arc<dyn Settle>,
    tag: Tag,
    outcome: Outcome,
    answer: oneshot::Sender<Settlement>,
}

impl Line {
    fn is_cut(&self) -> bool {
        *self.cut.get()
    }

    fn cut(&self) {
        self.cut.set(true);
        self.settles.lock().clear();
    }

    async fn until_cut(&self) {
        self.cut.until(|cut| cut.then_some(())).await;
    }

    fn settle_waiting(&self) {
        let waiting = std::mem::take(&mut *self.settles.lock());
        for settle in waiting {
            let settlement = settle.settler.settle(settle.tag, settle.outcome);
            // Nobody has to wait for it.
            drop(settle.answer.send(settlement));
        }
    }
}

fn lost() -> Error {
    Error::new(ErrorKind::ConnectionLost, "cut by an injected fault")
}

fn settle_lost() -> Error {
    Error::new(
        ErrorKind::SettleLost,
        "the session that delivered this message is gone; the message goes to another consumer",
    )
}

/// A session whose line can be cut.
#[derive(Clone)]
struct Session {
    commands: Arc<Commands>,
    line: Arc<Line>,
}

impl Session {
    /// Has the broker do something that is neither a publish nor a settle.
    async fn carry_out<T>(&self, next: impl Future<Output = Result<T>>) -> Result<T> {
        let work = async {
            self.commands.audible().await;
            let fault = self.commands.controls.lock().pop_front();
            if fault == Some(ControlFault::LoseRequest) {
                self.line.cut();
                return Err(lost());
            }
            let answer = next.await;
            if fault == Some(ControlFault::LoseReply) {
                self.line.cut();
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

impl SessionLayer for Session {
    fn control<'a>(
        &'a self,
        _: Operation<'a>,
        next: BoxFuture<'a, Result<()>>,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.carry_out(next))
    }

    fn publisher(&self, next: Arc<dyn Publisher>) -> Arc<dyn Publisher> {
        Arc::new(FaultyPublisher(Arc::new(Publishing {
            next,
            session: self.clone(),
            waiting: Mutex::default(),
        })))
    }
    fn subscription(&self, next: Box<dyn Subscription>) -> Box<dyn Subscription> {
        Box::new(FaultySubscription {
            settler: self.settler(next.settler()),
            next,
            session: self.clone(),
            audible: None,
        })
    }

    fn settler(&self, next: Arc<dyn Settle>) -> Arc<dyn Settle> {
        Arc::new(FaultySettler {
            next,
            session: self.clone(),
        })
    }

    fn closed(&self) -> BoxFuture<'static, Error> {
        let line = self.line.clone();
        Box::pin(async move {
            line.until_cut().await;
            lost()
        })
    }

    fn notices(&self, next: Notices) -> Notices {
        let mut blocked = self.commands.blocked.subscribe();
        if blocked.borrow().is_some() {
            blocked.mark_changed();
        }
        let own = stream::unfold(blocked, |mut blocked| async {
            blocked.changed().await.ok()?;
            let notice = match &*blocked.borrow_and_update() {
                Some(reason) => Notice::Blocked {
                    reason: reason.clone(),
                },
                None => Notice::Unblocked,
            };
            Some((notice, blocked))
        });
        Box::pin(stream::select(next, own))
    }
}

struct FaultyPublisher(Arc<Publishing>);

struct Publishing {
    next: Arc<dyn Publisher>,
    session: Session,
    waiting: Mutex<Waiting>,
}

/// Publishes that wait for their turn. The client bounds how many there are.
#[derive(Default)]
struct Waiting {
    calls: VecDeque<Call>,
    /// A task takes them one after the other.
    running: bool,
}

struct Call {
    envelope: Envelope,
    fault: Option<PublishFault>,
    due: Instant,
    answer: oneshot::Sender<Result<Confirm>>,
}

impl Publisher for FaultyPublisher {
    fn repeats_within(&self) -> Option<Duration> {
        self.0.next.repeats_within()
    }

    fn publish(&self, envelope: &Envelope) -> Op<Result<Confirm>> {
        let publishing = &self.0;
        let Session { commands, line } = &publishing.session;
        if line.is_cut() {
            return Op::ready(Err(lost()));
        }
        let fault = commands.publishes.lock().pop_front();
        let mut waiting = publishing.waiting.lock();
        if !waiting.running && commands.takes_publishes() {
            return publishing.carry_out(fault, envelope);
        }
        let (answer, receiver) = oneshot::channel();
        waiting.calls.push_back(Call {
            envelope: envelope.clone(),
            fault,
            due: Instant::now() + *commands.delay.lock(),
            answer,
        });
        if !waiting.running {
            let Ok(runtime) = Handle::try_current() else {
                return Op::ready(Err(lost()));
            };
            waiting.running = true;
            runtime.spawn(publishing.clone().take_turns());
        }
        Op::pending(async move { receiver.await.unwrap_or_else(|_| Err(lost())) })
    }
}

impl Publishing {
    fn carry_out(&self, fault: Option<PublishFault>, envelope: &Envelope) -> Op<Result<Confirm>> {
        let line = &self.session.line;
        if line.is_cut() {
            // By the one before: nothing may overtake that.
            return Op::ready(Err(lost()));
        }
        match fault {
            None => self.next.publish(envelope),
            Some(PublishFault::Nack) => {
                let reason = "refused by an injected fault".to_owned();
                Op::ready(Ok(Op::ready(Ok(Confirmation::Nacked { reason }))))
            }
            Some(PublishFault::LoseRequest) => {
                line.cut();
                Op::ready(Err(lost()))
            }
            Some(PublishFault::LoseReply) => {
                let unheard = self.next.publish(envelope);
                line.cut();
                Op::ready(Ok(Op::pending(async move {
                    // The broker gets on with it, whatever we hear.
                    if let Ok(confirm) = unheard.await {
                        drop(confirm.await);
                    }
                    Err(lost())
                })))
            }
        }
    }

    async fn take_turns(self: Arc<Self>) {
        let commands = &self.session.commands;
        let turns = async {
            loop {
                let call = {
                    let mut waiting = self.waiting.lock();
                    let Some(call) = waiting.calls.pop_front() else {
                        waiting.running = false;
                        return;
                    };
                    call
                };
                tokio::time::sleep_until(call.due).await;
                commands.taking_publishes().await;
                let answer = self.carry_out(call.fault, &call.envelope).await;
                drop(call.answer.send(answer));
            }
        };
        tokio::select! {
            biased;
            () = self.session.line.until_cut() => self.waiting.lock().calls.clear(),
            () = turns => {}
        }
    }
}

struct FaultySubscription {
    next: Box<dyn Subscription>,
    settler: Arc<dyn Settle>,
    session: Session,
    /// Resolves when the line is no longer silent, or is cut.
    audible: Option<BoxFuture<'static, ()>>,
}

impl Stream for FaultySubscription {
    type Item = Result<Received>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Received>>> {
        let this = &mut *self;
        loop {
            if this.session.line.is_cut() {
                return Poll::Ready(None);
            }
            if let Some(audible) = &mut this.audible {
                if audible.as_mut().poll(context).is_pending() {
                    return Poll::Pending;
                }
                this.audible = None;
            } else if this.session.commands.is_silent() {
                let Session { commands, line } = this.session.clone();
                this.audible = Some(Box::pin(async move {
                    tokio::select! {
                        biased;
                        () = line.until_cut() => {}
                        () = commands.audible() => {}
                    }
                }));
            } else {
                // The end of the inner session wakes the task after a cut.
                return Pin::new(&mut this.next).poll_next(context);
            }
        }
    }
}

impl Subscription for FaultySubscription {
    fn settler(&self) -> Arc<dyn Settle> {
        self.settler.clone()
    }

    fn set_window(&self, window: u32) {
        self.next.set_window(window);
    }

    fn pause(&mut self, paused: bool) {
        self.next.pause(paused);
    }

    fn add(&mut self, queue: &Name) -> BoxFuture<'_, Result<u16>> {
        let session = self.session.clone();
        let queue = queue.clone();
        let mut adding = Adding {
            subscription: &mut *self.next,
            untold: None,
        };
        Box::pin(async move {
            let index = session.carry_out(adding.add(&queue)).await?;
            adding.tell();
            Ok(index)
        })
    }

    fn remove(&mut self, queue: u16) -> Op<Result<()>> {
        let session = self.session.clone();
        let next = self.next.remove(queue);
        Op::start(async move { session.carry_out(next).await })
    }

    fn cancel(self: Box<Self>) -> Op<Result<()>> {
        let session = self.session;
        let next = self.next.cancel();
        Op::start(async move { session.carry_out(next).await })
    }
}

/// Takes in a queue. If whoever asked isn't told, because the answer is withheld and they have gone, the queue is left
/// again.
struct Adding<'a> {
    subscription: &'a mut dyn Subscription,
    untold: Option<u16>,
}

impl Adding<'_> {
    async fn add(&mut self, queue: &Name) -> Result<u16> {
        let index = self.subscription.add(queue).await?;
        self.untold = Some(index);
        Ok(index)
    }

    fn tell(&mut self) {
        self.untold = None;
    }
}

impl Drop for Adding<'_> {
    fn drop(&mut self) {
        if let Some(index) = self.untold {
            drop(self.subscription.remove(index));
        }
    }
}

struct FaultySettler {
    next: Arc<dyn Settle>,
    session: Session,
}

impl Settle for FaultySettler {
    fn settle(&self, tag: Tag, outcome: Outcome) -> Settlement {
        let Session { commands, line } = &self.session;
        if line.is_cut() {
            return Settlement::done(Err(settle_lost()));
        }
        if !commands.is_silent() {
            return self.next.settle(tag, outcome);
        }
        let (answer, receiver) = oneshot::channel();
        line.settles.lock().push_back(WaitingSettle {
            settler: self.next.clone(),
            tag,
            outcome,
            answer,
        });
        Settlement::queued(Box::pin(async move {
            let settlement = receiver.await.map_err(|_| settle_lost())?;
            settlement.queued?;
            match settlement.confirmed {
                Some(confirmed) => confirmed.await,
                None => Ok(()),
            }
        }))
    }

    fn holds(&self, tag: Tag) -> bool {
        self.next.holds(tag)
    }
}
