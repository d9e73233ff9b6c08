//! GitLab's own description of its API: which operations there are, and what may be said in them.
//!
//! The description is what GitLab publishes, corrected and completed (`contract/README.md` says how). It is
//! strict where it is silent: a field, a parameter or a status that it does not name is a violation.

use std::{collections::BTreeMap, sync::LazyLock};

use http::{HeaderMap, Method, StatusCode};
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};

use crate::exchange::{Content, Media, Parameters, Reply, Request};

mod schema;

use schema::Schema;

const DESCRIPTION: &str = include_str!("../contract/runner-openapi3-corrected.json");
const ADDITIONS: &str = include_str!("../contract/additions.json");

/// What any operation may answer, whether or not the description says so.
const REFUSALS: [u16; 6] = [400, 401, 403, 404, 405, 429];

/// What a client may say to any operation: who it is, and which page it wants.
const COMMON: [&str; 3] = ["private_token", "page", "per_page"];

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    let mut document = serde_json::from_str(DESCRIPTION).expect("the description is JSON");
    let additions = serde_json::from_str(ADDITIONS).expect("the additions are JSON");
    merge(&mut document, additions);
    document
});

static CONTRACT: LazyLock<Contract> = LazyLock::new(Contract::read);

/// RFC 7396.
fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let fields = target.as_object_mut().expect("it was made one");
    for (name, value) in patch {
        if value.is_null() {
            fields.remove(&name);
        } else {
            merge(fields.entry(name).or_insert(Value::Null), value);
        }
    }
}

/// All operations.
pub(crate) struct Contract {
    operations: Vec<Operation>,
    error: Schema,
}

/// One of them.
pub(crate) struct Operation {
    pub(crate) method: Method,
    /// Such as `/api/v4/jobs/{id}`.
    pub(crate) template: &'static str,
    parameters: Vec<Parameter>,
    bodies: Vec<(&'static str, Schema)>,
    replies: BTreeMap<u16, Answers>,
}

struct Parameter {
    name: &'static str,
    place: &'static str,
    required: bool,
    schema: Schema,
}

#[derive(Default)]
struct Answers {
    schema: Option<Schema>,
    headers: Vec<(&'static str, Schema)>,
}

impl Contract {
    /// GitLab's.
    pub(crate) fn gitlab() -> &'static Self {
        &CONTRACT
    }

    fn read() -> Self {
        let mut operations = Vec::new();
        for (template, methods) in DOCUMENT["paths"].as_object().expect("an object") {
            for (method, operation) in methods.as_object().expect("an object") {
                operations.push(Operation::read(template, method, operation));
            }
        }
        // Literals before names: `runners/all` is not the runner called all.
        operations.sort_by_key(|operation| operation.template.matches('{').count());
        let any = json!({});
        let error = Schema::new(&json!({
            "type": "object",
            "properties": { "message": any, "error": any, "error_description": any, "scope": any },
        }));
        Self { operations, error }
    }

    pub(crate) fn operations(&self) -> impl Iterator<Item = &Operation> {
        self.operations.iter()
    }

    /// The operation that a request is for.
    pub(crate) fn find(&self, method: &Method, path: &str) -> Option<(&Operation, Parameters)> {
        let of_method = self.operations.iter().filter(|operation| operation.method == *method);
        of_method.into_iter().find_map(|operation| Some((operation, operation.matches(path)?)))
    }
}

impl Operation {
    fn read(template: &'static str, method: &str, operation: &'static Value) -> Self {
        let parameters = operation["parameters"].as_array().into_iter().flatten();
        let parameters = parameters.map(|parameter| Parameter {
            name: parameter["name"].as_str().expect("a parameter has a name"),
            place: parameter["in"].as_str().expect("a parameter has a place"),
            required: parameter["required"] == true,
            schema: Schema::new(&parameter["schema"]),
        });
        let bodies = operation["requestBody"]["content"].as_object().into_iter().flatten();
        let bodies = bodies.map(|(kind, body)| (kind.as_str(), Schema::new(&body["schema"])));
        let replies = operation["responses"].as_object().into_iter().flatten();
        let replies = replies.map(|(status, reply)| {
            let code = status.parse().expect("the description's statuses are numbers");
            let media = reply["content"].get("application/json");
            let headers = reply["headers"].as_object().into_iter().flatten();
            let headers =
                headers.map(|(name, header)| (name.as_str(), Schema::new(&header["schema"])));
            let schema = media.map(|media| Schema::new(&media["schema"]));
            (code, Answers { schema, headers: headers.collect() })
        });
        Self {
            method: method.to_ascii_uppercase().parse().expect("a method"),
            template,
            parameters: parameters.collect(),
            bodies: bodies.collect(),
            replies: replies.collect(),
        }
    }

    /// Such as `PUT /api/v4/jobs/{id}`.
    pub(crate) fn route(&self) -> String {
        format!("{} {}", self.method, self.template)
    }

    fn matches(&self, path: &str) -> Option<Parameters> {
        let mut parameters = Parameters::new();
        let mut parts = path.split('/');
        for segment in self.template.split('/') {
            let part = parts.next()?;
            match segment.strip_prefix('{').and_then(|name| name.strip_suffix('}')) {
                Some(name) => {
                    let text = percent_decode_str(part).decode_utf8().ok()?;
                    parameters.insert(name, text.into_owned());
                }
                None if segment == part => (),
                None => return None,
            }
        }
        parts.next().is_none().then_some(parameters)
    }

    /// What is wrong with a request. A token in the body of a `DELETE` counts as one in the query: GitLab does
    /// not tell them apart.
    pub(crate) fn check_request(&self, request: &Request) -> Vec<String> {
        let mut wrong = Vec::new();
        for parameter in &self.parameters {
            let name = parameter.name;
            let value = match parameter.place {
                "path" => request.parameters.get(name).map(|text| json!(text)),
                "header" => request.header(name).map(|text| json!(text)),
                _ => request.fields.get(name).cloned(),
            };
            match value {
                Some(value) => {
                    let about = parameter.schema.complaints_about_text(&value);
                    wrong.extend(about.into_iter().map(|what| format!("{name}: {what}")));
                }
                None if parameter.required => wrong.push(format!("{name} is missing")),
                None => (),
            }
        }
        let of_query = |name: &str| {
            let is = |parameter: &Parameter| {
                parameter.place == "query" && parameter.name == name.trim_end_matches("[]")
            };
            COMMON.contains(&name) || self.parameters.iter().any(is)
        };
        for (name, _) in &request.query {
            let in_body = self.bodies.iter().any(|(_, schema)| schema.describes(name));
            if !of_query(name) && !in_body {
                wrong.push(format!("query parameter {name} is not described"));
            }
        }
        wrong.extend(self.check_body(request, of_query));
        wrong
    }

    fn check_body(&self, request: &Request, of_query: impl Fn(&str) -> bool) -> Vec<String> {
        let described = |kind: &str| self.bodies.iter().any(|(described, _)| *described == kind);
        let kind = match request.media() {
            // GitLab's own examples send forms, of both kinds, where the description has JSON.
            Media::Multipart if described("multipart/form-data") => "multipart/form-data",
            Media::Json | Media::Form | Media::Multipart => "application/json",
            Media::Text => "text/plain",
            Media::None if request.body.is_empty() => return self.check_no_body(),
            Media::None | Media::Other => {
                return vec!["the body's content type is not described".into()];
            }
        };
        let schema = self.bodies.iter().find(|(described, _)| *described == kind);
        let mut body = match request.media() {
            Media::Text => match schema {
                Some(_) => return Vec::new(),
                None => return vec![format!("a body of {kind} is not described")],
            },
            Media::Json if request.body.is_empty() => json!({}),
            Media::Json => serde_json::from_slice(&request.body).unwrap_or(Value::Null),
            _ => Value::Object(request.fields.clone()),
        };
        for file in &request.files {
            body[&file.field] = json!(file.name);
        }
        match (schema, &mut body) {
            (Some((_, schema)), body) if request.media() == Media::Json => schema.complaints(body),
            // A form is text only; what a number or a flag looks like is for whoever reads it.
            (Some((_, schema)), Value::Object(form)) => {
                form.retain(|name, _| !of_query(name));
                schema.complaints_about_names(form)
            }
            (None, Value::Object(fields)) => {
                let unknown = fields.keys().filter(|name| !of_query(name));
                unknown.map(|name| format!("field {name} is not described")).collect()
            }
            _ => vec!["the body is not an object".into()],
        }
    }

    fn check_no_body(&self) -> Vec<String> {
        let needs = self.bodies.iter().flat_map(|(_, schema)| schema.required());
        needs.map(|name| format!("{name} is missing")).collect()
    }

    /// What is wrong with a reply.
    pub(crate) fn check_reply(&self, reply: &Reply) -> Vec<String> {
        let code = reply.status.as_u16();
        let (schema, headers) = match self.replies.get(&code) {
            // A refusal that the description has nothing to say of is still one of GitLab's.
            Some(answers) if code >= 400 && answers.schema.is_none() => {
                (Some(&Contract::gitlab().error), answers.headers.as_slice())
            }
            Some(answers) => (answers.schema.as_ref(), answers.headers.as_slice()),
            None if REFUSALS.contains(&code) || is_server_error(reply.status) => {
                (Some(&Contract::gitlab().error), [].as_slice())
            }
            None => return vec![format!("{} does not answer {code}", self.route())],
        };
        let mut wrong = check_headers(&reply.headers, headers);
        match (schema, &reply.body) {
            // GitLab's description gives 204 a body, which HTTP does not.
            (_, Content::None) if code == 204 => (),
            (Some(schema), Content::Json(body)) => wrong.extend(schema.complaints(body)),
            (Some(_), _) => wrong.push(format!("{} answers {code} with JSON", self.route())),
            (None, Content::Json(_)) => {
                wrong.push(format!("{} answers {code} without JSON", self.route()));
            }
            (None, _) => (),
        }
        wrong
    }
}

fn is_server_error(status: StatusCode) -> bool {
    status.is_server_error()
}

fn check_headers(headers: &HeaderMap, described: &[(&str, Schema)]) -> Vec<String> {
    let check = |(name, schema): &(&str, Schema)| {
        let text = headers.get(*name)?.to_str().unwrap_or_default();
        let wrong = schema.complaints_about_text(&json!(text));
        (!wrong.is_empty()).then(|| format!("{name}: {}", wrong.join("; ")))
    };
    described.iter().filter_map(check).collect()
}

/// The description's schemas, by name.
fn components() -> &'static Map<String, Value> {
    DOCUMENT["components"]["schemas"].as_object().expect("an object")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(text: &str) -> Vec<String> {
        let value = serde_json::from_str(text).expect("JSON");
        Schema::new(&json!({ "$ref": "#/components/schemas/JobPayload" })).complaints(&value)
    }

    #[test]
    fn both_example_jobs_are_what_the_description_says() {
        let none: Vec<String> = Vec::new();
        let rails = include_str!("../contract/example-job-from-rails-spec.json");
        assert_eq!(payload(rails), none);
        let mock = include_str!("../contract/example-job-from-gitlab-runner-mock.json");
        let wrong = payload(mock);
        // It misspells `expire_in`.
        assert!(wrong.iter().all(|what| what.contains("exprire_in")), "{wrong:#?}");
    }

    #[test]
    fn what_nobody_described_is_noticed_however_deep_it_is() {
        let text = include_str!("../contract/example-job-from-rails-spec.json");
        let mut value: Value = serde_json::from_str(text).expect("JSON");
        value["steps"][0]["colour"] = json!("red");
        value["git_info"]["depth"] = json!("20");
        let wrong = payload(&value.to_string());
        assert_eq!(wrong.len(), 2, "{wrong:#?}");
        assert!(wrong.iter().any(|what| what.contains("/steps/0/colour")), "{wrong:#?}");
        assert!(wrong.iter().any(|what| what.contains("/git_info/depth")), "{wrong:#?}");
    }

    #[test]
    fn a_path_is_found_by_its_words_before_its_names() {
        let find = |method: Method, path: &str| {
            Contract::gitlab().find(&method, path).map(|(operation, _)| operation.route())
        };
        assert_eq!(
            find(Method::GET, "/api/v4/runners/all").as_deref(),
            Some("GET /api/v4/runners/all")
        );
        assert_eq!(
            find(Method::GET, "/api/v4/runners/7").as_deref(),
            Some("GET /api/v4/runners/{id}")
        );
        assert_eq!(find(Method::PATCH, "/api/v4/runners/7"), None);
        assert_eq!(find(Method::GET, "/api/v4/runners/7/"), None);
        let path = "/api/v4/projects/acme%2Finfra%2Fapp";
        let (_, parameters) = Contract::gitlab().find(&Method::GET, path).expect("a project");
        assert_eq!(parameters["id"], "acme/infra/app");
    }
}
