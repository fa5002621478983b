use std::collections::HashMap;
use std::sync::Arc;

use crate::driver::Destination;
use crate::name::Name;
use crate::virt::table::BindingRecord;

/// Topic patterns as a tree of words, walked with a set of current nodes.
///
/// The set holds each node once, so a hostile pattern such as `#.a.#.a.#.a` costs words times nodes and
/// not a power of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Patterns {
    root: Node,
}

#[derive(Clone, Debug, Default)]
struct Node {
    words: HashMap<Name, Node>,
    star: Option<Box<Node>>,
    hash: Option<Box<Node>>,
    /// This node stands for `#` and takes any further words.
    repeats: bool,
    here: Vec<Arc<BindingRecord>>,
}

impl Patterns {
    pub(super) fn insert(&mut self, record: Arc<BindingRecord>) {
        let mut node = &mut self.root;
        for word in words(&record.routing_key) {
            node = match word {
                "*" => node.star.get_or_insert_default(),
                "#" => {
                    let next = node.hash.get_or_insert_default();
                    next.repeats = true;
                    next
                }
                word => node.words.entry(word.into()).or_default(),
            };
        }
        node.here.push(record);
    }

    pub(super) fn remove(&mut self, record: &BindingRecord) {
        let path: Vec<&str> = words(&record.routing_key).collect();
        self.root.remove(&path, record);
    }

    pub(super) fn matching<'a>(&'a self, routing_key: &str, found: &mut Vec<&'a Destination>) {
        let mut current = Vec::new();
        self.root.enter(&mut current);
        for word in words(routing_key) {
            let mut next = Vec::new();
            for node in current {
                if let Some(child) = node.words.get(word) {
                    child.enter(&mut next);
                }
                if let Some(child) = &node.star {
                    child.enter(&mut next);
                }
                if node.repeats {
                    node.enter(&mut next);
                }
            }
            current = next;
        }
        for node in current {
            found.extend(node.here.iter().map(|record| &record.destination));
        }
    }
}

impl Node {
    /// Adds this node, and what `#` reaches from here without a word.
    fn enter<'a>(&'a self, nodes: &mut Vec<&'a Node>) {
        if nodes.iter().any(|node| std::ptr::eq(*node, self)) {
            return;
        }
        nodes.push(self);
        if let Some(hash) = &self.hash {
            hash.enter(nodes);
        }
    }

    fn remove(&mut self, path: &[&str], record: &BindingRecord) {
        let Some((word, rest)) = path.split_first() else {
            self.here.retain(|other| **other != *record);
            return;
        };
        let prune = |slot: &mut Option<Box<Node>>| {
            if let Some(child) = slot {
                child.remove(rest, record);
                if child.is_unused() {
                    *slot = None;
                }
            }
        };
        match *word {
            "*" => prune(&mut self.star),
            "#" => prune(&mut self.hash),
            word => {
                if let Some(child) = self.words.get_mut(word) {
                    child.remove(rest, record);
                    if child.is_unused() {
                        self.words.remove(word);
                    }
                }
            }
        }
    }

    fn is_unused(&self) -> bool {
        self.here.is_empty() && self.words.is_empty() && self.star.is_none() && self.hash.is_none()
    }
}

/// The empty key has no words; `.` has two empty ones. RabbitMQ counts them like this.
fn words(key: &str) -> impl Iterator<Item = &str> {
    key.split('.')
        .take(if key.is_empty() { 0 } else { usize::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::FieldTable;

    fn record(pattern: &str) -> BindingRecord {
        BindingRecord {
            source: "source".into(),
            destination: Destination::Queue("queue".into()),
            routing_key: pattern.into(),
            arguments: FieldTable::default(),
        }
    }

    fn matches(pattern: &str, key: &str) -> bool {
        let mut patterns = Patterns::default();
        patterns.insert(Arc::new(record(pattern)));
        let mut found = Vec::new();
        patterns.matching(key, &mut found);
        !found.is_empty()
    }

    /// The plainest form of the rule, to hold the tree against.
    fn matches_by_definition(pattern: &[&str], key: &[&str]) -> bool {
        match (pattern.split_first(), key.split_first()) {
            (None, None) => true,
            (Some((&"#", rest)), _) => {
                (0..=key.len()).any(|taken| matches_by_definition(rest, &key[taken..]))
            }
            (Some((&"*", rest)), Some((_, key))) => matches_by_definition(rest, key),
            (Some((word, rest)), Some((other, key))) => {
                word == other && matches_by_definition(rest, key)
            }
            _ => false,
        }
    }

    #[test]
    fn the_tree_agrees_with_the_definition_on_all_short_patterns_and_keys() {
        let mut patterns: Vec<Vec<&str>> = vec![vec![]];
        let mut keys: Vec<Vec<&str>> = vec![vec![]];
        for length in 1..=4 {
            for (list, alphabet) in [
                (&mut patterns, ["#", "*", "a", "b"].as_slice()),
                (&mut keys, ["a", "b", "c"].as_slice()),
            ] {
                let longer: Vec<Vec<&str>> = list
                    .iter()
                    .filter(|words| words.len() == length - 1)
                    .flat_map(|words| {
                        alphabet.iter().map(move |word| {
                            let mut words = words.clone();
                            words.push(*word);
                            words
                        })
                    })
                    .collect();
                list.extend(longer);
            }
        }
        for pattern in &patterns {
            for key in &keys {
                assert_eq!(
                    matches(&pattern.join("."), &key.join(".")),
                    matches_by_definition(pattern, key),
                    "pattern {pattern:?}, key {key:?}"
                );
            }
        }
    }

    #[test]
    fn removing_the_last_pattern_leaves_an_empty_tree() {
        let mut patterns = Patterns::default();
        for pattern in ["a.*.#", "a.b", ""] {
            patterns.insert(Arc::new(record(pattern)));
        }
        for pattern in ["a.*.#", "a.b", ""] {
            patterns.remove(&record(pattern));
        }
        assert!(patterns.root.is_unused());
    }

    #[test]
    fn a_pattern_of_many_hashes_is_matched_without_backtracking() {
        let pattern = ["#.a"; 40].join(".");
        let key = ["a"; 60].join(".") + ".b";
        let begin = std::time::Instant::now();
        assert!(!matches(&pattern, &key));
        assert!(begin.elapsed() < std::time::Duration::from_millis(200));
    }
}
