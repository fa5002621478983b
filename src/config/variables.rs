//! `${NAME}` and `${NAME:-default}` in values, put in after parsing: what a variable says is never read as YAML.

use super::document::{Loose, Node, Problem, Value};
use super::environment::Environment;

const WRITTEN: &str =
    "a variable is written `${NAME}` or `${NAME:-default}`, and `$${` is `${` itself";

/// Puts in what the environment says, in every text below this node.
pub(super) fn substitute(node: &mut Node, environment: &Environment<'_>) -> Result<(), Problem> {
    match &mut node.value {
        Value::Text(text) if text.contains("${") => {
            let put_in = put_in(text, environment).map_err(|problem| problem.at(node.at))?;
            // It is read as what is wanted in its place: a number, for one.
            node.value = Value::Loose(Loose {
                text: put_in,
                written: Some(std::mem::take(text)),
                plain: None,
            });
            Ok(())
        }
        Value::Loose(loose) if loose.text.contains("${") => {
            let text = put_in(&loose.text, environment).map_err(|problem| problem.at(node.at))?;
            loose.written = Some(std::mem::replace(&mut loose.text, text));
            Ok(())
        }
        Value::List(nodes) => nodes.iter_mut().enumerate().try_for_each(|(index, node)| {
            let put_in = substitute(node, environment);
            put_in.map_err(|problem| problem.within(index.to_string()))
        }),
        Value::Map(entries) => entries.iter_mut().try_for_each(|(key, node)| {
            let put_in = substitute(node, environment);
            put_in.map_err(|problem| problem.within(&key.text))
        }),
        _ => Ok(()),
    }
}

/// The text with its variables replaced; `$${` is `${` itself.
fn put_in(text: &str, environment: &Environment<'_>) -> Result<String, Problem> {
    let mut full = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, inside)) = rest.split_once("${") {
        if let Some(before) = before.strip_suffix('$') {
            full.push_str(before);
            full.push_str("${");
            rest = inside;
            continue;
        }
        full.push_str(before);
        let Some((variable, behind)) = inside.split_once('}') else {
            return Err(Problem::new(format!("a `${{` has no `}}`; {WRITTEN}")));
        };
        full.push_str(&value_of(variable, environment)?);
        rest = behind;
    }
    full.push_str(rest);
    Ok(full)
}

fn value_of(variable: &str, environment: &Environment<'_>) -> Result<String, Problem> {
    let (name, default) = match variable.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (variable, None),
    };
    let is_name = |name: &str| {
        let mut letters = name.bytes();
        letters
            .next()
            .is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
            && letters.all(|letter| letter.is_ascii_alphanumeric() || letter == b'_')
    };
    if !is_name(name) {
        return Err(Problem::new(WRITTEN));
    }
    let found = environment
        .get(name)
        .map_err(|error| Problem::new(error.message()))?;
    // As in shells, one that is empty is as good as none where there is a default.
    match (found, default) {
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err(Problem::new(format!(
            "the environment has no `{name}`; set it, or write `${{{name}:-a default}}`"
        ))),
    }
}
