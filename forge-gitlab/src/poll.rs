//! Asks for the jobs of one profile, one at a time, while there is room for them, and takes them in.

use std::{sync::Arc, time::Duration};

use runner_core::{ProfileName, Result, access, error::chain};
use tokio::time::sleep;

use crate::{
    client::{self, pause},
    forge::{Health, Inner, end},
    images::Choice,
    job::LiveJob,
    jobs::{Asked, Asker},
    payload::Payload,
    terms::Terms,
    update::{self, Reason, Updated, Verdict},
};

/// How long to wait when a queue changes again and again and there is never a job for us.
const AT_ONCE: Duration = Duration::from_millis(100);

/// Polls for the life of the forge.
pub(crate) async fn poll(inner: Arc<Inner>, profile: ProfileName) {
    let mut asker = Asker::new(inner.client.clone(), inner.system_id.clone());
    let mut failures = 0;
    loop {
        wait_for_room(&inner, &profile).await;
        let token = inner.tokens.token(&profile).await;
        // Not to be dropped while it waits: GitLab may have given a job to it.
        let wait = match asker.ask(&token).await {
            Ok(asked) => {
                let healthy = match &asked {
                    Asked::Unknown(why) => Health::Troubled(why.clone()),
                    _ => Health::Well,
                };
                inner.set_health(&profile, healthy);
                match take(&inner, &profile, asked).await {
                    Ok(wait) => {
                        failures = 0;
                        wait
                    }
                    Err(error) => {
                        tracing::error!(%profile, error = chain(&error), "A job could not be taken in.");
                        failures += 1;
                        pause(failures + 3)
                    }
                }
            }
            Err(error) => {
                failures += 1;
                inner.set_health(&profile, Health::Troubled(chain(&error)));
                match error.retry() {
                    runner_core::Retry::After(wait) => wait,
                    _ => pause(failures + 3),
                }
            }
        };
        sleep(wait).await;
    }
}

async fn wait_for_room(inner: &Inner, profile: &ProfileName) {
    let (mut paused, mut terms) = (inner.paused.subscribe(), inner.terms.subscribe());
    loop {
        // Listen before looking, so that nothing falls between.
        let room = inner.room.notified();
        let mut room = std::pin::pin!(room);
        room.as_mut().enable();
        let is_paused = paused.borrow_and_update().holds(profile);
        let is_offered = terms.borrow_and_update().offers(profile);
        if is_offered && !is_paused && inner.state().has_room(profile, inner.config.limits.ahead) {
            return;
        }
        tokio::select! {
            () = room => (),
            _ = paused.changed() => (),
            _ = terms.changed() => (),
        }
    }
}

/// Takes an answer in. Returns how long to wait before the next question.
async fn take(inner: &Arc<Inner>, profile: &ProfileName, asked: Asked) -> Result<Duration> {
    match asked {
        Asked::None { changed: true } => Ok(AT_ONCE),
        Asked::None { changed: false } => Ok(inner.config.limits.check_interval),
        Asked::Unknown(_) => {
            inner.tokens.doubt(profile);
            Ok(inner.config.limits.check_interval.max(Duration::from_secs(1)))
        }
        Asked::Unreadable(id, token) => {
            refuse_unread(inner, id, token.expose()).await;
            Ok(Duration::ZERO)
        }
        Asked::Job(payload, body) => {
            accept(inner, profile, *payload, &body).await?;
            Ok(Duration::ZERO)
        }
    }
}

/// Writes a job down, says who it is for, and begins to attend to it.
async fn accept(
    inner: &Arc<Inner>,
    came_by: &ProfileName,
    payload: Payload,
    body: &[u8],
) -> Result<()> {
    let terms = inner.terms();
    let choice = terms.images.choose(&payload);
    let profile = match &choice {
        Choice::Profile(profile) => profile.clone(),
        Choice::AsAsked | Choice::NoServices => came_by.clone(),
    };
    let refusal = refusal(&terms, &profile, &payload, &choice);
    let (id, project) = (payload.id, payload.job_info.project_id);
    let jobs = inner.config.state_dir.join("jobs");
    let limit = inner.config.limits.trace_bytes;
    let now = inner.clock.now();
    let token = payload.token.clone();
    let begun = LiveJob::begin(&jobs, body, payload, came_by.clone(), profile.clone(), now, limit);
    let job = match begun {
        Ok(job) => job,
        Err(error) => {
            refuse_unread(inner, id, token.expose()).await;
            return Err(error);
        }
    };
    tracing::info!(job = id, project, %profile, "Received a job.");
    // From here on a successor finds it, so that the server may count on us.
    match update::keep_alive(&inner.client, &job).await {
        Ok(Updated::Refused(why)) => {
            tracing::warn!(job = id, why, "GitLab has taken the job back.");
            return job.forget();
        }
        Ok(_) => (),
        Err(error) => {
            tracing::warn!(job = id, error = chain(&error), "GitLab was not told of the job.");
        }
    }
    let job = Arc::new(job);
    let refused = match refusal {
        None => Ok(()),
        Some((line, reason)) => {
            tracing::info!(job = id, project, line, "Refused a job.");
            inner.news.tell(format!("job {id} was refused: {line}"));
            job.change(|progress, text| {
                end(progress, text, Verdict::Failed { reason, exit_code: None }, Some(&line));
            })
        }
    };
    // Whatever comes now, somebody attends to it.
    inner.state().jobs.insert(id, job.clone());
    inner.attend(job);
    refused?;
    let handed = inner.state().hand_out();
    inner.hint.hint();
    handed
}

/// Why a job may not run here, if so.
fn refusal(
    terms: &Terms,
    profile: &ProfileName,
    payload: &Payload,
    choice: &Choice,
) -> Option<(String, Reason)> {
    let Some(config) = terms.profile(profile) else {
        let line = format!("profile {profile}, which serves its image, is not on offer here");
        return Some((line, Reason::RunnerConfigurationError));
    };
    let requester = payload.requester();
    let decision = access::decide(&config.access, &terms.access, requester);
    if !decision.allowed {
        let who = requester.user.unwrap_or("somebody unknown");
        let what = requester.project.unwrap_or("an unknown project");
        let line =
            format!("{who} may not run a job of {what} on profile {profile}: {}", decision.reason);
        return Some((line, Reason::RunnerConfigurationError));
    }
    if *choice == Choice::NoServices {
        let names: Vec<&str> = payload.services.iter().map(|s| s.name.as_str()).collect();
        let line = format!("no profile here has its services: {}", names.join(", "));
        return Some((line, Reason::RunnerConfigurationError));
    }
    if payload.run.is_some() {
        let line = "it is made of steps with `run`, which are not supported here";
        return Some((line.to_owned(), Reason::RunnerConfigurationError));
    }
    None
}

/// Tells GitLab that a job cannot be run that cannot even be read, or kept.
async fn refuse_unread(inner: &Inner, id: u64, token: &str) {
    tracing::error!(job = id, "GitLab gave a job that cannot be taken in.");
    let body = serde_json::json!({
        "token": token, "state": "failed", "failure_reason": "runner_system_failure",
    });
    let request = inner.client.request(reqwest::Method::PUT, &format!("jobs/{id}"));
    let request = request.header("JOB-TOKEN", token).json(&body);
    if let Err(error) = client::send("refuse a job", request).await {
        tracing::warn!(job = id, error = chain(&error), "GitLab was not told of the job's end.");
    }
}
