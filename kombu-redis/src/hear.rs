//! What Python publishes to fanout exchanges: it is in no list, and whoever listens at the channel stores it.
//!
//! All sessions that listen hear everything, and have the server store it; it does so for the first. So none is lost while one
//! of them lives. What we publish ourselves begins with our marker; it is stored already.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::try_join_all;
use kombu_core::driver::ExchangeKinds;
use kombu_core::message::Envelope;
use kombu_core::virt::Table;
use kombu_core::{ErrorKind, ExchangeKind, Name, Result};
use parking_lot::Mutex;
use redis::{Cmd, Value};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::element;
use crate::error;
use crate::flight::{write_targets, write_time};
use crate::known::RedisQueue;
use crate::script::Script;
use crate::store::{Shared, expiry, parcel};
use crate::transport::Fanout;
use crate::work::Target;

/// How many messages may wait to be stored.
const WAITING: usize = 256;

/// How much later than the first session another one may hear of the same message, beside its lease.
const ECHO: Duration = Duration::from_secs(60);

/// What every element begins with that we publish.
const OURS: &[u8] = b"{\"_kq\"";

/// Listens at the channels of fanout exchanges.
pub(crate) struct Ear {
    heard: mpsc::Sender<Vec<u8>>,
    kinds: Arc<ExchangeKinds>,
    /// The exchanges at whose channels the server has been asked to listen, with those channels.
    listens: Mutex<BTreeMap<Name, [String; 2]>>,
}

/// An ear if there is something to be heard, and where that comes out.
pub(crate) fn ear(
    fanout: Fanout,
    kinds: Arc<ExchangeKinds>,
) -> (Option<Arc<Ear>>, Option<mpsc::Receiver<Vec<u8>>>) {
    if fanout == Fanout::Ours {
        return (None, None);
    }
    let (heard, waiting) = mpsc::channel(WAITING);
    let ear = Ear {
        heard,
        kinds,
        listens: Mutex::default(),
    };
    (Some(Arc::new(ear)), Some(waiting))
}

impl Ear {
    /// Takes note of what was said at a channel.
    pub(crate) fn hear(&self, text: &[u8]) {
        if text.starts_with(OURS) {
            return;
        }
        if self.heard.try_send(text.to_vec()).is_err() {
            tracing::warn!(
                "a message that Python published to a fanout exchange is lost: too many others wait to be stored"
            );
        }
    }
}

/// Listens at the channels of all fanout exchanges that lead somewhere, and no others.
pub(crate) async fn listen(shared: &Shared, table: &Table) -> Result<()> {
    let Some(ear) = &shared.ear else {
        return Ok(());
    };
    let mut asked = Vec::new();
    {
        let exchanges = table.exchanges().filter(|exchange| {
            *exchange.kind() == ExchangeKind::Fanout && table.has_bindings_from(exchange.name())
        });
        let wanted: BTreeMap<Name, [String; 2]> = exchanges
            .map(|exchange| (exchange.name().clone(), channels(shared, exchange.name())))
            .collect();
        let mut listens = ear.listens.lock();
        let changes = [
            (&wanted, &*listens, ["SUBSCRIBE", "PSUBSCRIBE"]),
            (&*listens, &wanted, ["UNSUBSCRIBE", "PUNSUBSCRIBE"]),
        ];
        for (these, those, commands) in changes {
            let only = these.iter().filter(|(name, _)| !those.contains_key(*name));
            for (command, channel) in only.flat_map(|(_, channels)| commands.iter().zip(channels)) {
                let mut command = redis::cmd(command);
                command.arg(channel);
                asked.push(shared.line.ask(command));
            }
        }
        *listens = wanted;
    }
    for answer in try_join_all(asked).await? {
        if let Value::ServerError(_) = answer {
            // The next one tries again.
            ear.listens.lock().clear();
            return Err(error::unexpected("to be listened to", &answer));
        }
    }
    Ok(())
}

/// The channel of messages without a routing key, and the pattern of those with one.
fn channels(shared: &Shared, exchange: &Name) -> [String; 2] {
    let channel = shared.address.channel(exchange, "");
    let mut pattern = String::with_capacity(channel.len() + 2);
    for letter in channel.chars() {
        if matches!(letter, '*' | '?' | '[' | ']' | '\\') {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern.push_str("/*");
    [channel, pattern]
}

/// Stores what is heard, until the session is over or nobody has it any more.
pub(crate) async fn store(shared: Weak<Shared>, mut heard: mpsc::Receiver<Vec<u8>>) {
    loop {
        let Some(strong) = shared.upgrade() else {
            return;
        };
        let (over, pause) = (strong.line.over(), strong.pulse.lease() / 3);
        drop(strong);
        let text = tokio::select! {
            text = timeout(pause, heard.recv()) => text,
            () = over => return,
        };
        let Some(strong) = shared.upgrade() else {
            return;
        };
        let done = match text {
            Ok(Some(text)) => store_one(&strong, text).await,
            Ok(None) => return,
            // Others may have declared exchanges, and not be there to listen any more.
            Err(_) => refresh(&strong).await,
        };
        if let Err(problem) = done
            && problem.kind() != ErrorKind::ConnectionLost
        {
            tracing::warn!(error = %problem, "what Python published to a fanout exchange can't be stored");
        }
    }
}

async fn refresh(shared: &Shared) -> Result<()> {
    let version = shared.known.lock().table.version();
    if !shared.is_current(version).await? {
        shared.load().await?;
    }
    Ok(())
}

async fn store_one(shared: &Shared, text: Vec<u8>) -> Result<()> {
    let envelope = element::decode(&Bytes::copy_from_slice(&text)).envelope;
    loop {
        let Some(command) = storing(shared, &envelope, &text)? else {
            // Nothing of kombu's.
            return Ok(());
        };
        let answer = shared.line.ask(command).await?;
        match &answer {
            Value::Array(parts) => {
                if !matches!(parts.last(), Some(Value::Int(0))) {
                    shared.line.deaths.notify_one();
                }
                return Ok(());
            }
            Value::ServerError(problem) if problem.code() == "STALE" => {
                shared.load().await?;
            }
            other => return Err(error::unexpected("what was heard", other)),
        }
    }
}

fn storing(shared: &Shared, envelope: &Envelope, heard: &[u8]) -> Result<Option<Cmd>> {
    let Some(ear) = &shared.ear else {
        return Ok(None);
    };
    let mut known = shared.known.lock();
    let exchange = envelope.exchange();
    if !known.is_fanout(exchange) {
        return Ok(None);
    }
    let routed = known.table.route_with(envelope, &ear.kinds)?;
    let queues = routed.queues.iter().filter_map(|name| known.queue(name));
    let queues: Vec<RedisQueue> = queues.collect();
    let exchanges = known.reached(exchange);
    let parcel = parcel(&shared.texts, envelope);
    let expires = expiry(&queues, parcel.expiration);
    if let Some(expires) = expires {
        shared.pulse.due_in(Duration::from_millis(expires));
    }
    let priority = envelope.priority();
    let targets: Vec<Target> = queues.iter().map(|queue| queue.target(priority)).collect();
    let others = ECHO + 2 * shared.pulse.lease();
    let mut command = shared.line.call(Script::Hear);
    command
        .arg(others.as_millis() as u64)
        .arg(known.version)
        .arg(exchanges.len());
    for exchange in exchanges.iter() {
        command.arg(exchange.as_str());
    }
    write_time(&mut command, parcel.expiration);
    command.arg(parcel.bytes);
    write_targets(&mut command, &targets);
    command.arg(&parcel.text[..]).arg(heard);
    Ok(Some(command))
}
