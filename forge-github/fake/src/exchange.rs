//! A request as it was understood, and the reply to it.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use serde_json::{Value, json};

use crate::{access::Caller, contract::Parameters, scope::Scope};

/// What a handler gets.
pub(crate) struct Request {
    pub(crate) method: Method,
    /// Without the prefix of a GHES, as it was sent otherwise.
    pub(crate) path: String,
    pub(crate) query: Vec<(String, String)>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// The body, if it is JSON.
    pub(crate) json: Option<Value>,
    pub(crate) parameters: Parameters,
    pub(crate) addresses: Addresses,
    pub(crate) caller: Caller,
}

/// How the one who asks names us. It is what links in replies begin with.
#[derive(Debug, Clone)]
pub(crate) struct Addresses {
    /// Such as `http://127.0.0.1:8080`: where pages are, and the services beside the API.
    pub(crate) web: String,
    /// Such as `http://127.0.0.1:8080/api/v3`.
    pub(crate) api: String,
    /// Where files come from: another host.
    pub(crate) storage: String,
}

impl Request {
    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn header(&self, name: impl header::AsHeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// What the path says of a scope.
    pub(crate) fn scope(&self) -> Result<Scope, Refusal> {
        Scope::of(&self.parameters).ok_or_else(Refusal::not_found)
    }

    /// A number of the path. One that is none names nothing.
    pub(crate) fn number(&self, name: &str) -> Result<i64, Refusal> {
        let text = self.parameters.get(name);
        text.and_then(|text| text.parse().ok()).ok_or_else(Refusal::not_found)
    }

    /// A field of the body.
    pub(crate) fn field(&self, name: &str) -> &Value {
        self.json.as_ref().map_or(&Value::Null, |body| &body[name])
    }

    /// A list of texts in the body.
    pub(crate) fn texts(&self, name: &str) -> Vec<String> {
        let list = self.field(name).as_array().into_iter().flatten();
        list.filter_map(|item| item.as_str().map(str::to_owned)).collect()
    }

    /// A list of numbers in the body.
    pub(crate) fn numbers(&self, name: &str) -> Vec<i64> {
        self.field(name).as_array().into_iter().flatten().filter_map(Value::as_i64).collect()
    }
}

/// What a client gets.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Content,
}

#[derive(Debug, Clone)]
pub(crate) enum Content {
    None,
    Json(Value),
    Raw(&'static str, Bytes),
}

/// Why a request is not done.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
}

pub(crate) type Answer = Result<Reply, Refusal>;

impl Reply {
    pub(crate) fn json(status: StatusCode, body: Value) -> Self {
        Self { status, headers: HeaderMap::new(), body: Content::Json(body) }
    }

    pub(crate) fn ok(body: Value) -> Answer {
        Ok(Self::json(StatusCode::OK, body))
    }

    pub(crate) fn created(body: Value) -> Answer {
        Ok(Self::json(StatusCode::CREATED, body))
    }

    /// What GitHub says that it has accepted.
    pub(crate) fn accepted() -> Answer {
        Ok(Self::json(StatusCode::ACCEPTED, json!({})))
    }

    pub(crate) fn no_content() -> Answer {
        Ok(Self::empty(StatusCode::NO_CONTENT))
    }

    pub(crate) fn empty(status: StatusCode) -> Self {
        Self { status, headers: HeaderMap::new(), body: Content::None }
    }

    pub(crate) fn text(status: StatusCode, text: impl Into<String>) -> Self {
        let body = Content::Raw("text/plain; charset=utf-8", Bytes::from(text.into()));
        Self { status, headers: HeaderMap::new(), body }
    }

    pub(crate) fn redirect(to: &str) -> Answer {
        Ok(Self::empty(StatusCode::FOUND).with(header::LOCATION, to))
    }

    pub(crate) fn with(mut self, name: HeaderName, value: impl AsRef<str>) -> Self {
        // What we make has no line breaks; what a client made came from a header or a path.
        if let Ok(value) = HeaderValue::from_str(value.as_ref()) {
            self.headers.insert(name, value);
        }
        self
    }
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    pub(crate) fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "Not Found")
    }

    pub(crate) fn forbidden(message: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, message)
    }

    pub(crate) fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, message)
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, message)
    }

    pub(crate) fn into_reply(self) -> Reply {
        let mut body = json!({
            "message": self.message,
            "documentation_url": "https://docs.github.com/rest",
        });
        if self.status != StatusCode::UNPROCESSABLE_ENTITY {
            body["status"] = self.status.as_str().into();
        }
        Reply::json(self.status, body)
    }
}
