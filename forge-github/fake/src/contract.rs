//! GitHub's own description of its API: which operations there are, and what may be said in them.
//!
//! The description is a subset of what GitHub publishes for OpenAPI 3.0 (`contract/README.md` says where it is
//! from), with no schema edited. It is strict where GitHub is silent: a field, a parameter or a status that it
//! does not name is a violation.

use std::{
    collections::{BTreeMap, HashMap},
    sync::LazyLock,
};

use http::{Method, StatusCode};
use jsonschema::Registry;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

mod schema;

use schema::{Schema, rebase};

const DESCRIPTION: &str = include_str!("../contract/openapi-subset.json");
/// What people's clients ask besides.
const WORKFLOWS: &str = include_str!("../contract/openapi-workflows.json");

/// Where schemas find each other. Nothing is fetched.
const HOME: &str = "json-schema:///github";

/// What a client can get from any operation, whether or not the description says so: GitHub under-documents
/// refusals.
const REFUSALS: [u16; 7] = [400, 401, 403, 404, 406, 415, 429];

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    let mut document = serde_json::from_str(DESCRIPTION).expect("the description is JSON");
    merge(&mut document, serde_json::from_str(WORKFLOWS).expect("the description is JSON"));
    correct(&mut document);
    document
});

static REGISTRY: LazyLock<Registry<'static>> = LazyLock::new(|| {
    let mut components = json!({ "components": DOCUMENT["components"].clone() });
    components["components"].as_object_mut().expect("an object").remove("examples");
    rebase(&mut components);
    Registry::new()
        .add(HOME, components)
        .and_then(|registry| registry.prepare())
        .expect("the description's schemas are schemas")
});

static CONTRACT: LazyLock<Contract> = LazyLock::new(Contract::read);

/// All operations.
pub(crate) struct Contract {
    operations: Vec<Operation>,
    error: Schema,
}

/// One of them.
pub(crate) struct Operation {
    /// Such as `actions/list-self-hosted-runners-for-org`.
    pub(crate) id: &'static str,
    pub(crate) method: Method,
    /// Such as `/orgs/{org}/actions/runners`.
    pub(crate) template: &'static str,
    segments: Vec<Segment>,
    parameters: Vec<Parameter>,
    body: Option<Body>,
    replies: BTreeMap<u16, Option<Schema>>,
}

enum Segment {
    Literal(&'static str),
    One(&'static str),
    Rest(&'static str),
}

struct Parameter {
    name: &'static str,
    place: Place,
    schema: Schema,
    required: bool,
}

#[derive(PartialEq)]
enum Place {
    Path,
    Query,
}

struct Body {
    required: bool,
    schema: Schema,
}

/// What a path says, by the names of its template.
pub(crate) type Parameters = HashMap<&'static str, String>;

impl Contract {
    /// GitHub's.
    pub(crate) fn github() -> &'static Self {
        &CONTRACT
    }

    /// One of GitHub's examples, by its name among the description's components.
    pub(crate) fn example(name: &str) -> Value {
        let value = &DOCUMENT["components"]["examples"][name]["value"];
        assert!(!value.is_null(), "the description has no example {name}");
        value.clone()
    }

    fn read() -> Self {
        let mut operations = Vec::new();
        for (template, methods) in DOCUMENT["paths"].as_object().expect("an object") {
            for (method, operation) in methods.as_object().expect("an object") {
                operations.push(Operation::read(template, method, operation));
            }
        }
        // Literals before names: `runners/downloads` is not the runner called downloads.
        operations.sort_by_key(|operation| operation.order());
        let error = json!({ "$ref": "#/components/schemas/basic-error" });
        Self { operations, error: Schema::new(&error) }
    }

    /// Every operation, in no particular order.
    #[cfg(test)]
    pub(crate) fn operations(&self) -> impl Iterator<Item = &Operation> {
        self.operations.iter()
    }

    /// The operation that a request is for.
    pub(crate) fn find(&self, method: &Method, path: &str) -> Option<(&Operation, Parameters)> {
        let method = if method == Method::HEAD { &Method::GET } else { method };
        self.operations
            .iter()
            .filter(|operation| operation.method == *method)
            .find_map(|operation| Some((operation, operation.matches(path)?)))
    }

    /// What is wrong with a reply.
    pub(crate) fn check_reply(
        &self,
        operation: &Operation,
        status: StatusCode,
        body: Option<&Value>,
    ) -> Vec<String> {
        let code = status.as_u16();
        let schema = match operation.replies.get(&code) {
            Some(schema) => schema.as_ref(),
            None if REFUSALS.contains(&code) || status.is_server_error() => Some(&self.error),
            // What a conditional request gets, whatever it asks for.
            None if code == 304 && operation.method == Method::GET => None,
            None => return vec![format!("{} does not answer {code}", operation.id)],
        };
        match (schema, body) {
            (Some(schema), Some(body)) => schema.complaints(body),
            (Some(schema), None) if !schema.is_any_object() => {
                vec![format!("{} answers {code} with a body", operation.id)]
            }
            (None, Some(_)) => vec![format!("{} answers {code} without a body", operation.id)],
            _ => Vec::new(),
        }
    }
}

impl Operation {
    fn read(template: &'static str, method: &str, operation: &'static Value) -> Self {
        let parameters: Vec<_> = operation["parameters"].as_array().map_or(Vec::new(), |list| {
            list.iter().map(|parameter| Parameter::read(resolve(parameter))).collect()
        });
        let spans = |name: &str| {
            let list = operation["parameters"].as_array().into_iter().flatten();
            list.map(resolve).any(|p| p["name"] == name && p["x-multi-segment"] == true)
        };
        let segments = template.split('/').skip(1).map(|segment| {
            match segment.strip_prefix('{').and_then(|name| name.strip_suffix('}')) {
                Some(name) if spans(name) => Segment::Rest(name),
                Some(name) => Segment::One(name),
                None => Segment::Literal(segment),
            }
        });
        let body = operation.get("requestBody").map(|body| {
            let body = resolve(body);
            Body {
                required: body["required"] == true,
                schema: Schema::new(&body["content"]["application/json"]["schema"]),
            }
        });
        let replies = operation["responses"].as_object().into_iter().flatten();
        let replies = replies.map(|(status, reply)| {
            let code = status.parse().expect("the description's statuses are numbers");
            let content = resolve(reply).get("content").and_then(Value::as_object);
            let media = content.and_then(|content| content.get("application/json"));
            (code, media.map(|media| Schema::new(&media["schema"])))
        });
        Self {
            id: operation["operationId"].as_str().expect("every operation has a name"),
            method: method.to_ascii_uppercase().parse().expect("a method"),
            template,
            segments: segments.collect(),
            parameters,
            body,
            replies: replies.collect(),
        }
    }

    fn order(&self) -> Vec<u8> {
        let rank = |segment: &Segment| match segment {
            Segment::Literal(_) => 0,
            Segment::One(_) => 1,
            Segment::Rest(_) => 2,
        };
        self.segments.iter().map(rank).collect()
    }

    fn matches(&self, path: &str) -> Option<Parameters> {
        let mut rest = path.strip_prefix('/');
        let mut parameters = Parameters::new();
        for segment in &self.segments {
            let here = rest?;
            if let Segment::Rest(name) = segment {
                parameters.insert(name, decode(here)?);
                return Some(parameters);
            }
            let (part, after) = match here.split_once('/') {
                Some((part, after)) => (part, Some(after)),
                None => (here, None),
            };
            rest = after;
            match segment {
                Segment::Literal(literal) if part == *literal => (),
                Segment::One(name) if !part.is_empty() => {
                    parameters.insert(name, decode(part)?);
                }
                _ => return None,
            }
        }
        rest.is_none().then_some(parameters)
    }

    /// What is wrong with a request, in its path and parameters.
    pub(crate) fn check_parameters(
        &self,
        path: &Parameters,
        query: &[(String, String)],
    ) -> Vec<String> {
        let mut complaints = Vec::new();
        for (name, value) in query {
            match self.parameter(Place::Query, name) {
                Some(parameter) => complaints.extend(parameter.complaints(value)),
                None => complaints.push(format!("there is no parameter {name:?}")),
            }
        }
        for (name, value) in path {
            if let Some(parameter) = self.parameter(Place::Path, name) {
                complaints.extend(parameter.complaints(value));
            }
        }
        for wanted in self.parameters.iter().filter(|p| p.required && p.place == Place::Query) {
            if !query.iter().any(|(name, _)| name == wanted.name) {
                complaints.push(format!("the parameter {:?} is missing", wanted.name));
            }
        }
        complaints
    }

    /// What is wrong with a request's body.
    pub(crate) fn check_body(&self, body: Option<&Value>) -> Vec<String> {
        match (&self.body, body) {
            (Some(expected), Some(body)) => expected.schema.complaints(body),
            (Some(Body { required: true, .. }), None) => vec!["the body is missing".to_owned()],
            // Many clients send `{}` with every POST, and GitHub does not mind.
            (None, Some(body)) if body.as_object().is_none_or(|object| !object.is_empty()) => {
                vec!["there is a body, and there is nothing to say".to_owned()]
            }
            _ => Vec::new(),
        }
    }

    /// Fields that the body must have and has not, in the order of the description.
    pub(crate) fn missing_fields(&self, body: &Value) -> Vec<&str> {
        let fields = self.body.as_ref().map(|body| body.schema.required()).unwrap_or_default();
        fields.into_iter().filter(|field| body.get(field).is_none()).collect()
    }

    /// Whether a body of the wrong shape is refused, and not just complained of: unknown fields are ignored
    /// by GitHub.
    pub(crate) fn refuses_body(&self, body: &Value) -> bool {
        self.body.as_ref().is_some_and(|expected| !expected.schema.is_valid(body))
    }

    fn parameter(&self, place: Place, name: &str) -> Option<&Parameter> {
        self.parameters.iter().find(|p| p.place == place && p.name == name)
    }
}

impl Parameter {
    fn read(parameter: &'static Value) -> Self {
        Self {
            name: parameter["name"].as_str().expect("parameters have names"),
            place: if parameter["in"] == "path" { Place::Path } else { Place::Query },
            schema: Schema::without_formats(&parameter["schema"]),
            required: parameter["required"] == true,
        }
    }

    fn complaints(&self, text: &str) -> Vec<String> {
        let typed = text.parse::<i64>().map(Value::from).or_else(|_| text.parse().map(Value::Bool));
        if typed.is_ok_and(|value| self.schema.is_valid(&value)) {
            return Vec::new();
        }
        let complaints = self.schema.complaints(&Value::from(text));
        complaints.into_iter().map(|complaint| format!("{}: {complaint}", self.name)).collect()
    }
}

/// Says what the description means where it says something else: the account of an installation is not both a
/// user and an enterprise.
fn correct(document: &mut Value) {
    let account = "/paths/~1app~1installations/get/responses/200/content/application~1json/schema/items\
                   /properties/account";
    let account = document.pointer_mut(account).and_then(Value::as_object_mut);
    let account = account.expect("installations have an account");
    let kinds = account.remove("allOf").expect("the mistake is still there");
    account.insert("anyOf".to_owned(), kinds);
}

/// Puts what is only in `more` beside the rest.
fn merge(document: &mut Value, more: Value) {
    match (document, more) {
        (Value::Object(document), Value::Object(more)) => {
            for (name, value) in more {
                merge(document.entry(name).or_insert(Value::Null), value);
            }
        }
        (document @ Value::Null, more) => *document = more,
        _ => (),
    }
}

/// What a reference stands for.
fn resolve(value: &'static Value) -> &'static Value {
    match value.get("$ref").and_then(Value::as_str) {
        Some(path) => {
            let pointer = path.trim_start_matches('#');
            DOCUMENT.pointer(pointer).unwrap_or_else(|| panic!("nothing is at {path}"))
        }
        None => value,
    }
}

fn decode(part: &str) -> Option<String> {
    percent_decode_str(part).decode_utf8().ok().map(|text| text.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_literal_goes_before_a_name() {
        let find = |path| Contract::github().find(&Method::GET, path).map(|(found, _)| found.id);
        assert_eq!(
            find("/orgs/acme/actions/runners/downloads"),
            Some("actions/list-runner-applications-for-org")
        );
        assert_eq!(
            find("/orgs/acme/actions/runners/23"),
            Some("actions/get-self-hosted-runner-for-org")
        );
        assert_eq!(find("/orgs/acme/actions/runners/23/"), None);
        assert_eq!(find("/orgs//actions/runners"), None);
    }

    #[test]
    fn a_path_of_contents_spans_slashes() {
        let found = Contract::github().find(&Method::GET, "/repos/a/b/contents/src/a%20b.rs");
        assert_eq!(found.unwrap().1["path"], "src/a b.rs");
    }

    #[test]
    fn every_schema_is_one() {
        for operation in Contract::github().operations() {
            let schemas = operation.parameters.iter().map(|parameter| &parameter.schema);
            let schemas = schemas.chain(operation.body.iter().map(|body| &body.schema));
            for schema in schemas.chain(operation.replies.values().flatten()) {
                schema.is_valid(&Value::Null);
            }
        }
        assert_eq!(Contract::github().operations().count(), 130);
    }

    #[test]
    fn what_is_not_described_is_a_violation() {
        let path = "/orgs/acme/actions/runners/generate-jitconfig";
        let (operation, _) = Contract::github().find(&Method::POST, path).unwrap();
        let good = json!({ "name": "a", "runner_group_id": 1, "labels": ["x"] });
        assert!(operation.check_body(Some(&good)).is_empty());
        let mut bad = good.clone();
        bad["ephemeral"] = json!(true);
        assert_eq!(operation.check_body(Some(&bad)), ["/ephemeral is not described"]);
        assert!(!operation.refuses_body(&bad), "GitHub ignores it");
        let without_group = json!({ "name": "a", "labels": ["x"] });
        assert_eq!(operation.missing_fields(&without_group), ["runner_group_id"]);
        assert!(operation.refuses_body(&without_group));
        let query = [("per_page".to_owned(), "1".to_owned())];
        let complaints = operation.check_parameters(&Parameters::new(), &query);
        assert_eq!(complaints, ["there is no parameter \"per_page\""]);
        let teapot = StatusCode::IM_A_TEAPOT;
        assert_eq!(Contract::github().check_reply(operation, teapot, None).len(), 1);
    }
}
