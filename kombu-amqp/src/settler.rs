//! What becomes of deliveries. Those of one channel are settled by a task of their own, so that whatever waits while it
//! writes goes out together.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use futures_util::stream::{self, BoxStream};
use futures_util::task::AtomicWaker;
use futures_util::{FutureExt, StreamExt};
use kombu_core::declare::{Queue, QueueType};
use kombu_core::driver::{Op, Outcome, Settle, Settlement, Tag};
use kombu_core::message::Envelope;
use kombu_core::virt::Death;
use kombu_core::{ErrorKind, Name, Result};
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicNackOptions};
use lapin::{Channel, Consumer};
use parking_lot::Mutex;
use tokio::sync::{OnceCell, mpsc, oneshot};
use tokio::time::sleep;

use crate::error::{classify, settle_lost};
use crate::ladder::Steps;
use crate::message::{Failures, has_unbearable_deaths, without_deaths};
use crate::publisher::AmqpPublisher;
use crate::session::Shared;
use crate::subscription::{Fetched, Resizing};
use crate::under_way::{OnItsWay, UnderWay};

/// How long a message whose retry failed is held, so that it doesn't come, and fail, over and over.
const PAUSE: Duration = Duration::from_secs(1);

/// Settles what one subscription hands out, or what single gets do, over however many channels it came.
pub(crate) struct AmqpSettler {
    held: Mutex<Held>,
    /// The task that waits for room in the window.
    pub(crate) task: AtomicWaker,
    pub(crate) window: AtomicU32,
}

/// What was handed out and isn't settled.
#[derive(Default)]
struct Held {
    /// Numbers of deliveries: those of the broker are the channel's, and begin anew with the next one.
    next: u64,
    deliveries: HashMap<u64, HandedOut>,
}

/// A delivery in somebody's hands.
struct HandedOut {
    lane: Lane,
    tag: u64,
    message: Retried,
}

/// What a retry has to know.
struct Retried {
    queue: Name,
    envelope: Envelope,
    failures: Failures,
    /// The queue was deleted: there is nothing to go back to, and another one may have its name.
    is_orphan: bool,
}

impl AmqpSettler {
    pub(crate) fn new(shared: &Shared, window: u32) -> Arc<Self> {
        let settler = Arc::new(AmqpSettler {
            held: Mutex::default(),
            task: AtomicWaker::new(),
            window: AtomicU32::new(window),
        });
        shared.add_settler(&settler);
        settler
    }

    /// Takes note of a delivery before it is handed out, and answers its number.
    pub(crate) fn hold(
        &self,
        lane: &Lane,
        tag: u64,
        queue: &Name,
        envelope: &Envelope,
        failures: Failures,
    ) -> u64 {
        let handed_out = HandedOut {
            lane: lane.clone(),
            tag,
            message: Retried {
                queue: queue.clone(),
                envelope: envelope.clone(),
                failures,
                is_orphan: false,
            },
        };
        let mut held = self.held.lock();
        let number = held.next;
        held.next += 1;
        held.deliveries.insert(number, handed_out);
        number
    }

    pub(crate) fn has_room(&self) -> bool {
        let window = self.window.load(Ordering::Relaxed);
        window == 0 || self.held.lock().deliveries.len() < window as usize
    }

    /// Whether something that came over this channel is in somebody's hands. If not, whatever became of it was sent
    /// before.
    pub(crate) fn holds(&self, lane: &Lane) -> bool {
        let held = self.held.lock();
        held.deliveries
            .values()
            .any(|delivery| delivery.lane.is_same(lane))
    }

    /// The broker has closed a channel: what came over it is back in its queue.
    pub(crate) fn lose(&self, lane: &Lane) {
        let is_other = |_: &u64, delivery: &mut HandedOut| !delivery.lane.is_same(lane);
        self.held.lock().deliveries.retain(is_other);
    }

    /// A queue is gone, and with it what came from it; another one may have its name soon.
    pub(crate) fn orphan(&self, queue: &Name) {
        for delivery in self.held.lock().deliveries.values_mut() {
            if delivery.message.queue == *queue {
                delivery.message.is_orphan = true;
            }
        }
    }
}

impl Settle for AmqpSettler {
    fn settle(&self, tag: Tag, outcome: Outcome) -> Settlement {
        // Until it is sent: a channel that holds nothing may be closed at once.
        let mut held = self.held.lock();
        let Some(delivery) = held.deliveries.remove(&tag.id) else {
            return Settlement::done(Err(settle_lost()));
        };
        let (answer, receiver) = oneshot::channel();
        let HandedOut { lane, tag, message } = delivery;
        let sent = match outcome {
            Outcome::Ack => lane.send(Command::Ack(tag, answer)),
            Outcome::Reject if has_unbearable_deaths(message.envelope.headers()) => {
                lane.send(Command::Bury(tag, message, answer))
            }
            Outcome::Reject => lane.send(Command::Nack(tag, false, answer)),
            Outcome::Retry { .. } if message.is_orphan => lane.send(Command::Ack(tag, answer)),
            Outcome::Retry { delay } => {
                let delay = delay.filter(|delay| !delay.is_zero());
                lane.send(Command::Retry(tag, message, delay, answer))
            }
            _ => lane.send(Command::Nack(tag, true, answer)),
        };
        drop(held);
        self.task.wake();
        if !sent {
            return Settlement::done(Err(settle_lost()));
        }
        Settlement::queued(Box::pin(async move {
            receiver.await.unwrap_or_else(|_| Err(settle_lost()))
        }))
    }

    fn holds(&self, tag: Tag) -> bool {
        self.held.lock().deliveries.contains_key(&tag.id)
    }
}

/// The way back over one channel. Its task ends when nobody can settle anything over it any more.
#[derive(Clone)]
pub(crate) struct Lane(Arc<Outbound>);

struct Outbound {
    commands: mpsc::UnboundedSender<(Command, OnItsWay)>,
    under_way: UnderWay,
}

type Answer = oneshot::Sender<Result<()>>;

enum Command {
    Ack(u64, Answer),
    Nack(u64, bool, Answer),
    /// A reject by which the queue would end.
    Bury(u64, Retried, Answer),
    Retry(u64, Retried, Option<Duration>, Answer),
    Leave(Leaving, oneshot::Sender<()>),
}

/// What a subscription has of a queue that it leaves.
pub(crate) struct Leaving {
    pub(crate) queue: Name,
    /// The last one gets messages; those before it were cancelled and have some left.
    pub(crate) consumers: VecDeque<Consumer>,
    /// What comes in place of the last one. It may be on its way to the broker.
    pub(crate) resizing: Option<Resizing>,
    /// Fetched and not handed out.
    pub(crate) fetched: VecDeque<Fetched>,
    /// Somebody has deliveries of it.
    pub(crate) is_held: bool,
}

impl Lane {
    pub(crate) fn open(shared: Arc<Shared>, channel: Channel) -> Self {
        // Bounded by the window: a delivery is settled once, and a channel is left once.
        let (commands, receiver) = mpsc::unbounded_channel();
        let under_way = shared.under_way.clone();
        let (copies, copied) = copier(shared.clone());
        let task = Task {
            shared,
            channel,
            acked: Acked::default(),
            copies,
            copied,
            copying: 0,
        };
        tokio::spawn(task.run(receiver));
        Lane(Arc::new(Outbound {
            commands,
            under_way,
        }))
    }

    fn is_same(&self, other: &Lane) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether somebody is there to carry it out. If not, the channel is gone, and everything is back.
    fn send(&self, command: Command) -> bool {
        let on_its_way = self.0.under_way.one();
        self.0.commands.send((command, on_its_way)).is_ok()
    }

    /// Settles what nobody will settle. Whether somebody is there to carry it out.
    pub(crate) fn forget(&self, tag: u64) -> bool {
        let (answer, _) = oneshot::channel();
        self.send(Command::Ack(tag, answer))
    }

    /// Ends consumers of this channel, and gives back what they had fetched and not handed out. Resolves when the broker
    /// sends them nothing more.
    pub(crate) fn leave(&self, leaving: Leaving) -> Op<Result<()>> {
        let (answer, receiver) = oneshot::channel();
        self.send(Command::Leave(leaving, answer));
        Op::pending(async move {
            drop(receiver.await);
            Ok(())
        })
    }
}

struct Task {
    shared: Arc<Shared>,
    channel: Channel,
    acked: Acked,
    /// Retries whose copies aren't confirmed: these are made beside everything else, as publishes may be blocked.
    copies: mpsc::UnboundedSender<Copy>,
    copied: BoxStream<'static, Copied>,
    copying: usize,
}

/// What the broker can't do with the message itself.
struct Copy {
    kind: Kind,
    tag: u64,
    message: Retried,
    delay: Option<Duration>,
    answer: Answer,
    on_its_way: OnItsWay,
}

enum Kind {
    Retry,
    /// It dies on this queue.
    Letter(Arc<Queue>, Death),
}

/// Something whose copy was published, or wasn't.
struct Copied {
    tag: u64,
    /// Whoever waits, if there is a copy. The others have their error.
    answer: Option<(Answer, OnItsWay)>,
    is_lost: bool,
}

/// Takes retries, and makes their copies: in the same order, however long the way to the broker is blocked.
fn copier(shared: Arc<Shared>) -> (mpsc::UnboundedSender<Copy>, BoxStream<'static, Copied>) {
    // Bounded by the window, like the commands.
    let (copies, mut receiver) = mpsc::unbounded_channel();
    let publisher = Arc::new(OnceCell::new());
    let copied = stream::poll_fn(move |context| receiver.poll_recv(context))
        .then(move |copy: Copy| hand_over(shared.clone(), publisher.clone(), copy))
        .buffer_unordered(usize::MAX);
    (copies, copied.boxed())
}

/// Resolves when the copy is on its way, and then when the broker has it.
async fn hand_over(
    shared: Arc<Shared>,
    publisher: Arc<OnceCell<AmqpPublisher>>,
    copy: Copy,
) -> impl Future<Output = Copied> {
    let message = &copy.message;
    let handed_over = async {
        let delay = copy.delay.map(Steps::new).transpose()?;
        let open = || AmqpPublisher::open(shared.clone());
        let publisher = publisher.get_or_try_init(open).await?;
        match &copy.kind {
            Kind::Letter(queue, death) => {
                Ok(publisher.publish_letter(&message.envelope, queue, *death))
            }
            Kind::Retry => {
                let (envelope, queue) = (&message.envelope, &message.queue);
                let copied = publisher.publish_retry(envelope, queue, message.failures, delay);
                copied.await
            }
        }
    };
    let confirm = match handed_over.await {
        Ok(confirm) => confirm,
        Err(error) => std::future::ready(Err(error)).boxed(),
    };
    async move {
        let result = confirm.await;
        let mut copied = Copied {
            tag: copy.tag,
            answer: None,
            is_lost: false,
        };
        match result {
            Ok(()) => copied.answer = Some((copy.answer, copy.on_its_way)),
            Err(error) if error.kind() == ErrorKind::ConnectionLost => copied.is_lost = true,
            Err(error) => {
                drop(copy.answer.send(Err(error)));
                drop(copy.on_its_way);
                sleep(PAUSE).await;
            }
        }
        copied
    }
}

/// Which tags are settled, for the one frame that acks many.
#[derive(Default)]
struct Acked {
    /// Every tag up to this one is settled.
    through: u64,
    /// Settled ones beyond it: the first and the last of each row. There are no more rows than deliveries are held.
    beyond: BTreeMap<u64, u64>,
}

impl Acked {
    fn add(&mut self, tag: u64) {
        let next = self.beyond.remove(&(tag + 1));
        let last = next.unwrap_or(tag);
        if tag == self.through + 1 {
            self.through = last;
            return;
        }
        match self.beyond.range_mut(..tag).next_back() {
            Some((_, before)) if *before + 1 == tag => *before = last,
            _ => drop(self.beyond.insert(tag, last)),
        }
    }
}

/// Frames that are written together.
#[derive(Default)]
struct Writes {
    acks: Vec<(u64, Answer)>,
    nacks: Vec<(u64, bool, Answer)>,
}

impl Task {
    async fn run(mut self, mut commands: mpsc::UnboundedReceiver<(Command, OnItsWay)>) {
        let mut batch = Vec::new();
        let closed = self.shared.lines.closed();
        tokio::pin!(closed);
        let mut open = true;
        while open || self.copying > 0 {
            let done = tokio::select! {
                biased;
                _ = &mut closed => return,
                Some(copied) = self.copied.next() => self.copied(copied).await,
                count = commands.recv_many(&mut batch, 1024), if open => {
                    open = count > 0;
                    self.carry_out(&mut batch).await
                }
            };
            if done.is_err() {
                // The channel is gone, and what it held is back: whoever settles now is told so.
                return;
            }
        }
    }

    async fn carry_out(&mut self, batch: &mut Vec<(Command, OnItsWay)>) -> Result<()> {
        let mut writes = Writes::default();
        let mut on_their_way = Vec::with_capacity(batch.len());
        for (command, on_its_way) in batch.drain(..) {
            match command {
                Command::Ack(tag, answer) => writes.acks.push((tag, answer)),
                Command::Nack(tag, requeue, answer) => writes.nacks.push((tag, requeue, answer)),
                Command::Retry(tag, message, delay, answer) => {
                    match self.copy_of(&message, delay.is_some()) {
                        None => writes.nacks.push((tag, true, answer)),
                        Some(kind) => {
                            self.copy(Copy {
                                kind,
                                tag,
                                message,
                                delay,
                                answer,
                                on_its_way,
                            });
                            continue;
                        }
                    }
                }
                Command::Bury(tag, mut message, answer) => match self.grave_of(&message) {
                    None => writes.nacks.push((tag, false, answer)),
                    Some(queue) => {
                        message.envelope = without_deaths(&message.envelope);
                        self.copy(Copy {
                            kind: Kind::Letter(queue, Death::Rejected),
                            tag,
                            message,
                            delay: None,
                            answer,
                            on_its_way,
                        });
                        continue;
                    }
                },
                Command::Leave(leaving, answer) => {
                    self.write(std::mem::take(&mut writes)).await?;
                    self.leave(leaving).await?;
                    let _ = answer.send(());
                }
            }
            on_their_way.push(on_its_way);
        }
        self.write(writes).await
    }

    /// One frame for all acks whose predecessors are settled, and one each for the others.
    async fn write(&mut self, writes: Writes) -> Result<()> {
        let Writes { acks, nacks } = writes;
        let nacked = nacks.iter().map(|(tag, _, _)| tag);
        for tag in acks.iter().map(|(tag, _)| tag).chain(nacked) {
            self.acked.add(*tag);
        }
        let through = self.acked.through;
        let (together, alone): (Vec<_>, Vec<_>) =
            acks.into_iter().partition(|(tag, _)| *tag <= through);
        let channel = self.channel.clone();
        let channel = &channel;
        let nacks = nacks.into_iter().map(async |(tag, requeue, answer)| {
            let written = nack(channel, tag, requeue).await;
            told(written, [answer])
        });
        // Before the frame that acks many: it would ack these as well.
        let nacks = join_all(nacks).await;
        let alone = alone.into_iter().map(async |(tag, answer)| {
            let written = channel.basic_ack(tag, BasicAckOptions::default()).await;
            told(written, [answer])
        });
        let together = async {
            let Some(last) = together.iter().map(|(tag, _)| *tag).max() else {
                return Ok(());
            };
            let options = BasicAckOptions { multiple: true };
            let written = channel.basic_ack(last, options).await;
            told(written, together.into_iter().map(|(_, answer)| answer))
        };
        let together = together.await;
        let alone = join_all(alone).await;
        nacks.into_iter().chain(alone).chain([together]).collect()
    }

    async fn leave(&mut self, leaving: Leaving) -> Result<()> {
        // What was fetched goes back before the next consumer gets anything, which otherwise, where it gets messages one at
        // a time, would get later ones first.
        if !leaving.is_held && self.copying == 0 {
            return self
                .channel
                .close(200, "bye".into())
                .await
                .map_err(classify);
        }
        let Leaving {
            queue,
            mut consumers,
            resizing,
            mut fetched,
            ..
        } = leaving;
        let left = async {
            if let Some(resizing) = resizing {
                consumers.push_back(resizing.await?.1);
            }
            self.cancel(consumers, &mut fetched).await
        };
        left.await.map_err(classify)?;
        // The last one first, so that each goes back in front of its successor.
        let tags: Vec<u64> = fetched
            .iter()
            .rev()
            .map(|(_, one)| one.delivery_tag)
            .collect();
        for tag in &tags {
            self.acked.add(*tag);
        }
        let nacks = tags.iter().map(|tag| nack(&self.channel, *tag, true));
        let written: lapin::Result<()> = join_all(nacks).await.into_iter().collect();
        written.map_err(classify)?;
        if tags.is_empty() {
            self.shared.wake_next_consumer(&queue).await;
        }
        Ok(())
    }

    async fn cancel(
        &mut self,
        mut consumers: VecDeque<Consumer>,
        fetched: &mut VecDeque<Fetched>,
    ) -> lapin::Result<()> {
        if let Some(consumer) = consumers.back() {
            let options = BasicCancelOptions::default();
            self.channel.basic_cancel(consumer.tag(), options).await?;
        }
        for consumer in &mut consumers {
            while let Some(delivery) = consumer.next().await {
                fetched.push_back((Instant::now(), delivery?));
            }
        }
        Ok(())
    }

    fn copy(&mut self, copy: Copy) {
        self.copying += usize::from(self.copies.send(copy).is_ok());
    }

    /// The queue of a message that is rejected, if it is known to make a dead letter of it.
    fn grave_of(&self, message: &Retried) -> Option<Arc<Queue>> {
        let declared = self.shared.declared(&message.queue);
        declared.filter(|queue| !message.is_orphan && queue.get_dead_letter_exchange().is_some())
    }

    /// What is put in the message's place, where a return to the queue wouldn't count, or can't wait. `None`: it is to be
    /// returned.
    fn copy_of(&self, message: &Retried, is_delayed: bool) -> Option<Kind> {
        let failures = message.failures;
        let declared = self.shared.declared(&message.queue);
        let most = declared
            .as_ref()
            .and_then(|queue| queue.get_max_deliveries());
        let is_last = most.is_some_and(|most| failures.all().saturating_add(1) >= most);
        let counts = declared.as_deref().is_some_and(counts_deliveries);
        // A copy is new to its queue, which counts from the beginning.
        if counts && (!is_delayed && !is_last || is_last && failures.copied == 0) {
            return None;
        }
        Some(match declared {
            Some(queue) if is_last => Kind::Letter(queue, Death::DeliveryLimit),
            _ => Kind::Retry,
        })
    }

    /// The copy is there, and the message can go; or it isn't, and the message goes back.
    async fn copied(&mut self, copied: Copied) -> Result<()> {
        let Copied {
            tag,
            answer,
            is_lost,
        } = copied;
        self.copying -= 1;
        if is_lost {
            return Err(settle_lost());
        }
        self.acked.add(tag);
        match answer {
            Some((answer, _on_its_way)) => {
                let options = BasicAckOptions::default();
                let written = self.channel.basic_ack(tag, options).await;
                told(written, [answer])
            }
            None => {
                let written = nack(&self.channel, tag, true).await;
                written.map_err(classify)
            }
        }
    }
}

/// Whether the queue itself counts how often a message came back.
fn counts_deliveries(queue: &Queue) -> bool {
    queue.get_queue_type() == Some(QueueType::Quorum) || queue.get_max_deliveries().is_some()
}

async fn nack(channel: &Channel, tag: u64, requeue: bool) -> lapin::Result<()> {
    let options = BasicNackOptions {
        multiple: false,
        requeue,
    };
    channel.basic_nack(tag, options).await
}

/// Tells those who wait whether their settles were written.
fn told(written: lapin::Result<()>, answers: impl IntoIterator<Item = Answer>) -> Result<()> {
    for answer in answers {
        drop(answer.send(match written {
            Ok(()) => Ok(()),
            Err(_) => Err(settle_lost()),
        }));
    }
    written.map_err(classify)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_tag_is_acked_with_others_when_all_before_it_are_settled() {
        let mut random = fastrand::Rng::with_seed(5);
        for _ in 0..100 {
            let mut tags: Vec<u64> = (1..=50).collect();
            random.shuffle(&mut tags);
            let (mut acked, mut settled) = (Acked::default(), BTreeSet::new());
            for tag in tags {
                acked.add(tag);
                settled.insert(tag);
                let through = (1..).take_while(|tag| settled.contains(tag)).count();
                assert_eq!(acked.through, through as u64);
            }
            assert!(acked.beyond.is_empty());
        }
    }

    #[test]
    fn what_is_settled_behind_a_delivery_that_is_held_takes_no_room() {
        let mut acked = Acked::default();
        // The first one is held, and another one in the middle.
        for tag in (2..=100_000).filter(|tag| *tag != 50_000) {
            acked.add(tag);
            assert!(acked.beyond.len() <= 2);
        }
        acked.add(50_000);
        acked.add(1);
        assert_eq!((acked.through, acked.beyond.len()), (100_000, 0));
    }
}
