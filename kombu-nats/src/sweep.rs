//! Looks for what is over: messages beyond their time at the head of a queue, queues beyond their length, and queues that
//! nobody uses.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use kombu_core::virt::{Change, Death};
use kombu_core::{Name, Result};

use crate::api::{self, nanoseconds};
use crate::known::NatsQueue;
use crate::limits;
use crate::members;
use crate::message;
use crate::names::encoded;
use crate::pulse::BEHIND;
use crate::session::Shared;

/// How soon one is looked at again that couldn't be.
const AGAIN: Duration = Duration::from_secs(30);
/// How many are looked at together.
const AT_ONCE: usize = 16;

/// Looks at all queues that are due. What comes of one is no matter of the others: it is looked at again.
pub(crate) async fn look_at_due(shared: &Arc<Shared>) {
    // Whoever asks afterwards sees what came of a look that was under way.
    let _turn = shared.looking.lock().await;
    let queues: Vec<NatsQueue> = {
        let known = shared.known.lock();
        let due = shared.agenda.due().into_iter();
        due.filter_map(|name| known.queue(&name)).collect()
    };
    let looks = queues.into_iter().map(|queue| {
        let shared = shared.clone();
        async move {
            if let Err(error) = look_at(&shared, &queue).await {
                tracing::debug!(%error, queue = %queue.name(), "a look at a queue");
                shared.agenda.look_in(queue.name(), AGAIN);
            }
        }
    });
    futures_util::stream::iter(looks)
        .buffer_unordered(AT_ONCE)
        .collect::<()>()
        .await;
}

/// Looks at all queues where something may be over: their declarations say so, or whoever published to them, or has
/// seen what others did.
pub(crate) async fn look_at_all(shared: &Arc<Shared>) -> Result<()> {
    shared.catch_up().await?;
    let marked = members::keys(&shared.line, "x").await?;
    let marked: HashSet<String> = marked.into_iter().collect();
    let queues: Vec<Name> = {
        let known = shared.known.lock();
        let all = known.queues().map(NatsQueue::declaration);
        all.filter(|queue| {
            queue.get_message_ttl().is_some()
                || queue.get_expires().is_some()
                || marked.contains(&encoded(queue.name()))
        })
        .map(|queue| queue.name().clone())
        .collect()
    };
    for queue in queues {
        shared.agenda.look_in(&queue, Duration::ZERO);
    }
    Ok(())
}

async fn look_at(shared: &Arc<Shared>, queue: &NatsQueue) -> Result<()> {
    if queue.declaration().get_expires().is_some() && expire(shared, queue).await? {
        return Ok(());
    }
    bury_expired(shared, queue).await?;
    if limits::is_limited(queue.declaration()) {
        limits::trim(shared, queue).await?;
    }
    Ok(())
}

/// What is beyond its time doesn't go with its queue.
pub(crate) async fn look_before_deleting(shared: &Arc<Shared>, changes: &[Change]) {
    for change in changes {
        if let Change::DeleteQueue(name, _) = change {
            let _turn = shared.looking.lock().await;
            let queue = shared.known.lock().queue(name);
            if let Some(queue) = queue
                && let Err(error) = bury_expired(shared, &queue).await
            {
                tracing::debug!(%error, queue = %queue.name(), "a look at a queue that goes");
            }
        }
    }
}

/// Takes what is beyond its time from the head of a queue.
async fn bury_expired(shared: &Arc<Shared>, queue: &NatsQueue) -> Result<()> {
    // What is taken here, and isn't held yet, would be counted by whoever drops what is too much.
    let limited = limits::is_limited(queue.declaration()).then(|| shared.sizes.of(queue));
    let _pause = match &limited {
        Some(limited) => Some(limits::pause(limited).await),
        None => None,
    };
    // What would be served next is the head of the highest level that has one.
    for level in (0..queue.levels()).rev() {
        while let Some(again) = look_at_head(shared, queue, level).await? {
            if let Some(wait) = again {
                shared.agenda.look_in(queue.name(), wait);
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Deletes a queue that nobody has used for long enough.
async fn expire(shared: &Arc<Shared>, queue: &NatsQueue) -> Result<bool> {
    let Some(expires) = queue.declaration().get_expires() else {
        return Ok(false);
    };
    let (members, _) = members::of(&shared.line, queue).await?;
    if !members.consumers.is_empty() {
        return Ok(false);
    }
    let used = members::written(&shared.line, "e", &encoded(queue.name())).await?;
    let until = used.unwrap_or(0).saturating_add(nanoseconds(expires));
    let now = shared.clock.now();
    if now < until {
        shared
            .agenda
            .look_in(queue.name(), Duration::from_nanos(until - now));
        return Ok(false);
    }
    shared.delete(queue, true).await?;
    Ok(true)
}

/// Looks at the first message of a level. `None` if there is nothing to do, else when to look again: at once if it is gone.
async fn look_at_head(
    shared: &Arc<Shared>,
    queue: &NatsQueue,
    level: u8,
) -> Result<Option<Option<Duration>>> {
    let look = match api::consumer_info(&shared.line, queue.stream(), level).await? {
        Ok(look) => look,
        Err(_) => return Ok(None),
    };
    if look.num_ack_pending == 0 {
        // Others have had what was given back here.
        shared.returns.forget(queue.stream(), level);
    }
    // Messages that were given back are in front of those that were never handed out.
    if let Some((position, expires)) = shared.returns.first(queue.stream(), level) {
        let now = shared.clock.now();
        let Some(expires) = expires else {
            let pause = shared.agenda.look_behind(queue.name(), position);
            return Ok(Some(Some(pause)));
        };
        if expires > now {
            return Ok(Some(Some(Duration::from_nanos(expires - now))));
        }
        let taken = shared.take_from(queue, level).await?;
        match &taken {
            // If it was another one, somebody else has had it.
            Some(taken) if taken.delivered.count > 1 => {
                shared.returns.see(queue.stream(), position);
            }
            // They would have come before it.
            _ => shared.returns.forget(queue.stream(), level),
        }
        if let Some(fetched) = taken
            && let Some(fetched) = shared.bury_if_expired(queue, fetched, now)
        {
            shared.give_back_fetched(queue, &fetched);
            shared.flush_returns();
        }
        return Ok(Some(None));
    }
    // Not told by the consumer, which learns of a message a moment after it was confirmed.
    let next = look.delivered.stream_seq + 1;
    let subject = queue.subject(level);
    let head = match api::next_message(&shared.line, queue.stream(), subject, next).await? {
        Ok(head) => head,
        Err(_) => return Ok(None),
    };
    let own = head.headers.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name == message::EXPIRATION).then(|| value.trim().parse().ok())?
    });
    let Some(left) = queue.time_to_live(own.map(Duration::from_millis)) else {
        // Something behind it may expire, and is looked at when this one has gone.
        let pause = shared.agenda.look_behind(queue.name(), head.position);
        return Ok(Some(Some(pause)));
    };
    let expires = head.stored.saturating_add(nanoseconds(left));
    let now = shared.clock.now();
    if expires > now {
        return Ok(Some(Some(Duration::from_nanos(expires - now))));
    }
    // Somebody who has room is about to take it.
    if shared.room(queue.stream()) > 0 {
        return Ok(Some(Some(BEHIND)));
    }
    if let Some(fetched) = shared.take_from(queue, level).await? {
        match fetched.expires(queue) {
            Some(expires) if expires <= now => {
                shared.bury(queue, fetched, Death::Expired, expires);
            }
            // Somebody else was as fast, and this is the next one.
            _ => {
                shared.give_back_fetched(queue, &fetched);
                shared.flush_returns();
            }
        }
    }
    Ok(Some(None))
}

/// Removes what was acknowledged and is there all the same: a server that is killed forgets that it had removed it, and would
/// count it for ever. Once more when those acknowledgements that it had forgotten as well have come again.
///
/// One session does it for all that are with the same server since that was started. A queue may lie on another one: who finds
/// that it didn't answer for a while does it for that queue.
pub(crate) async fn clear_forgotten(shared: &Arc<Shared>) -> Result<()> {
    let is_for_all = members::take_clearing(shared).await?;
    let again = shared.agenda.due_clearings();
    if !is_for_all && again.is_empty() {
        return Ok(());
    }
    shared.catch_up().await?;
    let mut levels = Vec::new();
    if is_for_all {
        let later = shared.line.layout.later();
        levels.push((later, 0, shared.line.layout.later_subject("*")));
    }
    {
        let known = shared.known.lock();
        let is_due = |queue: &&NatsQueue| {
            queue.declaration().is_durable() && (is_for_all || again.contains(queue.name()))
        };
        for queue in known.queues().filter(is_due) {
            let subjects = (0..queue.levels()).map(|level| {
                let subject = queue.subject(level).to_string();
                (queue.stream().to_string(), level, subject)
            });
            levels.extend(subjects);
        }
    }
    let clearing = levels.into_iter().map(|(stream, level, subject)| {
        let shared = shared.clone();
        async move {
            if let Err(error) = clear_level(&shared, &stream, level, &subject).await {
                tracing::debug!(%error, stream, "what was acknowledged may be there");
            }
        }
    });
    futures_util::stream::iter(clearing)
        .buffer_unordered(AT_ONCE)
        .collect::<()>()
        .await;
    Ok(())
}

async fn clear_level(shared: &Shared, stream: &str, level: u8, subject: &str) -> Result<()> {
    let line = &shared.line;
    let Ok(look) = api::consumer_info(line, stream, level).await? else {
        return Ok(());
    };
    let floor = match look.num_ack_pending {
        // A killed server may have forgotten how far that was, too.
        0 => look.delivered.stream_seq,
        _ => look.ack_floor.stream_seq,
    };
    if floor == 0 {
        return Ok(());
    }
    // One by one: a purge makes 2.9 forget what is held of the whole stream, which nobody gets then any more.
    let mut next = 1;
    while let Ok(forgotten) = api::next_message(line, stream, subject, next).await?
        && forgotten.position <= floor
    {
        api::remove(line, stream, forgotten.position).await?;
        next = forgotten.position + 1;
    }
    Ok(())
}
