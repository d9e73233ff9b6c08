//! A schema of OpenAPI 3.0, as one of JSON Schema, and stricter by one thing: what it does not describe is
//! not allowed.

use std::sync::OnceLock;

use jsonschema::{Draft, Validator};
use serde_json::{Map, Value, json};

use super::{DOCUMENT, HOME, REGISTRY};

/// A schema of the description.
pub(super) struct Schema {
    source: Value,
    formats: bool,
    /// Made when it is needed: there are hundreds, and a test needs ten.
    validator: OnceLock<Validator>,
}

impl Schema {
    pub(super) fn new(source: &Value) -> Self {
        Self { source: source.clone(), formats: true, validator: OnceLock::new() }
    }

    /// For parameters: `created` is called a `date-time` and is a range of them.
    pub(super) fn without_formats(source: &Value) -> Self {
        Self { formats: false, ..Self::new(source) }
    }

    fn validator(&self) -> &Validator {
        self.validator.get_or_init(|| {
            let mut schema = self.source.clone();
            rebase(&mut schema);
            jsonschema::options()
                .with_draft(Draft::Draft202012)
                .with_registry(&REGISTRY)
                .should_validate_formats(self.formats)
                .build(&schema)
                .unwrap_or_else(|error| panic!("the description has a bad schema: {error}"))
        })
    }

    /// Whether the schema itself is content.
    pub(super) fn is_valid(&self, value: &Value) -> bool {
        self.validator().is_valid(value)
    }

    /// Whether any object will do, and thus nothing is said of it.
    pub(super) fn is_any_object(&self) -> bool {
        let schema = follow(&self.source);
        schema.get("properties").is_none() && schema.get("oneOf").is_none()
    }

    /// The fields that must be there.
    pub(super) fn required(&self) -> Vec<&str> {
        let required = follow(&self.source).get("required").and_then(Value::as_array);
        required.into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// What is wrong with a value, in words.
    pub(super) fn complaints(&self, value: &Value) -> Vec<String> {
        let errors = self.validator().iter_errors(value);
        let mut complaints: Vec<_> =
            errors.map(|error| format!("{}: {error}", error.instance_path())).collect();
        undescribed(value, &[&self.source], "", &mut complaints);
        complaints
    }
}

/// Names what no schema of `schemas` describes.
fn undescribed(value: &Value, schemas: &[&Value], path: &str, complaints: &mut Vec<String>) {
    let mut all = Vec::new();
    for schema in schemas {
        flatten(schema, &mut all);
    }
    match value {
        Value::Object(object) => {
            let free = |schema: &&Value| {
                let additional = schema.get("additionalProperties");
                additional.is_some_and(|additional| *additional != json!(false))
            };
            let described = all.iter().any(|schema| schema.get("properties").is_some());
            if !described || all.iter().any(free) {
                return;
            }
            for (name, field) in object {
                let here = format!("{path}/{name}");
                let of_field: Vec<_> =
                    all.iter().filter_map(|schema| schema.get("properties")?.get(name)).collect();
                if of_field.is_empty() {
                    complaints.push(format!("{here} is not described"));
                } else {
                    undescribed(field, &of_field, &here, complaints);
                }
            }
        }
        Value::Array(items) => {
            let of_items: Vec<_> = all.iter().filter_map(|schema| schema.get("items")).collect();
            for (index, item) in items.iter().enumerate() {
                undescribed(item, &of_items, &format!("{path}/{index}"), complaints);
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
        schema = DOCUMENT.pointer(path.trim_start_matches('#')).unwrap_or(&Value::Null);
    }
    schema
}

/// Makes a schema of JSON Schema 2020-12 out of one of OpenAPI 3.0, in place: references are absolute,
/// `nullable` is a type, and what is no validation is left out.
pub(super) fn rebase(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            // A property may be called anything, `example` and `nullable` too.
            if let Some(Value::Object(properties)) = object.get_mut("properties") {
                properties.values_mut().for_each(rebase);
            }
            for name in ["example", "examples", "discriminator", "default"] {
                if !object.get(name).is_some_and(is_schema) {
                    object.remove(name);
                }
            }
            for (name, value) in object.iter_mut() {
                if name != "properties" && name != "enum" && name != "required" {
                    rebase(value);
                }
            }
            if let Some(Value::String(path)) = object.get_mut("$ref")
                && path.starts_with('#')
            {
                *path = format!("{HOME}{path}");
            }
            if object.remove("nullable") == Some(json!(true)) {
                *schema = nullable(std::mem::take(object));
            }
        }
        Value::Array(list) => list.iter_mut().for_each(rebase),
        _ => (),
    }
}

/// Under `components`, names are names and not keywords.
fn is_schema(value: &Value) -> bool {
    ["schema", "type", "$ref"].iter().any(|key| value.get(key).is_some())
}

fn nullable(mut schema: Map<String, Value>) -> Value {
    let composed = ["enum", "allOf", "anyOf", "oneOf"].iter().any(|key| schema.contains_key(*key));
    if let (false, Some(kind)) = (composed, schema.get_mut("type")) {
        *kind = json!([kind.take(), "null"]);
        return Value::Object(schema);
    }
    json!({ "anyOf": [{ "type": "null" }, schema] })
}
