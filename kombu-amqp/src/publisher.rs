use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::SystemTime;

use kombu_core::declare::Queue;
use kombu_core::driver::{BoxFuture, Confirm, Confirmation, Op, Publisher};
use kombu_core::message::Envelope;
use kombu_core::virt::{self, Death};
use kombu_core::{Error, ErrorKind, Name, Result};
use lapin::Channel;
use lapin::options::ConfirmSelectOptions;
use tokio::sync::{mpsc, oneshot};
use tokio::task::yield_now;

use crate::caller::{self, Consumers, DirectReplies};
use crate::error::{Culprit, classify, culprit, is_refusal, lost, same};
use crate::fields::short;
use crate::ladder::{self, Steps};
use crate::lines::Line;
use crate::message::{
    self, Failures, Properties, properties_delayed, properties_of_letter, properties_of_retry,
};
use crate::pipeline::{Pipeline, Publishing, publish};
use crate::returns::{Confirmed, Outstanding, Returns};
use crate::room::{Place, Room};
use crate::session::Shared;

/// How many calls the task takes at once.
const BATCH: usize = 1024;

/// Publishes over one channel, in a task of its own: whatever waits while it writes goes out together.
pub(crate) struct AmqpPublisher {
    /// Bounded by the room.
    calls: mpsc::UnboundedSender<Call>,
    room: Arc<Room>,
    shared: Arc<Shared>,
}

struct Call {
    exchange: Name,
    properties: Properties,
    envelope: Envelope,
    delay: Option<Steps>,
    answer: oneshot::Sender<Result<Confirmation>>,
    place: Place,
}

impl AmqpPublisher {
    pub(crate) async fn open(shared: Arc<Shared>) -> Result<Self> {
        Self::open_with(shared, None).await
    }

    /// Opens one on whose channel answers come in.
    pub(crate) async fn calling(shared: Arc<Shared>) -> Result<(Self, DirectReplies)> {
        let (consumers, receiver) = mpsc::unbounded_channel();
        let replies = DirectReplies::new(shared.clone(), receiver);
        Ok((Self::open_with(shared, Some(consumers)).await?, replies))
    }

    async fn open_with(shared: Arc<Shared>, replies: Option<Consumers>) -> Result<Self> {
        let (channel, line) = open_channel(&shared, replies.as_ref()).await?;
        let (calls, receiver) = mpsc::unbounded_channel();
        let task = Task {
            shared: shared.clone(),
            replies,
            channel: Arc::new(channel),
            line,
            returns: Returns::default(),
            frame_max: shared.lines.frame_max() as usize,
            again: VecDeque::new(),
            one_by_one: false,
        };
        tokio::spawn(task.run(receiver));
        Ok(AmqpPublisher {
            calls,
            room: Arc::new(Room::new(shared.under_way.clone())),
            shared,
        })
    }

    /// Hands a message to the task: at once if there is room.
    fn call(
        &self,
        envelope: &Envelope,
        exchange: Name,
        properties: Properties,
        delay: Option<Steps>,
    ) -> Op<Result<Confirm>> {
        let envelope = envelope.clone();
        let bytes = envelope.body().len();
        let mut place = self.room.one();
        let call = move |place: Place| {
            let (answer, receiver) = oneshot::channel();
            let call = Call {
                exchange,
                properties,
                envelope,
                delay,
                answer,
                place,
            };
            (call, receiver)
        };
        if place.try_fill(bytes) {
            return Op::ready(send(&self.calls, call(place)));
        }
        let calls = self.calls.clone();
        Op::start(async move {
            place.fill(bytes).await;
            send(&calls, call(place))
        })
    }

    /// Puts a copy with another failure at the end of a queue, or has it come there later. It is on its way when this
    /// returns, and the broker has it when the answer resolves.
    pub(crate) async fn publish_retry(
        &self,
        envelope: &Envelope,
        queue: &Name,
        failures: Failures,
        delay: Option<Steps>,
    ) -> Result<BoxFuture<'static, Result<()>>> {
        let failed = failures.all().saturating_add(1);
        let properties = properties_of_retry(envelope, queue, failed, delay)?;
        self.shared.ladder.lead_back(&self.shared, queue).await?;
        let exchange = match delay {
            Some(steps) => {
                let ladder = &self.shared.ladder;
                ladder.lead(&self.shared, steps, &ladder::RETRIES).await?;
                steps.entry()
            }
            None => ladder::RETRIES,
        };
        let properties = Properties::Made(Box::new(properties));
        let confirm = self.call(envelope, exchange, properties, None).await?;
        let (shared, queue) = (self.shared.clone(), queue.clone());
        Ok(Box::pin(async move {
            match confirm.await?.last() {
                Confirmation::Acked { routed: true } => Ok(()),
                Confirmation::Nacked { reason } => Err(Error::new(ErrorKind::Nacked, reason)),
                _ => {
                    shared.ladder.forget(&queue).await;
                    Err(Error::new(
                        ErrorKind::NotFound,
                        format!(
                            "the way back to queue `{queue}` is gone; the message is where it was"
                        ),
                    ))
                }
            }
        }))
    }

    /// Publishes what becomes of a message that was delivered too often.
    pub(crate) fn publish_letter(
        &self,
        envelope: &Envelope,
        queue: &Queue,
        death: Death,
    ) -> BoxFuture<'static, Result<()>> {
        let letter = virt::letter(envelope, queue, death, SystemTime::now());
        let call = properties_of_letter(&letter).map(|properties| {
            let properties = Properties::Made(Box::new(properties));
            self.call(&letter, letter.exchange().clone(), properties, None)
        });
        let queue = queue.name().clone();
        Box::pin(async move {
            let discarded = match call?.await?.await.map(Confirmation::last) {
                Ok(Confirmation::Nacked { reason }) => {
                    return Err(Error::new(ErrorKind::Nacked, reason));
                }
                Ok(answer) => answer != Confirmation::Acked { routed: true },
                Err(error) if error.kind() == ErrorKind::NotFound => true,
                Err(error) => return Err(error),
            };
            if discarded {
                tracing::warn!(%queue, "a dead letter leads nowhere and is discarded");
            }
            Ok(())
        })
    }
}

fn send(
    calls: &mpsc::UnboundedSender<Call>,
    (call, receiver): (Call, oneshot::Receiver<Result<Confirmation>>),
) -> Result<Confirm> {
    match calls.send(call) {
        Ok(()) => Ok(Op::pending(async move {
            receiver.await.unwrap_or_else(|_| Err(ended()))
        })),
        Err(_) => Err(ended()),
    }
}

async fn open_channel(
    shared: &Shared,
    replies: Option<&Consumers>,
) -> Result<(Channel, Arc<Line>)> {
    let lines = &shared.lines;
    let opening = async {
        loop {
            let (channel, line) = lines.publishing_channel().await?;
            match prepare(&channel, replies).await {
                // Over what another publisher did.
                Err(_) if lines.goes_on_without(&line).await => {}
                Err(error) => return Err(classify(error)),
                Ok(()) => return Ok((channel, line)),
            }
        }
    };
    lines.while_open(opening).await
}

async fn prepare(channel: &Channel, replies: Option<&Consumers>) -> lapin::Result<()> {
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    if let Some(replies) = replies {
        let consumer = caller::consume(channel).await?;
        // If nobody wants the answers any more, they come to nobody.
        drop(replies.send(consumer));
    }
    Ok(())
}

fn ended() -> Error {
    lost("the session has ended")
}

impl Publisher for AmqpPublisher {
    fn publish(&self, envelope: &Envelope) -> Op<Result<Confirm>> {
        let marks = self.shared.marks_own_messages();
        let origin = marks.then(|| envelope.publish_id().origin());
        let prepared = match envelope.delay() {
            None => Properties::own(envelope, origin).map(|own| (own, None)),
            Some(delay) => delayed(envelope, origin, delay),
        };
        match prepared {
            Ok((properties, delay)) => {
                self.call(envelope, envelope.exchange().clone(), properties, delay)
            }
            Err(error) => Op::ready(Err(error)),
        }
    }
}

fn delayed(
    envelope: &Envelope,
    origin: Option<u32>,
    delay: std::time::Duration,
) -> Result<(Properties, Option<Steps>)> {
    if envelope.expiration().is_some() {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "RabbitMQ takes the expiration off a message that waits for its delay; leave one of the two out, or give the \
             queue a `message_ttl`",
        ));
    }
    let steps = Steps::new(delay)?;
    let properties = properties_delayed(envelope, origin, steps)?;
    Ok((Properties::Made(Box::new(properties)), Some(steps)))
}

struct Task {
    shared: Arc<Shared>,
    /// Where the answers of a caller come in.
    replies: Option<Consumers>,
    channel: Arc<Channel>,
    /// What the channel is of.
    line: Arc<Line>,
    returns: Returns,
    frame_max: usize,
    /// What the broker didn't answer before it closed the channel.
    again: VecDeque<Outstanding>,
    /// One of them may be what it closed the channel over, and nobody knows which.
    one_by_one: bool,
}

impl Task {
    async fn run(mut self, mut calls: mpsc::UnboundedReceiver<Call>) {
        let mut pipeline = Pipeline::new();
        let (mut batch, mut answers) = (Vec::new(), Vec::new());
        let closed = self.shared.lines.closed();
        tokio::pin!(closed);
        let mut open = true;
        while open || !pipeline.is_empty() {
            tokio::select! {
                biased;
                _ = &mut closed => return,
                () = poll_fn(|context| pipeline.poll_answers(context, &mut answers)) => {
                    if let Err(error) = self.confirmed(&mut answers) {
                        let error = tokio::select! {
                            _ = &mut closed => return,
                            error = self.reason(error, &mut pipeline) => error,
                        };
                        pipeline.clear();
                        if self.repair(error).await.is_err() {
                            return;
                        }
                    }
                    while (!self.one_by_one || pipeline.is_empty())
                        && let Some(publish) = self.again.pop_front()
                    {
                        if let Some((number, publish)) = self.begin(publish) {
                            pipeline.push(number, publish);
                        }
                    }
                }
                count = calls.recv_many(&mut batch, BATCH), if open && self.again.is_empty() => {
                    open = count > 0;
                    if !pipeline.is_empty() {
                        // Others are on their way, so whoever published may be about to publish more, and lapin begins to
                        // write with the first of them. Larger writes take less time, ours and the broker's.
                        yield_now().await;
                        while batch.len() < BATCH && let Ok(call) = calls.try_recv() {
                            batch.push(call);
                        }
                    }
                    for call in batch.drain(..) {
                        if let Some(publish) = self.prepared(call).await
                            && let Some((number, publish)) = self.begin(publish)
                        {
                            pipeline.push(number, publish);
                        }
                    }
                }
            }
        }
    }

    /// Why the channel is closed: what was published last may only have found that it is. What lapin has queued for it is
    /// written by then; behind that the broker answers on this connection only if it got over it.
    async fn reason(&mut self, error: Error, pipeline: &mut Pipeline<impl Publishing>) -> Error {
        let (mut reason, mut answers) = (error, Vec::new());
        while !is_refusal(&reason) && !pipeline.is_empty() {
            poll_fn(|context| pipeline.poll_answers(context, &mut answers)).await;
            if let Err(error) = self.confirmed(&mut answers)
                && is_refusal(&error)
            {
                reason = error;
            }
        }
        pipeline.written_out().await;
        reason
    }

    /// The broker closed the channel: whoever published what it complains about is told so, and what others have without an
    /// answer is sent again over another one. Those behind the culprit the broker hasn't looked at. Where the connection went
    /// with a channel, perhaps another publisher's, nobody knows what was looked at.
    async fn repair(&mut self, error: Error) -> Result<()> {
        let is_refusal = is_refusal(&error);
        let lines = &self.shared.lines;
        if !is_refusal && !lines.goes_on_without(&self.line).await {
            lines.end(&error.to_string());
            return Err(error);
        }
        lines.refused();
        let culprit = culprit(&error);
        if let Some(exchange) = culprit.as_ref().and_then(Culprit::exchange) {
            self.shared.forget_exchange(exchange);
            if ladder::is_exchange(exchange) {
                self.shared.ladder.forget_all().await;
            }
        }
        let outstanding = self.returns.take();
        let is_refused = |publish: &Outstanding| {
            let is_it = |culprit: &Culprit| culprit.is(&publish.exchange, &publish.envelope);
            is_refusal && (outstanding.len() == 1 || culprit.as_ref().is_some_and(is_it))
        };
        let refused: Vec<bool> = outstanding.iter().map(is_refused).collect();
        // Of several, those before the last may have come before the reason did.
        let is_certain = culprit.is_some_and(|culprit| culprit.is_always_refused())
            || refused.iter().filter(|refused| **refused).count() == 1;
        let last = refused.iter().rposition(|refused| *refused);
        // One that was another publisher's is over; what takes the connection along again may be one of ours.
        self.one_by_one = match is_refusal {
            true => last.is_none(),
            false => outstanding.iter().any(|publish| publish.may_be_stored),
        };
        let mut again = VecDeque::with_capacity(outstanding.len());
        for (place, (mut publish, is_refused)) in outstanding.into_iter().zip(refused).enumerate() {
            let may_be_stored = publish.may_be_stored;
            if is_refused {
                let error = same(&error);
                drop(publish.answer.send(Err(match is_certain && !may_be_stored {
                    true => error,
                    false => error.with_maybe_stored(),
                })));
            } else {
                publish.may_be_stored |= last.is_none_or(|last| place < last);
                again.push_back(publish);
            }
        }
        // They were in front of those.
        again.append(&mut self.again);
        self.again = again;
        let opened = open_channel(&self.shared, self.replies.as_ref()).await;
        let (channel, line) =
            opened.inspect_err(|error| self.shared.lines.end(&error.to_string()))?;
        (self.channel, self.line) = (Arc::new(channel), line);
        Ok(())
    }

    /// Gets a message ready to be published. `None`: it has its answer already.
    async fn prepared(&mut self, mut call: Call) -> Option<Outstanding> {
        match self.prepare(&mut call).await {
            Ok(None) => Some(Outstanding {
                exchange: call.exchange,
                properties: call.properties,
                envelope: call.envelope,
                may_be_stored: false,
                answer: call.answer,
                place: call.place,
            }),
            Ok(Some(confirmation)) => {
                drop(call.answer.send(Ok(confirmation)));
                None
            }
            Err(error) => {
                drop(call.answer.send(Err(error)));
                None
            }
        }
    }

    /// Begins to publish a message. `None`: it can't be sent, and has its answer.
    fn begin(&mut self, message: Outstanding) -> Option<(u64, impl Publishing + use<>)> {
        match self.publishing(&message) {
            Ok(publishing) => Some((self.returns.add(message), publishing)),
            Err(error) => {
                drop(message.answer.send(Err(error)));
                None
            }
        }
    }

    fn publishing(&self, message: &Outstanding) -> Result<impl Publishing + use<>> {
        let envelope = message.envelope.clone();
        let properties = message.properties.of(&envelope)?;
        message::check_size(&properties, self.frame_max)?;
        let (exchange, key) = (short(&message.exchange)?, short(envelope.routing_key())?);
        let channel = self.channel.clone();
        Ok(publish(channel, exchange, key, properties, envelope))
    }

    /// Sees that the exchange is there, and for a delayed message the way to it. `Some` if that is an answer already.
    async fn prepare(&mut self, call: &mut Call) -> Result<Option<Confirmation>> {
        let Some(steps) = call.delay else {
            if !ladder::is_exchange(&call.exchange) {
                self.shared.find_exchange(&call.exchange).await?;
            }
            return Ok(None);
        };
        // It is routed when it is due. What can be known before is whether there is anything to route it.
        if !call.exchange.is_empty() {
            self.shared.find_exchange(&call.exchange).await?;
        } else if let Err(error) = self.shared.passive_queue(call.envelope.routing_key()).await {
            return match error.kind() {
                ErrorKind::NotFound => Ok(Some(match call.envelope.mandatory() {
                    true => Confirmation::Returned { code: 312 },
                    false => Confirmation::Acked { routed: false },
                })),
                // It is another connection's, and there.
                ErrorKind::ResourceLocked => Ok(None),
                _ => Err(error),
            };
        }
        let ladder = &self.shared.ladder;
        ladder.lead(&self.shared, steps, &call.exchange).await?;
        call.exchange = steps.entry();
        Ok(None)
    }

    /// Takes all confirms that have come: one of them may carry the return of another.
    fn confirmed(&mut self, answers: &mut Vec<lapin::Result<Confirmed>>) -> Result<()> {
        let mut result = Ok(());
        let confirmed = answers.drain(..).filter_map(|answer| match answer {
            Ok(confirmed) => Some(confirmed),
            Err(error) => {
                // One that is refused says why.
                if result.is_ok() || error.is_amqp_soft_error() {
                    result = Err(classify(error));
                }
                None
            }
        });
        self.returns.confirmed(confirmed);
        result
    }
}
