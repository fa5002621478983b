use std::fmt;

use crate::error::{Error, ErrorKind};
use crate::name::Name;

use super::{Answer, Failure};

/// Why a call brought no value.
///
/// It becomes an [`Error`] by `?`, whose kind says the same more roughly.
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> kombu::Result<()> {
/// use kombu::call::CallError;
/// use kombu::{Exchange, Queue};
///
/// let connection = kombu::connect("memory://").await?;
/// let caller = connection.caller(Exchange::default()).await?;
/// let nobody = caller.call::<_, i64>(&1).routing_key("nobody").await;
/// assert!(matches!(nobody, Err(CallError::Unroutable(_))));
///
/// connection.declare_queue(&Queue::new("unserved")).await?;
/// let late = caller.call::<_, i64>(&1).routing_key("unserved").await;
/// assert!(matches!(late, Err(CallError::Timeout { attempts: 5 })));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum CallError {
    /// Nobody answered in time, however often the question was sent.
    Timeout {
        /// How often it was sent.
        attempts: u32,
    },
    /// No queue got the question.
    Unroutable(Error),
    /// The queue has no consumer, where that was asked for
    /// ([`needs_responder`](super::Call::needs_responder)).
    NoResponder {
        /// The queue.
        queue: Name,
    },
    /// The other side's own error.
    Application {
        /// Its name, for programs.
        name: String,
        /// Its text, for people.
        message: String,
        /// What belongs to it.
        payload: Option<Box<Answer>>,
    },
    /// The other side refuses the question for good.
    Critical {
        /// As in HTTP: 4xx.
        code: u16,
        /// Why, for people.
        message: String,
    },
    /// The other side can't answer now; the same question may be answered later.
    Transient {
        /// As in HTTP: 5xx.
        code: u16,
        /// Why, for people.
        message: String,
    },
    /// The answer can't be read.
    Malformed(Error),
    /// The question can't be written or sent, or the connection has ended.
    Transport(Error),
}

impl CallError {
    /// Whether the same call may succeed later without a change in the program.
    pub fn is_retryable(&self) -> bool {
        match self {
            CallError::Timeout { .. }
            | CallError::NoResponder { .. }
            | CallError::Transient { .. } => true,
            CallError::Transport(error) => error.is_transient(),
            CallError::Unroutable(_)
            | CallError::Application { .. }
            | CallError::Critical { .. }
            | CallError::Malformed(_) => false,
        }
    }

    /// What a publish of a question failed with.
    pub(super) fn of_publish(error: Error) -> Self {
        match error.kind() {
            ErrorKind::Unroutable => CallError::Unroutable(error),
            _ => CallError::Transport(error),
        }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallError::Timeout { attempts: 1 } => f.write_str("no answer in time"),
            CallError::Timeout { attempts } => {
                write!(f, "no answer in time, after {attempts} attempts")
            }
            CallError::Unroutable(error) | CallError::Transport(error) => error.fmt(f),
            CallError::NoResponder { queue } => {
                write!(f, "queue `{queue}` has no consumer that could answer")
            }
            CallError::Application { name, message, .. } => write!(f, "{name}: {message}"),
            CallError::Critical { code, message } | CallError::Transient { code, message } => {
                write!(f, "{message} ({code})")
            }
            CallError::Malformed(error) => write!(f, "the answer can't be read: {error}"),
        }
    }
}

impl std::error::Error for CallError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            CallError::Unroutable(error)
            | CallError::Transport(error)
            | CallError::Malformed(error) => Some(error),
            _ => None,
        }
    }
}

impl From<CallError> for Error {
    fn from(error: CallError) -> Self {
        let kind = match &error {
            CallError::Timeout { .. } => ErrorKind::Timeout,
            CallError::NoResponder { .. } => ErrorKind::NoConsumers,
            CallError::Application { .. } | CallError::Critical { .. } => ErrorKind::CallRefused,
            CallError::Transient { .. } => ErrorKind::Unavailable,
            CallError::Malformed(_) => ErrorKind::Undecodable,
            CallError::Unroutable(_) | CallError::Transport(_) => {
                return match error {
                    CallError::Unroutable(error) | CallError::Transport(error) => error,
                    other => Error::new(ErrorKind::Protocol, other.to_string()),
                };
            }
        };
        Error::new(kind, error.to_string())
            .during("call")
            .with_source(error)
    }
}

/// The error that an answer stands for.
impl From<Failure> for CallError {
    fn from(failure: Failure) -> Self {
        failure.into_call_error()
    }
}
