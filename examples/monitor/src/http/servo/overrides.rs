//! Policy overrides: what there is to be of each profile, for a while.

use std::{collections::BTreeMap, sync::Arc};

use poem::{
    IntoResponse, Request, Response, handler,
    http::StatusCode,
    web::{Data, Json},
};
use runner_core::{
    Error, ProfileName,
    error::chain,
    policy::{OverrideRequest, OverrideStatus, USUAL_LENGTH},
};

use super::{
    Servo,
    asked::{self, Refused},
};
use crate::{
    http::{text, workers::after},
    tokens::Holder,
};

/// How much of each profile.
type Counts = BTreeMap<ProfileName, u32>;

/// The override that holds, as it is met: `{profile: count}`, or `null`.
#[handler]
pub fn show(servo: Data<&Arc<Servo>>) -> Response {
    let status = servo.shared.status();
    Json(status.policy.as_ref().map(granted)).into_response()
}

/// Begins one: `?profile=count`, as often as there are profiles to change.
#[handler]
pub async fn begin(request: &Request, servo: Data<&Arc<Servo>>) -> Response {
    let begun = async {
        let request = OverrideRequest {
            counts: counts(request)?,
            by: holder(request),
            purpose: "asked for by Servo's interface".to_owned(),
            until: after(USUAL_LENGTH),
        };
        servo.shared.0.pool.override_policy(request).await.map_err(|error| refused(&error))
    };
    match begun.await {
        Ok(begun) => Json(granted(&begun)).into_response(),
        Err(refused) => *refused,
    }
}

/// Ends the one that holds: what it was, or `null`.
#[handler]
pub async fn end(request: &Request, servo: Data<&Arc<Servo>>) -> Response {
    match servo.shared.0.pool.end_override(&holder(request)).await {
        Ok(ended) => Json(ended.map(|ended| ended.counts)).into_response(),
        Err(error) => *refused(&error),
    }
}

/// As much as each of its profiles gets.
fn granted(holds: &OverrideStatus) -> Counts {
    let counts = holds.policy.counts.iter().map(|(name, asked)| {
        let allotted = holds.allotted.get(name);
        (name.clone(), allotted.map_or(*asked, |allotted| allotted.granted))
    });
    counts.collect()
}

fn counts(request: &Request) -> Result<Counts, Refused> {
    let mut counts = Counts::new();
    for (key, count) in asked::parameters(request)? {
        let number =
            count.parse::<u32>().ok().filter(|_| count.bytes().all(|b| b.is_ascii_digit()));
        let Some(number) = number else {
            return Err(asked::bad(format!("{key} must be a number of runners, not {count:?}")));
        };
        counts.insert(asked::profile(&key)?, number);
    }
    if counts.is_empty() {
        let detail = "say how many there are to be of which profile: ?PROFILE=COUNT";
        return Err(asked::bad(detail.to_owned()));
    }
    Ok(counts)
}

fn holder(request: &Request) -> String {
    request.data::<Holder>().map_or_else(|| "somebody".to_owned(), |holder| holder.name.to_string())
}

fn refused(error: &Error) -> Refused {
    let status = match error {
        Error::NotFound { .. } => StatusCode::NOT_FOUND,
        Error::Busy { .. } => StatusCode::CONFLICT,
        Error::Invalid { .. } => StatusCode::BAD_REQUEST,
        _ => {
            tracing::error!(error = chain(error), "An override failed.");
            return Box::new(text::later(format!("{error}; try again"), 5));
        }
    };
    Box::new(text::refusal(status, error.to_string()))
}
