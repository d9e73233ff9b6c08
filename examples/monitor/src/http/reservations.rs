//! Reservations: idle workers for oneself, until a time.

use std::time::Duration;

use poem::http::StatusCode;
use poem_openapi::{ApiResponse, Object, OpenApi, param::Path, payload::Json};
use runner_core::{
    Error, ProfileName, ReservationId,
    reservation::{Reservation, ReserveRequest},
};
use serde::Deserialize;

use super::{
    API, Operate, Shared,
    problem::Problem,
    strict::Strict,
    workers::{after, period},
};

/// How long a reservation may hold.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

pub struct ReservationsApi(pub Shared);

/// What to reserve.
#[derive(Object, Deserialize)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
struct NewReservation {
    /// Which kind of worker.
    profile: String,
    /// How many: all of them or none.
    #[serde(default = "one")]
    #[oai(default = "one", validator(minimum(value = "1"), maximum(value = "1000")))]
    count: u32,
    /// What for.
    #[serde(default)]
    #[oai(default, validator(max_length = 1000))]
    purpose: String,
    /// How long, such as `30m` or `4h`. At most 7 days.
    duration: String,
}

/// What to reserve under a name of one's own.
#[derive(Object, Deserialize)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
struct NamedReservation {
    /// Which kind of worker.
    profile: String,
    /// How many: all of them or none.
    #[serde(default = "one")]
    #[oai(default = "one", validator(minimum(value = "1"), maximum(value = "1000")))]
    count: u32,
    /// On whose behalf, such as a repository; the holder of the token, if nobody's.
    #[oai(validator(max_length = 300))]
    owner: Option<String>,
    /// What for.
    #[serde(default)]
    #[oai(default, validator(max_length = 1000))]
    purpose: String,
    /// How long from now on, such as `60s` or `4h`. At most 7 days.
    duration: String,
}

/// A promise of workers to one holder until a time.
#[derive(Object)]
struct ReservationInfo {
    /// Its name: jobs that ask for it run on its workers, and no others do.
    id: String,
    /// Which kind of worker.
    profile: String,
    /// Who asked.
    owner: String,
    /// What for.
    purpose: String,
    /// Since when.
    since: String,
    /// Until when it holds.
    until: String,
    /// The workers promised.
    workers: Vec<String>,
}

#[derive(ApiResponse)]
enum Reserved {
    /// The workers are promised, durably.
    #[oai(status = 201)]
    Made(
        Json<ReservationInfo>,
        /// Where it is.
        #[oai(header = "Location")]
        String,
    ),
}

#[derive(ApiResponse)]
enum Released {
    /// It does not hold any more.
    #[oai(status = 204)]
    Done,
}

#[OpenApi]
impl ReservationsApi {
    /// Reserve idle workers
    ///
    /// All that are asked for or none: too few that are idle are refused with 503, and who asks may come
    /// again.
    #[oai(path = "/reservations", method = "post", operation_id = "make_reservation")]
    async fn make(
        &self,
        by: Operate,
        wish: Json<Strict<NewReservation>>,
    ) -> Result<Reserved, Problem> {
        let Json(Strict(wish)) = wish;
        if !(1..=1000).contains(&wish.count) {
            return Err(Problem::bad_request("count: it must be 1 to 1000"));
        }
        let time = period("duration", &wish.duration, LONGEST)?;
        let profile = ProfileName::new(&wish.profile).map_err(|_| {
            Problem::not_found(format!("profile {:?} does not exist", wish.profile))
        })?;
        let request = ReserveRequest {
            id: ReservationId::new(format!("r-{:016x}", rand::random::<u64>()))?,
            profile,
            count: wish.count,
            at_least: None,
            owner: by.name().to_string(),
            purpose: wish.purpose,
            until: after(time),
        };
        match self.0.0.pool.reserve(request).await {
            Ok(reservation) => {
                let location = format!("{API}/reservations/{}", reservation.id);
                Ok(Reserved::Made(Json((&reservation).into()), location))
            }
            Err(error) => Err(refused(error)),
        }
    }

    /// Reserve idle workers under a name of one's own, or make that last
    ///
    /// All that are asked for or none, and labelled at their forge when this is answered. Asking again for one
    /// that holds, in case the answer was lost, has it hold as long as is said now, or longer if it would
    /// anyway. Too few that are idle are refused with 503, and so is a forge that labels none: nothing is
    /// reserved then.
    #[oai(path = "/reservations/:id", method = "put", operation_id = "put_reservation")]
    async fn put(
        &self,
        by: Operate,
        id: Path<String>,
        wish: Json<Strict<NamedReservation>>,
    ) -> Result<Json<ReservationInfo>, Problem> {
        let Json(Strict(wish)) = wish;
        if !(1..=1000).contains(&wish.count) {
            return Err(Problem::bad_request("count: it must be 1 to 1000"));
        }
        if wish.owner.as_ref().is_some_and(|owner| owner.len() > 300) {
            return Err(Problem::bad_request("owner: it must be 300 bytes at most"));
        }
        let until = after(period("duration", &wish.duration, LONGEST)?);
        let profile = ProfileName::new(&wish.profile).map_err(|_| {
            Problem::not_found(format!("profile {:?} does not exist", wish.profile))
        })?;
        let request = ReserveRequest {
            id: ReservationId::new(&id.0)?,
            profile: profile.clone(),
            count: wish.count,
            at_least: None,
            owner: wish.owner.unwrap_or_else(|| by.name().to_string()),
            purpose: wish.purpose,
            until,
        };
        let (owner, purpose) = (request.owner.clone(), request.purpose.clone());
        let held = self.0.0.pool.reserve(request).await.map_err(refused)?;
        if (&held.profile, held.count, &held.owner, &held.purpose)
            != (&profile, wish.count, &owner, &purpose)
        {
            let detail = format!("reservation {} is another one; make up a name for each", held.id);
            return Err(Problem::new(StatusCode::CONFLICT, detail));
        }
        let held = match held.until < until {
            true => self.0.0.pool.prolong(&held.id, until).await?,
            false => held,
        };
        match self.0.labelled(held).await {
            Ok(held) => Ok(Json((&held).into())),
            Err(not) => Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, not.told())),
        }
    }

    /// List reservations
    #[oai(path = "/reservations", method = "get", operation_id = "list_reservations")]
    async fn list(&self) -> Json<Vec<ReservationInfo>> {
        Json(self.0.promises().reservations.iter().map(ReservationInfo::from).collect())
    }

    /// Show a reservation
    #[oai(path = "/reservations/:id", method = "get", operation_id = "show_reservation")]
    async fn show(&self, id: Path<String>) -> Result<Json<ReservationInfo>, Problem> {
        let status = self.0.promises();
        let found = status.reservations.iter().find(|held| held.id.as_str() == id.0);
        found
            .map(|held| Json(held.into()))
            .ok_or_else(|| Problem::not_found(format!("reservation {:?} does not exist", id.0)))
    }

    /// End a reservation
    ///
    /// Its workers are free again, those that other monitors have for it included. Fine when it has ended already.
    #[oai(path = "/reservations/:id", method = "delete", operation_id = "end_reservation")]
    async fn release(&self, _by: Operate, id: Path<String>) -> Result<Released, Problem> {
        // What cannot be a name holds nothing.
        if let Ok(id) = ReservationId::new(&id.0) {
            if let Some(peers) = &self.0.0.peers {
                peers.release(&id).await;
            }
            self.0.0.pool.release(&id).await?;
        }
        Ok(Released::Done)
    }
}

impl From<&Reservation> for ReservationInfo {
    fn from(held: &Reservation) -> Self {
        Self {
            id: held.id.to_string(),
            profile: held.profile.to_string(),
            owner: held.owner.clone(),
            purpose: held.purpose.clone(),
            since: held.since.to_string(),
            until: held.until.to_string(),
            workers: held.workers.iter().map(ToString::to_string).collect(),
        }
    }
}

/// What the pool refused. Too few idle workers are worth another try.
fn refused(error: Error) -> Problem {
    match error {
        error @ Error::Exhausted { .. } => {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
        }
        error => error.into(),
    }
}

fn one() -> u32 {
    1
}
