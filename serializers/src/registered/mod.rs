//! Codecs that programs bring along: what they implement, and how they are called.

mod guard;
mod visit;

use serde::{Deserialize, Serialize};

use crate::error::BoxError;
pub use visit::Visit;

/// Writes values in a format.
///
/// Closures and functions of this shape are encoders too.
///
/// ```
/// use kombu_serializers::{BoxError, Encoder, erased_serde};
///
/// /// One value per line.
/// struct Lines;
///
/// impl Encoder for Lines {
///     fn encode(&self, value: &dyn erased_serde::Serialize, out: &mut Vec<u8>) -> Result<(), BoxError> {
/// # #[cfg(feature = "json")]
///         serde_json::to_writer(&mut *out, value)?;
///         out.push(b'\n');
///         Ok(())
///     }
/// }
/// ```
pub trait Encoder: Send + Sync + 'static {
    /// Appends `value` to `out`, which is empty when a message is encoded.
    ///
    /// # Errors
    ///
    /// Whatever keeps the value from being written. It becomes the source of an
    /// [`Encode`](crate::SerializerErrorKind::Encode) error, and what is in `out` by then is thrown
    /// away.
    fn encode(
        &self,
        value: &dyn erased_serde::Serialize,
        out: &mut Vec<u8>,
    ) -> Result<(), BoxError>;
}

impl<F> Encoder for F
where
    F: Fn(&dyn erased_serde::Serialize, &mut Vec<u8>) -> Result<(), BoxError>
        + Send
        + Sync
        + 'static,
{
    fn encode(
        &self,
        value: &dyn erased_serde::Serialize,
        out: &mut Vec<u8>,
    ) -> Result<(), BoxError> {
        self(value, out)
    }
}

/// Reads values of a format.
///
/// The decoder doesn't know the type: it sets up the deserializer of its format and hands it to
/// [`Visit`], which takes the value out. Values may borrow from `body`. Functions of this shape are
/// decoders too.
///
/// Bodies come from others. While the value is taken out, nesting is bounded to 127 sequences and
/// maps, so that neither the format's recursion nor the type's reaches the end of the stack; sizes
/// are the decoder's own concern.
///
/// ```
/// use kombu_serializers::{BoxError, Decoder, Visit};
///
/// /// One value per line.
/// struct Lines;
///
/// impl Decoder for Lines {
///     fn decode<'de>(&self, body: &'de [u8], visit: &mut Visit<'_, 'de>) -> Result<(), BoxError> {
///         let line = body.strip_suffix(b"\n").ok_or("the line has no end")?;
/// # #[cfg(feature = "json")] {
///         let mut json = serde_json::Deserializer::from_slice(line);
///         visit.value(&mut json)?;
///         json.end()?;
/// # }
///         Ok(())
///     }
/// }
/// ```
pub trait Decoder: Send + Sync + 'static {
    /// Sets up a deserializer over `body` and calls `visit` with it, once.
    ///
    /// It is also the place to refuse bytes behind the value, after the call: an error then still
    /// counts.
    ///
    /// # Errors
    ///
    /// That of the visit, or whatever is wrong with the body. It becomes the source of a
    /// [`Decode`](crate::SerializerErrorKind::Decode) error.
    fn decode<'de>(&self, body: &'de [u8], visit: &mut Visit<'_, 'de>) -> Result<(), BoxError>;
}

impl<F> Decoder for F
where
    F: for<'a, 'de> Fn(&'de [u8], &mut Visit<'a, 'de>) -> Result<(), BoxError>
        + Send
        + Sync
        + 'static,
{
    fn decode<'de>(&self, body: &'de [u8], visit: &mut Visit<'_, 'de>) -> Result<(), BoxError> {
        self(body, visit)
    }
}

/// What stands behind a registered [`Codec`](crate::Codec).
pub(crate) struct Registered {
    pub(crate) name: String,
    pub(crate) content_type: String,
    pub(crate) content_encoding: String,
    pub(crate) encoder: Option<Box<dyn Encoder>>,
    pub(crate) decoder: Option<Box<dyn Decoder>>,
}

pub(crate) fn encode<T: Serialize + ?Sized>(
    encoder: &dyn Encoder,
    value: &T,
    out: &mut Vec<u8>,
) -> Result<(), BoxError> {
    // Only a sized type can become an object, and a reference is one.
    encoder.encode(&value, out)
}

// Inlined into the caller, it would slow down the formats beside it.
#[inline(never)]
pub(crate) fn decode<'de, T: Deserialize<'de>>(
    decoder: &dyn Decoder,
    body: &'de [u8],
) -> Result<T, BoxError> {
    let watch = guard::Watch::default();
    let mut value = None;
    let mut take = |deserializer: &mut dyn erased_serde::Deserializer<'de>| {
        value = Some(
            T::deserialize(guard::Guarded::new(deserializer, &watch))
                .map_err(|error| watch.pass(&error))?,
        );
        Ok(())
    };
    let mut visit = Visit::new(&mut take);
    let decoded = decoder.decode(body, &mut visit);
    let visits = visit.count();
    decoded?;
    match (visits, value, watch.into_failure()) {
        (1, Some(value), _) => Ok(value),
        // A decoder may have swallowed the error of the visit.
        (_, _, Some(failure)) => Err(failure.into()),
        (0, ..) => Err("the decoder answered Ok without having visited a value".into()),
        _ => Err("the decoder visited more than one value".into()),
    }
}
