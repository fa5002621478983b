use std::collections::BTreeMap;
use std::fmt;
use std::future::IntoFuture;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use tokio::time::timeout_at;

use crate::client::{Connection, Consumer, Delivery, Producer, Publishing, private};
use crate::declare::Queue;
use crate::driver::BoxFuture;
use crate::engine::{check_runtime, deadline};
use crate::error::{Error, ErrorKind, Result};
use crate::name::Name;

use super::command::{GLOB, ReplyTo, Written};
use super::{Clock, Mailbox};

/// How long replies are waited for, as in Python.
const TIMEOUT: Duration = Duration::from_secs(1);
/// How long replies stay that nobody fetches, as in Python.
const KEPT: Duration = Duration::from_secs(10);

/// Commands the nodes of a mailbox.
pub struct Nodes {
    mailbox: Mailbox,
    connection: Connection,
    producer: Producer,
    /// Names its reply queue.
    id: Name,
    /// Opened by the first call.
    replies: Option<Consumer>,
    clock: Arc<Clock>,
    tickets: u64,
}

/// What a node replied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply<T> {
    /// Its name.
    pub node: String,
    /// The value, or what went wrong there.
    pub result: std::result::Result<T, String>,
}

impl Mailbox {
    /// Opens what commands the nodes; nothing of it tells whether there are any.
    ///
    /// # Errors
    ///
    /// Those of [`producer`](Connection::producer).
    pub async fn nodes(&self, connection: &Connection) -> Result<Nodes> {
        let producer = connection
            .producer(self.exchange())
            .mandatory(false)
            .await?;
        Ok(Nodes {
            mailbox: self.clone(),
            connection: connection.clone(),
            producer,
            id: Name::random(""),
            replies: None,
            clock: Arc::default(),
            tickets: 0,
        })
    }
}

/// Which nodes are meant: those of a list, those of a pattern, or all.
#[derive(Clone, Debug, Default)]
struct Whom {
    destination: Option<Vec<String>>,
    pattern: Option<String>,
}

impl Whom {
    /// Whether there is nobody to tell. Nodes would take an empty list for everybody.
    fn is_nobody(&self) -> bool {
        self.destination.as_ref().is_some_and(Vec::is_empty)
    }
}

impl Nodes {
    /// Has a method run, and waits for nothing but the broker.
    pub fn cast<'a, A: Serialize + ?Sized>(
        &'a mut self,
        method: &'a str,
        arguments: &'a A,
    ) -> Cast<'a, A> {
        Cast {
            nodes: self,
            method,
            arguments,
            whom: Whom::default(),
        }
    }

    /// Has a method run, and collects what the nodes reply.
    pub fn call<'a, A: Serialize + ?Sized, T: DeserializeOwned>(
        &'a mut self,
        method: &'a str,
        arguments: &'a A,
    ) -> Call<'a, A, T> {
        Call {
            cast: self.cast(method, arguments),
            timeout: TIMEOUT,
            limit: None,
            value: PhantomData,
        }
    }

    /// Starts sending; the command is encoded when this is done.
    fn send<A: Serialize + ?Sized>(
        &self,
        method: &str,
        arguments: &A,
        whom: &Whom,
        ticket: Option<&str>,
        timeout: Option<Duration>,
    ) -> Publishing {
        let reply_to = ticket.map(|_| ReplyTo {
            exchange: self.mailbox.reply_exchange().name().to_string(),
            routing_key: self.id.to_string(),
        });
        let command = Written {
            method,
            arguments,
            destination: whom.destination.as_deref(),
            pattern: whom.pattern.as_deref(),
            matcher: whom.pattern.as_ref().map(|_| GLOB),
            ticket,
            reply_to,
        };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let expires = timeout.and_then(|timeout| now.ok()?.checked_add(timeout));
        let expires = expires.unwrap_or_default().as_secs_f64();
        let publish = self.producer.publish(&command);
        let publish = publish.header("clock", self.clock.forward());
        publish.header("expires", expires).into_future()
    }

    /// What replies come to, from now on.
    async fn replies(&mut self) -> Result<&mut Consumer> {
        let replies = match self.replies.take() {
            Some(replies) => replies,
            None => {
                let exchange = self.mailbox.reply_exchange();
                let queue = Queue::new(format!("{}.{}", self.id, exchange.name()));
                let queue = queue.bind(exchange, &self.id);
                let queue = private(&self.connection, queue, KEPT);
                self.connection.consumer(&queue).no_ack(true).await?
            }
        };
        Ok(self.replies.insert(replies))
    }

    async fn collect<T: DeserializeOwned>(
        &mut self,
        ticket: &str,
        timeout: Duration,
        limit: Option<usize>,
    ) -> Result<Vec<Reply<T>>> {
        check_runtime()?;
        let clock = self.clock.clone();
        let replies = self.replies().await?;
        let end = deadline(timeout);
        let mut collected = Vec::new();
        while limit.is_none_or(|limit| collected.len() < limit) {
            let Ok(delivery) = timeout_at(end, replies.try_next()).await else {
                break;
            };
            let delivery = match delivery.and_then(|delivery| delivery.ok_or_else(closed)) {
                Ok(delivery) => delivery,
                Err(error) => {
                    // The next call opens another one.
                    self.replies = None;
                    return Err(error);
                }
            };
            clock.adjust(&delivery);
            // Later replies to an earlier command are nobody's any more.
            if delivery.header("ticket").is_none_or(|mine| mine == ticket) {
                collected.extend(read(&delivery));
            }
        }
        Ok(collected)
    }
}

fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the connection is closed; connect again")
}

/// What a reply says, of one node for all that is known.
fn read<T: DeserializeOwned>(delivery: &Delivery) -> Vec<Reply<T>> {
    /// This and nothing else: a value may have an `error` among others.
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Wrong {
        error: String,
    }
    fn replies<V, T>(
        said: BTreeMap<String, V>,
        result: impl Fn(V) -> std::result::Result<T, String>,
    ) -> Vec<Reply<T>> {
        let reply = |(node, said)| Reply {
            node,
            result: result(said),
        };
        said.into_iter().map(reply).collect()
    }
    if let Ok(said) = delivery.decode::<BTreeMap<String, Wrong>>() {
        return replies(said, |wrong| Err(wrong.error));
    }
    let error = match delivery.decode::<BTreeMap<String, T>>() {
        Ok(said) => return replies(said, Ok),
        Err(error) => error,
    };
    match delivery.decode::<BTreeMap<String, IgnoredAny>>() {
        Ok(said) => replies(said, |_| Err(format!("malformed reply: {error}"))),
        Err(error) => {
            tracing::warn!(%error, "a reply of no node");
            Vec::new()
        }
    }
}

impl fmt::Debug for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nodes")
            .field("mailbox", &self.mailbox)
            .finish_non_exhaustive()
    }
}

macro_rules! addressed {
    ($($path:ident).+) => {
        /// To these nodes alone; to nobody if there are none. Default: to all.
        pub fn to<N: Into<String>>(mut self, nodes: impl IntoIterator<Item = N>) -> Self {
            self.$($path).+.destination = Some(nodes.into_iter().map(Into::into).collect());
            self
        }

        /// To nodes whose name is as this says: `*` is any text, `?` any letter, `[ab]` one of these, and `[!ab]` any other.
        pub fn matching(mut self, pattern: impl Into<String>) -> Self {
            self.$($path).+.pattern = Some(pattern.into());
            self
        }
    };
}

/// A command to be sent: awaiting it sends it, and resolves when the broker has it.
#[derive(Debug)]
#[must_use = "nothing is sent until this is awaited"]
pub struct Cast<'a, A: ?Sized> {
    nodes: &'a mut Nodes,
    method: &'a str,
    arguments: &'a A,
    whom: Whom,
}

impl<A: ?Sized> Cast<'_, A> {
    addressed!(whom);
}

impl<'a, A: Serialize + ?Sized> IntoFuture for Cast<'a, A> {
    type Output = Result<()>;
    type IntoFuture = BoxFuture<'a, Result<()>>;

    fn into_future(self) -> Self::IntoFuture {
        let Cast {
            nodes,
            method,
            arguments,
            whom,
        } = self;
        if whom.is_nobody() {
            return Box::pin(std::future::ready(Ok(())));
        }
        let sent = nodes.send(method, arguments, &whom, None, None);
        Box::pin(async move { sent.await.map(drop).map_err(|error| error.during("cast")) })
    }
}

/// A command to be called: awaiting it sends it, and resolves to what was replied in time.
#[derive(Debug)]
#[must_use = "nothing is sent until this is awaited"]
pub struct Call<'a, A: ?Sized, T> {
    cast: Cast<'a, A>,
    timeout: Duration,
    limit: Option<usize>,
    value: PhantomData<fn() -> T>,
}

impl<A: ?Sized, T> Call<'_, A, T> {
    addressed!(cast.whom);

    /// How long replies are waited for. Default: 1 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How many replies are enough. Default: as many as nodes were named; without names, all that come in time.
    pub fn limit(mut self, replies: usize) -> Self {
        self.limit = Some(replies);
        self
    }
}

impl<'a, A, T> IntoFuture for Call<'a, A, T>
where
    A: Serialize + Sync + ?Sized,
    T: DeserializeOwned + Send + 'a,
{
    type Output = Result<Vec<Reply<T>>>;
    type IntoFuture = BoxFuture<'a, Result<Vec<Reply<T>>>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let Call {
                cast:
                    Cast {
                        nodes,
                        method,
                        arguments,
                        whom,
                    },
                timeout,
                limit,
                ..
            } = self;
            if whom.is_nobody() {
                return Ok(Vec::new());
            }
            let limit = limit.or_else(|| whom.destination.as_ref().map(Vec::len));
            nodes.tickets += 1;
            let ticket = format!("{}-{}", nodes.id, nodes.tickets);
            let called = async {
                // There before the first reply.
                nodes.replies().await?;
                let sent = nodes.send(method, arguments, &whom, Some(&ticket), Some(timeout));
                sent.await?;
                nodes.collect(&ticket, timeout, limit).await
            };
            called.await.map_err(|error| error.during("call"))
        })
    }
}
