//! Keys that are sequences or maps.
//!
//! The deserializer copies such a key before it reads it, and a key within a key once per level:
//! 400 kB can become 1.4 GB that way. So one level is allowed, which is what a tuple as a key in
//! Python takes.

use std::collections::HashSet;

use serde_saphyr::granit_parser::{Event, Parser};

use crate::BoxError;

/// Refuses collections as keys inside of keys, and aliases of collections in or as keys.
pub(super) fn check(text: &str) -> Result<(), BoxError> {
    if has_collections_as_keys(text.as_bytes()) && are_nested(text) {
        return Err("a key holds another key that is a sequence, a map or an alias of one".into());
    }
    Ok(())
}

/// A quick look that errs on the side of yes: whether something in the text could be a `? ` of an
/// explicit key, the end of a collection before a `:`, or an alias. Nearly every real message ends
/// here.
fn has_collections_as_keys(text: &[u8]) -> bool {
    let is_flow = |byte: u8| b"[]{},".contains(&byte);
    text.iter().enumerate().any(|(at, byte)| match byte {
        b'?' => {
            let begins = at
                .checked_sub(1)
                .is_none_or(|before| !text[before].is_ascii_alphanumeric());
            begins
                && text
                    .get(at + 1)
                    .is_none_or(|&next| next.is_ascii_whitespace() || is_flow(next))
        }
        b']' | b'}' => {
            text[at + 1..]
                .iter()
                .find(|next| !next.is_ascii_whitespace())
                == Some(&b':')
        }
        b'*' => {
            let begins = at
                .checked_sub(1)
                .is_none_or(|before| !text[before].is_ascii_alphanumeric());
            begins
                && text
                    .get(at + 1)
                    .is_some_and(|next| !next.is_ascii_whitespace())
        }
        _ => false,
    })
}

/// A collection that is open.
struct Open {
    /// In a map, whether the next node is a key.
    expects_key: Option<bool>,
    is_key: bool,
}

fn are_nested(text: &str) -> bool {
    let mut open: Vec<Open> = Vec::new();
    let mut open_keys = 0_usize;
    let mut anchored_collections = HashSet::new();
    for event in Parser::new_from_str(text) {
        // What is wrong with the text, the deserializer will tell.
        let Ok((event, _)) = event else { return false };
        let is_key = open
            .last()
            .is_some_and(|parent| parent.expects_key == Some(true));
        match event {
            Event::SequenceStart(_, anchor, _) | Event::MappingStart(_, anchor, _) => {
                if is_key && open_keys > 0 {
                    return true;
                }
                open_keys += usize::from(is_key);
                anchored_collections.extend((anchor > 0).then_some(anchor));
                let is_map = matches!(event, Event::MappingStart(..));
                open.push(Open {
                    expects_key: is_map.then_some(true),
                    is_key,
                });
                continue;
            }
            Event::Alias(anchor)
                if (is_key || open_keys > 0) && anchored_collections.contains(&anchor) =>
            {
                return true;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let ended = open.pop();
                open_keys -= usize::from(ended.is_some_and(|ended| ended.is_key));
            }
            Event::Scalar(..) | Event::Alias(_) => {}
            _ => continue,
        }
        if let Some(Open {
            expects_key: Some(expects_key),
            ..
        }) = open.last_mut()
        {
            *expects_key = !*expects_key;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_or_a_map_may_be_a_key() {
        for fine in [
            "? [a, b]\n: 1\n? [c]\n: 2\n",
            "{[a]: 1, {b: [c]}: 2}",
            "? a\n: b\n",
            "{? {b: {c: d}} : 2}",
        ] {
            assert!(has_collections_as_keys(fine.as_bytes()), "{fine}");
            assert!(check(fine).is_ok(), "{fine}");
        }
    }

    #[test]
    fn a_key_within_a_key_may_not() {
        for nested in [
            "? ? ? a",
            "? [{[b]: c}]",
            "{{{a: b}: c}: d}",
            "? - a\n  - ? [b]\n",
            "{?\n{?\n[a]\n: b}: c}",
            "? {a: {[b]: c}}",
            "? &x\n  ? [a]\n  : b\n: c",
            "[{[{[x]: 1}]: 1}]",
        ] {
            assert!(check(nested).is_err(), "{nested}");
        }
    }

    #[test]
    fn an_alias_may_be_a_key_if_it_is_a_scalars() {
        assert!(check("a: &x b\n*x : c\n").is_ok());
        assert!(check("a: &x [b]\nb: [*x, *x]\n").is_ok());
        assert!(check("a: &x [b]\n*x : c\n").is_err());
        assert!(check("a: &x [b]\n? [*x]\n: c\n").is_err());
    }

    #[test]
    fn ordinary_text_is_not_parsed_twice() {
        for text in [
            "a: what? yes\n",
            "a: [b, c]\nd: {e: f}\n",
            "- a * b\n- 2*3\n",
            "url: http://x/?a=b\n",
        ] {
            assert!(!has_collections_as_keys(text.as_bytes()), "{text}");
        }
    }
}
