use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
#[cfg(feature = "tls")]
use kombu_core::driver::tls::Tls;
use kombu_core::driver::{
    BoxFuture, BrokerInfo, Capabilities, Destination, Op, QueueInfo, RawDelivery,
};
use kombu_core::message::Envelope;
use kombu_core::virt::{Answer, Applied, Change, Dead, Finish, QueueStore, ReaderOptions, Table};
use kombu_core::{Error, ErrorKind, ExchangeKind, Name, Result};
use parking_lot::Mutex;
use redis::Value;
use tokio::sync::{OnceCell, oneshot};

use crate::bell::Bells;
#[cfg(not(feature = "tls"))]
use crate::dial::Tls;
use crate::flight::{self, number};
use crate::hand::{self, Hands};
use crate::hear::{self, Ear};
use crate::known::{Known, RedisQueue};
use crate::line::Line;
use crate::pulse::Pulse;
use crate::reader::RedisReader;
use crate::records::Changes;
use crate::script::Script;
use crate::texts::Texts;
use crate::transport::{Address, field, text};
use crate::work::{End, Finishing, Holder, Parcel, Push, Take, Taker, Work, give_back};
use crate::{element, error};

/// The exchanges that are there without a declaration, and may have rows of kombu's.
const PREDECLARED: [&str; 3] = ["amq.direct", "amq.fanout", "amq.topic"];
/// How many dead messages are taken at once.
const DEAD: usize = 100;
/// How many messages of a session that ends go back in one call, which the server does nothing else meanwhile.
pub(crate) const GIVEN_BACK: usize = 500;
/// How many queues that are to go are deleted in one call.
const REMOVED: usize = 100;

/// One session with a server.
pub(crate) struct RedisStore {
    pub(crate) shared: Arc<Shared>,
    readers: AtomicU64,
    capabilities: Capabilities,
}

/// What a session's tasks have of it.
pub(crate) struct Shared {
    pub(crate) line: Arc<Line>,
    pub(crate) known: Mutex<Known>,
    pub(crate) bells: Arc<Bells>,
    pub(crate) hands: Arc<Hands>,
    /// Whether the server hands messages to this session, since the first consumer.
    hears: OnceCell<bool>,
    pub(crate) pulse: Arc<Pulse>,
    /// The server tells when keys change. Otherwise somebody looks.
    pub(crate) is_told: bool,
    /// For what Python publishes to fanout exchanges.
    pub(crate) ear: Option<Arc<Ear>>,
    pub(crate) address: Address,
    pub(crate) tls: Option<Tls>,
    pub(crate) texts: Texts,
}

impl RedisStore {
    pub(crate) fn new(shared: Arc<Shared>, capabilities: Capabilities) -> Self {
        RedisStore {
            shared,
            readers: AtomicU64::new(0),
            capabilities,
        }
    }
}

impl RedisStore {
    /// Deletes what went with sessions that were ended: their names may be wanted again.
    pub(crate) async fn clean_up(&self, ended: &[Value]) {
        for answer in ended {
            let removed = match answer {
                Value::Array(parts) => {
                    let doomed = parts.last().unwrap_or(&Value::Nil);
                    self.shared.remove_all(doomed).await
                }
                other => Err(error::unexpected("the end of a lost session", other)),
            };
            if let Err(error) = removed {
                tracing::debug!(%error, "what a lost session left is left to others");
            }
        }
    }
}

impl Shared {
    pub(crate) fn new(
        line: Arc<Line>,
        bells: Arc<Bells>,
        is_told: bool,
        ear: Option<Arc<Ear>>,
        address: Address,
        tls: Option<Tls>,
        lease: Duration,
    ) -> Arc<Self> {
        Arc::new(Shared {
            line,
            known: Mutex::new(Known::new()),
            bells,
            hands: Arc::default(),
            hears: OnceCell::new(),
            pulse: Arc::new(Pulse::new(lease)),
            is_told,
            ear,
            address,
            tls,
            texts: Texts::default(),
        })
    }

    /// The database, if the server may hand messages to this session.
    async fn handed_at(self: &Arc<Self>) -> Option<i64> {
        let hears = self.hears.get_or_init(|| hand::listen(self)).await;
        hears.then_some(self.address.db)
    }

    /// Loads the declarations, and answers the new table.
    pub(crate) async fn load(&self) -> Result<Table> {
        let mut command = self.line.call(Script::Load);
        command.arg(&PREDECLARED[..]);
        for name in self.known.lock().other_exchanges() {
            command.arg(name.as_str());
        }
        let answer = self.line.ask(command).await?;
        let table = {
            let mut known = self.known.lock();
            known.load(&answer)?;
            known.table.clone()
        };
        hear::listen(self, &table).await?;
        Ok(table)
    }

    /// What the server tells. A user may be kept from either.
    async fn broker_info(&self) -> Result<BrokerInfo> {
        let mut asking = redis::cmd("INFO");
        asking.arg("server");
        let answers = tokio::join!(self.line.ask(asking), self.line.ask(redis::cmd("TIME")));
        let server = unless_refused(answers.0)?;
        let time = unless_refused(answers.1)?;
        let version = server.as_ref().and_then(text).and_then(version);
        Ok(BrokerInfo::new(version, time.as_ref().and_then(time_of)))
    }

    pub(crate) async fn is_current(&self, version: u64) -> Result<bool> {
        let command = {
            let known = self.known.lock();
            if known.table.version() != version {
                return Ok(false);
            }
            let mut command = self.line.call(Script::Current);
            command.arg(known.version);
            for exchange in known.loaded() {
                command.arg(exchange.as_str());
            }
            command
        };
        match self.line.ask(command).await? {
            Value::Int(current) => Ok(current == 1),
            other => Err(error::unexpected("for its version", &other)),
        }
    }

    /// Looks for a queue or an exchange that Python may have made.
    async fn look_for(&self, version: u64, missing: Destination) -> Result<Answer> {
        let mut command = Script::Other.call(&self.line.prefix);
        match &missing {
            Destination::Queue(name) => command.arg("queue").arg(name.as_str()),
            Destination::Exchange(name) => command.arg("exchange").arg(name.as_str()),
        };
        let (looking, comparing) = (self.line.ask(command), self.is_current(version));
        let is_there = match looking.await? {
            Value::Int(found) => found == 1,
            other => return Err(error::unexpected("for what others have", &other)),
        };
        if is_there {
            self.known.lock().add_other(missing);
            return Ok(Answer::Stale);
        }
        Ok(match comparing.await? {
            true => Answer::Done,
            false => Answer::Stale,
        })
    }

    /// Stores a message where Python may declare a queue without a trace: at most for a day. False if it has left one.
    async fn leave_for(&self, queue: &Name, text: &[u8]) -> Result<bool> {
        let mut command = self.line.call(Script::LeaveFor);
        command.arg(queue.as_str()).arg(text);
        match self.line.ask(command).await? {
            Value::Int(stored) => Ok(stored == 1),
            other => Err(error::unexpected("a publish", &other)),
        }
    }

    async fn apply(&self, base: u64, changes: &[Change]) -> Result<Applied> {
        let kinds: Vec<(Name, ExchangeKind)> = changes
            .iter()
            .filter_map(|change| match change {
                Change::PutExchange(exchange) => {
                    Some((exchange.name().clone(), exchange.kind().clone()))
                }
                _ => None,
            })
            .collect();
        let (command, version) = {
            let known = self.known.lock();
            if known.table.version() != base {
                return Ok(Applied::Stale);
            }
            let mut command = Script::Apply.call(&self.line.prefix);
            command.arg(known.version);
            let mut written = Changes::of(&known.table, &mut command);
            for change in changes {
                written.add(change, &kinds)?;
            }
            (command, known.version)
        };
        let answer = self.line.ask(command).await?;
        let Some((now, messages)) = applied(answer, changes)? else {
            return Ok(Applied::Stale);
        };
        let (version, table) = {
            let mut known = self.known.lock();
            if known.table.version() != base || known.version != version {
                // Loaded meanwhile, with these changes or without; whoever compares finds out.
                return Ok(Applied::Done {
                    version: base,
                    messages,
                });
            }
            (known.apply(changes, now), known.table.clone())
        };
        hear::listen(self, &table).await?;
        Ok(Applied::Done { version, messages })
    }

    /// Deletes queues that are to go, each as `common.lua` names it, unless they aren't any more.
    async fn remove(&self, doomed: &[&str]) -> Result<()> {
        let mut is_new = false;
        loop {
            let (command, base) = {
                let known = self.known.lock();
                let mut command = Script::Apply.call(&self.line.prefix);
                command.arg(known.version);
                let mut written = Changes::of(&known.table, &mut command);
                let mut left = known.table.clone();
                let mut base = Vec::new();
                for doomed in doomed {
                    // Only once: somebody else may be as fast, and the name may be a new queue's by then.
                    let conditions = match doomed.get(..1) {
                        Some("a") => "uA",
                        Some("e") => "ueE",
                        _ => "O",
                    };
                    let name = Name::from(doomed.get(1..).unwrap_or_default());
                    if left.queue(&name).is_none() {
                        continue;
                    }
                    let options = kombu_core::driver::DeleteQueue::default();
                    for change in left.removal_of_queue(&name, options) {
                        match &change {
                            Change::DeleteQueue(name, _) => {
                                written.delete(name, conditions, &[])?
                            }
                            change => written.add(change, &[])?,
                        }
                        left.apply(&change);
                        base.push(change);
                    }
                }
                (command, base)
            };
            let is_done = match base.is_empty() {
                // What is known may be older than they are.
                true => is_new,
                false => applied(self.line.ask(command).await?, &base)?.is_some(),
            };
            if is_done {
                break;
            }
            self.load().await?;
            is_new = true;
        }
        self.keep(doomed).await
    }

    pub(crate) async fn remove_all(&self, doomed: &Value) -> Result<()> {
        let Value::Array(doomed) = doomed else {
            return Ok(());
        };
        let doomed = doomed.iter().filter_map(|name| match name {
            Value::BulkString(name) => std::str::from_utf8(name).ok(),
            _ => None,
        });
        let doomed: Vec<&str> = doomed.collect();
        for together in doomed.chunks(REMOVED) {
            match self.remove(together).await {
                Ok(()) => continue,
                Err(problem) if problem.kind() == ErrorKind::ConnectionLost => return Err(problem),
                // It is one's.
                Err(_) => {}
            }
            for one in together {
                match self.remove(&[one]).await {
                    Ok(()) => {}
                    Err(problem) if problem.kind() == ErrorKind::ConnectionLost => {
                        return Err(problem);
                    }
                    // Somebody uses it again.
                    Err(problem) if problem.kind() == ErrorKind::PreconditionFailed => {
                        self.keep(&[one]).await?;
                    }
                    Err(problem) => {
                        tracing::warn!(error = %problem, "a queue that is to go can't be deleted");
                    }
                }
            }
        }
        Ok(())
    }

    /// Deletes the queues that go with this session, while it is still there to do so.
    async fn retire(&self) -> Result<()> {
        let doomed = self.line.ask(self.line.call(Script::Retire)).await?;
        match doomed {
            Value::Array(_) => self.remove_all(&doomed).await,
            other => Err(error::unexpected("the end of a session", &other)),
        }
    }

    /// These aren't to go any more.
    async fn keep(&self, doomed: &[&str]) -> Result<()> {
        let mut command = redis::cmd("SREM");
        command
            .arg(format!("{}_kombu.rs.doomed", self.line.prefix))
            .arg(doomed);
        self.line.ask(command).await.map(drop)
    }
}

/// The server's version after changes, and how many messages went with them; `None` if they were not made because the
/// declarations had changed before.
fn applied(answer: Value, changes: &[Change]) -> Result<Option<(u64, u64)>> {
    let deleted = || {
        let names = changes.iter().find_map(|change| match change {
            Change::DeleteQueue(name, _) => Some(name.clone()),
            _ => None,
        });
        names.unwrap_or_default()
    };
    match &answer {
        Value::BulkString(text) if text == b"STALE" => Ok(None),
        Value::Array(parts) => {
            let numbers: Option<Vec<u64>> = parts.iter().map(number).collect();
            match numbers.as_deref() {
                Some([version, messages]) => Ok(Some((*version, *messages))),
                _ => Err(error::unexpected("a declaration", &answer)),
            }
        }
        Value::ServerError(problem) if matches!(problem.code(), "INUSE" | "NOTEMPTY") => {
            let count = problem.details().unwrap_or_default();
            let text = match problem.code() {
                "INUSE" => {
                    format!("has {count} consumers; cancel them, or delete it without `if_unused`")
                }
                _ => format!("has {count} messages; purge it, or delete it without `if_empty`"),
            };
            Err(Error::new(
                ErrorKind::PreconditionFailed,
                format!("queue `{}` {text}", deleted()),
            ))
        }
        other => Err(error::unexpected("a declaration", other)),
    }
}

pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// When the first of a message's copies expires, in ms.
pub(crate) fn expiry(targets: &[RedisQueue], expiration: Option<u64>) -> Option<u64> {
    let ttls = targets
        .iter()
        .filter_map(|queue| queue.declaration().get_message_ttl());
    ttls.map(milliseconds).chain(expiration).min()
}

pub(crate) fn parcel(texts: &Texts, envelope: &Envelope) -> Parcel {
    Parcel {
        text: texts.encode(envelope),
        expiration: envelope.expiration().map(milliseconds),
        bytes: envelope.body().len(),
    }
}

/// `None` too where the command has another name.
fn unless_refused(answer: Result<Value>) -> Result<Option<Value>> {
    match answer {
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::AccessRefused | ErrorKind::Unsupported
            ) =>
        {
            Ok(None)
        }
        answer => answer.map(Some),
    }
}

/// As it calls itself in what `INFO` answers.
fn version(server: &str) -> Option<String> {
    let of = |name, key| Some(format!("{name} {}", field(server, key)?));
    of("Valkey", "valkey_version").or_else(|| of("Redis", "redis_version"))
}

/// What `TIME` answers: seconds and microseconds since 1970.
fn time_of(answer: &Value) -> Option<SystemTime> {
    let Value::Array(parts) = answer else {
        return None;
    };
    let [seconds, micros] = parts.as_slice() else {
        return None;
    };
    let seconds = Duration::from_secs(text(seconds)?.parse().ok()?);
    let micros = Duration::from_micros(text(micros)?.parse().ok()?);
    SystemTime::UNIX_EPOCH.checked_add(seconds.checked_add(micros)?)
}

impl QueueStore for RedisStore {
    type Queue = RedisQueue;
    type Reader = RedisReader;
    type Holder = Holder;

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn broker_info(&self) -> Op<Result<BrokerInfo>> {
        let shared = self.shared.clone();
        Op::start(async move { shared.broker_info().await })
    }

    fn session(&self) -> u64 {
        self.shared.line.session
    }

    fn load(&self) -> Op<Result<Table>> {
        let shared = self.shared.clone();
        Op::start(async move { shared.load().await })
    }

    fn is_current(&self, version: u64) -> Op<Result<bool>> {
        let shared = self.shared.clone();
        Op::start(async move { shared.is_current(version).await })
    }

    async fn apply(&self, base: u64, changes: &[Change]) -> Result<Applied> {
        self.shared.apply(base, changes).await
    }

    fn queue(&self, name: &Name) -> Option<RedisQueue> {
        self.shared.known.lock().queue(name)
    }

    fn push(
        &self,
        targets: &[RedisQueue],
        version: u64,
        envelope: &Envelope,
    ) -> Op<Result<Answer>> {
        let Shared {
            line,
            known,
            pulse,
            address,
            texts,
            ..
        } = &*self.shared;
        let (exchanges, server, is_fanout) = {
            let mut known = known.lock();
            if known.table.version() != version {
                return Op::ready(Ok(Answer::Stale));
            }
            let exchange = envelope.exchange();
            (
                known.reached(exchange),
                known.version,
                known.is_fanout(exchange),
            )
        };
        let parcel = parcel(texts, envelope);
        let delay = envelope.delay().map(milliseconds);
        let priority = envelope.priority();
        let expires = expiry(targets, parcel.expiration);
        if let Some(due) = delay.or(expires) {
            pulse.due_in(Duration::from_millis(due));
        }
        let is_plain = delay.is_none()
            && parcel.expiration.is_none()
            && !is_fanout
            && matches!(targets, [queue] if !queue.has_limits());
        let (reply, answer) = oneshot::channel();
        line.send(Work::Push(Push {
            version: server,
            exchanges,
            targets: targets.iter().map(|queue| queue.target(priority)).collect(),
            parcel,
            delay,
            channel: is_fanout.then(|| {
                address
                    .channel(envelope.exchange(), envelope.routing_key())
                    .into()
            }),
            is_plain,
            alone: false,
            reply,
        }));
        let line = line.clone();
        Op::pending(async move { line.answer(answer).await })
    }

    fn together(&self, push: &mut dyn FnMut()) {
        let _gathering = self.shared.line.gather();
        push();
    }

    fn push_nowhere(&self, version: u64, envelope: &Envelope) -> Op<Result<Answer>> {
        let key = envelope.routing_key();
        if !envelope.exchange().is_empty() || key.is_empty() {
            // Compared as others are; and Python's consumers of a fanout may listen.
            return self.push(&[], version, envelope);
        }
        let (shared, name) = (self.shared.clone(), key.clone());
        // Python's queues for answers leave no trace before their first message.
        let is_answer = !envelope.mandatory() && envelope.correlation_id().is_some();
        let text = is_answer.then(|| element::encode(envelope));
        let has_time = envelope.delay().is_some() || envelope.expiration().is_some();
        Op::start(async move {
            // Without a look: there may be as many such queues as there are requests, and none is worth remembering.
            if let Some(text) = &text
                && !has_time
                && shared.leave_for(&name, text).await?
            {
                return Ok(Answer::Done);
            }
            let queue = Destination::Queue(name.clone());
            let answer = shared.look_for(version, queue).await?;
            if let (Answer::Done, Some(text)) = (answer, &text)
                && !shared.leave_for(&name, text).await?
            {
                // It came meanwhile.
                return Ok(Answer::Stale);
            }
            Ok(answer)
        })
    }

    fn look_for(&self, version: u64, missing: &Destination) -> Op<Result<Answer>> {
        let (shared, missing) = (self.shared.clone(), missing.clone());
        Op::start(async move { shared.look_for(version, missing).await })
    }

    async fn open_reader(&self, queue: &RedisQueue, options: ReaderOptions) -> Result<RedisReader> {
        let Shared { line, .. } = &*self.shared;
        let name = queue.name();
        let hands = self.shared.handed_at().await;
        let number = self.readers.fetch_add(1, Ordering::Relaxed);
        let holder = match options.at_most_once {
            true => Holder::at_most_once(number, name.clone()),
            false => Holder::new(number, name.clone()),
        };
        // Made before the server is asked: if nobody waits for the answer, its drop ends the consumer.
        let reader = RedisReader::new(self.shared.clone(), holder, hands, options.room);
        let mut command = line.call(Script::Subscribe);
        command
            .arg(number)
            .arg(name.as_str())
            .arg(u8::from(options.exclusive))
            .arg(reader.wants())
            .arg(u8::from(!queue.is_declared));
        match line.ask(command).await? {
            Value::Int(_) => Ok(reader),
            Value::ServerError(problem) if problem.code() == "NOQUEUE" => {
                Err(error::missing_queue(name))
            }
            Value::ServerError(problem) if problem.code() == "ACCESS" => Err(Error::new(
                ErrorKind::AccessRefused,
                format!(
                    "queue `{name}` has a consumer that is the only one, or is to have one; close that one, or consume \
                     without `exclusive`"
                ),
            )),
            other => Err(error::unexpected("a new consumer", &other)),
        }
    }

    async fn take_one(&self, queue: &RedisQueue) -> Result<Option<(RawDelivery, Holder)>> {
        let line = &self.shared.line;
        // Not the same for all: those of a queue that was deleted aren't to be taken for those of the next one.
        let number = self.readers.fetch_add(1, Ordering::Relaxed);
        let holder = Holder::new(number, queue.name().clone());
        holder.leave();
        let mut taken = loop {
            let (reply, answer) = oneshot::channel();
            line.send(Work::Take(Take {
                holder: holder.clone(),
                count: 1,
                taker: Taker::Once {
                    is_declared: queue.is_declared,
                },
                reply,
            }));
            let taken = line.answer(answer).await?;
            // Otherwise those that it looked at had expired.
            if !taken.messages.is_empty() || !taken.has_more {
                break taken;
            }
        };
        Ok(taken.messages.pop_front().map(|(id, text)| {
            let message = element::decode(&Bytes::from(text));
            let delivery = RawDelivery {
                envelope: message.envelope,
                id,
                failures: message.failures,
                queue: 0,
                redelivered: message.redelivered,
                waited: Duration::ZERO,
            };
            (delivery, holder)
        }))
    }

    fn finish(
        &self,
        holder: &Holder,
        id: u64,
        finish: Finish<'_, RedisQueue>,
    ) -> Op<Result<Answer>> {
        if holder.0.at_most_once {
            return Op::ready(Ok(Answer::Done));
        }
        let end = match finish {
            Finish::Forget | Finish::Discard { .. } => End::Forget,
            Finish::LeaveDead { death } => End::LeaveDead(death),
            Finish::Release => End::Back {
                failed: false,
                delay: None,
            },
            Finish::Retry { delay } => {
                if let Some(delay) = delay {
                    self.shared.pulse.due_in(delay);
                }
                End::Back {
                    failed: true,
                    delay: delay.map(milliseconds),
                }
            }
            Finish::Move {
                targets,
                version,
                envelope,
                ..
            } => {
                let (server, exchanges) = {
                    let mut known = self.shared.known.lock();
                    if known.table.version() != version {
                        return Op::ready(Ok(Answer::Stale));
                    }
                    (known.version, known.reached(envelope.exchange()))
                };
                let ttls = targets
                    .iter()
                    .filter_map(|queue| queue.declaration().get_message_ttl());
                if let Some(ttl) = ttls.min() {
                    self.shared.pulse.due_in(ttl);
                }
                let priority = envelope.priority();
                End::Move {
                    version: server,
                    exchanges,
                    targets: targets.iter().map(|queue| queue.target(priority)).collect(),
                    parcel: parcel(&self.shared.texts, envelope),
                }
            }
            _ => {
                return Op::ready(Err(Error::new(
                    ErrorKind::Unsupported,
                    "this transport can't settle like that",
                )));
            }
        };
        let line = self.shared.line.clone();
        let (reply, answer) = oneshot::channel();
        line.send(Work::Finish(Finishing {
            holder: holder.clone(),
            id,
            end,
            reply: Some(reply),
        }));
        Op::pending(async move { answer.await.unwrap_or_else(|_| Err(error::settle_lost())) })
    }

    fn take_dead(&self) -> Op<Result<Vec<Dead<Holder>>>> {
        let mut taking: BoxFuture<'static, Result<Value>> =
            Box::pin(ask_for_the_dead(&self.shared.line));
        let line = self.shared.line.clone();
        Op::pending(async move {
            // How many there were at first, and it hasn't looked at yet: one call looks at some.
            let mut left = None;
            loop {
                let answer = taking.await?;
                let Value::Array(values) = &answer else {
                    return Err(error::unexpected("for the dead", &answer));
                };
                let counts = values
                    .first()
                    .and_then(number)
                    .zip(values.get(1).and_then(number));
                let Some((looked, count)) = counts else {
                    return Err(error::unexpected("for the dead", &answer));
                };
                let dead = read_dead(&line, values.get(2..).unwrap_or_default());
                let still = left.unwrap_or(count).saturating_sub(looked);
                if !dead.is_empty() || looked == 0 || still == 0 {
                    return Ok(dead);
                }
                left = Some(still);
                taking = Box::pin(ask_for_the_dead(&line));
            }
        })
    }

    fn dead_bell(&self) -> BoxFuture<'static, ()> {
        let line = self.shared.line.clone();
        Box::pin(async move { line.deaths.notified().await })
    }

    async fn info(&self, queue: &RedisQueue) -> Result<QueueInfo> {
        let name = queue.name();
        let line = &self.shared.line;
        let answer = loop {
            let mut command = line.call(Script::Info);
            command.arg(name.as_str()).arg(u8::from(!queue.is_declared));
            let answer = line.ask(command).await?;
            if !is_half_done(&answer) {
                break answer;
            }
        };
        match &answer {
            Value::Array(counts) => {
                let counts: Option<Vec<u64>> = counts.iter().map(number).collect();
                match counts.as_deref() {
                    Some([ready, unsettled, consumers]) => Ok(QueueInfo::new(
                        name.clone(),
                        *ready,
                        Some(*unsettled),
                        *consumers,
                    )),
                    _ => Err(error::unexpected("for counts", &answer)),
                }
            }
            Value::ServerError(problem) if problem.code() == "NOQUEUE" => {
                Err(error::missing_queue(name))
            }
            other => Err(error::unexpected("for counts", other)),
        }
    }

    async fn purge(&self, queue: &RedisQueue) -> Result<u64> {
        let line = &self.shared.line;
        let answer = loop {
            let mut command = line.call(Script::Purge);
            command.arg(queue.name().as_str());
            let answer = line.ask(command).await?;
            if !is_half_done(&answer) {
                break answer;
            }
        };
        number(&answer).ok_or_else(|| error::unexpected("a purge", &answer))
    }

    fn closed(&self) -> BoxFuture<'static, Error> {
        Box::pin(self.shared.line.lost())
    }

    async fn close(&self) -> Result<()> {
        let shared = &self.shared;
        let _unless_ended = Leaving(&shared.line);
        if let Err(problem) = shared.retire().await {
            tracing::debug!(error = %problem, "queues of a session that ends are left to others");
        }
        loop {
            let mut command = shared.line.call(Script::End);
            command.arg(GIVEN_BACK);
            let answer = match shared.line.ask(command).await {
                Ok(answer) => answer,
                // It ends by itself.
                Err(_) => break,
            };
            let Value::Array(parts) = &answer else {
                break;
            };
            if parts.first().and_then(number) == Some(1) {
                shared.line.set_ended();
                break;
            }
        }
        shared.line.hang_up();
        Ok(())
    }
}

/// A session that is being ended: nobody may wait until it is.
struct Leaving<'a>(&'a Line);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl Drop for RedisStore {
    fn drop(&mut self) {
        if self.shared.line.is_over() {
            return;
        }
        // In the order of what was asked for before; nobody waits for it.
        self.shared.line.send(Work::End);
        self.shared.line.end_when_idle();
    }
}

fn ask_for_the_dead(line: &Arc<Line>) -> impl Future<Output = Result<Value>> + Send + 'static {
    let mut command = line.call(Script::TakeDead);
    command.arg(DEAD);
    line.ask(command)
}

/// The dead that were taken, by id and record.
fn read_dead(line: &Line, values: &[Value]) -> Vec<Dead<Holder>> {
    let holder = Holder::of_the_dead();
    let dead = values.chunks_exact(2).filter_map(|pair| {
        let id = number(&pair[0])?;
        let dead = dead(&holder, id, &pair[1]);
        if dead.is_none() {
            // Not ours to understand: another version may, so it is left to others.
            tracing::warn!("a dead message in Redis can't be read");
            give_back(line, &holder, id);
        }
        dead
    });
    dead.collect()
}

/// Whether so much was due that it isn't all done, and one has to ask again.
fn is_half_done(answer: &Value) -> bool {
    matches!(answer, Value::BulkString(text) if text == b"AGAIN")
}

/// A dead message as `common.lua` writes it.
fn dead(holder: &Holder, id: u64, record: &Value) -> Option<Dead<Holder>> {
    let Value::BulkString(text) = record else {
        return None;
    };
    let mut parts = text.splitn(5, |byte| *byte == b' ');
    let mut word = || std::str::from_utf8(parts.next()?).ok();
    let death = flight::death(word()?)?;
    let died = Duration::from_millis(word()?.parse().ok()?);
    word()?;
    let length: usize = word()?.parse().ok()?;
    let rest = parts.next()?;
    let (declaration, message) = rest.split_at_checked(length)?;
    let queue = serde_json::from_slice(declaration).ok()?;
    let message = element::decode(&Bytes::copy_from_slice(message));
    Some(Dead {
        queue: Arc::new(queue),
        death,
        died: SystemTime::UNIX_EPOCH.checked_add(died)?,
        envelope: message.envelope,
        holder: holder.clone(),
        id,
    })
}
