//! What the server doesn't let this user do.
//!
//! It says so of a subject, and never of a message: whoever waits for an answer from there is told. What nobody waits for is tried when
//! a session begins.

use std::sync::Arc;

use async_nats::{Subject, Subscriber};
use bytes::Bytes;
use kombu_core::{Error, ErrorKind, Result};
use tokio::sync::broadcast;

use crate::line::{API, Line};
use crate::names::Layout;

/// As many as the client keeps of what a server says.
const ROOM: usize = 128;

/// What the server has refused since somebody listens.
pub(crate) type Refusals = broadcast::Sender<Arc<Refused>>;

pub(crate) fn refusals() -> Refusals {
    broadcast::Sender::new(ROOM)
}

/// Something that the server refused.
#[derive(Debug, PartialEq)]
pub(crate) enum Refused {
    Publish(String),
    Subscribe(String),
}

impl Refused {
    /// Reads what a server says; `None` if it is about something else.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let (_, said) = text.split_once("Permissions Violation for ")?;
        let (refused, quoted): (fn(String) -> Self, _) = match said.strip_prefix("Publish to ") {
            Some(quoted) => (Refused::Publish, quoted),
            None => (Refused::Subscribe, said.strip_prefix("Subscription to ")?),
        };
        // More may come behind it.
        let mut texts = serde_json::Deserializer::from_str(quoted).into_iter::<String>();
        Some(refused(texts.next()?.ok()?))
    }

    pub(crate) fn error(&self) -> Error {
        let (what, subject) = match self {
            Refused::Publish(subject) => ("publish", subject),
            Refused::Subscribe(subject) => ("subscribe", subject),
        };
        Error::new(
            ErrorKind::AccessRefused,
            format!(
                "NATS doesn't let this user {what} to `{subject}`; allow it among the user's permissions, all of which the \
                 documentation of `kombu-nats` lists"
            ),
        )
    }
}

/// What a user has to be allowed, whatever a session is used for.
pub(crate) struct Needed {
    api: String,
    publishes: Vec<Subject>,
    subscribes: Vec<Subject>,
}

impl Needed {
    pub(crate) fn new(layout: &Layout, api: &str) -> Self {
        // No queue, and no stream, is called so.
        const NOTHING: &str = "=";
        let news = Subject::from(format!("{}{NOTHING}", layout.news("")));
        Needed {
            publishes: vec![
                format!("{}{NOTHING}", layout.bell("")).into(),
                layout.question().into(),
                news.clone(),
                format!("$JS.ACK.{NOTHING}.c0.0.0.0.0.0").into(),
                format!("{api}.CONSUMER.MSG.NEXT.{NOTHING}.c0").into(),
            ],
            subscribes: vec![
                layout.bell("*").into(),
                layout.question().into(),
                layout.later_news().into(),
                news,
            ],
            api: api.to_owned(),
        }
    }

    /// Whether it is about what is published there. A server that has the domain itself speaks of its own subjects.
    pub(crate) fn is_publish_to(&self, refused: &Refused, subject: &str) -> bool {
        let Refused::Publish(refused) = refused else {
            return false;
        };
        let own = || {
            let own = subject.strip_prefix(self.api.as_str())?.strip_prefix('.')?;
            let rest = refused
                .strip_prefix(API)
                .and_then(|rest| rest.strip_prefix('.'));
            Some(rest.unwrap_or(refused) == own)
        };
        refused == subject || own() == Some(true)
    }

    /// Whether no session works without it.
    pub(crate) fn has(&self, refused: &Refused) -> bool {
        match refused {
            Refused::Publish(_) => {
                let mut all = self.publishes.iter();
                all.any(|subject| self.is_publish_to(refused, subject))
            }
            Refused::Subscribe(subject) => {
                let mut all = self.subscribes.iter();
                subject.starts_with("_INBOX.") || all.any(|other| other.as_str() == subject)
            }
        }
    }

    /// Does all of it, to nobody's harm. The server says what it refuses before it answers what is asked for next.
    pub(crate) fn try_out(&self, line: &Line) -> Result<Vec<Subscriber>> {
        let subscribes = self.subscribes.iter();
        let listening = subscribes
            .map(|subject| line.listen(subject.clone()))
            .collect();
        for subject in &self.publishes {
            line.tell(subject.clone(), Bytes::new());
        }
        listening
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_is_read_from_what_the_server_says() {
        let read = |text| Refused::read(&format!("nats: Permissions Violation for {text}"));
        let publish = |subject: &str| Some(Refused::Publish(subject.to_owned()));
        assert_eq!(
            read(r#"Publish to "kombu.q.jobs.0""#),
            publish("kombu.q.jobs.0")
        );
        assert_eq!(
            read(r#"Publish to "_INBOX.a\"b""#),
            publish(r#"_INBOX.a"b"#)
        );
        let subscribe = Some(Refused::Subscribe("kombu.new.jobs".to_owned()));
        assert_eq!(read(r#"Subscription to "kombu.new.jobs""#), subscribe);
        assert_eq!(
            read(r#"Subscription to "kombu.new.jobs" using queue "q""#),
            subscribe
        );
        assert_eq!(read("Publish with Reply of \"a\""), None);
        assert_eq!(Refused::read("nats: maximum connections exceeded"), None);
    }

    #[test]
    fn a_server_that_has_the_domain_speaks_of_its_own_subjects() {
        let needed = Needed::new(&Layout::new("kombu"), "$JS.hub.API");
        let is = |refused: &str, subject| {
            needed.is_publish_to(&Refused::Publish(refused.to_owned()), subject)
        };
        assert!(is("$JS.API.STREAM.NAMES", "$JS.hub.API.STREAM.NAMES"));
        assert!(is("$JS.hub.API.STREAM.NAMES", "$JS.hub.API.STREAM.NAMES"));
        assert!(is("$KV.a.b", "$JS.hub.API.$KV.a.b"));
        assert!(is("kombu.q.jobs.0", "kombu.q.jobs.0"));
        assert!(!is("kombu.q.jobs.1", "kombu.q.jobs.0"));
        assert!(!is("$JS.API.STREAM.NAMES", "$JS.hub.API.STREAM.INFO.a"));
    }
}
