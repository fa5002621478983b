use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::document::{Key, Node, Position, Problem, Value};

pub(super) fn parse(text: &str) -> Result<Node, Problem> {
    match DeTable::parse(text) {
        Ok(table) => {
            let at = Position::of(text, table.span().start);
            Ok(Node::new(at, map(text, table.get_ref())?))
        }
        Err(mut problem) => {
            // What it quotes of the file may hold a password.
            problem.set_input(None);
            let byte = problem.span().map_or(0, |span| span.start);
            Err(Problem::new(problem.message()).at(Position::of(text, byte)))
        }
    }
}

fn map(text: &str, table: &DeTable<'_>) -> Result<Value, Problem> {
    let mut entries = Vec::with_capacity(table.len());
    for (key, value) in table.iter() {
        let key = Key {
            at: Position::of(text, key.span().start),
            text: key.get_ref().to_string(),
        };
        entries.push((key, node(text, value)?));
    }
    // In the order of the file, so that the first mistake in it is the one that is told.
    entries.sort_by_key(|(key, _)| (key.at.line, key.at.column));
    Ok(Value::Map(entries))
}

fn node(text: &str, value: &Spanned<DeValue<'_>>) -> Result<Node, Problem> {
    let at = Position::of(text, value.span().start);
    let too_large = |_| Problem::new("the number is too large").at(at);
    let value = match value.get_ref() {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => {
            let (digits, radix) = (number.as_str(), number.radix());
            match i64::from_str_radix(digits, radix) {
                Ok(number) => match u64::try_from(number) {
                    Ok(number) => Value::Unsigned(number),
                    Err(_) => Value::Signed(number),
                },
                Err(_) => u64::from_str_radix(digits, radix)
                    .map(Value::Unsigned)
                    .map_err(too_large)?,
            }
        }
        DeValue::Float(number) => {
            let number = number.as_str().parse();
            let problem = |_| Problem::new("it is no number").at(at);
            Value::Float(number.map_err(problem)?)
        }
        DeValue::Boolean(value) => Value::Bool(*value),
        DeValue::Datetime(time) => Value::Text(time.to_string()),
        DeValue::Array(values) => {
            let nodes: Result<_, _> = values.iter().map(|value| node(text, value)).collect();
            Value::List(nodes?)
        }
        DeValue::Table(table) => map(text, table)?,
    };
    Ok(Node::new(at, value))
}
