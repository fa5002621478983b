use std::fmt;
use std::ops::Deref;

use kombu_serializers::{self as serializers, Accept};
use serde::Deserialize;

use crate::client::Plain;
use crate::error::{Error, ErrorKind, Result};
use crate::message::Content;

use super::failure::Failure;
use super::{CallError, END, ERROR, MORE};

/// What somebody answered: the message, with everything that it has.
pub struct Answer {
    content: Content,
    plain: Plain,
    reading: Reading,
}

/// How answers are read.
#[derive(Clone)]
pub(super) struct Reading {
    pub(super) serializers: serializers::Registry,
    pub(super) max_decompressed_size: usize,
}

impl Answer {
    pub(super) fn new(content: Content, reading: &Reading) -> Self {
        Answer {
            content,
            plain: Plain::default(),
            reading: reading.clone(),
        }
    }

    /// Decodes the body with the codec of its content type. Write the type: `decode::<T>()`.
    ///
    /// # Errors
    ///
    /// Those of [`Delivery::decode`](crate::Delivery::decode).
    pub fn decode<'de, T: Deserialize<'de>>(&'de self) -> Result<T> {
        let (reading, content) = (&self.reading, &self.content);
        let decode = || {
            let codec = reading.serializers.decoder_for(
                content.content_type(),
                content.content_encoding(),
                &Accept::all(),
            )?;
            let limit = reading.max_decompressed_size;
            let body = self.plain.of(content, &reading.serializers, limit)?;
            Ok(codec.decode(body)?)
        };
        decode().map_err(|error: Error| error.during("decode"))
    }

    /// The value, or what the answer says that went wrong.
    pub(super) fn value(self) -> std::result::Result<Answer, CallError> {
        if self.headers().contains(ERROR) {
            return Err(Failure::of(self));
        }
        if self.is_end() {
            return Err(CallError::Malformed(Error::new(
                ErrorKind::Undecodable,
                "the answer ends others, and has no value",
            )));
        }
        Ok(self)
    }

    /// Whether the server says that others follow.
    pub fn has_more(&self) -> bool {
        self.says(MORE)
    }

    pub(super) fn is_end(&self) -> bool {
        self.says(END)
    }

    fn says(&self, header: &str) -> bool {
        let value = self.headers().get(header);
        value.and_then(|value| value.as_bool()).unwrap_or(false)
    }
}

impl Deref for Answer {
    type Target = Content;

    fn deref(&self) -> &Content {
        &self.content
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Answer").field(&self.content).finish()
    }
}
