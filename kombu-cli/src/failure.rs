//! Why a command failed, as people read it and as scripts do.

use std::io;

use kombu::ErrorKind;

pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// What `--help` says about exit codes.
pub(crate) const CODES: &str = "Exit codes:
  0    done
  1    failed
  2    the arguments, the URL or a file can't be used
  3    no broker there, or it was lost, or no answer came in time
  4    refused: user, password, virtual host or permission
  5    no such queue, exchange or receiver
  6    there was nothing, or less than was asked for
  7    is there in another form, or in use; or can't be done by a transport
  8    the connection can't be encrypted as asked for: a certificate isn't trusted
  130  ended by Ctrl-C before it was done";

/// What the process ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    Failed = 1,
    Usage = 2,
    Unreachable = 3,
    Refused = 4,
    NotFound = 5,
    Nothing = 6,
    Differs = 7,
    Tls = 8,
    Interrupted = 130,
}

#[derive(Debug)]
pub(crate) enum Failure {
    Because(Code, String),
    /// Whoever read the output is gone, which is no error of ours.
    NobodyReads,
}

impl Failure {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Failure::Because(code, message.into())
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Failure::new(Code::Usage, message)
    }

    pub(crate) fn interrupted(message: impl Into<String>) -> Self {
        Failure::new(Code::Interrupted, message)
    }

    /// Says in front what it is about.
    pub(crate) fn about(self, context: &str) -> Self {
        match self {
            Failure::Because(code, message) => {
                Failure::Because(code, format!("{context}: {message}"))
            }
            Failure::NobodyReads => self,
        }
    }
}

impl From<kombu::Error> for Failure {
    fn from(error: kombu::Error) -> Self {
        Failure::Because(code_of(error.kind()), in_our_words(&error.to_string()))
    }
}

/// What the library says, and what stands for it here.
const WORDS: [(&str, &str); 14] = [
    (", verify it with `.passive()`,", ","),
    (
        "; declare it first, or publish with `.allow_unroutable()`",
        "; `kombu declare queue` makes it",
    ),
    (
        "; bind one, or publish with `.allow_unroutable()`",
        "; `kombu bind` binds one",
    ),
    ("; `Registry::with` adds a transport from another crate", ""),
    ("for example `memory://`", "for example `amqp://host`"),
    (
        "; register it with `ConnectionBuilder::exchange_kind`, or use another kind",
        "; only a program can tell it; use another kind",
    ),
    (
        "; register it with `ConnectionBuilder::exchange_kind`",
        "; only a program can tell it",
    ),
    (" with `ConnectionBuilder::exchange_kind`", ""),
    ("without `if_unused`", "without --if-unused"),
    ("without `if_empty`", "without --if-empty"),
    ("; use `match_all` or `match_any`", ""),
    ("use `quorum()`", "make it quorum"),
    ("`connection.bind_exchange`", "`kombu bind`"),
    (", set DuplicateKeyPolicy in Options if acceptable", ""),
];

/// The way out as the command has it, where the library names its methods.
pub(crate) fn in_our_words(text: &str) -> String {
    const DECLARED: &str = "; declare it with `connection.declare_";
    const DECLARATION: &str = "declaration";
    let mut text = text.to_owned();
    for (library, ours) in WORDS {
        text = text.replace(library, ours);
    }
    if let Some((problem, hint)) = text.split_once(DECLARED)
        && let Some((what, hint)) = hint.split_once('`')
        && let Some((_, rest)) = hint.split_once(DECLARATION)
    {
        text = format!("{problem}; `kombu declare {what}` makes it{rest}");
    }
    text
}

/// Of standard output.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::NobodyReads,
            _ => Failure::new(
                Code::Failed,
                format!("the output can't be written: {error}"),
            ),
        }
    }
}

fn code_of(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::UnknownScheme
        | ErrorKind::Config
        | ErrorKind::InvalidName
        | ErrorKind::UnknownSerializer => Code::Usage,
        ErrorKind::ConnectionLost | ErrorKind::Timeout => Code::Unreachable,
        ErrorKind::Credentials | ErrorKind::AccessRefused => Code::Refused,
        ErrorKind::NotFound | ErrorKind::Unroutable | ErrorKind::NoConsumers => Code::NotFound,
        ErrorKind::PreconditionFailed | ErrorKind::ResourceLocked | ErrorKind::Unsupported => {
            Code::Differs
        }
        ErrorKind::Tls => Code::Tls,
        _ => Code::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_out_is_one_that_the_command_has() {
        for (library, ours) in [
            (
                "get: no queue `a`; declare it with `connection.declare_queue`, or open a consumer on its declaration (404)",
                "get: no queue `a`; `kombu declare queue` makes it (404)",
            ),
            (
                "bind: no exchange `a`; declare it with `connection.declare_exchange`, or open what uses it with its declaration",
                "bind: no exchange `a`; `kombu declare exchange` makes it",
            ),
            (
                "declare it as it is, verify it with `.passive()`, or delete it first (406)",
                "declare it as it is, or delete it first (406)",
            ),
        ] {
            assert_eq!(in_our_words(library), ours);
        }
    }

    /// As the library says it now.
    #[tokio::test]
    async fn no_method_of_the_library_is_a_way_out() {
        let connection = kombu::connect("memory://").await.unwrap();
        let media = kombu::Exchange::topic("media");
        let jobs = kombu::Queue::new("jobs").bind(&media, "#");
        connection.declare_queue(&jobs).await.unwrap();
        let consumer = connection.consumer(&jobs).await.unwrap();
        let producer = connection.producer(kombu::Exchange::default());
        let producer = producer.routing_key("jobs").await.unwrap();
        producer.publish_text("1").await.unwrap();
        let unknown = kombu::Exchange::custom("x-delayed", "later");
        let headers = kombu::Binding::from(kombu::Exchange::headers("orders"));
        let wrong = headers.argument("x-match", "some");
        let limited = kombu::Queue::new("limited").max_deliveries(2);
        let limited = limited
            .dead_letter_exchange("")
            .queue_type(kombu::QueueType::Classic);
        let twice = "queues: {}\nqueues: {}";
        let twice = kombu::Config::from_text(twice, kombu::Format::Yaml, |_| None);
        let errors = [
            connection.declare_exchange(&unknown).await.unwrap_err(),
            connection
                .delete_queue("jobs")
                .if_unused()
                .await
                .unwrap_err(),
            connection
                .delete_queue("jobs")
                .if_empty()
                .await
                .unwrap_err(),
            connection
                .delete_unused_exchange("media")
                .await
                .unwrap_err(),
            connection.bind_queue("jobs", &wrong).await.unwrap_err(),
            connection.declare_queue(&limited).await.unwrap_err(),
            twice.unwrap_err(),
        ];
        for error in errors {
            let ours = in_our_words(&error.to_string());
            for library in ["::", "()", "`if_", "`match_", "Policy"] {
                assert!(!ours.contains(library), "{ours}");
            }
        }
        consumer.cancel().await.unwrap();
    }
}
