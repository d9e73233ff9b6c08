//! The reservations that wait, in the order in which they are served.

use jiff::Timestamp;
use poem_openapi::{Enum, Object, OpenApi, payload::Json};
use runner_core::{
    Status,
    queue::{Place, Stand, outlook},
};

use super::Shared;

pub struct QueueApi(pub Shared);

/// A reservation that waits.
#[derive(Object)]
struct PlaceInfo {
    /// What the reservation will be called.
    id: String,
    /// Which kind of worker.
    profile: String,
    /// How many.
    count: u32,
    /// Who asked.
    owner: String,
    /// What for.
    purpose: String,
    /// Since when it waits.
    since: String,
    /// How far it has come.
    stand: StandName,
    /// How many of its workers other monitors have promised.
    elsewhere: u32,
    /// Its place among those of its profile; the first is 1.
    position: u32,
    /// In how many seconds it is likely to be served, where that can be told.
    #[oai(skip_serializing_if_is_none)]
    estimate_s: Option<u64>,
    /// What holds it up; nothing while workers come and go as usual.
    reasons: Vec<String>,
    /// What will free what it needs, the soonest first.
    chances: Vec<String>,
}

/// How far an entry has come.
#[derive(Enum)]
#[oai(rename_all = "snake_case")]
enum StandName {
    /// It waits for workers.
    Waiting,
    /// Its workers are promised, and being marked at their forge.
    Marking,
    /// It can be taken.
    Ready,
}

#[OpenApi]
impl QueueApi {
    /// List reservations that wait
    ///
    /// In the order in which they are served.
    #[oai(path = "/queue", method = "get", operation_id = "list_queue")]
    async fn list(&self) -> Json<Vec<PlaceInfo>> {
        let (status, now) = (self.0.status(), Timestamp::now());
        let told = |place: &Place| {
            let mut told = info(place, &status, now);
            told.reasons.extend(self.0.0.peers.iter().flat_map(|peers| peers.reasons(place)));
            told
        };
        Json(self.0.promises().queue.iter().map(told).collect())
    }
}

fn info(place: &Place, status: &Status, now: Timestamp) -> PlaceInfo {
    let (entry, told) = (&place.entry, outlook(place, status, now));
    PlaceInfo {
        id: entry.id.to_string(),
        profile: entry.profile.to_string(),
        count: entry.count,
        owner: entry.owner.clone(),
        purpose: entry.purpose.clone(),
        since: entry.since.to_string(),
        stand: match place.stand {
            Stand::Waiting => StandName::Waiting,
            Stand::Marking => StandName::Marking,
            Stand::Ready => StandName::Ready,
        },
        elsewhere: entry.elsewhere,
        position: place.ahead + 1,
        estimate_s: told.estimate.map(|about| about.as_secs()),
        reasons: told.reasons,
        chances: told.chances,
    }
}
