//! The rules in their plainest form, one binding at a time, to hold the indexes against.

use super::headers;
use crate::declare::ExchangeKind;
use crate::message::Content;
use crate::virt::table::BindingRecord;

pub(in crate::virt) fn matches(
    kind: &ExchangeKind,
    record: &BindingRecord,
    content: &Content,
) -> bool {
    let key = content.routing_key();
    match kind {
        ExchangeKind::Fanout => true,
        ExchangeKind::Topic => topic(&words(&record.routing_key), &words(key)),
        ExchangeKind::Headers => headers::matches(&record.arguments, content.headers()),
        _ => record.routing_key == *key,
    }
}

pub(super) fn topic(pattern: &[&str], key: &[&str]) -> bool {
    match (pattern.split_first(), key.split_first()) {
        (None, None) => true,
        (Some((&"#", rest)), _) => (0..=key.len()).any(|taken| topic(rest, &key[taken..])),
        (Some((&"*", rest)), Some((_, key))) => topic(rest, key),
        (Some((word, rest)), Some((other, key))) => word == other && topic(rest, key),
        _ => false,
    }
}

fn words(key: &str) -> Vec<&str> {
    if key.is_empty() {
        return Vec::new();
    }
    key.split('.').collect()
}
