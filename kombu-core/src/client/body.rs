use bytes::Bytes;
use kombu_serializers::Codec;
use serde::Serialize;

use crate::error::{Error, ErrorKind, Result};
use crate::message::Content;
use crate::name::Name;

/// What a body and its content type and encoding come to.
#[derive(Debug, Default)]
pub struct Encoded {
    pub(crate) body: Bytes,
    pub(crate) content_type: Name,
    pub(crate) content_encoding: Name,
}

impl Encoded {
    /// An empty body of no type.
    pub(crate) fn nothing() -> Self {
        Encoded::default()
    }

    pub(crate) fn into_content(self, content: &mut Content) {
        content.set_body(self.body);
        content.set_content_type(self.content_type);
        content.set_content_encoding(self.content_encoding);
    }
}

/// Something that can be published.
#[allow(unreachable_pub)] // sealed: named in signatures, implemented only here
pub trait Body {
    #[doc(hidden)]
    fn encode(self, codec: Option<&Codec>) -> Result<Encoded>;
}

/// A value to be encoded by the serializer.
#[derive(Debug)]
pub struct Value<'a, T: ?Sized>(pub(super) &'a T);

/// The same, kept by the publish itself.
#[cfg(feature = "postage")]
#[derive(Debug)]
pub struct Owned<T>(pub(crate) T);

/// Bytes to be sent as they are.
#[derive(Debug)]
pub struct Raw(pub(super) Bytes);

/// Text to be sent as it is.
#[derive(Debug)]
pub struct Text(pub(super) String);

impl<'a, T: ?Sized> Value<'a, T> {
    pub(crate) fn new(value: &'a T) -> Self {
        Value(value)
    }
}

impl Raw {
    pub(crate) fn new(body: Bytes) -> Self {
        Raw(body)
    }
}

impl<T: Serialize + ?Sized> Body for Value<'_, T> {
    #[inline]
    fn encode(self, codec: Option<&Codec>) -> Result<Encoded> {
        let Some(codec) = codec else {
            return Err(Error::new(
                ErrorKind::UnknownSerializer,
                "the default serializer `json` isn't built in; name another one, or enable kombu's cargo \
                 feature `json`",
            ));
        };
        Ok(Encoded {
            body: codec.encode(self.0)?,
            content_type: codec.content_type().into(),
            content_encoding: codec.content_encoding().into(),
        })
    }
}

#[cfg(feature = "postage")]
impl<T: Serialize> Body for Owned<T> {
    fn encode(self, codec: Option<&Codec>) -> Result<Encoded> {
        Value(&self.0).encode(codec)
    }
}

/// What was encoded before.
impl Body for Encoded {
    fn encode(self, _: Option<&Codec>) -> Result<Encoded> {
        Ok(self)
    }
}

impl Body for Raw {
    #[inline]
    fn encode(self, _: Option<&Codec>) -> Result<Encoded> {
        Ok(Encoded {
            body: self.0,
            content_type: Name::from_static("application/data"),
            content_encoding: Name::from_static("binary"),
        })
    }
}

impl Body for Text {
    fn encode(self, _: Option<&Codec>) -> Result<Encoded> {
        Ok(Encoded {
            body: self.0.into(),
            content_type: Name::from_static("text/plain"),
            content_encoding: Name::from_static("utf-8"),
        })
    }
}
