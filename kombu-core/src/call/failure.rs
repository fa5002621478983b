use std::fmt;

use kombu_serializers::Codec;
use serde::Serialize;

use crate::client::{Body, Encoded, Value};
use crate::error::Result;
use crate::field::{FieldTable, FieldValue};
use crate::name::Name;

use super::{Answer, CallError, ERROR, ERROR_CODE, ERROR_MESSAGE, ERROR_NAME};

/// Longer texts are cut: headers have to fit into a frame.
const LONGEST_MESSAGE: usize = 4096;

/// Whose fault it is that a question has no value for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureKind {
    /// An error of the application, with a name.
    Application,
    /// The question will never be answered: as HTTP's 4xx.
    Critical,
    /// It may be answered later: as HTTP's 5xx.
    Transient,
}

impl FailureKind {
    fn text(self) -> &'static str {
        match self {
            FailureKind::Application => "application",
            FailureKind::Critical => "critical",
            FailureKind::Transient => "transient",
        }
    }
}

type Payload = Box<dyn FnOnce(Option<&Codec>) -> Result<Encoded> + Send + Sync>;

/// What a server answers when it has no value.
///
/// ```
/// use kombu::call::{Failure, FailureKind};
///
/// let failure = Failure::application("OutOfStock", "none left").payload(["red", "blue"]);
/// assert_eq!(failure.kind(), FailureKind::Application);
/// let busy = Failure::transient(503, "try later");
/// assert_eq!(busy.to_string(), "try later (503)");
/// ```
pub struct Failure {
    kind: FailureKind,
    name: String,
    code: u16,
    message: String,
    payload: Option<Payload>,
}

impl Failure {
    /// An error of the application: a name for programs, and a text for people.
    pub fn application(name: impl Into<String>, message: impl Into<String>) -> Self {
        Failure {
            kind: FailureKind::Application,
            name: name.into(),
            code: 0,
            message: message.into(),
            payload: None,
        }
    }

    /// The question is refused for good; `code` is HTTP's, 4xx.
    pub fn critical(code: u16, message: impl Into<String>) -> Self {
        Failure {
            kind: FailureKind::Critical,
            name: String::new(),
            code,
            message: message.into(),
            payload: None,
        }
    }

    /// The question may be answered later; `code` is HTTP's, 5xx.
    pub fn transient(code: u16, message: impl Into<String>) -> Self {
        Failure {
            kind: FailureKind::Transient,
            name: String::new(),
            code,
            message: message.into(),
            payload: None,
        }
    }

    /// Adds what belongs to it: the body of the answer. A caller sees it with an [application's](Failure::application)
    /// error.
    #[must_use]
    pub fn payload(mut self, value: impl Serialize + Send + Sync + 'static) -> Self {
        self.payload = Some(Box::new(move |codec| Value::new(&value).encode(codec)));
        self
    }

    /// Whose fault it is.
    pub fn kind(&self) -> FailureKind {
        self.kind
    }

    /// The name of an application's error; else empty.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The text for people.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// HTTP's code of a critical or transient one, else 0.
    pub fn code(&self) -> u16 {
        self.code
    }

    pub(super) fn write(self, headers: &mut FieldTable, codec: Option<&Codec>) -> Result<Encoded> {
        headers.insert(Name::from_static(ERROR), self.kind.text());
        let message = match self.message.char_indices().nth(LONGEST_MESSAGE) {
            Some((end, _)) => &self.message[..end],
            None => &self.message,
        };
        headers.insert(Name::from_static(ERROR_MESSAGE), message);
        match self.kind {
            FailureKind::Application => {
                headers.insert(Name::from_static(ERROR_NAME), self.name.as_str());
            }
            FailureKind::Critical | FailureKind::Transient => {
                headers.insert(Name::from_static(ERROR_CODE), i64::from(self.code));
            }
        }
        match self.payload {
            Some(payload) => payload(codec),
            None => Ok(Encoded::nothing()),
        }
    }

    /// The error that an answer with [`ERROR`] stands for.
    pub(super) fn of(answer: Answer) -> CallError {
        let text = |name| {
            let value = answer.headers().get(name);
            value
                .and_then(FieldValue::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let code = answer
            .headers()
            .get(ERROR_CODE)
            .and_then(FieldValue::as_i64);
        let code = code.and_then(|code| code.try_into().ok());
        let message = text(ERROR_MESSAGE);
        match text(ERROR).as_str() {
            "critical" => CallError::Critical {
                code: code.unwrap_or(400),
                message,
            },
            "transient" => CallError::Transient {
                code: code.unwrap_or(500),
                message,
            },
            _ => CallError::Application {
                name: text(ERROR_NAME),
                message,
                payload: (!answer.body().is_empty()).then(|| Box::new(answer)),
            },
        }
    }

    pub(super) fn into_call_error(self) -> CallError {
        let Failure {
            kind,
            name,
            code,
            message,
            ..
        } = self;
        match kind {
            FailureKind::Application => CallError::Application {
                name,
                message,
                payload: None,
            },
            FailureKind::Critical => CallError::Critical { code, message },
            FailureKind::Transient => CallError::Transient { code, message },
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            FailureKind::Application => write!(f, "{}: {}", self.name, self.message),
            FailureKind::Critical | FailureKind::Transient => {
                write!(f, "{} ({})", self.message, self.code)
            }
        }
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failure")
            .field("kind", &self.kind)
            .field("message", &self.to_string())
            .finish_non_exhaustive()
    }
}

impl std::error::Error for Failure {}
