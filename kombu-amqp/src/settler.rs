use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use futures_util::StreamExt;
use kombu_core::driver::{Op, Outcome, Settle, Settlement, Tag};
use kombu_core::message::Envelope;
use kombu_core::{Error, Name, Result};
use lapin::Channel;
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicNackOptions};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::error::{classify, settle_lost};
use crate::publisher::AmqpPublisher;
use crate::session::Shared;
use crate::subscription::Source;

/// Settles what came over one channel, in a task of its own: whatever waits while it writes goes out together.
pub(crate) struct AmqpSettler {
    commands: mpsc::UnboundedSender<Command>,
    held: Mutex<HashMap<u64, Held>>,
    /// Told after each settle: there may be room in a window.
    pub(crate) settled: Notify,
}

struct Held {
    queue: Name,
    envelope: Envelope,
    failures: u32,
}

enum Command {
    Ack(u64, oneshot::Sender<Result<()>>),
    Nack(u64, bool, oneshot::Sender<Result<()>>),
    /// A copy takes the message's place; it is confirmed before the ack.
    Retry(u64, Held, oneshot::Sender<Result<()>>),
    /// Consumers end.
    Leave(Vec<Source>, oneshot::Sender<()>),
    Flush(oneshot::Sender<()>),
}

impl AmqpSettler {
    pub(crate) fn open(shared: Arc<Shared>, channel: Channel) -> Arc<Self> {
        // Bounded by the window: a delivery is settled once.
        let (commands, receiver) = mpsc::unbounded_channel();
        let settler = Arc::new(AmqpSettler {
            commands,
            held: Mutex::default(),
            settled: Notify::new(),
        });
        shared.add_settler(&settler);
        let task = Task {
            shared,
            channel,
            acked: Acked::default(),
            publisher: None,
        };
        tokio::spawn(task.run(receiver));
        settler
    }

    /// Takes note of a delivery before it is handed out.
    pub(crate) fn hold(&self, tag: u64, queue: &Name, envelope: &Envelope, failures: u32) {
        let held = Held {
            queue: queue.clone(),
            envelope: envelope.clone(),
            failures,
        };
        self.held.lock().insert(tag, held);
    }

    /// How many were handed out and aren't settled.
    pub(crate) fn outstanding(&self) -> usize {
        self.held.lock().len()
    }

    /// Ends consumers of this channel, and gives back what they had fetched and not handed out.
    pub(crate) fn leave(&self, sources: Vec<Source>) -> Op<Result<()>> {
        let (answer, receiver) = oneshot::channel();
        // Without its task the channel is gone, and everything is back.
        drop(self.commands.send(Command::Leave(sources, answer)));
        Op::pending(async move {
            drop(receiver.await);
            Ok(())
        })
    }

    /// Resolves when everything that was queued is written.
    pub(crate) async fn flush(&self) {
        let (answer, receiver) = oneshot::channel();
        if self.commands.send(Command::Flush(answer)).is_ok() {
            drop(receiver.await);
        }
    }
}

impl Settle for AmqpSettler {
    fn settle(&self, tag: Tag, outcome: Outcome) -> Settlement {
        let Some(held) = self.held.lock().remove(&tag.id) else {
            return Settlement::done(Err(settle_lost()));
        };
        let (answer, receiver) = oneshot::channel();
        let command = match outcome {
            Outcome::Ack => Command::Ack(tag.id, answer),
            Outcome::Reject => Command::Nack(tag.id, false, answer),
            Outcome::Retry { .. } => Command::Retry(tag.id, held, answer),
            _ => Command::Nack(tag.id, true, answer),
        };
        self.settled.notify_one();
        if self.commands.send(command).is_err() {
            return Settlement::done(Err(settle_lost()));
        }
        Settlement::queued(Box::pin(async move {
            receiver.await.unwrap_or_else(|_| Err(settle_lost()))
        }))
    }
}

struct Task {
    shared: Arc<Shared>,
    channel: Channel,
    acked: Acked,
    /// For copies, opened with the first of them.
    publisher: Option<AmqpPublisher>,
}

/// Which tags are settled, for the one frame that acks many.
#[derive(Default)]
struct Acked {
    /// Every tag up to this one is settled.
    through: u64,
    /// Settled ones beyond it.
    beyond: BTreeSet<u64>,
}

impl Acked {
    fn add(&mut self, tag: u64) {
        self.beyond.insert(tag);
        while self.beyond.remove(&(self.through + 1)) {
            self.through += 1;
        }
    }
}

impl Task {
    async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        let mut batch = Vec::new();
        let closed = self.shared.lines.closed();
        tokio::pin!(closed);
        loop {
            tokio::select! {
                biased;
                _ = &mut closed => return,
                count = commands.recv_many(&mut batch, 1024) => if count == 0 { return },
            }
            if self.carry_out(&mut batch).await.is_err() {
                // The channel is gone, and what it held is back: whoever settles now is told so.
                return;
            }
        }
    }

    async fn carry_out(&mut self, batch: &mut Vec<Command>) -> Result<()> {
        let mut acks = Vec::new();
        for command in batch.drain(..) {
            match command {
                Command::Ack(tag, answer) => acks.push((tag, answer)),
                Command::Nack(tag, requeue, answer) => {
                    let options = BasicNackOptions {
                        multiple: false,
                        requeue,
                    };
                    let written = self.channel.basic_nack(tag, options).await;
                    self.acked.add(tag);
                    drop(answer.send(told(&written)));
                    written.map_err(classify)?;
                }
                Command::Retry(tag, held, answer) => match self.retry(tag, held).await {
                    Ok(()) => drop(answer.send(Ok(()))),
                    Err(error) => {
                        let text = error.to_string();
                        drop(answer.send(Err(Error::new(error.kind(), text))));
                        let options = BasicNackOptions {
                            multiple: false,
                            requeue: true,
                        };
                        self.channel
                            .basic_nack(tag, options)
                            .await
                            .map_err(classify)?;
                        self.acked.add(tag);
                    }
                },
                Command::Leave(sources, answer) => {
                    self.ack(std::mem::take(&mut acks)).await?;
                    for source in sources {
                        self.leave(source).await.map_err(classify)?;
                    }
                    let _ = answer.send(());
                }
                Command::Flush(answer) => {
                    self.ack(std::mem::take(&mut acks)).await?;
                    let _ = answer.send(());
                }
            }
        }
        self.ack(acks).await
    }

    async fn leave(&mut self, source: Source) -> lapin::Result<()> {
        let mut consumers = source.consumers;
        if let Some(consumer) = consumers.back() {
            let options = BasicCancelOptions::default();
            self.channel.basic_cancel(consumer.tag(), options).await?;
        }
        let mut fetched = source.fetched;
        for consumer in &mut consumers {
            while let Some(delivery) = consumer.next().await {
                fetched.push_back(delivery?);
            }
        }
        // The last one first, so that each goes back in front of its successor.
        for delivery in fetched.into_iter().rev() {
            let options = BasicNackOptions {
                multiple: false,
                requeue: true,
            };
            self.channel
                .basic_nack(delivery.delivery_tag, options)
                .await?;
            self.acked.add(delivery.delivery_tag);
        }
        Ok(())
    }

    /// One frame for all whose predecessors are settled, and one each for the others.
    async fn ack(&mut self, acks: Vec<(u64, oneshot::Sender<Result<()>>)>) -> Result<()> {
        for (tag, _) in &acks {
            self.acked.add(*tag);
        }
        let through = self.acked.through;
        let last = acks
            .iter()
            .map(|(tag, _)| *tag)
            .filter(|tag| *tag <= through)
            .max();
        let mut result = Ok(());
        if let Some(last) = last {
            let options = BasicAckOptions { multiple: true };
            result = self.channel.basic_ack(last, options).await;
        }
        for (tag, answer) in acks {
            if tag > through && result.is_ok() {
                result = self
                    .channel
                    .basic_ack(tag, BasicAckOptions::default())
                    .await;
            }
            drop(answer.send(told(&result)));
        }
        result.map_err(classify)
    }

    async fn retry(&mut self, tag: u64, held: Held) -> Result<()> {
        if self.shared.counts_deliveries(&held.queue) {
            let options = BasicNackOptions {
                multiple: false,
                requeue: true,
            };
            self.channel
                .basic_nack(tag, options)
                .await
                .map_err(classify)?;
        } else {
            let publisher = match &mut self.publisher {
                Some(publisher) => publisher,
                None => self
                    .publisher
                    .insert(AmqpPublisher::open(self.shared.clone()).await?),
            };
            publisher
                .publish_copy(&held.envelope, &held.queue, held.failures.saturating_add(1))
                .await?;
            let options = BasicAckOptions::default();
            self.channel
                .basic_ack(tag, options)
                .await
                .map_err(classify)?;
        }
        self.acked.add(tag);
        Ok(())
    }
}

fn told(written: &lapin::Result<()>) -> Result<()> {
    match written {
        Ok(()) => Ok(()),
        Err(_) => Err(settle_lost()),
    }
}
