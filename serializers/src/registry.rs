//! All codecs that a program knows, and its byte stages.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;

use crate::accept::Accept;
use crate::builtin;
use crate::codec::Codec;
use crate::content::{encoding_fits, quoted, same_type};
use crate::error::{SerializerError, SerializerErrorKind};
use crate::stages::Stages;

/// What a body is if its message doesn't say, as in Python kombu.
const UNMARKED: &str = "application/data";

/// The codecs to choose from. Clones share one list, so what is registered in one is there in all.
///
/// The default has the built-in codecs of the enabled features.
///
/// ```
/// # #[cfg(all(feature = "json", feature = "raw"))] {
/// use kombu_serializers::{Codec, Registry};
///
/// let codecs = Registry::default();
/// assert_eq!(codecs.by_name("json")?, Codec::JSON);
/// assert_eq!(codecs.by_content_type("text/plain; charset=utf-8"), Some(Codec::TEXT));
/// # }
/// # Ok::<(), kombu_serializers::SerializerError>(())
/// ```
#[derive(Clone)]
pub struct Registry {
    shared: Arc<Shared>,
}

struct Shared {
    codecs: RwLock<Vec<Codec>>,
    /// Something was registered: the built-in codecs are no longer what each name and type means.
    changed: AtomicBool,
    stages: Stages,
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            shared: Arc::new(Shared {
                codecs: RwLock::new(Codec::built_in()),
                changed: AtomicBool::new(false),
                stages: Stages::default(),
            }),
        }
    }
}

impl Registry {
    /// Adds a codec. It takes the place of those that have its name or its content type, built-in
    /// ones included.
    ///
    /// Whoever has taken a codec out of the registry before keeps that one.
    ///
    /// ```
    /// # #[cfg(feature = "json")] {
    /// # use kombu_serializers::{BoxError, Codec, Registry, erased_serde};
    /// fn pretty(value: &dyn erased_serde::Serialize, out: &mut Vec<u8>) -> Result<(), BoxError> {
    ///     Ok(serde_json::to_writer_pretty(out, value)?)
    /// }
    ///
    /// let codecs = Registry::default();
    /// codecs.register(Codec::builder("pretty", "application/json", "utf-8").encoder(pretty).build()?);
    /// assert!(codecs.by_name("json").is_err());
    /// # }
    /// # Ok::<(), kombu_serializers::SerializerError>(())
    /// ```
    pub fn register(&self, codec: Codec) {
        let mut codecs = self.shared.codecs.write();
        self.shared.changed.store(true, Ordering::Release);
        let replaced: Vec<Codec> = codecs
            .extract_if(.., |old| {
                old.name() == codec.name() || same_type(old.content_type(), codec.content_type())
            })
            .collect();
        codecs.push(codec);
        // What is dropped is the program's, and might use this registry.
        drop(codecs);
        drop(replaced);
    }

    /// The codec of this name. Names are compared exactly.
    ///
    /// # Errors
    ///
    /// [`UnknownSerializer`](SerializerErrorKind::UnknownSerializer), which lists the names that
    /// are there, and the feature to enable if the codec is one of ours.
    ///
    /// ```
    /// # use kombu_serializers::Registry;
    /// let error = Registry::default().by_name("pickle").unwrap_err();
    /// assert!(error.to_string().starts_with("there is no serializer \"pickle\""));
    /// ```
    pub fn by_name(&self, name: &str) -> Result<Codec, SerializerError> {
        let codecs = self.shared.codecs.read();
        let found = codecs.iter().find(|codec| codec.name() == name).cloned();
        found.ok_or_else(|| unknown_name(name, &codecs))
    }

    /// The codec of this content type. Case doesn't matter, nor do parameters behind a `;`.
    ///
    /// ```
    /// # use kombu_serializers::Registry;
    /// assert_eq!(Registry::default().by_content_type("image/png"), None);
    /// ```
    #[must_use]
    pub fn by_content_type(&self, content_type: &str) -> Option<Codec> {
        find_type(&self.shared.codecs.read(), content_type).cloned()
    }

    /// The byte stages, which bodies pass behind the codec when they are sent, and before it when they
    /// arrive: compression, and what you register. They are shared by clones as the codecs are.
    ///
    /// ```
    /// # use kombu_serializers::Registry;
    /// let error = Registry::default().stages().by_name("lzma").unwrap_err();
    /// assert!(error.to_string().starts_with("there is no compression \"lzma\""));
    /// ```
    #[must_use]
    pub fn stages(&self) -> &Stages {
        &self.shared.stages
    }

    /// The names of all codecs: the built-in ones, then those registered, in that order.
    ///
    /// ```
    /// # #[cfg(feature = "json")]
    /// assert_eq!(kombu_serializers::Registry::default().names()[0], "json");
    /// ```
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.shared
            .codecs
            .read()
            .iter()
            .map(|codec| codec.name().to_owned())
            .collect()
    }

    /// Decides, before anything is decoded, which codec a message is for, by its content type and
    /// encoding and by what the receiver accepts.
    ///
    /// A message without a content type (none, or an empty one) is `application/data`, that is,
    /// raw. A text format takes the encodings `utf-8`, `utf8`, `us-ascii`, `ascii`, `binary` and
    /// none; a binary one takes any.
    ///
    /// # Errors
    ///
    /// - [`ContentRefused`](SerializerErrorKind::ContentRefused): the accept list doesn't have this
    ///   content type;
    /// - [`UnknownContentType`](SerializerErrorKind::UnknownContentType): no codec has it;
    /// - [`CannotDecode`](SerializerErrorKind::CannotDecode): its codec only encodes;
    /// - [`Decode`](SerializerErrorKind::Decode): it is text in another encoding than UTF-8.
    ///
    /// ```
    /// # #[cfg(feature = "json")] {
    /// use kombu_serializers::{Accept, Registry, SerializerErrorKind};
    ///
    /// let codecs = Registry::default();
    /// let accept = Accept::only(["json"]);
    /// assert!(codecs.decoder_for(Some("application/json"), Some("utf-8"), &accept).is_ok());
    ///
    /// let refused = codecs.decoder_for(Some("application/x-yaml"), Some("utf-8"), &accept).unwrap_err();
    /// assert_eq!(refused.kind(), SerializerErrorKind::ContentRefused);
    /// let latin = codecs.decoder_for(Some("application/json"), Some("latin-1"), &accept).unwrap_err();
    /// assert_eq!(latin.kind(), SerializerErrorKind::Decode);
    /// # }
    /// ```
    pub fn decoder_for(
        &self,
        content_type: Option<&str>,
        content_encoding: Option<&str>,
        accept: &Accept,
    ) -> Result<Codec, SerializerError> {
        if let Some(codec) = self.usual(content_type, content_encoding, accept) {
            return Ok(codec);
        }
        let content_type = content_type
            .filter(|given| !given.trim().is_empty())
            .unwrap_or(UNMARKED);
        let codecs = self.shared.codecs.read();
        if !accept.allows(&codecs, content_type) {
            return Err(accept.refusal(content_type));
        }
        let codec =
            find_type(&codecs, content_type).ok_or_else(|| unknown_type(content_type, &codecs))?;
        if !codec.can_decode() {
            return Err(codec.cannot_decode());
        }
        match content_encoding {
            Some(given) if !encoding_fits(codec.content_encoding(), given) => {
                Err(wrong_encoding(codec, given))
            }
            _ => Ok(codec.clone()),
        }
    }

    /// The answer to nearly every message, without the lock, which costs a fifth of decoding a small one.
    #[inline]
    fn usual(
        &self,
        content_type: Option<&str>,
        content_encoding: Option<&str>,
        accept: &Accept,
    ) -> Option<Codec> {
        if !accept.is_all() || self.shared.changed.load(Ordering::Acquire) {
            return None;
        }
        match (content_type?, content_encoding) {
            #[cfg(feature = "json")]
            ("application/json", None | Some("utf-8")) => Some(Codec::JSON),
            #[cfg(feature = "msgpack")]
            ("application/x-msgpack", _) => Some(Codec::MSGPACK),
            _ => None,
        }
    }

    /// Whether every entry of an accept list means something.
    pub(crate) fn check(&self, names: &[String]) -> Result<(), SerializerError> {
        let codecs = self.shared.codecs.read();
        let unknown = names
            .iter()
            .find(|name| !codecs.iter().any(|codec| codec.name() == **name));
        unknown.map_or(Ok(()), |name| Err(unknown_name(name, &codecs)))
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Registry").field(&self.names()).finish()
    }
}

fn find_type<'a>(codecs: &'a [Codec], content_type: &str) -> Option<&'a Codec> {
    // Nearly every message has it letter by letter.
    let exact = codecs
        .iter()
        .find(|codec| codec.content_type() == content_type);
    exact.or_else(|| {
        codecs
            .iter()
            .find(|codec| same_type(codec.content_type(), content_type))
    })
}

#[cold]
fn unknown_name(name: &str, codecs: &[Codec]) -> SerializerError {
    let way_out = match builtin::missing_feature(|codec| codec.name == name) {
        Some(feature) => format!("enable the feature `{feature}`"),
        None => "choose one of these, or register it".to_owned(),
    };
    let there: Vec<&str> = codecs.iter().map(Codec::name).collect();
    let message = format!(
        "there is no serializer {}, there are {}: {way_out}",
        quoted(name),
        list(&there)
    );
    SerializerError::new(SerializerErrorKind::UnknownSerializer, message)
}

#[cold]
fn unknown_type(content_type: &str, codecs: &[Codec]) -> SerializerError {
    let way_out =
        match builtin::missing_feature(|codec| same_type(codec.content_type, content_type)) {
            Some(feature) => format!("enable the feature `{feature}`, or read the body as bytes"),
            None => "register one, or read the body as bytes".to_owned(),
        };
    let there: Vec<&str> = codecs.iter().map(Codec::content_type).collect();
    let message = format!(
        "there is no codec for content of type {}, there are {}: {way_out}",
        quoted(content_type),
        list(&there)
    );
    SerializerError::new(SerializerErrorKind::UnknownContentType, message)
}

#[cold]
fn wrong_encoding(codec: &Codec, given: &str) -> SerializerError {
    let message = format!(
        "the {} codec ({}) reads utf-8, and the body is marked as {}: have it sent as utf-8, or read it as bytes",
        codec.name(),
        codec.content_type(),
        quoted(given)
    );
    SerializerError::new(SerializerErrorKind::Decode, message)
}

fn list(there: &[&str]) -> String {
    if there.is_empty() {
        "none".to_owned()
    } else {
        there.join(", ")
    }
}
