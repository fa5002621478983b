//! Building a codec of one's own.

use std::fmt;

use crate::codec::Codec;
use crate::content;
use crate::error::{SerializerError, SerializerErrorKind};
use crate::registered::{Decoder, Encoder, Registered};

/// A codec in the making. See [`Codec::builder`].
#[must_use = "a builder makes nothing until `build` is called"]
pub struct CodecBuilder(Registered);

impl Codec {
    /// Begins a codec for a format that isn't built in.
    ///
    /// `content_encoding` is `utf-8` for text and `binary` for anything else. A text codec is only
    /// given bodies that are marked as UTF-8, or as nothing, or with this very encoding.
    ///
    /// ```
    /// # #[cfg(feature = "json")] {
    /// use kombu_serializers::{Accept, BoxError, Codec, Registry, Visit, erased_serde};
    ///
    /// fn encode(value: &dyn erased_serde::Serialize, out: &mut Vec<u8>) -> Result<(), BoxError> {
    ///     out.extend_from_slice(b"!");
    ///     Ok(serde_json::to_writer(out, value)?)
    /// }
    ///
    /// fn decode<'de>(body: &'de [u8], visit: &mut Visit<'_, 'de>) -> Result<(), BoxError> {
    ///     let mut json = serde_json::Deserializer::from_slice(body.strip_prefix(b"!").ok_or("no mark")?);
    ///     visit.value(&mut json)?;
    ///     Ok(json.end()?)
    /// }
    ///
    /// let codecs = Registry::default();
    /// codecs.register(
    ///     Codec::builder("marked", "application/x-marked", "utf-8").encoder(encode).decoder(decode).build()?,
    /// );
    ///
    /// let body = codecs.by_name("marked")?.encode("text")?;
    /// assert_eq!(&body[..], br#"!"text""#);
    /// let codec = codecs.decoder_for(Some("application/x-marked"), None, &Accept::all())?;
    /// assert_eq!(codec.decode::<&str>(&body)?, "text");
    /// # }
    /// # Ok::<(), kombu_serializers::SerializerError>(())
    /// ```
    pub fn builder(
        name: impl Into<String>,
        content_type: impl Into<String>,
        content_encoding: impl Into<String>,
    ) -> CodecBuilder {
        CodecBuilder(Registered {
            name: name.into(),
            content_type: content_type.into(),
            content_encoding: content_encoding.into(),
            encoder: None,
            decoder: None,
        })
    }
}

impl CodecBuilder {
    /// Sets what writes values. Without it the codec only decodes.
    pub fn encoder(mut self, encoder: impl Encoder) -> Self {
        self.0.encoder = Some(Box::new(encoder));
        self
    }

    /// Sets what reads values. Without it the codec only encodes.
    pub fn decoder(mut self, decoder: impl Decoder) -> Self {
        self.0.decoder = Some(Box::new(decoder));
        self
    }

    /// Makes the codec.
    ///
    /// # Errors
    ///
    /// [`Config`](SerializerErrorKind::Config) if there is neither an encoder nor a decoder, if the
    /// name is empty or has a `/` (accept lists tell names from content types by it), or if the
    /// content type has none.
    ///
    /// ```
    /// # use kombu_serializers::{BoxError, Codec, erased_serde};
    /// let write_only = Codec::builder("nothing", "application/x-nothing", "binary")
    ///     .encoder(|_: &dyn erased_serde::Serialize, _: &mut Vec<u8>| -> Result<(), BoxError> { Ok(()) })
    ///     .build()?;
    /// assert!(write_only.can_encode() && !write_only.can_decode());
    /// # Ok::<(), kombu_serializers::SerializerError>(())
    /// ```
    pub fn build(self) -> Result<Codec, SerializerError> {
        let Registered {
            name,
            content_type,
            encoder,
            decoder,
            ..
        } = &self.0;
        let complaint = if name.trim().is_empty() || name.contains('/') {
            "its name must be there and have no `/`"
        } else if !content::essence(content_type).contains('/') {
            "its content type must have a `/`, as `application/x-name` has"
        } else if encoder.is_none() && decoder.is_none() {
            "it needs an encoder, a decoder, or both"
        } else {
            return Ok(Codec::registered(self.0));
        };
        let message =
            format!("there is no codec {name:?} ({content_type:?}) to be made: {complaint}");
        Err(SerializerError::new(SerializerErrorKind::Config, message))
    }
}

impl fmt::Debug for CodecBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CodecBuilder")
            .field("name", &self.0.name)
            .field("content_type", &self.0.content_type)
            .field("content_encoding", &self.0.content_encoding)
            .field("encodes", &self.0.encoder.is_some())
            .field("decodes", &self.0.decoder.is_some())
            .finish()
    }
}
