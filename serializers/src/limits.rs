//! What no body may exceed, whatever its format.

/// Sequences and maps inside one another. It is what `serde_json` allows; other formats are held to
/// the same, so that a value which fits one of them fits the others. (YAML takes less.)
pub(crate) const NESTING: usize = 127;
