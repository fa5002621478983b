use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::call::{Responder, Signature};
use crate::client::{Connection, Consumer, Delivery, Message, private};
use crate::error::Result;
use crate::handler::{Complete, Exit, FromMessage, Rejection, Request, Router};
use crate::name::Name;

use super::command::Command;
use super::{Clock, Mailbox};

/// How long commands of a node that is gone stay, where queues don't go with their owners.
const KEPT: Duration = Duration::from_secs(60);
/// How long a handler may take, unless it is told otherwise.
const LIMIT: Duration = Duration::from_secs(60);

/// A process that is commanded: handlers for methods, under a name.
///
/// Its commands are handled one after the other, and none comes twice: what a node had when it ended is lost. What a handler
/// returns is the reply, if one is wanted, and what it fails with is one, too.
///
/// # Drop
///
/// Its queue goes, with what is in it.
#[must_use = "nothing is handled until it is run"]
pub struct Node {
    name: Name,
    consumer: Consumer,
    router: Router,
    max_processing_time: Option<Duration>,
    clock: Arc<Clock>,
}

impl Mailbox {
    /// Opens a node: its queue is there when this is done. Methods are found as [types](Router::on).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::ResourceLocked`](crate::ErrorKind::ResourceLocked) if another connection has a node of this name,
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) if a handler takes the [`Delivery`], and those of
    /// [`consumer`](Connection::consumer).
    pub async fn node(
        &self,
        connection: &Connection,
        name: impl Into<Name>,
        router: impl Complete,
    ) -> Result<Node> {
        let (name, router): (Name, Router) = (name.into(), router.into());
        router.check_takes_none(&format!("node `{name}`"))?;
        connection.declare_exchange(&self.reply_exchange()).await?;
        let queue = private(connection, self.queue(&name), KEPT);
        let consumer = connection.consumer(&queue).no_ack(true).await?;
        Ok(Node {
            name,
            consumer,
            router: router.keyed_by(method),
            max_processing_time: Some(LIMIT),
            clock: Arc::default(),
        })
    }
}

fn method(message: &Message) -> (Option<Name>, Option<Name>) {
    let command = message.decode::<Command>().ok();
    (command.map(|command| command.method.into()), None)
}

impl Node {
    /// How long a handler may take. One that isn't done by then is cancelled, its future dropped, and that is the reply.
    /// Default: 60 s; `None` sets no limit, and the node hears nothing while a handler goes on.
    pub fn max_processing_time(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.max_processing_time = limit.into();
        self
    }

    /// Handles commands until a handler ends it, or the connection is closed.
    ///
    /// # Errors
    ///
    /// What ends its [consumer](Consumer).
    pub async fn run(self) -> Result<Exit> {
        self.run_until(std::future::pending()).await
    }

    /// As [`run`](Node::run), and ends with [`Exit::Stopped`] when `stop` resolves. A handler may go on for 30 s then, and is
    /// cancelled: that is the reply.
    ///
    /// # Errors
    ///
    /// As `run`.
    pub async fn run_until(mut self, stop: impl Future<Output = ()> + Send) -> Result<Exit> {
        let mut stop = pin!(stop);
        loop {
            let delivery = tokio::select! {
                biased;
                () = &mut stop => return Ok(Exit::Stopped),
                delivery = self.consumer.try_next() => delivery?,
            };
            let Some(delivery) = delivery else {
                return Ok(Exit::Closed);
            };
            if let Some(exit) = self.handle(&delivery, &mut stop).await {
                return Ok(exit);
            }
        }
    }

    async fn handle(
        &mut self,
        delivery: &Delivery,
        stop: impl Future<Output = ()>,
    ) -> Option<Exit> {
        let command = match delivery.decode::<Command>() {
            Ok(command) => command,
            Err(error) => {
                tracing::warn!(%error, node = %self.name, "not a command");
                return None;
            }
        };
        self.clock.adjust(delivery);
        if !command.is_for(&self.name) {
            return None;
        }
        let responder = command.reply_to.map(|reply_to| {
            let signature = Signature {
                exchange: reply_to.exchange.into(),
                node: self.name.clone(),
                ticket: command.ticket.map(Name::from),
                clock: self.clock.clone(),
            };
            Responder::of_node(delivery, reply_to.routing_key.into(), signature)
        });
        let limit = self.max_processing_time;
        self.router.answer(delivery, responder, limit, stop).await
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("name", &self.name)
            .field("router", &self.router)
            .finish_non_exhaustive()
    }
}

/// What a command was sent with, as an argument of a handler.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Arguments<T>(pub T);

impl<S, T: DeserializeOwned> FromMessage<S> for Arguments<T> {
    fn from_message(request: &mut Request, _: &S) -> std::result::Result<Self, Rejection> {
        #[derive(Deserialize)]
        struct Whole<T> {
            arguments: T,
        }
        let whole = request.message().decode::<Whole<T>>()?;
        Ok(Arguments(whole.arguments))
    }
}
