//! What a receiver is willing to decode.

use std::sync::Arc;

use crate::codec::Codec;
use crate::content::{quoted, same_type};
use crate::error::{SerializerError, SerializerErrorKind};
use crate::registry::Registry;

/// A receiver's accept list, by names of codecs, content types, or both.
///
/// What isn't on it is refused before a byte is decoded. The default accepts whatever is built in
/// or registered.
///
/// ```
/// # #[cfg(feature = "json")] {
/// use kombu_serializers::{Accept, Registry};
///
/// let codecs = Registry::default();
/// let accept = Accept::only(["json", "application/x-msgpack"]);
/// accept.check(&codecs)?;
/// assert!(codecs.decoder_for(Some("application/json"), None, &accept).is_ok());
/// assert!(codecs.decoder_for(Some("text/plain"), None, &accept).is_err());
/// # }
/// # Ok::<(), kombu_serializers::SerializerError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Accept(Option<Arc<[String]>>);

impl Accept {
    /// Every codec that is built in or registered and can decode. This is the default.
    ///
    /// ```
    /// # #[cfg(feature = "yaml")] {
    /// # use kombu_serializers::{Accept, Registry};
    /// let codecs = Registry::default();
    /// assert!(codecs.decoder_for(Some("application/x-yaml"), None, &Accept::all()).is_ok());
    /// # }
    /// ```
    #[must_use]
    pub fn all() -> Self {
        Self(None)
    }

    /// Only these: an entry with a `/` is a content type, any other the name of a codec.
    ///
    /// Nothing is accepted beside them, raw bodies included (Python kombu would let those pass). An
    /// empty list accepts nothing. A name means whatever codec has it when a message arrives.
    ///
    /// ```
    /// # #[cfg(feature = "yaml")] {
    /// # use kombu_serializers::{Accept, Registry};
    /// let (codecs, accept) = (Registry::default(), Accept::only(["json"]));
    /// assert!(codecs.decoder_for(Some("application/x-yaml"), None, &accept).is_err());
    /// # }
    /// ```
    #[must_use]
    pub fn only<I>(entries: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        Self(Some(entries.into_iter().map(Into::into).collect()))
    }

    /// Whether each name on the list is one of a codec. Content types may be unknown: their codec
    /// can come later.
    ///
    /// # Errors
    ///
    /// [`UnknownSerializer`](SerializerErrorKind::UnknownSerializer) for the first name that isn't.
    ///
    /// ```
    /// # use kombu_serializers::{Accept, Registry};
    /// let error = Accept::only(["jsno"]).check(&Registry::default()).unwrap_err();
    /// assert!(error.to_string().contains("\"jsno\""));
    /// ```
    pub fn check(&self, codecs: &Registry) -> Result<(), SerializerError> {
        let names: Vec<String> = self
            .entries()
            .iter()
            .filter(|entry| !entry.contains('/'))
            .cloned()
            .collect();
        codecs.check(&names)
    }

    pub(crate) fn is_all(&self) -> bool {
        self.0.is_none()
    }

    fn entries(&self) -> &[String] {
        self.0.as_deref().unwrap_or_default()
    }

    pub(crate) fn allows(&self, codecs: &[Codec], content_type: &str) -> bool {
        self.0.is_none()
            || self.entries().iter().any(|entry| {
                if entry.contains('/') {
                    same_type(entry, content_type)
                } else {
                    codecs.iter().any(|codec| {
                        codec.name() == entry && same_type(codec.content_type(), content_type)
                    })
                }
            })
    }

    #[cold]
    pub(crate) fn refusal(&self, content_type: &str) -> SerializerError {
        let accepted = match self.entries() {
            [] => "nothing".to_owned(),
            entries => format!("only {}", entries.join(", ")),
        };
        let message = format!(
            "content of type {} is refused, {accepted} is accepted: put it on the accept list, or read the body as bytes",
            quoted(content_type)
        );
        SerializerError::new(SerializerErrorKind::ContentRefused, message)
    }
}
