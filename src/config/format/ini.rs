//! Sections of keys, as canopsis has them. Crates for such files keep no lines, which errors have to tell.

use crate::config::document::{Key, Loose, Node, Position, Problem, Value};

/// Sections, each a map of texts. What stands before the first one belongs to `""`.
pub(super) fn parse(text: &str) -> Result<Node, Problem> {
    let mut sections: Vec<(Key, Node)> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let at = Position::line(index + 1);
        let line = without_remark(line);
        if line.is_empty() {
            continue;
        }
        if let Some(name) = line.strip_prefix('[') {
            let Some(name) = name.strip_suffix(']') else {
                return Err(Problem::new("a section is written as `[NAME]`").at(at));
            };
            open(&mut sections, name.trim(), at);
            continue;
        }
        let Some((key, value)) = line.split_once('=') else {
            return Err(Problem::new("a line is `key=value`, `[SECTION]` or `; a remark`").at(at));
        };
        let key = Key {
            at,
            text: key.trim().to_owned(),
        };
        let node = Node::new(at, value_of(value));
        let entries = match sections.last_mut() {
            Some((_, section)) => section,
            None => open(&mut sections, "", at),
        };
        let Value::Map(entries) = &mut entries.value else {
            continue;
        };
        if entries.iter().any(|(other, _)| other.text == key.text) {
            return Err(Problem::new(format!("`{}` is there twice", key.text)).at(at));
        }
        entries.push((key, node));
    }
    Ok(Node::new(Position::line(1), Value::Map(sections)))
}

/// The section of this name: a file may go on with one that it had before.
fn open<'a>(sections: &'a mut Vec<(Key, Node)>, name: &str, at: Position) -> &'a mut Node {
    let known = sections.iter().position(|(key, _)| key.text == name);
    let section = match known {
        Some(index) => sections.remove(index),
        None => {
            let text = name.to_owned();
            (Key { at, text }, Node::new(at, Value::Map(Vec::new())))
        }
    };
    sections.push(section);
    let last = sections.len() - 1;
    &mut sections[last].1
}

/// A remark may stand alone or, as in canopsis' files, behind something else.
fn without_remark(line: &str) -> &str {
    let line = line.trim();
    if line.starts_with([';', '#']) {
        return "";
    }
    let remark = line.find(" ;").or_else(|| line.find("\t;"));
    remark.map_or(line, |at| line[..at].trim_end())
}

/// Everything is text, whatever it is read as.
fn value_of(written: &str) -> Value {
    match written.trim() {
        "" => Value::Null,
        text => Value::Loose(Loose {
            text: text.to_owned(),
            written: None,
            plain: None,
        }),
    }
}
