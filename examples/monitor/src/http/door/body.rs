//! Bodies: how large one may be, and how slowly it may come.

use std::{
    io::{Error, ErrorKind},
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, stream};
use poem::{
    Body, Request,
    http::{StatusCode, header},
};
use tokio::time::{Instant, timeout_at};

use crate::{config::HttpConfig, http::problem::Problem, remote::MAX_DELIVERY_BYTES};

/// How fast a body must come in the long run, in bytes a second.
const SLOWEST: u64 = 1024;

/// The largest body of a machine's request, in bytes.
const MOST_OF_MACHINES: u64 = 64 << 10;

/// What every body must keep to.
#[derive(Clone, Copy)]
pub struct Guard {
    limit: u64,
    patience: Duration,
    /// What may be done about the limit.
    way_out: &'static str,
}

/// Whether a body was cut off, and why.
#[derive(Clone, Default)]
pub struct Cut(Arc<OnceLock<Reason>>);

#[derive(Clone, Copy)]
enum Reason {
    TooLarge { limit: u64, way_out: &'static str },
    TooSlow { patience: Duration },
    Broken,
}

impl Guard {
    pub fn new(http: &HttpConfig) -> Self {
        let way_out = "raise body_limit in [http]";
        Self { limit: http.body_limit, patience: http.body_timeout, way_out }
    }

    /// For deliveries of webhooks, whose senders nobody knows before the body was read.
    pub fn of_deliveries(http: &HttpConfig) -> Self {
        let way_out = "no forge sends more";
        Self { limit: MAX_DELIVERY_BYTES, patience: http.body_timeout, way_out }
    }

    /// For machines' requests, which have little to say.
    pub fn of_machines(http: &HttpConfig) -> Self {
        let way_out = "no machine needs to say more";
        Self { limit: MOST_OF_MACHINES, patience: http.body_timeout, way_out }
    }

    /// Refuses a body by what the head of the request says of it.
    pub fn check(&self, request: &Request) -> Result<(), Problem> {
        let headers = request.headers();
        let length = headers.get(header::CONTENT_LENGTH);
        match length.map(|length| length.to_str().ok()?.parse::<u64>().ok()) {
            Some(Some(length)) if length > self.limit => {
                let Self { limit, way_out, .. } = self;
                Err(Problem::too_large(format!(
                    "the body has {length} bytes and may have {limit}; {way_out}"
                )))
            }
            Some(Some(_)) => Ok(()),
            Some(None) => Err(Problem::bad_request("Content-Length is not a number")),
            None if headers.contains_key(header::TRANSFER_ENCODING) => Err(Problem::new(
                StatusCode::LENGTH_REQUIRED,
                "send the body with a Content-Length",
            )),
            None => Ok(()),
        }
    }

    /// Cuts the body off when it is too large or too slow after all.
    pub fn guard(self, request: &mut Request) -> Cut {
        let cut = Cut::default();
        if request.headers().contains_key(header::UPGRADE) {
            return cut;
        }
        let parts = request.take_body().into_bytes_stream();
        let (told, began) = (cut.clone(), Instant::now());
        let guarded = stream::unfold((parts, 0_u64), move |(mut parts, before)| {
            let told = told.clone();
            async move {
                let due = Duration::from_secs(before / SLOWEST);
                let until = (began + self.patience + due).min(Instant::now() + self.patience);
                let (part, seen) = match timeout_at(until, parts.next()).await {
                    Ok(None) => return None,
                    Ok(Some(Ok(part))) => {
                        let seen = before + part.len() as u64;
                        if seen > self.limit {
                            {
                                let Self { limit, way_out, .. } = self;
                                (Err(told.tell(Reason::TooLarge { limit, way_out })), seen)
                            }
                        } else {
                            (Ok(part), seen)
                        }
                    }
                    Ok(Some(Err(_))) => (Err(told.tell(Reason::Broken)), before),
                    Err(_) => (Err(told.tell(Reason::TooSlow { patience: self.patience })), before),
                };
                Some((part as Result<Bytes, Error>, (parts, seen)))
            }
        });
        request.set_body(Body::from_bytes_stream(guarded));
        cut
    }
}

impl Cut {
    /// What its sender should know, if it was cut off.
    pub fn why(&self) -> Option<Problem> {
        let problem = match *self.0.get()? {
            Reason::TooLarge { limit, way_out } => {
                Problem::too_large(format!("the body has more than {limit} bytes; {way_out}"))
            }
            Reason::TooSlow { patience } => Problem::new(
                StatusCode::REQUEST_TIMEOUT,
                format!(
                    "the body came too slowly: at least {SLOWEST} bytes a second are expected, and \
                     no silence of {patience:?}; see body_timeout in [http]"
                ),
            ),
            Reason::Broken => Problem::bad_request("the body ended early"),
        };
        Some(problem)
    }

    fn tell(&self, reason: Reason) -> Error {
        // The first reason is the one.
        let _ = self.0.set(reason);
        Error::new(ErrorKind::InvalidData, "the body was cut off")
    }
}
