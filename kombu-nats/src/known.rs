//! What a session knows of the declarations, and how it learns of others'.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use futures_util::future::join_all;
use kombu_core::driver::Destination;
use kombu_core::virt::{Change, Table};
use kombu_core::{Exchange, Name, Queue, Result};
use serde::Deserialize;
use serde_json::json;

use crate::api::{self, Raw};
use crate::error::{self, code};
use crate::line::{Line, Stored};
use crate::message;
use crate::names::{self, Layout};
use crate::news::News;
use crate::records::{self, QueueRecord, Record};

/// How many records are asked for one by one; more are read as a stream.
const FEW: u64 = 64;

/// A queue that was looked up.
#[derive(Clone, Debug)]
pub(crate) struct NatsQueue(Arc<Place>);

#[derive(Debug)]
struct Place {
    declaration: Arc<Queue>,
    stream: Arc<str>,
    is_adopted: bool,
    /// By level.
    subjects: Vec<Subject>,
    news: News,
}

impl NatsQueue {
    fn new(layout: &Layout, declaration: Arc<Queue>, record: &QueueRecord) -> Self {
        let name = declaration.name();
        let levels = declaration.get_max_priority().unwrap_or(0);
        NatsQueue(Arc::new(Place {
            stream: layout.stream(name, &record.id).into(),
            is_adopted: record.adopted,
            subjects: (0..=levels)
                .map(|level| layout.subject(name, &level.to_string()).into())
                .collect(),
            news: News::new(layout.news(name).into()),
            declaration,
        }))
    }

    /// What is told to those that wait for a message.
    pub(crate) fn news(&self) -> &News {
        &self.0.news
    }

    pub(crate) fn name(&self) -> &Name {
        self.0.declaration.name()
    }

    pub(crate) fn declaration(&self) -> &Arc<Queue> {
        &self.0.declaration
    }

    pub(crate) fn stream(&self) -> &Arc<str> {
        &self.0.stream
    }

    /// Whether its stream was there before its record.
    pub(crate) fn is_adopted(&self) -> bool {
        self.0.is_adopted
    }

    /// How many priorities are told apart.
    pub(crate) fn levels(&self) -> u8 {
        self.0.subjects.len() as u8
    }

    /// The level of a message with this priority.
    pub(crate) fn level(&self, priority: Option<u8>) -> u8 {
        priority.unwrap_or(0).min(self.levels() - 1)
    }

    /// Where messages of a level are published to.
    pub(crate) fn subject(&self, level: u8) -> &Subject {
        &self.0.subjects[usize::from(level.min(self.levels() - 1))]
    }

    /// Whether it is the same declaration of the same queue.
    pub(crate) fn is(&self, other: &NatsQueue) -> bool {
        self.0.stream == other.0.stream
    }

    /// How long a message may wait here at most.
    pub(crate) fn time_to_live(&self, expiration: Option<Duration>) -> Option<Duration> {
        let own = self.0.declaration.get_message_ttl();
        own.into_iter().chain(expiration).min()
    }
}

/// The newest table that was read.
pub(crate) struct Known {
    table: Table,
    revision: u64,
    ids: HashMap<Name, QueueRecord>,
    queues: HashMap<Name, NatsQueue>,
    /// Those that were deleted.
    gone: HashSet<Name>,
    /// Those of them that the session still has something of.
    newly_gone: Vec<NatsQueue>,
    /// The versions in which exchanges were changed last, as far as their own bindings are concerned.
    touched: HashMap<Name, u64>,
    /// The same for all that a message reaches which is published to one, as far as it was asked for.
    reached: HashMap<Name, u64>,
    layout: Layout,
}

impl Known {
    pub(crate) fn new(layout: Layout) -> Self {
        Known {
            table: Table::new(),
            revision: 0,
            ids: HashMap::new(),
            queues: HashMap::new(),
            gone: HashSet::new(),
            newly_gone: Vec::new(),
            touched: HashMap::new(),
            reached: HashMap::new(),
            layout,
        }
    }

    pub(crate) fn table(&self) -> &Table {
        &self.table
    }

    pub(crate) fn queue(&self, name: &Name) -> Option<NatsQueue> {
        self.queues.get(name).cloned()
    }

    /// The queue that a stream is of.
    pub(crate) fn queue_of(&self, stream: &str) -> Option<NatsQueue> {
        let mut all = self.queues.values();
        all.find(|queue| **queue.stream() == *stream).cloned()
    }

    /// All queues.
    pub(crate) fn queues(&self) -> impl Iterator<Item = &NatsQueue> {
        self.queues.values()
    }

    /// Whether there is a record of this name: of a queue, or that it was deleted.
    fn was_there(&self, name: &Name) -> bool {
        self.queues.contains_key(name) || self.gone.contains(name)
    }

    /// The queues that turned out to be gone since the last call.
    pub(crate) fn take_gone(&mut self) -> Vec<NatsQueue> {
        std::mem::take(&mut self.newly_gone)
    }

    /// Whether the queue is there, as it was when it was looked up.
    pub(crate) fn has(&self, queue: &NatsQueue) -> bool {
        self.queues
            .get(queue.name())
            .is_some_and(|there| there.is(queue))
    }

    /// Takes in the record at a position that is behind all that are known.
    fn take(&mut self, position: u64, record: Record) -> Result<()> {
        match &record {
            Record::Queue(record) => {
                let name = record.queue.name().clone();
                let declaration = Arc::new(record.queue.clone());
                let queue = NatsQueue::new(&self.layout, declaration, record);
                self.gone.remove(&name);
                let before = self.queues.insert(name.clone(), queue.clone());
                self.newly_gone
                    .extend(before.filter(|before| !before.is(&queue)));
                self.ids.insert(name, record.clone());
            }
            Record::NoQueue(name) => {
                self.newly_gone.extend(self.queues.remove(name));
                self.ids.remove(name);
                self.gone.insert(name.clone());
            }
            _ => {}
        }
        for exchange in record.touches(&self.table) {
            self.touched.insert(exchange, position + 1);
        }
        self.reached.clear();
        record.apply(&mut self.table)?;
        self.set_revision(position);
        Ok(())
    }

    /// Whether a route of an earlier version is the same now: others declare what it has nothing to do with.
    pub(crate) fn still_holds(
        &mut self,
        version: u64,
        exchange: &Name,
        targets: &[NatsQueue],
    ) -> bool {
        if version == self.table.version() {
            return true;
        }
        if targets.is_empty() || !targets.iter().all(|queue| self.has(queue)) {
            return false;
        }
        exchange.is_empty() || self.changed(exchange) <= version
    }

    /// The version in which the way of what is published to an exchange was changed last.
    fn changed(&mut self, exchange: &Name) -> u64 {
        if let Some(changed) = self.reached.get(exchange) {
            return *changed;
        }
        let mut changed = 0;
        let mut seen = HashSet::from([exchange.clone()]);
        let mut next = vec![exchange.clone()];
        while let Some(name) = next.pop() {
            changed = changed.max(self.touched.get(&name).copied().unwrap_or(0));
            let alternate = self.table.exchange(&name);
            let alternate = alternate.and_then(Exchange::get_alternate_exchange);
            let bindings = self.table.bindings_from(&name);
            let behind = bindings.filter_map(|record| match &record.destination {
                Destination::Exchange(behind) => Some(behind),
                Destination::Queue(_) => None,
            });
            for name in alternate.into_iter().chain(behind) {
                if seen.insert(name.clone()) {
                    next.push(name.clone());
                }
            }
        }
        self.reached.insert(exchange.clone(), changed);
        changed
    }

    fn set_revision(&mut self, revision: u64) {
        self.revision = revision;
        self.table.set_version(revision + 1);
    }
}

/// What came of writing changes.
pub(crate) enum Written {
    Done,
    /// Somebody else wrote between them: the first ones are made, the others aren't.
    Partly,
    Stale,
}

/// Asks for the position of the last record, as it is when the server is asked. Without any, the session is lost: the next
/// one declares again what this one had.
pub(crate) fn revision(line: &Line) -> impl Future<Output = Result<u64>> + Send {
    let bucket = line.layout.topology();
    let asking = api::last_message(line, &bucket.stream, ">");
    async move {
        match asking.await? {
            Ok(raw) => Ok(raw.position),
            Err(refused) if refused.err_code == code::NO_MESSAGE => behind_the_last(line).await,
            Err(refused) if refused.is_missing() => Err(line.lose_data()),
            Err(refused) => Err(refused.during("the declarations")),
        }
    }
}

/// The same where the last position has no record: a server that refuses one because its account is full keeps the position.
async fn behind_the_last(line: &Line) -> Result<u64> {
    let bucket = line.layout.topology();
    match api::stream_info(line, &bucket.stream, None).await? {
        Ok(info) if info.state.messages > 0 => Ok(info.state.last_seq),
        Ok(_) => Err(line.lose_data()),
        Err(refused) if refused.is_missing() => Err(line.lose_data()),
        Err(refused) => Err(refused.during("the declarations")),
    }
}

/// Reads what was written behind what is known, as far as a revision that is known to be there, or the newest.
pub(crate) async fn catch_up(
    line: &Line,
    known: &parking_lot::Mutex<Known>,
    turn: &tokio::sync::Mutex<()>,
    newest: Option<u64>,
) -> Result<Table> {
    // Two that read at once would take in the same.
    let _turn = turn.lock().await;
    let newest = match newest {
        Some(newest) => newest,
        None => revision(line).await?,
    };
    let from = known.lock().revision + 1;
    let bucket = line.layout.topology();
    let records = match newest.saturating_sub(from) {
        _ if newest < from => Vec::new(),
        0..FEW => {
            let asking =
                (from..=newest).map(|position| api::message(line, &bucket.stream, position));
            let mut found = Vec::new();
            for answer in join_all(asking).await {
                match answer? {
                    Ok(raw) => found.push(raw),
                    // There is a newer one with its key.
                    Err(refused) if refused.err_code == code::NO_MESSAGE => {}
                    Err(refused) => return Err(refused.during("the declarations")),
                }
            }
            found
        }
        _ => api::messages_from(line, &bucket.stream, from).await?,
    };
    let mut known = known.lock();
    for Raw {
        position, payload, ..
    } in records
    {
        if position > known.revision {
            known.take(position, Record::read(&payload)?)?;
        }
    }
    if newest > known.revision {
        known.set_revision(newest);
    }
    Ok(known.table.clone())
}

/// Writes changes that are based on what is known; nobody else's come in between.
pub(crate) async fn write(
    line: &Line,
    known: &parking_lot::Mutex<Known>,
    changes: &[Change],
) -> Result<Written> {
    let bucket = line.layout.topology();
    let base = known.lock().revision;
    let mut records = Vec::with_capacity(changes.len());
    let mut storing = Vec::with_capacity(changes.len());
    let mut found = Vec::with_capacity(changes.len());
    for change in changes {
        found.push(find_stream(line, known, change).await?);
    }
    for ((expected, change), found) in (base..).zip(changes).zip(found) {
        let (key, record) = records::written(change, found, names::fresh_id)?;
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Expected-Last-Sequence", message::digits(expected));
        if record.is_mark() {
            headers.insert("KV-Operation", "DEL");
        }
        let subject = Subject::from(bucket.subject(&key));
        storing.push(line.store(subject, Some(headers), record.text()?.into()));
        records.push(record);
    }
    for (index, stored) in join_all(storing).await.into_iter().enumerate() {
        match stored? {
            Stored::At(position) => {
                let mut known = known.lock();
                // Somebody may have read it before the answer came.
                if position == known.revision + 1 {
                    known.take(position, records[index].clone())?;
                }
            }
            Stored::Refused(refused) if refused.err_code == code::WRONG_SEQUENCE => {
                return Ok(match index {
                    0 => Written::Stale,
                    _ => Written::Partly,
                });
            }
            Stored::Refused(refused) => return Err(refused.during("a declaration")),
            Stored::Nowhere => return Err(error::nobody("a declaration")),
        }
    }
    // Nobody reads the bindings of what is gone, and nothing waits for them to go.
    let gone = known.lock().revision;
    for pattern in changes
        .iter()
        .flat_map(|change| records::bindings_of(&bucket, change))
    {
        let purge = json!({ "filter": pattern, "seq": gone });
        let subject = format!("STREAM.PURGE.{}", bucket.stream);
        drop(line.api::<Purged>(&subject, &purge, "a purge"));
    }
    Ok(Written::Done)
}

/// The id of the stream of a queue that is declared, if it is there already, and nothing says that the queue was deleted: then
/// the records are gone, and not the messages.
async fn find_stream(
    line: &Line,
    known: &parking_lot::Mutex<Known>,
    change: &Change,
) -> Result<Option<String>> {
    let Change::PutQueue(queue, _) = change else {
        return Ok(None);
    };
    let name = queue.name();
    if known.lock().was_there(name) {
        return Ok(None);
    }
    let subject = line.layout.subject(name, "*");
    let streams = api::streams_at(line, &subject).await?;
    let mut ids = streams
        .iter()
        .filter_map(|stream| line.layout.id_of(name, stream));
    Ok(ids.next().map(str::to_owned))
}

/// What a purge answers.
#[derive(Deserialize)]
pub(crate) struct Purged {}

/// Writes the version of the layout, unless one is there.
pub(crate) async fn begin(line: &Line) -> Result<()> {
    let bucket = line.layout.topology();
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Expected-Last-Subject-Sequence", message::digits(0));
    let subject = Subject::from(bucket.subject(records::LAYOUT_KEY));
    let text: Bytes = Record::Layout(records::LAYOUT).text()?.into();
    match line.store(subject, Some(headers), text).await? {
        Stored::At(_) => Ok(()),
        Stored::Refused(refused) if refused.err_code == code::WRONG_SEQUENCE => Ok(()),
        Stored::Refused(refused) => Err(refused.during("a declaration")),
        Stored::Nowhere => Err(error::unexpected("a declaration")),
    }
}
