//! One call of GitHub's REST interface, as the sources of demand make them.
//!
//! Credentials, rate budget and the meaning of errors are the client's concern; so this is a trait, with the
//! few things that a caller decides.

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use runner_core::{Error, Result};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// On whose behalf a call is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// The token, or the App's installation.
    Installation,
    /// The App itself. Only Apps can.
    App,
}

/// A call.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// `GET`, `POST`, ….
    pub method: Method,
    /// Path and query below the API's address, beginning with a slash.
    pub path: String,
    /// Sent as JSON.
    pub body: Option<Value>,
    /// Who asks.
    pub identity: Identity,
}

impl Call {
    /// Reads `path`.
    pub fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    /// Posts to `path`, without a body.
    pub fn post(path: impl Into<String>) -> Self {
        Self::new(Method::POST, path)
    }

    fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), body: None, identity: Identity::Installation }
    }
}

/// What GitHub answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// 200 to 399.
    pub status: StatusCode,
    /// All of them.
    pub headers: HeaderMap,
    /// All of it.
    pub body: Bytes,
}

impl Answer {
    /// Reads the body.
    ///
    /// # Errors
    /// `Backend` when it is not what GitHub describes, such as a page in HTML.
    pub fn json<T: DeserializeOwned>(&self, doing: &str) -> Result<T> {
        serde_json::from_slice(&self.body).map_err(|error| Error::backend("github", doing, error))
    }
}

/// Makes calls, within the budget.
#[async_trait]
pub trait Rest: Send + Sync + 'static {
    /// Makes one call. **Redirects are not followed**: they are answers, with the address in the header
    /// `Location`, so that no credential follows them.
    ///
    /// # Errors
    /// `NotFound` for 404 and 410, `Unauthorized`, `RateLimited`, `Backend`: any status from 400 on, and
    /// every answer that did not arrive whole.
    ///
    /// # Cancel safety
    /// May be dropped at any moment; a call that changes something may have done so.
    async fn call(&self, call: Call) -> Result<Answer>;
}
