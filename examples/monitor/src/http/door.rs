//! Who may come in: the right host name, a bearable size and pace, and a token for whoever needs one.

use std::{net::IpAddr, sync::Arc, time::Duration};

use futures::StreamExt;
use poem::{
    Endpoint, IntoResponse, Request, Response,
    http::{HeaderValue, Method, StatusCode, header},
    web::headers::{Authorization, HeaderMapExt, authorization::Bearer},
};

use super::{
    contract::Contract,
    problem::{self, Problem},
    servo::{self, Access},
    text, webhooks,
};
use crate::{
    config::{Config, GuestsConfig, Reads},
    tokens::{Holder, Role, Tokens},
};

mod body;
mod names;
mod pace;
mod roles;

pub use body::Guard;
use names::Names;
pub use pace::Pace;
pub use roles::{Admin, Operate};

/// How long to read what was refused, so that its sender gets to read why.
const DISCARD_LIMIT: Duration = Duration::from_secs(5);

/// What a client needs before it can have a token, and what load balancers and service managers ask.
const OPEN: [&str; 7] = [
    "/",
    "/healthz",
    "/readyz",
    "/favicon.ico",
    "/api/v2/openapi.json",
    "/api/v2/docs",
    "/api/v2/docs/rapidoc.js",
];

/// Where the files of the page are, which hold nothing of the pool.
const PAGE_FILES: &str = super::dashboard::PARTS;

/// The checks that every request passes.
#[derive(Clone)]
pub struct Door(Arc<Rules>);

struct Rules {
    names: Names,
    reads: Reads,
    body: Guard,
    pace: Option<Pace>,
    deliveries: (Guard, Option<Pace>),
    tokens: Tokens,
    contract: Contract,
    machines: Option<GuestsConfig>,
    /// Whether the interface of Servo's monitor is there.
    servo: bool,
}

impl Door {
    /// The door of a service that is configured like this, and that `tokens` open.
    pub fn new(config: &Config, tokens: impl Into<Tokens>) -> Self {
        let http = &config.http;
        Self(Arc::new(Rules {
            names: Names::new(http),
            reads: http.reads(),
            body: Guard::new(http),
            pace: http.rate.map(|rate| Pace::new(rate, "asks for more changes", "rate in [http]")),
            deliveries: (
                Guard::of_deliveries(http),
                http.webhook_rate
                    .map(|rate| Pace::new(rate, "delivers more", "webhook_rate in [http]")),
            ),
            tokens: tokens.into(),
            contract: Contract::of_api(),
            machines: config.guests.clone(),
            servo: config.servo.is_some(),
        }))
    }

    /// Lets a request through to `endpoint`, or refuses it.
    pub async fn pass<E: Endpoint>(
        &self,
        endpoint: Arc<E>,
        mut request: Request,
    ) -> poem::Result<Response> {
        let is_servo = self.0.servo && servo::allow(request.original_uri().path()).is_some();
        let is_polled = is_servo && servo::is_polled(request.original_uri().path());
        let mut response = match self.0.admit(&mut request) {
            Err(refusal) => {
                discard(&mut request).await;
                *refusal
            }
            Ok(()) => self.0.answer(endpoint, request).await,
        };
        if is_servo {
            // Its clients are scripts, which show what they are told.
            response = text::of_response(response).await;
        }
        if is_polled {
            response = text::bare(response).await;
        }
        let unauthorized = response.status() == StatusCode::UNAUTHORIZED;
        let headers = response.headers_mut();
        if unauthorized {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        for (name, value) in [
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::X_FRAME_OPTIONS, "DENY"),
            (header::REFERRER_POLICY, "no-referrer"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
        headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
        headers
            .entry(header::CONTENT_SECURITY_POLICY)
            .or_insert(HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));
        Ok(response)
    }
}

impl Rules {
    /// Finds out who sends `request` and refuses what cannot be granted, whatever it asks for.
    fn admit(&self, request: &mut Request) -> Result<(), Box<Response>> {
        if self.machines.as_ref().is_some_and(|machines| machines.is_machines(address(request))) {
            let detail = "this is not for machines; they are served at listen in [guests]";
            return Err(Problem::new(StatusCode::FORBIDDEN, detail).into());
        }
        let host = self.names.host(request)?;
        if webhooks::is_delivery(request) {
            let (body, pace) = &self.deliveries;
            pace.iter().try_for_each(|pace| pace.check(address(request)))?;
            return Ok(body.check(request)?);
        }
        let reads = is_read(request.method());
        if !reads {
            self.names.check_origin(request, &host)?;
            if let Some(pace) = &self.pace {
                pace.check(address(request))?;
            }
        }
        let holder = self.holder(request)?;
        let servo = servo::access(request.method(), request.original_uri().path());
        let wanted = match (servo.filter(|_| self.servo), reads, self.reads) {
            (Some(Access::Open | Access::Proven), _, _) => None,
            (Some(Access::Admin), _, _) => Some(Role::Admin),
            (Some(Access::Token), _, _) | (None, false, _) => Some(Role::Operate),
            (None, true, Reads::Token) if !is_open(request) => Some(Role::Read),
            (None, true, _) => None,
        };
        if let Some(wanted) = wanted {
            roles::check(holder.as_ref(), wanted)?;
        }
        if let Some(holder) = holder {
            request.set_data(holder);
        }
        Ok(self.body.check(request)?)
    }

    /// Whose token came along. One that nobody has is refused even where none is needed: its sender
    /// believes in it.
    fn holder(&self, request: &Request) -> Result<Option<Holder>, Problem> {
        let probes = is_read(request.method()) && is_open(request);
        if probes || !request.headers().contains_key(header::AUTHORIZATION) {
            return Ok(None);
        }
        let bearer = request.headers().typed_get::<Authorization<Bearer>>();
        let holder = bearer.and_then(|bearer| self.tokens.holder(bearer.token().trim()));
        match holder {
            Some(holder) => Ok(Some(holder.clone())),
            None => Err(Problem::unauthorized("this token is not known")),
        }
    }

    async fn answer<E: Endpoint>(&self, endpoint: Arc<E>, mut request: Request) -> Response {
        let (method, path) = (request.method().clone(), request.original_uri().path().to_owned());
        let by = request.data::<Holder>().map(|holder| holder.name.clone());
        if let Some(answer) = self.contract.answer(&request) {
            discard(&mut request).await;
            return answer;
        }
        let body = if webhooks::is_delivery(&request) { &self.deliveries.0 } else { &self.body };
        let cut = body.guard(&mut request);
        let mut response = match endpoint.call(request).await {
            Ok(output) => output.into_response(),
            Err(error) => problem::respond(error),
        };
        if let Some(why) = cut.why() {
            response = why.into_response();
            // The rest of the body is still under way, and nobody wants it.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if response.status() == StatusCode::METHOD_NOT_ALLOWED {
            let of_servo = servo::allow(&path).filter(|_| self.servo);
            let allow = of_servo.unwrap_or_else(|| self.contract.allow(&path));
            response = if method == Method::OPTIONS {
                StatusCode::NO_CONTENT.into_response()
            } else {
                let detail = format!("{method} is not taken here; use one of: {allow}");
                Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail).into_response()
            };
            let allow = HeaderValue::try_from(allow).expect("methods are printable");
            response.headers_mut().insert(header::ALLOW, allow);
        }
        if !is_read(&method)
            && let Some(by) = by
        {
            let status = response.status().as_u16();
            tracing::info!(%by, %method, path, status, "Asked for a change.");
        }
        response
    }
}

/// Whether a request with this method changes nothing.
fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// Whether a path is for everybody. Compared as it was sent: one that is written otherwise is not.
fn is_open(request: &Request) -> bool {
    let path = request.original_uri().path();
    OPEN.contains(&path) || path.starts_with(PAGE_FILES)
}

/// Who sends a request, as far as this service sees.
pub fn address(request: &Request) -> IpAddr {
    let address = request.remote_addr().as_socket_addr().map(|address| address.ip());
    address.unwrap_or(IpAddr::from([0, 0, 0, 0])).to_canonical()
}

async fn discard(request: &mut Request) {
    let body = request.take_body();
    if request.headers().contains_key(header::EXPECT) {
        // Its sender waits for a word before it sends the body, and the refusal is that word.
        return;
    }
    let read = async {
        let mut stream = body.into_bytes_stream();
        while stream.next().await.is_some_and(|part| part.is_ok()) {}
    };
    // Whoever sends more slowly than this does not get to read the refusal.
    let _ = tokio::time::timeout(DISCARD_LIMIT, read).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::API;

    #[test]
    fn what_is_open_is_where_the_api_is() {
        let of_api = OPEN.iter().filter(|path| path.starts_with("/api"));
        assert!(of_api.into_iter().all(|path| path.starts_with(API)));
    }
}
