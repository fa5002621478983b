//! The one error of this crate.

use std::error::Error;
use std::fmt::{self, Write};

/// Characters of an error that are kept.
const LONGEST_ERROR: usize = 400;
/// Stands where the rest was.
const CUT: char = '…';

/// Any error, boxed: what an [`Encoder`](crate::Encoder), a [`Decoder`](crate::Decoder) or a
/// [`ByteStage`](crate::ByteStage) may return.
pub type BoxError = Box<dyn Error + Send + Sync + 'static>;

/// Why a codec or a stage could not be chosen, built or used.
///
/// It is one pointer wide. The text names the codec, the content type and a way out; what the
/// format itself had to say is the [`source`](Error::source).
///
/// ```
/// use kombu_serializers::{Registry, SerializerErrorKind};
///
/// let error = Registry::default().by_name("jsno").unwrap_err();
/// assert_eq!(error.kind(), SerializerErrorKind::UnknownSerializer);
/// assert!(error.to_string().contains("jsno"));
/// ```
pub struct SerializerError(Box<Inner>);

struct Inner {
    kind: SerializerErrorKind,
    message: String,
    source: Option<BoxError>,
}

/// What went wrong, for a program to decide on. See [`SerializerError::kind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SerializerErrorKind {
    /// No codec has this name.
    UnknownSerializer,
    /// No codec has this content type.
    UnknownContentType,
    /// No byte stage has this name or content type.
    UnknownStage,
    /// There may be a codec, but the accept list leaves this content type out.
    ContentRefused,
    /// The value can't be written in this format, or its body can't be encoded by a stage.
    Encode,
    /// The body isn't what its content type or its stage says, is beyond a limit, or doesn't fit the type
    /// asked for.
    Decode,
    /// A stage makes more of the body than the receiver allows.
    TooLarge,
    /// The codec was registered without an encoder.
    CannotEncode,
    /// The codec was registered without a decoder.
    CannotDecode,
    /// A codec or a stage that is being built makes no sense.
    Config,
}

impl SerializerError {
    /// The kind of error.
    ///
    /// ```
    /// # use kombu_serializers::{Codec, SerializerErrorKind};
    /// let error = Codec::builder("csv", "text/csv", "utf-8").build().unwrap_err();
    /// assert_eq!(error.kind(), SerializerErrorKind::Config);
    /// ```
    #[must_use]
    pub fn kind(&self) -> SerializerErrorKind {
        self.0.kind
    }

    #[cold]
    pub(crate) fn new(kind: SerializerErrorKind, message: String) -> Self {
        Self(Box::new(Inner {
            kind,
            message,
            source: None,
        }))
    }

    #[cold]
    pub(crate) fn because(mut self, source: impl Into<BoxError>) -> Self {
        let source = source.into();
        // Some formats quote the value that didn't fit, which may be the whole body.
        let kept = beginning(&source);
        self.0.source = Some(match kept.ends_with(CUT) {
            true => kept.into(),
            false => source,
        });
        self
    }
}

/// As much of an error as is worth keeping; the rest is not even formatted.
pub(crate) fn beginning(error: &impl fmt::Display) -> String {
    struct Cut {
        text: String,
        left: usize,
    }
    impl Write for Cut {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            for character in text.chars() {
                self.left = self.left.checked_sub(1).ok_or(fmt::Error)?;
                self.text.push(character);
            }
            Ok(())
        }
    }
    let mut cut = Cut {
        text: String::new(),
        left: LONGEST_ERROR,
    };
    if write!(cut, "{error}").is_err() {
        cut.text.push(CUT);
    }
    cut.text
}

impl fmt::Display for SerializerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for SerializerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SerializerError")
            .field("kind", &self.0.kind)
            .field("message", &self.0.message)
            .field("source", &self.0.source)
            .finish()
    }
}

impl Error for SerializerError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0
            .source
            .as_deref()
            .map(|source| source as &(dyn Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_pointer_wide_and_can_cross_threads() {
        fn crosses<T: Send + Sync + 'static>() {}
        crosses::<SerializerError>();
        assert_eq!(size_of::<SerializerError>(), size_of::<usize>());
        assert_eq!(size_of::<Result<(), SerializerError>>(), size_of::<usize>());
    }

    #[test]
    fn the_cause_is_the_source_and_is_not_repeated_in_the_text() {
        let error =
            SerializerError::new(SerializerErrorKind::Encode, "no".into()).because("the cause");
        assert_eq!(error.to_string(), "no");
        assert_eq!(error.source().unwrap().to_string(), "the cause");
        assert!(format!("{error:?}").contains("the cause"));
    }

    #[test]
    fn a_long_cause_is_cut() {
        let error = SerializerError::new(SerializerErrorKind::Decode, "no".into())
            .because("é".repeat(1_000_000));
        assert_eq!(
            error.source().unwrap().to_string(),
            format!("{}…", "é".repeat(400))
        );
    }
}
