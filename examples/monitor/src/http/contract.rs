//! Holds requests against the API's own description: what it does not describe is refused, by name, before
//! anything is done.

use std::collections::{BTreeMap, BTreeSet};

use poem::{
    IntoResponse, Request, Response,
    http::{Method, StatusCode, header},
};
use serde_json::Value;

use super::{API, openapi, problem::Problem};

/// What the API describes of itself.
pub struct Contract {
    paths: Vec<Described>,
}

/// A path, and what may be done there.
struct Described {
    segments: Vec<Segment>,
    operations: BTreeMap<String, Operation>,
}

enum Segment {
    Word(String),
    Any,
}

struct Operation {
    query: BTreeSet<String>,
    /// What its answers may be. Empty where they have no body.
    answers: BTreeSet<String>,
}

impl Contract {
    /// The contract of this service's API.
    pub fn of_api() -> Self {
        Self::new(openapi::value())
    }

    fn new(document: &Value) -> Self {
        let paths = document["paths"].as_object().into_iter().flatten();
        let mut paths: Vec<Described> = paths
            .map(|(path, operations)| Described {
                segments: segments(path).map(Segment::of).collect(),
                operations: operations
                    .as_object()
                    .into_iter()
                    .flatten()
                    .map(|(method, operation)| (method.to_uppercase(), Operation::new(operation)))
                    .collect(),
            })
            .collect();
        // As the router has it: a word goes before a placeholder.
        paths.sort_by_key(|path| path.segments.iter().map(Segment::is_any).collect::<Vec<_>>());
        Self { paths }
    }

    /// The refusal of a request that the description rules out.
    pub fn answer(&self, request: &Request) -> Option<Response> {
        let method = match *request.method() {
            Method::HEAD => Method::GET.as_str(),
            _ => request.method().as_str(),
        };
        let operation = self.find(request.uri().path())?.operations.get(method)?;
        let problem = operation.check_query(request).or_else(|| operation.check_accept(request))?;
        Some(problem.into_response())
    }

    /// The methods that a path has, for `Allow`.
    pub fn allow(&self, path: &str) -> String {
        let Some(described) = self.find(path) else {
            // Pages and probes, which are only looked at.
            return "GET, HEAD, OPTIONS".to_owned();
        };
        let mut methods: Vec<&str> = Vec::new();
        for method in described.operations.keys() {
            methods.push(method);
            if method == "GET" {
                methods.push("HEAD");
            }
        }
        methods.push("OPTIONS");
        methods.join(", ")
    }

    fn find(&self, path: &str) -> Option<&Described> {
        let path: Vec<&str> = segments(path.strip_prefix(API)?).collect();
        self.paths.iter().find(|described| {
            described.segments.len() == path.len()
                && described.segments.iter().zip(&path).all(|(segment, part)| segment.fits(part))
        })
    }
}

impl Operation {
    fn new(operation: &Value) -> Self {
        let parameters = operation["parameters"].as_array().into_iter().flatten();
        let query = parameters.filter(|parameter| parameter["in"] == "query");
        let responses = operation["responses"].as_object().into_iter().flatten();
        let good = responses.filter(|(status, _)| status.starts_with('2'));
        let kinds = good.filter_map(|(_, response)| response["content"].as_object());
        Self {
            query: query.filter_map(|p| p["name"].as_str().map(str::to_owned)).collect(),
            answers: kinds.flat_map(|kinds| kinds.keys().map(|kind| essence(kind))).collect(),
        }
    }

    /// A parameter that is misspelt would otherwise be as if it were not there.
    fn check_query(&self, request: &Request) -> Option<Problem> {
        let Ok(given) = request.params::<Vec<(String, String)>>() else {
            return Some(Problem::bad_request("the query cannot be read; write it like ?limit=5"));
        };
        let mut seen = BTreeSet::new();
        for (name, _) in &given {
            if !self.query.contains(name) {
                let known: Vec<&str> = self.query.iter().map(String::as_str).collect();
                let way_out = match known.as_slice() {
                    [] => "leave it out: none are taken here".to_owned(),
                    known => format!("use one of: {}", known.join(", ")),
                };
                let detail = format!("there is no query parameter {name:?}; {way_out}");
                return Some(Problem::bad_request(detail));
            }
            if !seen.insert(name) {
                let detail = format!("the query parameter {name} is there twice; give it once");
                return Some(Problem::bad_request(detail));
            }
        }
        None
    }

    /// Nothing is made that its receiver would not take.
    fn check_accept(&self, request: &Request) -> Option<Problem> {
        let headers = request.headers().get_all(header::ACCEPT).iter();
        let ranges: Vec<(String, bool)> = headers
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(|range| (essence(range), is_unwanted(range)))
            .filter(|(range, _)| range.contains('/'))
            .collect();
        let wanted = || ranges.iter().filter(|(_, unwanted)| !unwanted).map(|(range, _)| range);
        let takes = |range: &str, kind: &str| {
            range == "*/*"
                || range == kind
                || range
                    .strip_suffix('*')
                    .is_some_and(|start| start.ends_with('/') && kind.starts_with(start))
        };
        let fits = self.answers.iter().any(|kind| wanted().any(|range| takes(range, kind)));
        if ranges.is_empty() || self.answers.is_empty() || fits {
            return None;
        }
        let kinds: Vec<&str> = self.answers.iter().map(String::as_str).collect();
        let detail = format!("the answer is {}; add that to Accept", kinds.join(" or "));
        Some(Problem::new(StatusCode::NOT_ACCEPTABLE, detail))
    }
}

impl Segment {
    fn of(text: &str) -> Self {
        if text.starts_with('{') { Self::Any } else { Self::Word(text.to_owned()) }
    }

    fn is_any(&self) -> bool {
        matches!(self, Self::Any)
    }

    fn fits(&self, part: &str) -> bool {
        match self {
            Self::Any => !part.is_empty(),
            Self::Word(word) => word == part,
        }
    }
}

fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').skip(1)
}

/// A media type without its parameters.
fn essence(kind: &str) -> String {
    kind.split(';').next().unwrap_or(kind).trim().to_ascii_lowercase()
}

/// Whether a range of `Accept` says what is not taken: `;q=0`.
fn is_unwanted(range: &str) -> bool {
    let mut parameters = range.split(';').skip(1).map(str::trim);
    parameters.any(|parameter| {
        let weight = parameter.strip_prefix("q=").or_else(|| parameter.strip_prefix("Q="));
        weight.is_some_and(|weight| weight.parse::<f32>() == Ok(0.0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detail(request: &Request) -> Option<u16> {
        Contract::of_api().answer(request).map(|response| response.status().as_u16())
    }

    #[test]
    fn what_is_not_described_is_refused() {
        let get = |uri: &str| Request::builder().uri(uri.parse().unwrap()).finish();
        assert_eq!(detail(&get("/api/v2/jobs?limit=5&state=queued")), None);
        assert_eq!(detail(&get("/api/v2/jobs?limt=5")), Some(400));
        assert_eq!(detail(&get("/api/v2/jobs?limit=5&limit=6")), Some(400));
        assert_eq!(detail(&get("/api/v2/status?x")), Some(400));
        assert_eq!(detail(&get("/api/v2/jobs/7-x/log?from=1")), None);
        assert_eq!(detail(&get("/elsewhere?x=1")), None);
        let accept = |kind: &str| {
            let uri = "/api/v2/jobs".parse().unwrap();
            Request::builder().uri(uri).header("Accept", kind).finish()
        };
        for good in ["*/*", "application/*", "text/html, application/json;q=0.1", "", "nonsense"] {
            assert_eq!(detail(&accept(good)), None, "{good}");
        }
        for bad in ["text/html", "text/*", "application/json;q=0", "application/xml, image/png"] {
            assert_eq!(detail(&accept(bad)), Some(406), "{bad}");
        }
    }

    #[test]
    fn allow_names_every_method_of_a_path() {
        let contract = Contract::of_api();
        assert_eq!(contract.allow("/api/v2/jobs"), "GET, HEAD, POST, OPTIONS");
        assert_eq!(contract.allow("/api/v2/jobs/1/cancel"), "POST, OPTIONS");
        assert_eq!(contract.allow("/healthz"), "GET, HEAD, OPTIONS");
    }
}
