//! Answers to questions, which no stream keeps: they go to an inbox, where whoever asked listens while the session lives.

use async_nats::Subject;
use futures_util::StreamExt;
use kombu_core::driver::Op;
use kombu_core::message::Envelope;
use kombu_core::virt::{Answer, Change, Replies};
use kombu_core::{Error, ErrorKind, Name, Result};

use crate::line::Line;
use crate::message;

/// What the subjects of inboxes begin with, those of other programs as well.
const INBOXES: &str = "_INBOX.";

/// Refuses queues whose names are those of inboxes: what is published to the default exchange couldn't be told apart.
pub(crate) fn check_names(changes: &[Change]) -> Result<()> {
    for change in changes {
        if let Change::PutQueue(queue, _) = change
            && queue.name().starts_with(INBOXES)
        {
            return Err(Error::new(
                ErrorKind::AccessRefused,
                format!(
                    "queue `{}`: names that begin with `{INBOXES}` are those of NATS' inboxes; choose another",
                    queue.name()
                ),
            ));
        }
    }
    Ok(())
}

/// Where a message goes that is for an inbox, which no queue is called.
pub(crate) fn inbox(envelope: &Envelope) -> Option<Subject> {
    let key = envelope.routing_key();
    let is_inbox = envelope.exchange().is_empty() && envelope.delay().is_none() && is_inbox(key);
    is_inbox.then(|| Subject::from(key.as_str()))
}

/// Whether it is the subject of an inbox, and of one only.
fn is_inbox(key: &str) -> bool {
    let is_token = |token: &str| {
        let is_plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'*' | b'>');
        !token.is_empty() && token.bytes().all(is_plain)
    };
    key.strip_prefix(INBOXES)
        .is_some_and(|rest| rest.split('.').all(is_token))
}

/// Gives an answer to whoever listens at its inbox.
pub(crate) fn hand_over(line: &Line, inbox: Subject, envelope: &Envelope) -> Op<Result<Answer>> {
    let headers = match message::headers(envelope, &inbox) {
        Ok(headers) => headers,
        Err(error) => return Op::ready(Err(error)),
    };
    let handed = line.hand_over(inbox, headers, envelope.body().clone());
    Op::pending(async move { handed.await.map(|()| Answer::HandedOver) })
}

/// Listens for answers at an inbox of this name.
pub(crate) async fn open(line: &Line, name: &Name) -> Result<(Name, Replies)> {
    let inbox = Name::from(format!("{INBOXES}{name}"));
    let arrivals = line.listen(inbox.as_str().into())?;
    // Before that the server might not know yet where an answer goes.
    line.ping().await?;
    let (key, over, lost) = (inbox.clone(), line.over(), line.lost());
    let replies = arrivals
        .filter(|message| std::future::ready(message.status.is_none()))
        .map(move |message| message::read(message.headers.as_ref(), message.payload, &key))
        .take_until(async move {
            tokio::select! {
                () = over => {}
                _ = lost => {}
            }
        });
    Ok((inbox, Box::pin(replies)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inbox_is_a_subject_that_can_be_published_to() {
        assert!(is_inbox("_INBOX.kombu.reply-1f"));
        assert!(is_inbox("_INBOX.Rz5Cv0.7"));
        for other in [
            "jobs",
            "_INBOX",
            "_INBOX.",
            "_INBOX.a..b",
            "_INBOX.a.",
            "_INBOX.*",
            "_INBOX.a.>",
            "_INBOX.a b",
            "_INBOX.a\r\nPUB b",
            "_inbox.a",
        ] {
            assert!(!is_inbox(other), "{other:?}");
        }
    }
}
