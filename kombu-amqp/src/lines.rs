//! The connections to the broker of one session, and when it ends.

use std::sync::Arc;

use futures_util::StreamExt;
use kombu_core::driver::{BoxFuture, Notice, Notices};
use kombu_core::{Error, Result};
use lapin::{Channel, Connection, Event};
use tokio::sync::{OnceCell, broadcast, watch};

use crate::error::{classify, lost};
use crate::transport::Dialer;

/// A publisher that the broker blocks must not hold up settles: so publishers have a connection of their own,
/// opened with the first of them.
pub(crate) struct Lines {
    main: Connection,
    publishing: OnceCell<Connection>,
    dialer: Dialer,
    ended: Arc<watch::Sender<Option<String>>>,
    notices: broadcast::Sender<Notice>,
    /// Of two calls that close a connection of lapin's at the same time, one never returns.
    closed: OnceCell<()>,
}

impl Lines {
    pub(crate) async fn open(dialer: Dialer) -> Result<Self> {
        let lines = Lines {
            main: dialer.dial("").await?,
            publishing: OnceCell::new(),
            dialer,
            ended: Arc::new(watch::Sender::new(None)),
            notices: broadcast::Sender::new(16),
            closed: OnceCell::new(),
        };
        lines.watch(&lines.main);
        Ok(lines)
    }

    /// A channel for everything but publishing.
    pub(crate) async fn channel(&self) -> Result<Channel> {
        self.check()?;
        self.open_channel(&self.main).await
    }

    /// A channel for publishing.
    pub(crate) async fn publishing_channel(&self) -> Result<Channel> {
        self.check()?;
        let connection = self
            .publishing
            .get_or_try_init(|| async {
                let connection = self.dialer.dial(" (publishing)").await?;
                self.watch(&connection);
                Ok::<_, Error>(connection)
            })
            .await?;
        self.open_channel(connection).await
    }

    /// lapin keeps the error that closed a channel for the next one of its number, which fails with it: nothing that was
    /// asked for now is meant, and the next number may be free of it. When no number is left, only another session helps.
    async fn open_channel(&self, connection: &Connection) -> Result<Channel> {
        let mut stale = false;
        loop {
            let error = match connection.create_channel().await {
                Ok(channel) => return Ok(channel),
                Err(error) => error,
            };
            // A broker answers the opening of a channel by a hard one, if it refuses.
            if error.is_amqp_soft_error() {
                stale = true;
            } else if stale && matches!(error.kind(), lapin::ErrorKind::ChannelsLimitReached) {
                let reason =
                    "every channel number of the connection had a channel that an error closed";
                self.end(reason);
                return Err(lost(reason));
            } else {
                return Err(classify(error));
            }
        }
    }

    fn watch(&self, connection: &Connection) {
        let mut events = Box::pin(connection.events_listener());
        let (ended, notices) = (self.ended.clone(), self.notices.clone());
        tokio::spawn(async move {
            let reason = loop {
                match events.next().await {
                    // A soft one ends a channel, and is its user's.
                    Some(Event::Error(error)) if error.is_amqp_soft_error() => {}
                    Some(Event::Error(error)) => break error.to_string(),
                    None => break "the connection is closed".to_owned(),
                    // Nobody has to listen.
                    Some(Event::ConnectionBlocked(reason)) => {
                        drop(notices.send(Notice::Blocked { reason }));
                    }
                    Some(Event::ConnectionUnblocked) => drop(notices.send(Notice::Unblocked)),
                    Some(_) => {}
                }
            };
            end(&ended, reason);
        });
    }

    pub(crate) fn check(&self) -> Result<()> {
        match &*self.ended.borrow() {
            None => Ok(()),
            Some(reason) => Err(lost(reason.clone())),
        }
    }

    pub(crate) fn end(&self, reason: &str) {
        end(&self.ended, reason.to_owned());
    }

    pub(crate) fn closed(&self) -> BoxFuture<'static, Error> {
        let mut ended = self.ended.subscribe();
        Box::pin(async move {
            let reason = match ended.wait_for(Option::is_some).await {
                Ok(reason) => reason.clone(),
                Err(_) => None,
            };
            lost(reason.unwrap_or_else(|| "the session has ended".to_owned()))
        })
    }

    pub(crate) fn notices(&self) -> Notices {
        let receiver = self.notices.subscribe();
        Box::pin(futures_util::stream::unfold(
            receiver,
            |mut receiver| async {
                loop {
                    match receiver.recv().await {
                        Ok(notice) => return Some((notice, receiver)),
                        Err(broadcast::error::RecvError::Lagged(_)) => {}
                        Err(broadcast::error::RecvError::Closed) => return None,
                    }
                }
            },
        ))
    }

    /// Closes both, and returns when the broker has answered. One that is gone already needs no closing.
    pub(crate) async fn close(&self) {
        self.end("the session was closed");
        self.closed
            .get_or_init(|| async {
                let publishing = async {
                    if let Some(connection) = self.publishing.get() {
                        close(connection).await;
                    }
                };
                tokio::join!(publishing, close(&self.main));
            })
            .await;
    }
}

async fn close(connection: &Connection) {
    if let Err(error) = connection.close(200, "bye".into()).await {
        tracing::debug!(%error, "closing a connection");
    }
}

fn end(ended: &watch::Sender<Option<String>>, reason: String) {
    ended.send_if_modified(|ended| {
        let first = ended.is_none();
        if first {
            *ended = Some(reason);
        }
        first
    });
}
