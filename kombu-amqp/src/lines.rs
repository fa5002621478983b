//! The connections to the broker of one session, and when it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use kombu_core::driver::{BoxFuture, Notice, Notices};
use kombu_core::{Error, Result};
use lapin::{Channel, Connection, Event};
use tokio::sync::{Mutex, OnceCell, broadcast, watch};
use tokio::time::timeout;

use crate::error::{classify, lost};
use crate::transport::Dialer;

/// How long the broker has to answer the end of a connection. A blocked one doesn't read that it ends.
const PATIENCE: Duration = Duration::from_secs(5);

/// A publisher that the broker blocks must not hold up settles: so publishers have a connection of their own,
/// opened with the first of them.
pub(crate) struct Lines {
    main: Connection,
    publishing: OnceCell<Connection>,
    /// For what the broker may refuse, once refusals may have used up half of the channels of the main connection.
    spare: Mutex<Option<Connection>>,
    refusals: AtomicUsize,
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
            spare: Mutex::default(),
            refusals: AtomicUsize::new(0),
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
        let channel = open_channel(&self.main).await;
        self.checked(channel)
    }

    /// A channel for what the broker may refuse, and what belongs to no connection.
    pub(crate) async fn spare_channel(&self) -> Result<Channel> {
        let most = usize::from(self.main.configuration().channel_max());
        if self.refusals.load(Ordering::Relaxed) < most / 2 {
            return self.channel().await;
        }
        self.check()?;
        let mut spare = self.spare.lock().await;
        if let Some(connection) = &*spare
            && let Ok(channel) = open_channel(connection).await
        {
            return Ok(channel);
        }
        let connection = spare.insert(self.dial(" (declaring)").await?);
        open_channel(connection).await.map_err(classify)
    }

    /// The broker has closed a channel.
    pub(crate) fn refused(&self) {
        self.refusals.fetch_add(1, Ordering::Relaxed);
    }

    /// A channel for publishing.
    pub(crate) async fn publishing_channel(&self) -> Result<Channel> {
        self.check()?;
        let connection = self
            .publishing
            .get_or_try_init(|| async {
                let connection = self.dial(" (publishing)").await?;
                self.watch(&connection);
                Ok::<_, Error>(connection)
            })
            .await?;
        let channel = open_channel(connection).await;
        self.checked(channel)
    }

    /// A further connection. What the broker took at the beginning of the session it may refuse by now: passwords and
    /// certificates change. So the next session asks for them again.
    async fn dial(&self, role: &str) -> Result<Connection> {
        self.dialer.dial(role).await.map_err(|error| {
            self.end(&error.to_string());
            lost(error.to_string()).with_source(error)
        })
    }

    /// Without channels to open, nothing works but a fresh session.
    fn checked(&self, channel: lapin::Result<Channel>) -> Result<Channel> {
        channel.map_err(|error| {
            let exhausted = matches!(error.kind(), lapin::ErrorKind::ChannelsLimitReached);
            if exhausted && self.refusals.load(Ordering::Relaxed) > 0 {
                self.end("the connection has no channels left; the next one has");
                return lost("the connection has no channels left");
            }
            classify(error)
        })
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
                let spare = async {
                    if let Some(connection) = &*self.spare.lock().await {
                        close(connection).await;
                    }
                };
                tokio::join!(publishing, spare, close(&self.main));
            })
            .await;
    }
}

async fn close(connection: &Connection) {
    match timeout(PATIENCE, connection.close(200, "bye".into())).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "closing a connection"),
        Err(_) => tracing::debug!("the broker doesn't answer that a connection is closed"),
    }
}

/// Opens a channel with a number that works: one whose channel the broker has closed gives lapin the error of that
/// time, without asking the broker, and isn't given out again.
async fn open_channel(connection: &Connection) -> lapin::Result<Channel> {
    loop {
        match connection.create_channel().await {
            Err(error) if error.is_amqp_soft_error() => {}
            answer => return answer,
        }
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
