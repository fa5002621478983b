use std::any::type_name;
use std::fmt;

use crate::call::Failure;
use crate::error::Error;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What a handler failed with: any error, or text.
pub struct HandlerError {
    name: &'static str,
    cause: BoxError,
}

impl HandlerError {
    pub(super) fn new<E: Into<BoxError>>(error: E) -> Self {
        HandlerError {
            name: type_name::<E>(),
            cause: error.into(),
        }
    }

    pub(super) fn panicked(panic: &(dyn std::any::Any + Send)) -> Self {
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        HandlerError {
            name: "panic",
            cause: text.unwrap_or("a panic without words").into(),
        }
    }

    pub(super) fn late() -> Self {
        HandlerError {
            name: "TimeoutError",
            cause: "the handler took too long and was cancelled".into(),
        }
    }

    /// The name of the error's type, without its path.
    pub fn name(&self) -> &str {
        let name = self.name.split('<').next().unwrap_or_default();
        name.rsplit("::").next().unwrap_or_default()
    }

    /// What it was.
    pub fn cause(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
        &*self.cause
    }

    /// What the handler wants to be answered, if it says so.
    pub(super) fn failure(&self) -> Option<&Failure> {
        self.cause.downcast_ref()
    }

    pub(super) fn into_failure(self) -> Result<Failure, HandlerError> {
        let HandlerError { name, cause } = self;
        match cause.downcast() {
            Ok(failure) => Ok(*failure),
            Err(cause) => Err(HandlerError { name, cause }),
        }
    }
}

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cause.fmt(f)
    }
}

impl fmt::Debug for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandlerError")
            .field("name", &self.name())
            .field("cause", &self.cause)
            .finish()
    }
}

/// Why a handler can't be called with a message: an extractor found nothing in it that it could take.
#[derive(Debug)]
pub struct Rejection(Error);

impl Rejection {
    /// What was wrong.
    pub fn error(&self) -> &Error {
        &self.0
    }
}

impl From<Error> for Rejection {
    fn from(error: Error) -> Self {
        Rejection(error)
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
