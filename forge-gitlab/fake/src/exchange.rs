//! A request as GitLab sees it, and a reply before it is HTTP.

use std::{collections::HashMap, fmt::Display};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use serde_json::{Map, Value, json};
use url::form_urlencoded;

/// What a path says, by the names of its template.
pub(crate) type Parameters = HashMap<&'static str, String>;

/// What was asked.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) method: Method,
    /// Still percent-encoded.
    pub(crate) path: String,
    pub(crate) query: Vec<(String, String)>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// Set by whoever finds the operation.
    pub(crate) parameters: Parameters,
    /// What the query and the body say, whatever the body is encoded as: GitLab does not tell them apart.
    pub(crate) fields: Map<String, Value>,
    /// Of a multipart body.
    pub(crate) files: Vec<File>,
    /// How the client knows this GitLab, such as `http://127.0.0.1:4711`.
    pub(crate) base: String,
}

/// One part of a multipart body that has a file name.
#[derive(Debug)]
pub(crate) struct File {
    pub(crate) field: String,
    pub(crate) name: String,
    pub(crate) content: Bytes,
}

/// What a body is, by its content type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Media {
    None,
    Json,
    Form,
    Multipart,
    Text,
    Other,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(crate) fn media(&self) -> Media {
        let Some(kind) = self.header("content-type") else { return Media::None };
        match kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
            "application/json" => Media::Json,
            "application/x-www-form-urlencoded" => Media::Form,
            "multipart/form-data" => Media::Multipart,
            "text/plain" => Media::Text,
            _ => Media::Other,
        }
    }

    /// Fills in [`Request::fields`] and [`Request::files`].
    pub(crate) async fn read_body(&mut self) -> Result<(), Refusal> {
        let query = self.query.iter().map(|(name, value)| (name.clone(), json!(value)));
        self.fields = query.collect();
        match self.media() {
            Media::Json if !self.body.is_empty() => match serde_json::from_slice(&self.body) {
                Ok(Value::Object(object)) => self.fields.extend(object),
                Ok(_) => (),
                Err(_) => return Err(Refusal::parameter("The provided params are invalid")),
            },
            Media::Form => {
                for (name, value) in form_urlencoded::parse(&self.body) {
                    self.fields.insert(name.into_owned(), value.into());
                }
            }
            Media::Multipart => self.read_parts().await?,
            _ => (),
        }
        Ok(())
    }

    async fn read_parts(&mut self) -> Result<(), Refusal> {
        let bad = |error: &dyn Display| Refusal::new(400, format!("400 Bad request - {error}"));
        let boundary = multer::parse_boundary(self.header("content-type").unwrap_or_default())
            .map_err(|error| bad(&error))?;
        let body = self.body.clone();
        let whole = futures::stream::once(async move { Ok::<_, std::convert::Infallible>(body) });
        let mut parts = multer::Multipart::new(whole, boundary);
        while let Some(part) = parts.next_field().await.map_err(|error| bad(&error))? {
            let field = part.name().unwrap_or_default().to_owned();
            let name = part.file_name().map(str::to_owned);
            let content = part.bytes().await.map_err(|error| bad(&error))?;
            match name {
                Some(name) => self.files.push(File { field, name, content }),
                None => {
                    let text = String::from_utf8_lossy(&content).into_owned();
                    self.fields.insert(field, text.into());
                }
            }
        }
        Ok(())
    }

    /// The `id` of the path, or another number in it.
    pub(crate) fn number(&self, name: &str) -> Result<u64, Refusal> {
        let text = self.parameters.get(name).map_or("", String::as_str);
        text.parse().map_err(|_| Refusal::parameter(format!("{name} is invalid")))
    }

    /// What is said of `name`, unless it is `null`.
    pub(crate) fn field(&self, name: &str) -> Option<&Value> {
        self.fields.get(name).filter(|value| !value.is_null())
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.field(name)?.as_str()
    }

    pub(crate) fn required(&self, name: &str) -> Result<&str, Refusal> {
        self.text(name).ok_or_else(|| Refusal::parameter(format!("{name} is missing")))
    }

    pub(crate) fn flag(&self, name: &str) -> Result<Option<bool>, Refusal> {
        match self.field(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(Value::String(text)) if flag(text).is_some() => Ok(flag(text)),
            Some(_) => Err(Refusal::parameter(format!("{name} is invalid"))),
        }
    }

    pub(crate) fn integer(&self, name: &str) -> Result<Option<i64>, Refusal> {
        let number = match self.field(name) {
            None => return Ok(None),
            Some(Value::String(text)) => text.parse().ok(),
            Some(value) => value.as_i64(),
        };
        number.map(Some).ok_or_else(|| Refusal::parameter(format!("{name} is invalid")))
    }

    /// A list, or text with commas in it.
    pub(crate) fn list(&self, name: &str) -> Option<Vec<String>> {
        let items: Vec<_> = match self.field(name)? {
            Value::Array(items) => items.iter().filter_map(Value::as_str).collect(),
            Value::String(text) => text.split(',').collect(),
            _ => return None,
        };
        let items = items.into_iter().map(str::trim).filter(|item| !item.is_empty());
        Some(items.map(str::to_owned).collect())
    }
}

/// A flag as text, in the words of Ruby's dry-types, which GitLab reads parameters with.
pub(crate) fn flag(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "on" | "t" | "true" | "y" | "yes" => Some(true),
        "0" | "off" | "f" | "false" | "n" | "no" => Some(false),
        _ => None,
    }
}

/// What is answered.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Content,
    /// Whether it is odd on purpose, and thus not held to the description.
    pub(crate) odd: bool,
}

#[derive(Debug, Clone)]
pub(crate) enum Content {
    None,
    Json(Value),
    Raw(&'static str, Bytes),
}

/// Why a request is not done.
#[derive(Debug, Clone)]
pub(crate) struct Refusal(Box<Reply>);

pub(crate) type Answer = Result<Reply, Refusal>;

impl Reply {
    pub(crate) fn json(status: u16, body: Value) -> Self {
        Self { body: Content::Json(body), ..Self::empty(status) }
    }

    pub(crate) fn empty(status: u16) -> Self {
        Self {
            status: StatusCode::from_u16(status).expect("GitLab's statuses are statuses"),
            headers: HeaderMap::new(),
            body: Content::None,
            odd: false,
        }
    }

    pub(crate) fn text(status: u16, text: impl Into<String>) -> Self {
        Self::raw(status, "text/plain", Bytes::from(text.into()))
    }

    pub(crate) fn raw(status: u16, kind: &'static str, content: Bytes) -> Self {
        Self { body: Content::Raw(kind, content), ..Self::empty(status) }
    }

    pub(crate) fn ok(body: Value) -> Answer {
        Ok(Self::json(200, body))
    }

    pub(crate) fn created(body: Value) -> Answer {
        Ok(Self::json(201, body))
    }

    pub(crate) fn no_content() -> Answer {
        Ok(Self::empty(204))
    }

    pub(crate) fn redirect(status: u16, to: &str) -> Answer {
        Ok(Self::empty(status).with(header::LOCATION, to))
    }

    pub(crate) fn with(mut self, name: impl Into<Name>, value: impl Display) -> Self {
        // What we make has no line breaks; what a client made came from a header or a path.
        if let Ok(value) = HeaderValue::from_str(&value.to_string()) {
            self.headers.insert(name.into().0, value);
        }
        self
    }
}

/// A header's, of the standard or of GitLab's own.
pub(crate) struct Name(HeaderName);

impl From<HeaderName> for Name {
    fn from(name: HeaderName) -> Self {
        Self(name)
    }
}

impl From<&'static str> for Name {
    /// Of lower-case letters.
    fn from(name: &'static str) -> Self {
        Self(HeaderName::from_static(name))
    }
}

impl Refusal {
    pub(crate) fn new(status: u16, message: impl Into<String>) -> Self {
        Self(Box::new(Reply::json(status, json!({ "message": message.into() }))))
    }

    /// What GitLab says of parameters that it cannot use.
    pub(crate) fn parameter(error: impl Into<String>) -> Self {
        Self(Box::new(Reply::json(400, json!({ "error": error.into() }))))
    }

    pub(crate) fn error(status: u16, body: Value) -> Self {
        Self(Box::new(Reply::json(status, body)))
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(401, "401 Unauthorized")
    }

    pub(crate) fn forbidden() -> Self {
        Self::new(403, "403 Forbidden")
    }

    pub(crate) fn forbidden_because(reason: impl Display) -> Self {
        Self::new(403, format!("403 Forbidden - {reason}"))
    }

    /// `what` such as `Project`.
    pub(crate) fn not_found(what: &str) -> Self {
        Self::new(404, format!("404 {what} Not Found"))
    }

    pub(crate) fn conflict(reason: impl Display) -> Self {
        Self::new(409, format!("409 Conflict: {reason}"))
    }

    pub(crate) fn with(self, name: impl Into<Name>, value: impl Display) -> Self {
        Self(Box::new(self.0.with(name, value)))
    }

    pub(crate) fn into_reply(self) -> Reply {
        *self.0
    }
}
