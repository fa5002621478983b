use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use kombu_core::driver::{
    BoxFuture, BrokerInfo, Capabilities, Notices, Op, QueueInfo, RawDelivery,
};
use kombu_core::message::Envelope;
use kombu_core::virt::{
    Answer, Applied, Change, Dead, Death, Finish, QueueStore, ReaderOptions, Replies, Table,
};
use kombu_core::{Error, ErrorKind, Name, Result};

use crate::clock;
use crate::discounts;
use crate::error;
use crate::hold::{self, Corpse, Held, Holder};
use crate::known::{self, NatsQueue};
use crate::limits;
use crate::members::{self, Member};
use crate::message;
use crate::purge;
use crate::push;
use crate::reader::NatsReader;
use crate::replies;
use crate::session::{self, Job, SILENCE, Shared, Wanted, to_the_end};
use crate::sweep;

/// How long somebody who asks for something waits for a look at queues.
const LOOK: Duration = Duration::from_secs(1);

/// One session with a NATS server.
pub(crate) struct NatsStore {
    shared: Arc<Shared>,
    capabilities: Capabilities,
}

impl NatsStore {
    pub(crate) fn new(shared: Arc<Shared>, capabilities: Capabilities) -> Self {
        NatsStore {
            shared,
            capabilities,
        }
    }

    /// Acknowledges what was held.
    fn tell(&self, holder: &Holder, held: Held) -> Op<Result<Answer>> {
        let (shared, holder) = (self.shared.clone(), holder.clone());
        let told = hold::acknowledge(&shared, &holder, &held);
        holder.freed(shared.clock.now());
        Op::Pending(Box::pin(async move {
            // Most acknowledgements aren't waited for; what that takes is larger than all the rest.
            Box::pin(hold::acknowledged(&shared, &holder, &held, told)).await?;
            Ok(Answer::Done)
        }))
    }

    fn give_back(
        &self,
        holder: &Holder,
        id: u64,
        counts: bool,
        delay: Option<Duration>,
    ) -> Op<Result<Answer>> {
        let Some(held) = holder.let_go(id) else {
            return Op::ready(Err(error::settle_lost()));
        };
        let (shared, queue) = (self.shared.clone(), holder.queue().clone());
        holder.freed(shared.clock.now());
        shared.give_back(&queue, held, counts, delay);
        Op::Pending(Box::pin(async move {
            shared.returns.idle(&shared, &queue).await;
            // It is there, whatever comes of the others.
            if limits::is_limited(queue.declaration())
                && let Err(error) = limits::trim(&shared, &queue).await
            {
                tracing::debug!(%error, queue = %queue.name(), "a queue may be too long");
            }
            match shared.line.is_over() {
                true => Err(error::settle_lost()),
                false => Ok(Answer::Done),
            }
        }))
    }

    /// Keeps a dead message that can't be moved, because the server has no room for its letter, for one: it stays where it is, held
    /// by the session, and is tried again. If the session ends before, it goes back to its queue; so does what would be too many.
    fn keep_dead(&self, holder: &Holder, id: u64, death: Death) -> Result<Answer> {
        let shared = &self.shared;
        let Some(mut held) = holder.let_go(id) else {
            return Err(error::settle_lost());
        };
        holder.freed(shared.clock.now());
        if shared.kept.load(Ordering::Relaxed) >= session::MOST_KEPT {
            let again = Some(session::TRY_LATER);
            shared.give_back(holder.queue(), held, false, again);
            return Err(Error::new(
                ErrorKind::Backpressure,
                format!(
                    "dead letters of queue `{}` can't be moved, and too many wait for that: this message comes again in 30 s; \
                     see to it that their queues take them",
                    holder.queue().name()
                ),
            ));
        }
        held.tries += 1;
        held.death.get_or_insert((death, shared.clock.now()));
        let (own, id) = (shared.own_holder(holder.queue()), shared.next());
        own.take_over(id, held);
        shared.kept.fetch_add(1, Ordering::Relaxed);
        // Without its task, the session is over.
        drop(shared.jobs.send(Job::TryAgain { holder: own, id }));
        Ok(Answer::Done)
    }

    /// Moves a message: its letter gets an id that is made of its place, so that it arrives once however often it is moved.
    fn move_away(
        &self,
        holder: &Holder,
        id: u64,
        targets: &[NatsQueue],
        version: u64,
        envelope: &Envelope,
    ) -> Op<Result<Answer>> {
        let Some(held) = holder.get(id).filter(Held::is_ours) else {
            drop(holder.let_go(id));
            return Op::ready(Err(error::settle_lost()));
        };
        let shared = self.shared.clone();
        let (holder, targets, envelope) = (holder.clone(), targets.to_vec(), envelope.clone());
        Op::start(async move {
            let exchange = envelope.exchange();
            if !exchange.is_empty() && !shared.is_route_current(version, exchange, &targets).await?
            {
                return Ok(Answer::Stale);
            }
            {
                let mut known = shared.known.lock();
                if !known.still_holds(version, exchange, &targets) {
                    return Ok(Answer::Stale);
                }
                if held.death.is_none() && !known.has(holder.queue()) {
                    // It went with its queue.
                    drop(known);
                    drop(holder.let_go_for_good(id));
                    return Ok(Answer::Done);
                }
            }
            // Not those that took it when others couldn't.
            let targets = targets.iter();
            let targets = targets.filter(|queue| !held.has_letter.contains(queue.stream()));
            let sending = targets.map(async |queue| {
                let parcel = push::parcel(&shared, queue, &envelope)?;
                let parcel = parcel.with_id(&held.letter_id(), &envelope);
                let answer = push::by_itself(&shared, parcel).await;
                if matches!(answer, Ok(Answer::Done | Answer::Refused)) {
                    holder.note(id, |held| held.has_letter.push(queue.stream().clone()));
                }
                answer
            });
            let mut answer = Answer::Done;
            let mut failed: Option<Error> = None;
            for sent in join_all(sending).await {
                match sent {
                    Ok(Answer::Stale) => return Ok(Answer::Stale),
                    Ok(Answer::Refused) => answer = Answer::Refused,
                    Ok(_) => {}
                    // One that may pass counts: its queue may have the letter, and must not forget that it has.
                    Err(error) if failed.as_ref().is_none_or(|other| !other.is_transient()) => {
                        failed = Some(error);
                    }
                    Err(_) => {}
                }
            }
            if let Some(error) = failed {
                holder.note(id, |held| held.may_pass = error.is_transient());
                return Err(error);
            }
            let Some(held) = holder.let_go_for_good(id) else {
                return Err(error::settle_lost());
            };
            let told = hold::acknowledge(&shared, &holder, &held);
            hold::acknowledged(&shared, &holder, &held, told).await?;
            Ok(answer)
        })
    }
}

impl QueueStore for NatsStore {
    type Queue = NatsQueue;
    type Reader = NatsReader;
    type Holder = Holder;

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn broker_info(&self) -> Op<Result<BrokerInfo>> {
        let version = format!("NATS {}", self.shared.line.version());
        let time = clock::time(self.shared.clock.now());
        Op::ready(Ok(BrokerInfo::new(Some(version), Some(time))))
    }

    fn session(&self) -> u64 {
        self.shared.line.session
    }

    fn load(&self) -> Op<Result<Table>> {
        let shared = self.shared.clone();
        Op::start(async move { shared.patiently(|| shared.catch_up()).await })
    }

    fn is_current(&self, version: u64) -> Op<Result<bool>> {
        let shared = self.shared.clone();
        Op::start(async move {
            let asking = shared.patiently(|| shared.is_current(version));
            asking.await
        })
    }

    fn repeats_within(&self) -> Option<Duration> {
        Some(push::SAME)
    }

    fn ping(&self, _version: u64) -> Op<Result<()>> {
        let shared = self.shared.clone();
        Op::start(async move {
            shared.line.ping().await?;
            // It loses the session if they are gone, and is of no matter if nobody can tell now.
            let declarations = known::revision(&shared.line);
            drop(tokio::time::timeout(SILENCE, declarations).await);
            Ok(())
        })
    }

    async fn apply(&self, base: u64, changes: &[Change]) -> Result<Applied> {
        replies::check_names(changes)?;
        let applying = self.shared.patiently(|| {
            let (shared, changes) = (self.shared.clone(), changes.to_vec());
            to_the_end(async move {
                sweep::look_before_deleting(&shared, &changes).await;
                shared.apply(base, &changes, Wanted::Counts).await
            })
        });
        applying.await
    }

    fn queue(&self, name: &Name) -> Option<NatsQueue> {
        self.shared.known.lock().queue(name)
    }

    fn push(&self, targets: &[NatsQueue], version: u64, envelope: &Envelope) -> Op<Result<Answer>> {
        let exchange = envelope.exchange();
        if !self
            .shared
            .known
            .lock()
            .still_holds(version, exchange, targets)
        {
            return Op::ready(Ok(Answer::Stale));
        }
        Op::Pending(
            self.shared
                .outlet
                .push(&self.shared, targets, version, envelope),
        )
    }

    fn push_nowhere(&self, version: u64, envelope: &Envelope) -> Op<Result<Answer>> {
        if let Some(inbox) = replies::inbox(envelope) {
            return replies::hand_over(&self.shared.line, inbox, envelope);
        }
        self.is_current(version).map(|current| {
            Ok(match current? {
                true => Answer::Done,
                false => Answer::Stale,
            })
        })
    }

    async fn open_replies(&self, name: &Name) -> Result<Option<(Name, Replies)>> {
        replies::open(&self.shared.line, name).await.map(Some)
    }

    async fn open_reader(&self, queue: &NatsQueue, options: ReaderOptions) -> Result<NatsReader> {
        let shared = &self.shared;
        let number = shared.next();
        let member = Member {
            session: shared.line.session,
            number,
            exclusive: options.exclusive,
        };
        // Made before it is written down: if nobody waits for the answer, its drop ends the consumer.
        let is_single = queue.declaration().is_single_active_consumer();
        let mut reader = NatsReader::new(
            shared.clone(),
            queue.clone(),
            number,
            !is_single,
            options.room,
        )?;
        // The queue may need its stream made again.
        shared.patiently(|| shared.looks(queue)).await?;
        shared
            .patiently(|| discounts::read_all(shared, queue))
            .await?;
        let joining = shared.patiently(|| members::join(&shared.line, queue, member.clone()));
        let members = joining.await?;
        if members.is_first(shared.line.session, number) {
            reader.activate();
        }
        Ok(reader)
    }

    async fn take_one(&self, queue: &NatsQueue) -> Result<Option<(RawDelivery, Holder)>> {
        let shared = &self.shared;
        if queue.declaration().get_expires().is_some() {
            shared
                .patiently(|| members::use_queue(&shared.line, queue.name()))
                .await?;
        }
        shared
            .patiently(|| discounts::read_all(shared, queue))
            .await?;
        loop {
            let pulled = shared.clock.now();
            let taking = shared.patiently(|| shared.take_one(queue));
            let Some(fetched) = taking.await? else {
                return Ok(None);
            };
            let Some(fetched) = shared.bury_if_expired(queue, fetched, pulled) else {
                continue;
            };
            let holder = shared.own_holder(queue);
            let id = shared.next();
            holder.hold(id, &fetched, None);
            let count = fetched.delivered.count;
            let failures = shared.discounts.failures(queue.stream(), &fetched);
            let headers = fetched.headers.as_ref();
            let delivery = RawDelivery {
                envelope: message::read(headers, fetched.body, queue.name()),
                id,
                failures,
                queue: 0,
                redelivered: count > 1,
                waited: Duration::ZERO,
            };
            return Ok(Some((delivery, holder)));
        }
    }

    fn finish(
        &self,
        holder: &Holder,
        id: u64,
        finish: Finish<'_, NatsQueue>,
    ) -> Op<Result<Answer>> {
        if let Finish::Move {
            targets,
            version,
            envelope,
            ..
        } = finish
        {
            return self.move_away(holder, id, targets, version, envelope);
        }
        if let Finish::LeaveDead { death } = finish {
            return Op::ready(self.keep_dead(holder, id, death));
        }
        match finish {
            Finish::Forget | Finish::Discard { .. } => match holder.let_go_for_good(id) {
                Some(held) => self.tell(holder, held),
                None => Op::ready(Err(error::settle_lost())),
            },
            Finish::Release => self.give_back(holder, id, false, None),
            Finish::Retry { delay } => self.give_back(holder, id, true, delay),
            _ => Op::ready(Err(Error::new(
                ErrorKind::Unsupported,
                "this transport can't settle like that",
            ))),
        }
    }

    fn take_dead(&self) -> Op<Result<Vec<Dead<Holder>>>> {
        let shared = self.shared.clone();
        Op::start(async move {
            let looking = shared.clone();
            let looking = to_the_end(async move {
                sweep::look_at_due(&looking).await;
                Ok(())
            });
            // A queue whose server is gone keeps nobody from the others.
            drop(tokio::time::timeout(LOOK, looking).await);
            Ok(shared.take_dead().into_iter().map(dead).collect())
        })
    }

    fn dead_bell(&self) -> BoxFuture<'static, ()> {
        let shared = self.shared.clone();
        Box::pin(async move { shared.deaths.notified().await })
    }

    async fn info(&self, queue: &NatsQueue) -> Result<QueueInfo> {
        let shared = &self.shared;
        shared.patiently(|| shared.info(queue)).await
    }

    async fn purge(&self, queue: &NatsQueue) -> Result<u64> {
        let shared = &self.shared;
        purge::purge(shared, queue).await
    }

    fn notices(&self) -> Notices {
        self.shared.notices()
    }

    fn closed(&self) -> BoxFuture<'static, Error> {
        Box::pin(self.shared.line.lost())
    }

    async fn close(&self) -> Result<()> {
        let ended = self.shared.end().await;
        if let Err(error) = ended {
            tracing::debug!(%error, "a session with NATS is left to others");
        }
        self.shared.line.hang_up();
        Ok(())
    }
}

impl Drop for NatsStore {
    fn drop(&mut self) {
        // Without its task, the session is over.
        drop(self.shared.jobs.send(Job::End));
    }
}

fn dead(corpse: Corpse) -> Dead<Holder> {
    let queue = corpse.holder.queue().clone();
    let Corpse {
        holder,
        id,
        death,
        died,
        fetched,
        _turn,
    } = corpse;
    Dead {
        queue: queue.declaration().clone(),
        death,
        died: clock::time(died),
        envelope: message::read(fetched.headers.as_ref(), fetched.body, queue.name()),
        holder,
        id,
    }
}
