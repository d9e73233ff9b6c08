//! What a job leaves, and what the jobs after it get.

use http::header::CONTENT_DISPOSITION;

use crate::{
    artifact::{Artifact, format_of, time_span},
    dotenv,
    exchange::{Answer, Refusal, Reply, Request},
    ids::{JobId, random_hex},
    state::State,
};

fn bad(reason: &str) -> Refusal {
    Refusal::new(400, format!("400 Bad request - {reason}"))
}

/// `POST /jobs/:id/artifacts`.
pub(super) fn upload(state: &mut State, request: &Request) -> Answer {
    let id = state.job_at_work(request)?;
    if !state.settings.artifacts {
        return Err(Refusal::new(405, "405 Method Not Allowed"));
    }
    if state.settings.redirected_uploads > 0 {
        state.settings.redirected_uploads -= 1;
        let query = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs(&request.query)
            .finish();
        let mark = if query.is_empty() { "" } else { "?" };
        return Reply::redirect(307, &format!("{}{}{mark}{query}", request.base, request.path));
    }
    let file = request.files.iter().find(|file| file.field == "file");
    let file = file.ok_or_else(|| bad("Missing artifacts file!"))?;
    let size = u64::try_from(file.content.len()).unwrap_or(u64::MAX);
    if size > state.settings.artifact_limit {
        return Err(Refusal::new(413, "413 Request Entity Too Large"));
    }
    let kind = request.text("artifact_type").unwrap_or("archive");
    let format = request.text("artifact_format").unwrap_or("zip");
    if format != format_of(kind) {
        return Err(bad("Invalid file format with specified file type"));
    }
    if kind == "dotenv" {
        dotenv::read(&file.content)?;
    }
    let lasts = time_span(request.text("expire_in").unwrap_or("never"));
    let lasts = lasts.map_err(|()| bad("expire_in is no time"))?;
    let expires = lasts.and_then(|lasts| state.now().saturating_add(lasts).ok());

    let job = state.jobs.get_mut(&id).ok_or_else(Refusal::forbidden)?;
    match job.artifacts.iter().find(|artifact| artifact.kind == kind) {
        // The answer to the first was lost.
        Some(there) if there.content == file.content => (),
        Some(_) => return Err(bad("another artifact of the same type already exists")),
        None => job.artifacts.push(Artifact {
            kind: kind.to_owned(),
            format: format.to_owned(),
            name: file.name.clone(),
            content: file.content.clone(),
            expires,
        }),
    }
    Ok(Reply::text(201, "201"))
}

/// `GET /jobs/:id/artifacts`, by the token of a job that runs and is of the same project.
pub(super) fn download(state: &mut State, request: &Request) -> Answer {
    let token = super::jobs::job_token(request).ok_or_else(Refusal::unauthorized)?;
    let mut jobs = state.jobs.values();
    let asking = jobs.find(|job| job.token == token && job.status.is_at_work());
    let project = asking.ok_or_else(Refusal::unauthorized)?.project;
    let job = state.jobs.get(&JobId(request.number("id")?));
    let job = job.filter(|job| job.project == project).ok_or_else(Refusal::forbidden)?;
    let archive = job.archive(state.now()).ok_or_else(|| Refusal::new(404, "404 Not Found"))?;
    let archive = archive.clone();
    if state.settings.object_storage && request.flag("direct_download")? == Some(true) {
        let secret = random_hex(16);
        state.stored.insert(secret.clone(), archive.content);
        return Reply::redirect(302, &format!("{}/artifacts/{secret}", state.storage));
    }
    Ok(file(&archive))
}

/// An artifact, to be kept.
pub(super) fn file(artifact: &Artifact) -> Reply {
    let kind = match artifact.format.as_str() {
        "zip" => "application/zip",
        "gzip" => "application/gzip",
        _ => "application/octet-stream",
    };
    let name: String = artifact.name.chars().filter(|c| !matches!(c, '"' | '\\')).collect();
    Reply::raw(200, kind, artifact.content.clone())
        .with(CONTENT_DISPOSITION, format!("attachment; filename=\"{name}\""))
}
