use std::fmt;

use kombu_serializers::{SerializerError, SerializerErrorKind};

use crate::client::Delivery;

/// The result of every fallible operation in kombu.
///
/// In a block whose error type nothing else tells, such as a spawned one, end with
/// `kombu::Result::Ok(())`.
pub type Result<T> = std::result::Result<T, Error>;

type Source = Box<dyn std::error::Error + Send + Sync>;

/// Why an operation failed; one pointer wide.
///
/// [`kind`](Error::kind) is for programs, the text is for people: it names the thing, the operation,
/// the broker's code where there is one, and the way out. A driver's own error is the
/// [`source`](std::error::Error::source), reachable by downcast only.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> kombu::Result<()> {
/// use kombu::ErrorKind;
///
/// let connection = kombu::connect("memory://").await?;
/// let error = connection.get("nowhere").await.unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::NotFound);
/// assert_eq!(error.code(), Some(404));
/// # Ok(())
/// # }
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    operation: Option<&'static str>,
    code: Option<u16>,
    maybe_stored: bool,
    source: Option<Source>,
    delivery: Option<Delivery>,
}

/// What went wrong, in the terms of the messaging model and not of one broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No transport is registered for the scheme of a URL.
    UnknownScheme,
    /// A URL, an option or a configuration file can't be understood.
    Config,
    /// The broker refused the credentials, or the virtual host, at connect.
    Credentials,
    /// The connection can't be encrypted as asked for: a certificate isn't trusted, has expired or is another's, or the
    /// broker refuses ours.
    Tls,
    /// The connection could not be made, or was lost. Transient.
    ConnectionLost,
    /// The connection, producer or consumer was closed by this program.
    Closed,
    /// A deadline passed. Transient.
    Timeout,
    /// The broker or a limit of ours holds back publishes. Transient.
    Backpressure,
    /// An exchange, queue or binding doesn't exist (AMQP 404).
    NotFound,
    /// It exists with other attributes, or isn't empty, or is in use (AMQP 406).
    PreconditionFailed,
    /// Somebody else holds it exclusively (AMQP 405).
    ResourceLocked,
    /// Reserved, or not permitted (AMQP 403).
    AccessRefused,
    /// A name is too long or can't be used.
    InvalidName,
    /// A mandatory message matched no queue (AMQP 312).
    Unroutable,
    /// An immediate message met no consumer (AMQP 313).
    NoConsumers,
    /// The broker did not take the message over (`basic.nack`). Transient.
    Nacked,
    /// A message is larger than the limit (AMQP 311).
    TooLarge,
    /// The transport can neither do nor emulate it.
    Unsupported,
    /// No serializer or compression of that name, or for that content type.
    UnknownSerializer,
    /// A value can't be written by the chosen serializer, or its body not compressed.
    Encode,
    /// A body can't be read by the serializer of its content type, or not decompressed.
    Undecodable,
    /// The content type isn't on the consumer's accept list.
    ContentRefused,
    /// The delivery was no longer ours when it was settled; it goes to somebody else.
    SettleLost,
    /// There is nothing to settle: the consumer asked for `no_ack`.
    NotSettleable,
    /// The other side of a call answered with an error, for good.
    CallRefused,
    /// The other side of a call, or the broker, can't do it now. Transient.
    Unavailable,
    /// The last queue of a consumer was deleted under it.
    ConsumerCancelled,
    /// The broker or its driver did something that the protocol doesn't allow.
    Protocol,
}

impl ErrorKind {
    /// Whether the same call may succeed later without a change in the program.
    pub fn is_transient(self) -> bool {
        matches!(
            self,
            ErrorKind::ConnectionLost
                | ErrorKind::Timeout
                | ErrorKind::Backpressure
                | ErrorKind::Nacked
                | ErrorKind::Unavailable
        )
    }

    /// The AMQP 0-9-1 reply code that stands for this kind, on every transport.
    fn code(self) -> Option<u16> {
        Some(match self {
            ErrorKind::TooLarge => 311,
            ErrorKind::Unroutable => 312,
            ErrorKind::NoConsumers => 313,
            ErrorKind::AccessRefused => 403,
            ErrorKind::NotFound => 404,
            ErrorKind::ResourceLocked => 405,
            ErrorKind::PreconditionFailed => 406,
            _ => return None,
        })
    }
}

impl Error {
    /// An error of this kind; `message` names the thing and the way out.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error(Box::new(Inner {
            kind,
            message: message.into(),
            operation: None,
            code: kind.code(),
            maybe_stored: false,
            source: None,
            delivery: None,
        }))
    }

    /// Names the operation that failed, for example `"declare queue"`. The innermost name stays.
    #[must_use]
    pub fn during(mut self, operation: &'static str) -> Self {
        self.0.operation.get_or_insert(operation);
        self
    }

    /// Sets the code that the broker sent, in place of the one that the kind implies.
    #[must_use]
    pub fn with_code(mut self, code: u16) -> Self {
        self.0.code = Some(code);
        self
    }

    /// Adds the driver's own error.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Says that the broker may have the message although no confirm came.
    #[must_use]
    pub fn with_maybe_stored(mut self) -> Self {
        self.0.maybe_stored = true;
        self
    }

    pub(crate) fn with_delivery(mut self, delivery: Delivery) -> Self {
        self.0.delivery = Some(delivery);
        self
    }

    /// Says in front of the text what it is about.
    #[must_use]
    pub fn with_context(mut self, context: &str) -> Self {
        self.0.message = format!("{context}: {}", self.0.message);
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The operation that failed, for example `"publish"`.
    pub fn operation(&self) -> Option<&'static str> {
        self.0.operation
    }

    /// The AMQP 0-9-1 reply code, the same on every transport; `None` where AMQP has none.
    pub fn code(&self) -> Option<u16> {
        self.0.code
    }

    /// Whether the same call may succeed later without a change in the program.
    pub fn is_transient(&self) -> bool {
        self.0.kind.is_transient()
    }

    /// Whether the broker may have stored the message that this error is about.
    ///
    /// `false` means that it certainly didn't.
    pub fn may_have_been_stored(&self) -> bool {
        self.0.maybe_stored
    }

    /// The delivery whose body could not be read, if [`Delivery::take`] made this error.
    ///
    /// It has its raw body and can be settled. Dropping the error instead applies the consumer's
    /// policy for undecodable bodies, as documented at [`Delivery::take`].
    pub fn into_delivery(mut self) -> Option<Delivery> {
        self.0.delivery.take()
    }

    /// Text without the operation in front, for errors that wrap this one.
    pub fn message(&self) -> &str {
        &self.0.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(operation) = self.0.operation {
            write!(f, "{operation}: ")?;
        }
        f.write_str(&self.0.message)?;
        if let Some(code) = self.0.code {
            write!(f, " ({code})")?;
        }
        if self.0.maybe_stored {
            f.write_str("; the broker may have stored the message")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Error");
        out.field("kind", &self.0.kind)
            .field("message", &self.to_string());
        if let Some(source) = &self.0.source {
            out.field("source", source);
        }
        out.finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|source| &**source as _)
    }
}

impl From<SerializerError> for Error {
    fn from(error: SerializerError) -> Self {
        let kind = match error.kind() {
            SerializerErrorKind::ContentRefused => ErrorKind::ContentRefused,
            SerializerErrorKind::Encode | SerializerErrorKind::CannotEncode => ErrorKind::Encode,
            SerializerErrorKind::Decode | SerializerErrorKind::TooLarge => ErrorKind::Undecodable,
            SerializerErrorKind::Config => ErrorKind::Config,
            _ => ErrorKind::UnknownSerializer,
        };
        Error::new(kind, error.to_string()).with_source(error)
    }
}

impl From<std::convert::Infallible> for Error {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without words")
}
