use std::fmt;

use bytes::Bytes;
use kombu_serializers::{self as serializers, SerializerError, SerializerErrorKind};
use once_cell::race::OnceBox;

use crate::error::{Error, ErrorKind, Result};
use crate::field::FieldValue;
use crate::message::Content;

/// The header that says which byte stage a body has passed, as Python kombu has it.
pub(super) const COMPRESSION: &str = "compression";

/// What a compressed body comes to, once somebody has asked: values that are decoded may borrow from it.
///
/// One pointer, so that a delivery stays small. Two threads that ask at once may both work; one result is kept.
#[derive(Default)]
pub(crate) struct Plain(OnceBox<Bytes>);

impl Plain {
    /// The body that a codec reads: the message's own one if it isn't compressed.
    #[inline]
    pub(crate) fn of<'a>(
        &'a self,
        content: &'a Content,
        serializers: &serializers::Registry,
        limit: usize,
    ) -> Result<&'a Bytes> {
        match content.headers().get(COMPRESSION) {
            // Python kombu takes an empty name for none, too.
            None | Some(FieldValue::Void) => Ok(content.body()),
            Some(FieldValue::Text(name)) if name.is_empty() => Ok(content.body()),
            Some(compression) => self.unpack(content, compression, serializers, limit),
        }
    }

    #[cold]
    fn unpack<'a>(
        &'a self,
        content: &'a Content,
        compression: &FieldValue,
        serializers: &serializers::Registry,
        limit: usize,
    ) -> Result<&'a Bytes> {
        let FieldValue::Text(name) = compression else {
            return Err(Error::new(
                ErrorKind::UnknownSerializer,
                "the header `compression` is no text; read the raw body, and have the sender name a compression",
            ));
        };
        let unpacked = self.0.get_or_try_init(|| {
            let stage = serializers.stages().by_name(name)?;
            Ok::<_, SerializerError>(Box::new(stage.decode(content.body(), limit)?))
        });
        unpacked.map_err(|error| match error.kind() {
            SerializerErrorKind::TooLarge => {
                Error::from(error).with_context("`max_decompressed_size`")
            }
            _ => error.into(),
        })
    }
}

impl Clone for Plain {
    fn clone(&self) -> Self {
        let plain = Plain::default();
        if let Some(unpacked) = self.0.get() {
            // It is empty, so it takes it.
            let _ = plain.0.set(Box::new(unpacked.clone()));
        }
        plain
    }
}

impl fmt::Debug for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plain").finish_non_exhaustive()
    }
}
