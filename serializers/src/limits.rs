//! What no body may exceed, whatever its format.

/// Sequences and maps inside one another. It is what `serde_json` allows; other formats are held to
/// the same, so that a value which fits one of them fits the others. (YAML takes less.)
pub(crate) const NESTING: usize = 127;

/// Room made for a collection before its first item is read, in items: what a body says about its length is
/// only a claim.
pub(crate) const ROOM: usize = 256;
