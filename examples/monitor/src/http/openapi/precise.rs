//! Makes the document say what Rust's types say and the framework leaves out or has wrong: the bounds of
//! numbers, which answers hold null, and which parts of a form may be missing.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

/// Where schemas are.
const SCHEMAS: &str = "#/components/schemas/";

/// Makes every schema of `document` as narrow as the type it stands for.
pub fn make_precise(document: &mut Value) {
    bound_numbers(document);
    let paths = document["paths"].as_object_mut().into_iter().flat_map(Map::values_mut);
    for operation in paths.filter_map(Value::as_object_mut).flat_map(Map::values_mut) {
        let form = "/requestBody/content/multipart~1form-data/schema";
        operation.pointer_mut(form).into_iter().for_each(require_no_list_of_parts);
    }
    let sent = schemas_of_requests(document);
    let schemas = document["components"]["schemas"].as_object_mut().into_iter().flatten();
    for (_, schema) in schemas.filter(|(name, _)| !sent.contains(*name)) {
        say_what_may_be_null(schema);
    }
}

fn bound_numbers(value: &mut Value) {
    match value {
        Value::Object(object) => {
            let bounds: Option<(Value, Value)> = match object.get("format").and_then(Value::as_str)
            {
                Some("uint8") => Some((json!(0), json!(u8::MAX))),
                Some("uint16") => Some((json!(0), json!(u16::MAX))),
                Some("uint32") => Some((json!(0), json!(u32::MAX))),
                Some("uint64") => Some((json!(0), json!(u64::MAX))),
                Some("int32") => Some((json!(i32::MIN), json!(i32::MAX))),
                Some("int64") => Some((json!(i64::MIN), json!(i64::MAX))),
                _ => None,
            };
            if let Some((least, most)) = bounds
                && object.get("type") == Some(&json!("integer"))
            {
                object.entry("minimum").or_insert(least);
                object.entry("maximum").or_insert(most);
            }
            object.values_mut().for_each(bound_numbers);
        }
        Value::Array(values) => values.iter_mut().for_each(bound_numbers),
        _ => (),
    }
}

/// A list of parts may have none.
fn require_no_list_of_parts(form: &mut Value) {
    let properties = form["properties"].clone();
    if let Some(required) = form.get_mut("required").and_then(Value::as_array_mut) {
        let is_list = |name: &Value| properties[name.as_str().unwrap_or("")]["type"] == "array";
        required.retain(|name| !is_list(name));
    }
}

/// The names of the schemas that clients fill in, and of those inside them.
fn schemas_of_requests(document: &Value) -> BTreeSet<String> {
    let paths = document["paths"].as_object().into_iter().flat_map(Map::values);
    let operations = paths.filter_map(Value::as_object).flat_map(Map::values);
    let mut open: Vec<String> = Vec::new();
    operations.for_each(|operation| references(&operation["requestBody"], &mut open));
    let mut found = BTreeSet::new();
    while let Some(name) = open.pop() {
        references(&document["components"]["schemas"][&name], &mut open);
        if !found.insert(name) {
            open.retain(|name| !found.contains(name));
        }
    }
    found
}

fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            let reference = object.get("$ref").and_then(Value::as_str);
            found.extend(reference.and_then(|text| text.strip_prefix(SCHEMAS)).map(str::to_owned));
            object.values().for_each(|value| references(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| references(value, found)),
        _ => (),
    }
}

/// What is not required in an answer may be missing, and may be null.
fn say_what_may_be_null(schema: &mut Value) {
    let required: Vec<Value> = schema["required"].as_array().cloned().unwrap_or_default();
    let properties = schema.get_mut("properties").and_then(Value::as_object_mut);
    for (name, property) in properties.into_iter().flatten() {
        if !required.iter().any(|required| required == name) {
            property["nullable"] = json!(true);
        }
    }
}
