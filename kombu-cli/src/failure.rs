//! Why a command failed, as people read it and as scripts do.

use std::io;

use kombu::ErrorKind;

pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// What `--help` says about exit codes.
pub(crate) const CODES: &str = "Exit codes:
  0    done
  1    failed
  2    the arguments, the URL or a file can't be used
  3    no broker there, or it was lost
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
        Failure::Because(code_of(error.kind()), error.to_string())
    }
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
