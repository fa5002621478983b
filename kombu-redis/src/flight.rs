//! Work that is sent to the server together, and the way of its answers.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::sync::Arc;

use kombu_core::virt::{Answer, Death};
use kombu_core::{Error, ErrorKind, Name};
use redis::{Cmd, Pipeline, Value};

use crate::error;
use crate::hand::Messages;
use crate::line::Line;
use crate::script::{self, Script};
use crate::store::GIVEN_BACK;
use crate::work::{Ask, End, Finishing, Holder, Push, Take, Taken, Taker, Target, Waiting, Work};

/// How many messages, and bytes, go in one flight.
pub(crate) const MAX_WORK: usize = 512;
const MAX_BYTES: usize = 4 << 20;

/// Arguments in front of the texts of a call that stores messages, in most calls.
const HEADER: usize = 16;

/// Work on its way, and what was made of it.
pub(crate) struct Flight {
    pub(crate) pipeline: Pipeline,
    parts: Vec<Part>,
}

/// How often a session called `push.lua`: each call says its number, so that none is done without the one before. Otherwise
/// a call that goes again would be overtaken by those behind it, which were under way already.
#[derive(Debug, Default)]
pub(crate) struct PushCalls {
    pub(crate) sent: u64,
    pub(crate) done: u64,
}

/// Work of one script call.
enum Part {
    Pushes(Vec<Push>),
    Finishes(Vec<Finishing>),
    Take(Take),
    Ask(Ask),
    End,
}

/// What a flight brought.
#[derive(Default)]
pub(crate) struct Landed {
    /// The server had forgotten its scripts.
    pub(crate) forgotten: bool,
    /// A call of `push.lua` wasn't done, and so none behind it is.
    pub(crate) broken: bool,
    /// Work that was not done because of either.
    pub(crate) again: Vec<Work>,
    /// The session is over.
    pub(crate) over: Option<Error>,
    /// Messages died.
    pub(crate) deaths: bool,
}

impl Flight {
    /// Takes from the front of `waiting` what can go together, in order.
    ///
    /// What forgets messages goes last, and so together: nothing that is asked for in between depends on it but the
    /// commands before which it is sent. What is published with the same declarations goes together, too.
    pub(crate) fn load(
        waiting: &mut VecDeque<Work>,
        prefix: &str,
        session: &str,
        calls: &mut PushCalls,
    ) -> Self {
        let mut parts: Vec<Part> = Vec::new();
        let mut forgets = Vec::new();
        let (mut count, mut bytes) = (0, 0);
        while count < MAX_WORK && bytes < MAX_BYTES {
            let Some(work) = waiting.pop_front() else {
                break;
            };
            count += 1;
            match work {
                Work::Push(push) => {
                    bytes += push.parcel.text.len();
                    let last = parts.iter_mut().rev().find_map(|part| match part {
                        Part::Pushes(pushes) => Some(pushes),
                        _ => None,
                    });
                    match last {
                        Some(pushes) if go_together(&pushes[0], &push) => pushes.push(push),
                        _ => parts.push(Part::Pushes(vec![push])),
                    }
                }
                Work::Finish(finishing) if matches!(finishing.end, End::Forget) => {
                    forgets.push(finishing);
                }
                Work::Finish(finishing) => match parts.last_mut() {
                    Some(Part::Finishes(all)) => all.push(finishing),
                    _ => parts.push(Part::Finishes(vec![finishing])),
                },
                Work::Take(take) => parts.push(Part::Take(take)),
                Work::Ask(ask) => {
                    if !forgets.is_empty() {
                        parts.push(Part::Finishes(std::mem::take(&mut forgets)));
                    }
                    parts.push(Part::Ask(ask));
                }
                Work::End => {
                    if !forgets.is_empty() {
                        parts.push(Part::Finishes(std::mem::take(&mut forgets)));
                    }
                    parts.push(Part::End);
                }
            }
        }
        if !forgets.is_empty() {
            parts.push(Part::Finishes(forgets));
        }
        let mut pipeline = redis::pipe();
        for part in &parts {
            part.write(&mut pipeline, prefix, session, calls);
        }
        Flight { pipeline, parts }
    }

    /// Gives the answers to those who wait for them.
    pub(crate) fn land(
        self,
        answers: Vec<Value>,
        line: &Arc<Line>,
        calls: &mut PushCalls,
    ) -> Landed {
        let mut landed = Landed::default();
        let mut answers = answers.into_iter();
        for part in self.parts {
            let mut answer = answers.next().unwrap_or(Value::Nil);
            if let Part::Ask(ask) = &part
                && ask.watch.is_some()
            {
                landed.look_at_watch(&answer);
                drop(answers.next());
                answer = answers.next().unwrap_or(Value::Nil);
            }
            if let Part::Pushes(_) = &part {
                match &answer {
                    Value::Array(_) => calls.done += 1,
                    _ => landed.broken = true,
                }
            }
            if script::is_unknown(&answer) {
                if let Part::Take(take) = &part
                    && take.arms()
                {
                    drop((answers.next(), answers.next()));
                }
                landed.forgotten = true;
                part.take_back(&mut landed.again);
                continue;
            }
            if let Value::ServerError(problem) = &answer
                && error::ends_session(problem)
            {
                landed.over.get_or_insert_with(|| error::classify(problem));
            }
            match part {
                Part::Pushes(pushes) => answer_pushes(pushes, answer, &mut landed),
                Part::Finishes(finishes) => answer_finishes(finishes, answer, &mut landed),
                Part::Take(take) => {
                    let mut is_lone = true;
                    if take.arms() {
                        landed.look_at_watch(&answers.next().unwrap_or(Value::Nil));
                        // Of the keys, only that of the consumers is to be there.
                        is_lone = matches!(answers.next(), Some(Value::Int(1)));
                    }
                    answer_take(take, answer, !is_lone, line, &mut landed);
                }
                Part::Ask(ask) => {
                    // Whoever asked looks at errors too.
                    drop(ask.reply.send(Ok(answer)));
                }
                Part::End => {
                    if let Value::Array(parts) = &answer
                        && let Some(Value::Int(0)) = parts.first()
                    {
                        landed.again.push(Work::End);
                    }
                }
            }
        }
        landed
    }
}

impl Landed {
    /// `answer` is that to `CLIENT CACHING`.
    fn look_at_watch(&mut self, answer: &Value) {
        if let Value::ServerError(problem) = answer {
            // Nobody would be told of what comes. The next session looks by itself.
            self.over.get_or_insert_with(|| error::unwatched(problem));
        }
    }
}

/// Tells the server which keys to watch.
fn watch(keys: &[Vec<u8>], pipeline: &mut Pipeline) {
    // Those of the next command.
    pipeline.cmd("CLIENT").arg("CACHING").arg("YES");
    pipeline.cmd("EXISTS").arg(keys);
}

impl Part {
    fn write(&self, pipeline: &mut Pipeline, prefix: &str, session: &str, calls: &mut PushCalls) {
        match self {
            Part::Pushes(pushes) => {
                let texts: usize = pushes.iter().map(|push| push.parcel.text.len()).sum();
                let mut command =
                    Script::Push.call_with(prefix, pushes.len() + HEADER, texts + 16 * HEADER);
                command.arg(session).arg(calls.sent);
                calls.sent += 1;
                write_pushes(pushes, &mut command);
                pipeline.add_command(command);
            }
            Part::Finishes(finishes) => {
                let mut command = Script::Finish.call(prefix);
                command.arg(session);
                write_finishes(finishes, &mut command);
                pipeline.add_command(command);
            }
            Part::Take(take) => {
                let mut command = Script::Take.call(prefix);
                command
                    .arg(session)
                    .arg(take.holder.0.number)
                    .arg(take.holder.0.queue.as_str())
                    .arg(take.count);
                match &take.taker {
                    Taker::Once { is_declared: true } => command.arg("once"),
                    Taker::Once { is_declared: false } => command.arg("other"),
                    Taker::Consumer(waiting) => {
                        command.arg(waiting.window).arg(waiting.accepted);
                        match waiting.handed_at {
                            Some(db) => command.arg(db),
                            None => command.arg(""),
                        };
                        command.arg(u8::from(take.holder.0.at_most_once))
                    }
                };
                pipeline.add_command(command);
                if take.arms()
                    && let Taker::Consumer(Waiting { keys, .. }) = &take.taker
                {
                    watch(keys, pipeline);
                }
            }
            Part::Ask(ask) => {
                if let Some(key) = &ask.watch {
                    watch(std::slice::from_ref(key), pipeline);
                }
                pipeline.add_command(ask.command.clone());
            }
            Part::End => {
                let mut command = Script::End.call(prefix);
                command.arg(session).arg(GIVEN_BACK);
                pipeline.add_command(command);
            }
        }
    }

    fn take_back(self, again: &mut Vec<Work>) {
        match self {
            Part::Pushes(pushes) => again.extend(pushes.into_iter().map(Work::Push)),
            Part::Finishes(finishes) => again.extend(finishes.into_iter().map(Work::Finish)),
            Part::Take(take) => again.push(Work::Take(take)),
            Part::Ask(ask) => again.push(Work::Ask(ask)),
            Part::End => again.push(Work::End),
        }
    }
}

fn go_together(one: &Push, other: &Push) -> bool {
    one.version == other.version && !one.alone && !other.alone
}

fn write_pushes(pushes: &[Push], command: &mut Cmd) {
    let mut exchanges: Vec<&Name> = Vec::new();
    let mut queues: Vec<&Name> = Vec::new();
    let mut index: HashMap<&Name, usize> = HashMap::new();
    let mut last: Option<&Arc<[Name]>> = None;
    for push in pushes {
        if !last.is_some_and(|last| Arc::ptr_eq(last, &push.exchanges)) {
            for exchange in push.exchanges.iter() {
                if !exchanges.contains(&exchange) {
                    exchanges.push(exchange);
                }
            }
            last = Some(&push.exchanges);
        }
        for target in &push.targets {
            // Most flights go to one queue.
            if queues.last() == Some(&&target.queue) {
                continue;
            }
            index.entry(&target.queue).or_insert_with(|| {
                queues.push(&target.queue);
                queues.len()
            });
        }
    }
    command.arg(pushes[0].version).arg(exchanges.len());
    for exchange in &exchanges {
        command.arg(exchange.as_str());
    }
    command.arg(queues.len());
    for queue in &queues {
        command.arg(queue.as_str());
    }
    let number = |target: &Target| match queues.len() {
        1 => 1,
        _ => index.get(&target.queue).copied().unwrap_or(1),
    };
    let mut rest = pushes;
    while let Some(first) = rest.first() {
        let run = plain_together(rest);
        command.arg(run);
        if let (1.., [target]) = (run, &first.targets[..]) {
            command.arg(number(target)).arg(target.step);
            for push in &rest[..run] {
                command.arg(&push.parcel.text[..]);
            }
            rest = &rest[run..];
            continue;
        }
        command.arg(first.targets.len());
        for target in &first.targets {
            command.arg(number(target)).arg(target.step);
        }
        write_time(command, first.delay);
        write_time(command, first.parcel.expiration);
        command
            .arg(first.parcel.bytes)
            .arg(first.channel.as_deref().unwrap_or_default())
            .arg(&first.parcel.text[..]);
        rest = &rest[1..];
    }
}

/// How many at the front are plain, and for one list.
fn plain_together(pushes: &[Push]) -> usize {
    let Some(first) = pushes.first() else {
        return 0;
    };
    let same = |other: &&Push| other.is_plain && other.targets == first.targets;
    pushes.iter().take_while(same).count()
}

pub(crate) fn write_time(command: &mut Cmd, milliseconds: Option<u64>) {
    match milliseconds {
        None => command.arg(-1),
        Some(milliseconds) => command.arg(milliseconds),
    };
}

pub(crate) fn write_targets(command: &mut Cmd, targets: &[Target]) {
    command.arg(targets.len());
    for target in targets {
        command.arg(target.queue.as_str()).arg(target.step);
    }
}

/// The steps of a run of messages to be forgotten by one holder are one.
fn forgotten_together(finishes: &[Finishing]) -> usize {
    let Some(first) = finishes.first() else {
        return 0;
    };
    if !matches!(first.end, End::Forget) {
        return 1;
    }
    let same =
        |other: &&Finishing| matches!(other.end, End::Forget) && other.holder.is(&first.holder);
    finishes.iter().take_while(same).count()
}

fn write_finishes(finishes: &[Finishing], command: &mut Cmd) {
    let mut rest = finishes;
    while let Some(first) = rest.first() {
        let run = forgotten_together(rest);
        let what = match first.end {
            End::Forget => "F",
            End::Back { .. } => "R",
            End::LeaveDead(_) => "L",
            End::Move { .. } => "M",
        };
        command.arg(what);
        write_holder(&first.holder, command);
        match &first.end {
            End::Forget => {
                command.arg(run);
                for finishing in &rest[..run] {
                    command.arg(finishing.id);
                }
            }
            End::Back { failed, delay } => {
                command.arg(first.id).arg(u8::from(*failed));
                write_time(command, *delay);
            }
            End::LeaveDead(death) => {
                command.arg(first.id).arg(reason(*death));
            }
            End::Move {
                version,
                exchanges,
                targets,
                parcel,
            } => {
                command.arg(first.id).arg(*version).arg(exchanges.len());
                for exchange in exchanges.iter() {
                    command.arg(exchange.as_str());
                }
                write_time(command, parcel.expiration);
                command.arg(parcel.bytes);
                write_targets(command, targets);
                command.arg(&parcel.text[..]);
            }
        }
        rest = &rest[run..];
    }
}

fn write_holder(holder: &Holder, command: &mut Cmd) {
    match holder.0.number {
        Some(number) => command.arg(number),
        None => command.arg("d"),
    };
    command
        .arg(holder.0.queue.as_str())
        .arg(u8::from(holder.is_gone()));
}

/// As the scripts write it: one word.
fn reason(death: Death) -> &'static str {
    match death {
        Death::DeliveryLimit => "deliverylimit",
        death => death.as_str(),
    }
}

pub(crate) fn death(reason: &str) -> Option<Death> {
    [
        Death::Rejected,
        Death::Expired,
        Death::MaxLength,
        Death::DeliveryLimit,
    ]
    .into_iter()
    .find(|death| self::reason(*death) == reason)
}

fn answer_pushes(pushes: Vec<Push>, answer: Value, landed: &mut Landed) {
    let answers = match answer {
        Value::Array(answers) => answers,
        Value::ServerError(problem) if problem.code() == "STALE" => {
            for push in pushes {
                drop(push.reply.send(Ok(Answer::Stale)));
            }
            return;
        }
        Value::ServerError(problem) if problem.code() == "EARLY" => {
            landed.again.extend(pushes.into_iter().map(Work::Push));
            return;
        }
        Value::ServerError(problem) if problem.code() == "WRONGTYPE" && pushes.len() > 1 => {
            // A key of somebody else's, and nothing was stored. The others' are in order.
            let alone = pushes.into_iter().map(|push| Push {
                alone: true,
                ..push
            });
            landed.again.extend(alone.map(Work::Push));
            return;
        }
        other => {
            for push in pushes {
                drop(push.reply.send(Err(error::unexpected("a publish", &other))));
            }
            return;
        }
    };
    let mut answers = answers.into_iter();
    landed.deaths |= !matches!(answers.next(), Some(Value::Int(0)));
    let marks: Vec<i64> = answers
        .filter_map(|mark| match mark {
            Value::Int(mark) => Some(mark),
            _ => None,
        })
        .collect();
    let mut alone = 0;
    for push in pushes {
        let is_marked = |mark| !push.is_plain && marks.contains(&mark);
        alone += i64::from(!push.is_plain);
        if is_marked(-alone) {
            tracing::warn!(
                channel = push.channel.as_deref().unwrap_or_default(),
                "Python's consumers of a fanout exchange don't get what was published there: the Redis user may not publish \
                 at the channel"
            );
        }
        let answer = match is_marked(alone) {
            true => Answer::Refused,
            false => Answer::Done,
        };
        // Nobody waits any more; it is stored all the same.
        drop(push.reply.send(Ok(answer)));
    }
}

fn answer_finishes(finishes: Vec<Finishing>, answer: Value, landed: &mut Landed) {
    let mut finishes = finishes;
    let mut answers = match answer {
        Value::Array(answers) => answers.into_iter(),
        other => {
            let is_lost = matches!(&other, Value::BulkString(text) if text == b"LOST");
            if is_lost {
                landed.over.get_or_insert_with(error::session_over);
            }
            for finishing in finishes {
                let problem = match is_lost {
                    true => error::settle_lost(),
                    false => error::unexpected("a settle", &other),
                };
                if let Some(reply) = finishing.reply {
                    drop(reply.send(Err(problem)));
                }
            }
            return;
        }
    };
    while !finishes.is_empty() {
        let run = forgotten_together(&finishes);
        let answer = answers.next();
        for finishing in finishes.drain(..run) {
            let Some(reply) = finishing.reply else {
                continue;
            };
            drop(reply.send(match answer {
                Some(Value::Int(1)) => Ok(Answer::Done),
                Some(Value::Int(2)) => Ok(Answer::Stale),
                Some(Value::Int(3)) => Ok(Answer::Refused),
                Some(Value::Int(4)) => Err(error::foreign_key("it stays with its holder")),
                Some(Value::Int(0)) => Err(error::settle_lost()),
                _ => Err(error::unexpected("a settle", &Value::Nil)),
            }));
        }
    }
    landed.deaths |= !matches!(answers.next(), Some(Value::Int(0)) | None);
}

fn answer_take(
    take: Take,
    answer: Value,
    may_have_missed: bool,
    line: &Arc<Line>,
    landed: &mut Landed,
) {
    let queue = take.holder.0.queue.clone();
    let taken = match answer {
        Value::Array(values) => taken(values, landed),
        Value::ServerError(problem) if problem.code() == "NOQUEUE" => {
            Err(error::missing_queue(&queue))
        }
        other => Err(error::unexpected("a take", &other)),
    };
    // If whoever asked is gone, they go back.
    drop(take.reply.send(taken.map(|found| Taken {
        messages: found.messages,
        has_more: found.has_more,
        handed: found.handed,
        may_have_missed,
        line: line.clone(),
        holder: take.holder,
    })));
}

/// What `take.lua` answers.
struct Found {
    messages: Messages,
    has_more: bool,
    handed: u64,
}

fn taken(values: Vec<Value>, landed: &mut Landed) -> kombu_core::Result<Found> {
    let mut values = values.into_iter();
    landed.deaths |= !matches!(values.next(), Some(Value::Int(0)));
    let has_more = matches!(values.next(), Some(Value::Int(1)));
    let handed = values.next().as_ref().and_then(number).unwrap_or_default();
    let mut messages = VecDeque::with_capacity(values.len() / 2);
    while let (Some(id), Some(text)) = (values.next(), values.next()) {
        let (Some(id), Value::BulkString(text)) = (number(&id), text) else {
            return Err(Error::new(
                ErrorKind::Protocol,
                "Redis answered a take with something else",
            ));
        };
        messages.push_back((id, text));
    }
    Ok(Found {
        messages,
        has_more,
        handed,
    })
}

/// A number that the server wrote as text.
pub(crate) fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        Value::BulkString(text) => std::str::from_utf8(text).ok()?.parse().ok(),
        Value::SimpleString(text) => text.parse().ok(),
        _ => None,
    }
}

/// Text of fields for `apply.lua`.
pub(crate) fn field(fields: &mut String, name: &str, value: impl std::fmt::Display) {
    // Writing to a string can't fail.
    let _ = write!(fields, "{name}={value};");
}
