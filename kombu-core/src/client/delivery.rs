use std::fmt;
use std::future::pending;
use std::mem;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use kombu_serializers::{self as serializers, Accept};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep_until};

use crate::declare::{DeclareMode, Exchange, Queue};
use crate::driver::{BoxFuture, Outcome, RawDelivery, Settle, Tag};
use crate::engine::Session;
use crate::error::{Error, ErrorKind, Result};
use crate::message::{Content, Envelope};
use crate::name::Name;

use super::held::Held;
use super::indexed::Indexed;
use super::intercept::{Interceptors, received};
use super::plain::Plain;
use super::processing::{Processing, Taking};
use super::{Connection, Producer, Settling};

/// What becomes of a delivery that could not be decoded and is dropped without being settled.
///
/// In files: `dead-letter-or-hold`, `hold`, `reject`, `release`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum UndecodablePolicy {
    /// Rejected if its queue has a dead-letter exchange, else held until the consumer closes, or for as long as the
    /// broker bears. As [`Delivery::take`] says.
    #[default]
    DeadLetterOrHold,
    /// Held until the consumer closes, or for as long as the broker bears, whatever its queue has.
    Hold,
    /// Rejected, which discards it where the queue has no dead-letter exchange.
    Reject,
    /// Released: it comes again at once, to this consumer or another one.
    Release,
}

/// What the deliveries of one consumer have in common; one reference count for each of them.
pub(crate) struct Link {
    pub(super) settler: Arc<dyn Settle>,
    /// By the subscription's numbers.
    pub(super) queues: Indexed<LinkQueue>,
    pub(crate) serializers: serializers::Registry,
    pub(super) accept: Accept,
    pub(super) no_ack: bool,
    /// What was dropped and isn't given back yet. `None` for a single get: nothing would close there, so
    /// everything is released.
    pub(super) held: Option<Held>,
    /// Deliveries that are neither settled nor dropped.
    pub(super) deliveries: AtomicUsize,
    /// The connection is being drained: the consumer stops, and settles are of interest.
    pub(super) stopping: AtomicBool,
    pub(super) interceptors: Interceptors,
    pub(super) undecodable: UndecodablePolicy,
    /// `None` if deliveries may be held for as long as somebody likes.
    pub(super) processing: Option<Processing>,
    /// What deliveries are answered with, once one is.
    pub(super) replying: OnceCell<Producer>,
    /// The session that all of this belongs to.
    pub(super) session: Arc<Session>,
    /// Keeps the session: what was delivered can be settled while somebody holds it.
    pub(super) connection: Connection,
}

pub(super) struct LinkQueue {
    pub(super) name: Name,
    /// Whether a reject moves the message instead of discarding it, as far as that is known: this
    /// connection has to have declared the queue, and not just verified its name.
    pub(super) dead_letters: bool,
}

impl LinkQueue {
    /// A queue that was declared in this mode, if its declaration doesn't say otherwise.
    pub(super) fn new(queue: &Queue, mode: DeclareMode) -> Self {
        let mode = queue.declare_mode().unwrap_or(mode);
        LinkQueue {
            name: queue.name().clone(),
            dead_letters: mode == DeclareMode::Ensure && queue.get_dead_letter_exchange().is_some(),
        }
    }
}

impl Link {
    /// What deliveries are answered with.
    pub(crate) async fn replying(&self) -> Result<&Producer> {
        if let Some(producer) = self.replying.get() {
            return Ok(producer);
        }
        // From here on, whoever else opens it.
        let end = self.connection.deadline();
        let open = || {
            self.connection
                .producer(Exchange::default())
                .by(end)
                .into_future()
        };
        let opening = self.replying.get_or_try_init(open);
        self.connection.connected_by(end, opening).await
    }

    /// Has the consumer end when it is polled next, which is now. From here on every delivery that is settled or
    /// dropped tells, unless the count doesn't have it any more.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        if let Some(held) = &self.held {
            held.wake();
        }
    }

    /// Gives back what was held, and holds nothing any more.
    pub(super) fn release_held(&self) {
        if let Some(held) = &self.held {
            self.release(held.close());
        }
    }

    /// Gives back what was put off until then.
    pub(super) fn release_due(&self, now: Instant) {
        if let Some(held) = &self.held {
            self.release(held.take_due(now));
        }
    }

    /// Gives back what was put off, due or not.
    pub(super) fn release_put_off(&self) {
        if let Some(held) = &self.held {
            self.release(held.take_put_off());
        }
    }

    /// Gives back what can't be decoded and was held for as long as the broker bears, and answers when to look again.
    pub(super) fn release_overdue(&self, now: Instant) -> Option<Instant> {
        let (overdue, next) = self.held.as_ref()?.take_overdue(now);
        for tag in overdue.iter().filter(|tag| self.settler.holds(**tag)) {
            let queue = self.queue_name(tag.queue);
            tracing::warn!(%queue, "a delivery that can't be handled was held for as long as the broker allows: released");
        }
        self.release(overdue);
        next
    }

    /// Gives back a message that waited here for too long to be handed out; `None` if it did.
    #[inline]
    pub(super) fn fresh(&self, raw: RawDelivery) -> Option<RawDelivery> {
        match &self.processing {
            Some(processing) if processing.is_stale(raw.waited) => {
                self.release_stale(&raw);
                None
            }
            _ => Some(raw),
        }
    }

    #[cold]
    fn release_stale(&self, raw: &RawDelivery) {
        let (queue, waited) = (self.queue_name(raw.queue), raw.waited);
        tracing::warn!(%queue, ?waited, "a message was fetched too long ago to be handled in time: released");
        let (queue, id) = (raw.queue, raw.id);
        self.release([Tag { queue, id }]);
    }

    /// Gives back what was held of one queue.
    pub(super) fn release_held_from(&self, queue: u16) {
        if let Some(held) = &self.held {
            self.release(held.take_from(queue));
        }
    }

    /// Gives back a delivery that was held for longer than this, as one that failed.
    pub(super) fn retry_overdue(&self, tag: Tag, limit: Duration) {
        let queue = self.queue_name(tag.queue);
        tracing::warn!(%queue, ?limit, "a delivery was held too long: retried");
        let outcome = Outcome::Retry { delay: None };
        let outcome = self.intercepted(queue, outcome).unwrap_or_else(|_| {
            tracing::error!(%queue, "an interceptor panicked when a delivery was taken back");
            outcome
        });
        // It may be settled at this very moment.
        drop(self.settler.settle(tag, outcome));
    }

    /// The outcome that the interceptors make of this one, or what one of them panicked with.
    #[inline]
    fn intercepted(&self, queue: &Name, outcome: Outcome) -> thread::Result<Outcome> {
        if self.interceptors.is_empty() {
            return Ok(outcome);
        }
        catch_unwind(AssertUnwindSafe(|| {
            let interceptors = self.interceptors.iter();
            interceptors.fold(outcome, |outcome, interceptor| {
                interceptor.on_settle(queue, outcome)
            })
        }))
    }

    fn release(&self, tags: impl IntoIterator<Item = Tag>) {
        for tag in tags {
            // A session that is gone has given back everything already.
            drop(self.settler.settle(tag, Outcome::Release));
        }
    }

    pub(super) fn queue_name(&self, index: u16) -> &Name {
        const NOWHERE: &Name = &Name::EMPTY;
        self.queues.get(index).map_or(NOWHERE, |queue| &queue.name)
    }

    fn decode<'de, T: Deserialize<'de>>(
        &self,
        content: &'de Content,
        plain: &'de Plain,
    ) -> Result<T> {
        let codec = self.serializers.decoder_for(
            content.content_type(),
            content.content_encoding(),
            &self.accept,
        )?;
        Ok(codec.decode(self.plain_body(content, plain)?)?)
    }

    #[inline]
    fn plain_body<'a>(&self, content: &'a Content, plain: &'a Plain) -> Result<&'a Bytes> {
        let limit = self.connection.inner().max_decompressed_size;
        plain.of(content, &self.serializers, limit)
    }
}

/// A message that a queue handed to us, and the duty to settle it.
///
/// Everything that the message has is reached through [`Content`], to which a delivery dereferences. Settling
/// takes the delivery, so settling twice doesn't compile:
///
/// ```compile_fail
/// # async fn twice(delivery: kombu::Delivery) -> kombu::Result<()> {
/// delivery.ack().await?;
/// delivery.ack().await
/// # }
/// ```
///
/// # Drop
///
/// A delivery that is dropped unsettled is released with a warning: it goes back to its original position. One that
/// had been handed out before goes back 100 ms later, or when its consumer pauses or closes, so that a message that
/// nobody settles doesn't come as fast as it can; until then it counts against the window. A delivery is never acked. If its body could not be decoded, see [`take`](Delivery::take).
pub struct Delivery {
    envelope: Envelope,
    plain: Plain,
    acker: Acker,
}

impl Delivery {
    #[inline]
    pub(super) fn new(raw: RawDelivery, link: Arc<Link>) -> Self {
        let settled = link.no_ack;
        link.deliveries.fetch_add(1, Ordering::Relaxed);
        if let Some(processing) = &link.processing {
            let (queue, id) = (raw.queue, raw.id);
            processing.begin(Tag { queue, id }, raw.waited);
        }
        Delivery {
            envelope: raw.envelope,
            plain: Plain::default(),
            acker: Acker {
                link,
                id: raw.id,
                failures: raw.failures,
                queue: raw.queue,
                redelivered: raw.redelivered,
                settled,
                recalled: false,
                undecodable: AtomicBool::new(false),
            },
        }
    }

    /// What the interceptors make of the message. It borrows nothing, so the delivery can be settled meanwhile.
    pub(super) fn intercepted(&self) -> BoxFuture<'static, Result<Content>> {
        let interceptors = self.acker.link.interceptors.clone();
        Box::pin(received(interceptors, (*self.envelope).clone()))
    }

    /// Takes what the interceptors made of the message. After an error it counts as undecodable.
    pub(super) fn replace(&mut self, content: Result<Content>) -> Result<()> {
        match content {
            Ok(content) => self.envelope = Envelope::new(self.envelope.publish_id(), content),
            Err(error) => {
                self.acker.undecodable.store(true, Ordering::Relaxed);
                return Err(error);
            }
        }
        Ok(())
    }

    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.acker.link
    }

    /// The message, beside the delivery.
    pub(crate) fn message(&self) -> Message {
        Message {
            envelope: self.envelope.clone(),
            plain: self.plain.clone(),
            link: self.acker.link.clone(),
        }
    }

    /// Does with it what is done with one that can't be decoded.
    pub(crate) fn give_up(self) {
        self.acker.undecodable.store(true, Ordering::Relaxed);
    }

    /// What takes it back from whoever has it when it was held for too long; `None` if there is no limit. Fails if it was held
    /// for too long already, and is no longer ours.
    pub(crate) fn recall(&self) -> Result<Option<Recall>> {
        let Some(processing) = &self.acker.link.processing else {
            return Ok(None);
        };
        let due = processing.entrust(self.acker.tag());
        Ok(Some(Recall {
            due: due.ok_or_else(held_too_long)?,
            message: self.message(),
            tag: self.acker.tag(),
            failures: self.acker.failures,
            redelivered: self.acker.redelivered,
        }))
    }

    /// The queue that it came from.
    pub fn queue(&self) -> &Name {
        self.acker.link.queue_name(self.acker.queue)
    }

    /// The queue's number in its subscription.
    pub(super) fn queue_index(&self) -> u16 {
        self.acker.queue
    }

    /// Whether it was handed out before, to whomever.
    pub fn redelivered(&self) -> bool {
        self.acker.redelivered
    }

    /// Which counted try this is: 1 for the first. Retries count, releases don't, where the broker can tell.
    pub fn attempt(&self) -> u32 {
        self.acker.failures.saturating_add(1)
    }

    /// Resolves when the delivery is no longer ours, because its session has ended or it was held for too long
    /// ([`OpenConsumer::max_processing_time`](super::OpenConsumer::max_processing_time)): the message comes again, to
    /// whomever, and settling it fails with [`ErrorKind::SettleLost`]. In a [component](crate::handler) a question that was held for
    /// too long is answered with a failure instead, if it can be.
    ///
    /// A handler that waits for it beside its work can stop early. Cancel safe.
    pub async fn lost(&self) {
        let closed = self.acker.link.session.driver.closed();
        let Some(processing) = &self.acker.link.processing else {
            drop(closed.await);
            return;
        };
        tokio::select! {
            biased;
            _ = closed => {}
            () = processing.taken(self.acker.tag()) => {}
        }
    }

    /// Decodes the body with the codec of its content type, borrowing from it where `T` allows. A compressed one
    /// is decompressed first, and kept beside it.
    ///
    /// A borrowed value ends the delivery's freedom to be settled; [`split`](Delivery::split) separates the
    /// two. Write the type: `decode::<T>()`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Undecodable`]; [`ErrorKind::ContentRefused`] if the content type isn't on the accept list;
    /// [`ErrorKind::UnknownSerializer`] if nothing is registered for it, or for its compression. Nothing is decoded in
    /// the last two cases. The delivery is then marked, and dropping it unsettled does what [`take`](Delivery::take)
    /// says; a later decode that succeeds takes the mark off.
    pub fn decode<'de, T: Deserialize<'de>>(&'de self) -> Result<T> {
        let decoded = self.acker.link.decode(&self.envelope, &self.plain);
        self.acker
            .undecodable
            .store(decoded.is_err(), Ordering::Relaxed);
        decoded.map_err(|error| self.undecodable(error))
    }

    /// The body that a codec reads: [`body`](Content::body) itself, or what it comes to if it is compressed. For bodies
    /// that have no codec, such as images.
    ///
    /// It is decompressed once and then kept, whatever the accept list says.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::UnknownSerializer`] if nothing is registered for its compression; [`ErrorKind::Undecodable`] if it isn't
    /// what its compression makes, or comes to more than the connection's
    /// [`max_decompressed_size`](super::ConnectionBuilder::max_decompressed_size). The delivery is then marked, as by
    /// [`decode`](Delivery::decode).
    pub fn plain_body(&self) -> Result<&Bytes> {
        let plain = self.acker.link.plain_body(&self.envelope, &self.plain);
        plain.map_err(|error| {
            self.acker.undecodable.store(true, Ordering::Relaxed);
            self.undecodable(error)
        })
    }

    #[cold]
    fn undecodable(&self, error: Error) -> Error {
        error.during("decode").with_context(&format!(
            "message from queue `{}` (exchange `{}`, key `{}`)",
            self.queue(),
            self.exchange(),
            self.routing_key()
        ))
    }

    /// Decodes the body into a value that owns its parts, and keeps the delivery.
    ///
    /// # Errors
    ///
    /// Those of [`decode`](Delivery::decode). The error carries the delivery, raw body included
    /// ([`Error::into_delivery`]). If the error is dropped instead, the message is rejected into the queue's
    /// dead-letter exchange, if this consumer declared the queue with one. If not, the message is held until the
    /// consumer closes and goes back then, on RabbitMQ after 25 min if that is sooner: so neither is it lost, nor does it come again at once and for ever. Held deliveries
    /// count against the consumer's window, and the consumer ends with [`ErrorKind::Undecodable`] when they
    /// fill it. After a single [`get`](super::Connection::get), and when the consumer has closed before, the message is
    /// released. [`on_undecodable`](super::OpenConsumer::on_undecodable) says otherwise.
    pub fn take<T: DeserializeOwned>(self) -> Result<(T, Delivery)> {
        match self.decode::<T>() {
            Ok(value) => Ok((value, self)),
            Err(error) => Err(error.with_delivery(self)),
        }
    }

    /// Separates what was delivered from the duty to settle it.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> kombu::Result<()> {
    /// # let connection = kombu::connect("memory://").await?;
    /// # connection.declare_queue(&kombu::Queue::new("names")).await?;
    /// # let producer = connection.producer(kombu::Exchange::default()).await?;
    /// # producer.publish(&"Ada").routing_key("names").await?;
    /// # let delivery = connection.get("names").await?.expect("a message");
    /// let (message, acker) = delivery.split();
    /// let name = message.decode::<&str>()?; // borrows from the body
    /// acker.ack().await?;
    /// assert_eq!(name, "Ada");
    /// # Ok(())
    /// # }
    /// ```
    pub fn split(self) -> (Message, Acker) {
        let message = Message {
            envelope: self.envelope,
            plain: self.plain,
            link: self.acker.link.clone(),
        };
        (message, self.acker)
    }

    /// Done: the broker forgets the message.
    #[inline]
    pub fn ack(self) -> Settling {
        self.acker.ack()
    }

    /// Not our turn: back to its original position, not counted as a failure where the broker can tell.
    pub fn release(self) -> Settling {
        self.acker.release()
    }

    /// Failed: back to this queue, counted.
    pub fn retry(self) -> Settling {
        self.acker.retry()
    }

    /// Failed: back to this queue and counted, but invisible until `delay` is over.
    ///
    /// # Errors
    ///
    /// When awaited: [`ErrorKind::Unsupported`] where the transport can't delay; the message is released then.
    pub fn retry_after(self, delay: Duration) -> Settling {
        self.acker.retry_after(delay)
    }

    /// Given up: to the queue's dead-letter exchange, or discarded if it has none.
    pub fn reject(self) -> Settling {
        self.acker.reject()
    }
}

impl Deref for Delivery {
    type Target = Content;

    fn deref(&self) -> &Content {
        &self.envelope
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("queue", self.queue())
            .field("attempt", &self.attempt())
            .field("redelivered", &self.redelivered())
            .field("content", &**self)
            .finish()
    }
}

/// Looks after the time of a delivery in place of its consumer, for as long as it is kept.
pub(crate) struct Recall {
    due: Instant,
    message: Message,
    tag: Tag,
    failures: u32,
    redelivered: bool,
}

impl Recall {
    /// The delivery when it was held for too long, taken from whoever has it: settling that one is
    /// [`ErrorKind::SettleLost`]. There is no limit on what is taken back. `None` if it was retried already, because nobody
    /// asked here in time. Never resolves if it is settled before.
    pub(crate) async fn overdue(&self) -> Option<Delivery> {
        sleep_until(self.due).await;
        let link = &self.message.link;
        let taking = link.processing.as_ref().map(|held| held.take(self.tag));
        match taking {
            Some(Taking::Taken) => {}
            Some(Taking::WasTaken) => return None,
            Some(Taking::Settled) | None => return pending().await,
        }
        link.deliveries.fetch_add(1, Ordering::Relaxed);
        Some(Delivery {
            envelope: self.message.envelope.clone(),
            plain: self.message.plain.clone(),
            acker: Acker {
                link: link.clone(),
                id: self.tag.id,
                failures: self.failures,
                queue: self.tag.queue,
                redelivered: self.redelivered,
                settled: false,
                recalled: true,
                undecodable: AtomicBool::new(false),
            },
        })
    }
}

impl Drop for Recall {
    fn drop(&mut self) {
        if let Some(processing) = &self.message.link.processing {
            processing.end_trust(self.tag);
        }
    }
}

/// A message apart from its delivery; it can be kept and decoded at any time.
#[derive(Clone)]
pub struct Message {
    envelope: Envelope,
    plain: Plain,
    link: Arc<Link>,
}

impl Message {
    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Decodes the body, borrowing from it where `T` allows. Write the type: `decode::<T>()`.
    ///
    /// # Errors
    ///
    /// As [`Delivery::decode`], without its effect on the delivery.
    pub fn decode<'de, T: Deserialize<'de>>(&'de self) -> Result<T> {
        self.link
            .decode(&self.envelope, &self.plain)
            .map_err(|error| error.during("decode"))
    }

    /// The body that a codec reads, decompressed if need be; as [`Delivery::plain_body`], without its effect on the
    /// delivery.
    ///
    /// # Errors
    ///
    /// Those of [`Delivery::plain_body`].
    pub fn plain_body(&self) -> Result<&Bytes> {
        self.link
            .plain_body(&self.envelope, &self.plain)
            .map_err(|error| error.during("decode"))
    }
}

impl Deref for Message {
    type Target = Content;

    fn deref(&self) -> &Content {
        &self.envelope
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Message").field(&**self).finish()
    }
}

/// The duty to settle a delivery, apart from its message.
///
/// # Drop
///
/// As a [`Delivery`].
pub struct Acker {
    link: Arc<Link>,
    id: u64,
    failures: u32,
    queue: u16,
    redelivered: bool,
    settled: bool,
    /// Taken back from whoever held it for too long: there is no limit any more.
    recalled: bool,
    /// Set while the last decode has failed.
    undecodable: AtomicBool,
}

impl Acker {
    /// As [`Delivery::ack`].
    #[inline]
    pub fn ack(self) -> Settling {
        self.settle(Outcome::Ack)
    }

    /// As [`Delivery::release`].
    pub fn release(self) -> Settling {
        self.settle(Outcome::Release)
    }

    /// As [`Delivery::retry`].
    pub fn retry(self) -> Settling {
        self.settle(Outcome::Retry { delay: None })
    }

    /// As [`Delivery::retry_after`].
    pub fn retry_after(self, delay: Duration) -> Settling {
        self.settle(Outcome::Retry { delay: Some(delay) })
    }

    /// As [`Delivery::reject`].
    pub fn reject(self) -> Settling {
        self.settle(Outcome::Reject)
    }

    #[inline]
    fn settle(mut self, outcome: Outcome) -> Settling {
        if self.settled {
            return Settling::failed(Error::new(
                ErrorKind::NotSettleable,
                format!(
                    "{outcome} of a delivery from queue `{}`, whose consumer asked for `no_ack`: the broker \
                     forgot it when it handed it out",
                    self.link.queue_name(self.queue)
                ),
            ));
        }
        self.settled = true;
        if !self.is_ours() {
            return Settling::failed(held_too_long());
        }
        let outcome = match self.intercepted(outcome) {
            Ok(outcome) => outcome,
            Err(panic) => {
                if !self.put_off() {
                    drop(self.link.settler.settle(self.tag(), Outcome::Release));
                }
                resume_unwind(panic)
            }
        };
        Settling::new(self.link.settler.settle(self.tag(), outcome), || {
            let limit = self.link.connection.inner().engine.deadlines.settle;
            (outcome, self.link.queue_name(self.queue).clone(), limit)
        })
    }

    /// The outcome that the interceptors make of this one, or what one of them panicked with.
    #[inline]
    fn intercepted(&self, outcome: Outcome) -> thread::Result<Outcome> {
        let queue = self.link.queue_name(self.queue);
        self.link.intercepted(queue, outcome)
    }

    fn tag(&self) -> Tag {
        Tag {
            queue: self.queue,
            id: self.id,
        }
    }

    /// Whether it wasn't taken away. Asked once, when it is settled.
    #[inline]
    fn is_ours(&self) -> bool {
        let processing = self.link.processing.as_ref();
        processing.is_none_or(|processing| processing.end(self.tag(), self.recalled))
    }

    /// Has one that was handed out before given back in a moment: it would come again as fast as it can. False if it is to
    /// be given back at once.
    #[cold]
    fn put_off(&self) -> bool {
        let held = self.link.held.as_ref().filter(|_| self.redelivered);
        let Some(due) = held.and_then(|held| held.put_off(self.tag())) else {
            return false;
        };
        let later = &self.link.connection.inner().later;
        if !later.give_back(due, Arc::downgrade(&self.link)) {
            self.link.release_put_off();
        }
        true
    }

    /// Nobody settled it.
    #[cold]
    fn abandon(&mut self) {
        let processing = self.link.processing.as_ref();
        let until = processing.and_then(|processing| processing.until(self.tag()));
        if !self.is_ours() {
            return;
        }
        let queue = self.link.queue_name(self.queue);
        let undecodable = *self.undecodable.get_mut();
        let dead_letters = self
            .link
            .queues
            .get(self.queue)
            .is_some_and(|queue| queue.dead_letters);
        let policy = self.link.undecodable;
        let rejects = match policy {
            UndecodablePolicy::DeadLetterOrHold => dead_letters,
            UndecodablePolicy::Reject => true,
            UndecodablePolicy::Hold | UndecodablePolicy::Release => false,
        };
        let holds = !rejects && policy != UndecodablePolicy::Release;
        let outcome = match undecodable && rejects {
            true => Outcome::Reject,
            false => Outcome::Release,
        };
        let outcome = self.intercepted(outcome).unwrap_or_else(|_| {
            tracing::error!(%queue, "an interceptor panicked when a delivery was dropped");
            Outcome::Release
        });
        if outcome == Outcome::Release
            && let Some(held) = &self.link.held
        {
            if undecodable && holds && held.hold(self.tag(), until) {
                if let Some(processing) = &self.link.processing {
                    processing.look();
                }
                tracing::warn!(%queue, "a delivery that can't be handled was dropped: held until the consumer closes, or for as long as the broker allows");
                return;
            }
            if self.put_off() {
                tracing::warn!(%queue, "a delivery was dropped unsettled again: released in a moment");
                return;
            }
        }
        match outcome {
            Outcome::Release => {
                tracing::warn!(%queue, "a delivery was dropped unsettled: released")
            }
            _ => {
                tracing::warn!(%queue, undecodable, dead_letters, %outcome, "a delivery was dropped unsettled")
            }
        }
        // The warning is all that there is to say; a lost session has released it already.
        drop(self.link.settler.settle(self.tag(), outcome));
    }
}

#[cold]
fn held_too_long() -> Error {
    Error::new(
        ErrorKind::SettleLost,
        "the delivery was held for longer than its consumer's `max_processing_time`, and was taken back",
    )
}

impl Drop for Acker {
    #[inline]
    fn drop(&mut self) {
        if !self.settled {
            self.abandon();
        }
        self.link.deliveries.fetch_sub(1, Ordering::SeqCst);
        if self.link.stopping.load(Ordering::SeqCst) {
            self.link.connection.inner().open.count_settled();
        }
    }
}

impl fmt::Debug for Acker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acker")
            .field("queue", self.link.queue_name(self.queue))
            .finish_non_exhaustive()
    }
}

// A delivery is moved through channels and select loops: keep it within a cache line.
const _: () = assert!(mem::size_of::<Delivery>() <= 48);
const _: () = assert!(mem::size_of::<Error>() == 8);
