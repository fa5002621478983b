use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use crate::error::{Error, ErrorKind, Result};

/// The name of an exchange, a queue, a header or a content type; a routing key, too.
///
/// Up to 23 bytes are stored inline, longer ones behind a reference count, so a clone never
/// allocates. Every setter that takes a name accepts `&str`, `String` and `&Name`.
///
/// ```
/// use kombu_core::Name;
///
/// let key = Name::from("video.new");
/// assert_eq!(key, "video.new");
/// ```
#[allow(clippy::derived_hash_with_manual_eq)] // equal names still have equal hashes
#[derive(Clone, Default, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Name(SmolStr);

impl Name {
    /// The longest name that AMQP 0-9-1 can carry (its `shortstr`), in bytes.
    pub const MAX_LEN: usize = 255;

    /// The empty name: the default exchange, a queue that the broker names, no routing key.
    pub const EMPTY: Name = Name(SmolStr::new_static(""));

    /// A name from text that lives as long as the program; nothing is copied.
    pub const fn from_static(text: &'static str) -> Self {
        Name(SmolStr::new_static(text))
    }

    /// A name that nobody else has, with this in front.
    pub(crate) fn random(prefix: &str) -> Self {
        let random = (fastrand::u64(..), fastrand::u64(..));
        format!("{prefix}{:016x}{:016x}", random.0, random.1).into()
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Fails with [`ErrorKind::InvalidName`] if the name is longer than [`Name::MAX_LEN`].
    ///
    /// `what` says in the error what kind of name it is, for example `"queue name"`.
    #[inline]
    pub fn check_length(&self, what: &'static str) -> Result<()> {
        if self.0.len() <= Self::MAX_LEN {
            return Ok(());
        }
        Err(self.too_long(what))
    }

    #[cold]
    fn too_long(&self, what: &'static str) -> Error {
        let start: String = self.0.chars().take(32).collect();
        Error::new(
            ErrorKind::InvalidName,
            format!(
                "the {what} `{start}…` has {} bytes; at most {} fit into AMQP's short string",
                self.0.len(),
                Self::MAX_LEN
            ),
        )
    }
}

impl Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl From<&str> for Name {
    fn from(text: &str) -> Self {
        Name(SmolStr::new(text))
    }
}

impl From<String> for Name {
    fn from(text: String) -> Self {
        Name(text.into())
    }
}

impl From<&String> for Name {
    fn from(text: &String) -> Self {
        Name(text.as_str().into())
    }
}

impl From<&Name> for Name {
    fn from(name: &Name) -> Self {
        name.clone()
    }
}

// By hand for the empty name, which the default exchange makes the most common one: comparing nothing with
// glibc's vectorised `memcmp` reads, under an empty mask, from the dangling address of an empty `str`, and
// that costs 100 ns where the page isn't mapped.
impl PartialEq for Name {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        let (this, other) = (self.as_bytes(), other.as_bytes());
        this.len() == other.len() && (this.is_empty() || this == other)
    }
}

impl PartialEq<str> for Name {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for Name {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_255_bytes_is_accepted_and_one_of_256_is_refused() {
        assert!(
            Name::from("q".repeat(255))
                .check_length("queue name")
                .is_ok()
        );
        let error = Name::from("q".repeat(256))
            .check_length("queue name")
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidName);
        assert!(error.to_string().contains("256 bytes"), "{error}");
    }
}
