//! The pool as Servo's monitor tells it: counts by profile, and every runner.

use std::{
    fmt::Write,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, PoisonError},
};

use bytes::Bytes;
use jiff::Timestamp;
use poem::{
    Request, Response, handler,
    http::{StatusCode, header},
    web::Data,
};
use runner_core::{
    ReservationId, Status, WorkerName,
    hypervisor::InstanceState,
    queue::outlook,
    reservation::Reservation,
    status::{ProfileStatus, WorkerStatus},
    worker::Phase,
};
use serde_json::{Value, json};

use super::{Servo, text};
use crate::http::pool::target;

/// Before the pool's first look there is nothing to tell; it takes about so many seconds.
pub const FIRST_LOOK: u64 = 1;

/// `{"profile_runner_counts": …, "runners": […]}`.
#[handler]
pub fn as_json(servo: Data<&Arc<Servo>>, request: &Request) -> Response {
    let Some(Written { text, tag, .. }) = servo.dashboard() else { return not_yet() };
    let known = request.header(header::IF_NONE_MATCH).unwrap_or_default();
    let answer = Response::builder().header(header::ETAG, &tag);
    // A proxy that packs the answer says of the tag that it is a weak one.
    let mut known = known.split(',').map(|known| known.trim().trim_start_matches("W/"));
    if known.any(|known| known == tag || known == "*") {
        return answer.status(StatusCode::NOT_MODIFIED).finish();
    }
    answer.content_type("application/json").body(text)
}

/// The same, for people.
#[handler]
pub fn as_page(servo: Data<&Arc<Servo>>) -> Response {
    let status = servo.shared.status();
    if status.at.is_none() {
        return not_yet();
    }
    Response::builder().content_type("text/html; charset=utf-8").body(page(&status))
}

/// The same, for terminals.
#[handler]
pub fn as_lines(servo: Data<&Arc<Servo>>) -> Response {
    let status = servo.shared.status();
    if status.at.is_none() {
        return not_yet();
    }
    Response::builder().content_type("text/plain; charset=utf-8").body(lines(&status))
}

fn not_yet() -> Response {
    text::later("the pool has not been looked at yet", FIRST_LOOK)
}

/// The dashboard of a status, as JSON.
#[derive(Clone)]
pub struct Written {
    of: Arc<Status>,
    text: Bytes,
    /// What tells this text from others.
    tag: String,
}

impl Servo {
    /// The dashboard as JSON, written once for each status.
    fn dashboard(&self) -> Option<Written> {
        let status = self.shared.status();
        status.at?;
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(written) = &*written
            && Arc::ptr_eq(&written.of, &status)
        {
            return Some(written.clone());
        }
        let told = dashboard(&status, self.config.base_url.as_deref().unwrap_or_default());
        let text = Bytes::from(told.to_string());
        let mut hash = DefaultHasher::new();
        text.hash(&mut hash);
        let tag = format!("\"{:016x}\"", hash.finish());
        *written = Some(Written { of: status, text, tag });
        written.clone()
    }
}

fn dashboard(status: &Status, base_url: &str) -> Value {
    let counts = status.profiles.iter().map(|(name, profile)| {
        let built = status.images.iter().filter(|image| image.recipe.profile == *name);
        let built = built.map(|image| image.built_at).max();
        (name.to_string(), counts(profile, built, status.at))
    });
    let counts: serde_json::Map<String, Value> = counts.collect();
    let runners = status.workers.iter().map(|worker| {
        let held = worker.reservation.as_ref();
        let held = held.and_then(|id| status.reservations.iter().find(|held| held.id == *id));
        let mut told = runner(&worker.name, Some(worker), held, status);
        let id = id(&worker.name);
        told["screenshot_url"] = format!("{base_url}/runner/{}/screenshot.png", plain(&id)).into();
        told
    });
    json!({ "profile_runner_counts": counts, "runners": runners.collect::<Vec<_>>() })
}

/// A profile in Servo's numbers.
fn counts(profile: &ProfileStatus, built: Option<Timestamp>, now: Option<Timestamp>) -> Value {
    let age = built.zip(now).map(|(built, now)| now.duration_since(built).as_secs().max(0));
    json!({
        "target": target::target(profile),
        "healthy": target::healthy(profile),
        "started_or_crashed": target::starting(profile),
        "idle": profile.idle,
        "reserved": profile.reserved,
        "busy": profile.busy,
        "excess_healthy": target::excess(profile),
        "wanted": target::wanted(profile),
        // A length of time as Rust's serde writes one.
        "image_age": age.map(|secs| json!({ "secs": secs, "nanos": 0 })),
    })
}

/// `{id, runner}`.
pub fn runner(
    name: &WorkerName,
    worker: Option<&WorkerStatus>,
    held: Option<&Reservation>,
    status: &Status,
) -> Value {
    let profile = worker.and_then(|worker| worker.profile.clone());
    let profile = profile.or_else(|| held.map(|held| held.profile.clone()));
    let offered = status.offered.iter().find(|offered| Some(&offered.name) == profile.as_ref());
    let mut labels: Vec<String> = offered
        .map(|profile| profile.labels.iter().map(ToString::to_string).collect())
        .unwrap_or_default();
    labels.extend(profile.iter().map(ToString::to_string));
    if let Some(held) = held {
        labels = vec![
            format!("reserved-for:{}", held.id),
            format!("reserved-since:{}", held.since.as_second()),
            format!("reserved-by:{}", held.purpose),
        ];
    }
    let id = id(name);
    json!({
        "id": id,
        "runner": {
            "id": id,
            "guest_name": name,
            "profile": profile,
            "status": worker.map(|worker| word(&worker.phase)),
            "created_time": worker.and_then(|worker| worker.created_at).map(|at| at.to_string()),
            "job": worker.and_then(|worker| worker.job.as_ref()),
            "labels": labels,
        },
    })
}

/// `{id, runner}`, of one that another monitor has.
pub fn runner_elsewhere(name: &WorkerName, monitor: &str, held: &ReservationId) -> Value {
    let id = id(name);
    json!({
        "id": id,
        "runner": {
            "id": id,
            "guest_name": name,
            "monitor": monitor,
            "status": "Reserved",
            "labels": [format!("reserved-for:{held}")],
        },
    })
}

/// What a worker is called: its number, which no other worker of this service ever had.
pub fn id(name: &WorkerName) -> Value {
    name.parts().map_or_else(|| Value::from(name.as_str()), |(_, serial)| Value::from(serial))
}

/// An id as it is written in a path.
fn plain(id: &Value) -> String {
    id.as_str().map_or_else(|| id.to_string(), str::to_owned)
}

/// The worker that is called this: by number, or by its whole name.
pub fn worker<'a>(status: &'a Status, id: &str) -> Option<&'a WorkerStatus> {
    let is_it = |name: &WorkerName| {
        name.as_str() == id || name.parts().is_some_and(|(_, serial)| serial.to_string() == id)
    };
    status.workers.iter().find(|worker| is_it(&worker.name))
}

/// The machine of a profile that was made last, of those that run.
pub fn newest_machine<'a>(status: &'a Status, profile: &str) -> Option<&'a WorkerName> {
    let is_its = |worker: &&WorkerStatus| {
        let machine = worker.instance.as_ref();
        let runs =
            machine.is_some_and(|machine| !matches!(machine.state, InstanceState::Stopped(_)));
        runs && worker.profile.as_ref().is_some_and(|name| name.as_str() == profile)
    };
    let newest = status.workers.iter().filter(is_its).max_by_key(|worker| worker.created_at);
    newest.map(|worker| &worker.name)
}

/// Servo's word for a phase.
fn word(phase: &Phase) -> &'static str {
    match phase {
        Phase::Starting | Phase::Unseen => "StartedOrCrashed",
        Phase::Idle => "Idle",
        Phase::Reserved => "Reserved",
        Phase::Busy => "Busy",
        Phase::Over(_) => "DoneOrUnregistered",
    }
}

fn page(status: &Status) -> String {
    let mut page = String::from(
        "<table><tr><th>profile</th><th>target</th><th>healthy</th><th>idle</th><th>reserved</th><th>busy</th></tr>\n",
    );
    let told = dashboard(status, "");
    let number = |counts: &Value, name: &str| counts[name].as_u64().unwrap_or(0);
    for (name, counts) in told["profile_runner_counts"].as_object().into_iter().flatten() {
        let cells =
            ["target", "healthy", "idle", "reserved", "busy"].map(|key| number(counts, key));
        let cells: String = cells.iter().map(|cell| format!("<td>{cell}</td>")).collect();
        let _ = writeln!(page, "<tr><td>{}</td>{cells}</tr>", escaped(name));
    }
    page +=
        "</table>\n<table><tr><th>runner</th><th>profile</th><th>status</th><th>labels</th></tr>\n";
    for runner in told["runners"].as_array().into_iter().flatten() {
        let (id, runner) = (plain(&runner["id"]), &runner["runner"]);
        let text = |name: &str| escaped(runner[name].as_str().unwrap_or_default());
        let labels = runner["labels"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let labels: Vec<String> = labels.map(escaped).collect();
        let _ = writeln!(
            page,
            "<tr><td><a href=\"/runner/{id}/screenshot.png\">{}</a></td><td>{}</td><td>{}</td><td>{}</td></tr>",
            text("guest_name"),
            text("profile"),
            text("status"),
            labels.join(" "),
            id = escaped(&id),
        );
    }
    page + "</table>\n"
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn lines(status: &Status) -> String {
    let mut text = String::from(">>> queue\n");
    let now = status.at.unwrap_or_default();
    for place in &status.queue {
        let entry = &place.entry;
        let told = outlook(place, status, now);
        let _ = write!(
            text,
            "- {} ({} of {} for {}): position {}, waited {} s",
            entry.id,
            entry.count,
            entry.profile,
            entry.owner,
            place.ahead + 1,
            told.waited.as_secs()
        );
        if let Some(about) = told.estimate {
            let _ = write!(text, ", about {} s to go", about.as_secs());
        }
        text += "\n";
        for reason in told.reasons {
            let _ = writeln!(text, "  {reason}");
        }
    }
    text += "\n>>> servers\n- this one\n";
    for (name, profile) in &status.profiles {
        let told = counts(profile, None, None);
        let _ = writeln!(
            text,
            "    - {name}\n      {} idle, {} healthy, {} target",
            told["idle"], told["healthy"], told["target"]
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_text_and_no_markup() {
        assert_eq!(escaped("<b title=\"&\">"), "&lt;b title=&quot;&amp;&quot;&gt;");
    }
}
