//! Answers why: for jobs, for workers, and from what the flight recorder kept.

use std::collections::BTreeMap;

use jiff::Timestamp;
use poem_openapi::{
    ApiResponse, Object, OpenApi,
    param::{Path, Query},
    payload::{Binary, Json},
};
use runner_core::{
    ReservationId,
    explain::{self, Explanation},
    plan::Subject,
    recorder::FlightRecord,
};

use super::{Shared, jobs::job_id, problem::Problem, shell::worker_name};
use crate::config::local_forge;

/// How many events an explanation rests on at most.
const EVENTS: u32 = 500;

pub struct ExplainApi(pub Shared);

/// An answer, from its gist to its grounds.
#[derive(Object)]
struct ExplanationInfo {
    /// What it is about.
    subject: String,
    /// The answer in one sentence.
    summary: String,
    /// In how many seconds what is waited for is likely to happen, where that can be told.
    #[oai(skip_serializing_if_is_none)]
    estimate_seconds: Option<f64>,
    /// What it rests on: a chain of reasons, or steps with their times.
    lines: Vec<LineInfo>,
}

/// One reason, or one step.
#[derive(Object)]
struct LineInfo {
    /// When it happened, if it is a step.
    #[oai(skip_serializing_if_is_none)]
    at: Option<String>,
    /// It in words.
    text: String,
}

/// What was seen of a worker just before its machine was destroyed.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
struct FlightInfo {
    worker: String,
    profile: Option<String>,
    /// Its last job, where the forge told.
    job: Option<String>,
    created_at: Option<String>,
    /// When this was seen.
    at: String,
    /// Why it was retired.
    why: String,
    /// Why its machine had stopped, if it had.
    exit: Option<String>,
    /// The end of what it wrote to its console.
    console: String,
    /// What its guest said of itself.
    vitals: BTreeMap<String, String>,
    /// When the kept screenshot was taken, if there is one.
    screenshot_at: Option<String>,
    /// What could not be had, and why.
    missing: Vec<String>,
}

#[derive(ApiResponse)]
enum LastPicture {
    /// The machine's screen.
    #[oai(status = 200, content_type = "image/png")]
    Png(Binary<Vec<u8>>),
}

#[OpenApi]
impl ExplainApi {
    /// Explain a job
    ///
    /// Why it waits, what holds it, what will free it and when that is likely; or each step of one that runs
    /// or is over.
    #[oai(path = "/jobs/:id/explain", method = "get", operation_id = "explain_job")]
    async fn job(&self, id: Path<String>) -> Result<Json<ExplanationInfo>, Problem> {
        let job = self.0.0.queue.job(&job_id(&id)?).await?;
        let status = self.0.status();
        let subjects = explain::subjects_of_job(&job, &status);
        let events = self.0.0.events.about(&subjects, EVENTS).await?;
        let mut told = explain::local_job(&job, &local_forge(), &status, &events, Timestamp::now());
        let waits = |id: &ReservationId| status.queue.iter().find(|place| place.entry.id == *id);
        let place = job.spec.reserved_for.as_ref().and_then(waits);
        if let (Some(peers), Some(place)) = (&self.0.0.peers, place) {
            let line = |text| explain::Line { at: None, text };
            told.lines.extend(peers.reasons(place).into_iter().map(line));
        }
        Ok(Json(told.into()))
    }

    /// Explain a worker
    ///
    /// What it does, or what became of it, with what was seen of it at its end.
    #[oai(path = "/workers/:name/explain", method = "get", operation_id = "explain_worker")]
    async fn worker(&self, name: Path<String>) -> Result<Json<ExplanationInfo>, Problem> {
        let worker = worker_name(&name)?;
        let events = self.0.0.events.about(&[Subject::Worker(worker.clone())], EVENTS).await?;
        let flight = self.0.0.pool.store().flight(worker.clone()).await?;
        let status = self.0.status();
        let told = explain::worker(&worker, &status, &events, flight.as_ref(), Timestamp::now());
        told.map(|told| Json(told.into()))
            .ok_or_else(|| Problem::not_found(format!("nothing is known of worker {worker}")))
    }

    /// List what was seen of ended workers, newest first
    #[oai(path = "/flights", method = "get", operation_id = "list_flights")]
    async fn flights(
        &self,
        /// How many at most.
        #[oai(default = "default_limit", validator(minimum(value = "1"), maximum(value = "200")))]
        limit: Query<u32>,
    ) -> Result<Json<Vec<FlightInfo>>, Problem> {
        let flights = self.0.0.pool.store().flights(limit.0).await?;
        Ok(Json(flights.into_iter().map(FlightInfo::from).collect()))
    }

    /// Show what was seen of an ended worker
    #[oai(path = "/flights/:worker", method = "get", operation_id = "show_flight")]
    async fn flight(&self, worker: Path<String>) -> Result<Json<FlightInfo>, Problem> {
        let worker = worker_name(&worker)?;
        match self.0.0.pool.store().flight(worker.clone()).await? {
            Some(flight) => Ok(Json(flight.into())),
            None => Err(nothing_kept(worker.as_str())),
        }
    }

    /// Show an ended worker's last screen
    #[oai(
        path = "/flights/:worker/screenshot",
        method = "get",
        operation_id = "show_flight_screen"
    )]
    async fn screenshot(&self, worker: Path<String>) -> Result<LastPicture, Problem> {
        let worker = worker_name(&worker)?;
        match self.0.0.pool.store().flight_screenshot(worker.clone()).await? {
            Some(png) => Ok(LastPicture::Png(Binary(png))),
            None => Err(nothing_kept(worker.as_str())),
        }
    }
}

fn nothing_kept(worker: &str) -> Problem {
    Problem::not_found(format!(
        "nothing of the kind is kept of worker {worker}; it is kept of the last 200 that ended"
    ))
}

impl From<Explanation> for ExplanationInfo {
    fn from(told: Explanation) -> Self {
        let line = |line: explain::Line| LineInfo {
            at: line.at.map(|at| at.to_string()),
            text: line.text,
        };
        Self {
            subject: told.subject,
            summary: told.summary,
            estimate_seconds: told.estimate.map(|estimate| estimate.as_secs_f64()),
            lines: told.lines.into_iter().map(line).collect(),
        }
    }
}

impl From<FlightRecord> for FlightInfo {
    fn from(flight: FlightRecord) -> Self {
        Self {
            worker: flight.worker.to_string(),
            profile: flight.profile.map(|profile| profile.to_string()),
            job: flight.job.map(|job| job.to_string()),
            created_at: flight.created_at.map(|at| at.to_string()),
            at: flight.at.to_string(),
            why: flight.why,
            exit: flight.exit.map(|exit| exit.to_string()),
            console: flight.console,
            vitals: flight.vitals,
            screenshot_at: flight.screenshot_at.map(|at| at.to_string()),
            missing: flight.missing,
        }
    }
}

fn default_limit() -> u32 {
    50
}
