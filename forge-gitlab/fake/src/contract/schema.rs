//! A schema of OpenAPI 3.0, as one of JSON Schema, and stricter by one thing: what it does not describe is
//! not allowed.

use std::sync::OnceLock;

use jsonschema::{Draft, Validator};
use serde_json::{Map, Value, json};

use crate::exchange::flag;

/// A schema of the description.
pub(super) struct Schema {
    source: Value,
    /// Made when it is needed: there are hundreds, and a test needs ten.
    validator: OnceLock<Validator>,
}

impl Schema {
    pub(super) fn new(source: &Value) -> Self {
        Self { source: source.clone(), validator: OnceLock::new() }
    }

    fn validator(&self) -> &Validator {
        self.validator.get_or_init(|| {
            let mut schema = translated(&self.source);
            let named = super::components().iter();
            let named = named.map(|(name, schema)| (name.clone(), translated(schema)));
            schema["$defs"] = Value::Object(named.collect());
            jsonschema::options()
                .with_draft(Draft::Draft202012)
                .should_validate_formats(true)
                .build(&schema)
                .unwrap_or_else(|error| panic!("the description has a bad schema: {error}"))
        })
    }

    /// What is wrong with a value, in words.
    pub(super) fn complaints(&self, value: &Value) -> Vec<String> {
        let errors = self.validator().iter_errors(value);
        let mut wrong: Vec<_> =
            errors.map(|error| format!("{}: {error}", error.instance_path())).collect();
        undescribed(value, &[&self.source], "", &mut wrong);
        wrong
    }

    /// The same for what a path, a query or a header says, where everything is text.
    pub(super) fn complaints_about_text(&self, value: &Value) -> Vec<String> {
        let text = match value {
            Value::String(text) => text,
            other => return self.complaints(other),
        };
        let read = match follow(&self.source)["type"].as_str() {
            Some("integer" | "number") => {
                serde_json::from_str(text).unwrap_or_else(|_| value.clone())
            }
            Some("boolean") => flag(text).map_or_else(|| value.clone(), Value::from),
            Some("array") => text.split(',').collect(),
            _ => value.clone(),
        };
        self.complaints(&read)
    }

    /// What is wrong with the names of a form's fields.
    pub(super) fn complaints_about_names(&self, form: &Map<String, Value>) -> Vec<String> {
        let unknown = form.keys().filter(|name| !self.describes(name));
        let mut wrong: Vec<_> =
            unknown.map(|name| format!("field {name} is not described")).collect();
        let missing = self.required().into_iter().filter(|name| !form.contains_key(*name));
        wrong.extend(missing.map(|name| format!("{name} is missing")));
        wrong
    }

    /// Whether it has a field of that name.
    pub(super) fn describes(&self, name: &str) -> bool {
        let mut all = Vec::new();
        flatten(&self.source, &mut all);
        let name = name.trim_end_matches("[]");
        all.iter().any(|schema| schema["properties"].get(name).is_some())
    }

    /// The fields that must be there.
    pub(super) fn required(&self) -> Vec<&str> {
        let required = follow(&self.source).get("required").and_then(Value::as_array);
        required.into_iter().flatten().filter_map(Value::as_str).collect()
    }
}

/// Names what no schema of `schemas` describes.
fn undescribed(value: &Value, schemas: &[&Value], path: &str, wrong: &mut Vec<String>) {
    let mut all = Vec::new();
    for schema in schemas {
        flatten(schema, &mut all);
    }
    match value {
        Value::Object(object) => {
            if !all.iter().any(|schema| schema.get("properties").is_some()) {
                return;
            }
            for (name, field) in object {
                let here = format!("{path}/{name}");
                let of_field: Vec<_> =
                    all.iter().filter_map(|schema| schema.get("properties")?.get(name)).collect();
                if of_field.is_empty() {
                    wrong.push(format!("{here} is not described"));
                } else {
                    undescribed(field, &of_field, &here, wrong);
                }
            }
        }
        Value::Array(items) => {
            let of_items: Vec<_> = all.iter().filter_map(|schema| schema.get("items")).collect();
            for (index, item) in items.iter().enumerate() {
                undescribed(item, &of_items, &format!("{path}/{index}"), wrong);
            }
        }
        _ => (),
    }
}

/// A schema and all that it is made of.
fn flatten<'a>(schema: &'a Value, all: &mut Vec<&'a Value>) {
    let schema = follow(schema);
    all.push(schema);
    for kind in ["allOf", "anyOf", "oneOf"] {
        for part in schema.get(kind).and_then(Value::as_array).into_iter().flatten() {
            flatten(part, all);
        }
    }
}

fn follow(mut schema: &Value) -> &Value {
    while let Some(path) = schema.get("$ref").and_then(Value::as_str) {
        schema = super::DOCUMENT.pointer(path.trim_start_matches('#')).unwrap_or(&Value::Null);
    }
    schema
}

/// A schema of JSON Schema 2020-12 for one of OpenAPI 3.0: named schemas are where that has them, `nullable` is
/// a type, and what is no validation is left out.
fn translated(schema: &Value) -> Value {
    let Value::Object(source) = schema else { return schema.clone() };
    let mut target = Map::new();
    for (name, value) in source {
        let value = match name.as_str() {
            "properties" => {
                let fields = value.as_object().into_iter().flatten();
                fields.map(|(name, field)| (name.clone(), translated(field))).collect()
            }
            "items" => translated(value),
            "allOf" | "anyOf" | "oneOf" => {
                value.as_array().into_iter().flatten().map(translated).collect()
            }
            "$ref" => {
                let name = value.as_str().and_then(|path| path.rsplit('/').next());
                json!(format!("#/$defs/{}", name.unwrap_or_default()))
            }
            "type" | "enum" | "required" | "pattern" | "format" | "minimum" | "maximum" => {
                value.clone()
            }
            _ => continue,
        };
        target.insert(name.clone(), value);
    }
    if schema["nullable"] == true {
        // Said in one schema, what is wrong can be named.
        return match target.get_mut("type").filter(|_| source.get("enum").is_none()) {
            Some(kind) => {
                *kind = json!([kind.take(), "null"]);
                Value::Object(target)
            }
            None => json!({ "anyOf": [{ "type": "null" }, target] }),
        };
    }
    Value::Object(target)
}
