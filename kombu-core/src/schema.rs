//! JSON Schemas of what isn't read as a derive would: values that files write in more than one way.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::declare::{Exchange, ExchangeKind};
use crate::field::FieldTable;
use crate::name::Name;

macro_rules! written {
    ($($type:ty = $name:literal $schema:tt),* $(,)?) => {
        $(impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        })*
    };
}

written! {
    Name = "name" {"type": "string"},
    FieldTable = "arguments" {"type": ["object", "null"]},
    ExchangeKind = "exchange type" {
        "anyOf": [
            {"type": "string", "enum": ["direct", "fanout", "topic", "headers"]},
            {"type": "string", "description": "That of a plugin."},
        ]
    },
    Duration = "duration" {
        "type": ["integer", "string"],
        "minimum": 0,
        "pattern": "^[0-9]+(ms|s|m|h|d)?$",
    },
}

/// What [`duration`](crate::declare::duration) reads.
#[derive(Debug)]
pub struct Duration;

/// An exchange, or the name of one.
#[derive(JsonSchema)]
#[schemars(untagged, inline)]
#[allow(dead_code)] // it is only described
pub(crate) enum NameOrExchange {
    Name(String),
    #[schemars(extend("type" = "object"))]
    Exchange(Exchange),
}

/// For what may be a text alone.
pub(crate) fn or_text(schema: &mut Schema) {
    let map = std::mem::take(schema);
    *schema = json_schema!({"anyOf": [{"type": "string"}, map]});
}
