//! `tidegate schema`: the JSON schema of the configuration file, for editors.

use std::process::ExitCode;

use serde_json::{Map, Value, json};
use tidegate::config::keys::{KeyTable, ROOT, ValueKind};

use super::out;

/// Prints the schema (JSON Schema, draft 2020-12).
pub(super) fn print() -> ExitCode {
    out(&format!("{:#}\n", schema()));
    ExitCode::SUCCESS
}

fn schema() -> Value {
    let mut schema = table(&ROOT);
    if let Some(object) = schema.as_object_mut() {
        object.insert(
            "$schema".into(),
            json!("https://json-schema.org/draft/2020-12/schema"),
        );
        object.insert("title".into(), json!("tidegate"));
    }
    schema
}

fn table(declared: &KeyTable) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for key in declared.keys {
        let mut property = kind(&key.kind);
        if let Some(object) = property.as_object_mut() {
            object.insert("description".into(), json!(key.doc));
            if !key.default.is_empty() {
                object.insert("x-default-toml".into(), json!(key.default));
            }
        }
        if key.required {
            required.push(key.name);
        }
        if !key.former_name.is_empty() {
            let mut former = property.clone();
            former["deprecated"] = json!(true);
            former["description"] = json!(format!("Write `{}` instead.", key.name));
            properties.insert(key.former_name.into(), former);
        }
        properties.insert(key.name.into(), property);
    }
    json!({
        "type": "object",
        "description": declared.doc,
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

fn kind(declared: &ValueKind) -> Value {
    match declared {
        ValueKind::Bool => json!({ "type": "boolean" }),
        ValueKind::Integer { min, max } => {
            json!({ "type": "integer", "minimum": min, "maximum": max })
        }
        ValueKind::Number { min, max } => {
            json!({ "type": "number", "minimum": min, "maximum": max })
        }
        ValueKind::OneOf(names) => json!({ "enum": names }),
        // One string may stand for a list of one.
        ValueKind::List(each) if each.takes_text() => json!({
            "anyOf": [{ "type": "array", "items": kind(each) }, { "type": "string" }],
        }),
        ValueKind::List(each) => json!({ "type": "array", "items": kind(each) }),
        ValueKind::Map(each) | ValueKind::Pairs(each) => {
            json!({ "type": "object", "additionalProperties": kind(each) })
        }
        ValueKind::Table(declared) => match declared.lone_key() {
            Some(key) => json!({ "anyOf": [table(declared), kind(&key.kind)] }),
            None => table(declared),
        },
        ValueKind::AnyOf(kinds) => json!({ "anyOf": kinds.iter().map(kind).collect::<Vec<_>>() }),
        ValueKind::Path => json!({ "type": "string", "pattern": "^/[^?#]*$" }),
        ValueKind::Mode => json!({ "type": "string", "pattern": "^0?[0-7]{3}$" }),
        ValueKind::Rate => json!({ "type": "string", "pattern": "^[0-9]+ */ *[smh]$" }),
        _ => json!({ "type": "string" }),
    }
}
