//! Messages to AMQP's properties and back.

use std::time::Duration;

use bytes::Bytes;
use kombu_core::declare::DeliveryMode;
use kombu_core::message::{Content, Envelope, PublishId};
use kombu_core::{Error, ErrorKind, FieldTable, FieldValue, Name, Result};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, ShortString};

use crate::caller::REPLY_TO;
use crate::fields::{seconds, short, table_from, table_size, table_to, timestamp};
use crate::ladder::{self, Steps};

/// How often a message failed, on the copies that stand for a retry.
const FAILURES: &str = "x-kombu-failures";
/// Where the message of such a copy was published to.
const EXCHANGE: &str = "x-kombu-exchange";
/// Who published it: RabbitMQ lets nobody else say so.
const USER_ID: &str = "x-kombu-user-id";
/// What the message said of its deaths before its delay, in which it died on every step.
const BEFORE: &str = "x-kombu-before";
/// The connection that published it, for consumers that don't want to hear themselves.
const ORIGIN: &str = "x-kombu-origin";
/// Tells publishes apart that differ in their [`BCC`] only, which what RabbitMQ returns hasn't any more.
const PUBLISH: &str = "x-kombu-publish";
/// Further routing keys, which receivers don't see.
const BCC: &str = "BCC";
/// The same as [`FAILURES`] as quorum queues count it.
const DELIVERY_COUNT: &str = "x-delivery-count";

/// Those that a message can have without being a copy.
const OURS: [&str; 3] = [ORIGIN, USER_ID, PUBLISH];

const DEATHS: &str = "x-death";
const FIRST_DEATH: [&str; 3] = [
    "x-first-death-exchange",
    "x-first-death-queue",
    "x-first-death-reason",
];
/// RabbitMQ 4 tells it too.
const LAST_DEATH: [&str; 3] = [
    "x-last-death-exchange",
    "x-last-death-queue",
    "x-last-death-reason",
];

/// How often a message came back and was counted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Failures {
    /// On copies that stand for retries.
    pub(crate) copied: u32,
    /// By the queue.
    pub(crate) counted: u32,
}

impl Failures {
    pub(crate) fn all(self) -> u32 {
        self.copied.saturating_add(self.counted)
    }
}

/// What is sent with a message. Properties are large, so those of the usual message are made where they go.
pub(crate) enum Properties {
    /// The message's own, with the mark of its origin.
    Own(Option<u32>),
    Made(Box<BasicProperties>),
}

impl Properties {
    /// Those of a message that goes to its exchange at once.
    pub(crate) fn own(envelope: &Envelope, origin: Option<u32>) -> Result<Self> {
        if !envelope.headers().contains(BCC) {
            return Ok(Properties::Own(origin));
        }
        let mut content = (**envelope).clone();
        let sequence = envelope.publish_id().sequence;
        content
            .headers_mut()
            .insert(Name::from_static(PUBLISH), sequence as i64);
        let made = properties(&content, origin)?;
        Ok(Properties::Made(Box::new(made)))
    }

    pub(crate) fn of(&self, content: &Content) -> Result<BasicProperties> {
        match self {
            Properties::Own(origin) => properties(content, *origin),
            Properties::Made(made) => Ok((**made).clone()),
        }
    }
}

/// Whether a message came back with the properties that were sent, of which RabbitMQ takes `BCC` off, and in which it writes
/// where the answers to a question go.
pub(crate) fn is_returned(sent: &BasicProperties, returned: &BasicProperties) -> bool {
    let is_question = |name: &ShortString| name.as_str() == REPLY_TO;
    if let Some(to) = returned.reply_to()
        && !is_question(to)
        && sent.reply_to().as_ref().is_some_and(is_question)
    {
        return is_returned(&sent.clone().with_reply_to(to.clone()), returned);
    }
    let headers = sent.headers().as_ref().map(|headers| headers.inner());
    match headers.filter(|headers| headers.contains_key(BCC)) {
        None => sent == returned,
        Some(headers) => {
            let mut left = headers.clone();
            left.remove(BCC);
            sent.clone().with_headers(left.into()) == *returned
        }
    }
}

/// Properties go in one frame, with 22 bytes around them; RabbitMQ closes the connection over a larger one.
pub(crate) fn check_size(properties: &BasicProperties, frame_max: usize) -> Result<()> {
    // The others have less than 4 KiB together, which every frame takes.
    let Some(headers) = properties.headers() else {
        return Ok(());
    };
    let texts = [
        properties.content_type(),
        properties.content_encoding(),
        properties.correlation_id(),
        properties.reply_to(),
        properties.expiration(),
        properties.message_id(),
        properties.kind(),
        properties.user_id(),
        properties.app_id(),
        properties.cluster_id(),
    ];
    let texts = texts.into_iter().flatten();
    let texts: usize = texts.map(|text| 1 + text.as_str().len()).sum();
    // Delivery mode, priority and timestamp take 10.
    let size = 22 + 10 + texts + table_size(headers);
    if size <= frame_max {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::TooLarge,
        format!(
            "the properties and headers take {size} bytes, and have to fit into a frame of {frame_max}; put it into the \
             body, or raise `frame_max` on the broker and here"
        ),
    ))
}

/// The properties of a message; `origin` tells consumers whose it is.
fn properties(content: &Content, origin: Option<u32>) -> Result<BasicProperties> {
    let Some(origin) = origin else {
        return properties_with(content, content.headers(), content.user_id());
    };
    let mut headers = content.headers().clone();
    headers.insert(Name::from_static(ORIGIN), i64::from(origin));
    properties_with(content, &headers, content.user_id())
}

/// The properties of a message that goes up the ladder before it comes to its exchange.
pub(crate) fn properties_delayed(
    content: &Content,
    origin: Option<u32>,
    steps: Steps,
) -> Result<BasicProperties> {
    let mut content = content.clone();
    if let Some(origin) = origin {
        let headers = content.headers_mut();
        headers.insert(Name::from_static(ORIGIN), i64::from(origin));
    }
    let exchange = content.exchange().clone();
    prepare_for_steps(&mut content, steps, exchange);
    properties_with(&content, content.headers(), content.user_id())
}

/// The properties of the copy that stands for a retry.
pub(crate) fn properties_of_retry(
    content: &Content,
    queue: &Name,
    failures: u32,
    steps: Option<Steps>,
) -> Result<BasicProperties> {
    let mut copy = content.clone();
    let headers = copy.headers_mut();
    headers.insert(Name::from_static(FAILURES), i64::from(failures));
    headers.insert(Name::from_static(EXCHANGE), content.exchange().clone());
    headers.insert(Name::from_static(ladder::RETRY_TO), queue.clone());
    if let Some(user) = content.user_id() {
        headers.insert(Name::from_static(USER_ID), Name::from(user));
    }
    if let Some(steps) = steps {
        prepare_for_steps(&mut copy, steps, ladder::RETRIES);
    }
    properties_with(&copy, copy.headers(), None)
}

/// The properties of what becomes of a message that the broker can't dead-letter by itself.
pub(crate) fn properties_of_letter(content: &Content) -> Result<BasicProperties> {
    let Some(user) = content.user_id() else {
        return properties_with(content, content.headers(), None);
    };
    let mut headers = content.headers().clone();
    headers.insert(Name::from_static(USER_ID), Name::from(user));
    properties_with(content, &headers, None)
}

/// Tells the ladder which steps to take and where to go then.
fn prepare_for_steps(content: &mut Content, steps: Steps, exchange: Name) {
    // It would expire on the way.
    content.set_expiration(None);
    let headers = content.headers_mut();
    let mut before = FieldTable::new();
    for name in [DEATHS].into_iter().chain(FIRST_DEATH).chain(LAST_DEATH) {
        if let Some(value) = headers.remove(name) {
            before.insert(Name::from_static(name), value);
        }
    }
    if !before.is_empty() {
        headers.insert(Name::from_static(BEFORE), FieldValue::Table(before));
    }
    for name in steps.headers() {
        headers.insert(name, true);
    }
    headers.insert(Name::from_static(ladder::DELAY_TO), exchange);
}

/// Takes off what was put on for retries and delays. Answers the exchange that the message was published to, if it is
/// a copy that stands for a retry.
fn clean(headers: &mut FieldTable) -> (Option<Name>, u32) {
    let exchange = match headers.remove(EXCHANGE) {
        Some(FieldValue::Text(name)) => Some(name),
        _ => None,
    };
    let failures = headers.remove(FAILURES);
    let failures = failures.as_ref().and_then(count).unwrap_or(0);
    headers.remove(ORIGIN);
    headers.remove(PUBLISH);
    let is_delayed = headers.contains(ladder::DELAY_TO);
    let before = headers.remove(BEFORE);
    headers.retain(|name, _| !ladder::is_header(name));
    if is_delayed {
        forget_steps(headers, before);
    }
    if let Some(exchange) = &exchange {
        came_from(headers, exchange);
    }
    (exchange, failures)
}

/// A copy that died says that it came from the exchange of retries, and the message came from another one.
fn came_from(headers: &mut FieldTable, exchange: &Name) {
    let correct = |table: &mut FieldTable, name: &'static str| {
        if text(Some(table), name) == Some(ladder::RETRIES.as_str()) {
            table.insert(Name::from_static(name), exchange.clone());
        }
    };
    for [name, ..] in [FIRST_DEATH, LAST_DEATH] {
        correct(headers, name);
    }
    if let Some(FieldValue::Array(mut deaths)) = headers.remove(DEATHS) {
        for death in &mut deaths {
            if let FieldValue::Table(death) = death {
                correct(death, "exchange");
            }
        }
        headers.insert(Name::from_static(DEATHS), FieldValue::Array(deaths));
    }
}

/// Whether the queue of a message ends when it has to count one more death of it: RabbitMQ resets deaths that are no list, and a list
/// of something else than tables with a number is more than it can bear (3.10).
pub(crate) fn has_unbearable_deaths(headers: &FieldTable) -> bool {
    let Some(FieldValue::Array(deaths)) = headers.get(DEATHS) else {
        return false;
    };
    let is_number = |count: &FieldValue| count.as_i64().is_some();
    let is_bearable = |death: &FieldTable| death.get("count").is_none_or(is_number);
    !deaths
        .iter()
        .all(|death| death.as_table().is_some_and(is_bearable))
}

/// The same without them, as RabbitMQ resets what is no list.
pub(crate) fn without_deaths(envelope: &Envelope) -> Envelope {
    let mut content = (**envelope).clone();
    content.headers_mut().remove(DEATHS);
    Envelope::new(envelope.publish_id(), content)
}

fn count(value: &FieldValue) -> Option<u32> {
    u32::try_from(value.as_i64()?).ok()
}

/// A delay is a death on every step of the ladder, which is nobody's business.
fn forget_steps(headers: &mut FieldTable, before: Option<FieldValue>) {
    let mut deaths = match headers.remove(DEATHS) {
        Some(FieldValue::Array(deaths)) => deaths,
        _ => Vec::new(),
    };
    deaths.retain(|death| !text(death.as_table(), "queue").is_some_and(ladder::is_queue));
    for names in [FIRST_DEATH, LAST_DEATH] {
        if text(Some(headers), names[1]).is_some_and(ladder::is_queue) {
            for name in names {
                headers.remove(name);
            }
        }
    }
    if let Some(FieldValue::Table(before)) = before {
        for (name, value) in &before {
            match (name.as_str(), value) {
                (DEATHS, FieldValue::Array(older)) => add_deaths(&mut deaths, older),
                _ => drop(headers.insert(name.clone(), value.clone())),
            }
        }
    }
    if !headers.contains(FIRST_DEATH[1])
        && let Some(FieldValue::Table(first)) = deaths.last()
    {
        for (name, field) in FIRST_DEATH.into_iter().zip(["exchange", "queue", "reason"]) {
            if let Some(value) = first.get(field) {
                headers.insert(Name::from_static(name), value.clone());
            }
        }
    }
    if !deaths.is_empty() {
        headers.insert(Name::from_static(DEATHS), FieldValue::Array(deaths));
    }
}

fn text<'a>(table: Option<&'a FieldTable>, name: &str) -> Option<&'a str> {
    table?.get(name)?.as_str()
}

/// One entry for each queue and reason, those of later deaths first.
fn add_deaths(deaths: &mut Vec<FieldValue>, older: &[FieldValue]) {
    let counted = |death: &FieldTable| death.get("count").and_then(FieldValue::as_i64).unwrap_or(0);
    let is_same = |one: &FieldTable, other: &FieldTable| {
        one.get("queue") == other.get("queue") && one.get("reason") == other.get("reason")
    };
    for death in older.iter().filter_map(FieldValue::as_table) {
        let same = deaths.iter_mut().find_map(|one| match one {
            FieldValue::Table(one) if is_same(one, death) => Some(one),
            _ => None,
        });
        match same {
            Some(one) => {
                let count = counted(one).saturating_add(counted(death));
                one.insert(Name::from_static("count"), count);
            }
            None => deaths.push(FieldValue::Table(death.clone())),
        }
    }
}

/// Whether the message says that this connection published it.
pub(crate) fn is_from(properties: &BasicProperties, origin: Option<u32>) -> bool {
    let (Some(origin), Some(headers)) = (origin, properties.headers()) else {
        return false;
    };
    let said = headers.inner().get(ORIGIN);
    matches!(said, Some(AMQPValue::LongLongInt(said)) if *said == i64::from(origin))
}

fn properties_with(
    content: &Content,
    headers: &FieldTable,
    user_id: Option<&str>,
) -> Result<BasicProperties> {
    let mode = match content.delivery_mode() {
        DeliveryMode::Persistent => 2,
        DeliveryMode::Transient => 1,
    };
    let mut out = BasicProperties::default().with_delivery_mode(mode);
    if !headers.is_empty() {
        out = out.with_headers(table_to(headers)?);
    }
    if let Some(priority) = content.priority() {
        out = out.with_priority(priority);
    }
    if let Some(expiration) = content.expiration() {
        out = out.with_expiration(short(&expiration.as_millis().to_string())?);
    }
    if let Some(time) = content.timestamp() {
        out = out.with_timestamp(seconds(time));
    }
    type Setter = fn(BasicProperties, ShortString) -> BasicProperties;
    let texts: [(Option<&str>, Setter); 9] = [
        (content.content_type(), BasicProperties::with_content_type),
        (
            content.content_encoding(),
            BasicProperties::with_content_encoding,
        ),
        (
            content.correlation_id(),
            BasicProperties::with_correlation_id,
        ),
        (content.reply_to(), BasicProperties::with_reply_to),
        (content.message_id(), BasicProperties::with_message_id),
        (content.kind(), BasicProperties::with_type),
        (user_id, BasicProperties::with_user_id),
        (content.app_id(), BasicProperties::with_app_id),
        (content.cluster_id(), BasicProperties::with_cluster_id),
    ];
    for (text, set) in texts {
        if let Some(text) = text {
            out = set(out, short(text)?);
        }
    }
    Ok(out)
}

/// What came over the wire, and how often it failed before.
pub(crate) fn received(
    exchange: &str,
    routing_key: &str,
    properties: &BasicProperties,
    body: Vec<u8>,
) -> (Envelope, Failures) {
    let mut failures = Failures::default();
    let (mut exchange, routing_key) = (Name::from(exchange), Name::from(routing_key));
    let mut headers = FieldTable::new();
    let mut user_id = None;
    if let Some(sent) = properties.headers() {
        headers = table_from(sent);
        failures.counted = headers.get(DELIVERY_COUNT).and_then(count).unwrap_or(0);
        if headers
            .iter()
            .any(|(name, _)| ladder::is_header(name) || OURS.contains(&name.as_str()))
        {
            user_id = headers.remove(USER_ID);
            let (published_to, copied) = clean(&mut headers);
            // A copy that died has a new life with whoever gets it.
            if exchange == ladder::RETRIES {
                exchange = published_to.unwrap_or(exchange);
                failures.copied = copied;
            }
        }
    }
    let mut content = Content::new(exchange, routing_key, Bytes::from(body));
    *content.headers_mut() = headers;
    content.set_delivery_mode(match properties.delivery_mode() {
        Some(2) => DeliveryMode::Persistent,
        _ => DeliveryMode::Transient,
    });
    if let Some(priority) = properties.priority() {
        content.set_priority(*priority);
    }
    if let Some(expiration) = properties.expiration() {
        let millis = expiration.as_str().parse().ok();
        content.set_expiration(millis.map(Duration::from_millis));
    }
    if let Some(time) = properties.timestamp() {
        content.set_timestamp(timestamp(*time));
    }
    type Setter = fn(&mut Content, Name);
    let texts: [(&Option<ShortString>, Setter); 9] = [
        (properties.content_type(), |content, text| {
            content.set_content_type(text)
        }),
        (properties.content_encoding(), |content, text| {
            content.set_content_encoding(text)
        }),
        (properties.correlation_id(), |content, text| {
            content.set_correlation_id(text)
        }),
        (properties.reply_to(), |content, text| {
            content.set_reply_to(text)
        }),
        (properties.message_id(), |content, text| {
            content.set_message_id(text)
        }),
        (properties.kind(), |content, text| content.set_kind(text)),
        (properties.user_id(), |content, text| {
            content.set_user_id(text)
        }),
        (properties.app_id(), |content, text| {
            content.set_app_id(text)
        }),
        (properties.cluster_id(), |content, text| {
            content.set_cluster_id(text)
        }),
    ];
    for (text, set) in texts {
        if let Some(text) = text {
            set(&mut content, Name::from(text.as_str()));
        }
    }
    if let Some(FieldValue::Text(user)) = user_id {
        content.set_user_id(user);
    }
    let nobody = PublishId {
        producer: 0,
        sequence: 0,
    };
    (Envelope::new(nobody, content), failures)
}
