//! What stands between codec and broker: bytes in, bytes out.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::content::{essence, same_type};
use crate::error::{BoxError, SerializerError, SerializerErrorKind};

/// Turns the bytes of a body into others and back: compresses it, encrypts it, signs it.
///
/// With a name and a content type it becomes a [`Stage`], which joins the
/// [`Stages`](crate::Stages) of a registry. Here is one that encrypts with a key that sender and
/// receiver share:
///
/// ```
/// use chacha20poly1305::aead::{Aead, Generate};
/// use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};
/// use kombu_serializers::{BoxError, ByteStage, Registry, Stage};
///
/// struct Sealed(XChaCha20Poly1305);
///
/// impl ByteStage for Sealed {
///     fn encode(&self, body: &[u8]) -> Result<Vec<u8>, BoxError> {
///         // Random, and long enough that none comes twice.
///         let nonce = XNonce::generate();
///         let sealed = self.0.encrypt(&nonce, body).map_err(|_| "it can't be encrypted")?;
///         Ok([&nonce[..], &sealed[..]].concat())
///     }
///
///     fn decode(&self, body: &[u8], _limit: usize) -> Result<Vec<u8>, BoxError> {
///         // What comes out is shorter than what went in.
///         let (nonce, sealed) = body.split_first_chunk::<24>().ok_or("it is too short")?;
///         let opened = self.0.decrypt(&XNonce::from(*nonce), sealed);
///         Ok(opened.map_err(|_| "it was changed, or another key sealed it")?)
///     }
/// }
///
/// # fn main() -> Result<(), BoxError> {
/// let cipher = XChaCha20Poly1305::new(&[7; 32].into()); // keep your key elsewhere
/// let registry = Registry::default();
/// registry.stages().register(Stage::new("sealed", "application/x-sealed", Sealed(cipher))?);
///
/// let stage = registry.stages().by_name("sealed")?;
/// let body = stage.encode(b"attack at dawn")?;
/// assert!(!body.windows(4).any(|part| part == b"dawn"));
/// assert_eq!(stage.decode(&body, 1024)?, "attack at dawn");
/// # Ok(())
/// # }
/// ```
///
/// The content type of the message stays readable, as do its headers.
pub trait ByteStage: Send + Sync + 'static {
    /// What is sent in place of `body`.
    ///
    /// # Errors
    ///
    /// Any; nothing is sent.
    fn encode(&self, body: &[u8]) -> Result<Vec<u8>, BoxError>;

    /// What `body` was made of, if that isn't longer than `limit` bytes.
    ///
    /// Whoever sends can choose the body. What makes much of little has to stop at the limit, before
    /// it has made more; what is longer all the same is refused.
    ///
    /// # Errors
    ///
    /// Any; the body is undecodable.
    fn decode(&self, body: &[u8], limit: usize) -> Result<Vec<u8>, BoxError>;
}

/// A [`ByteStage`] with the name that it is chosen by and the content type that its bodies are
/// marked with, in Python kombu's header `compression`.
///
/// Cloning is cheap. Two stages are equal if they are clones of one another.
///
/// ```
/// # #[cfg(feature = "zlib")] {
/// use kombu_serializers::Registry;
///
/// let zlib = Registry::default().stages().by_name("zlib")?;
/// assert_eq!(zlib.content_type(), "application/x-gzip"); // as Python kombu has it
/// let body = zlib.encode(&[b'x'; 1000])?;
/// assert!(body.len() < 100);
/// assert_eq!(zlib.decode(&body, 1000)?, [b'x'; 1000][..]);
/// assert!(zlib.decode(&body, 999).is_err());
/// # }
/// # Ok::<(), kombu_serializers::SerializerError>(())
/// ```
#[derive(Clone)]
pub struct Stage(Arc<Inner>);

struct Inner {
    name: String,
    content_type: String,
    aliases: Vec<String>,
    bytes: Box<dyn ByteStage>,
}

impl Stage {
    /// Names a byte stage.
    ///
    /// # Errors
    ///
    /// [`Config`](SerializerErrorKind::Config) if the name is empty or has a `/`, or if the content
    /// type has none.
    ///
    /// ```
    /// # use kombu_serializers::{BoxError, ByteStage, Stage};
    /// struct Backwards;
    ///
    /// impl ByteStage for Backwards {
    ///     fn encode(&self, body: &[u8]) -> Result<Vec<u8>, BoxError> {
    ///         Ok(body.iter().rev().copied().collect())
    ///     }
    ///
    ///     fn decode(&self, body: &[u8], _limit: usize) -> Result<Vec<u8>, BoxError> {
    ///         self.encode(body)
    ///     }
    /// }
    ///
    /// let stage = Stage::new("backwards", "application/x-backwards", Backwards)?;
    /// assert_eq!(stage.encode(b"kombu")?, "ubmok");
    /// assert!(Stage::new("backwards", "backwards", Backwards).is_err());
    /// # Ok::<(), kombu_serializers::SerializerError>(())
    /// ```
    pub fn new(
        name: impl Into<String>,
        content_type: impl Into<String>,
        bytes: impl ByteStage,
    ) -> Result<Self, SerializerError> {
        let (name, content_type) = (name.into(), content_type.into());
        let complaint = if name.trim().is_empty() || name.contains('/') {
            "its name must be there and have no `/`"
        } else if !essence(&content_type).contains('/') {
            "its content type must have a `/`, as `application/x-name` has"
        } else {
            return Ok(Self(Arc::new(Inner {
                name,
                content_type,
                aliases: Vec::new(),
                bytes: Box::new(bytes),
            })));
        };
        let message =
            format!("there is no stage {name:?} ({content_type:?}) to be made: {complaint}");
        Err(SerializerError::new(SerializerErrorKind::Config, message))
    }

    #[allow(dead_code, reason = "without features none is built in")]
    pub(crate) fn known(
        name: &str,
        content_type: &str,
        alias: &str,
        bytes: impl ByteStage,
    ) -> Self {
        Self(Arc::new(Inner {
            name: name.to_owned(),
            content_type: content_type.to_owned(),
            aliases: vec![alias.to_owned()],
            bytes: Box::new(bytes),
        }))
    }

    /// The name that senders choose it by.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The content type that receivers choose it by. It says what the stage makes; what a codec has
    /// made before is in the message's own content type.
    #[must_use]
    pub fn content_type(&self) -> &str {
        &self.0.content_type
    }

    /// Other names that it goes by.
    #[must_use]
    pub fn aliases(&self) -> &[String] {
        &self.0.aliases
    }

    /// Makes of a body what is sent.
    ///
    /// # Errors
    ///
    /// [`Encode`](SerializerErrorKind::Encode) with what the stage says.
    pub fn encode(&self, body: &[u8]) -> Result<Bytes, SerializerError> {
        match self.0.bytes.encode(body) {
            Ok(encoded) => Ok(encoded.into()),
            Err(cause) => {
                let message = format!(
                    "the body can't be encoded by the stage {self}: the source says why; \
                     choose another one, or send the body as it is"
                );
                Err(SerializerError::new(SerializerErrorKind::Encode, message).because(cause))
            }
        }
    }

    /// Makes of what was sent the body again, if that isn't longer than `limit` bytes.
    ///
    /// # Errors
    ///
    /// [`TooLarge`](SerializerErrorKind::TooLarge) if it is longer, [`Decode`](SerializerErrorKind::Decode)
    /// if it is cut off, followed by anything, or not what the stage makes.
    pub fn decode(&self, body: &[u8], limit: usize) -> Result<Bytes, SerializerError> {
        let decoded = self.0.bytes.decode(body, limit);
        match decoded {
            Ok(decoded) if decoded.len() <= limit => Ok(decoded.into()),
            Ok(_) => Err(self.not_decoded(limit, Beyond.into())),
            Err(cause) => Err(self.not_decoded(limit, cause)),
        }
    }

    #[cold]
    fn not_decoded(&self, limit: usize, cause: BoxError) -> SerializerError {
        if cause.is::<Beyond>() {
            let message = format!(
                "the stage {self} makes more than {limit} bytes of the body, which is the limit: \
                 raise it if you expect that, or have less sent at once"
            );
            return SerializerError::new(SerializerErrorKind::TooLarge, message);
        }
        let message = format!(
            "the body can't be decoded by the stage {self}: the source says what is wrong with it; \
             the body itself is still there as bytes"
        );
        SerializerError::new(SerializerErrorKind::Decode, message).because(cause)
    }

    pub(crate) fn has_alias(&self, name: &str) -> bool {
        self.aliases().iter().any(|alias| alias == name)
    }

    pub(crate) fn has_type(&self, content_type: &str) -> bool {
        same_type(self.content_type(), content_type)
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name(), self.content_type())
    }
}

impl fmt::Debug for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Stage").field(&self.name()).finish()
    }
}

impl PartialEq for Stage {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Stage {}

/// More comes out than may.
#[derive(Debug)]
pub(crate) struct Beyond;

impl fmt::Display for Beyond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it goes on beyond the limit")
    }
}

impl Error for Beyond {}
