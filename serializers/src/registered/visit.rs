//! The way from a decoder that knows the format to a value whose type it doesn't know.

use std::fmt;

use serde::Deserializer;

type Take<'a, 'de> =
    dyn FnMut(&mut dyn erased_serde::Deserializer<'de>) -> Result<(), erased_serde::Error> + 'a;

/// Takes a value out of a deserializer. A [`Decoder`](crate::Decoder) is given one, and calls it
/// once.
///
/// ```
/// use kombu_serializers::{BoxError, Codec, Visit};
/// use serde::de::value::BorrowedBytesDeserializer;
///
/// fn reversed_head<'de>(body: &'de [u8], visit: &mut Visit<'_, 'de>) -> Result<(), BoxError> {
///     let body = body.strip_prefix(b"head").ok_or("no head")?;
///     visit.value(BorrowedBytesDeserializer::<serde::de::value::Error>::new(body))?;
///     Ok(())
/// }
///
/// let codec = Codec::builder("headed", "application/x-headed", "binary").decoder(reversed_head).build()?;
/// assert_eq!(codec.decode::<&[u8]>(b"headbody")?, b"body");
/// # Ok::<(), kombu_serializers::SerializerError>(())
/// ```
pub struct Visit<'a, 'de> {
    take: &'a mut Take<'a, 'de>,
    count: usize,
}

impl<'a, 'de> Visit<'a, 'de> {
    pub(super) fn new(take: &'a mut Take<'a, 'de>) -> Self {
        Self { take, count: 0 }
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Takes the value out of a deserializer: usually `&mut` the one that the format's crate gives.
    ///
    /// # Errors
    ///
    /// The body is malformed, too deeply nested, or no value of the type that was asked for; or
    /// this is not the first call.
    pub fn value<D: Deserializer<'de>>(
        &mut self,
        deserializer: D,
    ) -> Result<(), erased_serde::Error> {
        self.erased(&mut <dyn erased_serde::Deserializer<'_>>::erase(
            deserializer,
        ))
    }

    /// The same for a deserializer that is an object already.
    ///
    /// # Errors
    ///
    /// As for [`value`](Self::value).
    pub fn erased(
        &mut self,
        deserializer: &mut dyn erased_serde::Deserializer<'de>,
    ) -> Result<(), erased_serde::Error> {
        self.count += 1;
        if self.count > 1 {
            return Err(serde::de::Error::custom(
                "a body holds one value, and this is the second visit",
            ));
        }
        (self.take)(deserializer)
    }
}

impl fmt::Debug for Visit<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Visit")
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}
