use std::any::type_name;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::call::Failure;
use crate::error::{Error, ErrorKind, panic_text};

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
        HandlerError {
            name: "panic",
            cause: panic_text(panic).into(),
        }
    }

    /// What this answers; its panic is an error.
    pub(super) fn catch<T>(work: impl FnOnce() -> T) -> Result<T, Self> {
        catch_unwind(AssertUnwindSafe(work)).map_err(|panic| HandlerError::panicked(&*panic))
    }

    pub(super) fn late() -> Self {
        HandlerError {
            name: "TimeoutError",
            cause: "the handler took too long and was cancelled".into(),
        }
    }

    /// The name of the error's type, without its path; `Error` for text, and for a box whose content is unknown.
    pub fn name(&self) -> &str {
        let name = self.name.split('<').next().unwrap_or_default();
        match name.rsplit("::").next().unwrap_or_default() {
            "&str" | "String" | "Cow" | "Box" => "Error",
            name => name,
        }
    }

    /// What it was.
    pub fn cause(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
        &*self.cause
    }

    /// Whether the same may go well later, as far as that is known.
    pub(super) fn is_transient(&self) -> bool {
        self.error().is_some_and(Error::is_transient)
    }

    /// Whether it was a publish that may have been done.
    pub(super) fn may_have_been_stored(&self) -> bool {
        self.error().is_some_and(Error::may_have_been_stored)
    }

    /// Whether the connection was being closed.
    pub(super) fn is_closed(&self) -> bool {
        let error = self.error();
        error.is_some_and(|error| error.kind() == ErrorKind::Closed)
    }

    fn error(&self) -> Option<&Error> {
        self.cause.downcast_ref()
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
