//! YAML, by `serde-saphyr`.

mod ending;
mod keys;

use serde::{Deserialize, Serialize};
use serde_saphyr::options::{DuplicateKeyPolicy, NonFiniteFloatPolicy};
use serde_saphyr::{MergeKeyPolicy, Options, SerializeError};

use crate::BoxError;

/// Sequences and maps inside one another. It is less than elsewhere: the parser takes up to 44 KiB
/// of stack for a level when it isn't optimised, and threads have 2 MiB.
const NESTING: usize = 32;

pub(crate) fn encode<T: Serialize + ?Sized>(
    value: &T,
    out: &mut Vec<u8>,
) -> Result<(), SerializeError> {
    serde_saphyr::to_io_writer(out, &value)
}

// Inlined into the caller, it would slow down the formats beside it.
#[inline(never)]
pub(crate) fn decode<'de, T: Deserialize<'de>>(body: &'de [u8]) -> Result<T, BoxError> {
    let text = std::str::from_utf8(body)?;
    keys::check(text)?;
    let value = serde_saphyr::from_str_with_options(text, limits(text.len()))?;
    ending::check(text)?;
    Ok(value)
}

/// Whatever the body spells out is bounded by its length. What aliases and tags may make out of it
/// is bounded here, in proportion to the length too.
fn limits(length: usize) -> Options {
    // Python writes an object that is in a list a thousand times as one anchor with as many
    // aliases.
    let expanded = length.saturating_mul(4).saturating_add(16 * 1024);
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: NESTING,
            flow_nesting_limit: NESTING,
            max_documents: 1,
            max_events: usize::MAX,
            max_nodes: usize::MAX,
            max_aliases: usize::MAX,
            max_anchors: usize::MAX,
            enforce_alias_anchor_ratio: false,
            max_recorded_anchor_events: expanded,
            max_recorded_anchor_bytes: expanded,
            max_total_scalar_bytes: expanded,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: expanded,
            max_replay_stack_depth: NESTING,
        },
        duplicate_keys: DuplicateKeyPolicy::Error,
        // YAML 1.2 has dropped them, no program writes them, and nested ones are copied once per
        // level.
        merge_keys: MergeKeyPolicy::Error,
        // A key `y` is a coordinate more often than it is `true`.
        strict_booleans: true,
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
        emit_comments: false,
        // An error ends up in logs, where the body has no business.
        with_snippet: false,
    }
}
