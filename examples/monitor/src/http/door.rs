//! Who may come in: the right host name, a body of bearable size, and a token for whoever changes things.

use std::{net::IpAddr, sync::Arc, time::Duration};

use futures::StreamExt;
use poem::{
    Body, Endpoint, IntoResponse, Request, Response,
    http::{HeaderValue, Method, StatusCode, Uri, header},
};
use poem_openapi::{SecurityScheme, auth::Bearer};

use super::{Shared, problem, problem::Problem};
use crate::{config::HttpConfig, token::Token};

/// How long to read what was refused, so that its sender gets to read why.
const DISCARD_LIMIT: Duration = Duration::from_secs(5);

/// The checks that every request passes.
#[derive(Clone)]
pub struct Door(Arc<Rules>);

struct Rules {
    /// On loopback only this host's own names lead here: anything else is a page that plays tricks with DNS.
    loopback: bool,
    names: Vec<String>,
    body_limit: u64,
    token: Token,
}

impl Door {
    /// The door of a service that is configured like this.
    pub fn new(http: &HttpConfig, token: Token) -> Self {
        Self(Arc::new(Rules {
            loopback: http.listen.ip().to_canonical().is_loopback(),
            names: http.names.clone(),
            body_limit: http.body_limit,
            token,
        }))
    }

    /// Lets a request through to `endpoint`, or refuses it.
    pub async fn pass<E: Endpoint>(
        &self,
        endpoint: Arc<E>,
        mut request: Request,
    ) -> poem::Result<Response> {
        let mut response = match self.0.refuse(&request) {
            Some(refusal) => {
                discard(request.take_body()).await;
                refusal.into_response()
            }
            None => match endpoint.call(request).await {
                Ok(output) => output.into_response(),
                Err(error) => problem::respond(error),
            },
        };
        let headers = response.headers_mut();
        for (name, value) in [
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::X_FRAME_OPTIONS, "DENY"),
            (header::REFERRER_POLICY, "no-referrer"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
        headers
            .entry(header::CONTENT_SECURITY_POLICY)
            .or_insert(HeaderValue::from_static("default-src 'none'"));
        Ok(response)
    }
}

impl Rules {
    fn refuse(&self, request: &Request) -> Option<Problem> {
        let header = |name| request.headers().get(name).map(HeaderValue::to_str);
        let host = match header(header::HOST) {
            Some(Ok(host)) => host.to_owned(),
            Some(Err(_)) => return Some(Problem::bad_request("the Host header is not text")),
            // HTTP/2 has it in the address.
            None => match request.original_uri().authority() {
                Some(authority) => authority.to_string(),
                None => return Some(Problem::bad_request("the Host header is missing")),
            },
        };
        if !self.knows(&host) {
            let detail = format!("{host} is not a name of this service; add it to names in [http]");
            return Some(Problem::new(StatusCode::MISDIRECTED_REQUEST, detail));
        }
        let reads = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
        if !reads
            && let Some(origin) = header(header::ORIGIN)
            && !origin.is_ok_and(|origin| self.is_own_origin(origin, &host))
        {
            let detail = "a page of another origin must not change anything here";
            return Some(Problem::new(StatusCode::FORBIDDEN, detail));
        }
        if !self.loopback && reads && !is_health(request) && !self.has_token(request) {
            return Some(unauthorized());
        }
        self.check_body(request)
    }

    /// Whether a request for `host` is meant for us.
    fn knows(&self, host: &str) -> bool {
        if !self.loopback {
            return true;
        }
        let name = host.parse::<Uri>().ok();
        let Some(name) = name.as_ref().and_then(|uri| uri.host()) else {
            return false;
        };
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        let own_address =
            bare.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback());
        own_address
            || name.eq_ignore_ascii_case("localhost")
            || self.names.iter().any(|own| own.eq_ignore_ascii_case(name))
    }

    fn is_own_origin(&self, origin: &str, host: &str) -> bool {
        let from = origin.parse::<Uri>().ok();
        from.and_then(|uri| uri.authority().map(|from| from.as_str() == host)).unwrap_or(false)
    }

    fn has_token(&self, request: &Request) -> bool {
        let value = request.headers().get(header::AUTHORIZATION);
        let token = value.and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        token.is_some_and(|token| self.token.matches(token.trim()))
    }

    fn check_body(&self, request: &Request) -> Option<Problem> {
        let headers = request.headers();
        let length = headers.get(header::CONTENT_LENGTH);
        match length.map(|length| length.to_str().ok()?.parse::<u64>().ok()) {
            Some(Some(length)) if length > self.body_limit => {
                let limit = self.body_limit;
                Some(Problem::too_large(format!(
                    "the body has {length} bytes and may have {limit}; raise body_limit in [http]"
                )))
            }
            Some(Some(_)) => None,
            Some(None) => Some(Problem::bad_request("Content-Length is not a number")),
            None if headers.contains_key(header::TRANSFER_ENCODING) => Some(Problem::new(
                StatusCode::LENGTH_REQUIRED,
                "send the body with a Content-Length",
            )),
            None => None,
        }
    }
}

/// Load balancers and service managers ask without a token.
fn is_health(request: &Request) -> bool {
    matches!(request.original_uri().path(), "/healthz" | "/readyz")
}

async fn discard(body: Body) {
    let read = async {
        let mut stream = body.into_bytes_stream();
        while stream.next().await.is_some_and(|part| part.is_ok()) {}
    };
    // Whoever sends more slowly than this does not get to read the refusal.
    let _ = tokio::time::timeout(DISCARD_LIMIT, read).await;
}

fn unauthorized() -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "send the API token: Authorization: Bearer TOKEN")
}

/// The holder of the API token: `Authorization: Bearer TOKEN`.
#[derive(SecurityScheme)]
#[oai(rename = "Token", ty = "bearer", checker = "check_token")]
pub struct Operator(());

async fn check_token(request: &Request, bearer: Bearer) -> Option<()> {
    let shared: &Shared = request.data().expect("the routes carry what is shared");
    shared.0.token.matches(&bearer.token).then_some(())
}
