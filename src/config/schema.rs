//! The JSON Schema of a file, made of the types that it is read into, and of what its reader does with them.

use schemars::generate::SchemaSettings;
use schemars::transform::{Transform, transform_subschemas};
use schemars::{JsonSchema, Schema, json_schema};
use serde_json::{Map, Value, json};

use super::file::File;

pub(super) use kombu_core::schema::Duration as Written;

/// With it, a text has a variable.
const VARIABLE: &str = r"\$\{";
/// Other names of a key, until there is a property for each.
const ALIASES: &str = "x-aliases";

/// What may stand alone or in a list.
#[derive(JsonSchema)]
#[schemars(untagged, inline)]
#[allow(dead_code)] // it is only described
pub(super) enum OneOrSeveral<T> {
    One(T),
    Several(Vec<T>),
}

/// For what may be true or false alone.
pub(super) fn or_flag(schema: &mut Schema) {
    let map = std::mem::take(schema);
    *schema = json_schema!({"anyOf": [{"type": "boolean"}, map]});
}

pub(super) fn text() -> String {
    let generator = SchemaSettings::draft07().into_generator();
    let mut schema = generator.into_root_schema_for::<File>();
    AsRead.transform(&mut schema);
    schema.insert("title".to_owned(), json!("A configuration of kombu"));
    // A place for YAML's anchors.
    schema.insert("patternProperties".to_owned(), json!({"^x-": true}));
    format!("{:#}\n", schema.as_value())
}

/// What the reader takes beside what the types say.
struct AsRead;

impl Transform for AsRead {
    fn transform(&mut self, schema: &mut Schema) {
        transform_subschemas(self, schema);
        if let Some(schema) = schema.as_object_mut() {
            tidy(schema);
            add_aliases(schema);
            allow_variable(schema);
            allow_nothing(schema);
            loosen_texts(schema);
        }
    }
}

/// Leaves what editors have a use for.
fn tidy(schema: &mut Map<String, Value>) {
    schema.remove("format");
    if schema.get("default") == Some(&Value::Null) {
        schema.remove("default");
    }
    if let Some(Value::String(description)) = schema.get_mut("description") {
        *description = plain(description);
    }
}

/// The first paragraph of a documentation, without links.
fn plain(documentation: &str) -> String {
    let paragraph = documentation.split("\n\n").next().unwrap_or_default();
    let mut plain = String::with_capacity(paragraph.len());
    let mut rest = paragraph;
    while let Some((before, link)) = rest.split_once('[') {
        let Some((text, behind)) = link.split_once(']') else {
            break;
        };
        plain.push_str(before);
        plain.push_str(text);
        let target = behind.strip_prefix('(').and_then(|it| it.split_once(')'));
        rest = target.map_or(behind, |(_, behind)| behind);
    }
    plain.push_str(rest);
    plain.replace('\n', " ")
}

fn add_aliases(schema: &mut Map<String, Value>) {
    let Some(Value::Object(properties)) = schema.get_mut("properties") else {
        return;
    };
    let mut others = Vec::new();
    for (name, property) in properties.iter_mut() {
        let Some(Value::Array(aliases)) = take(property, ALIASES) else {
            continue;
        };
        for alias in aliases.iter().filter_map(Value::as_str) {
            let mut other = property.clone();
            other["description"] = json!(format!("The same as `{name}`."));
            others.push((alias.to_owned(), other));
        }
    }
    properties.extend(others);
}

fn take(schema: &mut Value, key: &str) -> Option<Value> {
    schema.as_object_mut()?.remove(key)
}

/// What isn't any text may be one with a variable.
fn allow_variable(schema: &mut Map<String, Value>) {
    if let Some(Value::Array(words)) = schema.get_mut("oneOf") {
        words.push(json!({"type": "string", "pattern": VARIABLE}));
        return;
    }
    let is_scalar = ["boolean", "integer", "number"]
        .iter()
        .any(|name| has_type(schema, name));
    if let Some(Value::String(pattern)) = schema.get_mut("pattern") {
        *pattern = format!("{pattern}|{VARIABLE}");
    } else if is_scalar && !has_type(schema, "string") {
        add_type(schema, "string");
        schema.insert("pattern".to_owned(), json!(VARIABLE));
    }
}

/// A section that is there and says nothing has its defaults, unless something has to be said.
fn allow_nothing(schema: &mut Map<String, Value>) {
    let is_map = ["properties", "additionalProperties"]
        .iter()
        .any(|key| schema.contains_key(*key));
    if is_map && !schema.contains_key("required") {
        add_type(schema, "null");
    }
}

/// In YAML, a name or a password may look like a number, unless what stands there could be something else.
fn loosen_texts(schema: &mut Map<String, Value>) {
    let properties = schema.get_mut("properties").and_then(Value::as_object_mut);
    for property in properties.into_iter().flat_map(Map::values_mut) {
        loosen(property);
    }
    for key in ["additionalProperties", "items"] {
        if let Some(values) = schema.get_mut(key) {
            loosen(values);
        }
    }
}

fn loosen(schema: &mut Value) {
    if let Some(schema) = schema.as_object_mut()
        && has_type(schema, "string")
        && !schema.contains_key("pattern")
    {
        add_type(schema, "number");
        add_type(schema, "boolean");
    }
}

fn has_type(schema: &Map<String, Value>, name: &str) -> bool {
    match schema.get("type") {
        Some(Value::String(one)) => one == name,
        Some(Value::Array(several)) => several.iter().any(|one| one == name),
        _ => false,
    }
}

fn add_type(schema: &mut Map<String, Value>, name: &str) {
    match schema.get_mut("type") {
        Some(Value::Array(several)) => several.push(json!(name)),
        Some(one) => *one = json!([one.take(), name]),
        None => {}
    }
}
