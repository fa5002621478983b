//! What a session does by itself: it says that it lives, keeps what it holds, ends those that don't live, and does what is
//! due.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use kombu_core::{ErrorKind, Name, Result};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, MissedTickBehavior, timeout_at};

use crate::api::{self, ACK_WAIT};
use crate::discounts;
use crate::line::Answer;
use crate::members::{self, CLEARED_AGAIN, CLEARINGS, Sign};
use crate::names::encoded;
use crate::news;
use crate::reader;
use crate::returns;
use crate::session::{Job, Shared};
use crate::{later, sweep, tally, unreadable};

/// How often a session says that it lives.
const BEAT: Duration = Duration::from_secs(5);
/// How long one that doesn't is left alone before it is suspected.
const LEASE: Duration = Duration::from_secs(15);
/// How long a suspect has to be heard of, by whoever suspects it.
const DOUBT: Duration = Duration::from_secs(7);
/// Every session that lives suspects it: what a crashed one had is free within the time that is promised.
const _: () = assert!(LEASE.as_secs() + BEAT.as_secs() + DOUBT.as_secs() < PROMISED.as_secs());
const PROMISED: Duration = Duration::from_secs(30);
/// How often queues are looked at whose messages may expire.
const LOOK: Duration = Duration::from_secs(10);
/// How soon a queue is looked at again whose head doesn't expire, and what is behind it may.
pub(crate) const BEHIND: Duration = Duration::from_millis(200);
/// How soon a sign is given again that nobody took.
const AGAIN: Duration = Duration::from_secs(1);

/// What is due, and when.
#[derive(Default)]
pub(crate) struct Agenda {
    looks: Mutex<HashMap<Name, Instant>>,
    /// Queues whose head doesn't expire, and what is behind it may: its position, and how long it is left alone.
    behind: Mutex<HashMap<Name, (u64, Duration)>>,
    /// Queues to look at whenever somebody asks for something.
    when_asked: Mutex<BTreeSet<Name>>,
    rings: Mutex<BTreeSet<(Instant, Name)>>,
    /// Queues that didn't answer and do again: when, and how often what their server forgot was cleared since.
    repaired: Mutex<HashMap<Name, (Instant, u32)>>,
    sooner: Notify,
}

impl Agenda {
    /// A queue has to be looked at by then.
    pub(crate) fn look_in(&self, queue: &Name, time: Duration) {
        // The server's clock ticks otherwise than ours.
        let Some(at) = Instant::now().checked_add(time + Duration::from_millis(1)) else {
            return;
        };
        let mut looks = self.looks.lock();
        match looks.get_mut(queue) {
            Some(due) if *due <= at => return,
            Some(due) => *due = at,
            None => drop(looks.insert(queue.clone(), at)),
        }
        drop(looks);
        self.sooner.notify_waiters();
    }

    /// A queue has to be looked at before anybody here asks for something.
    pub(crate) fn look_when_asked(&self, queue: &Name) {
        self.when_asked.lock().insert(queue.clone());
    }

    /// The head of a queue, at this position, doesn't expire, and what is behind it may. Answers how soon that is to be looked at:
    /// whoever takes the head in this session looks again.
    pub(crate) fn look_behind(&self, queue: &Name, head: u64) -> Duration {
        self.look_when_asked(queue);
        let mut behind = self.behind.lock();
        let pause = match behind.get(queue) {
            Some((before, pause)) if *before == head => (2 * *pause).min(LOOK),
            _ => BEHIND,
        };
        behind.insert(queue.clone(), (head, pause));
        pause
    }

    /// Something was taken from a queue: another message may be its head now.
    pub(crate) fn taken_from(&self, queue: &Name) {
        let was_waiting = self.behind.lock().remove(queue).is_some();
        if was_waiting {
            self.look_in(queue, BEHIND);
        }
    }

    /// A message of a queue becomes visible by then.
    pub(crate) fn ring_in(&self, queue: &Name, time: Duration) {
        if let Some(at) = Instant::now().checked_add(time) {
            self.rings.lock().insert((at, queue.clone()));
            self.sooner.notify_waiters();
        }
    }

    /// The queues that have to be looked at now.
    pub(crate) fn due(&self) -> Vec<Name> {
        let now = Instant::now();
        let mut looks = self.looks.lock();
        let due: Vec<Name> = looks
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(name, _)| name.clone())
            .collect();
        for name in &due {
            looks.remove(name);
        }
        drop(looks);
        let asked = std::mem::take(&mut *self.when_asked.lock());
        let more = asked.into_iter().filter(|name| !due.contains(name));
        let more: Vec<Name> = more.collect();
        due.into_iter().chain(more).collect()
    }

    /// A queue answers again: its server may have been killed, and have forgotten something.
    pub(crate) fn clear_again(&self, queue: &Name) {
        self.repaired
            .lock()
            .insert(queue.clone(), (Instant::now(), 0));
    }

    /// The queues where what was forgotten has to be cleared now: at once, and when what was unsettled has come again.
    pub(crate) fn due_clearings(&self) -> Vec<Name> {
        let now = Instant::now();
        let mut due = Vec::new();
        self.repaired.lock().retain(|queue, (at, times)| {
            if *at <= now {
                due.push(queue.clone());
                *at = now + CLEARED_AGAIN;
                *times += 1;
            }
            *times < CLEARINGS
        });
        due
    }

    /// A queue is gone.
    pub(crate) fn forget(&self, queue: &Name) {
        self.behind.lock().remove(queue);
        self.repaired.lock().remove(queue);
    }

    fn due_rings(&self) -> Vec<Name> {
        let now = Instant::now();
        let mut rings = self.rings.lock();
        let later = rings.split_off(&(now, Name::EMPTY));
        let due = std::mem::replace(&mut *rings, later);
        due.into_iter().map(|(_, name)| name).collect()
    }

    /// Resolves when a queue has to be looked at.
    async fn next_look(&self) {
        self.until(|| self.looks.lock().values().min().copied())
            .await;
    }

    /// Resolves when a message becomes visible.
    async fn next_ring(&self) {
        self.until(|| self.rings.lock().first().map(|(at, _)| *at))
            .await;
    }

    async fn until(&self, first: impl Fn() -> Option<Instant>) {
        loop {
            let sooner = self.sooner.notified();
            tokio::pin!(sooner);
            sooner.as_mut().enable();
            match first() {
                None => sooner.await,
                Some(at) => {
                    if timeout_at(at, sooner).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

/// Runs until the session is over.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    mut jobs: mpsc::UnboundedReceiver<Job>,
    first_beat: u64,
) {
    let line = &shared.line;
    let (over, lost) = (line.over(), line.lost());
    tokio::pin!(over, lost);
    let listening = line
        .listen(line.layout.bell("*").into())
        .and_then(|bells| Ok((bells, line.listen(line.layout.question().into())?)));
    let (mut bells, mut questions) = match listening {
        Ok(listening) => listening,
        Err(error) => return line.lose(&error),
    };
    let mut beats = tokio::time::interval(BEAT);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut signs = tokio::time::interval(ACK_WAIT / 3);
    let mut looks = tokio::time::interval(LOOK);
    let mut work: FuturesUnordered<Answer<()>> = FuturesUnordered::new();
    let mut looking: FuturesUnordered<Answer<()>> = FuturesUnordered::new();
    // One at a time: each says which was the last.
    let mut beating: FuturesUnordered<Answer<u64>> = FuturesUnordered::new();
    let mut last_beat = first_beat;
    work.push(later::serve(shared.clone()).boxed());
    work.push(unreadable::look(shared.clone()).boxed());
    loop {
        tokio::select! {
            biased;
            () = &mut over => break,
            _ = &mut lost => break,
            Some(bell) = bells.next() => {
                let subject = bell.subject.as_str();
                let token = subject.rsplit('.').next().unwrap_or_default();
                if let Some((stream, expires)) = returns::take_ring(&shared, &bell.payload) {
                    let shared = shared.clone();
                    work.push(Box::pin(async move {
                        returns::look_after_left(&shared, stream, expires).await
                    }));
                }
                shared.bells.ring(token, &*bell.payload == b"changed");
            }
            Some(question) = questions.next() => {
                if let (Some(stream), Some(reply)) =
                    (tally::asked_about(&shared, &question.payload), question.reply)
                {
                    let shared = shared.clone();
                    work.push(Box::pin(async move {
                        let answer = tally::answer(&shared, &stream).await?;
                        shared.line.tell(reply, answer.into());
                        Ok(())
                    }));
                }
            }
            () = shared.returns.bell.notified() => shared.flush_returns(),
            job = jobs.recv() => match job {
                Some(Job::Leave { leaving, reply }) => {
                    let shared = shared.clone();
                    work.push(Box::pin(async move {
                        let left = reader::leave(&shared, *leaving).await;
                        if let Some(reply) = reply {
                            drop(reply.send(left));
                        }
                        Ok(())
                    }));
                }
                Some(Job::Empty { inlet, _on_its_way }) => {
                    let shared = shared.clone();
                    work.push(Box::pin(async move {
                        inlet.empty(&shared).await;
                        shared.flush_returns();
                        drop(_on_its_way);
                        Ok(())
                    }));
                }
                Some(Job::Ring(queue)) => {
                    let shared = shared.clone();
                    work.push(Box::pin(async move {
                        news::ring_later(&shared, &queue).await;
                        Ok(())
                    }));
                }
                Some(Job::TryAgain { holder, id }) => {
                    let shared = shared.clone();
                    work.push(Box::pin(async move { shared.try_again(holder, id).await }));
                }
                Some(Job::Return(queue, returns)) => {
                    let shared = shared.clone();
                    work.push(Box::pin(
                        async move { returns::go_back(&shared, queue, returns).await },
                    ));
                }
                Some(Job::End) => {
                    let shared = shared.clone();
                    work.push(Box::pin(async move {
                        let ended = shared.end().await;
                        shared.line.hang_up();
                        ended
                    }));
                }
                None => break,
            },
            () = shared.agenda.next_ring() => {
                for queue in shared.agenda.due_rings() {
                    shared.bells.ring(&encoded(&queue), false);
                }
            }
            // One look at a time: what is due stays so until it has been looked at.
            () = shared.agenda.next_look(), if looking.is_empty() => {
                let shared = shared.clone();
                looking.push(Box::pin(async move {
                    sweep::look_at_due(&shared).await;
                    Ok(())
                }));
            }
            Some(done) = looking.next(), if !looking.is_empty() => {
                if let Err(error) = done {
                    tracing::debug!(%error, "a session with NATS couldn't do what is due");
                }
            }
            _ = beats.tick(), if beating.is_empty() => {
                let shared = shared.clone();
                beating.push(Box::pin(async move { beat(&shared, last_beat).await }));
            }
            Some(beaten) = beating.next(), if !beating.is_empty() => match beaten {
                // Others don't see this session until there is room, nor end it.
                Ok(0) => {
                    last_beat = 0;
                    beats.reset_after(AGAIN);
                }
                Ok(position) => {
                    last_beat = position;
                    let shared = shared.clone();
                    work.push(Box::pin(async move { reap(&shared).await }));
                }
                Err(error) if error.kind() == ErrorKind::ConnectionLost && !shared.is_ending() => {
                    line.lose(&error);
                }
                Err(error) => {
                    tracing::debug!(%error, "a session with NATS couldn't say that it lives");
                    beats.reset_after(AGAIN);
                }
            },
            _ = signs.tick() => {
                for hold in shared.holds() {
                    hold.progress(line);
                }
                for inlet in shared.inlets() {
                    inlet.progress(&shared);
                }
                shared.returns.progress(line);
            }
            _ = looks.tick() => {
                let shared = shared.clone();
                work.push(Box::pin(async move {
                    discounts::trim(&shared).await?;
                    sweep::look_at_all(&shared).await?;
                    sweep::clear_forgotten(&shared).await
                }));
            }
            Some(done) = work.next(), if !work.is_empty() => {
                if let Err(error) = done {
                    tracing::debug!(%error, "a session with NATS couldn't do what is due");
                }
            }
        }
    }
    if !shared.has_ended() {
        shared.leave_to_next(last_beat != 0);
    }
}

/// Says that this session lives, after it has said so at `last`, and learns of the server's time.
pub(crate) async fn beat(shared: &Shared, last: u64) -> Result<u64> {
    let asked = Instant::now();
    let position = members::live(&shared.line, last).await?;
    let answered = Instant::now();
    if position == 0 {
        return Ok(0);
    }
    let bucket = shared.line.layout.sessions();
    if let Ok(raw) = api::message(&shared.line, &bucket.stream, position).await? {
        let (asked, answered) = (asked.into_std(), answered.into_std());
        shared.clock.set(raw.stored, asked, answered);
    }
    Ok(position)
}

/// Ends the sessions that don't live any more.
async fn reap(shared: &Arc<Shared>) -> Result<()> {
    let line = &shared.line;
    let mut silent = members::silent(line, shared.clock.now(), LEASE).await?;
    if silent.iter().any(|(_, sign)| sign.is_last) {
        let sessions = members::sessions(line).await?.len();
        // What couldn't be removed: together, all sessions try about twice.
        if fastrand::usize(..sessions.max(1)) >= 2 {
            silent.retain(|(_, sign)| !sign.is_last);
        }
    }
    let others = silent.into_iter();
    let looks = others
        .filter(|(session, _)| *session != line.session)
        .map(|(session, sign)| doubt(shared, session, sign));
    // One that can't be ended now keeps none of the others.
    for looked in join_all(looks).await {
        if let Err(error) = looked {
            tracing::debug!(%error, "a session with NATS is left to others");
        }
    }
    Ok(())
}

/// Ends a session that has been silent for too long. The server's clock may be set, and its words may have been missing for
/// everybody: so whoever suspects a session listens for it, over more than the time between two of its signs.
async fn doubt(shared: &Arc<Shared>, session: u64, sign: Sign) -> Result<()> {
    let line = &shared.line;
    if !shared.suspects.lock().insert(session) {
        return Ok(());
    }
    let doubted = async {
        if !sign.is_last {
            tokio::time::sleep(DOUBT).await;
        }
        members::end(line, session, &sign).await
    };
    let is_over = doubted.await;
    shared.suspects.lock().remove(&session);
    if is_over? {
        tracing::info!(
            session,
            "a session with NATS was silent for too long: ended"
        );
        shared.remove_session(session).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_that_does_not_expire_is_left_alone_for_longer_and_longer_until_it_is_taken() {
        let agenda = Agenda::default();
        let (jobs, others) = (Name::from("jobs"), Name::from("others"));
        let pauses = |head| -> Vec<_> {
            let looks = (0..7).map(|_| agenda.look_behind(&jobs, head));
            looks.map(|pause| pause.as_millis()).collect()
        };
        let expected = [200, 400, 800, 1600, 3200, 6400, 10_000];
        assert_eq!(pauses(1), expected);
        // Another one.
        assert_eq!(pauses(2), expected);
        agenda.taken_from(&others);
        assert!(agenda.looks.lock().is_empty());
        agenda.taken_from(&jobs);
        assert!(agenda.looks.lock().contains_key(&jobs));
        assert_eq!(agenda.look_behind(&jobs, 2), BEHIND);
    }

    #[test]
    fn what_a_server_forgot_is_cleared_at_once_and_when_more_has_come_again() {
        let agenda = Agenda::default();
        let jobs = Name::from("jobs");
        agenda.clear_again(&jobs);
        assert_eq!(agenda.due_clearings().len(), 1);
        assert!(agenda.due_clearings().is_empty());
        let next = agenda.repaired.lock()[&jobs];
        assert_eq!(next.1, 1);
        assert!(next.0 > Instant::now() + ACK_WAIT);
        agenda.forget(&jobs);
        assert!(agenda.repaired.lock().is_empty());
    }
}
