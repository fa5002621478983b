//! What a session knows of the declarations, and how it learns of others'.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use futures_util::future::join_all;
use kombu_core::driver::Destination;
use kombu_core::virt::{Change, Table};
use kombu_core::{Error, ErrorKind, Exchange, Name, Queue, Result};
use serde::Deserialize;
use serde_json::json;

use crate::api::{self, Raw};
use crate::error::{self, code};
use crate::line::{Line, Stored};
use crate::message;
use crate::names::{self, Layout};
use crate::news::News;
use crate::records::{self, QueueRecord, Record};
use crate::session::PAUSE;

/// How many records are asked for one by one; more are read as a stream.
const FEW: u64 = 64;
/// How many queues are looked at together.
const AT_ONCE: usize = 64;

/// How many marks of what was deleted there may be before the older half of them is removed.
const MOST_MARKS: usize = 1_024;

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
    /// What says that something was deleted, by subject.
    marks: HashMap<String, Mark>,
    /// How many there may be before they are trimmed.
    most_marks: usize,
    /// As far as where others may be gone.
    trimmed: u64,
    /// Queues that were deleted, and that the session still has something of.
    newly_gone: Vec<NatsQueue>,
    /// The version in which any exchange may have been changed.
    anew: u64,
    /// The versions in which exchanges were changed last since then, as far as their own bindings are concerned.
    touched: HashMap<Name, u64>,
    /// The same for all that a message reaches which is published to one, as far as it was asked for.
    reached: HashMap<Name, u64>,
    /// How far the server's count was ahead of its records when it refused the last change. For the next one only: a count
    /// that is ahead no more would let it overwrite what wasn't read.
    ahead: u64,
    layout: Layout,
}

/// What says that something was deleted.
#[derive(Clone)]
struct Mark {
    position: u64,
    /// If it was a queue.
    queue: Option<Name>,
}

impl Known {
    pub(crate) fn new(layout: Layout) -> Self {
        Known {
            table: Table::new(),
            revision: 0,
            ids: HashMap::new(),
            queues: HashMap::new(),
            marks: HashMap::new(),
            most_marks: MOST_MARKS,
            trimmed: 0,
            newly_gone: Vec::new(),
            anew: 0,
            touched: HashMap::new(),
            reached: HashMap::new(),
            ahead: 0,
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
        let subject = || self.layout.topology().subject(&names::queue_key(name));
        self.queues.contains_key(name) || self.marks.contains_key(&subject())
    }

    /// Whether a stream is that of a queue that was deleted.
    pub(crate) fn was_of_deleted(&self, stream: &str) -> bool {
        let mut all = self.marks.values().filter_map(|mark| mark.queue.as_ref());
        all.any(|name| self.layout.id_of(name, stream).is_some())
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

    /// Others remove them. Whoever reads them later removes them once more: somebody didn't come to that.
    fn forget_marks(&mut self, up_to: u64) {
        self.marks.retain(|_, mark| mark.position > up_to);
        self.most_marks = MOST_MARKS;
        // Nor is it worth knowing for ever which exchanges were there.
        self.forget_touched();
    }

    /// Takes all exchanges for changed.
    fn forget_touched(&mut self) {
        self.anew = self.table.version();
        self.touched.clear();
    }

    /// Takes in all records, in place of what was known.
    fn take_anew(&mut self, records: Vec<Raw>) -> Result<()> {
        let mut anew = Known::new(self.layout.clone());
        for raw in records {
            anew.take(raw.position, &raw.subject, Record::read(&raw.payload)?)?;
        }
        anew.forget_touched();
        anew.ahead = self.ahead;
        anew.newly_gone = std::mem::take(&mut self.newly_gone);
        for (name, queue) in self.queues.drain() {
            match anew.queues.get_mut(&name) {
                // Others wait for news with this one.
                Some(there) if there.is(&queue) => {
                    if there.declaration() == queue.declaration() {
                        *there = queue;
                    }
                }
                _ => anew.newly_gone.push(queue),
            }
        }
        *self = anew;
        Ok(())
    }

    /// Takes in the record at a position that is behind all that are known.
    fn take(&mut self, position: u64, subject: &str, record: Record) -> Result<()> {
        match record.is_mark() {
            true => {
                let queue = match &record {
                    Record::NoQueue(name) => Some(name.clone()),
                    _ => None,
                };
                self.marks
                    .insert(subject.to_owned(), Mark { position, queue });
            }
            false => drop(self.marks.remove(subject)),
        }
        match &record {
            Record::Queue(record) => {
                let name = record.queue.name().clone();
                let declaration = Arc::new(record.queue.clone());
                let queue = NatsQueue::new(&self.layout, declaration, record);
                let before = self.queues.insert(name.clone(), queue.clone());
                self.newly_gone
                    .extend(before.filter(|before| !before.is(&queue)));
                self.ids.insert(name, record.clone());
            }
            Record::NoQueue(name) => {
                self.newly_gone.extend(self.queues.remove(name));
                self.ids.remove(name);
            }
            Record::Trimmed(up_to) => self.trimmed = *up_to,
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
            let touched = self.touched.get(&name).copied();
            changed = changed.max(touched.unwrap_or(self.anew));
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
    let first = known.lock().revision + 1;
    let (mut from, mut newest) = (first, newest);
    let records = loop {
        let records = read(line, from, newest).await?;
        let is_whole = records.len() as u64 == (newest + 1).saturating_sub(from);
        // Marks go after the record that says so is there: none is missed that this one doesn't tell of.
        let trimmed = match is_whole {
            true => None,
            false => trimmed(line).await?,
        };
        match trimmed {
            // Whoever reads from the start misses nothing of what went before.
            Some((position, _)) if from == 1 && position > newest => newest = position,
            Some((position, up_to)) if from > 1 && up_to >= from => {
                (from, newest) = (1, newest.max(position));
            }
            _ => break records,
        }
    };
    let mut known = known.lock();
    match from < first {
        true => known.take_anew(records)?,
        false => {
            for raw in records {
                if raw.position > known.revision {
                    let record = Record::read(&raw.payload)?;
                    if let Record::Trimmed(up_to) = record
                        && first > 1
                    {
                        known.forget_marks(up_to);
                    }
                    known.take(raw.position, &raw.subject, record)?;
                }
            }
        }
    }
    if newest > known.revision {
        known.set_revision(newest);
    }
    Ok(known.table.clone())
}

/// The records that are left of those from one position to another, in order.
async fn read(line: &Line, from: u64, newest: u64) -> Result<Vec<Raw>> {
    let bucket = line.layout.topology();
    let mut found: Vec<Raw> = Vec::new();
    if newest.saturating_sub(from) < FEW {
        let asking = (from..=newest).map(|position| api::message(line, &bucket.stream, position));
        for answer in join_all(asking).await {
            match answer? {
                Ok(raw) => found.push(raw),
                // There is a newer one with its key, or it was a mark.
                Err(refused) if refused.err_code == code::NO_MESSAGE => {}
                Err(refused) => return Err(refused.during("the declarations")),
            }
        }
        return Ok(found);
    }
    let all = bucket.subject(">");
    loop {
        let next = found.last().map_or(from, |raw| raw.position + 1);
        // A purge of any subject moves all consumers of a stream to its end (2.9.10), also the one that is read with. What comes
        // after that is behind the newest; all that came before it is there.
        let came = api::messages_from(line, &bucket.stream, next).await?;
        found.extend(came.into_iter().filter(|raw| raw.position <= newest));
        let next = found.last().map_or(from, |raw| raw.position + 1);
        if next > newest {
            return Ok(found);
        }
        match api::next_message(line, &bucket.stream, &all, next).await? {
            Ok(raw) if raw.position <= newest => found.push(raw),
            // The last ones were replaced.
            Ok(_) => return Ok(found),
            Err(refused) if refused.err_code == code::NO_MESSAGE => return Ok(found),
            Err(refused) => return Err(refused.during("the declarations")),
        }
    }
}

/// As far as where marks may be gone, and where that is written.
async fn trimmed(line: &Line) -> Result<Option<(u64, u64)>> {
    let bucket = line.layout.topology();
    let subject = bucket.subject(records::TRIMMED_KEY);
    match api::last_message(line, &bucket.stream, &subject).await? {
        Ok(raw) => Ok(match Record::read(&raw.payload)? {
            Record::Trimmed(up_to) => Some((raw.position, up_to)),
            _ => None,
        }),
        Err(refused) if refused.is_missing() => Ok(None),
        Err(refused) => Err(refused.during("the declarations")),
    }
}

/// Writes changes that are based on what is known; nobody else's come in between.
pub(crate) async fn write(
    line: &Line,
    known: &parking_lot::Mutex<Known>,
    changes: &[Change],
) -> Result<Written> {
    let bucket = line.layout.topology();
    let base = {
        let mut known = known.lock();
        known.revision + std::mem::take(&mut known.ahead)
    };
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
        let subject = bucket.subject(&key);
        storing.push(line.put(&subject, Some(headers), record.text()?.into()));
        records.push((subject, record));
    }
    for (index, stored) in join_all(storing).await.into_iter().enumerate() {
        match stored? {
            Stored::At(position) => {
                let mut known = known.lock();
                // Somebody may have read it before the answer came.
                if position == known.revision + 1 {
                    let (subject, record) = &records[index];
                    known.take(position, subject, record.clone())?;
                }
            }
            Stored::Refused(refused) if refused.err_code == code::WRONG_SEQUENCE => {
                // 2.10 counts those, too, that it refused because its account was full, until it is restarted.
                let counted = refused.last_sequence().unwrap_or(0);
                let mut last = revision(line).await?;
                if counted > last {
                    // In a cluster, it may be on its way.
                    tokio::time::sleep(PAUSE).await;
                    last = revision(line).await?;
                }
                known.lock().ahead = counted.saturating_sub(last);
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

/// Removes the older half of the marks if there are many: whoever connects would read them all. If that can't be done, whoever
/// deletes a while later tries again.
pub(crate) async fn trim(
    line: &Line,
    known: &parking_lot::Mutex<Known>,
    turn: &tokio::sync::Mutex<()>,
) {
    let (revision, old) = {
        let mut known = known.lock();
        if known.marks.len() <= known.most_marks {
            return;
        }
        known.most_marks = known.marks.len() + AT_ONCE;
        let mut old: Vec<_> = known.marks.clone().into_iter().collect();
        old.sort_unstable_by_key(|(_, mark)| mark.position);
        old.truncate(MOST_MARKS / 2);
        (known.revision, old)
    };
    if let Err(error) = remove_marks(line, known, turn, revision, old).await {
        tracing::debug!(%error, "marks of what was deleted");
    }
}

async fn remove_marks(
    line: &Line,
    known: &parking_lot::Mutex<Known>,
    turn: &tokio::sync::Mutex<()>,
    base: u64,
    old: Vec<(String, Mark)>,
) -> Result<()> {
    let Some((_, last)) = old.last() else {
        return Ok(());
    };
    remove_left_over(line, known, base, &old).await?;
    let bucket = line.layout.topology();
    let subject = bucket.subject(records::TRIMMED_KEY);
    {
        let _turn = turn.lock().await;
        let (revision, trimmed) = {
            let known = known.lock();
            (known.revision, known.trimmed)
        };
        let record = Record::Trimmed(last.position.max(trimmed));
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Expected-Last-Sequence", message::digits(revision));
        let stored = line.put(&subject, Some(headers), record.text()?.into());
        let Stored::At(position) = stored.await? else {
            // Somebody declares something.
            return Ok(());
        };
        let mut known = known.lock();
        if position == known.revision + 1 {
            known.take(position, &subject, record)?;
        }
        known.forget_marks(last.position);
    }
    for (subject, mark) in &old {
        let purge = json!({ "filter": subject, "seq": mark.position + 1 });
        let subject = format!("STREAM.PURGE.{}", bucket.stream);
        drop(line.api::<Purged>(&subject, &purge, "a purge"));
    }
    Ok(())
}

/// Removes the streams that are left of queues that were deleted: without its mark, one would be taken for that of a queue
/// whose record is lost, and might be already where others may have forgotten the mark.
async fn remove_left_over(
    line: &Line,
    known: &parking_lot::Mutex<Known>,
    base: u64,
    old: &[(String, Mark)],
) -> Result<()> {
    let trimmed = known.lock().trimmed;
    let marks: Vec<_> = old.iter().map(|(_, mark)| mark).collect();
    let mut left = Vec::new();
    for some in marks.chunks(AT_ONCE) {
        let some = some.iter().filter(|mark| mark.position > trimmed);
        for look in join_all(some.map(|mark| left_over(line, mark))).await {
            left.extend(look?);
        }
    }
    if left.is_empty() {
        return Ok(());
    }
    if revision(line).await? != base {
        // One of them may have been declared again, and be in use.
        return Err(Error::new(
            ErrorKind::PreconditionFailed,
            "others declare while marks are removed",
        ));
    }
    for stream in left {
        match api::delete_stream(line, &stream).await? {
            Ok(_) => {}
            Err(refused) if refused.is_missing() => {}
            Err(refused) => return Err(refused.during("the end of a queue")),
        }
    }
    Ok(())
}

/// The streams that are left of a queue that was deleted.
async fn left_over(line: &Line, mark: &Mark) -> Result<Vec<String>> {
    let Some(queue) = &mark.queue else {
        return Ok(Vec::new());
    };
    let mut streams = api::streams_at(line, &line.layout.subject(queue, "*")).await?;
    streams.retain(|stream| line.layout.id_of(queue, stream).is_some());
    Ok(streams)
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
    let subject = bucket.subject(records::LAYOUT_KEY);
    let text: Bytes = Record::Layout(records::LAYOUT).text()?.into();
    match line.put(&subject, Some(headers), text).await? {
        Stored::At(_) => Ok(()),
        Stored::Refused(refused) if refused.err_code == code::WRONG_SEQUENCE => Ok(()),
        Stored::Refused(refused) => Err(refused.during("a declaration")),
        Stored::Nowhere => Err(error::nobody("a declaration")),
    }
}
