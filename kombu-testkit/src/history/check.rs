use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::time::Duration;

use super::record::OVER;
use super::{Answer, Event, Outcome, Record};

/// Something that must not happen, whatever befalls connections and brokers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// A publish was answered, and the message was neither acked or rejected, nor is it in a queue.
    Lost {
        /// The message.
        message: u64,
    },
    /// A message was acked more than once, although it was sent once and no ack was lost.
    Duplicated {
        /// The message.
        message: u64,
        /// How many acks of it count.
        acks: usize,
    },
    /// Nobody received anything from a queue although a message was ready there, or expected from there.
    Stalled {
        /// The queue. Without one, it isn't known where the message was, and nobody received anything from any.
        queue: Option<String>,
        /// The message, the first one of those that were ready.
        message: u64,
        /// From when on, in microseconds.
        from: u64,
        /// Until when.
        until: u64,
    },
    /// A consumer first got a message of a producer after one that was published later.
    OutOfOrder {
        /// The message.
        message: u64,
        /// The one that overtook it.
        after: u64,
        /// Who got them.
        consumer: u32,
    },
    /// A message came of which it was said that the broker certainly doesn't have it, or that nobody published.
    Contradicted {
        /// The message.
        message: u64,
    },
    /// A message came after its time, or not at all.
    Late {
        /// The message.
        message: u64,
        /// When it had to be there, in microseconds.
        by: u64,
        /// When it came.
        at: Option<u64>,
    },
    /// A message came before its time.
    Early {
        /// The message.
        message: u64,
        /// From when on it might come, in microseconds.
        from: u64,
        /// When it came.
        at: u64,
    },
    /// A call took longer than its deadline and a quarter of a second.
    Overran {
        /// Which one.
        call: String,
        /// How many microseconds it took.
        took: u64,
        /// How many it may have taken.
        limit: u64,
    },
    /// There is more of something than there was, and should be.
    Leaked {
        /// What there is more of.
        what: String,
        /// How many there were.
        before: u64,
        /// How many there are.
        after: u64,
    },
}

/// How much longer than its deadline a call may take: a task that is woken in time has to have its turn.
const GRACE: u64 = 250_000;

/// How long before a fault an ack may have been made that nobody answered, and that is undone by it: brokers write them down
/// within a second at the latest (NATS), and we may hear of it later.
const UNWRITTEN: u64 = 2_000_000;

/// How long after its end one may still be made that doesn't arrive: until a program has noticed that its connection is gone.
const UNNOTICED: u64 = 1_000_000;

impl Flaw {
    /// The message that it is about, if it is about one.
    pub fn message(&self) -> Option<u64> {
        match self {
            Flaw::Lost { message }
            | Flaw::Duplicated { message, .. }
            | Flaw::Stalled { message, .. }
            | Flaw::OutOfOrder { message, .. }
            | Flaw::Contradicted { message }
            | Flaw::Late { message, .. }
            | Flaw::Early { message, .. } => Some(*message),
            Flaw::Overran { .. } | Flaw::Leaked { .. } => None,
        }
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Flaw::Lost { message } => write!(f, "message {message} is lost"),
            Flaw::Duplicated { message, acks } => {
                write!(f, "message {message} was sent once and acked {acks} times")
            }
            Flaw::Stalled {
                queue,
                message,
                from,
                until,
            } => {
                let place = match queue {
                    Some(queue) => format!("queue `{queue}`"),
                    None => "any queue".to_owned(),
                };
                write!(
                    f,
                    "nothing was received from {place} between {from} and {until} µs, and message {message} was due"
                )
            }
            Flaw::OutOfOrder {
                message,
                after,
                consumer,
            } => write!(
                f,
                "consumer {consumer} got message {message} after message {after}, which was published later"
            ),
            Flaw::Contradicted { message } => write!(
                f,
                "message {message} came, and the broker was said not to have it"
            ),
            Flaw::Late { message, by, at } => match at {
                Some(at) => write!(
                    f,
                    "message {message} came at {at} µs, and had to be there at {by} µs"
                ),
                None => write!(
                    f,
                    "message {message} had to be there at {by} µs, and never came"
                ),
            },
            Flaw::Early { message, from, at } => write!(
                f,
                "message {message} came at {at} µs, which is before {from} µs"
            ),
            Flaw::Overran { call, took, limit } => {
                write!(f, "{call} took {took} µs, and may take {limit}")
            }
            Flaw::Leaked {
                what,
                before,
                after,
            } => write!(f, "there are {after} {what}, and were {before}"),
        }
    }
}

/// What became of one message.
#[derive(Default)]
struct Fate {
    /// Where it stands among the messages of all producers.
    published_as: Option<(u32, usize)>,
    answered: Option<Published>,
    /// When its acks were answered, and whether a fault may undo them.
    acks: Vec<(u64, bool)>,
    /// Nobody knows what came of a settle that takes it out of the queue.
    maybe_gone: bool,
    rejected: bool,
    received: bool,
    left: bool,
}

#[derive(Clone, Copy)]
enum Published {
    Stored { resent: bool },
    Unrouted,
    Failed { may_have_been_stored: bool },
}

impl Fate {
    /// Whether there can be more than one of it.
    fn may_be_copied(&self) -> bool {
        match self.answered {
            Some(Published::Stored { resent }) => resent,
            Some(Published::Failed {
                may_have_been_stored,
            }) => may_have_been_stored,
            Some(Published::Unrouted) => false,
            // Nobody waited for the answer.
            None => true,
        }
    }

    fn is_gone(&self) -> bool {
        !self.acks.is_empty() || self.rejected || self.maybe_gone
    }
}

pub(super) fn flaws(records: &[Record], patience: Duration) -> Vec<Flaw> {
    let fates = fates(records);
    let mut flaws = Vec::new();
    let faults = faults(records);
    let mut messages: Vec<_> = fates.iter().collect();
    messages.sort_unstable_by_key(|(message, _)| **message);
    for (&message, fate) in messages {
        let stored = matches!(fate.answered, Some(Published::Stored { .. }));
        // An ack that was only queued takes the message out, or brings it back.
        if stored && !fate.is_gone() && !fate.left {
            flaws.push(Flaw::Lost { message });
        }
        let counted = fate.acks.iter().filter(|(at, queued)| {
            let can_undo = |(begin, over): &(u64, u64)| {
                (begin.saturating_sub(UNWRITTEN)..=over.saturating_add(UNNOTICED)).contains(at)
            };
            !(*queued && faults.iter().any(can_undo))
        });
        let acks = counted.count();
        if acks > 1 && !fate.may_be_copied() {
            flaws.push(Flaw::Duplicated { message, acks });
        }
        let denied = matches!(
            fate.answered,
            Some(Published::Unrouted)
                | Some(Published::Failed {
                    may_have_been_stored: false
                })
        );
        if (fate.received || fate.left) && (denied || fate.published_as.is_none()) {
            flaws.push(Flaw::Contradicted { message });
        }
    }
    flaws.extend(overtaken(records, &fates));
    flaws.extend(stalls(records, patience));
    flaws.extend(untimely(records));
    flaws.extend(unmoved(records));
    flaws.extend(overrun(records));
    flaws.extend(leaks(records));
    flaws
}

/// From when until when each fault lasted. Those that begin before another one is over end with it.
fn faults(records: &[Record]) -> Vec<(u64, u64)> {
    let mut ended = Vec::new();
    let mut open: Vec<u64> = Vec::new();
    for record in records {
        match &record.event {
            Event::Fault { what } if what == OVER => {
                ended.extend(open.drain(..).map(|begin| (begin, record.at)));
            }
            Event::Fault { .. } => open.push(record.at),
            _ => {}
        }
    }
    // Of the others it isn't known that they lasted.
    ended.extend(open.into_iter().map(|begin| (begin, begin)));
    ended
}

/// What an expectation came to: where its record stands, the record of what was received, if it was.
pub(super) fn expectations(records: &[Record]) -> Vec<(&Record, Option<&Record>)> {
    let mut open: HashMap<u64, usize> = HashMap::new();
    let mut found: Vec<(&Record, Option<&Record>)> = Vec::new();
    for record in records {
        match &record.event {
            Event::Expected { message, .. } => {
                open.insert(*message, found.len());
                found.push((record, None));
            }
            Event::Received { message, .. } => {
                if let Some(index) = open.remove(message) {
                    found[index].1 = Some(record);
                }
            }
            _ => {}
        }
    }
    found
}

fn untimely(records: &[Record]) -> Vec<Flaw> {
    let mut flaws = Vec::new();
    for (expected, received) in expectations(records) {
        let Event::Expected {
            message,
            after,
            within,
        } = expected.event
        else {
            continue;
        };
        let (from, by) = (
            expected.at.saturating_add(after),
            expected.at.saturating_add(within),
        );
        match received.map(|record| record.at) {
            Some(at) if at < from => flaws.push(Flaw::Early { message, from, at }),
            Some(at) if at <= by => {}
            at => flaws.push(Flaw::Late { message, by, at }),
        }
    }
    flaws
}

/// How a queue moved while a message was expected from there, among others.
pub(super) struct Movement<'a> {
    pub(super) expected: &'a Record,
    /// From when until when nothing was received from the queue, at the longest.
    pub(super) longest_pause: (u64, u64),
    /// When the message came.
    came: Option<u64>,
}

pub(super) fn movements(records: &[Record]) -> impl Iterator<Item = Movement<'_>> {
    let each = records.iter().enumerate();
    each.filter_map(|(index, expected)| match &expected.event {
        Event::ExpectedAmongOthers { queue, message, .. } => {
            let mut pauses = vec![(expected.at, expected.at)];
            let mut came = None;
            let mut quiet_since = expected.at;
            for record in &records[index..] {
                match &record.event {
                    Event::Received {
                        queue: of,
                        message: received,
                        ..
                    } if of == queue => {
                        pauses.push((quiet_since, record.at));
                        quiet_since = record.at;
                        if received == message {
                            came = Some(record.at);
                            break;
                        }
                    }
                    _ => {}
                }
            }
            if came.is_none() {
                let end = records.last().map_or(quiet_since, |record| record.at);
                pauses.push((quiet_since, end));
            }
            let longest = pauses
                .into_iter()
                .max_by_key(|(from, until)| until.saturating_sub(*from));
            Some(Movement {
                expected,
                longest_pause: longest?,
                came,
            })
        }
        _ => None,
    })
}

fn unmoved(records: &[Record]) -> Vec<Flaw> {
    let mut flaws = Vec::new();
    for movement in movements(records) {
        let Event::ExpectedAmongOthers {
            queue,
            message,
            pause,
            within,
        } = &movement.expected.event
        else {
            continue;
        };
        let message = *message;
        let (from, until) = movement.longest_pause;
        if until.saturating_sub(from) > *pause {
            flaws.push(Flaw::Stalled {
                queue: Some(queue.clone()),
                message,
                from,
                until,
            });
        }
        let by = movement.expected.at.saturating_add(*within);
        if movement.came.is_none_or(|at| at > by) {
            let at = movement.came;
            flaws.push(Flaw::Late { message, by, at });
        }
    }
    flaws
}

fn overrun(records: &[Record]) -> Vec<Flaw> {
    let calls = records.iter().filter_map(|record| match &record.event {
        Event::Called {
            call, took, limit, ..
        } if *took > limit.saturating_add(GRACE) => Some(Flaw::Overran {
            call: call.clone(),
            took: *took,
            limit: *limit,
        }),
        _ => None,
    });
    calls.collect()
}

/// Compares the last count of each thing with its first.
fn leaks(records: &[Record]) -> Vec<Flaw> {
    let mut counts: BTreeMap<&str, (u64, u64, u64)> = BTreeMap::new();
    for record in records {
        if let Event::Counted { what, count, slack } = &record.event {
            let entry = counts.entry(what).or_insert((*count, *count, *slack));
            (entry.1, entry.2) = (*count, *slack);
        }
    }
    let grown = counts
        .into_iter()
        .filter(|(_, (before, after, slack))| *after > before.saturating_add(*slack));
    let flaws = grown.map(|(what, (before, after, _))| Flaw::Leaked {
        what: what.to_owned(),
        before,
        after,
    });
    flaws.collect()
}

fn fates(records: &[Record]) -> HashMap<u64, Fate> {
    let mut fates: HashMap<u64, Fate> = HashMap::new();
    for (index, record) in records.iter().enumerate() {
        match &record.event {
            Event::Publishing { producer, message } => {
                fates.entry(*message).or_default().published_as = Some((*producer, index));
            }
            Event::Published {
                message,
                routed,
                resent,
            } => {
                fates.entry(*message).or_default().answered = Some(match routed {
                    true => Published::Stored { resent: *resent },
                    false => Published::Unrouted,
                });
            }
            Event::PublishFailed {
                message,
                may_have_been_stored,
                ..
            } => {
                fates.entry(*message).or_default().answered = Some(Published::Failed {
                    may_have_been_stored: *may_have_been_stored,
                });
            }
            Event::Received { message, .. } => fates.entry(*message).or_default().received = true,
            Event::Settled {
                message,
                outcome,
                answer,
                ..
            } => {
                let fate = fates.entry(*message).or_default();
                match (outcome, answer) {
                    (_, Answer::Lost) | (Outcome::Release | Outcome::Retry, _) => {}
                    (_, Answer::Failed(_)) => fate.maybe_gone = true,
                    (Outcome::Ack, answer) => {
                        fate.acks.push((record.at, *answer == Answer::Queued));
                    }
                    (Outcome::Reject, _) => fate.rejected = true,
                }
            }
            Event::Left { messages, .. } => {
                for message in messages {
                    fates.entry(*message).or_default().left = true;
                }
            }
            Event::Fault { .. }
            | Event::Expected { .. }
            | Event::ExpectedAmongOthers { .. }
            | Event::Called { .. }
            | Event::Counted { .. } => {}
        }
    }
    fates
}

/// Each consumer gets from each queue what a producer published in that order, as far as it comes for the first time:
/// what was sent once among itself, and what was sent again among itself, which may come behind what was confirmed.
fn overtaken(records: &[Record], fates: &HashMap<u64, Fate>) -> Vec<Flaw> {
    let mut latest: HashMap<(u32, u32, &str, bool), (usize, u64)> = HashMap::new();
    let mut received = HashSet::new();
    let mut flaws = Vec::new();
    for record in records {
        let Event::Received {
            consumer,
            queue,
            message,
            redelivered,
            ..
        } = &record.event
        else {
            continue;
        };
        let again = !received.insert(*message) || *redelivered;
        let Some(fate) = fates.get(message) else {
            continue;
        };
        let Some((producer, place)) = fate.published_as else {
            continue;
        };
        let resent = match fate.answered {
            Some(Published::Stored { resent }) => resent,
            _ if fate.may_be_copied() => continue,
            _ => false,
        };
        // A second copy of what was sent again comes behind others.
        if again {
            continue;
        }
        let before = latest
            .entry((producer, *consumer, queue, resent))
            .or_insert((place, *message));
        if place < before.0 {
            flaws.push(Flaw::OutOfOrder {
                message: *message,
                after: before.1,
                consumer: *consumer,
            });
        } else {
            *before = (place, *message);
        }
    }
    flaws
}

/// Times without a delivery from a queue that are longer than `patience`, and in which a message was ready there all along. They
/// end with the consuming: at the first record of what was left.
fn stalls(records: &[Record], patience: Duration) -> Vec<Flaw> {
    let patience = patience.as_micros() as u64;
    let mut flaws = Vec::new();
    let found_in = found_in(records);
    // Messages that are in a queue, with the time since when they are. What is never found may be in any.
    let mut ready: HashMap<Option<&str>, HashMap<u64, u64>> = HashMap::new();
    // Who got a message last.
    let mut holders: HashMap<u64, u32> = HashMap::new();
    // For each queue, and for all of them.
    let mut quiet_since: HashMap<Option<&str>, u64> = HashMap::new();
    for (index, record) in records.iter().enumerate() {
        let is_left = matches!(record.event, Event::Left { .. });
        let ended: Vec<Option<&str>> = match &record.event {
            _ if is_left || index + 1 == records.len() => ready.keys().copied().collect(),
            Event::Received { queue, .. } => vec![Some(queue), None],
            _ => Vec::new(),
        };
        for queue in ended {
            let quiet_since = quiet_since.get(&queue).copied().unwrap_or(0);
            let until = record.at;
            if until.saturating_sub(quiet_since) <= patience {
                continue;
            }
            let waiting = ready.get(&queue).into_iter().flatten();
            let waiting = waiting.map(|(message, since)| ((*since).max(quiet_since), *message));
            if let Some((from, message)) = waiting.min()
                && until.saturating_sub(from) > patience
            {
                flaws.push(Flaw::Stalled {
                    queue: queue.map(str::to_owned),
                    message,
                    from,
                    until,
                });
            }
        }
        if is_left {
            break;
        }
        match &record.event {
            Event::Published {
                message,
                routed: true,
                ..
            } if !holders.contains_key(message) => {
                // A consumer wasn't faster than the answer.
                let there = ready.entry(found_in[index]).or_default();
                there.insert(*message, record.at);
            }
            Event::Received {
                message,
                consumer,
                queue,
                ..
            } => {
                if let Some(there) = ready.get_mut(&Some(queue.as_str())) {
                    there.remove(message);
                }
                holders.insert(*message, *consumer);
                for queue in [Some(queue.as_str()), None] {
                    quiet_since.insert(queue, record.at);
                }
            }
            Event::Settled {
                consumer,
                message,
                outcome,
                answer,
            } => {
                let goes_back = match (outcome, answer) {
                    (_, Answer::Lost) => true,
                    (_, Answer::Failed(_)) => false,
                    (Outcome::Release | Outcome::Retry, _) => true,
                    (Outcome::Ack | Outcome::Reject, _) => false,
                };
                // Somebody else may have got it before the answer was known.
                if goes_back && holders.get(message) == Some(consumer) {
                    let there = ready.entry(found_in[index]).or_default();
                    there.insert(*message, record.at);
                }
            }
            _ => {}
        }
    }
    flaws
}

/// For each record of a publish or a settle, the queue in which the message is seen next.
fn found_in(records: &[Record]) -> Vec<Option<&str>> {
    let mut found = vec![None; records.len()];
    let mut next: HashMap<u64, &str> = HashMap::new();
    for (index, record) in records.iter().enumerate().rev() {
        match &record.event {
            Event::Published { message, .. } | Event::Settled { message, .. } => {
                found[index] = next.get(message).copied();
            }
            Event::Received { message, queue, .. } => {
                next.insert(*message, queue);
            }
            Event::Left { queue, messages } => {
                next.extend(messages.iter().map(|message| (*message, queue.as_str())));
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::History;
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn second(at: u64) -> u64 {
        at * 1_000_000
    }

    fn history(events: impl IntoIterator<Item = (u64, Event)>) -> History {
        let records = events.into_iter().map(|(at, event)| Record {
            at: second(at),
            event,
        });
        History::from_iter(records)
    }

    fn publishing(message: u64) -> Event {
        Event::Publishing {
            producer: 0,
            message,
        }
    }

    fn published(message: u64, resent: bool) -> Event {
        Event::Published {
            message,
            routed: true,
            resent,
        }
    }

    fn failed(message: u64, may_have_been_stored: bool) -> Event {
        Event::PublishFailed {
            message,
            error: "publish: no answer".into(),
            may_have_been_stored,
        }
    }

    fn received(consumer: u32, message: u64, redelivered: bool) -> Event {
        Event::Received {
            consumer,
            queue: "jobs".into(),
            message,
            redelivered,
            attempt: 1,
        }
    }

    fn settled(consumer: u32, message: u64, outcome: Outcome, answer: Answer) -> Event {
        Event::Settled {
            consumer,
            message,
            outcome,
            answer,
        }
    }

    fn acked(consumer: u32, message: u64) -> Event {
        settled(consumer, message, Outcome::Ack, Answer::Confirmed)
    }

    fn cut() -> Event {
        Event::Fault { what: "cut".into() }
    }

    fn left(messages: &[u64]) -> Event {
        Event::Left {
            queue: "jobs".into(),
            messages: messages.to_vec(),
        }
    }

    fn flaws(events: impl IntoIterator<Item = Event>) -> Vec<Flaw> {
        history(events.into_iter().map(|event| (0, event))).flaws(PATIENCE)
    }

    #[test]
    fn a_sound_history_has_no_flaw() {
        let found = flaws([
            publishing(1),
            publishing(2),
            publishing(3),
            received(0, 1, false),
            published(1, false),
            published(2, true),
            failed(3, false),
            settled(0, 1, Outcome::Retry, Answer::Confirmed),
            received(1, 1, true),
            acked(1, 1),
            received(0, 2, false),
            acked(0, 2),
            received(0, 2, false),
            acked(0, 2),
            left(&[]),
        ]);
        assert_eq!(found, []);
    }

    #[test]
    fn a_message_that_was_answered_and_is_nowhere_is_lost() {
        let begin = [publishing(1), published(1, false)];
        let lost = [Flaw::Lost { message: 1 }];
        assert_eq!(flaws(begin.clone()), lost);
        let held = [received(0, 1, false)];
        assert_eq!(flaws([&begin[..], &held].concat()), lost);
        for settle in [
            settled(0, 1, Outcome::Release, Answer::Confirmed),
            settled(0, 1, Outcome::Retry, Answer::Confirmed),
            settled(0, 1, Outcome::Ack, Answer::Lost),
            settled(0, 1, Outcome::Reject, Answer::Lost),
        ] {
            let events = [&begin[..], &held, &[settle]].concat();
            assert_eq!(flaws(events.clone()), lost);
            // What the queue has at the end isn't.
            assert_eq!(flaws([&events[..], &[left(&[1])]].concat()), []);
        }
    }

    #[test]
    fn a_message_that_was_rejected_or_whose_ack_nobody_knows_of_is_not_lost() {
        for settle in [
            settled(0, 1, Outcome::Reject, Answer::Confirmed),
            settled(0, 1, Outcome::Ack, Answer::Failed("no answer".into())),
            settled(0, 1, Outcome::Ack, Answer::Queued),
        ] {
            let events = [
                publishing(1),
                published(1, false),
                received(0, 1, false),
                settle,
            ];
            assert_eq!(flaws(events), []);
        }
    }

    #[test]
    fn a_publish_that_failed_or_was_not_answered_may_be_nowhere() {
        assert_eq!(flaws([publishing(1), failed(1, true), publishing(2)]), []);
    }

    fn twice(answer: Event, first_ack: Event, between: Option<Event>) -> Vec<Flaw> {
        let mut events = vec![publishing(1), answer, received(0, 1, false), first_ack];
        events.extend(between);
        events.extend([received(1, 1, true), acked(1, 1)]);
        flaws(events)
    }

    #[test]
    fn two_acks_of_a_message_that_was_sent_once_are_a_flaw() {
        let duplicated = [Flaw::Duplicated {
            message: 1,
            acks: 2,
        }];
        let once = published(1, false);
        assert_eq!(twice(once.clone(), acked(0, 1), None), duplicated);
        // A confirmed ack can't be undone by a cut, and one that was only queued can't without one.
        assert_eq!(twice(once.clone(), acked(0, 1), Some(cut())), duplicated);
        let queued = settled(0, 1, Outcome::Ack, Answer::Queued);
        assert_eq!(twice(once, queued, None), duplicated);
    }

    #[test]
    fn two_acks_are_fine_after_a_resend_or_a_lost_ack() {
        assert_eq!(twice(published(1, true), acked(0, 1), None), []);
        assert_eq!(twice(failed(1, true), acked(0, 1), None), []);
        let once = published(1, false);
        let lost = settled(0, 1, Outcome::Ack, Answer::Lost);
        assert_eq!(twice(once.clone(), lost, None), []);
        let queued = settled(0, 1, Outcome::Ack, Answer::Queued);
        assert_eq!(twice(once, queued, Some(cut())), []);
    }

    #[test]
    fn an_ack_that_nobody_answered_is_undone_by_a_fault_that_is_near() {
        let acked_at = |at: u64, faults: [(u64, &str); 2]| {
            let queued = settled(0, 1, Outcome::Ack, Answer::Queued);
            let mut events = vec![
                (0, publishing(1)),
                (0, published(1, false)),
                (0, received(0, 1, false)),
                (at, queued),
            ];
            events.extend(faults.map(|(at, what)| (at, Event::Fault { what: what.into() })));
            events.sort_by_key(|(at, _)| *at);
            events.extend([(50, received(1, 1, true)), (50, acked(1, 1))]);
            history(events).flaws(Duration::from_secs(100))
        };
        let duplicated = [Flaw::Duplicated {
            message: 1,
            acks: 2,
        }];
        for (at, is_undone) in [(17, false), (18, true), (25, true), (31, true), (32, false)] {
            let found = acked_at(at, [(20, "killed"), (30, "over")]);
            assert_eq!(found.is_empty(), is_undone, "at {at}: {found:?}");
        }
        // Nothing says that it lasts.
        assert_eq!(acked_at(25, [(20, "cut"), (40, "cut")]), duplicated);
        assert_eq!(acked_at(21, [(20, "cut"), (40, "cut")]), []);
        assert_eq!(acked_at(25, [(19, "over"), (20, "over")]), duplicated);
    }

    #[test]
    fn nothing_received_from_a_queue_while_others_are_busy_is_a_stall() {
        let elsewhere = |message: u64| Event::Received {
            consumer: 1,
            queue: "others".into(),
            message,
            redelivered: false,
            attempt: 1,
        };
        let mut events = vec![(0, publishing(1)), (1, published(1, false))];
        for at in 2..20 {
            events.extend([
                (at, publishing(at)),
                (at, published(at, false)),
                (at, elsewhere(at)),
                (at, acked(1, at)),
            ]);
        }
        let stalled = [Flaw::Stalled {
            queue: Some("jobs".into()),
            message: 1,
            from: second(1),
            until: second(20),
        }];
        let comes = [(20, received(0, 1, false)), (20, acked(0, 1))];
        let found = history([&events[..], &comes].concat()).flaws(PATIENCE);
        assert_eq!(found, stalled);
        let is_left = [(20, left(&[1]))];
        let found = history([&events[..], &is_left].concat()).flaws(PATIENCE);
        assert_eq!(found, stalled);
    }

    #[test]
    fn nothing_received_while_a_message_is_ready_is_a_stall() {
        let found = history([
            (0, publishing(1)),
            (1, published(1, false)),
            (20, received(0, 1, false)),
            (20, acked(0, 1)),
        ])
        .flaws(PATIENCE);
        let stalled = [Flaw::Stalled {
            queue: Some("jobs".into()),
            message: 1,
            from: second(1),
            until: second(20),
        }];
        assert_eq!(found, stalled);
        // Also if it never comes.
        let never = history([
            (0, publishing(1)),
            (1, published(1, false)),
            (20, left(&[1])),
        ]);
        assert_eq!(never.flaws(PATIENCE), stalled);
        // And if it went back before.
        let again = history([
            (0, publishing(1)),
            (0, published(1, false)),
            (0, received(0, 1, false)),
            (1, settled(0, 1, Outcome::Release, Answer::Confirmed)),
            (20, received(0, 1, true)),
            (20, acked(0, 1)),
        ]);
        assert_eq!(again.flaws(PATIENCE), stalled);
    }

    #[test]
    fn nothing_received_while_no_message_is_ready_is_no_stall() {
        let idle = history([
            (0, publishing(1)),
            (0, published(1, false)),
            (1, received(0, 1, false)),
            (1, publishing(2)),
            (30, published(2, false)),
            (35, received(0, 2, false)),
            (35, acked(0, 2)),
            (36, acked(0, 1)),
            (90, left(&[])),
        ]);
        assert_eq!(idle.flaws(PATIENCE), []);
    }

    #[test]
    fn a_message_after_one_that_was_published_later_is_out_of_order() {
        let begin = |redelivered, resent: [bool; 2]| {
            [
                publishing(1),
                publishing(2),
                published(1, resent[0]),
                published(2, resent[1]),
                received(0, 2, false),
                acked(0, 2),
                received(0, 1, redelivered),
                acked(0, 1),
            ]
        };
        let overtaken = Flaw::OutOfOrder {
            message: 1,
            after: 2,
            consumer: 0,
        };
        let overtaken = [overtaken];
        assert_eq!(flaws(begin(false, [false, false])), overtaken);
        assert_eq!(flaws(begin(true, [false, false])), []);
        // What is sent again comes behind what was confirmed, and keeps its order among itself.
        assert_eq!(flaws(begin(false, [true, false])), []);
        assert_eq!(flaws(begin(false, [true, true])), overtaken);
        assert_eq!(flaws(begin(true, [true, true])), []);
    }

    #[test]
    fn a_second_copy_of_what_was_sent_again_comes_when_it_likes() {
        let copies = [
            publishing(1),
            publishing(2),
            received(0, 1, false),
            acked(0, 1),
            published(1, true),
            published(2, true),
            received(0, 2, false),
            acked(0, 2),
            received(0, 1, false),
            acked(0, 1),
        ];
        assert_eq!(flaws(copies), []);
    }

    #[test]
    fn consumers_and_producers_have_orders_of_their_own() {
        let mut events = vec![publishing(1), published(1, false)];
        let other = Event::Publishing {
            producer: 1,
            message: 2,
        };
        events.extend([
            other,
            published(2, false),
            publishing(3),
            published(3, false),
        ]);
        for (consumer, message) in [(0, 2), (0, 1), (1, 3)] {
            events.extend([received(consumer, message, false), acked(consumer, message)]);
        }
        assert_eq!(flaws(events), []);
    }

    #[test]
    fn a_message_that_the_broker_was_said_not_to_have_is_a_contradiction() {
        let contradicted = [Flaw::Contradicted { message: 1 }];
        let refused = [publishing(1), failed(1, false), received(0, 1, false)];
        assert_eq!(flaws(refused), contradicted);
        assert_eq!(flaws([received(0, 1, false)]), contradicted);
        let unrouted = Event::Published {
            message: 1,
            routed: false,
            resent: false,
        };
        assert_eq!(flaws([publishing(1), unrouted, left(&[1])]), contradicted);
    }

    #[test]
    fn histories_are_lines_of_json() {
        let history = history([
            (0, publishing(1)),
            (1, failed(1, true)),
            (2, received(0, 1, true)),
            (3, settled(0, 1, Outcome::Ack, Answer::Failed("why".into()))),
            (4, cut()),
            (5, left(&[1, 2])),
        ]);
        let lines = history.to_lines();
        assert_eq!(
            lines.lines().next(),
            Some(r#"{"at":0,"event":"publishing","producer":0,"message":1}"#)
        );
        assert_eq!(lines.lines().count(), 6);
        assert_eq!(History::from_lines(&lines).unwrap(), history);
        assert!(History::from_lines("{}").is_err());
    }

    #[test]
    #[should_panic(expected = "message 1 is lost")]
    fn a_flaw_fails_the_test_that_asserts_there_is_none() {
        history([(0, publishing(1)), (0, published(1, false))]).assert_sound(PATIENCE);
    }

    fn expected(message: u64, after: u64, within: u64) -> Event {
        Event::Expected {
            message,
            after: second(after),
            within: second(within),
        }
    }

    #[test]
    fn what_is_expected_comes_in_its_time() {
        let at = |at: u64| {
            let found = history([
                (0, publishing(1)),
                (5, expected(1, 2, 4)),
                (at, received(0, 1, false)),
                (at, published(1, false)),
                (at, acked(0, 1)),
            ]);
            found.flaws(PATIENCE)
        };
        for in_time in 7..=9 {
            assert_eq!(at(in_time), []);
        }
        let (message, from, by) = (1, second(7), second(9));
        let early = second(6);
        assert_eq!(
            at(6),
            [Flaw::Early {
                message,
                from,
                at: early
            }]
        );
        let late = Some(second(10));
        assert_eq!(
            at(10),
            [Flaw::Late {
                message,
                by,
                at: late
            }]
        );
        let never = history([(0, publishing(1)), (5, expected(1, 2, 4))]);
        assert_eq!(
            never.flaws(PATIENCE),
            [Flaw::Late {
                message,
                by,
                at: None
            }]
        );
    }

    #[test]
    fn a_queue_moves_until_what_is_expected_among_others_comes() {
        let comes = |others: &[u64], at: Option<u64>| {
            let expected = Event::ExpectedAmongOthers {
                queue: "jobs".into(),
                message: 1,
                pause: second(3),
                within: second(20),
            };
            let mut events = vec![(0, publishing(1)), (5, expected)];
            // What another queue does doesn't count.
            let elsewhere = Event::Received {
                consumer: 1,
                queue: "others".into(),
                message: 2,
                redelivered: false,
                attempt: 1,
            };
            events.extend([(4, publishing(2)), (4, failed(2, true)), (7, elsewhere)]);
            events.extend(others.iter().map(|at| (*at, received(0, 2, true))));
            events.extend(at.map(|at| (at, received(0, 1, false))));
            events.sort_by_key(|(at, _)| *at);
            let history = history(events);
            let (_, waited) = history.waits()[0];
            (waited.as_secs(), history.flaws(PATIENCE))
        };
        let stalled = |from: u64, until: u64| Flaw::Stalled {
            queue: Some("jobs".into()),
            message: 1,
            from: second(from),
            until: second(until),
        };
        let late = |at: Option<u64>| Flaw::Late {
            message: 1,
            by: second(25),
            at: at.map(second),
        };
        assert_eq!(comes(&[], Some(8)), (3, vec![]));
        assert_eq!(comes(&[], Some(9)), (4, vec![stalled(5, 9)]));
        // However long it takes, as long as others come.
        assert_eq!(comes(&[6, 9, 12, 15, 18, 21], Some(24)), (3, vec![]));
        assert_eq!(comes(&[6, 10, 12], Some(14)), (4, vec![stalled(6, 10)]));
        // But not for ever.
        let others = [8, 11, 14, 17, 20, 23];
        assert_eq!(comes(&others, Some(26)), (3, vec![late(Some(26))]));
        assert_eq!(comes(&others, None), (3, vec![late(None)]));
        let none = vec![stalled(7, 30), late(None)];
        assert_eq!(comes(&[7, 30], None), (23, none));
    }

    #[test]
    fn a_stall_is_told_with_its_queue() {
        let told = |queue: Option<&str>| {
            let queue = queue.map(str::to_owned);
            let (message, from, until) = (1, 2, 3);
            let stalled = Flaw::Stalled {
                queue,
                message,
                from,
                until,
            };
            stalled.to_string()
        };
        assert!(told(Some("jobs")).contains("from queue `jobs` between"));
        assert!(told(None).contains("from any queue between"));
    }

    #[test]
    fn a_call_that_ends_after_its_deadline_is_a_flaw() {
        let called = |took: u64| Event::Called {
            call: "publish".into(),
            error: Some("Timeout".into()),
            took,
            limit: 1_000_000,
        };
        assert_eq!(flaws([called(1_250_000)]), []);
        let overran = Flaw::Overran {
            call: "publish".into(),
            took: 1_250_001,
            limit: 1_000_000,
        };
        assert_eq!(flaws([called(1_250_001)]), [overran]);
    }

    #[test]
    fn more_than_there_was_is_a_leak() {
        let counted = |what: &str, count: u64| Event::Counted {
            what: what.into(),
            count,
            slack: 2,
        };
        let begin = [counted("tasks", 5), counted("sockets", 3)];
        let between = counted("tasks", 50);
        let fine = [counted("tasks", 7), counted("sockets", 1)];
        let history = [&begin[..], &[between], &fine].concat();
        assert_eq!(flaws(history.clone()), []);
        let leaked = Flaw::Leaked {
            what: "tasks".into(),
            before: 5,
            after: 8,
        };
        assert_eq!(
            flaws([&history[..], &[counted("tasks", 8)]].concat()),
            [leaked]
        );
    }
}
