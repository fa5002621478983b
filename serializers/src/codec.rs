//! The codec that everybody holds: one of ours, or one that was registered.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

#[allow(unused_imports, reason = "without features no codec is built in")]
use crate::builtin;
use crate::content::Identity;
use crate::error::{BoxError, SerializerError, SerializerErrorKind};
use crate::registered::{self, Registered};
use crate::scratch;

/// Turns values into bodies and back, in one format.
///
/// The built-in codecs are constants and are called directly; those made by
/// [`builder`](Self::builder) are called through objects, which takes several times as long.
/// Cloning is cheap either way. Two codecs are equal if they are the same built-in one, or clones
/// of the same built one.
///
/// ```
/// # #[cfg(feature = "json")] {
/// use kombu_serializers::Codec;
///
/// let body = Codec::JSON.encode(&[1, 2, 3])?;
/// assert_eq!(&body[..], b"[1,2,3]");
/// assert_eq!(Codec::JSON.decode::<Vec<u8>>(&body)?, [1, 2, 3]);
/// # }
/// # Ok::<(), kombu_serializers::SerializerError>(())
/// ```
#[derive(Clone)]
pub struct Codec(Kind);

#[derive(Clone)]
enum Kind {
    #[cfg(feature = "json")]
    Json,
    #[cfg(feature = "msgpack")]
    Msgpack,
    #[cfg(feature = "yaml")]
    Yaml,
    #[cfg(feature = "raw")]
    Raw,
    #[cfg(feature = "raw")]
    Text,
    Registered(Arc<Registered>),
}

impl Codec {
    /// JSON: `application/json`, `utf-8`. The default of most programs, and what every other
    /// language reads.
    ///
    /// Floats come back exactly as they were, but JSON knows neither NaN nor infinities: they are
    /// written as `null`. Keys of maps must be strings, numbers or booleans.
    ///
    /// ```
    /// # use kombu_serializers::{Codec, Value};
    /// let body = Codec::JSON.encode("péché")?;
    /// assert_eq!(body, "\"péché\"".as_bytes());
    /// # Ok::<(), kombu_serializers::SerializerError>(())
    /// ```
    #[cfg(feature = "json")]
    pub const JSON: Codec = Codec(Kind::Json);

    /// MessagePack: `application/x-msgpack`, `binary`. Structs are written as maps, as Python
    /// expects.
    ///
    /// ```
    /// # use kombu_serializers::Codec;
    /// let body = Codec::MSGPACK.encode(&("a", true))?;
    /// assert_eq!(&body[..], b"\x92\xa1a\xc3");
    /// # Ok::<(), kombu_serializers::SerializerError>(())
    /// ```
    #[cfg(feature = "msgpack")]
    pub const MSGPACK: Codec = Codec(Kind::Msgpack);

    /// YAML: `application/x-yaml`, `utf-8`. One document per body.
    ///
    /// It is read by YAML 1.2: only `true` and `false` are booleans, and merge keys (`<<`) are
    /// refused. What is written is quoted so that YAML 1.1, and so Python, reads the same. Where
    /// text is asked for, an unquoted `1e5` is text; a [`Value`](crate::Value) holds a number then,
    /// even if Python wrote it as text.
    ///
    /// A key that is there twice is an error. Tags never make types: an unknown one is ignored,
    /// unless the type asked for is an enum and has a variant of that name. `!!binary` is decoded
    /// where bytes are asked for; in a `Value` it becomes a string, and is an error if it isn't
    /// UTF-8.
    ///
    /// At most 32 sequences and maps nest in one another. A key may be a sequence or a map if its
    /// own keys are not.
    ///
    /// ```
    /// # use kombu_serializers::{Codec, Value};
    /// let value: Value = Codec::YAML.decode(b"name: lolcat1.avi\nsize: 1301013\n")?;
    /// assert_eq!(value.get("size").and_then(Value::as_i64), Some(1_301_013));
    /// # Ok::<(), kombu_serializers::SerializerError>(())
    /// ```
    #[cfg(feature = "yaml")]
    pub const YAML: Codec = Codec(Kind::Yaml);

    /// No format: `application/data`, `binary`. The body is the bytes that are given.
    ///
    /// It encodes bytes, sequences of `u8` and text, and refuses everything else. It decodes to
    /// `&[u8]`, to `Vec<u8>` and other byte buffers, and to `&str` and `String` if the body is
    /// UTF-8.
    ///
    /// ```
    /// # use kombu_serializers::Codec;
    /// let body = Codec::RAW.encode(&[0xffu8, 0xd8])?;
    /// assert_eq!(Codec::RAW.decode::<&[u8]>(&body)?, [0xff, 0xd8]);
    /// assert!(Codec::RAW.encode(&7).is_err());
    /// # Ok::<(), kombu_serializers::SerializerError>(())
    /// ```
    #[cfg(feature = "raw")]
    pub const RAW: Codec = Codec(Kind::Raw);

    /// Text: `text/plain`, `utf-8`. The body is the text that is given.
    ///
    /// It encodes strings and nothing else. It decodes bodies that are UTF-8, to `&str` and
    /// `String`, and to their bytes where bytes are asked for.
    ///
    /// ```
    /// # use kombu_serializers::Codec;
    /// let body = Codec::TEXT.encode("hello")?;
    /// assert_eq!(Codec::TEXT.decode::<&str>(&body)?, "hello");
    /// assert!(Codec::TEXT.decode::<String>(b"\xff").is_err());
    /// # Ok::<(), kombu_serializers::SerializerError>(())
    /// ```
    #[cfg(feature = "raw")]
    pub const TEXT: Codec = Codec(Kind::Text);

    pub(crate) fn registered(registered: Registered) -> Self {
        Self(Kind::Registered(Arc::new(registered)))
    }

    /// The codecs that are compiled in.
    pub(crate) fn built_in() -> Vec<Self> {
        vec![
            #[cfg(feature = "json")]
            Self::JSON,
            #[cfg(feature = "msgpack")]
            Self::MSGPACK,
            #[cfg(feature = "yaml")]
            Self::YAML,
            #[cfg(feature = "raw")]
            Self::RAW,
            #[cfg(feature = "raw")]
            Self::TEXT,
        ]
    }

    fn identity(&self) -> Identity<'_> {
        match &self.0 {
            #[cfg(feature = "json")]
            Kind::Json => builtin::JSON,
            #[cfg(feature = "msgpack")]
            Kind::Msgpack => builtin::MSGPACK,
            #[cfg(feature = "yaml")]
            Kind::Yaml => builtin::YAML,
            #[cfg(feature = "raw")]
            Kind::Raw => builtin::RAW,
            #[cfg(feature = "raw")]
            Kind::Text => builtin::TEXT,
            Kind::Registered(registered) => Identity {
                name: &registered.name,
                content_type: &registered.content_type,
                content_encoding: &registered.content_encoding,
            },
        }
    }

    /// The name that senders choose it by.
    ///
    /// ```
    /// # #[cfg(feature = "json")]
    /// assert_eq!(kombu_serializers::Codec::JSON.name(), "json");
    /// ```
    #[must_use]
    pub fn name(&self) -> &str {
        self.identity().name
    }

    /// The content type that goes with its bodies, and that receivers choose it by.
    ///
    /// ```
    /// # #[cfg(feature = "json")]
    /// assert_eq!(kombu_serializers::Codec::JSON.content_type(), "application/json");
    /// ```
    #[must_use]
    pub fn content_type(&self) -> &str {
        self.identity().content_type
    }

    /// The content encoding that goes with its bodies.
    ///
    /// ```
    /// # #[cfg(feature = "json")]
    /// assert_eq!(kombu_serializers::Codec::JSON.content_encoding(), "utf-8");
    /// ```
    #[must_use]
    pub fn content_encoding(&self) -> &str {
        self.identity().content_encoding
    }

    /// Whether it encodes. Only a codec that was built without an encoder doesn't.
    ///
    /// ```
    /// # #[cfg(feature = "json")]
    /// assert!(kombu_serializers::Codec::JSON.can_encode());
    /// ```
    #[must_use]
    pub fn can_encode(&self) -> bool {
        match &self.0 {
            Kind::Registered(registered) => registered.encoder.is_some(),
            #[allow(unreachable_patterns, reason = "without features no codec is built in")]
            _ => true,
        }
    }

    /// Whether it decodes. Only a codec that was built without a decoder doesn't.
    ///
    /// ```
    /// # #[cfg(feature = "json")]
    /// assert!(kombu_serializers::Codec::JSON.can_decode());
    /// ```
    #[must_use]
    pub fn can_decode(&self) -> bool {
        match &self.0 {
            Kind::Registered(registered) => registered.decoder.is_some(),
            #[allow(unreachable_patterns, reason = "without features no codec is built in")]
            _ => true,
        }
    }

    /// Writes a value as a body.
    ///
    /// The value may encode others while it is being written. JSON refuses values that are nested
    /// too deeply to be read again; the other formats write them all the same.
    ///
    /// # Errors
    ///
    /// [`Encode`](SerializerErrorKind::Encode) if the value can't be written in this format or
    /// doesn't want to be, [`CannotEncode`](SerializerErrorKind::CannotEncode) if the codec only
    /// decodes.
    ///
    /// ```
    /// # #[cfg(feature = "msgpack")] {
    /// # use kombu_serializers::Codec;
    /// assert_eq!(&Codec::MSGPACK.encode(&[1, 2])?[..], [0x92, 1, 2]);
    /// # }
    /// # Ok::<(), kombu_serializers::SerializerError>(())
    /// ```
    #[inline]
    pub fn encode<T: Serialize + ?Sized>(&self, value: &T) -> Result<Bytes, SerializerError> {
        match &self.0 {
            #[cfg(feature = "json")]
            Kind::Json => scratch::collect(|out| builtin::json::encode(value, out))
                .map_err(|e| self.not_encoded(e)),
            #[cfg(feature = "msgpack")]
            Kind::Msgpack => scratch::collect(|out| builtin::msgpack::encode(value, out))
                .map_err(|e| self.not_encoded(e)),
            #[cfg(feature = "yaml")]
            Kind::Yaml => scratch::collect(|out| builtin::yaml::encode(value, out))
                .map_err(|e| self.not_encoded(e)),
            #[cfg(feature = "raw")]
            Kind::Raw => scratch::collect(|out| builtin::raw::encode_bytes(value, out))
                .map_err(|e| self.not_encoded(e)),
            #[cfg(feature = "raw")]
            Kind::Text => scratch::collect(|out| builtin::raw::encode_text(value, out))
                .map_err(|e| self.not_encoded(e)),
            Kind::Registered(registered) => {
                let Some(encoder) = &registered.encoder else {
                    return Err(self.cannot_encode());
                };
                scratch::collect(|out| registered::encode(&**encoder, value, out))
                    .map_err(|e| self.not_encoded(e))
            }
        }
    }

    /// Reads a value from a body, which it may borrow from.
    ///
    /// It looks at nothing but the body; whether a message's content type and encoding allow that
    /// is [`Registry::decoder_for`](crate::Registry::decoder_for)'s part. The limits are in the
    /// [crate's documentation](crate).
    ///
    /// # Errors
    ///
    /// [`Decode`](SerializerErrorKind::Decode) if the body is malformed, goes on behind its value,
    /// exceeds a limit or is no `T`, [`CannotDecode`](SerializerErrorKind::CannotDecode) if the
    /// codec only encodes.
    ///
    /// ```
    /// # #[cfg(feature = "json")] {
    /// # use kombu_serializers::{Codec, SerializerErrorKind};
    /// assert_eq!(Codec::JSON.decode::<&str>(br#""borrowed""#)?, "borrowed");
    ///
    /// let error = Codec::JSON.decode::<u8>(b"1 2").unwrap_err();
    /// assert_eq!(error.kind(), SerializerErrorKind::Decode);
    /// # }
    /// # Ok::<(), kombu_serializers::SerializerError>(())
    /// ```
    #[inline]
    pub fn decode<'de, T: Deserialize<'de>>(&self, body: &'de [u8]) -> Result<T, SerializerError> {
        match &self.0 {
            #[cfg(feature = "json")]
            Kind::Json => builtin::json::decode(body).map_err(|e| self.not_decoded(e)),
            #[cfg(feature = "msgpack")]
            Kind::Msgpack => builtin::msgpack::decode(body).map_err(|e| self.not_decoded(e)),
            #[cfg(feature = "yaml")]
            Kind::Yaml => builtin::yaml::decode(body).map_err(|e| self.not_decoded(e)),
            #[cfg(feature = "raw")]
            Kind::Raw => builtin::raw::decode_bytes(body).map_err(|e| self.not_decoded(e)),
            #[cfg(feature = "raw")]
            Kind::Text => builtin::raw::decode_text(body).map_err(|e| self.not_decoded(e)),
            Kind::Registered(registered) => {
                let Some(decoder) = &registered.decoder else {
                    return Err(self.cannot_decode());
                };
                registered::decode(&**decoder, body).map_err(|e| self.not_decoded(e))
            }
        }
    }

    #[cold]
    fn not_encoded(&self, cause: impl Into<BoxError>) -> SerializerError {
        let Identity {
            name, content_type, ..
        } = self.identity();
        let message = format!(
            "the value can't be encoded by the {name} codec ({content_type}): \
             change what the source names, or choose a serializer whose format has it"
        );
        SerializerError::new(SerializerErrorKind::Encode, message).because(cause)
    }

    #[cold]
    fn not_decoded(&self, cause: impl Into<BoxError>) -> SerializerError {
        let Identity {
            name, content_type, ..
        } = self.identity();
        let message = format!(
            "the body can't be decoded by the {name} codec ({content_type}) into the type that was asked for: \
             the source says what is wrong with it; the body itself is still there as bytes"
        );
        SerializerError::new(SerializerErrorKind::Decode, message).because(cause)
    }

    #[cold]
    fn cannot_encode(&self) -> SerializerError {
        let Identity {
            name, content_type, ..
        } = self.identity();
        let message = format!(
            "the {name} codec ({content_type}) only decodes: \
             give its builder an encoder, or choose another serializer"
        );
        SerializerError::new(SerializerErrorKind::CannotEncode, message)
    }

    #[cold]
    pub(crate) fn cannot_decode(&self) -> SerializerError {
        let Identity {
            name, content_type, ..
        } = self.identity();
        let message = format!(
            "the {name} codec ({content_type}) only encodes: give its builder a decoder, or read the body as bytes"
        );
        SerializerError::new(SerializerErrorKind::CannotDecode, message)
    }
}

impl PartialEq for Codec {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Kind::Registered(one), Kind::Registered(other)) => Arc::ptr_eq(one, other),
            #[allow(unreachable_patterns, reason = "without features no codec is built in")]
            (one, other) => std::mem::discriminant(one) == std::mem::discriminant(other),
        }
    }
}

impl Eq for Codec {}

impl fmt::Debug for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Codec").field(&self.name()).finish()
    }
}
