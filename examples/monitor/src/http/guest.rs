//! What machines are served, at an address of their own: nothing else is there, and nobody else is let in.
//!
//! Each request is a machine's that proves which it is (`known`). The API's tokens mean nothing here, and a
//! machine's secret means nothing there.

use std::{path::PathBuf, sync::Arc};

use poem::{
    Endpoint, EndpointExt, IntoResponse, Request, Response, Route,
    endpoint::StaticFilesEndpoint,
    get, handler,
    http::{HeaderValue, Method, StatusCode, header},
    post,
    web::Data,
};
use runner_core::error::chain;

use super::{
    door::{Guard, Pace},
    text,
};
use crate::{
    config::{HttpConfig, ServoConfig},
    guests::Guests,
};

mod hooks;
mod known;

pub use hooks::Hooks;
pub use known::Guest;

/// What is served as it is, in directories.
#[derive(Debug, Clone, Default)]
pub struct Files {
    /// What images are made of.
    pub image_deps: Option<PathBuf>,
    /// What machines would else fetch from afar, such as mirrors of repositories.
    pub cache: Option<PathBuf>,
}

impl Files {
    /// Those of Servo's interface.
    pub fn of(servo: &ServoConfig) -> Self {
        Self { image_deps: servo.image_deps.clone(), cache: servo.cache.clone() }
    }
}

/// Below these paths, whoever is in a network of machines' needs no further proof.
const FILES: [&str; 2] = ["/image-deps/", "/cache/"];

/// Every path that machines are served at.
pub fn routes(guests: Guests, files: Files, http: &HttpConfig) -> impl Endpoint + use<> {
    let mut route = Route::new()
        .at("/github-jitconfig", get(jit_config))
        .at("/boot", get(boot))
        .at("/job-started", post(hooks::job_started))
        .at("/job-completed", post(hooks::job_completed));
    for (path, directory) in [("/image-deps", files.image_deps), ("/cache", files.cache)] {
        if let Some(directory) = directory {
            route = route.nest(path, StaticFilesEndpoint::new(directory));
        }
    }
    let rate = guests.config().rate;
    let fence = Arc::new(Fence {
        pace: rate.map(|rate| Pace::new(rate, "asks for more", "rate in [guests]")),
        body: Guard::of_machines(http),
        guests: guests.clone(),
    });
    route.data(guests).around(move |endpoint, request| {
        let fence = fence.clone();
        async move { Ok(fence.pass(endpoint, request).await) }
    })
}

/// What every request passes.
struct Fence {
    guests: Guests,
    body: Guard,
    pace: Option<Pace>,
}

impl Fence {
    async fn pass<E: Endpoint>(&self, endpoint: Arc<E>, mut request: Request) -> Response {
        let (method, path) = (request.method().clone(), request.original_uri().path().to_owned());
        let mut response = match self.admit(&mut request).await {
            Err(refusal) => *refusal,
            Ok(()) => {
                let cut = self.body.guard(&mut request);
                let answer = endpoint.call(request).await;
                match (cut.why(), answer) {
                    (Some(why), _) => text::of(why),
                    (None, Ok(output)) => text::of_response(output.into_response()).await,
                    (None, Err(error)) => text::of_error(error),
                }
            }
        };
        if !matches!(method, Method::GET | Method::HEAD) || response.status().is_client_error() {
            let status = response.status().as_u16();
            tracing::debug!(%method, path, status, "A machine asked.");
        }
        let headers = response.headers_mut();
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
        response
    }

    async fn admit(&self, request: &mut Request) -> Result<(), Box<Response>> {
        self.body.check(request).map_err(|problem| Box::new(text::of(problem)))?;
        let from = known::address(request, &self.guests.config().proxies);
        let from =
            from.map_err(|problem| Box::new(text::refusal(StatusCode::BAD_REQUEST, problem)))?;
        if let (Some(pace), Some(address)) = (&self.pace, from) {
            match pace.check(address) {
                Ok(()) => (),
                Err(refusal) => return Err(Box::new(text::of_response(*refusal).await)),
            }
        }
        let path = request.original_uri().path();
        let is_file = FILES.iter().any(|files| path.starts_with(files));
        let is_near = from.is_some_and(|address| self.guests.config().is_machines(address));
        let proves = request.headers().contains_key(header::AUTHORIZATION);
        if is_file && is_near && !proves {
            return Ok(());
        }
        let guest = known::guest(request, &self.guests, from).await?;
        request.set_data(guest);
        Ok(())
    }
}

/// The secret of this machine's runner as a JSON string, once; then, and until there is one, `null`.
#[handler]
async fn jit_config(guest: Guest, guests: Data<&Guests>) -> Response {
    match guests.take_secret(&guest.0).await {
        Ok(secret) => {
            let secret = secret.as_ref().map(|secret| secret.expose().as_str());
            tracing::info!(worker = %guest.0, handed = secret.is_some(), "A machine asked for its runner's secret.");
            poem::web::Json(secret).into_response()
        }
        Err(error) => failed(&error),
    }
}

/// The boot script of this machine's profile, as it was when the machine was made.
#[handler]
async fn boot(guest: Guest, guests: Data<&Guests>) -> Response {
    match guests.boot_script(&guest.0).await {
        Ok(Some(script)) => {
            Response::builder().content_type("text/plain; charset=utf-8").body(script)
        }
        Ok(None) => {
            let detail = format!(
                "the profile of worker {} has no boot script; put one into \
                 boot_scripts of [guests], as PROFILE/boot-script",
                guest.0
            );
            text::refusal(StatusCode::NOT_FOUND, detail)
        }
        Err(error) => failed(&error),
    }
}

fn failed(error: &runner_core::Error) -> Response {
    tracing::error!(error = chain(error), "A machine could not be served.");
    text::later(format!("{error}; try again"), 2)
}
