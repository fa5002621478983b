use std::collections::HashSet;
use std::mem;
use std::sync::Arc;

use rpds::HashTrieMapSync;

use super::group::Group;
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
    words: HashTrieMapSync<Name, Arc<Node>>,
    star: Option<Arc<Node>>,
    hash: Option<Arc<Node>>,
    here: Group,
}

impl Patterns {
    pub(super) fn insert(&mut self, record: Arc<BindingRecord>) {
        let pattern = record.routing_key.clone();
        self.root.insert(words(&pattern), record);
    }

    pub(super) fn remove(&mut self, record: &BindingRecord) {
        self.root.remove(words(&record.routing_key), record);
    }

    #[cfg(test)]
    pub(super) fn is_unused(&self) -> bool {
        self.root.is_unused()
    }

    pub(super) fn matching<'a>(&'a self, routing_key: &str, found: &mut Vec<&'a Destination>) {
        let mut walk = Walk::default();
        walk.enter(&self.root);
        for word in words(routing_key) {
            walk.step(word);
        }
        for node in walk.nodes.iter().chain(&walk.hashes) {
            found.extend(node.here.iter().map(|record| &record.destination));
        }
    }
}

/// The nodes that the words so far lead to.
#[derive(Default)]
struct Walk<'a> {
    /// Nodes of words and stars. Each is reached from its parent only, and so once.
    nodes: Vec<&'a Node>,
    /// Nodes of `#`. They take any further words, so they stay.
    hashes: Vec<&'a Node>,
    known_hashes: HashSet<*const Node>,
}

impl<'a> Walk<'a> {
    fn step(&mut self, word: &str) {
        let known = self.hashes.len();
        let nodes = mem::take(&mut self.nodes);
        for node in nodes {
            self.follow(node, word);
        }
        // Those that are reached in this step haven't taken its word.
        for index in 0..known {
            self.follow(self.hashes[index], word);
        }
    }

    fn follow(&mut self, node: &'a Node, word: &str) {
        if let Some(child) = node.words.get(word) {
            self.enter(child);
        }
        if let Some(child) = &node.star {
            self.enter(child);
        }
    }

    /// Adds a node, and what `#` reaches from there without a word.
    fn enter(&mut self, node: &'a Node) {
        self.nodes.push(node);
        let mut next = &node.hash;
        while let Some(hash) = next
            && self.known_hashes.insert(Arc::as_ptr(hash))
        {
            self.hashes.push(hash);
            next = &hash.hash;
        }
    }
}

impl Node {
    fn insert<'a>(&mut self, mut path: impl Iterator<Item = &'a str>, record: Arc<BindingRecord>) {
        match path.next() {
            None => self.here.insert(record),
            Some("*") => Arc::make_mut(self.star.get_or_insert_default()).insert(path, record),
            Some("#") => Arc::make_mut(self.hash.get_or_insert_default()).insert(path, record),
            Some(word) => match self.words.get_mut(word) {
                Some(child) => Arc::make_mut(child).insert(path, record),
                None => {
                    let mut child = Node::default();
                    child.insert(path, record);
                    self.words.insert_mut(word.into(), Arc::new(child));
                }
            },
        }
    }

    fn remove<'a>(&mut self, mut path: impl Iterator<Item = &'a str>, record: &BindingRecord) {
        let slot = match path.next() {
            None => return self.here.remove(record),
            Some("*") => &mut self.star,
            Some("#") => &mut self.hash,
            Some(word) => {
                if let Some(child) = self.words.get_mut(word) {
                    let child = Arc::make_mut(child);
                    child.remove(path, record);
                    if child.is_unused() {
                        self.words.remove_mut(word);
                    }
                }
                return;
            }
        };
        if let Some(child) = slot {
            let child = Arc::make_mut(child);
            child.remove(path, record);
            if child.is_unused() {
                *slot = None;
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
    use crate::virt::matching::scan;

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
                    scan::topic(pattern, key),
                    "pattern {pattern:?}, key {key:?}"
                );
            }
        }
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
