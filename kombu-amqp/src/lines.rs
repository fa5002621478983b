//! The connections to the broker of one session, and when it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use kombu_core::driver::{BoxFuture, Notice, Notices};
use kombu_core::{Error, ErrorKind, Result};
use lapin::{Channel, Connection, Event};
use tokio::sync::{Mutex, OnceCell, broadcast, watch};
use tokio::time::timeout;

use crate::error::{classify, is_out_of_step, lost};
use crate::greeting::Server;
use crate::transport::Dialer;

/// What the broker says of too many connections, among other things that it doesn't allow.
const TOO_MANY: u16 = 530;
/// How long the broker has to answer the end of a connection. A blocked one doesn't read that it ends.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a session is over that was to end.
pub(crate) const CLOSED: &str = "the session was closed";

/// A publisher that the broker blocks must not hold up settles: so publishers have a connection of their own,
/// opened with the first of them.
pub(crate) struct Lines {
    main: Line,
    publishing: Mutex<Option<Arc<Line>>>,
    /// For what the broker may refuse, once refusals may have used up half of the channels of the main connection.
    spare: Mutex<Option<Line>>,
    /// For what the broker may answer by closing the connection.
    expendable: Mutex<Option<Line>>,
    refusals: AtomicUsize,
    dialer: Dialer,
    ended: Arc<watch::Sender<Option<String>>>,
    notices: broadcast::Sender<Notice>,
    /// Of two calls that close a connection of lapin's at the same time, one never returns.
    closed: OnceCell<()>,
}

/// A connection, and whether it is lost: its sender is dropped then.
pub(crate) struct Line {
    connection: Connection,
    lost: watch::Receiver<()>,
}

impl Line {
    /// Whether it is lost; if so, the session knows by then whether it ends with it.
    async fn is_lost(&self) -> bool {
        if self.connection.status().connected() {
            return false;
        }
        // Nothing is ever sent: this is the end of the sender.
        drop(self.lost.clone().changed().await);
        true
    }
}

impl Lines {
    pub(crate) async fn open(dialer: Dialer) -> Result<Self> {
        let ended = Arc::new(watch::Sender::new(None));
        let notices = broadcast::Sender::new(16);
        Ok(Lines {
            main: watched(dialer.dial("").await?, &ended, &notices),
            publishing: Mutex::default(),
            spare: Mutex::default(),
            expendable: Mutex::default(),
            refusals: AtomicUsize::new(0),
            dialer,
            ended,
            notices,
            closed: OnceCell::new(),
        })
    }

    /// What the broker is, if it told it.
    pub(crate) fn server(&self) -> Option<&Server> {
        self.dialer.server()
    }

    /// A channel for everything but publishing.
    pub(crate) async fn channel(&self) -> Result<Channel> {
        self.check()?;
        let channel = open_channel(&self.main).await;
        self.checked(channel)
    }

    /// A channel for what the broker may refuse, and what belongs to no connection.
    pub(crate) async fn spare_channel(&self) -> Result<Channel> {
        let most = usize::from(self.main.connection.configuration().channel_max());
        if self.refusals.load(Ordering::Relaxed) < most / 2 {
            return self.channel().await;
        }
        match self.channel_beside(&self.spare).await {
            // As long as there are channels, there is no need for another connection.
            Err(error) if error.kind() == ErrorKind::Unavailable => self.channel().await,
            channel => channel,
        }
    }

    /// A channel for what the broker may answer by closing the connection.
    pub(crate) async fn expendable_channel(&self) -> Result<Channel> {
        self.channel_beside(&self.expendable).await
    }

    /// A channel of a connection that the session goes on without.
    async fn channel_beside(&self, line: &Mutex<Option<Line>>) -> Result<Channel> {
        self.while_open(async {
            let mut slot = line.lock().await;
            if let Some(line) = &*slot
                && let Ok(channel) = open_channel(line).await
            {
                return Ok(channel);
            }
            let connection = self.dial_beside().await?;
            let line = slot.insert(watched(connection, &Arc::default(), &self.notices));
            open_channel(line).await.map_err(classify)
        })
        .await
    }

    /// A connection that the session goes on without, also where the broker refuses it: there may be too many of them.
    async fn dial_beside(&self) -> Result<Connection> {
        let error = match self.dialer.dial(" (declaring)").await {
            Ok(connection) => return Ok(connection),
            Err(error) => error,
        };
        // As in `dial`. That there are too many connections says nothing of who we are.
        if matches!(error.kind(), ErrorKind::Credentials | ErrorKind::Tls)
            && error.code() != Some(TOO_MANY)
        {
            self.end(&error.to_string());
            return Err(lost(error.to_string()).with_source(error));
        }
        // With the broker, all of them are gone.
        if error.kind() == ErrorKind::ConnectionLost {
            self.channel()
                .await?
                .close(200, "bye".into())
                .await
                .map_err(classify)?;
        }
        let text =
            format!("this takes a further connection to the broker, and there is none: {error}");
        Err(Error::new(ErrorKind::Unavailable, text).with_source(error))
    }

    /// The broker has closed a channel.
    pub(crate) fn refused(&self) {
        self.refusals.fetch_add(1, Ordering::Relaxed);
    }

    /// The largest frame in bytes that both sides take.
    pub(crate) fn frame_max(&self) -> u32 {
        self.main.connection.configuration().frame_max()
    }

    /// A channel for publishing, and the connection that it is of.
    pub(crate) async fn publishing_channel(&self) -> Result<(Channel, Arc<Line>)> {
        loop {
            self.check()?;
            let line = self.publishing_line().await?;
            let channel = open_channel(&line).await;
            if channel.is_err() && line.is_lost().await {
                let mut slot = self.publishing.lock().await;
                slot.take_if(|other| Arc::ptr_eq(other, &line));
                continue;
            }
            return Ok((self.checked(channel)?, line));
        }
    }

    async fn publishing_line(&self) -> Result<Arc<Line>> {
        let mut slot = self.publishing.lock().await;
        if let Some(line) = &*slot {
            return Ok(line.clone());
        }
        let connection = self.dial(" (publishing)").await?;
        let line = watched_but_for(is_out_of_step, connection, &self.ended, &self.notices);
        Ok(slot.insert(Arc::new(line)).clone())
    }

    /// Does this unless the session ends meanwhile: a broker that is short of memory doesn't answer who publishes.
    pub(crate) async fn while_open<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            error = self.closed() => Err(error),
            done = work => done,
        }
    }

    /// Whether publishers have lost this connection, and the session goes on.
    pub(crate) async fn goes_on_without(&self, line: &Line) -> bool {
        line.is_lost().await && self.check().is_ok()
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

    /// Closes them all, and returns when the broker has answered. One that is gone already needs no closing.
    pub(crate) async fn close(&self) {
        self.end(CLOSED);
        self.closed
            .get_or_init(|| async {
                let publishing = async {
                    if let Some(line) = &*self.publishing.lock().await {
                        close(line).await;
                    }
                };
                let beside = async |line: &Mutex<Option<Line>>| {
                    if let Some(line) = &*line.lock().await {
                        close(line).await;
                    }
                };
                let (spare, expendable) = (beside(&self.spare), beside(&self.expendable));
                tokio::join!(publishing, spare, expendable, close(&self.main));
            })
            .await;
    }
}

/// Watches a connection, whose loss ends the session.
fn watched(
    connection: Connection,
    ended: &Arc<watch::Sender<Option<String>>>,
    notices: &broadcast::Sender<Notice>,
) -> Line {
    watched_but_for(|_| false, connection, ended, notices)
}

/// The same, if it isn't lost over what the session gets over.
fn watched_but_for(
    is_got_over: fn(&lapin::Error) -> bool,
    connection: Connection,
    ended: &Arc<watch::Sender<Option<String>>>,
    notices: &broadcast::Sender<Notice>,
) -> Line {
    let mut events = Box::pin(connection.events_listener());
    let (ended, notices) = (ended.clone(), notices.clone());
    let (here, lost) = watch::channel(());
    tokio::spawn(async move {
        let reason = loop {
            match events.next().await {
                // A soft one ends a channel, and is its user's.
                Some(Event::Error(error)) if error.is_amqp_soft_error() => {}
                Some(Event::Error(error)) if is_got_over(&error) => break None,
                Some(Event::Error(error)) => break Some(error.to_string()),
                None => break Some("the connection is closed".to_owned()),
                // Nobody has to listen.
                Some(Event::ConnectionBlocked(reason)) => {
                    drop(notices.send(Notice::Blocked { reason }));
                }
                Some(Event::ConnectionUnblocked) => drop(notices.send(Notice::Unblocked)),
                Some(_) => {}
            }
        };
        if let Some(reason) = reason {
            end(&ended, reason);
        }
        drop(here);
    });
    Line { connection, lost }
}

/// lapin never answers if the connection is lost meanwhile, as it is where a network takes all of a session's
/// connections with it.
async fn close(line: &Line) {
    let mut lost = line.lost.clone();
    tokio::select! {
        biased;
        answer = timeout(PATIENCE, line.connection.close(200, "bye".into())) => match answer {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "closing a connection"),
            Err(_) => tracing::debug!("the broker doesn't answer that a connection is closed"),
        },
        // Nothing is ever sent: this is the end of the sender.
        _ = lost.changed() => {}
    }
}

/// Opens a channel with a number that works: one whose channel the broker has closed gives lapin the error of that
/// time, without asking the broker, and isn't given out again.
async fn open_channel(line: &Line) -> lapin::Result<Channel> {
    loop {
        match line.connection.create_channel().await {
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
